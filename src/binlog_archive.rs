//! Archiving binary logs: everything that the server has and the repository has not, over the replication protocol, byte for byte.
//!
//! One round asks for a dump without waiting, from exactly where the archive ends, and ends where the logs end now. Following is a round every few seconds:
//! the server keeps no connection of ours in between, and a round after a restart, of ours or the server's, is a round like any other.

pub mod forget;
pub mod logs;
mod merge;
pub mod stored;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::config::Config;
use crate::database::mysql::connect::ConnectOptions;
use crate::database::mysql::flavour::Dialect;
use crate::database::mysql::session::Session;
use crate::database::mysql::stream::{Item, MAGIC, Stream};
use crate::database::{Flavour, ServerFacts};
use crate::finding::Finding;
use crate::monitor::Monitor;
use crate::repository::{Repository, Segment};
use crate::sys::signal::Cancel;
use crate::units::Bytes;
use crate::{Error, Result};

/// A segment is stored once it has so many bytes.
const SEGMENT: usize = 8 << 20;

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

/// One server's archive.
pub struct Archive<'a> {
    repository: &'a Repository,
    options: ConnectOptions,
    flavour: Flavour,
    dialect: Dialect,
    host: String,
    server: String,
    replica_id: u32,
    /// This process has looked at what there is to merge.
    merged: AtomicBool,
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
        Ok(Archive {
            repository,
            options,
            flavour: facts.flavour,
            dialect: Dialect {
                flavour: facts.flavour,
                version: facts.version_number,
            },
            host: config.host.clone().unwrap_or_else(crate::sys::host::name),
            server: server_name(facts),
            // A replica with the id of another would end that one's connection.
            replica_id: u32::from_le_bytes([random[0], random[1], random[2], random[3]]) | 1 << 31,
            merged: AtomicBool::new(false),
        })
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
        let Some((mut file, mut at, created)) = self.start(&files, &mut report)? else {
            return Ok(report);
        };
        let mut round = Round::new(self, &mut report, created);
        while let Ended::OtherLog = round.stream(&file, at, cancel)? {
            // The name is used again: everything that the server has is new.
            (file, at) = (files[0].0.clone(), MAGIC.len() as u64);
            round.created = None;
        }
        round.flush(false)?;
        let (last, position) = (round.file.clone(), round.at);
        let rotated = round.rotated;
        self.repository.store().sync().map_err(crate::repository::Error::from)?;
        (report.file, report.position) = (last, position);
        self.measure(&mut report)?;
        // The first round of a process looks at all: one before it may have died.
        if rotated || !self.merged.swap(true, Ordering::Relaxed) {
            self.merge(&mut report)?;
        }
        Ok(report)
    }

    /// A log that cannot be merged stays as it is, and is told of.
    fn merge(&self, report: &mut Report) -> Result<()> {
        for log in logs::of_server(self.repository, &self.host, &self.server)? {
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
        let mut silent: Option<(String, Instant)> = None;
        while cancel.asked().is_none() {
            match self.once(cancel) {
                Ok(report) => {
                    if silent.take().is_some() {
                        monitor.message("the server answers again");
                    }
                    heard(&report);
                }
                Err(Error::Interrupted(_)) => break,
                Err(Error::Database(error)) if error.may_pass() => {
                    let reason = error.to_string();
                    let said = |(before, at): &(String, Instant)| *before == reason && at.elapsed() < REMIND;
                    if !silent.as_ref().is_some_and(said) {
                        monitor.message(&format!("{reason}; asking again every {interval:?}"));
                        silent = Some((reason, Instant::now()));
                    }
                }
                Err(error) => return Err(error),
            }
            if cancel.sleep(interval).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// The server's files with their lengths, oldest first.
    fn server_files(&self) -> Result<Vec<(String, u64)>> {
        let mut session = Session::admin(&self.options)?;
        let name = session.value(self.dialect.archive_name())?.unwrap_or_default();
        if name != self.server {
            return Err(Error::failed(format!(
                "another server answers now: {name}, and not {}; begin again, and its logs are archived as its own",
                self.server
            )));
        }
        let rows = session.rows("SHOW BINARY LOGS")?;
        let file = |row: &crate::database::mysql::session::Row| Some((row.text("Log_name"), row.number("File_size")?));
        Ok(rows.iter().filter_map(file).collect())
    }

    /// From where on: the end of the archive, or, when that is gone from the server, the oldest that it has.
    fn start(&self, files: &[(String, u64)], report: &mut Report) -> Result<Option<(String, u64, Option<u32>)>> {
        let Some(oldest) = files.first() else { return Ok(None) };
        let from_oldest = Some((oldest.0.clone(), MAGIC.len() as u64, None));
        let logs = logs::of_server(self.repository, &self.host, &self.server)?;
        let Some(last) = logs.last() else {
            return Ok(from_oldest);
        };
        let gap = |why: String| {
            Finding::warning(
                "binlog-gap",
                format!("the archive has a gap behind {}:{}: {why}", last.file, last.end()),
            )
            .remedy("take a backup now: restores to a later point start from that one")
        };
        let begin = last.end().max(MAGIC.len() as u64);
        match files.iter().position(|(name, _)| *name == last.file) {
            // Longer or not, a file that was begun anew is seen at its begin (see `Round::stream`); the server sends none from behind its end.
            Some(index) if files[index].1 < begin && self.created(&last.file)? != Some(last.created) => {
                Ok(Some((last.file.clone(), MAGIC.len() as u64, Some(last.created))))
            }
            Some(index) if files[index].1 < begin => {
                report
                    .warnings
                    .push(gap(format!("the server's file has only {} bytes now", files[index].1)));
                Ok(files
                    .get(index + 1)
                    .map(|next| (next.0.clone(), MAGIC.len() as u64, None)))
            }
            Some(_) => Ok(Some((last.file.clone(), begin, Some(last.created)))),
            // It was complete, and the next one is there.
            None if last.closed() && logs::follows(&last.file, &oldest.0) => Ok(from_oldest),
            None => {
                report
                    .warnings
                    .push(gap(format!("the server's oldest file is {}", oldest.0)));
                Ok(from_oldest)
            }
        }
    }

    /// When the server began the file that it has of this name.
    fn created(&self, file: &str) -> Result<Option<u32>> {
        let mut stream = Stream::open(&self.options, self.flavour, self.replica_id, file, MAGIC.len() as u64)?;
        while let Some(item) = stream.read()? {
            if let Item::Created(created) = item {
                return Ok(Some(created));
            }
        }
        Ok(None)
    }

    fn measure(&self, report: &mut Report) -> Result<()> {
        let rows = Session::admin(&self.options)?.rows(self.dialect.show_position())?;
        let Some(row) = rows.first() else { return Ok(()) };
        (report.server_file, report.server_position) = (row.text("File"), row.number("Position").unwrap_or(0));
        let files = self.server_files()?;
        let behind = files.iter().skip_while(|(name, _)| *name != report.file);
        let bytes: u64 = behind.map(|(_, size)| *size).sum();
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

enum Ended {
    Whole,
    /// The file of this name is not the one that is archived.
    OtherLog,
}

/// The state of one round.
struct Round<'r> {
    archive: &'r Archive<'r>,
    report: &'r mut Report,
    file: String,
    created: Option<u32>,
    /// The offset of the buffer's first byte.
    from: u64,
    at: u64,
    buffer: Vec<u8>,
    /// A log came to its end.
    rotated: bool,
}

impl<'r> Round<'r> {
    fn new(archive: &'r Archive<'r>, report: &'r mut Report, created: Option<u32>) -> Round<'r> {
        Round {
            archive,
            report,
            file: String::new(),
            created,
            from: 0,
            at: 0,
            buffer: Vec::new(),
            rotated: false,
        }
    }

    fn stream(&mut self, file: &str, at: u64, cancel: &Cancel) -> Result<Ended> {
        let archive = self.archive;
        let mut stream = Stream::open(&archive.options, archive.flavour, archive.replica_id, file, at)?;
        let known = self.created;
        self.begin(file.to_owned(), at);
        while let Some(item) = stream.read()? {
            cancel.check()?;
            match item {
                Item::File(next) => {
                    self.flush(true)?;
                    self.rotated = true;
                    self.begin(next, MAGIC.len() as u64);
                    self.created = None;
                }
                Item::Created(created) if self.file == file && known.is_some_and(|known| known != created) => {
                    self.report.warnings.push(
                        Finding::warning(
                            "binlog-reset",
                            format!(
                                "the server's logs were begun anew (RESET): {file} is not the file that is archived"
                            ),
                        )
                        .remedy("take a backup now: restores to a later point start from that one"),
                    );
                    return Ok(Ended::OtherLog);
                }
                Item::Created(created) => self.created = Some(created),
                Item::Event(bytes) => {
                    self.at += bytes.len() as u64;
                    self.buffer.extend(bytes);
                    if self.buffer.len() >= SEGMENT {
                        self.flush(false)?;
                    }
                }
            }
        }
        Ok(Ended::Whole)
    }

    /// A file's segments begin with its magic number, so that together they are the file.
    fn begin(&mut self, file: String, at: u64) {
        self.file = file;
        self.at = at;
        self.buffer.clear();
        self.from = at;
        if at == MAGIC.len() as u64 {
            self.buffer.extend(MAGIC);
            self.from = 0;
        }
    }

    fn flush(&mut self, closed: bool) -> Result<()> {
        // Before the first event there is nothing; but that a file is complete is worth a segment.
        let empty = self.buffer.is_empty() || self.at == MAGIC.len() as u64;
        if empty && !closed {
            return Ok(());
        }
        let Some(created) = self.created else { return Ok(()) };
        let segment = Segment {
            host: self.archive.host.clone(),
            server: self.archive.server.clone(),
            created,
            file: self.file.clone(),
            from: self.from,
            to: self.at,
            closed,
        };
        self.report.stored += self.archive.repository.put_binlog(&segment, &self.buffer)?;
        self.report.bytes += self.buffer.len() as u64;
        self.report.segments += 1;
        self.buffer.clear();
        self.from = self.at;
        Ok(())
    }
}
