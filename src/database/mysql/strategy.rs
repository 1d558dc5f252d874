//! The lock strategies as data: which statement, in which order, and where the settle rounds go (docs/consistency.md).

use super::flavour::Dialect;
use crate::database::{Consistency, Error, Result, ServerFacts, Strategy};
use crate::finding::Finding;

/// One statement of a lock sequence and the name of its step.
pub type Step = (&'static str, &'static str);

/// A lock sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence {
    /// Locks that stop little: a settle round fits behind them.
    pub early: &'static [Step],
    /// Whether writes to engines without transactions wait from `early` on; then a long settle round comes before it only.
    pub early_stops_other_engines: bool,
    /// The statements that lead to the lock that stops commits, which the last one takes.
    pub last: &'static [Step],
    /// Ends everything above.
    pub unlock: &'static str,
}

/// LOCAL: nothing of ours goes into the binary log (trap 8).
///
/// FTWRL stops writers first and closes all tables then. Closing them just before takes that time out of the lock (MySQL with 270
/// open tables: 4 to 10 ms become 0.1), and a statement that was not seen in the way holds up this, which stops no writer, instead of
/// FTWRL, which stops all.
const FTWRL: &[Step] = &[
    ("flush-tables", "FLUSH LOCAL TABLES"),
    ("ftwrl", "FLUSH LOCAL TABLES WITH READ LOCK"),
];

/// The sequence of a strategy; `None` for those that take no lock.
pub fn sequence(strategy: Strategy) -> Option<Sequence> {
    match strategy {
        Strategy::Ftwrl => Some(Sequence {
            early: &[],
            early_stops_other_engines: false,
            last: FTWRL,
            unlock: "UNLOCK TABLES",
        }),
        Strategy::BackupStage => Some(Sequence {
            early: &[
                ("stage-start", "BACKUP STAGE START"),
                ("stage-flush", "BACKUP STAGE FLUSH"),
                ("block-ddl", "BACKUP STAGE BLOCK_DDL"),
            ],
            early_stops_other_engines: true,
            last: &[("block-commit", "BACKUP STAGE BLOCK_COMMIT")],
            unlock: "BACKUP STAGE END",
        }),
        Strategy::Instance => Some(Sequence {
            early: &[("lock-instance", "LOCK INSTANCE FOR BACKUP")],
            early_stops_other_engines: false,
            last: FTWRL,
            unlock: "UNLOCK TABLES; UNLOCK INSTANCE",
        }),
        Strategy::Auto | Strategy::Lockless | Strategy::None => None,
    }
}

/// The configuration's word for a strategy.
pub fn name(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::Auto => "auto",
        Strategy::Ftwrl => "ftwrl",
        Strategy::BackupStage => "backup-stage",
        Strategy::Instance => "instance",
        Strategy::Lockless => "lockless",
        Strategy::None => "none",
    }
}

/// Resolves `auto`, and refuses what this server cannot do.
///
/// # Errors
/// The server does not know the strategy, or the strategy cannot give the level asked for.
pub fn resolve(asked: Strategy, level: Consistency, dialect: Dialect, galera: bool) -> Result<(Strategy, String)> {
    let refuse = |why: String| Err(Error::Strategy(format!("lock strategy `{}` {why}", name(asked))));
    if !dialect.supports(asked) {
        let (needs, use_instead) = match asked {
            Strategy::BackupStage => ("MariaDB 10.4 or later", name(dialect.lightest())),
            _ => ("MySQL 8.0 or later", name(dialect.lightest())),
        };
        return refuse(format!("needs {needs}; this server can do `{use_instead}`"));
    }
    if galera && asked == Strategy::Instance {
        return refuse("has made Galera nodes inconsistent (LOCK INSTANCE, then FTWRL): use `ftwrl` or `none`".into());
    }
    match (asked, level) {
        (Strategy::Auto, Consistency::Crash) => Ok((Strategy::None, "level `crash` needs no lock".into())),
        (Strategy::Auto, _) if galera && !dialect.is_mariadb() => Ok((
            Strategy::Ftwrl,
            "the only safe lock on a Galera node of this kind".into(),
        )),
        (Strategy::Auto, _) => {
            let lightest = dialect.lightest();
            let why = match lightest {
                Strategy::BackupStage => "commits wait only at the very end, and nobody queues behind a long query",
                Strategy::Instance => "DDL is kept out first, commits wait only for the instant of the snapshot",
                _ => "the only lock that this version has",
            };
            Ok((lightest, why.into()))
        }
        (Strategy::None, Consistency::Application | Consistency::Clean) => {
            refuse("gives level `crash` only: ask for that level, or for another strategy".into())
        }
        // Its position is read off the copy's own binary log, which the private server has opened by then.
        (Strategy::Lockless, Consistency::Clean) => {
            refuse("does not go with level `clean`: take a locking strategy, or level `application`".into())
        }
        _ => Ok((asked, "asked for".into())),
    }
}

