//! The archived logs as files, and what is missing among them.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::database::Strategy;
use crate::record::Record;
use crate::repository::{Repository, Segment};
use crate::timeline::Phase;
use crate::{Error, Result};

/// One log file of a server, as far as it is archived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// When the server began it (seconds since 1970, by its clock).
    pub created: u32,
    /// What it begins with, as a digest; `None` in archives of before 0.2.
    pub head: Option<String>,
    /// Its name.
    pub file: String,
    /// Its segments, by offset; they may overlap when two archived at once.
    pub segments: Vec<Segment>,
}

impl Log {
    /// The offset up to which it is archived without a hole.
    pub fn end(&self) -> u64 {
        self.cover().last().map_or(0, |segment| segment.to)
    }

    /// The fewest segments that together are all of it up to its first hole, in order; each begins in the one before it or at its end.
    pub fn cover(&self) -> Vec<&Segment> {
        let (mut cover, mut at) = (Vec::new(), 0);
        let mut coming = self.segments.iter().peekable();
        loop {
            let mut furthest: Option<&Segment> = None;
            while let Some(segment) = coming.next_if(|segment| segment.from <= at) {
                if furthest.is_none_or(|other| (segment.to, segment.closed) > (other.to, other.closed)) {
                    furthest = Some(segment);
                }
            }
            // One that is empty says that the file ends there.
            let Some(next) = furthest.filter(|next| next.to > at || next.to == at && next.closed) else {
                break;
            };
            cover.push(next);
            at = next.to;
            if next.closed {
                break;
            }
        }
        cover
    }

    /// Whether both are of one log of one server.
    pub fn is(&self, other: &Log) -> bool {
        let server = |log: &Log| log.segments.first().map(|segment| segment.server.clone());
        self.is_named(other.created, other.head.as_deref(), &other.file) && server(self) == server(other)
    }

    /// Whether segments and links name it so.
    pub fn is_named(&self, created: u32, head: Option<&str>, file: &str) -> bool {
        self.created == created && self.head.as_deref() == head && self.file == file
    }

    /// How messages name it, where its file's name alone may be another's.
    pub fn id(&self) -> String {
        match &self.head {
            Some(head) => format!("{} ({})", self.file, &head[..head.len().min(8)]),
            None => format!("{} (begun at {})", self.file, self.created),
        }
    }

    /// Its bytes up to an offset, or a little more.
    ///
    /// # Errors
    /// A segment is damaged.
    pub fn beginning(&self, repository: &Repository, upto: u64) -> Result<Vec<u8>> {
        let mut bytes: Vec<u8> = Vec::new();
        for segment in self.cover() {
            if bytes.len() as u64 >= upto {
                break;
            }
            let skip = bytes.len() - usize::try_from(segment.from).unwrap_or(usize::MAX).min(bytes.len());
            bytes.extend(repository.read_binlog(segment)?.get(skip..).unwrap_or_default());
        }
        Ok(bytes)
    }

    /// Whether it is archived to the end that it has on the server.
    pub fn closed(&self) -> bool {
        self.cover().last().is_some_and(|segment| segment.closed)
    }

    /// Writes the file into a directory.
    ///
    /// # Errors
    /// A segment is damaged, or the directory cannot be written.
    pub fn write_into(&self, repository: &Repository, directory: &Path) -> Result<PathBuf> {
        let path = directory.join(&self.file);
        let written = self.write(repository, &path);
        if !matches!(&written, Err(Error::Repository(error)) if error.is_absent()) {
            return written.map(|()| path);
        }
        // Its segments were merged meanwhile.
        let one = |segment: &Segment| repository.binlogs(&segment.host);
        let now = grouped(self.segments.first().map(one).transpose()?.into_iter().flatten());
        match now.iter().find(|log| log.is(self)) {
            Some(log) => log.write(repository, &path).map(|()| path),
            None => written.map(|()| path),
        }
    }

    fn write(&self, repository: &Repository, path: &Path) -> Result<()> {
        let failed = |error| Error::from(crate::sys::Error::path("write", path, error));
        let mut file = std::fs::File::create(path).map_err(failed)?;
        let mut at = 0;
        for segment in self.cover() {
            let bytes = repository.read_binlog(segment)?;
            let skip = usize::try_from(at - segment.from).unwrap_or(usize::MAX);
            file.write_all(&bytes[skip..]).map_err(failed)?;
            at = segment.to;
        }
        Ok(())
    }
}

/// The archived logs of one server, by when their server says that they were begun. [`History`](super::lines::History) has the order in which they follow each other.
///
/// # Errors
/// The store cannot be listed.
pub fn of_server(repository: &Repository, host: &str, server: &str) -> Result<Vec<Log>> {
    let segments = repository.binlogs(host)?;
    Ok(grouped(segments.into_iter().filter(|segment| segment.server == server)))
}

