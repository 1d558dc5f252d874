//! The exact position of a copy taken without a lock, read off the copy's own binary log.
//!
//! Recovery keeps a transaction that is prepared in InnoDB exactly when its commit is in the binary log, so the end of the last
//! *complete* event group is the position of the recovered data. A torn tail is what the instant cut off, and stops there.

mod crc32;
mod event;
mod group;
mod gtid;
pub mod history;
pub mod state;
pub mod temporary;
pub mod trace;

use std::path::{Path, PathBuf};

use crate::database::{Error, Flavour, Position, Result};
use crate::sys;

use group::Scan;

/// The position at the end of the last complete event group of the newest log in an index.
///
/// # Errors
/// A file is missing, encrypted, damaged before its end, or of a kind that is not understood.
pub fn position(flavour: Flavour, index: &Path, dir: &Path) -> Result<Position> {
    let names = names(index)?;
    // The newest log may be so new that not even its header had been written: then the one before it ends the history.
    for name in names.iter().rev().take(2) {
        let path = dir.join(name);
        if let Some(scan) = Scan::of(&path, flavour)? {
            return Ok(Position {
                file: name.clone(),
                position: scan.end,
                gtid: scan.gtids.to_text(),
            });
        }
    }
    Err(wrong(index, "none of its last two logs has a complete header"))
}

/// How many transactions the logs of an index have after a position; `None` when the log that it names is not there any more.
///
/// # Errors
/// As [`position`].
pub fn since(flavour: Flavour, index: &Path, dir: &Path, position: &Position) -> Result<Option<u64>> {
    let names = names(index)?;
    let Some(first) = names.iter().position(|name| *name == position.file) else {
        return Ok(None);
    };
    let mut count = 0;
    for (number, name) in names[first..].iter().enumerate() {
        let from = if number == 0 { position.position } else { 0 };
        // The newest one may not have its header yet.
        count += Scan::counting(&dir.join(name), flavour, from)?.map_or(0, |scan| scan.after);
    }
    Ok(Some(count))
}

/// What a log file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// When the server began it, in seconds since 1970 by its clock.
    pub created: u32,
    /// Where its last complete event ends.
    pub end: u64,
}

/// Looks at a log file; `None` when it has no complete header.
///
/// # Errors
/// It cannot be read, is encrypted, or is damaged before its end.
pub fn extent(path: &Path) -> Result<Option<Extent>> {
    let Some(log) = event::Log::open(path)? else {
        return Ok(None);
    };
    let mut log = log.passing_over_rows();
    while let Some(event) = log.next()? {
        if event.kind == group::kind::MARIADB_START_ENCRYPTION {
            return Err(wrong(path, "it is encrypted"));
        }
    }
    Ok(Some(Extent {
        created: log.created,
        end: log.at(),
    }))
}

/// The end of a log's format description, which every other event comes behind; 0 when not even that is there.
///
/// # Errors
/// It cannot be read, is encrypted, or is no binary log.
pub(crate) fn head_end(path: &Path) -> Result<u64> {
    Ok(event::Log::open(path)?.map_or(0, |log| log.at()))
}

/// The trace of a log file at an offset, as text; `None` when no event ends there, or nobody can read it.
pub fn trace_at(path: &Path, offset: u64) -> Option<String> {
    // Looks at the magic number and the format description.
    event::Log::open(path).ok()??;
    Some(trace::at(path, offset).ok()??.text())
}

/// The checksum of an event.
pub(crate) fn checksum(event: &[u8]) -> u32 {
    let mut crc = crc32::Crc32::new();
    crc.update(event);
    crc.value()
}

/// The end of the last complete group of a log with these bytes, for fuzzing.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn end_of(name: &Path, bytes: &[u8], flavour: Flavour) -> Result<Option<u64>> {
    let file = tempfile::NamedTempFile::new().map_err(|error| sys::Error::path("make", name, error))?;
    std::fs::write(file.path(), bytes).map_err(|error| sys::Error::path("write", file.path(), error))?;
    let scan = Scan::of(file.path(), flavour)?;
    Ok(scan.map(|scan| {
        let _ = scan.gtids.to_text();
        scan.end
    }))
}

