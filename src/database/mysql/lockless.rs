//! When no lock is needed at all: the preconditions of `lockless` (docs/consistency.md).
//!
//! That the binary log lies in the same atomic snapshot is not judged here: its path is marked as needed, and the layout
//! refuses needed paths that cannot be snapshotted at one instant.

use std::path::PathBuf;

use super::facts::Variables;
use super::flavour::Dialect;
use super::session::Session;
use crate::database::{Result, ServerFacts, Strategy};
use crate::finding::Finding;

/// A precondition that does not hold, and what would make it hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmet {
    what: String,
    remedy: &'static str,
}

/// Libraries of engines that keep no rows on this host, or in files that the datadir shows.
const HARMLESS: [&str; 7] = [
    "archive",
    "blackhole",
    "example",
    "federated",
    "spider",
    "sphinx",
    "mock",
];

/// The loaded engines whose tables the datadir does not tell, and which nobody has proved to agree with the binary log in a snapshot: RocksDB, Mroonga, CONNECT.
fn unproved(facts: &ServerFacts) -> Vec<&str> {
    let libraries = facts.variables.get("engine_libraries").map_or("", String::as_str);
    let harmless = |library: &str| HARMLESS.iter().any(|word| library.contains(word));
    libraries
        .split(';')
        .filter(|library| !library.is_empty() && !harmless(library))
        .collect()
}

/// How many sequences there are: the tables that InnoDB never rolls back.
///
/// # Errors
/// The server cannot be asked.
pub fn sequences(session: &mut Session, dialect: Dialect) -> Result<u64> {
    if !dialect.is_mariadb() {
        return Ok(0);
    }
    // DICT_TF_MASK_NO_ROLLBACK in MariaDB's dict0mem.h: both bits.
    let counted =
        session.value("SELECT COUNT(*) FROM information_schema.INNODB_SYS_TABLES WHERE (FLAG & 12288) = 12288")?;
    Ok(counted.and_then(|count| count.parse().ok()).unwrap_or(0))
}

/// Everything that forbids a snapshot without a lock from having an exact position.
pub fn unmet(
    facts: &ServerFacts,
    variables: &Variables,
    dialect: Dialect,
    other_engines: &[PathBuf],
    sequences: u64,
) -> Vec<Unmet> {
    let mut unmet = Vec::new();
    let mut need = |holds: bool, what: String, remedy| {
        if !holds {
            unmet.push(Unmet { what, remedy });
        }
    };
    need(facts.log_bin, "the server writes no binary log".into(), "set log_bin");
    // 2 is not enough: a snapshot does not take the unsynced writes of different files in the order in which they were made, so the
    // binary log can have a commit whose prepare record is not in the redo log. Seen: five rows lost in one of seven rounds (MySQL, Btrfs).
    need(
        matches!(facts.flush_log_at_trx_commit, 1 | 3),
        format!(
            "innodb_flush_log_at_trx_commit is {}: without a lock only what was synced is in order",
            facts.flush_log_at_trx_commit
        ),
        "set it to 1",
    );
    // The other way round: a commit in the redo log whose events are not in the binary log.
    need(
        facts.sync_binlog == 1,
        format!(
            "sync_binlog is {}: without a lock only what was synced is in order",
            facts.sync_binlog
        ),
        "set it to 1",
    );
    need(
        dialect.is_mariadb() || dialect.version >= (8, 0, 0),
        "system tables are not transactional before MySQL 8.0".into(),
        "use a locking strategy",
    );
    need(
        other_engines.is_empty(),
        other_engines.first().map_or_else(String::new, |file| {
            format!(
                "{} table files are not InnoDB's, such as {}",
                other_engines.len(),
                file.display()
            )
        }),
        "ALTER TABLE ... ENGINE = InnoDB",
    );
    let engines = unproved(facts);
    need(
        engines.is_empty(),
        format!(
            "the server has loaded {}: that its tables and the binary log agree in a snapshot without a lock is not proved",
            engines.join(", ")
        ),
        "use a locking strategy, or a server without it",
    );
    // Under a lock the redo log is flushed for them.
    need(
        sequences == 0,
        format!("{sequences} sequences are written without a flush, and may be older than the binary log"),
        "use a locking strategy",
    );
    let unchecked = variables
        .get("binlog_checksum")
        .is_some_and(|value| value.eq_ignore_ascii_case("none"));
    need(
        !unchecked,
        "binlog_checksum is NONE, and an event that was cut off could pass for a whole one".into(),
        "set binlog_checksum to CRC32",
    );
    let encrypted = variables.is_on("binlog_encryption") || variables.is_on("encrypt_binlog");
    need(
        !encrypted,
        "the binary log is encrypted, and its end cannot be read".into(),
        "use a locking strategy",
    );
    unmet
}

/// What to say of one that was seen while the run went on.
pub fn changed(unmet: Unmet) -> Finding {
    let message = format!(
        "changed while the run went on, so the position is not exact: {}",
        unmet.what
    );
    Finding::warning("lockless-changed", message).remedy(unmet.remedy)
}

