//! Events of a binary log file: headers, checksums, and where a torn tail begins.
//!
//! Layout: 4 bytes of magic, then events of a 19-byte header (timestamp, type, server id, length, end position, flags),
//! a body, and a CRC-32 where the format description says so.
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_replication_binlog_event.html>

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::crc32::Crc32;
use super::wrong;
use crate::database::Result;
use crate::sys;

const MAGIC: [u8; 4] = *b"\xfebin";
const MAGIC_ENCRYPTED: [u8; 4] = *b"\xfdbin";
const HEADER: u64 = 19;
/// Event type of the format description.
pub const FORMAT_DESCRIPTION: u8 = 15;
/// The flag that a crashed server leaves in the format description, outside of its checksum.
pub(super) const IN_USE: u8 = 1;
/// As much of an event's body as is kept; only sets of GTIDs are larger and read in full.
const KEPT: u64 = 64 << 10;
/// No set of GTIDs that we would hold in memory is larger.
const KEPT_SET: u64 = 256 << 20;

/// One complete event.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its type.
    pub kind: u8,
    /// When its statement began, in seconds since 1970 by its server's clock.
    pub time: u32,
    /// Who wrote it first.
    pub server_id: u32,
    /// Where it begins.
    pub at: u64,
    /// Where the next one begins.
    pub end: u64,
    /// The first of its body, without the checksum.
    pub body: Vec<u8>,
}

/// A binary log file that is read from its beginning.
pub struct Log {
    path: PathBuf,
    file: BufReader<File>,
    length: u64,
    at: u64,
    checksums: bool,
    passes_over_rows: bool,
    /// When the server began it, in seconds since 1970 by its clock.
    pub created: u32,
}

/// An event, or why there is none.
enum Found {
    Event(Event),
    /// The file ends here, or what follows was never written completely. Holds the end that the header claims.
    Torn(Option<u64>),
}

impl Log {
    /// Opens a log; `None` when not even its header is complete.
    ///
    /// # Errors
    /// It cannot be read, is encrypted, or is no binary log.
    pub fn open(path: &Path) -> Result<Option<Log>> {
        let failed = |error| sys::Error::path("read", path, error);
        // Snapshots and crafted backups have whatever their owners put there: a pipe of that name, for one.
        let file = sys::fs::open_plain(path)?;
        let length = file.metadata().map_err(failed)?.len();
        let mut file = BufReader::with_capacity(256 << 10, file);
        let mut magic = [0; 4];
        if length < 4 {
            return Ok(None);
        }
        file.read_exact(&mut magic).map_err(failed)?;
        match magic {
            MAGIC => {}
            MAGIC_ENCRYPTED => return Err(wrong(path, "it is encrypted; use a locking strategy")),
            [0, 0, 0, 0] => return Ok(None),
            _ => return Err(wrong(path, "it is no binary log")),
        }
        let mut log = Log {
            path: path.to_owned(),
            file,
            length,
            at: 4,
            checksums: false,
            passes_over_rows: false,
            created: 0,
        };
        match log.read()? {
            Found::Torn(_) => Ok(None),
            Found::Event(event) if event.kind == FORMAT_DESCRIPTION => {
                log.created = event.time;
                Ok(Some(log))
            }
            Found::Event(_) => Err(wrong(path, "it does not begin with a format description")),
        }
    }

    /// Reads no row's content and proves no checksum of it: for counting, where most of a log is rows.
    pub fn passing_over_rows(mut self) -> Log {
        self.passes_over_rows = true;
        self
    }

    /// The end of what was read.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// The next event; `None` at the end or where a torn tail begins.
    ///
    /// # Errors
    /// The file cannot be read, or an event is damaged and a good one follows it.
    pub fn next(&mut self) -> Result<Option<Event>> {
        let bad = self.at;
        match self.read()? {
            Found::Event(event) => Ok(Some(event)),
            Found::Torn(None) => Ok(None),
            Found::Torn(Some(end)) => {
                // What was torn off is at the end. A good event behind a bad one is damage, and no position can be trusted.
                self.seek(end)?;
                if let Found::Event(_) = self.read()? {
                    return Err(wrong(&self.path, format!("the event at {bad} is damaged")));
                }
                self.at = bad;
                self.length = bad;
                Ok(None)
            }
        }
    }

