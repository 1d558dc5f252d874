//! The configuration file: one [`load`](Config::load), strict about keys, with line and column in every error.

mod checksums;
mod held;
mod hooks;
mod service;
mod trust;

pub use checksums::Checksums;
pub use service::Service;

use std::path::{Path, PathBuf};

pub use held::{HeldPolicy, OnFull};
pub use hooks::{Hook, Hooks};

use serde::{Deserialize, Serialize};

use crate::database::{Consistency, OnBusy, Strategy};
use crate::repository::{ChunkClass, is_valid_host};
use crate::sys;
use crate::units::Bytes;
use crate::volume::CowSize;

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
    #[serde(deserialize_with = "server_or_none")]
    pub server: Option<Server>,
    /// What a backup promises.
    pub consistency: Consistency,
    /// Tables whose checksums go with a backup.
    pub checksums: Checksums,
    /// The lock and its limits.
    pub lock: Lock,
    /// Trees beside the database: /etc/mysql, /var/www ...
    pub files: Vec<PathBuf>,
    /// Subtrees of them that are left out; nothing can be left out of the database.
    pub exclude: Vec<PathBuf>,
    /// Whether keyring and TLS files of the server are copied as well.
    pub include_secrets: bool,
    /// The copy.
    pub copy: Copy,
    /// Btrfs.
    pub btrfs: Btrfs,
    /// LVM.
    pub lvm: Lvm,
    /// Restore drills (`verify --boot`).
    pub scratch: Scratch,
    /// How the server is stopped and started.
    pub service: Service,
    /// Where run journals are kept.
    pub state_dir: PathBuf,
    /// Commands around a snapshot or a rollback.
    pub hooks: Hooks,
    /// Held sets whose storage fills.
    pub held: HeldPolicy,
    /// Which backups stay.
    pub retention: crate::retention::Policy,
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
    /// Goes on where the kernel cannot tell that the server which answers works on the datadir seen here (another host's address, a proxy): the data may then be
    /// another server's than the position.
    pub accept_unproved: bool,
    /// The server's own option file, which says where its data lie while it is stopped; by default /etc/my.cnf or /etc/mysql/my.cnf.
    pub option_file: Option<PathBuf>,
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
    /// Worker threads; 0: twice as many as processors, at most 16.
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
    /// One of so many chunks that did not change is read back from the repository and verified, others in each run; 0: none.
    pub read_back: u32,
}

/// Btrfs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Btrfs {
    /// The directory for snapshots, on the same filesystem as the volume; by default `.snapback` at the top of the subvolume's mount.
    pub snapshot_dir: Option<PathBuf>,
}

/// LVM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lvm {
    /// The copy-on-write space of a thick snapshot: `auto`, a size, or a part of the origin such as `20%`.
    pub cow_size: CowSize,
    /// A snapshot whose copy-on-write space fills is extended up to this, while the volume group has room; `None`: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cow_limit: Option<CowSize>,
    /// The copy-on-write space of a thick snapshot that is held (`snapback snapshot create`): it lives for days.
    pub held_cow_size: CowSize,
}

/// Restore drills: where a backup is restored to, and how its private server is run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scratch {
    /// The directory below which each drill makes, and removes, one of its own.
    pub dir: PathBuf,
    /// The server program, or a wrapper that becomes it; by default the live server's, else an installed one of the same series.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mysqld: Option<PathBuf>,
    /// Whom private servers run as; by default `mysql`, where there is such an account, else `nobody`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// InnoDB's buffer pool.
    pub memory: Bytes,
    /// Tables that are checked at the same time; 0: as many as processors, at most 4.
    pub connections: usize,
    /// The longest that the server may take to answer, recovery included.
    pub boot_limit: Span,
    /// The longest that all checks together may take.
    pub check_limit: Span,
    /// Further options for the server, such as those of an encryption plugin.
    pub options: std::collections::BTreeMap<String, String>,
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
            checksums: Checksums::default(),
            lock: Lock::default(),
            files: Vec::new(),
            exclude: Vec::new(),
            include_secrets: false,
            copy: Copy::default(),
            btrfs: Btrfs::default(),
            lvm: Lvm::default(),
            scratch: Scratch::default(),
            service: Service::default(),
            state_dir: PathBuf::from("/var/lib/snapback"),
            hooks: Hooks::default(),
            held: HeldPolicy::default(),
            retention: crate::retention::Policy::default(),
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

impl Default for Lvm {
    fn default() -> Lvm {
        Lvm {
            cow_size: CowSize::Auto,
            cow_limit: None,
            held_cow_size: CowSize::Percent(50),
        }
    }
}

impl Default for Scratch {
    fn default() -> Scratch {
        Scratch {
            dir: PathBuf::from("/var/tmp"),
            mysqld: None,
            user: None,
            memory: Bytes::mib(256),
            connections: 0,
            boot_limit: Span(jiff::SignedDuration::from_hours(1)),
            check_limit: Span(jiff::SignedDuration::from_hours(12)),
            options: std::collections::BTreeMap::new(),
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
            read_back: 256,
        }
    }
}

