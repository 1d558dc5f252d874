//! Archiving binary logs: everything that the server has and the repository has not, over the replication protocol, byte for byte.
//!
//! One round asks for a dump without waiting, from exactly where the archive ends, and ends where the logs end now. Following is a round every few seconds:
//! the server keeps no connection of ours in between, and a round after a restart, of ours or the server's, is a round like any other.

pub mod forget;
pub mod found;
pub mod lines;
pub mod logs;
mod merge;
mod resume;
mod round;
pub mod stored;
pub mod then;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::config::Config;
use crate::database::mysql::connect::ConnectOptions;
use crate::database::mysql::flavour::Dialect;
use crate::database::mysql::position;
use crate::database::mysql::session::Session;
use crate::database::mysql::whole_log;
use crate::database::{Flavour, ServerFacts};
use crate::finding::Finding;
use crate::job::{Installation, Job};
use crate::monitor::Monitor;
use crate::repository::{Join, Link, Repository};
use crate::sys::signal::Cancel;
use crate::units::Bytes;
use crate::{Error, Result};
use logs::Log;
use resume::{Match, ServerFile};
use round::Round;
use then::Then;

/// Digits of a job's short form.
const JOB: usize = 8;

/// A follower says so often why it gets nothing.
const REMIND: Duration = Duration::from_secs(300);

/// What one round did, and how far behind it left the archive.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// The server, as the archive names it.
    pub server: String,
    /// The file up to whose offset the archive goes now.
    pub file: String,
    /// That offset.
    pub position: u64,
    /// Where the server was right afterwards.
    pub server_file: String,
    /// Its offset.
    pub server_position: u64,
    /// Bytes that are not archived yet.
    pub behind: u64,
    /// Bytes of logs that this round brought.
    pub bytes: u64,
    /// Bytes that it added to the repository.
    pub stored: u64,
    /// Segments that it wrote.
    pub segments: u64,
    /// Segments of complete logs that went into larger ones.
    pub merged: u64,
    /// Gaps, and whatever else a person must read.
    pub warnings: Vec<Finding>,
}

/// How a server is called in the archive.
pub fn server_name(facts: &ServerFacts) -> String {
    facts
        .server_uuid
        .clone()
        .unwrap_or_else(|| format!("id-{}", facts.server_id))
}

/// How a job's server is called in the archive: servers of one id, and machines that were cloned, have archives of their own.
pub fn name_of(facts: &ServerFacts, job: Option<&Job>) -> String {
    match job {
        Some(job) => format!("{}-{}", server_name(facts), job.short()),
        None => server_name(facts),
    }
}

/// The names in a host's archive that may be this server's: its own of before 0.2, and those of its jobs.
///
/// # Errors
/// The store cannot be listed.
pub fn servers_named(repository: &Repository, host: &str, server: &str) -> Result<Vec<String>> {
    let own = |name: &String| {
        let rest = name.strip_prefix(server);
        rest.is_some_and(|rest| rest.is_empty() || rest.strip_prefix('-').is_some_and(|job| job.len() == JOB))
    };
    let names: BTreeSet<String> = repository
        .binlogs(host)?
        .into_iter()
        .map(|segment| segment.server)
        .collect();
    Ok(names.into_iter().filter(own).collect())
}

/// One server's archive.
pub struct Archive<'a> {
    repository: &'a Repository,
    options: ConnectOptions,
    flavour: Flavour,
    dialect: Dialect,
    host: String,
    server: String,
    /// Its server's name without the job.
    base: String,
    replica_id: u32,
    /// This process has looked at what there is to merge.
    merged: AtomicBool,
    /// Where the last round of this process ended.
    last: Mutex<Option<Match>>,
    /// What was said last of what the log has not.
    said: Mutex<Vec<String>>,
}

/// Where a round begins.
enum Begin {
    /// Behind what an archived log has, in the file of this place in the server's list.
    GoOn(usize, Box<Match>),
    /// With this file.
    With(usize, Option<Link>),
}

impl std::fmt::Debug for Archive<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "archive of {} on {}", self.server, self.host)
    }
}

