//! A server's binary log over the replication protocol, byte for byte as it is in its files.

use std::time::Duration;

use super::connect::ConnectOptions;
use super::session::{Session, failure};
use super::wire::{LONGEST_EVENT, Wire};
use crate::database::{Error, Flavour, Result};

const COM_BINLOG_DUMP: u8 = 0x12;
const COM_REGISTER_SLAVE: u8 = 0x15;
/// The dump ends where the logs end now.
const NON_BLOCK: u16 = 1;
/// How long one event may take to come completely; the server reads it from its disk first.
const EVENT_WITHIN: Duration = Duration::from_secs(120);
const HEADER: usize = 19;
const CHECKSUM: usize = 4;
const OPERATION: &str = "read the binary log";

const ROTATE: u8 = 4;
const FORMAT_DESCRIPTION: u8 = 15;
const TABLE_MAP: u8 = 19;
const ANNOTATE_ROWS: u8 = 160;
/// MariaDB's word that a file is encrypted from here on. What is sent is not.
const START_ENCRYPTION: u8 = 164;
const CHECKPOINT: u8 = 161;
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
    wire: Wire,
    address: String,
    /// Whether events end with a checksum; the format description says so.
    checksums: bool,
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
        let mut session = Session::admin(options)?;
        if flavour == Flavour::MariaDb {
            // Otherwise it sends no GTID events, but others in their place.
            session.run("SET @mariadb_slave_capability = 4")?;
        }
        session.run("SET @master_binlog_checksum = 'ALL'")?;
        let mut wire = session.into_wire();
        let address = options.address();
        ask(&mut wire, server_id, file, at as u32).map_err(|fault| failure(OPERATION, &fault, &address))?;
        Ok(Stream {
            wire,
            address,
            checksums: false,
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
            let Some(event) = self.next()? else {
                return Ok(None);
            };
            let made_up = event.flags & ARTIFICIAL != 0 || event.log_pos == 0;
            match event.kind {
                ROTATE if made_up => {
                    // Before the first format description nothing says whether a checksum follows the name, and the file is known.
                    let name = String::from_utf8_lossy(event.body().get(8..).unwrap_or_default()).into_owned();
                    if self.begun && name != self.file {
                        self.file.clone_from(&name);
                        self.at = MAGIC.len() as u64;
                        return Ok(Some(Item::File(name)));
                    }
                }
                FORMAT_DESCRIPTION => {
                    self.begun = true;
                    let created = event.timestamp;
                    if self.at == MAGIC.len() as u64 {
                        self.waiting = Some(Item::Event(self.bytes(event)?));
                    }
                    return Ok(Some(Item::Created(created)));
                }
                kind if made_up || HEARTBEATS.contains(&kind) => {}
                _ => return Ok(Some(Item::Event(self.bytes(event)?))),
            }
        }
    }

    /// An event's bytes; with MariaDB, after a filler where the server left out the text of a statement (Annotate_rows), which it sends only to those who ask in
    /// a way that the driver has no words for. Offsets stay those of the server's file.
    fn bytes(&mut self, mut event: Event) -> Result<Vec<u8>> {
        let at = self.at;
        let broken = |reason: String| Error::Unsupported(format!("the binary log {} at {at}: {reason}", self.file));
        // The server clears the flag "in use" of a format description, which its checksum does not have either.
        if event.checksum && event.kind != FORMAT_DESCRIPTION {
            let (covered, sum) = event.bytes.split_at(event.bytes.len() - CHECKSUM);
            if super::binlog::checksum(covered).to_le_bytes() != sum {
                return Err(broken("an event's checksum is wrong".to_owned()));
            }
        }
        if self.flavour == Flavour::MariaDb && event.kind == START_ENCRYPTION && event.bytes.len() >= HEADER + 8 {
            event.bytes = in_place_of_encryption(&event.bytes, &self.file, event.checksum);
        }
        let hole = u64::from(event.log_pos.wrapping_sub(event.size).wrapping_sub(at as u32));
        let text_may_lie_there = self.flavour == Flavour::MariaDb && event.kind == TABLE_MAP;
        let filled = text_may_lie_there && (SHORTEST_TEXT..=LARGEST_TEXT).contains(&hole);
        let before = if filled {
            filler(&event, hole as u32)
        } else {
            Vec::new()
        };
        let end = at + before.len() as u64 + event.bytes.len() as u64;
        if u64::from(event.log_pos) != end & u64::from(u32::MAX) {
            return Err(broken(format!(
                "the next event ends at {} and not at {end}: something is missing",
                event.log_pos
            )));
        }
        self.at = end;
        Ok(match before.is_empty() {
            true => event.bytes,
            false => [before, event.bytes].concat(),
        })
    }

    /// The next event as it came; `None` at the end of what the server has.
    fn next(&mut self) -> Result<Option<Event>> {
        self.wire.set_limit(EVENT_WITHIN);
        let packet = self.wire.receive_good(LONGEST_EVENT);
        let mut packet = packet.map_err(|fault| failure(OPERATION, &fault, &self.address))?;
        let wrong = |what: &str| {
            Error::Unsupported(format!(
                "the binary log {} at {}: {what} came from {}",
                self.file, self.at, self.address
            ))
        };
        match packet[0] {
            0xfe if packet.len() < 9 => return Ok(None),
            0x00 => {}
            _ => return Err(wrong("no event")),
        }
        packet.remove(0);
        let mut event = Event::new(packet).ok_or_else(|| wrong("an event that is not as long as it says"))?;
        if event.kind == FORMAT_DESCRIPTION {
            self.checksums = event
                .announces_checksums()
                .ok_or_else(|| wrong("half a format description"))?;
        }
        event.checksum = self.checksums;
        if event.checksum && event.bytes.len() < HEADER + CHECKSUM {
            return Err(wrong("an event without its checksum"));
        }
        Ok(Some(event))
    }
}

