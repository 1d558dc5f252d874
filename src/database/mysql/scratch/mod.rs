//! A private server on a restored datadir: to prove that it boots, to check its tables, and to take things out of it.
//!
//! It runs as a user that this host chose, never as one that a backup names, and finds its options in files that this user cannot exchange ([`prepare`]).
//! It has its own socket in a directory that only its user can enter, no network, no replication, no events, bounded memory, its own option file and every path below
//! the scratch space. The kernel keeps its writes there as well, shows it the copies where the data says that the originals are, and it is killed when we are gone
//! ([`crate::sys::guarded`]).
//!
//! Nobody knows the accounts in the data. `--skip-grant-tables` would let us in, but such a server does not read `mysql.plugin` either, and tables of engines that were
//! installed there could not be opened; so the server's init-file makes an account of ours, with a random password, on the copy and outside of its binary log.

mod binary;
pub mod check;
mod client;
mod each;
mod links;
mod log;
pub mod machine;
mod options;
mod prepare;
pub mod sums;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::connect::{ConnectOptions, Secret, Target, Tls, TlsMode};
use super::session::Session;
use crate::database::{Error, Flavour, Result, ServerFacts};
use crate::monitor::Monitor;
use crate::sys;
use crate::sys::fs::Beneath;
use crate::sys::guarded::{Guarded, Running};
use crate::sys::signal::Cancel;
use crate::sys::user::Account;
use crate::units::Id;

pub use binary::{Binary, find};
pub use client::{Tool, find_tool, tool_version, write_client_file};
pub use links::Removed;
pub use log::Recovery;
pub use options::is_valid;

pub use super::place::Place;
use super::place::libraries_of;

/// The account that the init-file makes.
pub const ACCOUNT: &str = "snapback-scratch";

/// The longest path of a Unix socket (sun_path), in bytes.
const LONGEST_SOCKET: usize = 107;

/// How long one try to connect may take while the server starts.
const TRY: Duration = Duration::from_secs(5);

/// The longest that an orderly end may take: InnoDB writes its dirty pages.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(600);

/// How the server is run.
#[derive(Debug, Clone)]
pub struct Wishes {
    /// InnoDB's buffer pool in bytes; the rest of the server takes some 200 MiB.
    pub memory: u64,
    /// Connections at the same time.
    pub connections: usize,
    /// The longest that it may take until it answers, recovery included.
    pub boot_limit: Duration,
    /// Further options, before ours.
    pub options: BTreeMap<String, String>,
    /// The data are kept: the end writes everything back.
    pub clean: bool,
    /// The copy is thrown away: links that lead to nothing in the backup may be removed from it.
    pub throwaway: bool,
    /// Whom it runs as; `None`: as we do.
    pub user: Option<Account>,
    /// It sees what the data know of their own replication (MySQL always does), and may change that. It never replicates.
    pub replication: bool,
}

impl Default for Wishes {
    fn default() -> Wishes {
        Wishes {
            memory: 256 << 20,
            connections: 2,
            boot_limit: Duration::from_secs(3600),
            options: BTreeMap::new(),
            clean: false,
            throwaway: false,
            user: None,
            replication: false,
        }
    }
}

/// A scratch server that answers. Dropping it kills it.
#[derive(Debug)]
pub struct Scratch {
    running: Running,
    options: ConnectOptions,
    /// The server's own directory. What is in it, that user may have made.
    own: Beneath,
    flavour: Flavour,
    recovery: Recovery,
    removed_links: Vec<Removed>,
}

/// Whether the socket of a scratch server in this space has a name that is short enough.
pub fn socket_fits(space: &Path) -> bool {
    prepare::own(space).join("s").as_os_str().len() <= LONGEST_SOCKET
}

/// Starts a server on the place, and waits until it answers. `space` is a directory that is root's; what the server reads and writes beside the data is made in it.
///
/// # Errors
/// It cannot be started, ended by itself, or did not answer in time; the message has its last words.
pub fn start(
    binary: &Binary,
    place: &Place<'_>,
    space: &Path,
    wishes: &Wishes,
    monitor: &dyn Monitor,
    cancel: &Cancel,
) -> crate::Result<Scratch> {
    let removed = links::turn(place, wishes.user, wishes.throwaway)?;
    let own = prepare::own(space);
    let writes = &[own.as_path(), place.datadir];
    // MariaDB's redo log names tablespaces outside of the datadir by their live paths, and recovery opens them.
    let started = start_with(
        binary,
        place,
        space,
        wishes,
        (writes, place.trees, false),
        monitor,
        cancel,
    );
    Ok(Scratch {
        removed_links: removed,
        ..started?
    })
}

