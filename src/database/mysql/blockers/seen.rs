//! Whether a session is in the way of a lock, judged by what it holds and the state that it is in.

use std::time::Duration;

use super::super::flavour::Dialect;
use super::super::session::Row;
use super::{Blocker, Doing};
use crate::database::Strategy;

/// States that only a writing statement passes through, for engines that INNODB_TRX does not show.
/// <https://mariadb.com/kb/en/general-thread-states/>
const WRITING: &[&str] = &[
    "update",
    "updating",
    "updating main table",
    "updating reference tables",
    "deleting from main table",
    "deleting from reference tables",
    "searching rows for update",
    "reading file",
    "write_record",
    "end of update loop",
];

/// States of statements that change structure.
const ALTERING: &[&str] = &[
    "altering table",
    "copy to tmp table",
    "creating table",
    "discard_or_import_tablespace",
    "enabling keys",
    "manage keys",
    "committing alter table to storage engine",
    "preparing for alter table",
    "rename",
    "rename result table",
    "repair by sorting",
    "repair with keycache",
    "setup",
];

/// A session as the lock tables and the process list show it.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    pub(super) id: u64,
    pub(super) user: String,
    command: String,
    pub(super) state: String,
    background: bool,
    statement: u64,
    pub(super) age: Duration,
    locks: Vec<String>,
    row_locks: bool,
    in_transaction: bool,
}

impl Seen {
    pub(super) fn of(row: &Row) -> Option<Seen> {
        Some(Seen {
            id: row.number("ID")?,
            user: row.text("USER"),
            command: row.text("COMMAND"),
            state: row.text("STATE"),
            background: row.get("KIND") == Some("BACKGROUND"),
            statement: row.number("STATEMENT").unwrap_or(0),
            age: Duration::from_millis(row.number::<f64>("AGE_MS").unwrap_or(0.0).max(0.0) as u64),
            locks: row
                .text("LOCKS")
                .split(',')
                .filter(|lock| !lock.is_empty())
                .map(str::to_owned)
                .collect(),
            row_locks: row.number::<u64>("TRX_LOCKS").unwrap_or(0) > 0,
            in_transaction: row.get("IN_TRX") == Some("1"),
        })
    }

    pub(super) fn idle(&self) -> bool {
        self.command == "Sleep"
    }

    fn system(&self) -> bool {
        self.background
            || matches!(self.user.as_str(), "system user" | "event_scheduler")
            || matches!(
                self.command.as_str(),
                "Daemon" | "Slave_SQL" | "Slave_IO" | "Slave_worker" | "Binlog Dump"
            )
    }

    /// Threads that wait for work are in nobody's way.
    pub(super) fn waits_only(&self) -> bool {
        matches!(
            self.command.as_str(),
            "Daemon" | "Binlog Dump" | "Binlog Dump GTID" | "Slave_IO"
        )
    }

    fn in_state(&self, states: &[&str]) -> bool {
        states.contains(&self.state.to_ascii_lowercase().as_str())
    }

    fn holds(&self, what: impl Fn(&str) -> bool) -> bool {
        self.locks.iter().any(|lock| what(lock))
    }

    pub(super) fn blocks(self, dialect: Dialect, strategy: Strategy, age: Duration) -> Option<Blocker> {
        if self.waits_only() {
            return None;
        }
        let doing = match (dialect.is_mariadb(), strategy) {
            (_, Strategy::Lockless | Strategy::None | Strategy::Auto) => None,
            (true, Strategy::BackupStage) => self.delays_stages(),
            (true, _) => self.delays_mariadb_ftwrl(),
            (false, _) => self.delays_mysql_ftwrl(),
        }?;
        let counts = self.idle() || self.age >= age;
        counts.then(|| Blocker {
            system: self.system(),
            id: self.id,
            user: self.user,
            age: self.age,
            state: self.state,
            statement: self.statement,
            doing,
        })
    }

    /// FLUSH waits for writes to engines without transactions; START and BLOCK_DDL for DDL locks, which LOCK TABLES WRITE
    /// keeps. Not for InnoDB writes, nor for the copying phase of ALTER.
    fn delays_stages(&self) -> Option<Doing> {
        if self.idle() {
            return self.mariadb_lock_when_idle();
        }
        if self.holds(|lock| lock.starts_with("BACKUP/BACKUP_DML")) {
            return Some(Doing::Write);
        }
        if self.holds(is_mariadb_backup) {
            return Some(Doing::Backup);
        }
        if self.holds(|lock| lock.starts_with("BACKUP/BACKUP_DDL")) {
            return Some(Doing::Ddl);
        }
        (self.locks.is_empty() && !self.in_transaction && self.in_state(WRITING)).then_some(Doing::Write)
    }

