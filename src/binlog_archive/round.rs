//! One round: what comes over the stream becomes segments.

use super::resume::{self, Match, ServerFile};
use super::{Archive, Report};
use crate::Result;
use crate::database::mysql::binlog::state;
use crate::database::mysql::binlog::trace::{self, Trace};
use crate::database::mysql::stream::{Item, MAGIC, Stream};
use crate::finding::Finding;
use crate::repository::{Join, Link, Segment, SegmentNote};
use crate::sys::signal::Cancel;

/// A segment is stored once it has so many bytes.
const SEGMENT: usize = 8 << 20;
/// What a log begins with is at most so many events: format description, encryption, list of GTIDs.
pub(super) const HEAD_EVENTS: usize = 3;

/// What a log is called in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Head {
    /// Not all of its beginning is there.
    Open(usize),
    /// Its beginning is this; whether another log begins so, nobody has looked.
    Read(String),
    /// It is called so.
    Named(Option<String>),
}

/// The state of one round.
pub(super) struct Round<'r> {
    archive: &'r Archive<'r>,
    report: &'r mut Report,
    pub file: String,
    created: Option<u32>,
    head: Head,
    trace: Trace,
    /// The earliest and the latest time of an event in the buffer.
    times: (u32, u32),
    /// What the current log comes behind, as long as its first segment is not stored.
    link: Option<Link>,
    /// The offset of the buffer's first byte.
    from: u64,
    pub at: u64,
    buffer: Vec<u8>,
    /// A log came to its end.
    pub rotated: bool,
    /// What the server is like.
    then: Option<serde_json::Value>,
}

impl<'r> Round<'r> {
    pub fn new(archive: &'r Archive<'r>, report: &'r mut Report, then: Option<serde_json::Value>) -> Round<'r> {
        Round {
            archive,
            report,
            file: String::new(),
            created: None,
            head: Head::Open(0),
            trace: Trace::new(),
            times: (u32::MAX, 0),
            link: None,
            from: 0,
            at: 0,
            buffer: Vec::new(),
            rotated: false,
            then,
        }
    }

    /// A person must read this.
    pub fn warn(&mut self, finding: Finding) {
        self.report.warnings.push(finding);
    }

    /// Goes on with an archived log where the match ends.
    pub fn go_on(&mut self, found: &Match, trace: Trace) {
        self.begin(found.log.file.clone(), None);
        self.created = Some(found.log.created);
        self.head = Head::Named(found.log.head.clone());
        self.trace = trace;
        self.buffer.clear();
        (self.from, self.at) = (found.at, found.at);
    }

    /// Begins a file. Its segments begin with its magic number, so that together they are the file.
    pub fn begin(&mut self, file: String, link: Option<Link>) {
        self.file = file;
        self.created = None;
        self.head = Head::Open(0);
        self.trace = Trace::new();
        self.link = link;
        self.buffer = MAGIC.to_vec();
        (self.from, self.at) = (0, MAGIC.len() as u64);
    }

    /// The link of a log that comes behind the current one; that of the current one where nothing of it is archived.
    pub fn link(&self, join: Join) -> Option<Link> {
        match (&self.head, self.created) {
            (Head::Named(head), Some(created)) => Some(Link {
                created,
                head: head.clone(),
                file: self.file.clone(),
                end: self.at,
                join,
            }),
            _ => self.link.clone().map(|link| Link { join, ..link }),
        }
    }

    /// Takes everything up to the end that the logs have now.
    pub fn stream(&mut self, cancel: &Cancel) -> Result<()> {
        let archive = self.archive;
        let mut stream = Stream::open(
            &archive.options,
            archive.flavour,
            archive.replica_id,
            &self.file,
            self.at,
        )?;
        while let Some(item) = stream.read()? {
            cancel.check()?;
            match item {
                Item::File(next) => {
                    self.flush(true)?;
                    self.rotated = true;
                    let link = self.link(Join::Follows);
                    self.begin(next, link);
                }
                Item::Created(created) => self.created = self.created.or(Some(created)),
                Item::Event(bytes) => self.take(&bytes)?,
            }
        }
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        for event in state::events(bytes) {
            self.trace.take(event);
            let Some((kind, time, _)) = state::header(event) else {
                continue;
            };
            self.times = (self.times.0.min(time), self.times.1.max(time));
            if let Head::Open(count) = self.head {
                self.head = match count + 1 >= HEAD_EVENTS || trace::is_list(kind) {
                    true => Head::Read(self.trace.short()),
                    false => Head::Open(count + 1),
                };
            }
        }
        self.at += bytes.len() as u64;
        self.buffer.extend(bytes);
        if self.buffer.len() >= SEGMENT {
            self.flush(false)?;
        }
        Ok(())
    }

    /// Stores what is there. `closed`: the server goes on to its next file.
    pub fn flush(&mut self, closed: bool) -> Result<()> {
        // Before the first event there is nothing; but that a file is complete is worth a segment.
        let empty = self.buffer.is_empty() || self.at == MAGIC.len() as u64;
        if empty && !closed {
            return Ok(());
        }
        let Some(created) = self.created else { return Ok(()) };
        let Some(head) = self.name(created, closed)? else {
            return Ok(());
        };
        let segment = Segment {
            host: self.archive.host.clone(),
            server: self.archive.server.clone(),
            created,
            head,
            file: self.file.clone(),
            from: self.from,
            to: self.at,
            closed,
        };
        let note = SegmentNote {
            trace: Some(self.trace.text()),
            link: self.link.clone().filter(|_| self.from == 0),
            latest: Some(self.times.1),
            earliest: Some(self.times.0),
            server: self.then.clone(),
        };
        self.report.stored += self.archive.repository.put_binlog(&segment, &note, &self.buffer)?;
        self.report.bytes += self.buffer.len() as u64;
        self.report.segments += 1;
        self.buffer.clear();
        self.times = (u32::MAX, 0);
        self.from = self.at;
        Ok(())
    }

    /// What the log is called; `None`: its beginning is not there yet.
    fn name(&mut self, created: u32, closed: bool) -> Result<Option<Option<String>>> {
        let head = match &self.head {
            Head::Named(head) => return Ok(Some(head.clone())),
            Head::Read(head) => head.clone(),
            Head::Open(_) if closed => self.trace.short(),
            Head::Open(_) => return Ok(None),
        };
        let archived = self.archive.logs()?;
        let file = ServerFile {
            name: self.file.clone(),
            size: self.at,
        };
        let mut head = head;
        if let Some(twin) = archived
            .iter()
            .find(|log| log.is_named(created, Some(&head), &self.file))
        {
            // Another archive of the same server was here first; or it is another log that begins so.
            let limit = twin.end().min(self.at);
            if self.archive.compare(&file, twin)?.is_none_or(|found| found.at < limit) {
                head = resume::free_head(&archived, created, &head, &self.file);
            }
        }
        self.head = Head::Named(Some(head.clone()));
        Ok(Some(Some(head)))
    }
}
