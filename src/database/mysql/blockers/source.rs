//! Where locks can be seen, and the statement that shows them.

use super::super::flavour::Dialect;
use super::super::session::Session;

/// Where lock information comes from on this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// MySQL's performance_schema.metadata_locks.
    MySqlLocks,
    /// MariaDB's performance_schema.metadata_locks, switched on with its instrument.
    MariaDbLocks,
    /// MariaDB's METADATA_LOCK_INFO plugin.
    MetadataLockInfo,
    /// No lock tables: process list and INNODB_TRX only. Idle LOCK TABLES cannot be seen.
    ProcessList,
}

impl Source {
    /// Finds the best source that this account can read.
    pub fn find(session: &mut Session, dialect: Dialect) -> Source {
        let mut reads = |statement: &str| session.rows(statement).is_ok_and(|rows| !rows.is_empty());
        let instrument = "SELECT 1 FROM performance_schema.setup_instruments WHERE ENABLED = 'YES' \
                          AND NAME = 'wait/lock/metadata/sql/mdl' AND @@performance_schema";
        let plugin = "SELECT 1 FROM information_schema.PLUGINS WHERE PLUGIN_NAME = 'METADATA_LOCK_INFO' \
                      AND PLUGIN_STATUS = 'ACTIVE'";
        match dialect.is_mariadb() {
            false if reads(instrument) && reads("SELECT COUNT(*) FROM performance_schema.metadata_locks") => {
                Source::MySqlLocks
            }
            true if reads(plugin) => Source::MetadataLockInfo,
            true if reads(instrument) && reads("SELECT COUNT(*) FROM performance_schema.metadata_locks") => {
                Source::MariaDbLocks
            }
            _ => Source::ProcessList,
        }
    }

    /// Whether an idle session that holds LOCK TABLES can be seen.
    pub fn sees_table_locks(self) -> bool {
        self != Source::ProcessList
    }
}

/// One row per session. The time of a replica's applier is its lag, and says nothing of its statement: its age is that of the statement
/// that it executes, else none. Locks come as a list of `object/mode/duration`; trx_locks is the number of InnoDB tables on which the
/// *running* statement has row locks.
pub(super) fn statement(dialect: Dialect, source: Source) -> String {
    match source {
        Source::MySqlLocks => "SELECT t.PROCESSLIST_ID AS ID, t.PROCESSLIST_USER AS USER, t.TYPE AS KIND, \
             t.PROCESSLIST_COMMAND AS COMMAND, t.PROCESSLIST_STATE AS STATE, \
             COALESCE(MAX(IF(s.END_EVENT_ID IS NULL, s.TIMER_WAIT, NULL)) DIV 1000000000, \
             IF(t.NAME LIKE 'thread/sql/replica%' OR t.NAME LIKE 'thread/sql/slave%', 0, t.PROCESSLIST_TIME * 1000)) \
             AS AGE_MS, MAX(s.EVENT_ID) AS STATEMENT, \
             GROUP_CONCAT(DISTINCT CONCAT_WS('/', m.OBJECT_TYPE, m.LOCK_TYPE, m.LOCK_DURATION)) AS LOCKS \
             FROM performance_schema.metadata_locks m \
             JOIN performance_schema.threads t ON t.THREAD_ID = m.OWNER_THREAD_ID \
             LEFT JOIN performance_schema.events_statements_current s ON s.THREAD_ID = t.THREAD_ID \
             WHERE m.LOCK_STATUS = 'GRANTED' AND t.PROCESSLIST_ID <> CONNECTION_ID() \
             GROUP BY t.THREAD_ID, t.PROCESSLIST_ID, t.PROCESSLIST_USER, t.TYPE, t.PROCESSLIST_COMMAND, \
             t.PROCESSLIST_STATE, t.PROCESSLIST_TIME, t.NAME"
            .to_owned(),
        Source::MariaDbLocks => mariadb_locks(
            "SELECT t.PROCESSLIST_ID AS ID, \
             GROUP_CONCAT(DISTINCT CONCAT_WS('/', m.OBJECT_TYPE, m.LOCK_TYPE, m.LOCK_DURATION)) AS LOCKS \
             FROM performance_schema.metadata_locks m \
             JOIN performance_schema.threads t ON t.THREAD_ID = m.OWNER_THREAD_ID \
             WHERE m.LOCK_STATUS = 'GRANTED' GROUP BY t.PROCESSLIST_ID",
        ),
        Source::MetadataLockInfo => mariadb_locks(
            "SELECT THREAD_ID AS ID, \
             GROUP_CONCAT(DISTINCT CONCAT(IF(LOCK_TYPE = 'Backup lock', 'BACKUP/', 'OTHER/'), \
             REPLACE(LOCK_MODE, 'MDL_', ''))) AS LOCKS \
             FROM information_schema.METADATA_LOCK_INFO GROUP BY THREAD_ID",
        ),
        Source::ProcessList if dialect.is_mariadb() => mariadb_locks("SELECT 0 AS ID, '' AS LOCKS"),
        Source::ProcessList => "SELECT p.ID, p.USER, p.COMMAND, p.STATE, p.TIME * 1000 AS AGE_MS, \
             IF(x.trx_tables_in_use > 0, x.trx_tables_locked, 0) AS TRX_LOCKS, x.trx_id IS NOT NULL AS IN_TRX \
             FROM information_schema.PROCESSLIST p \
             LEFT JOIN information_schema.INNODB_TRX x ON x.trx_mysql_thread_id = p.ID \
             WHERE p.ID <> CONNECTION_ID()"
            .to_owned(),
    }
}

fn mariadb_locks(locks: &str) -> String {
    format!(
        "SELECT p.ID, p.USER, p.COMMAND, p.STATE, p.TIME_MS AS AGE_MS, p.QUERY_ID AS STATEMENT, l.LOCKS, \
         IF(x.trx_tables_in_use > 0, x.trx_tables_locked, 0) AS TRX_LOCKS, x.trx_id IS NOT NULL AS IN_TRX \
         FROM information_schema.PROCESSLIST p LEFT JOIN ({locks}) l ON l.ID = p.ID \
         LEFT JOIN information_schema.INNODB_TRX x ON x.trx_mysql_thread_id = p.ID \
         WHERE p.ID <> CONNECTION_ID()"
    )
}
