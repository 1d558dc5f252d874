//! Databases: what they write where, how they are quieted, and which position they are at.

pub mod mysql;
mod table_name;

pub use table_name::{TableName, is_own_schema, table_name, table_names};

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::Kind;
use crate::finding::Finding;
use crate::journal::Journal;
use crate::monitor::Monitor;
use crate::sys::signal::Cancel;

/// What a backup promises (docs/consistency.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// No lock: as after a power cut.
    Crash,
    /// Lock, flush, position: every engine agrees and the position is exact.
    #[default]
    Application,
    /// As `Application`; then a private server has recovered, checked and shut down a writable clone of the snapshot, and that is what is copied.
    Clean,
}

/// How the server is quieted (docs/consistency.md has what each blocks).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// The lightest locking one that gives the level asked for.
    #[default]
    Auto,
    /// `FLUSH TABLES WITH READ LOCK`.
    Ftwrl,
    /// MariaDB 10.4+ `BACKUP STAGE`.
    BackupStage,
    /// MySQL 8+ `LOCK INSTANCE FOR BACKUP`, then FTWRL for the instant.
    Instance,
    /// No lock at all; the position is read off the copy's own binary log.
    Lockless,
    /// No lock, no exact position (level `crash`).
    None,
}

/// What to do when a statement runs that the lock would have to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnBusy {
    /// Give up at once (exit status 3).
    Fail,
    /// Wait, up to the retries' time, for it to end.
    #[default]
    Wait,
    /// End running SELECTs that are in the way.
    KillReads,
    /// End every statement that is in the way.
    KillAll,
}

/// Which server this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flavour {
    /// MariaDB Server.
    MariaDb,
    /// MySQL Server (and Percona Server).
    MySql,
}

/// What is known of the server, without secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerFacts {
    /// MariaDB or MySQL.
    pub flavour: Flavour,
    /// `@@version` as it is.
    pub version: String,
    /// Major, minor, patch.
    pub version_number: (u32, u32, u32),
    /// How it is reached: `socket /run/...` or `host:port`.
    pub address: String,
    /// `@@hostname`.
    pub hostname: String,
    /// `@@server_id`.
    pub server_id: u64,
    /// MySQL's `@@server_uuid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_uuid: Option<String>,
    /// Absolute, without symlinks.
    pub datadir: PathBuf,
    /// Whether a binary log is written.
    pub log_bin: bool,
    /// `innodb_flush_log_at_trx_commit` as the administrator set it.
    pub flush_log_at_trx_commit: u8,
    /// `sync_binlog`.
    pub sync_binlog: u64,
    /// `binlog_format`, `gtid_mode` (MySQL) or `gtid_strict_mode` (MariaDB) and whatever else the next steps need to know
    /// (`innodb_page_size`, `lower_case_table_names`, `character_set_server`, `innodb_data_file_path` ...).
    pub variables: std::collections::BTreeMap<String, String>,
}

impl ServerFacts {
    /// Whether it takes no writes, as when it is paused for maintenance.
    pub fn is_read_only(&self) -> bool {
        let value = self.variables.get("read_only").map(String::as_str);
        matches!(value, Some("1" | "ON"))
    }

    /// The most that InnoDB's redo log holds, in bytes (`innodb_redo_log_capacity` of MySQL 8.0.30, else `innodb_log_file_size` times the number of files);
    /// `None` where the server does not say.
    pub fn redo_capacity(&self) -> Option<u64> {
        let number = |name: &str| self.variables.get(name).and_then(|value| value.parse::<u64>().ok());
        let files = || number("innodb_log_files_in_group").unwrap_or(1);
        number("innodb_redo_log_capacity").or_else(|| Some(number("innodb_log_file_size")?.saturating_mul(files())))
    }
}

