//! A server's binary log over the replication protocol, byte for byte as it is in its files.

use mysql::binlog::BinlogVersion;
use mysql::binlog::events::Event;
use mysql::{BinlogDumpFlags, BinlogRequest, BinlogStream};

use super::connect::ConnectOptions;
use super::session::{Session, failure};
use crate::database::{Error, Flavour, Result};

const ROTATE: u8 = 4;
const FORMAT_DESCRIPTION: u8 = 15;
const TABLE_MAP: u8 = 19;
const ANNOTATE_ROWS: u8 = 160;
/// MariaDB's word that a file is encrypted from here on. What is sent is not.
const START_ENCRYPTION: u8 = 164;
const CHECKPOINT: u8 = 161;
const HEADER: usize = 19;
/// Header and checksum.
const SHORTEST_TEXT: u64 = 23;
/// No text of a statement is longer (max_allowed_packet).
const LARGEST_TEXT: u64 = 1 << 30;
const HEARTBEATS: [u8; 2] = [27, 41];
/// Set in events that a server makes up for a connection.
const ARTIFICIAL: u16 = 0x20;
/// What is before the first event of a file.
pub const MAGIC: &[u8; 4] = b"\xfebin";

/// What comes over the stream.
#[derive(Debug)]
pub enum Item {
    /// The server went on to the beginning of this file.
    File(String),
    /// When the current file was begun; comes first for each.
    Created(u32),
    /// The bytes of the next event of the file.
    Event(Vec<u8>),
}

/// A dump of everything from a position to the end that the logs have now.
pub struct Stream {
    inner: BinlogStream,
    flavour: Flavour,
    file: String,
    at: u64,
    begun: bool,
    waiting: Option<Item>,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "binary log stream at {}:{}", self.file, self.at)
    }
}

impl Stream {
    /// Asks for a file from an offset on (4: its beginning). `server_id` must be nobody else's.
    ///
    /// # Errors
    /// The account may not (`REPLICATION SLAVE`), the file is not there any more, or the connection broke.
    pub fn open(options: &ConnectOptions, flavour: Flavour, server_id: u32, file: &str, at: u64) -> Result<Stream> {
        if at > u64::from(u32::MAX) {
            return Err(Error::Unsupported(format!(
                "the binary log {file} is longer than 4 GiB, and the replication protocol cannot resume at {at}: the next file can be archived"
            )));
        }
        let mut session = Session::for_stream(options)?;
        if flavour == Flavour::MariaDb {
            // Otherwise it sends no GTID events, but others in their place.
            session.run("SET @mariadb_slave_capability = 4")?;
        }
        let request = BinlogRequest::new(server_id)
            .with_filename(file.as_bytes())
            .with_pos(at)
            .with_flags(BinlogDumpFlags::BINLOG_DUMP_NON_BLOCK);
        let inner = session.into_conn().get_binlog_stream(request);
        Ok(Stream {
            inner: inner.map_err(|error| failure("read the binary log", &error))?,
            flavour,
            file: file.to_owned(),
            at,
            begun: false,
            waiting: None,
        })
    }

    /// The next item; `None` at the end of what the server has.
    ///
    /// # Errors
    /// The server ended the stream (a file is gone), an event is damaged or does not join the one before it.
    pub fn read(&mut self) -> Result<Option<Item>> {
        if let Some(item) = self.waiting.take() {
            return Ok(Some(item));
        }
        loop {
            let Some(event) = self.inner.next() else {
                return Ok(None);
            };
            let event = event.map_err(|error| failure("read the binary log", &error))?;
            let header = event.header();
            let made_up = header.flags_raw() & ARTIFICIAL != 0 || header.log_pos() == 0;
            match header.event_type_raw() {
                ROTATE if made_up => {
                    // Before the first format description nothing says whether a checksum follows the name, and the file is known.
                    let name = String::from_utf8_lossy(event.data().get(8..).unwrap_or_default()).into_owned();
                    if self.begun && name != self.file {
                        self.file.clone_from(&name);
                        self.at = MAGIC.len() as u64;
                        return Ok(Some(Item::File(name)));
                    }
                }
                FORMAT_DESCRIPTION => {
                    self.begun = true;
                    if self.at == MAGIC.len() as u64 {
                        self.waiting = Some(Item::Event(self.bytes(&event)?));
                    }
                    return Ok(Some(Item::Created(header.timestamp())));
                }
                kind if made_up || HEARTBEATS.contains(&kind) => {}
                _ => return Ok(Some(Item::Event(self.bytes(&event)?))),
            }
        }
    }