impl<'a> Archive<'a> {
    /// Connects to the configured server.
    ///
    /// # Errors
    /// There is none, it cannot be reached, or it writes no binary log.
    pub fn open(repository: &'a Repository, config: &Config) -> Result<Archive<'a>> {
        use crate::database::Database;
        let server = config.server.as_ref();
        let server = server.ok_or_else(|| Error::usage("no server is configured: there are no binary logs"))?;
        let options = ConnectOptions::new(server)?;
        let live = crate::database::mysql::Server::connect(server)?;
        let facts = live.facts();
        if !facts.log_bin {
            return Err(Error::usage(format!(
                "the server at {} writes no binary log: set log_bin",
                facts.address
            )));
        }
        let random = crate::units::Id::random().0;
        let base = server_name(facts);
        let job = Job::here(config, Some(facts), &Installation::of(&config.state_dir)?);
        let mut archive = Archive {
            repository,
            options,
            flavour: facts.flavour,
            dialect: Dialect {
                flavour: facts.flavour,
                version: facts.version_number,
            },
            host: config.host.clone().unwrap_or_else(crate::sys::host::name),
            server: name_of(facts, Some(&job)),
            base: base.clone(),
            // A replica with the id of another would end that one's connection.
            replica_id: u32::from_le_bytes([random[0], random[1], random[2], random[3]]) | 1 << 31,
            merged: AtomicBool::new(false),
            last: Mutex::new(None),
            said: Mutex::new(Vec::new()),
        };
        // An archive of before 0.2, which knows no jobs, goes on where its logs are this server's.
        let own = std::mem::replace(&mut archive.server, base);
        let old = archive.logs()?;
        if old.is_empty() || archive.newest_match(&archive.server_files()?, &old)?.is_none() {
            archive.server = own;
        }
        Ok(archive)
    }

    /// Archives what is there now.
    ///
    /// # Errors
    /// The server cannot be asked, or the repository not be written. What was archived before it stays.
    pub fn once(&self, cancel: &Cancel) -> Result<Report> {
        let mut report = Report {
            server: self.server.clone(),
            ..Report::default()
        };
        let files = self.server_files()?;
        let Some(begin) = self.start(&files, &mut report)? else {
            return Ok(report);
        };
        let then = Then::read(&mut Session::admin(&self.options)?, self.dialect)?;
        report.warnings.extend(self.not_whole(&then));
        let then = serde_json::to_value(&then).ok();
        let mut round = Round::new(self, &mut report, then);
        let at = match begin {
            Begin::GoOn(at, found) => {
                let trace = resume::trace_of(self.repository, &found.log, found.at)?;
                round.go_on(&found, trace.unwrap_or_default());
                at
            }
            Begin::With(at, link) => {
                round.begin(files[at].name.clone(), link);
                at
            }
        };
        let done = self.take_all(&mut round, &files[at..], cancel);
        let (last, position, rotated) = (round.file.clone(), round.at, round.rotated);
        // Also what came before an error.
        self.repository.store().sync().map_err(crate::repository::Error::from)?;
        done?;
        (report.file, report.position) = (last, position);
        self.measure(&mut report)?;
        // The first round of a process looks at all: one before it may have died.
        if rotated || !self.merged.swap(true, Ordering::Relaxed) {
            self.merge(&mut report)?;
        }
        Ok(report)
    }

    /// Said whenever it changes.
    fn not_whole(&self, then: &Then) -> Option<Finding> {
        let mut said = self.said.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *said == then.unlogged {
            return None;
        }
        said.clone_from(&then.unlogged);
        whole_log::finding(&then.unlogged)
    }

    /// Takes one log after the other. One that the server cannot read to its end is left where it cannot.
    fn take_all(&self, round: &mut Round<'_>, files: &[ServerFile], cancel: &Cancel) -> Result<()> {
        loop {
            let done = round.stream(cancel);
            let error = match done {
                Ok(()) => return round.flush(false),
                Err(Error::Database(error)) if resume::is_unreadable(&error) => error,
                Err(error) => {
                    round.flush(false)?;
                    return Err(error);
                }
            };
            let here = files.iter().position(|file| file.name == round.file);
            let Some(next) = here.and_then(|here| files.get(here + 1)) else {
                round.flush(false)?;
                return Err(error.into());
            };
            self.leave(round, next, &error)?;
        }
    }

    /// Goes on with the next log: behind a last event that a crash tore, or behind a gap.
    fn leave(&self, round: &mut Round<'_>, next: &ServerFile, error: &crate::database::Error) -> Result<()> {
        round.flush(false)?;
        let archived = match round.link(Join::Follows) {
            Some(link) if link.file == round.file => {
                let named = |log: &&Log| log.is_named(link.created, link.head.as_deref(), &link.file);
                self.logs()?.iter().find(named).cloned()
            }
            _ => None,
        };
        let joins = match &archived {
            Some(log) => {
                let before = self.gtids_before(&next.name)?;
                resume::joins(self.repository, self.flavour, log, before.as_deref())?
            }
            None => false,
        };
        if joins {
            round.flush(true)?;
        } else {
            let finding = gap(
                &format!("{}:{}", round.file, round.at),
                &format!("the server cannot read on: {error}"),
            );
            round.warn(finding);
        }
        let link = round.link(if joins { Join::Follows } else { Join::Gap });
        round.rotated = true;
        round.begin(next.name.clone(), link);
        Ok(())
    }

    /// The archived logs of this server.
    fn logs(&self) -> Result<Vec<Log>> {
        logs::of_server(self.repository, &self.host, &self.server)
    }

    /// A log that cannot be merged stays as it is, and is told of.
    fn merge(&self, report: &mut Report) -> Result<()> {
        for log in self.logs()? {
            match merge::merge(self.repository, &log) {
                Ok(count) => report.merged += count as u64,
                Err(error) => report.warnings.push(
                    Finding::warning(
                        "binlog-not-merged",
                        format!("the segments of {} cannot be merged: {error}", log.file),
                    )
                    .remedy("`snapback verify --all --level data` says what is damaged"),
                ),
            }
        }
        Ok(())
    }

    /// As [`open`](Archive::open), but waits for a server that is not up yet, and asks again every `interval`. `None`: a signal came first.
    ///
    /// # Errors
    /// As [`open`](Archive::open), for what does not pass by itself.
    pub fn open_when_up(
        repository: &'a Repository,
        config: &Config,
        interval: Duration,
        monitor: &dyn Monitor,
        cancel: &Cancel,
    ) -> Result<Option<Archive<'a>>> {
        let mut silence = Silence::default();
        loop {
            match Archive::open(repository, config) {
                Err(Error::Database(error)) if error.may_pass() => silence.say(&error, interval, monitor),
                opened => return opened.map(Some),
            }
            if cancel.sleep(interval).is_err() {
                return Ok(None);
            }
        }
    }