/// What a path of the server holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathRole {
    /// The data directory.
    Datadir,
    /// `innodb_data_home_dir` and the files of `innodb_data_file_path`.
    SystemTablespace,
    /// Redo log directory.
    Redo,
    /// Undo tablespaces.
    Undo,
    /// Doublewrite files.
    Doublewrite,
    /// Binary log files and their index.
    BinaryLog,
    /// Relay logs, their index and info files.
    RelayLog,
    /// Aria log directory.
    AriaLog,
    /// A tablespace, table or database that lies outside the datadir (DATA DIRECTORY, symlinks).
    External,
    /// A directory known to `innodb_directories`.
    InnodbDirectory,
    /// Temporary files: left out.
    Temporary,
    /// Error, slow and general logs: left out unless inside the datadir.
    Log,
    /// Keyring and TLS files: warned of, copied only when asked.
    Secret,
}

/// A path that the server writes (trap 20).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenPath {
    /// What it holds.
    pub role: PathRole,
    /// Absolute, without symlinks.
    pub path: PathBuf,
    /// Whether the server needs it to start on the copy: it must be on the atomic snapshot.
    pub needed: bool,
    /// How the server names it where that differs (a symlink, a relative setting).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named: Option<String>,
}

/// A replication position, exact unless the record says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Position {
    /// Binary log file name, as the server names it (no directory).
    pub file: String,
    /// Offset in bytes: the end of the last event that is in the data.
    pub position: u64,
    /// MariaDB `gtid_binlog_pos` or MySQL `gtid_executed` (white space removed), where there are GTIDs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gtid: Option<String>,
}

/// What one replication channel had executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaChannel {
    /// Channel (MySQL) or connection (MariaDB) name; empty for the default one.
    pub channel: String,
    /// The source's host.
    pub source_host: String,
    /// The source's port.
    pub source_port: u16,
    /// The source's binary log file up to which this replica has *executed*.
    pub file: String,
    /// The executed offset in it.
    pub position: u64,
    /// The executed GTID set where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gtid: Option<String>,
    /// Whether the channel goes by GTIDs (`Using_Gtid`, `Auto_Position`), not by file and offset.
    #[serde(default)]
    pub uses_gtid: bool,
    /// By how many seconds it stays behind on purpose (`MASTER_DELAY`).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub delay: u64,
    /// Whether the applier was running.
    pub running: bool,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What was read under the lock.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Coordinates {
    /// The server's own binary log, where it writes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// Its sources, if it is a replica.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replica: Vec<ReplicaChannel>,
    /// Prepared XA transactions (trap 18), as the server prints them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prepared_xa: Vec<String>,
}

/// Limits around the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockLimits {
    /// The longest time that one attempt may wait for the lock.
    pub acquire_timeout: Duration,
    /// The longest time that the lock may be held: the watchdog and the server's own `wait_timeout` end it then.
    pub hold_limit: Duration,
    /// Attempts in all, at least 1.
    pub attempts: u32,
    /// The pause after the first failed attempt; doubles each time.
    pub backoff: Duration,
    /// A statement that would delay the lock counts as a blocker once it has run this long.
    pub blocker_age: Duration,
    /// What to do about blockers.
    pub on_busy: OnBusy,
}

/// What the caller wants of the server.
#[derive(Debug, Clone)]
pub struct QuiescePlan {
    /// The promise.
    pub consistency: Consistency,
    /// Resolved: never `Auto` after [`Database::examine`].
    pub strategy: Strategy,
    /// The limits.
    pub limits: LockLimits,
    /// Whether durability is raised where it is too low for an exact position (trap 14).
    pub raise_durability: bool,
}

/// What an examination of the server found, before anything is touched.
#[derive(Debug, Clone)]
pub struct Examination {
    /// The strategy that will be used; never [`Strategy::Auto`].
    pub strategy: Strategy,
    /// Why it, in words.
    pub reason: String,
    /// Every path that the server writes.
    pub paths: Vec<WrittenPath>,
    /// Missing privileges, blockers, preconditions, recommendations.
    pub findings: Vec<Finding>,
}

/// When in the lock sequence the settle step is called for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettlePoint {
    /// Nothing is locked yet: as many rounds as it takes.
    Before,
    /// A lock is held that stops little (BACKUP STAGE FLUSH, LOCK INSTANCE): one short round.
    Between,
    /// The lock was not to be had: nothing is locked, and a pause follows, then `Before`. Nothing to settle, but what was held ready need not be.
    Pause,
}

