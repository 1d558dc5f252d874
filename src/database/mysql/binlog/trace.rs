//! What a log is known by: a digest over its events, one after the other. Two logs with the same trace at an offset have the same events up to it, whatever their
//! names and their server's clock say.
//!
//! The trace takes each event's header and its checksum, so rows need not be read. It passes over what the replication protocol changes on the way: the flag
//! "in use" of a format description, and the text of MariaDB's Annotate_rows, of which only the length counts.

use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use super::event::{FORMAT_DESCRIPTION, IN_USE};
use super::group::kind;
use crate::database::Result;
use crate::sys;

const HEADER: usize = 19;
const CHECKSUM: usize = 4;
/// Without checksums so much of an event's end is taken, in bytes.
const TAIL: usize = 64 << 10;
/// Behind the text of a log's trace whose events have no checksums.
const UNCHECKED: &str = "-";

/// The digest of all events up to an offset.
#[derive(Clone, PartialEq, Eq)]
pub struct Trace {
    digest: [u8; 32],
    checksums: bool,
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl Default for Trace {
    fn default() -> Trace {
        Trace::new()
    }
}

impl Trace {
    /// Before the first event of a log.
    pub fn new() -> Trace {
        Trace {
            digest: [0; 32],
            checksums: true,
        }
    }

    /// Of one event by itself, with its content.
    pub fn of_one(event: &[u8]) -> Trace {
        let mut trace = Trace {
            checksums: false,
            ..Trace::new()
        };
        if let Some((header, rest)) = event.split_first_chunk::<HEADER>() {
            trace.add(*header, &rest[rest.len().saturating_sub(TAIL)..]);
        }
        trace
    }

    /// As [`text`](Trace::text) gave it.
    pub fn of_text(text: &str) -> Option<Trace> {
        let mut digest = [0; 32];
        let (text, checksums) = match text.strip_suffix(UNCHECKED) {
            Some(text) => (text, false),
            None => (text, true),
        };
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (index, byte) in digest.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
        }
        Some(Trace { digest, checksums })
    }

    /// Whether the log's events have checksums, as far as it is read.
    pub fn has_checksums(&self) -> bool {
        self.checksums
    }

    /// In hexadecimal digits, 64 of them; with [`UNCHECKED`] behind them for a log without checksums.
    pub fn text(&self) -> String {
        let digits = self.digest.iter().map(|byte| format!("{byte:02x}"));
        let ending = if self.checksums { "" } else { UNCHECKED };
        digits.chain([ending.to_owned()]).collect()
    }

    /// The first 16 of these digits.
    pub fn short(&self) -> String {
        let mut text = self.text();
        text.truncate(16);
        text
    }

    /// Takes the next event, whole.
    pub fn take(&mut self, event: &[u8]) {
        let Some((header, rest)) = event.split_first_chunk::<HEADER>() else {
            return;
        };
        if header[4] == FORMAT_DESCRIPTION {
            // The last byte before its checksum names the algorithm; 0 is none.
            let at = rest.len().checked_sub(CHECKSUM + 1);
            self.checksums = at.and_then(|at| rest.get(at)).is_none_or(|algorithm| *algorithm != 0);
        }
        let tail = &rest[rest.len().saturating_sub(self.tail(header[4]))..];
        self.add(*header, tail);
    }

    /// How much of an event's end counts.
    fn tail(&self, kind: u8) -> usize {
        match kind {
            _ if self.checksums || kind == FORMAT_DESCRIPTION => CHECKSUM,
            _ => TAIL,
        }
    }

    fn add(&mut self, mut header: [u8; HEADER], tail: &[u8]) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.digest);
        match header[4] {
            // A filler stands for it in an archive.
            kind::MARIADB_ANNOTATE => drop(hasher.update(&header[9..13])),
            FORMAT_DESCRIPTION => {
                header[17] &= !IN_USE;
                hasher.update(&header).update(tail);
            }
            _ => drop(hasher.update(&header).update(tail)),
        }
        self.digest = hasher.finalize().into();
    }
}

/// Traces of a log file.
pub struct Tracer {
    file: BufReader<File>,
    trace: Trace,
    at: u64,
    end: u64,
}

