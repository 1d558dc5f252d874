//! What exactness stands on, and who the server is, as the server itself says at this instant. It is read in the position's own round trip: what was looked at before
//! the lock may be otherwise under it, by another session's SET or by a restart.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::facts::Variables;
use super::flavour::Dialect;
use super::session::{Row, Session};
use crate::database::{Error, Result};
use crate::finding::Finding;

/// Variables that nobody can change while a server runs, and that no two servers of a host share all of.
const IDENTITY: &[&str] = &["server_uuid", "server_uid", "datadir", "hostname", "port", "socket"];

/// The setting that decides whether a commit is in the redo log.
pub const COMMIT: &str = "innodb_flush_log_at_trx_commit";

/// Variables that can be changed at any time.
const WATCHED: &[&str] = &[
    COMMIT,
    "sync_binlog",
    "innodb_doublewrite",
    "gtid_mode",
    "binlog_format",
];

/// The name by which a server is known again after a restart, of what it says of a variable: MySQL's uuid, MariaDB's uid, else the datadir.
pub fn identity<'v>(told: impl Fn(&str) -> Option<&'v str>) -> Option<String> {
    let names = ["server_uuid", "server_uid", "datadir"];
    names.iter().find_map(|name| told(name)).map(str::to_owned)
}

/// What is asked of the server, decided before the lock.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    names: Vec<&'static str>,
    status: Vec<&'static str>,
}

impl Watch {
    /// Only what this server knows.
    pub fn new(variables: &Variables, dialect: Dialect) -> Watch {
        let all = IDENTITY.iter().chain(WATCHED).copied();
        let of_flavour: &[_] = match dialect.is_mariadb() {
            true => &[
                "Innodb_lsn_flushed",
                "Com_create_temporary_table",
                "Com_drop_temporary_table",
            ],
            false => &["Innodb_redo_log_enabled"],
        };
        Watch {
            names: all.filter(|name| variables.get(name).is_some()).collect(),
            status: ["Uptime"].iter().chain(of_flavour).copied().collect(),
        }
    }

    /// The two statements.
    pub fn statements(&self) -> [String; 2] {
        let names: Vec<String> = self
            .names
            .iter()
            .map(|name| format!("@@global.{name} AS {name}"))
            .collect();
        // A server that knows none of them: the answers keep their number.
        let names = if names.is_empty() {
            "1".to_owned()
        } else {
            names.join(", ")
        };
        [
            format!("SELECT {names}"),
            format!(
                "SHOW GLOBAL STATUS WHERE Variable_name IN ('{}')",
                self.status.join("', '")
            ),
        ]
    }

    /// Makes sense of the answers.
    pub fn understand(&self, settings: &[Row], status: &[Row]) -> Grounds {
        let value = |name: &&'static str| Some((*name, settings.first()?.get(name)?.to_owned()));
        let state = |wanted: &str| {
            let row = status
                .iter()
                .find(|row| row.first().is_some_and(|name| name.eq_ignore_ascii_case(wanted)))?;
            row.values().nth(1).flatten().map(str::to_owned)
        };
        let number = |name: &str| state(name)?.parse().ok();
        Grounds {
            settings: self.names.iter().filter_map(value).collect(),
            uptime: number("Uptime"),
            redo_log: state("Innodb_redo_log_enabled").is_none_or(|state| state != "OFF"),
            flushed: number("Innodb_lsn_flushed"),
            temporary: number("Com_create_temporary_table") > number("Com_drop_temporary_table"),
            counted: number("Com_create_temporary_table").is_some(),
            at: Some(Instant::now()),
        }
    }

    /// Asks outside of any lock.
    ///
    /// # Errors
    /// The server cannot be asked.
    pub fn read(&self, session: &mut Session) -> Result<Grounds> {
        let answers = session.batch(&self.statements().join("; "))?;
        let rows = |at: usize| answers.get(at).map_or(&[][..], |answer| &answer.rows);
        Ok(self.understand(rows(0), rows(1)))
    }
}