/// How long each step of the lock took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockFigures {
    /// The strategy used.
    pub strategy: Strategy,
    /// Attempts that it took.
    pub attempts: u32,
    /// From asking for the lock that stops commits to having it, in microseconds.
    pub acquire_us: u64,
    /// From having it to its release answered, in microseconds; 0 when there was none.
    pub held_us: u64,
    /// Single statements and steps, in order: name and when it began (after the start of the run) and how long it took.
    pub steps: Vec<crate::timeline::Phase>,
}

/// The outcome of a hold that ended well.
#[derive(Debug, Clone)]
pub struct Released {
    /// Timings.
    pub figures: LockFigures,
    /// What goes into the record: the position as read at the start, replica channels as read at the end. Under a lock a replica's
    /// executed position only catches up with what is in the data already, so the later reading is the truer one.
    pub coordinates: Coordinates,
    /// The position did not move during the hold and the session stayed the same.
    pub exact: bool,
    /// Things to put into the record (position moved, setting not restored).
    pub findings: Vec<Finding>,
    /// Settings that were put back: the caller tells the journal that they are undone.
    pub settings: Vec<crate::journal::Setting>,
}

/// A server that is quiet. Dropping it releases the lock too, but nobody looks at the answer.
pub trait Quiesced {
    /// The coordinates read at the start of the hold. Empty for `lockless` (derived from the copy) and `none`.
    fn coordinates(&self) -> &Coordinates;

    /// Reads the position again, asks whether the session is still the same and alive, releases the lock, puts settings back.
    /// `fixed` is when the snapshot's decisive call ended.
    ///
    /// # Errors
    /// The lock was lost during the hold, so the snapshot proves nothing: the caller discards it. The lock is gone in every case, and
    /// every setting that the journal holds of this run has its old value again unless it is [`Error::NotPutBack`].
    fn release(self: Box<Self>) -> Result<Released>;

    /// Releases without asking anything: the run has failed already. After `Ok`, every setting that the journal holds of this
    /// run has its old value again: the caller tells the journal that it is undone.
    ///
    /// # Errors
    /// A setting could not be put back (the lock itself is gone in every case).
    fn abandon(self: Box<Self>) -> Result<()>;
}

/// What a database needs from the run while it is quieted.
pub struct QuiesceContext<'a> {
    /// The run's clock origin, for [`LockFigures::steps`].
    pub origin: Instant,
    /// Settings are written here before they are changed.
    pub journal: &'a Journal,
    /// Hears of waits and retries.
    pub monitor: &'a dyn Monitor,
    /// Asked between steps.
    pub cancel: &'a Cancel,
    /// The settle step, called at the point that suits the strategy, once or more per attempt; and at the pause between two attempts.
    pub settle: &'a mut dyn FnMut(SettlePoint) -> crate::Result<()>,
}

/// A live database server.
pub trait Database {
    /// What is known of it.
    fn facts(&self) -> &ServerFacts;

    /// Privileges, paths, blockers, preconditions. Changes nothing, locks nothing.
    ///
    /// # Errors
    /// The server cannot be asked.
    fn examine(&mut self, plan: &QuiescePlan) -> Result<Examination>;

    /// Quiets the server under the guard: blockers looked for, bounded acquire, retries, watchdog, dead-man switch.
    ///
    /// # Errors
    /// [`Error::Busy`] when the server was left alone; anything else when it failed. In every case nothing is locked any more.
    fn quiesce<'s>(
        &'s mut self,
        plan: &QuiescePlan,
        context: QuiesceContext<'_>,
    ) -> crate::Result<Box<dyn Quiesced + 's>>;

    /// What the account lacks for other commands than a backup: a note for each, with the GRANT. For `check`.
    ///
    /// # Errors
    /// The server cannot be asked.
    fn missing_for_commands(&mut self) -> Result<Vec<Finding>>;

    /// For `lockless`: the exact position, read off the binary log in the snapshot. `datadir` and the binary log's
    /// directory are given as seen in the snapshot.
    ///
    /// # Errors
    /// The log cannot be parsed.
    fn derive_position(&self, binary_log_index: &std::path::Path, binary_log_dir: &std::path::Path)
    -> Result<Position>;

    /// What a binary log is known by: the trace of its events up to a position. `None` where it cannot be read, or none ends there.
    fn log_trace(&self, _log: &std::path::Path, _position: u64) -> Option<String> {
        None
    }
}