    fn seek(&mut self, to: u64) -> Result<()> {
        let moved = self.file.seek(SeekFrom::Start(to));
        moved.map_err(|error| sys::Error::path("read", &self.path, error))?;
        self.at = to;
        Ok(())
    }

    fn bytes(&mut self, buffer: &mut [u8]) -> Result<()> {
        let read = self.file.read_exact(buffer);
        Ok(read.map_err(|error| sys::Error::path("read", &self.path, error))?)
    }

    /// Reads one event and moves behind it if it is complete.
    fn read(&mut self) -> Result<Found> {
        let left = self.length - self.at;
        if left < HEADER {
            return Ok(Found::Torn(None));
        }
        let mut header = [0; HEADER as usize];
        self.bytes(&mut header)?;
        let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (time, kind, server_id, size, next) = (number(0), header[4], number(5), u64::from(number(9)), number(13));
        if size < HEADER || size > left {
            return Ok(Found::Torn(None));
        }
        let end = self.at + size;
        let body = self.body(&mut header, kind, size - HEADER)?;
        let (at, whole) = (self.at, body.is_some());
        // Positions are kept in 32 bits and wrap in larger files.
        let consistent = next == 0 || u64::from(next) == end & u64::from(u32::MAX);
        match body {
            Some(body) if whole && consistent && kind != 0 => {
                self.at = end;
                Ok(Found::Event(Event {
                    kind,
                    time,
                    server_id,
                    at,
                    end,
                    body,
                }))
            }
            _ => Ok(Found::Torn(Some(end))),
        }
    }

    /// The first of the body, or `None` when the checksum is wrong.
    fn body(&mut self, header: &mut [u8; HEADER as usize], kind: u8, size: u64) -> Result<Option<Vec<u8>>> {
        if self.passes_over_rows && is_rows(kind) {
            let by = i64::try_from(size).unwrap_or(i64::MAX);
            let moved = self.file.seek_relative(by);
            moved.map_err(|error| sys::Error::path("read", &self.path, error))?;
            return Ok(Some(Vec::new()));
        }
        let mut crc = Crc32::new();
        if kind == FORMAT_DESCRIPTION {
            header[17] &= !IN_USE;
        }
        crc.update(header);
        let trailer = if self.checksums || kind == FORMAT_DESCRIPTION {
            4
        } else {
            0
        };
        let Some(mut left) = size.checked_sub(trailer) else {
            return Ok(None);
        };
        let kept = left.min(if is_set(kind) { KEPT_SET } else { KEPT });
        let mut body = vec![0; usize::try_from(kept).unwrap_or(usize::MAX)];
        self.bytes(&mut body)?;
        crc.update(&body);
        left -= kept;
        let mut buffer = [0; 8192];
        while left > 0 {
            let piece = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            self.bytes(&mut buffer[..piece])?;
            crc.update(&buffer[..piece]);
            left -= piece as u64;
        }
        let mut trailer_bytes = [0; 4];
        self.bytes(&mut trailer_bytes[..trailer as usize])?;
        if kind == FORMAT_DESCRIPTION {
            self.format(&body)?;
        }
        let right = !self.checksums || u32::from_le_bytes(trailer_bytes) == crc.value();
        Ok(right.then_some(body))
    }

    /// The format description's last byte before its checksum names the checksums' algorithm: 0 none, 1 CRC-32.
    fn format(&mut self, body: &[u8]) -> Result<()> {
        match body.last() {
            Some(0) => self.checksums = false,
            Some(1) => self.checksums = true,
            other => return Err(wrong(&self.path, format!("unknown checksum algorithm {other:?}"))),
        }
        Ok(())
    }
}

/// Table maps and rows, in all forms of both servers.
fn is_rows(kind: u8) -> bool {
    matches!(kind, 19..=25 | 30..=32 | 39 | 166..=171)
}

/// Previous_gtids (MySQL) and Gtid_list (MariaDB).
fn is_set(kind: u8) -> bool {
    matches!(kind, 35 | 163)
}