    /// Every statement that writes holds a lock in the BACKUP namespace until it ends. A SELECT holds none and is not waited for.
    fn delays_mariadb_ftwrl(&self) -> Option<Doing> {
        if self.idle() {
            return self.mariadb_lock_when_idle();
        }
        if self.holds(is_mariadb_backup) {
            return Some(Doing::Backup);
        }
        if self.holds(|lock| lock.starts_with("BACKUP/") && (lock.contains("DDL") || lock.contains("ALTER"))) {
            return Some(Doing::Ddl);
        }
        if self.holds(|lock| lock.starts_with("BACKUP/")) || self.row_locks {
            return Some(Doing::Write);
        }
        if self.in_state(ALTERING) {
            return Some(Doing::Ddl);
        }
        (self.locks.is_empty() && self.in_state(WRITING)).then_some(Doing::Write)
    }

    fn mariadb_lock_when_idle(&self) -> Option<Doing> {
        if self.holds(is_mariadb_backup) {
            return Some(Doing::Backup);
        }
        self.holds(|lock| lock.starts_with("BACKUP/"))
            .then_some(Doing::TableLock)
    }

    /// A running statement of any kind has its tables open, and the flush waits for that; idle sessions are in the way only
    /// with LOCK TABLES or an open HANDLER. LOCK INSTANCE waits for DDL alone.
    fn delays_mysql_ftwrl(&self) -> Option<Doing> {
        let writes = |lock: &str| lock.starts_with("GLOBAL/INTENTION_EXCLUSIVE");
        let locks_table = |lock: &str| {
            ["READ_ONLY", "NO_WRITE", "NO_READ_WRITE"]
                .iter()
                .any(|mode| lock.starts_with(&format!("TABLE/SHARED_{mode}")))
        };
        let explicit = |lock: &str| lock.starts_with("TABLE/") && lock.ends_with("/EXPLICIT");
        if self.holds(|lock| lock.starts_with("GLOBAL/SHARED") || lock.starts_with("BACKUP LOCK/SHARED")) {
            return Some(Doing::Backup);
        }
        if self.idle() {
            return (self.holds(writes) || self.holds(locks_table) || self.holds(explicit)).then_some(Doing::TableLock);
        }
        if self.holds(|lock| lock.starts_with("BACKUP LOCK/")) || self.in_state(ALTERING) {
            // ALTER and its like; LOCK INSTANCE waits it out without stopping anyone, FTWRL would not.
            return Some(Doing::Ddl);
        }
        if self.holds(writes) || self.row_locks {
            return Some(Doing::Write);
        }
        if self.in_state(WRITING) {
            return Some(Doing::Write);
        }
        // Without lock tables any running statement may have tables open.
        let reads = self.holds(|lock| lock.starts_with("TABLE/")) || self.in_transaction;
        reads.then_some(Doing::Read)
    }
}