/// The same on writable clones of a live server's trees (originals, and where their clones are). The server sees them under the names of the originals, in a mount
/// namespace of its own, so that no link, path or dictionary in them has to be changed; it may write nowhere else, and is not started if the kernel cannot do that.
///
/// # Errors
/// As [`start`].
pub fn start_instead(
    binary: &Binary,
    place: &Place<'_>,
    clones: &[(PathBuf, PathBuf)],
    space: &Path,
    wishes: &Wishes,
    monitor: &dyn Monitor,
    cancel: &Cancel,
) -> crate::Result<Scratch> {
    let own = prepare::own(space);
    start_with(
        binary,
        place,
        space,
        wishes,
        (&[own.as_path()], clones, true),
        monitor,
        cancel,
    )
}

fn start_with(
    binary: &Binary,
    place: &Place<'_>,
    space: &Path,
    wishes: &Wishes,
    (writes, copies, instead): (&[&Path], &[(PathBuf, PathBuf)], bool),
    monitor: &dyn Monitor,
    cancel: &Cancel,
) -> crate::Result<Scratch> {
    let password = format!("Aa1!{}", Id::random());
    let options = prepare::prepare(place, space, wishes, &password)?;
    let own = Beneath::open(&prepare::own(space))?;
    let output = prepare::output(space);
    let mut arguments = vec![format!("--defaults-file={}", options.display())];
    if sys::host::is_root() && wishes.user.is_none_or(|(uid, _)| uid == 0) {
        // A server does not run as root unless it is told to.
        arguments.push("--user=root".to_owned());
    }
    let running = Guarded {
        program: &binary.program,
        arguments: &arguments,
        user: wishes.user,
        output: &output,
        writes,
        copies,
        instead,
    }
    .start()
    .map_err(Error::from)?;
    let mut scratch = Scratch {
        running,
        options: connect_options(&prepare::own(space), password),
        own,
        flavour: place.facts.flavour,
        recovery: Recovery::default(),
        removed_links: Vec::new(),
    };
    scratch.wait_until_it_answers(&output, wishes.boot_limit, monitor, cancel)?;
    scratch.recovery = log::recovery(&scratch.log_text());
    Ok(scratch)
}

fn connect_options(run: &Path, password: String) -> ConnectOptions {
    ConnectOptions {
        target: Target::Socket(run.join("s")),
        user: ACCOUNT.to_owned(),
        password: Some(Secret::new(password)),
        tls: Tls {
            mode: TlsMode::Disabled,
            ca: None,
            identity: None,
            server_public_key: None,
        },
        connect_timeout: TRY,
    }
}

impl Scratch {
    /// How it came up.
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// The links that the copy lacks: they led to what is not in the backup.
    pub fn removed_links(&self) -> &[Removed] {
        &self.removed_links
    }

    /// A connection of its own; `limit` bounds how long the server may be silent within a statement. Nothing that it runs goes into the binary log.
    ///
    /// # Errors
    /// The server does not answer any more.
    pub fn session(&self, limit: Duration) -> Result<Session> {
        session(&self.options, limit)
    }

    /// How to connect, for a thread that has no hold of the server itself.
    pub fn address(&self) -> &ConnectOptions {
        &self.options
    }

    /// What the copy's binary log says of itself: its files with their lengths, oldest first; without the one that this server began.
    ///
    /// # Errors
    /// The server cannot be asked.
    pub fn binary_logs(&self) -> Result<Vec<(String, u64)>> {
        let mut session = self.session(TRY)?;
        let mut files = super::position::binary_logs(&mut session)?;
        files.pop();
        Ok(files)
    }

    /// The GTIDs that it has executed, white space removed; `None` where it has none.
    ///
    /// # Errors
    /// The server cannot be asked.
    pub fn gtid(&self) -> Result<Option<String>> {
        let variable = match self.flavour {
            Flavour::MariaDb => "SELECT @@GLOBAL.gtid_binlog_pos",
            Flavour::MySql => "SELECT @@GLOBAL.gtid_executed",
        };
        let value = self.session(TRY)?.value(variable)?;
        let plain = value.map(|value| value.split_whitespace().collect::<String>());
        Ok(plain.filter(|value| !value.is_empty()))
    }

    /// Whether it still runs.
    pub fn lives(&mut self) -> bool {
        matches!(self.running.ended(), Ok(None))
    }

    /// Why it ended, in its own words.
    pub fn last_words(&self) -> String {
        log::last_words(&self.log_text())
    }