/// Says who we are, and asks for the dump.
fn ask(wire: &mut Wire, server_id: u32, file: &str, at: u32) -> std::result::Result<(), super::wire::Fault> {
    let mut register = server_id.to_le_bytes().to_vec();
    // No host, user, password; port 0, rank 0, no source.
    register.extend([0; 3 + 2 + 4 + 4]);
    wire.command(COM_REGISTER_SLAVE, &register)?;
    wire.receive_good(LONGEST_EVENT)?;
    let mut dump = at.to_le_bytes().to_vec();
    dump.extend(NON_BLOCK.to_le_bytes());
    dump.extend(server_id.to_le_bytes());
    dump.extend(file.as_bytes());
    wire.command(COM_BINLOG_DUMP, &dump)
}

/// One event.
struct Event {
    timestamp: u32,
    kind: u8,
    server_id: u32,
    size: u32,
    log_pos: u32,
    flags: u16,
    /// Whether the last four bytes are its checksum.
    checksum: bool,
    bytes: Vec<u8>,
}

impl Event {
    /// `None` where it is not as long as its header says.
    fn new(bytes: Vec<u8>) -> Option<Event> {
        let header: &[u8; HEADER] = bytes.first_chunk()?;
        let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let event = Event {
            timestamp: number(0),
            kind: header[4],
            server_id: number(5),
            size: number(9),
            log_pos: number(13),
            flags: u16::from_le_bytes([header[17], header[18]]),
            checksum: false,
            bytes,
        };
        (event.bytes.len() == event.size as usize).then_some(event)
    }

    fn body(&self) -> &[u8] {
        let end = self.bytes.len() - if self.checksum { CHECKSUM } else { 0 };
        self.bytes.get(HEADER..end).unwrap_or_default()
    }

    /// A format description ends with the kind of checksum and room for one, in every server since MySQL 5.6 and MariaDB 5.3.
    fn announces_checksums(&self) -> Option<bool> {
        let at = self.bytes.len().checked_sub(CHECKSUM + 1).filter(|at| *at >= HEADER)?;
        Some(self.bytes[at] == 1)
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
    let checksum = if next.checksum { CHECKSUM } else { 0 };
    let mut bytes = next.timestamp.to_le_bytes().to_vec();
    bytes.push(ANNOTATE_ROWS);
    bytes.extend(next.server_id.to_le_bytes());
    bytes.extend(length.to_le_bytes());
    bytes.extend(next.log_pos.wrapping_sub(next.size).to_le_bytes());
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
