//! The archived logs as files, and what is missing among them.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::database::Strategy;
use crate::record::Record;
use crate::repository::{Repository, Segment};
use crate::{Error, Result};

/// One log file of a server, as far as it is archived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// When the server began it (seconds since 1970, by its clock).
    pub created: u32,
    /// Its name.
    pub file: String,
    /// Its segments, by offset; they may overlap when two archived at once.
    pub segments: Vec<Segment>,
}

impl Log {
    /// The offset up to which it is archived without a hole.
    pub fn end(&self) -> u64 {
        let mut end = 0;
        for segment in &self.segments {
            if segment.from <= end {
                end = end.max(segment.to);
            }
        }
        end
    }

    /// Whether it is archived to the end that it has on the server.
    pub fn closed(&self) -> bool {
        let end = self.end();
        self.segments.iter().any(|segment| segment.closed && segment.to == end)
    }

    /// Writes the file into a directory.
    ///
    /// # Errors
    /// A segment is damaged, or the directory cannot be written.
    pub fn write_into(&self, repository: &Repository, directory: &Path) -> Result<PathBuf> {
        let path = directory.join(&self.file);
        let failed = |error| Error::from(crate::sys::Error::path("write", &path, error));
        let mut file = std::fs::File::create(&path).map_err(failed)?;
        let mut at = 0;
        for segment in &self.segments {
            if segment.to <= at || segment.from > at {
                continue;
            }
            let bytes = repository.read_binlog(segment)?;
            let skip = usize::try_from(at - segment.from).unwrap_or(usize::MAX);
            file.write_all(&bytes[skip..]).map_err(failed)?;
            at = segment.to;
        }
        Ok(path)
    }
}

/// The archived logs of one server, oldest first.
///
/// # Errors
/// The store cannot be listed.
pub fn of_server(repository: &Repository, host: &str, server: &str) -> Result<Vec<Log>> {
    let segments = repository.binlogs(host)?;
    Ok(grouped(segments.into_iter().filter(|segment| segment.server == server)))
}

fn grouped(segments: impl Iterator<Item = Segment>) -> Vec<Log> {
    let mut logs: Vec<Log> = Vec::new();
    for segment in segments {
        match logs.last_mut() {
            Some(log) if log.created == segment.created && log.file == segment.file => log.segments.push(segment),
            _ => logs.push(Log {
                created: segment.created,
                file: segment.file.clone(),
                segments: vec![segment],
            }),
        }
    }
    // Several files may be begun in one second.
    logs.sort_by_key(|log| (log.created, number(&log.file)));
    logs
}

/// Which of a server's logs a backup's position is in: the newest of that name that was begun when the position was read (`time`, by the same host's clock). After RESET
/// a name is used again: a log of it that was begun later is another one.
pub fn of_position(all: &[Log], record: &Record, time: jiff::Timestamp) -> Option<usize> {
    let file = &record.position.as_ref()?.file;
    // Under a lock the position stays as it is from then on; else the log may go on in another file until the snapshots are there.
    let locked = record
        .lock
        .as_ref()
        .is_some_and(|lock| !matches!(lock.strategy, Strategy::Lockless | Strategy::None));
    let snapshots = record.phases.iter().filter(|phase| phase.name == "snapshot");
    let until = match locked {
        true => time.as_second(),
        false => time.as_second() + 1 + (snapshots.map(|phase| phase.us).sum::<u64>() / 1_000_000).cast_signed(),
    };
    all.iter()
        .rposition(|log| log.file == *file && i64::from(log.created) <= until)
}

/// The number at the end of a log's name.
fn number(file: &str) -> u64 {
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
    fn the_number_counts_and_not_the_text() {
        assert!(follows("b.999999", "b.1000000"));
        assert!(!follows("b.000001", "c.000002"));
        assert!(!follows("b.000001", "b.000003"));
    }
}