impl Config {
    /// Whether a private server works on a backup's snapshot, and reads all of it.
    pub fn wants_private_server(&self) -> bool {
        self.consistency == Consistency::Clean || self.checksums != Checksums::None
    }

    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// The file cannot be read, or says something wrong: the key and the line are named.
    pub fn load(path: &Path) -> Result<Config, Error> {
        // What a person names who wants none: no file, but nobody exchanges it or writes into it.
        if path == Path::new("/dev/null") {
            return Ok(Config::default());
        }
        let text = text(path)?;
        Config::parse(&text).map_err(|Error(reason)| Error(format!("{}: {reason}", path.display())))
    }

    /// Parses and checks a configuration's text.
    ///
    /// # Errors
    /// As [`load`](Config::load), without the file's name.
    pub fn parse(text: &str) -> Result<Config, Error> {
        // An empty file, or one of comments only, is a configuration of defaults.
        let nothing = text
            .lines()
            .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
        let config: Config = if nothing {
            Config::default()
        } else {
            serde_saphyr::from_str(text).map_err(|error| Error(said(&error)))?
        };
        config.check()?;
        Ok(config)
    }

    /// Checks what the types cannot: ranges, absolute paths, names. Called again after flags have changed something.
    ///
    /// # Errors
    /// The key is named.
    pub fn check(&self) -> Result<(), Error> {
        let require = |holds: bool, key: &str, what: &str| match holds {
            true => Ok(()),
            false => Err(Error(format!("`{key}` {what}"))),
        };
        self.check_local()?;
        let absolute = |path: &PathBuf| path.as_os_str().is_empty() || path.is_absolute();
        require(absolute(&self.repository), "repository", "must be an absolute path")?;
        require(absolute(&self.state_dir), "state_dir", "must be an absolute path")?;
        require(
            self.files.iter().all(absolute),
            "files",
            "must be a list of absolute paths",
        )?;
        require(
            self.exclude.iter().all(absolute),
            "exclude",
            "must be a list of absolute paths",
        )?;
        let scratch = &self.scratch;
        require(scratch.dir.is_absolute(), "scratch.dir", "must be an absolute path")?;
        require(
            scratch.mysqld.as_ref().is_none_or(|path| path.is_absolute()),
            "scratch.mysqld",
            "must be an absolute path",
        )?;
        require(
            scratch.connections <= 64,
            "scratch.connections",
            "must not be more than 64",
        )?;
        require(
            crate::database::mysql::scratch::is_valid(&scratch.options),
            "scratch.options",
            "must be names of the server's options with values that have no quotes and no line breaks",
        )?;
        let host = self.host.as_deref();
        require(
            host.is_none_or(is_valid_host),
            "host",
            "may have letters, digits, `.`, `_` and `-` only",
        )?;
        let lock = &self.lock;
        for (key, span) in [
            ("acquire_timeout", lock.acquire_timeout),
            ("hold_limit", lock.hold_limit),
        ] {
            require(
                span.0.as_millis() >= 10,
                &format!("lock.{key}"),
                "must be at least 10ms",
            )?;
        }
        require(
            lock.hold_limit.0.as_secs() <= 3600,
            "lock.hold_limit",
            "must not be longer than an hour",
        )?;
        require(lock.attempts >= 1, "lock.attempts", "must be at least 1")?;
        for (key, what) in self
            .retention
            .wrong()
            .into_iter()
            .chain(self.hooks.wrong(lock.hold_limit))
        {
            require(false, key, what)?;
        }
        if let Some((key, what)) = self.service.wrong() {
            require(false, key, what)?;
        }
        require(
            self.held.at >= 1.0 && self.held.at < 100.0,
            "held.at",
            "must be between 1 and 100",
        )?;
        let chunk = self.copy.chunk_size.as_u64();
        require(
            ChunkClass::of(chunk).is_some(),
            "copy.chunk_size",
            "must be 16KiB, 64KiB or 1MiB",
        )?;
        require(
            (1..=22).contains(&self.copy.level),
            "copy.level",
            "must be between 1 and 22",
        )?;
        require(self.copy.workers <= 256, "copy.workers", "must not be more than 256")?;
        require(
            self.copy.bandwidth.is_none_or(|rate| rate.as_u64() > 0),
            "copy.bandwidth",
            "must be more than 0",
        )
    }
}

/// The text of a configuration that nobody else could have written.
fn text(path: &Path) -> Result<String, Error> {
    let failed = |reason: String| Error(format!("cannot read the configuration {}: {reason}", path.display()));
    let said = |error: sys::Error| match error.is(std::io::ErrorKind::NotFound) {
        true => failed(format!(
            "{}; `snapback init` writes one, --config names another",
            error.into_io()
        )),
        false => failed(error.to_string()),
    };
    let at = std::path::absolute(path).map_err(|error| failed(error.to_string()))?;
    sys::trust::require(&at).map_err(said)?;
    let bytes = sys::fs::read_plain_linked(&at, sys::fs::TEXT_LIMIT).map_err(said)?;
    String::from_utf8(bytes).map_err(|_| failed("it is not UTF-8".to_owned()))
}