    /// What of this machine ended it, where it ended so; `None` where it lives, or the data are to blame.
    pub fn machine_trouble(&mut self) -> Option<&'static str> {
        let status = self.running.ended().ok().flatten()?;
        machine::of_end(Some(status), &self.last_words())
    }

    /// The libraries that the live server had loaded for its data and that this one has not; `None`: it does not tell.
    pub fn missing_libraries(&self, facts: &ServerFacts) -> Option<Vec<String>> {
        let mut session = self.session(TRY).ok()?;
        let rows = session
            .rows("SELECT DISTINCT PLUGIN_LIBRARY FROM information_schema.PLUGINS WHERE PLUGIN_STATUS = 'ACTIVE'");
        let loaded: Vec<String> = rows
            .ok()?
            .iter()
            .filter_map(|row| row.first().map(str::to_owned))
            .collect();
        let missing = libraries_of(facts).filter(|library| !loaded.iter().any(|one| one == library));
        Some(missing.map(str::to_owned).collect())
    }

    /// The errors in its log that have this in them.
    pub fn errors_of(&self, words: &str) -> Vec<String> {
        let text = self.log_text();
        let errors = text
            .lines()
            .filter(|line| line.contains("[ERROR]") && line.contains(words));
        errors.map(log::without_time).collect()
    }

    /// Kills it, as a power cut does.
    pub fn kill(&mut self) {
        self.running.kill();
    }

    /// Shuts it down in order and waits for its end.
    ///
    /// # Errors
    /// It did not end by itself in time, or with a bad status. It is gone in every case.
    pub fn stop(self, cancel: &Cancel) -> crate::Result<()> {
        self.stop_within(SHUTDOWN_LIMIT, cancel)
    }

    /// Removes the account that is ours: the data are kept.
    ///
    /// # Errors
    /// The server refuses.
    pub fn leave(&self) -> Result<()> {
        self.session(TRY)?.run(&format!("DROP USER '{ACCOUNT}'@'localhost'"))
    }

    /// As [`stop`](Scratch::stop), with a limit of the caller's.
    ///
    /// # Errors
    /// As [`stop`](Scratch::stop).
    pub fn stop_within(mut self, limit: Duration, cancel: &Cancel) -> crate::Result<()> {
        // The answer may not come any more.
        let asked = self.session(TRY).and_then(|mut session| session.run("SHUTDOWN"));
        if asked.is_err() {
            self.running.ask_to_end();
        }
        let until = Instant::now() + limit;
        loop {
            cancel.check()?;
            match self.running.wait(Duration::from_millis(50)).map_err(Error::from)? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => {
                    let words = self.last_words();
                    let reason = format!("the scratch server ended badly ({status}): {words}");
                    return Err(ended(Some(status), &words, reason).into());
                }
                None if Instant::now() < until => {}
                None => {
                    return Err(
                        Error::Unsupported(format!("the scratch server did not shut down within {limit:?}")).into(),
                    );
                }
            }
        }
    }

    fn log_text(&self) -> String {
        log::tail(self.own.open_plain(Path::new("error.log")))
    }

    fn wait_until_it_answers(
        &mut self,
        output: &Path,
        limit: Duration,
        monitor: &dyn Monitor,
        cancel: &Cancel,
    ) -> crate::Result<()> {
        let begun = Instant::now();
        let mut said = begun;
        loop {
            cancel.sleep(Duration::from_millis(50))?;
            let failed = |reason: String| crate::Error::from(Error::Unsupported(reason));
            if let Some(status) = self.running.ended().map_err(Error::from)? {
                let mut words = self.last_words();
                if self.log_text().is_empty() {
                    // It did not come as far as its log.
                    words = log::last_words(&log::tail(sys::fs::open_plain(output)));
                }
                let reason = format!("the server does not start on the copy ({status}): {words}");
                return Err(ended(Some(status), &words, reason).into());
            }
            if self.own.exists(Path::new("s")).unwrap_or(false) && session(&self.options, TRY).is_ok() {
                return Ok(());
            }
            if begun.elapsed() > limit {
                let words = self.last_words();
                return Err(failed(format!("the server does not answer after {limit:?}: {words}")));
            }
            if said.elapsed() > Duration::from_secs(10) {
                said = Instant::now();
                let text = self.log_text();
                monitor.message(text.lines().next_back().unwrap_or("the scratch server is starting"));
            }
        }
    }
}

/// The error of a server that ended by itself.
fn ended(status: Option<std::process::ExitStatus>, words: &str, reason: String) -> Error {
    match machine::of_end(status, words) {
        Some(trouble) => Error::Unsupported(format!("{reason}; {trouble}")),
        None => Error::UnfitData(reason),
    }
}

fn session(options: &ConnectOptions, limit: Duration) -> Result<Session> {
    let mut session = Session::open(options, limit)?;
    session.run("SET SESSION sql_log_bin = 0, wait_timeout = 86400, sql_select_limit = 18446744073709551615")?;
    Ok(session)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Facts of a server at `/live`.
    pub(crate) fn facts(flavour: Flavour) -> ServerFacts {
        ServerFacts {
            flavour,
            version: "10.11.14".to_owned(),
            version_number: (10, 11, 14),
            address: "socket /run/live.sock".to_owned(),
            hostname: "live".to_owned(),
            server_id: 1,
            server_uuid: None,
            datadir: "/live".into(),
            log_bin: true,
            flush_log_at_trx_commit: 1,
            sync_binlog: 1,
            variables: BTreeMap::new(),
        }
    }
}