    /// An event's bytes; with MariaDB, after a filler where the server left out the text of a statement (Annotate_rows), which it sends only to those who ask in
    /// a way that the driver has no words for. Offsets stay those of the server's file.
    fn bytes(&mut self, event: &Event) -> Result<Vec<u8>> {
        let at = self.at;
        let broken = |reason: String| Error::Unsupported(format!("the binary log {} at {at}: {reason}", self.file));
        let mut bytes = Vec::with_capacity(event.header().event_size() as usize);
        event
            .write(BinlogVersion::Version4, &mut bytes)
            .map_err(|error| broken(error.to_string()))?;
        let header = event.header();
        if bytes.len() != header.event_size() as usize {
            return Err(broken(format!(
                "an event of {} bytes came as {}",
                header.event_size(),
                bytes.len()
            )));
        }
        if let Some(checksum) = event.checksum() {
            let tail = bytes.len() - checksum.len();
            // The server clears the flag "in use" of a format description, which its checksum does not have either.
            if bytes[tail..] != checksum && header.event_type_raw() != FORMAT_DESCRIPTION {
                return Err(broken("an event's checksum is wrong".to_owned()));
            }
            bytes[tail..].copy_from_slice(&checksum);
        }
        let says_encrypted = self.flavour == Flavour::MariaDb && header.event_type_raw() == START_ENCRYPTION;
        if says_encrypted && bytes.len() >= HEADER + 8 {
            bytes = in_place_of_encryption(&bytes, &self.file, event.checksum().is_some());
        }
        let hole = u64::from(
            header
                .log_pos()
                .wrapping_sub(bytes.len() as u32)
                .wrapping_sub(at as u32),
        );
        let text_may_lie_there = self.flavour == Flavour::MariaDb && header.event_type_raw() == TABLE_MAP;
        if text_may_lie_there && (SHORTEST_TEXT..=LARGEST_TEXT).contains(&hole) {
            bytes.splice(0..0, filler(event, hole as u32));
        }
        let end = at + bytes.len() as u64;
        if u64::from(header.log_pos()) != end & u64::from(u32::MAX) {
            return Err(broken(format!(
                "the next event ends at {} and not at {end}: something is missing",
                header.log_pos()
            )));
        }
        self.at = end;
        Ok(bytes)
    }
}

/// A Binlog_checkpoint of the same length, which says nothing to anybody who applies it: with the other event in its place, whoever reads the archived file would take
/// for encrypted what came in plain.
fn in_place_of_encryption(event: &[u8], file: &str, checksum: bool) -> Vec<u8> {
    let mut bytes = event.get(..HEADER).unwrap_or_default().to_vec();
    bytes[4] = CHECKPOINT;
    let tail = if checksum { 4 } else { 0 };
    let room = event.len().saturating_sub(HEADER + 4 + tail);
    let name = &file.as_bytes()[..file.len().min(room)];
    bytes.extend((name.len() as u32).to_le_bytes());
    bytes.extend(name);
    bytes.resize(event.len() - tail, 0);
    if checksum {
        let crc = super::binlog::checksum(&bytes);
        bytes.extend(crc.to_le_bytes());
    }
    bytes
}

/// An Annotate_rows of this length, of spaces, in front of `next`.
fn filler(next: &Event, length: u32) -> Vec<u8> {
    let header = next.header();
    let checksum = if next.checksum().is_some() { 4 } else { 0 };
    let mut bytes = header.timestamp().to_le_bytes().to_vec();
    bytes.push(ANNOTATE_ROWS);
    bytes.extend(header.server_id().to_le_bytes());
    bytes.extend(length.to_le_bytes());
    bytes.extend(header.log_pos().wrapping_sub(header.event_size()).to_le_bytes());
    bytes.extend([0, 0]);
    bytes.resize(length as usize - checksum, b' ');
    if checksum > 0 {
        let crc = super::binlog::checksum(&bytes);
        bytes.extend(crc.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_about_encryption_becomes_a_checkpoint_of_the_same_length() {
        let mut event = vec![7; 40];
        event[4] = START_ENCRYPTION;
        for checksum in [true, false] {
            let other = in_place_of_encryption(&event, "binlog.000001", checksum);
            assert_eq!((other.len(), other[4]), (40, CHECKPOINT));
            let length = u32::from_le_bytes(other[19..23].try_into().unwrap()) as usize;
            assert!("binlog.000001".as_bytes().starts_with(&other[23..23 + length]));
            if checksum {
                let crc = u32::from_le_bytes(other[36..].try_into().unwrap());
                assert_eq!(crc, super::super::binlog::checksum(&other[..36]));
            }
        }
    }
}