/// What to say of them: blockers where `lockless` was asked for, a recommendation where it would do.
pub fn findings(
    strategy: Strategy,
    application: bool,
    unmet: Vec<Unmet>,
    dialect: Dialect,
    replica: bool,
) -> Vec<Finding> {
    if strategy == Strategy::Lockless {
        let blocker = |unmet: Unmet| Finding::blocker("lockless-precondition", unmet.what).remedy(unmet.remedy);
        let mut findings: Vec<Finding> = unmet.into_iter().map(blocker).collect();
        if dialect.is_mariadb() {
            findings.push(Finding::note(
                "lockless-ddl",
                "DDL, GRANT and ANALYZE change MariaDB's Aria system tables: keep them away from the instant of the snapshot",
            ));
        }
        if replica {
            findings.push(
                Finding::warning(
                    "lockless-replica",
                    "the server is a replica: without a lock the backup records the position in its own binary log, \
                     and none of its source",
                )
                .remedy("to seed further replicas of the same source use a locking strategy"),
            );
        }
        return findings;
    }
    if unmet.is_empty() && application && strategy != Strategy::None {
        let price = if replica {
            "; on this replica it records no position of the source"
        } else {
            ""
        };
        let message = format!(
            "every table is InnoDB and the binary log is durable: strategy `lockless` gives the same promise and stops \
             nobody, as long as the binary log lies on the same volume{price}"
        );
        return vec![Finding::note("lockless-possible", message).remedy("set `lock.strategy: lockless`")];
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::super::facts::facts;
    use super::*;
    use crate::database::Flavour;

    fn judge(pairs: &[(&str, &str)], other: &[PathBuf]) -> Vec<String> {
        judge_with(pairs, other, 0)
    }

    fn judge_with(pairs: &[(&str, &str)], other: &[PathBuf], sequences: u64) -> Vec<String> {
        let mut all = vec![("version", "9.7.4"), ("datadir", "/nonexistent")];
        all.extend(pairs);
        let variables = Variables::of(&all);
        let facts = facts(&variables, "x").unwrap();
        let dialect = Dialect {
            flavour: facts.flavour,
            version: facts.version_number,
        };
        unmet(&facts, &variables, dialect, other, sequences)
            .into_iter()
            .map(|unmet| unmet.what)
            .collect()
    }

    #[test]
    fn each_precondition_counts() {
        let good = [
            ("log_bin", "ON"),
            ("sync_binlog", "1"),
            ("innodb_flush_log_at_trx_commit", "1"),
        ];
        assert!(judge(&good, &[]).is_empty());
        for (name, value, expected) in [
            ("log_bin", "OFF", "no binary log"),
            ("sync_binlog", "0", "sync_binlog is 0"),
            ("innodb_flush_log_at_trx_commit", "0", "is 0"),
            ("innodb_flush_log_at_trx_commit", "2", "is 2"),
            ("binlog_encryption", "ON", "encrypted"),
            ("binlog_checksum", "NONE", "cut off"),
            ("version", "5.7.44", "8.0"),
        ] {
            let mut pairs = good.to_vec();
            pairs.push((name, value));
            let unmet = judge(&pairs, &[]);
            assert_eq!(unmet.len(), 1, "{name}: {unmet:?}");
            assert!(unmet[0].contains(expected), "{unmet:?}");
        }
        assert!(judge(&good, &["/d/m.MYD".into()])[0].contains("/d/m.MYD"));
        assert!(judge_with(&good, &[], 2)[0].contains("2 sequences"));
        let mut mariadb = good.to_vec();
        mariadb.push(("version", "10.3.39-MariaDB"));
        assert!(judge(&mariadb, &[]).is_empty());
    }

    #[test]
    fn an_engine_that_the_datadir_does_not_tell_counts() {
        let variables = Variables::of(&[("version", "10.11.14-MariaDB"), ("datadir", "/nonexistent")]);
        let mut facts = facts(&variables, "x").unwrap();
        let mut loaded = |libraries: &str| {
            facts
                .variables
                .insert("engine_libraries".to_owned(), libraries.to_owned());
            unproved(&facts).join(",")
        };
        assert_eq!(loaded("ha_archive.so;ha_rocksdb.so"), "ha_rocksdb.so");
        assert_eq!(loaded("ha_federatedx.so"), "");
    }

    #[test]
    fn they_block_where_asked_for_and_recommend_where_met() {
        let dialect = Dialect {
            flavour: Flavour::MySql,
            version: (9, 7, 4),
        };
        let unmet = vec![Unmet {
            what: "x".into(),
            remedy: "y",
        }];
        let blocked = findings(Strategy::Lockless, true, unmet.clone(), dialect, false);
        assert_eq!(blocked[0].severity, crate::finding::Severity::Blocker);
        assert!(findings(Strategy::Instance, true, unmet, dialect, false).is_empty());
        assert_eq!(
            findings(Strategy::Instance, true, Vec::new(), dialect, false)[0].code,
            "lockless-possible"
        );
        assert!(findings(Strategy::None, false, Vec::new(), dialect, false).is_empty());
        let replica = findings(Strategy::Lockless, true, Vec::new(), dialect, true);
        assert_eq!(
            (replica[0].severity, replica[0].code.as_str()),
            (crate::finding::Severity::Warning, "lockless-replica")
        );
        let advised = findings(Strategy::Instance, true, Vec::new(), dialect, true);
        assert!(advised[0].message.contains("no position of the source"), "{advised:?}");
    }
}