/// What of a position's exactness is known before the lock (docs/consistency.md has the table).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exactness {
    /// Whether every transaction up to the position is in the data, and none after it.
    pub exact: bool,
    /// Whether the setting must be raised to 1 before the settle step.
    pub raise: bool,
    /// What a person must read.
    pub finding: Option<Finding>,
}

/// Judges a locking strategy, or `none`; `lockless` has preconditions instead.
pub fn exactness(facts: &ServerFacts, dialect: Dialect, strategy: Strategy, may_raise: bool) -> Exactness {
    let plain = |exact| Exactness {
        exact,
        raise: false,
        finding: None,
    };
    match strategy {
        Strategy::None => plain(false),
        Strategy::Lockless => plain(true),
        _ if facts.flush_log_at_trx_commit != 0 => plain(true),
        _ if may_raise => Exactness { exact: true, raise: true, finding: None },
        // Flushing under the lock is enough on MySQL; MariaDB still loses up to the whole last second (measured).
        _ if !dialect.is_mariadb() => plain(true),
        _ => Exactness {
            exact: false,
            raise: false,
            finding: Some(
                Finding::warning(
                    "position-inexact",
                    "innodb_flush_log_at_trx_commit is 0: rows committed in the last second before the recorded position \
                     may be missing from the copy",
                )
                .remedy("set it to 1 or 2, or let snapback raise it for the run (lock.raise_durability: true)"),
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::Flavour;

    const MARIADB: Dialect = Dialect {
        flavour: Flavour::MariaDb,
        version: (10, 11, 19),
    };
    const MYSQL: Dialect = Dialect {
        flavour: Flavour::MySql,
        version: (9, 7, 4),
    };

    fn resolved(
        asked: Strategy,
        level: Consistency,
        dialect: Dialect,
        galera: bool,
    ) -> std::result::Result<Strategy, String> {
        resolve(asked, level, dialect, galera)
            .map(|(strategy, _)| strategy)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn auto_is_the_lightest_lock_that_keeps_the_promise() {
        use Consistency::{Application, Crash};
        assert_eq!(
            resolved(Strategy::Auto, Application, MARIADB, false),
            Ok(Strategy::BackupStage)
        );
        assert_eq!(
            resolved(Strategy::Auto, Application, MYSQL, false),
            Ok(Strategy::Instance)
        );
        assert_eq!(resolved(Strategy::Auto, Application, MYSQL, true), Ok(Strategy::Ftwrl));
        assert_eq!(resolved(Strategy::Auto, Crash, MARIADB, false), Ok(Strategy::None));
    }

    #[test]
    fn what_the_server_or_the_level_forbids_is_refused_with_a_way_out() {
        let no = |asked, dialect, galera| resolved(asked, Consistency::Application, dialect, galera).unwrap_err();
        assert!(no(Strategy::BackupStage, MYSQL, false).contains("this server can do `instance`"));
        assert!(no(Strategy::Instance, MARIADB, false).contains("needs MySQL 8.0"));
        assert!(no(Strategy::Instance, MYSQL, true).contains("Galera"));
        assert!(no(Strategy::None, MYSQL, false).contains("`crash`"));
    }

    #[test]
    fn exactness_follows_the_measured_table() {
        let facts = |trx_commit| ServerFacts {
            flush_log_at_trx_commit: trx_commit,
            ..super::super::facts::facts(
                &super::super::facts::Variables::of(&[("version", "1"), ("datadir", "/")]),
                "x",
            )
            .unwrap()
        };
        let judge = |dialect, trx_commit, may_raise| exactness(&facts(trx_commit), dialect, Strategy::Ftwrl, may_raise);
        for dialect in [MARIADB, MYSQL] {
            for trx_commit in [1, 2] {
                let judged = judge(dialect, trx_commit, true);
                assert!(judged.exact && !judged.raise);
            }
            let raised = judge(dialect, 0, true);
            assert!(raised.exact && raised.raise);
        }
        assert!(judge(MYSQL, 0, false).exact);
        let lossy = judge(MARIADB, 0, false);
        assert!(!lossy.exact);
        assert_eq!(lossy.finding.unwrap().code, "position-inexact");
    }
}