/// The latest time of an event in a log, in seconds since 1970 by its server's clock; `None` where an archive of before 0.2 does not say it.
///
/// # Errors
/// A segment's header cannot be read.
pub fn latest(repository: &Repository, log: &Log) -> Result<Option<u32>> {
    let mut latest = Some(0);
    for segment in log.cover() {
        let note = repository.binlog_note(segment)?;
        latest = latest.zip(note.latest).map(|(one, other)| one.max(other));
    }
    Ok(latest)
}

fn grouped(segments: impl Iterator<Item = Segment>) -> Vec<Log> {
    let mut logs: Vec<Log> = Vec::new();
    for segment in segments {
        match logs.last_mut() {
            Some(log) if log.is_named(segment.created, segment.head.as_deref(), &segment.file) => {
                log.segments.push(segment);
            }
            _ => logs.push(Log {
                created: segment.created,
                head: segment.head.clone(),
                file: segment.file.clone(),
                segments: vec![segment],
            }),
        }
    }
    // Several files may be begun in one second.
    logs.sort_by_key(|log| (log.created, number(&log.file)));
    logs
}

/// Nothing in a backup was committed later than this, by its host's clock; `time` is its manifest's.
pub fn settled_by(record: &Record, time: jiff::Timestamp) -> jiff::Timestamp {
    settled(record.lock.as_ref().map(|lock| lock.strategy), &record.phases, time)
}

fn settled(lock: Option<Strategy>, phases: &[Phase], time: jiff::Timestamp) -> jiff::Timestamp {
    // Under a lock the position stays as it is from then on; else commits go on until the snapshots are there.
    if lock.is_some_and(|strategy| !matches!(strategy, Strategy::Lockless | Strategy::None)) {
        return time;
    }
    let snapshots = phases.iter().filter(|phase| phase.name == "snapshot");
    let passed = std::time::Duration::from_micros(snapshots.map(|phase| phase.us).sum());
    time.checked_add(passed).unwrap_or(jiff::Timestamp::MAX)
}

/// The number at the end of a log's name.
pub fn number(file: &str) -> u64 {
    file.rsplit('.')
        .next()
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(0)
}

/// Whether a server names its log so after that one.
pub fn follows(file: &str, next: &str) -> bool {
    let base = |name: &str| name.rsplit_once('.').map(|(base, _)| base.to_owned());
    base(file) == base(next) && number(next) == number(file) + 1
}

/// Why the second log does not go on where the first ends; `None` when it does.
pub fn gap(log: &Log, next: &Log) -> Option<String> {
    if !follows(&log.file, &next.file) {
        return Some(format!("{} is followed by {}", log.file, next.file));
    }
    (!log.closed()).then(|| format!("{} is archived to {} only", log.file, log.end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(file: &str, from: u64, to: u64, closed: bool) -> Segment {
        Segment {
            host: "h".to_owned(),
            server: "s".to_owned(),
            created: 7,
            head: None,
            file: file.to_owned(),
            from,
            to,
            closed,
        }
    }

    #[test]
    fn holes_and_missing_files_are_seen() {
        let logs = grouped(
            [
                segment("b.000009", 0, 100, false),
                segment("b.000009", 80, 200, true),
                segment("b.000010", 0, 50, false),
                segment("b.000010", 60, 90, true),
                segment("b.000012", 0, 50, false),
            ]
            .into_iter(),
        );
        let ends: Vec<u64> = logs.iter().map(Log::end).collect();
        assert_eq!(ends, [200, 50, 50]);
        assert_eq!(gap(&logs[0], &logs[1]), None);
        assert!(gap(&logs[1], &logs[2]).unwrap().contains("followed by"));
        assert!(!logs[1].closed());
    }

    #[test]
    fn without_a_lock_commits_go_on_until_the_snapshot_is_there() {
        let time: jiff::Timestamp = "2026-11-26T14:03:00Z".parse().unwrap();
        let phase = |name: &str, us| Phase {
            name: name.to_owned(),
            start_us: 0,
            us,
        };
        let phases = [phase("settle", 9_000_000), phase("snapshot", 1_500_000)];
        let later: jiff::Timestamp = "2026-11-26T14:03:01.5Z".parse().unwrap();
        assert_eq!(settled(Some(Strategy::BackupStage), &phases, time), time);
        assert_eq!(settled(Some(Strategy::Lockless), &phases, time), later);
        assert_eq!(settled(None, &phases, time), later);
    }

    #[test]
    fn the_number_counts_and_not_the_text() {
        assert!(follows("b.999999", "b.1000000"));
        assert!(!follows("b.000001", "c.000002"));
        assert!(!follows("b.000001", "b.000003"));
    }
}
