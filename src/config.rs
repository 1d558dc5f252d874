//! The configuration file: one [`load`](Config::load), strict about keys, with line and column in every error.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::database::{Consistency, OnBusy, Strategy};
use crate::units::Bytes;

/// The configuration is wrong; says the file, the line and what is expected.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

/// Everything that the file can say. Unknown keys are errors (trap 39).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The repository's directory.
    pub repository: PathBuf,
    /// The name under which this host's backups are kept; the kernel's host name by default.
    pub host: Option<String>,
    /// How the server is reached; `None` (`server: none`) backs up files only.
    pub server: Option<Server>,
    /// What a backup promises.
    pub consistency: Consistency,
    /// The lock and its limits.
    pub lock: Lock,
    /// Trees beside the database: /etc/mysql, /var/www ...
    pub files: Vec<PathBuf>,
    /// Subtrees of them (or of the datadir's volume) that are left out.
    pub exclude: Vec<PathBuf>,
    /// Whether keyring and TLS files of the server are copied as well.
    pub include_secrets: bool,
    /// The copy.
    pub copy: Copy,
    /// Btrfs.
    pub btrfs: Btrfs,
    /// Where run journals are kept.
    pub state_dir: PathBuf,
    /// Tags for every backup.
    pub tags: std::collections::BTreeMap<String, String>,
}

/// How the server is reached.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// An option file (`my.cnf` syntax) with `[client]` and `[snapback]` groups: user, password, socket, host, port, ssl-*.
    pub defaults_file: Option<PathBuf>,
    /// Unix socket; wins over the option file.
    pub socket: Option<PathBuf>,
    /// Host name for TCP; wins over the option file.
    pub host: Option<String>,
    /// TCP port.
    pub port: Option<u16>,
    /// Account name; wins over the option file.
    pub user: Option<String>,
}

/// The lock and its limits; spans are texts such as `2s`, `500ms`, `1m`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lock {
    /// Strategy.
    pub strategy: Strategy,
    /// The longest that one attempt may wait for the lock.
    pub acquire_timeout: Span,
    /// The longest that the lock may be held.
    pub hold_limit: Span,
    /// Attempts in all.
    pub attempts: u32,
    /// The pause after the first failed attempt; doubles each time.
    pub backoff: Span,
    /// A statement in the lock's way counts as a blocker from this age on.
    pub blocker_age: Span,
    /// What to do about blockers.
    pub on_busy: OnBusy,
    /// Whether `innodb_flush_log_at_trx_commit` is raised from 0 for the run.
    pub raise_durability: bool,
}

/// The copy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Copy {
    /// Worker threads; 0: as many as processors, at most 8.
    pub workers: usize,
    /// Bytes per second that are read at most; none by default.
    pub bandwidth: Option<Bytes>,
    /// Chunk size of ordinary files: 16KiB, 64KiB or 1MiB.
    pub chunk_size: Bytes,
    /// zstd level.
    pub level: i32,
    /// Idle I/O priority.
    pub idle_priority: bool,
    /// How often a file that changes while it is copied live is tried.
    pub live_attempts: u32,
}

/// Btrfs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Btrfs {
    /// The directory for snapshots, on the same filesystem as the volume; by default `.snapback` at the top of the subvolume's mount.
    pub snapshot_dir: Option<PathBuf>,
}

/// A span of time in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Span(pub jiff::SignedDuration);

impl Span {
    /// The span for timers; a negative one counts as nothing.
    pub fn unsigned(self) -> std::time::Duration {
        self.0.try_into().unwrap_or_default()
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            repository: PathBuf::new(),
            host: None,
            server: Some(Server::default()),
            consistency: Consistency::default(),
            lock: Lock::default(),
            files: Vec::new(),
            exclude: Vec::new(),
            include_secrets: false,
            copy: Copy::default(),
            btrfs: Btrfs::default(),
            state_dir: PathBuf::from("/var/lib/snapback"),
            tags: std::collections::BTreeMap::new(),
        }
    }
}

impl Default for Lock {
    fn default() -> Lock {
        Lock {
            strategy: Strategy::Auto,
            acquire_timeout: Span(jiff::SignedDuration::from_secs(2)),
            hold_limit: Span(jiff::SignedDuration::from_secs(5)),
            attempts: 5,
            backoff: Span(jiff::SignedDuration::from_millis(500)),
            blocker_age: Span(jiff::SignedDuration::from_millis(500)),
            on_busy: OnBusy::Wait,
            raise_durability: true,
        }
    }
}

impl Default for Copy {
    fn default() -> Copy {
        Copy {
            workers: 0,
            bandwidth: None,
            chunk_size: Bytes::kib(64),
            level: 1,
            idle_priority: true,
            live_attempts: 3,
        }
    }
}

impl Config {
    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// The file cannot be read, or says something wrong: the key and the line are named.
    pub fn load(_path: &std::path::Path) -> Result<Config, Error> {
        todo!()
    }
}