/// What the server said.
#[derive(Debug, Clone, Default)]
pub struct Grounds {
    settings: BTreeMap<&'static str, String>,
    /// In seconds, by the server's wall clock.
    uptime: Option<u64>,
    /// Not so after `ALTER INSTANCE DISABLE INNODB REDO_LOG`.
    pub redo_log: bool,
    /// Up to where the redo log was durable.
    pub flushed: Option<u64>,
    at: Option<Instant>,
    /// More temporary tables were made than dropped by statement.
    temporary: bool,
    /// Whether the server counts them (MariaDB).
    counted: bool,
}

impl Grounds {
    /// Whether temporary tables may be open that the binary log has as statements. MySQL from 8.0.4 on logs them with `STATEMENT` alone.
    pub fn logs_temporary_tables(&self, dialect: Dialect) -> bool {
        let mixed = dialect.is_mariadb() || dialect.version < (8, 0, 4);
        let logs = match self.get("binlog_format") {
            Some("MIXED") => mixed,
            format => format == Some("STATEMENT"),
        };
        logs && (self.temporary || !self.counted)
    }

    /// A variable, as SELECT gives it; `None` where the server does not know it.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str)
    }

    /// Whether commits reach the redo log's file before they are answered (1, 2, 3).
    pub fn commits_are_written(&self) -> bool {
        self.get(COMMIT) != Some("0")
    }

    /// That these are of the same server as those before. Its start is compared where no process can be: `by_uptime`.
    ///
    /// # Errors
    /// Another server answers, or this one was started anew; says by what that is seen.
    pub fn same_server(&self, before: &Grounds, by_uptime: bool) -> Result<()> {
        let changed = |what: String| {
            Err(Error::LockLost {
                reason: format!("another server answers than at the beginning: {what}"),
            })
        };
        for name in IDENTITY {
            let (was, is) = (before.get(name), self.get(name));
            if was != is {
                let (was, is) = (was.unwrap_or("nothing"), is.unwrap_or("nothing"));
                return changed(format!("{name} was {was} and is {is}"));
            }
        }
        match by_uptime && self.started_later(before) {
            true => changed(format!(
                "it has been up for {} s only: it was started anew",
                self.uptime.unwrap_or(0)
            )),
            false => Ok(()),
        }
    }

    fn started_later(&self, before: &Grounds) -> bool {
        // Uptime is in whole seconds.
        const SLACK: Duration = Duration::from_secs(2);
        let (Some(was), Some(is), Some(then), Some(now)) = (before.uptime, self.uptime, before.at, self.at) else {
            return false;
        };
        let due = Duration::from_secs(was) + now.saturating_duration_since(then);
        Duration::from_secs(is) + SLACK < due
    }

    /// Nothing that is copied now could be recovered.
    pub fn no_redo_log(&self) -> Option<Finding> {
        let message = "InnoDB's redo log is disabled (ALTER INSTANCE DISABLE INNODB REDO_LOG): no copy of a running server could be recovered";
        let remedy = "run ALTER INSTANCE ENABLE INNODB REDO_LOG first";
        (!self.redo_log).then(|| Finding::blocker("redo-log-disabled", message).remedy(remedy))
    }

    /// What was changed since and does not touch the position: a warning for each.
    pub fn changes(&self, before: &Grounds) -> Vec<Finding> {
        let name = "innodb_doublewrite";
        let torn = before.get(name).filter(|was| keeps_pages(was)).zip(self.get(name));
        let Some((was, is)) = torn.filter(|(_, is)| !keeps_pages(is)) else {
            return Vec::new();
        };
        let message = format!(
            "{name} was changed from {was} to {is} during the run: a page torn at the instant of the snapshot cannot be repaired"
        );
        vec![Finding::warning("doublewrite-off", message).remedy("switch it on, and take another backup")]
    }
}

/// Whether this value of `innodb_doublewrite` keeps a second copy of each page: not OFF, and not MySQL's DETECT_ONLY, which keeps the pages' numbers alone.
pub fn keeps_pages(value: &str) -> bool {
    !["0", "off", "detect_only"].contains(&value.to_ascii_lowercase().as_str())
}