impl Config {
    /// No path is a location on another host: it would quietly become a directory of that name.
    fn check_local(&self) -> Result<(), Error> {
        let one = |key: &'static str, path: &Path| {
            crate::sys::fs::require_local(path).map_err(|reason| Error(format!("`{key}`: {reason}")))
        };
        one("repository", &self.repository)?;
        one("state_dir", &self.state_dir)?;
        one("scratch.dir", &self.scratch.dir)?;
        self.btrfs
            .snapshot_dir
            .iter()
            .try_for_each(|path| one("btrfs.snapshot_dir", path))?;
        self.files.iter().try_for_each(|path| one("files", path))?;
        self.exclude.iter().try_for_each(|path| one("exclude", path))
    }
}

/// The parser's words, which begin with "error:" as ours do when they are printed.
fn said(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    text.strip_prefix("error: ").unwrap_or(&text).to_owned()
}

/// `server: none`, or a mapping; nothing at all means the defaults.
fn server_or_none<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Server>, D::Error> {
    struct Choice;

    impl<'de> serde::de::Visitor<'de> for Choice {
        type Value = Option<Server>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("`none`, or keys such as `socket` and `defaults_file`")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Option<Server>, E> {
            match text {
                "none" => Ok(None),
                other => Err(E::invalid_value(serde::de::Unexpected::Str(other), &self)),
            }
        }

        fn visit_unit<E: serde::de::Error>(self) -> Result<Option<Server>, E> {
            Ok(Some(Server::default()))
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Option<Server>, A::Error> {
            Server::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(Some)
        }
    }

    deserializer.deserialize_any(Choice)
}

/// The starter file that `snapback init` writes: every key with its default, commented.
pub fn starter(repository: &Path) -> String {
    include_str!("config/starter.yaml").replace("@REPOSITORY@", &repository.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        Config::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let error = wrong("repository: /r\nlock:\n  acquire_timout: 2s\n");
        assert!(error.contains("acquire_timout") && error.contains('3'), "{error}");
        assert!(!error.contains("error:"), "{error}");
        let error = wrong("repository: /r\nserver:\n  sokcet: /x\n");
        assert!(error.contains("sokcet") && error.contains('3'), "{error}");
        let error = wrong("repositry: /r\n");
        assert!(error.contains("repositry") && error.contains('1'), "{error}");
    }

    #[test]
    fn wrong_values_are_named() {
        for (text, word) in [
            ("copy: {chunk_size: 5KiB}", "copy.chunk_size"),
            ("repository: here", "repository"),
            ("repository: 's3://bucket/x'", "`s3:`"),
            ("repository: backup@nas:/srv/x", "`backup@nas:`"),
            ("state_dir: 'file:///var/x'", "state_dir"),
            ("files: ['https://h/x']", "files"),
            ("exclude: ['h:/x']", "exclude"),
            ("btrfs: {snapshot_dir: 'h:x'}", "btrfs.snapshot_dir"),
            ("lock: {attempts: 0}", "lock.attempts"),
            ("lock: {hold_limit: -1s}", "lock.hold_limit"),
            ("lock: {strategy: ftwlr}", "ftwlr"),
            ("host: a/b", "host"),
            ("server: nothing", "none"),
            ("copy: {bandwidth: fast}", "fast"),
            ("retention: {keep_tags: [release]}", "retention.keep_tags"),
            ("retention: {keep_within: -3d}", "retention.keep_within"),
            ("retention: {after_backup: true}", "retention.after_backup"),
            ("retention: {keep_dayly: 3}", "keep_dayly"),
            ("lvm: {cow_size: plenty}", "plenty"),
            ("lvm: {cow_size: 0%}", "0%"),
            ("scratch: {dir: here}", "scratch.dir"),
            ("scratch: {options: {'a b': x}}", "scratch.options"),
        ] {
            assert!(wrong(text).contains(word), "{text}: {}", wrong(text));
        }
    }

    #[test]
    fn everything_that_the_starter_shows_is_valid_and_default() {
        let text = starter(Path::new("/srv/backups"));
        let config = Config::parse(&text).unwrap();
        assert_eq!(
            config,
            Config {
                repository: "/srv/backups".into(),
                ..Config::default()
            }
        );
        let uncommented: String = text
            .lines()
            .map(|line| line.strip_prefix("#=").unwrap_or(line).to_owned() + "\n")
            .collect();
        let shown = Config::parse(&uncommented).unwrap();
        assert_eq!(shown.lock, Config::default().lock);
        assert_eq!(shown.copy.chunk_size, Config::default().copy.chunk_size);
    }

    #[test]
    fn a_server_is_there_unless_it_is_said_not_to_be() {
        assert_eq!(Config::parse("").unwrap().server, Some(Server::default()));
        assert_eq!(Config::parse("server: none").unwrap().server, None);
        let config = Config::parse("server: {socket: /s}\nlock: {acquire_timeout: 1500ms}").unwrap();
        assert_eq!(config.server.unwrap().socket, Some("/s".into()));
        assert_eq!(
            config.lock.acquire_timeout.unsigned(),
            std::time::Duration::from_millis(1500)
        );
    }
}