/// The server said no, or not in time, or is gone.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server could not be reached.
    #[error("cannot connect to the server at {address}: {reason}")]
    Connect {
        /// Where.
        address: String,
        /// Server error number; 0 when it was not the server that said no.
        code: u16,
        /// Why, without secrets.
        reason: String,
    },
    /// A statement failed.
    #[error("`{statement}` failed: {reason}")]
    Statement {
        /// The statement (ours; never holds a secret).
        statement: String,
        /// Server error number, 0 when the connection broke.
        code: u16,
        /// What the server said.
        reason: String,
    },
    /// The server was busy and was left alone.
    #[error("the server is busy and was left alone: {reason}")]
    Busy {
        /// Who was in the way, and what to do.
        reason: String,
    },
    /// The lock was lost while it should have been held.
    #[error("the lock was lost: {reason}; the snapshot proves nothing and is discarded")]
    LockLost {
        /// How.
        reason: String,
    },
    /// The lock is gone, but a setting could not be put back: the journal keeps it.
    #[error("{cause}; then the server's setting could not be put back: {reason}; `snapback cleanup` does it")]
    NotPutBack {
        /// What went wrong first.
        #[source]
        cause: Box<Error>,
        /// Why it was not put back.
        reason: String,
    },
    /// Missing privileges.
    #[error("the account {account} lacks {missing}; `snapback init --print-grants` prints what it needs")]
    Privileges {
        /// As the server names it.
        account: String,
        /// Comma-separated.
        missing: String,
    },
    /// An option file, or what it says, is wrong.
    #[error("{path}: {reason}", path = path.display())]
    OptionFile {
        /// The file.
        path: PathBuf,
        /// With the line.
        reason: String,
    },
    /// A binary log cannot be understood.
    #[error("cannot read the position off {}: {reason}", path.display())]
    BinaryLog {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The lock strategy that was asked for is none of this server's, or does not give the level.
    #[error("{0}")]
    Strategy(String),
    /// This server cannot do what is asked.
    #[error("{0}")]
    Unsupported(String),
    /// A private server ended by itself on a copy of the data, and nothing tells of a fault of the machine: the data are to blame.
    #[error("{0}")]
    UnfitData(String),
    /// Files, programs and the kernel.
    #[error(transparent)]
    Sys(#[from] crate::sys::Error),
}

impl Error {
    /// Whether the same may go well a little later, with nobody doing anything about it: the server is down, starts, ends, or has too much to do.
    pub fn may_pass(&self) -> bool {
        // 0: the connection broke. Error numbers: too many connections (1040, 1203), shutdown (1053), waited too long (1205), a quota (1226), the log is gone or
        // ends (1236: the next look finds what there is), interrupted (1317), killed (1927).
        const PASSING: [u16; 9] = [0, 1040, 1053, 1203, 1205, 1226, 1236, 1317, 1927];
        match self {
            Error::Connect { code, .. } | Error::Statement { code, .. } => PASSING.contains(code),
            Error::Busy { .. } => true,
            _ => false,
        }
    }

    /// What it means to the caller.
    pub fn kind(&self) -> Kind {
        // No connection left: of the server (1040), of the account (1203), of its quota (1226).
        const FULL: [u16; 3] = [1040, 1203, 1226];
        match self {
            Error::Busy { .. } => Kind::Busy,
            Error::Connect { code, .. } | Error::Statement { code, .. } if FULL.contains(code) => Kind::Busy,
            Error::OptionFile { .. } | Error::Strategy(_) => Kind::Usage,
            Error::NotPutBack { cause, .. } => cause.kind(),
            _ => Kind::Failed,
        }
    }
}

/// A database result.
pub type Result<T> = std::result::Result<T, Error>;