/// Modes of the BACKUP namespace that only backups and FTWRL take.
fn is_mariadb_backup(lock: &str) -> bool {
    let Some(mode) = lock.strip_prefix("BACKUP/BACKUP_") else {
        return false;
    };
    ["START", "FLUSH", "WAIT_", "BLOCK_", "FTWRL"]
        .iter()
        .any(|prefix| mode.starts_with(prefix))
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

    fn seen(command: &str, state: &str, locks: &[&str]) -> Seen {
        Seen {
            id: 7,
            user: "app".into(),
            command: command.into(),
            state: state.into(),
            age: Duration::from_secs(9),
            locks: locks.iter().map(|lock| (*lock).to_owned()).collect(),
            ..Seen::default()
        }
    }

    fn doing(seen: Seen, dialect: Dialect, strategy: Strategy) -> Option<Doing> {
        seen.blocks(dialect, strategy, Duration::from_secs(1))
            .map(|blocker| blocker.doing)
    }

    // Lock modes as MariaDB 10.11 and MySQL 9.7 show them.
    #[test]
    fn mariadb_stages_wait_for_myisam_writes_and_table_locks_only() {
        let stage = |seen| doing(seen, MARIADB, Strategy::BackupStage);
        let innodb = ["TABLE/SHARED_WRITE/TRANSACTION", "BACKUP/BACKUP_TRANS_DML/STATEMENT"];
        let lock_tables = ["TABLE/SHARED_NO_READ_WRITE/TRANSACTION", "BACKUP/BACKUP_DDL/STATEMENT"];
        assert_eq!(stage(seen("Query", "Updating", &innodb)), None);
        assert_eq!(
            stage(seen("Query", "User sleep", &["BACKUP/BACKUP_DML/STATEMENT"])),
            Some(Doing::Write)
        );
        assert_eq!(stage(seen("Sleep", "", &lock_tables)), Some(Doing::TableLock));
        assert_eq!(
            stage(seen(
                "Query",
                "copy to tmp table",
                &["BACKUP/BACKUP_ALTER_COPY/STATEMENT"]
            )),
            None
        );
        assert_eq!(
            stage(seen("Sleep", "", &["BACKUP/BACKUP_BLOCK_DDL/EXPLICIT"])),
            Some(Doing::Backup)
        );
        assert_eq!(stage(seen("Query", "Updating", &[])), Some(Doing::Write));
        let in_transaction = Seen {
            in_transaction: true,
            ..seen("Query", "Updating", &[])
        };
        assert_eq!(stage(in_transaction), None);
    }

    #[test]
    fn mariadb_ftwrl_waits_for_writes_and_not_for_reads() {
        let ftwrl = |seen| doing(seen, MARIADB, Strategy::Ftwrl);
        assert_eq!(
            ftwrl(seen("Query", "Updating", &["BACKUP/BACKUP_TRANS_DML"])),
            Some(Doing::Write)
        );
        assert_eq!(ftwrl(seen("Query", "Sending data", &["OTHER/SHARED_READ"])), None);
        assert_eq!(ftwrl(seen("Query", "Sending data", &[])), None);
        assert_eq!(
            ftwrl(Seen {
                row_locks: true,
                ..seen("Query", "User sleep", &[])
            }),
            Some(Doing::Write)
        );
        assert_eq!(ftwrl(seen("Query", "copy to tmp table", &[])), Some(Doing::Ddl));
        assert_eq!(ftwrl(seen("Sleep", "", &["OTHER/SHARED_WRITE"])), None);
    }

    #[test]
    fn mysql_ftwrl_waits_for_reads_too() {
        let ftwrl = |seen| doing(seen, MYSQL, Strategy::Ftwrl);
        assert_eq!(
            ftwrl(seen("Query", "executing", &["TABLE/SHARED_READ/TRANSACTION"])),
            Some(Doing::Read)
        );
        assert_eq!(
            ftwrl(seen("Query", "", &["GLOBAL/INTENTION_EXCLUSIVE/STATEMENT"])),
            Some(Doing::Write)
        );
        assert_eq!(ftwrl(seen("Sleep", "", &["TABLE/SHARED_WRITE/TRANSACTION"])), None);
        assert_eq!(
            ftwrl(seen("Sleep", "", &["TABLE/SHARED_READ_ONLY/TRANSACTION"])),
            Some(Doing::TableLock)
        );
        assert_eq!(
            ftwrl(seen("Sleep", "", &["TABLE/SHARED_READ/EXPLICIT"])),
            Some(Doing::TableLock)
        );
        assert_eq!(
            ftwrl(seen("Sleep", "", &["GLOBAL/SHARED/EXPLICIT"])),
            Some(Doing::Backup)
        );
    }

    #[test]
    fn young_statements_do_not_count_and_idle_locks_do() {
        let young = |command: &str, lock: &str| Seen {
            age: Duration::ZERO,
            ..seen(command, "", &[lock])
        };
        assert_eq!(
            doing(
                young("Query", "BACKUP/BACKUP_DML/STATEMENT"),
                MARIADB,
                Strategy::BackupStage
            ),
            None
        );
        assert!(
            doing(
                young("Sleep", "BACKUP/BACKUP_DDL/STATEMENT"),
                MARIADB,
                Strategy::BackupStage
            )
            .is_some()
        );
    }

    #[test]
    fn a_row_of_the_server_becomes_a_session() {
        let row = Row::of(&[
            ("ID", Some("12")),
            ("USER", Some("system user")),
            ("COMMAND", Some("Slave_SQL")),
            ("STATE", None),
            ("AGE_MS", Some("1500.25")),
            ("LOCKS", Some("BACKUP/BACKUP_DML/STATEMENT,TABLE/SHARED_WRITE")),
        ]);
        let blocker = Seen::of(&row)
            .unwrap()
            .blocks(MARIADB, Strategy::BackupStage, Duration::from_secs(1))
            .unwrap();
        assert!(blocker.system);
        assert_eq!(blocker.age, Duration::from_millis(1500));
        assert_eq!(blocker.to_string(), "connection 12 of `system user` writes for 1.5 s");
    }
}