/// What the manifest says where commits may be missing before the position.
pub fn unwritten(was: Option<&str>) -> Finding {
    let was = was.unwrap_or("unknown");
    Finding::warning(
        "position-inexact",
        format!(
            "{COMMIT} was {was} when the run began and 0 under the lock (another session set it, or the server was started anew): rows committed in the last second before \
             the recorded position may be missing from the copy"
        ),
    )
    .remedy("find out who sets it, and take another backup; `lock.raise_durability: true` raises it for the run")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grounds(settings: &[(&'static str, &str)], uptime: u64, after: Duration) -> Grounds {
        Grounds {
            settings: settings
                .iter()
                .map(|(name, value)| (*name, (*value).to_owned()))
                .collect(),
            uptime: Some(uptime),
            redo_log: true,
            at: Some(*ORIGIN + after),
            ..Grounds::default()
        }
    }

    static ORIGIN: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);

    #[test]
    fn another_server_or_a_new_start_is_seen() {
        let minute = Duration::from_secs(60);
        let first = grounds(&[("server_uuid", "u-1"), ("port", "3306")], 100, Duration::ZERO);
        let judge = |now: &Grounds, by_uptime| now.same_server(&first, by_uptime).map_err(|error| error.to_string());
        let same = grounds(&[("server_uuid", "u-1"), ("port", "3306")], 159, minute);
        assert_eq!(judge(&same, true), Ok(()));
        let other = grounds(&[("server_uuid", "u-2"), ("port", "3306")], 160, minute);
        assert!(judge(&other, true).unwrap_err().contains("was u-1 and is u-2"));
        let anew = grounds(&[("server_uuid", "u-1"), ("port", "3306")], 3, minute);
        assert!(judge(&anew, true).unwrap_err().contains("up for 3 s"));
        // A process that is proved is compared itself; clocks step.
        assert_eq!(judge(&anew, false), Ok(()));
    }

    #[test]
    fn the_answers_are_understood() {
        let dialect = Dialect {
            flavour: crate::database::Flavour::MySql,
            version: (9, 7, 4),
        };
        let variables = Variables::of(&[("server_uuid", "u"), (COMMIT, "1"), ("version", "9.7.4")]);
        let watch = Watch::new(&variables, dialect);
        assert_eq!(
            watch.statements()[0],
            format!("SELECT @@global.server_uuid AS server_uuid, @@global.{COMMIT} AS {COMMIT}")
        );
        let settings = [Row::of(&[("server_uuid", Some("u")), (COMMIT, Some("0"))])];
        let state = |name, value| Row::of(&[("Variable_name", Some(name)), ("Value", Some(value))]);
        let status = [state("Innodb_redo_log_enabled", "OFF"), state("Uptime", "77")];
        let seen = watch.understand(&settings, &status);
        assert!(!seen.redo_log && !seen.commits_are_written());
        assert_eq!((seen.uptime, seen.get("server_uuid")), (Some(77), Some("u")));
        // A server that does not tell has a redo log.
        assert!(watch.understand(&settings, &[]).redo_log);
    }

    #[test]
    fn temporary_tables_matter_where_they_are_logged() {
        let of = |format, flavour, version| {
            let grounds = grounds(&[("binlog_format", format)], 1, Duration::ZERO);
            grounds.logs_temporary_tables(Dialect { flavour, version })
        };
        use crate::database::Flavour::{MariaDb, MySql};
        assert!(of("MIXED", MariaDb, (10, 11, 14)) && of("STATEMENT", MySql, (9, 7, 4)));
        assert!(!of("ROW", MariaDb, (10, 11, 14)) && !of("MIXED", MySql, (9, 7, 4)));
        let none = Grounds {
            counted: true,
            ..grounds(&[("binlog_format", "MIXED")], 1, Duration::ZERO)
        };
        assert!(!none.logs_temporary_tables(Dialect {
            flavour: MariaDb,
            version: (10, 11, 14)
        }));
    }

    #[test]
    fn a_doublewrite_buffer_that_was_switched_off_is_named() {
        let on = grounds(&[("innodb_doublewrite", "ON")], 1, Duration::ZERO);
        let detect = grounds(&[("innodb_doublewrite", "DETECT_ONLY")], 1, Duration::ZERO);
        assert_eq!(on.changes(&on), []);
        let said = &detect.changes(&on)[0];
        assert!(said.message.contains("from ON to DETECT_ONLY"), "{said:?}");
        assert_eq!(detect.changes(&detect), [], "it was said before");
    }
}