impl Tracer {
    /// At the beginning of a file, whose events behind `end` do not count. Whoever asks has looked that it is a log.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn open(path: &Path, end: u64) -> Result<Tracer> {
        let failed = |error| sys::Error::path("read", path, error);
        let file = sys::fs::open_plain(path)?;
        let end = file.metadata().map_err(failed)?.len().min(end);
        let mut file = BufReader::with_capacity(256 << 10, file);
        file.seek_relative(4).map_err(failed)?;
        Ok(Tracer {
            file,
            trace: Trace::new(),
            at: 4,
            end,
        })
    }

    /// Goes to an offset; `None` when no event ends there.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn to(&mut self, offset: u64) -> std::io::Result<Option<&Trace>> {
        while self.at < offset {
            if self.step()?.is_none() {
                return Ok(None);
            }
        }
        Ok((self.at == offset).then_some(&self.trace))
    }

    /// Moves over one event: where it begins and its type. What is encrypted has an end before that.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn step(&mut self) -> std::io::Result<Option<(u64, u8)>> {
        let mut header = [0; HEADER];
        if self.end.saturating_sub(self.at) < HEADER as u64 {
            return Ok(None);
        }
        self.file.read_exact(&mut header)?;
        let size = u32::from_le_bytes([header[9], header[10], header[11], header[12]]) as usize;
        let Some(body) = size.checked_sub(HEADER).filter(|_| self.at + size as u64 <= self.end) else {
            return Ok(None);
        };
        if header[4] == FORMAT_DESCRIPTION {
            let mut event = header.to_vec();
            event.resize(size, 0);
            self.file.read_exact(&mut event[HEADER..])?;
            self.trace.take(&event);
        } else {
            let mut tail = vec![0; body.min(self.trace.tail(header[4]))];
            self.file.seek_relative((body - tail.len()) as i64)?;
            self.file.read_exact(&mut tail)?;
            self.trace.add(header, &tail);
        }
        if header[4] == kind::MARIADB_START_ENCRYPTION {
            self.end = self.at;
            return Ok(None);
        }
        let begin = self.at;
        self.at += size as u64;
        Ok(Some((begin, header[4])))
    }

    /// Where the next event begins, and the trace up to there.
    pub fn here(&self) -> (u64, &Trace) {
        (self.at, &self.trace)
    }
}

/// The trace of a log file at an offset; `None` when no event ends there.
///
/// # Errors
/// It cannot be read.
pub fn at(path: &Path, offset: u64) -> Result<Option<Trace>> {
    let mut tracer = Tracer::open(path, offset)?;
    let found = tracer.to(offset).map(Option::<&Trace>::cloned);
    Ok(found.map_err(|error| sys::Error::path("read", path, error))?)
}

/// What a log begins with: its format description and, right behind it, the list of what came before it. `None`: not even the former is there.
///
/// # Errors
/// It cannot be read.
pub fn head(path: &Path) -> Result<Option<Trace>> {
    let failed = |error| sys::Error::path("read", path, error);
    let mut tracer = Tracer::open(path, u64::MAX)?;
    if tracer.step().map_err(failed)?.is_none() {
        return Ok(None);
    }
    let first = tracer.here().1.clone();
    match tracer.step().map_err(failed)? {
        Some((_, kind)) if is_list(kind) => Ok(Some(tracer.here().1.clone())),
        _ => Ok(Some(first)),
    }
}

/// Whether an event is the list of what came before its log.
pub fn is_list(kind: u8) -> bool {
    matches!(kind, kind::PREVIOUS_GTIDS | kind::MARIADB_GTID_LIST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: u8, body: &[u8], flags: u8) -> Vec<u8> {
        let mut event = vec![1, 2, 3, 4, kind, 7, 0, 0, 0];
        event.extend(((HEADER + body.len()) as u32).to_le_bytes());
        event.extend([9, 9, 9, 9, flags, 0]);
        event.extend(body);
        event
    }

    fn trace(events: &[Vec<u8>]) -> Trace {
        let mut trace = Trace::new();
        events.iter().for_each(|event| trace.take(event));
        trace
    }

    #[test]
    fn what_the_protocol_changes_does_not_count_and_all_else_does() {
        let format = |flags| event(15, &[0, 0, 1, 5, 5, 5, 5], flags);
        let rows = |checksum| event(23, &[4, 4, 4, checksum, 5, 5, 5], 0);
        let one = trace(&[format(0), event(160, b"text1111", 0), rows(1)]);
        assert_eq!(one, trace(&[format(1), event(160, b"other222", 0), rows(1)]));
        assert_ne!(one, trace(&[format(0), event(160, b"text11112", 0), rows(1)]));
        assert_ne!(one, trace(&[format(0), event(160, b"text1111", 0), rows(2)]));
        assert_ne!(one, trace(&[event(160, b"text1111", 0), format(0), rows(1)]));
        assert_eq!(Trace::of_text(&one.text()), Some(one.clone()));
        assert!(Trace::of_text("äß").is_none());
    }

    #[test]
    fn a_file_has_the_trace_of_its_events_with_and_without_checksums() {
        for algorithm in [0, 1] {
            let events = [
                event(15, &[0, 0, algorithm, 5, 5, 5, 5], 1),
                event(163, &[0; 12], 0),
                event(23, &vec![8; 200_000], 0),
                event(16, &[0; 12], 0),
            ];
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), [b"\xfebin".to_vec(), events.concat()].concat()).unwrap();
            let ends: Vec<u64> = events
                .iter()
                .scan(4, |at, event| {
                    *at += event.len() as u64;
                    Some(*at)
                })
                .collect();
            for (index, end) in ends.iter().enumerate() {
                let found = at(file.path(), *end).unwrap().unwrap();
                assert_eq!(found, trace(&events[..=index]), "{algorithm} {index}");
                assert!(at(file.path(), end - 1).unwrap().is_none());
            }
            assert_eq!(head(file.path()).unwrap().unwrap(), trace(&events[..2]));
        }
    }
}