    /// A round every `interval`, until a signal; `heard` is told of each. A server that cannot be reached is asked again; why is said whenever it changes,
    /// and every [`REMIND`].
    ///
    /// # Errors
    /// The repository cannot be written, or the server says what will not pass by itself (no access).
    pub fn follow(
        &self,
        interval: Duration,
        monitor: &dyn Monitor,
        cancel: &Cancel,
        heard: &mut dyn FnMut(&Report),
    ) -> Result<()> {
        let mut silence = Silence::default();
        while cancel.asked().is_none() {
            match self.once(cancel) {
                Ok(report) => {
                    if silence.said.take().is_some() {
                        monitor.message("the server answers again");
                    }
                    heard(&report);
                }
                Err(Error::Interrupted(_)) => break,
                Err(Error::Database(error)) if error.may_pass() => silence.say(&error, interval, monitor),
                Err(error) => return Err(error),
            }
            if cancel.sleep(interval).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// The server's files with their lengths, oldest first.
    fn server_files(&self) -> Result<Vec<ServerFile>> {
        let mut session = Session::admin(&self.options)?;
        let name = session.value(self.dialect.archive_name())?.unwrap_or_default();
        if name != self.base {
            return Err(Error::failed(format!(
                "another server answers now: {name}, and not {}; begin again, and its logs are archived as its own",
                self.base
            )));
        }
        let files = position::binary_logs(&mut session)?;
        Ok(files
            .into_iter()
            .map(|(name, size)| ServerFile { name, size })
            .collect())
    }

    /// From where on: behind what is archived of the newest log that the server still has; else from its oldest.
    fn start(&self, files: &[ServerFile], report: &mut Report) -> Result<Option<Begin>> {
        let Some(oldest) = files.first() else { return Ok(None) };
        let archived = self.logs()?;
        let Some((index, found)) = self.known(files, &archived)? else {
            let link = self.before_oldest(oldest, report)?;
            return Ok(Some(Begin::With(0, link)));
        };
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *last = Some(found.clone());
        if found.at >= found.log.end() {
            return Ok(Some(Begin::GoOn(index, Box::new(found))));
        }
        // The server has less of it than the archive: it went back, and goes on with a log that nobody has seen.
        if index + 1 >= files.len() {
            return Ok(None);
        }
        report.warnings.push(
            Finding::warning(
                "binlog-fork",
                format!(
                    "the server went back to {}:{} (a rollback, a restore): what is archived behind that is another line of its history",
                    found.log.file, found.at
                ),
            )
            .remedy("take a backup now; `snapback binlog list` shows both lines"),
        );
        let link = Link {
            created: found.log.created,
            head: found.log.head.clone(),
            file: found.log.file.clone(),
            end: found.at,
            join: Join::Follows,
        };
        Ok(Some(Begin::With(index + 1, Some(link))))
    }

    fn known(&self, files: &[ServerFile], archived: &[Log]) -> Result<Option<(usize, Match)>> {
        let last = self
            .last
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone();
        if let Some(last) = last
            && let Some(index) = files.iter().position(|file| file.name == last.log.file)
            && index + 1 == files.len()
            && let Some(log) = archived.iter().find(|log| log.is(&last.log))
            && log.end() == last.at
            && files[index].size >= last.at
            && self.still(&last)?
        {
            return Ok(Some((
                index,
                Match {
                    log: log.clone(),
                    ..last
                },
            )));
        }
        self.newest_match(files, archived)
    }

    /// What the server's oldest log comes behind, when it has none any more that is archived.
    fn before_oldest(&self, oldest: &ServerFile, report: &mut Report) -> Result<Option<Link>> {
        let history = lines::History::read(self.repository, &self.host, &self.server)?;
        // The end of the line that has most logs: archives of one server have one, but for where it went back.
        let length = |index: &usize| history.up_to(*index).len();
        let Some(newest) = (0..history.logs.len()).max_by_key(length) else {
            return Ok(None);
        };
        let newest = &history.logs[newest].log;
        let joins = newest.closed() && logs::follows(&newest.file, &oldest.name) && {
            let before = self.gtids_before(&oldest.name)?;
            resume::joins(self.repository, self.flavour, newest, before.as_deref())?
        };
        let place = format!("{}:{}", newest.file, newest.end());
        let join = if joins {
            Join::Follows
        } else if resume::counts_anew(newest, oldest) {
            report.warnings.push(
                Finding::warning(
                    "binlog-reset",
                    format!(
                        "the server's logs were begun anew (RESET): {} is none that is archived",
                        oldest.name
                    ),
                )
                .remedy("take a backup now: restores to a later point start from that one"),
            );
            Join::Reset
        } else {
            report
                .warnings
                .push(gap(&place, &format!("the server's oldest file is {}", oldest.name)));
            Join::Gap
        };
        Ok(Some(Link {
            created: newest.created,
            head: newest.head.clone(),
            file: newest.file.clone(),
            end: newest.end(),
            join,
        }))
    }

    fn measure(&self, report: &mut Report) -> Result<()> {
        let rows = Session::admin(&self.options)?.rows(self.dialect.show_position())?;
        let Some(row) = rows.first() else { return Ok(()) };
        (report.server_file, report.server_position) = (row.text("File"), row.number("Position").unwrap_or(0));
        let files = self.server_files()?;
        let behind = files.iter().skip_while(|file| file.name != report.file);
        let bytes: u64 = behind.map(|file| file.size).sum();
        report.behind = bytes.saturating_sub(report.position);
        Ok(())
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "archived up to {}:{}: {} in {} segments ({} stored); {} behind the server",
            self.file,
            self.position,
            Bytes::b(self.bytes),
            self.segments,
            Bytes::b(self.stored),
            Bytes::b(self.behind)
        )
    }
}

/// Says why a follower gets nothing: when it changes, and every [`REMIND`].
#[derive(Default)]
struct Silence {
    said: Option<(String, Instant)>,
}

impl Silence {
    fn say(&mut self, error: &crate::database::Error, interval: Duration, monitor: &dyn Monitor) {
        let reason = error.to_string();
        let said = |(before, at): &(String, Instant)| *before == reason && at.elapsed() < REMIND;
        if !self.said.as_ref().is_some_and(said) {
            monitor.message(&format!("{reason}; asking again every {interval:?}"));
            self.said = Some((reason, Instant::now()));
        }
    }
}

fn gap(place: &str, why: &str) -> Finding {
    Finding::warning("binlog-gap", format!("the archive has a gap behind {place}: {why}"))
        .remedy("take a backup now: restores to a later point start from that one")
}