/// The text of an index.
///
/// # Errors
/// It is no plain file, larger than any index, or cannot be read.
pub(crate) fn read_index(index: &Path) -> Result<String> {
    /// Bytes: some hundred thousand logs.
    const LARGEST: u64 = 16 << 20;
    let bytes = sys::fs::read_plain(index, LARGEST)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// File names in an index, without their directories: those are the live server's.
fn names(index: &Path) -> Result<Vec<String>> {
    let text = read_index(index)?;
    let name = |line: &str| Some(Path::new(line.trim()).file_name()?.to_string_lossy().into_owned());
    let names: Vec<String> = text.lines().filter_map(name).collect();
    if names.is_empty() {
        return Err(wrong(index, "it names no binary log"));
    }
    Ok(names)
}

fn wrong(path: &Path, reason: impl Into<String>) -> Error {
    Error::BinaryLog {
        path: PathBuf::from(path),
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::crc32::Crc32;
    use super::*;

    /// A log as a server writes it, event by event.
    struct Writer {
        bytes: Vec<u8>,
        /// Where each event ended.
        ends: Vec<u64>,
        checksums: bool,
    }

    impl Writer {
        fn new(checksums: bool) -> Writer {
            let mut writer = Writer {
                bytes: b"\xfebin".to_vec(),
                ends: Vec::new(),
                checksums: true,
            };
            let mut body = vec![0; 57 + 40];
            body.push(u8::from(checksums));
            writer.event(15, &body);
            writer.checksums = checksums;
            writer
        }

        fn event(&mut self, kind: u8, body: &[u8]) -> &mut Writer {
            let trailer = if self.checksums { 4 } else { 0 };
            let size = 19 + body.len() + trailer;
            let end = self.bytes.len() + size;
            let mut event = vec![0, 0, 0, 0, kind, 7, 0, 0, 0];
            event.extend((size as u32).to_le_bytes());
            event.extend((end as u32).to_le_bytes());
            event.extend([0, 0]);
            event.extend(body);
            if self.checksums {
                let mut crc = Crc32::new();
                crc.update(&event);
                event.extend(crc.value().to_le_bytes());
            }
            self.bytes.extend(event);
            self.ends.push(end as u64);
            self
        }

        fn query(&mut self, text: &str) -> &mut Writer {
            let mut body = vec![0; 13];
            body[8] = 1;
            body[11] = 2;
            body.extend([9, 9, b'd', 0]);
            body.extend(text.as_bytes());
            self.event(2, &body)
        }

        fn mariadb_gtid(&mut self, number: u64, flags: u8) -> &mut Writer {
            let mut body = number.to_le_bytes().to_vec();
            body.extend([3, 0, 0, 0, flags, 0, 0, 0, 0, 0, 0]);
            self.event(162, &body)
        }

        fn mysql_gtid(&mut self, number: u64) -> &mut Writer {
            let mut body = vec![0];
            body.extend([0xAB; 16]);
            body.extend(number.to_le_bytes());
            body.extend([0; 20]);
            self.event(33, &body)
        }

        fn position(&self, flavour: Flavour) -> Result<Position> {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("bin.000009"), &self.bytes).unwrap();
            std::fs::write(dir.path().join("index"), "/live/bin.000008\n/live/bin.000009\n").unwrap();
            position(flavour, &dir.path().join("index"), dir.path())
        }
    }

    #[test]
    fn groups_end_where_the_servers_end_them() {
        let mut log = Writer::new(true);
        log.mysql_gtid(1)
            .query("BEGIN")
            .event(19, &[1; 30])
            .event(30, &[2; 900])
            .event(16, &[0; 8]);
        log.mysql_gtid(2).query("CREATE TABLE t (a INT)");
        log.mysql_gtid(3).event(40, &[3; 5000]);
        let whole = log.ends.len();
        log.mysql_gtid(4).query("BEGIN").event(30, &[4; 100]);
        let found = log.position(Flavour::MySql).unwrap();
        assert_eq!(found.position, log.ends[whole - 1]);
        assert_eq!(found.gtid.as_deref(), Some("abababab-abab-abab-abab-abababababab:1-3"));
        assert_eq!(found.file, "bin.000009");

        let mut log = Writer::new(true);
        // A transaction, then a statement that stands alone with what it needs, then half of a transaction.
        log.mariadb_gtid(1, 0).event(23, &[1; 10]).query("COMMIT");
        log.mariadb_gtid(2, 1)
            .event(5, &[0; 9])
            .query("INSERT INTO t VALUES (RAND())");
        let whole = log.ends.len();
        log.mariadb_gtid(3, 0).query("UPDATE t SET a = 1");
        let found = log.position(Flavour::MariaDb).unwrap();
        assert_eq!(
            (found.position, found.gtid.as_deref()),
            (log.ends[whole - 1], Some("3-7-2"))
        );
    }

    #[test]
    fn transactions_after_a_position_are_counted_over_all_logs() {
        let mut log = Writer::new(true);
        log.mysql_gtid(1).query("DROP TABLE a");
        let first = *log.ends.last().unwrap();
        log.mysql_gtid(2)
            .query("DROP TABLE b")
            .mysql_gtid(3)
            .query("BEGIN")
            .event(16, &[0; 8]);
        log.mysql_gtid(4).query("BEGIN");
        let dir = tempfile::tempdir().unwrap();
        let index = dir.path().join("index");
        std::fs::write(dir.path().join("bin.1"), &log.bytes).unwrap();
        std::fs::write(dir.path().join("bin.2"), &log.bytes).unwrap();
        std::fs::write(&index, "./bin.1\n./bin.2\n").unwrap();
        let at = |file: &str, position| Position {
            file: file.to_owned(),
            position,
            gtid: None,
        };
        let count = |from: Position| since(Flavour::MySql, &index, dir.path(), &from).unwrap();
        assert_eq!(count(at("bin.1", first)), Some(2 + 3));
        assert_eq!(count(at("bin.2", first)), Some(2));
        assert_eq!(count(at("bin.2", *log.ends.last().unwrap())), Some(0));
        assert_eq!(count(at("bin.0", first)), None);
    }

    #[test]
    fn a_savepoint_or_a_long_text_ends_no_group() {
        let mut log = Writer::new(false);
        log.mysql_gtid(1)
            .query("BEGIN")
            .query("SAVEPOINT a")
            .query("ROLLBACK TO a")
            .query(&"é".repeat(40));
        assert_eq!(log.position(Flavour::MySql).unwrap().position, log.ends[0]);
        log.query("commit");
        assert_eq!(
            log.position(Flavour::MySql).unwrap().position,
            *log.ends.last().unwrap()
        );
    }

    #[test]
    fn damage_before_the_end_is_refused_and_at_the_end_is_a_torn_tail() {
        let mut log = Writer::new(true);
        log.mysql_gtid(1)
            .query("DROP TABLE t")
            .mysql_gtid(2)
            .query("DROP TABLE u");
        let (first, last) = (log.ends[2], *log.ends.last().unwrap());
        let flip = |log: &mut Writer, at: u64| log.bytes[at as usize] ^= 1;
        flip(&mut log, last - 6);
        assert_eq!(log.position(Flavour::MySql).unwrap().position, first);
        flip(&mut log, last - 6);
        flip(&mut log, first - 6);
        let error = log.position(Flavour::MySql).unwrap_err();
        assert!(error.to_string().contains("damaged"), "{error}");
    }

    #[test]
    fn a_log_without_its_header_yields_to_the_one_before() {
        let mut log = Writer::new(true);
        log.mysql_gtid(1).query("DROP TABLE t");
        let dir = tempfile::tempdir().unwrap();
        let index = dir.path().join("index");
        std::fs::write(dir.path().join("bin.000001"), &log.bytes).unwrap();
        std::fs::write(dir.path().join("bin.000002"), b"\xfebin\0\0\0").unwrap();
        std::fs::write(&index, "./bin.000001\n./bin.000002\n").unwrap();
        let found = position(Flavour::MySql, &index, dir.path()).unwrap();
        assert_eq!(
            (found.file.as_str(), found.position),
            ("bin.000001", *log.ends.last().unwrap())
        );
        std::fs::write(dir.path().join("bin.000001"), b"").unwrap();
        assert!(
            position(Flavour::MySql, &index, dir.path())
                .unwrap_err()
                .to_string()
                .contains("complete header")
        );
    }

    #[test]
    fn encrypted_and_strange_events_are_refused() {
        let mut log = Writer::new(true);
        log.event(164, &[1; 20]);
        assert!(
            log.position(Flavour::MariaDb)
                .unwrap_err()
                .to_string()
                .contains("encrypted")
        );
        let mut log = Writer::new(true);
        log.event(33, &[0; 3]).query("DROP TABLE t");
        assert!(
            log.position(Flavour::MySql)
                .unwrap_err()
                .to_string()
                .contains("too short")
        );
        let mut log = Writer::new(true);
        log.event(2, &[0; 3]);
        assert!(log.position(Flavour::MySql).is_err());
    }
}
