//! Packets: four bytes of head (length, number), then at most 16 MiB - 1; what is longer comes in several.

use super::{Fault, Wire};

/// A packet of this length goes on in the next one.
const FULL: usize = 0xff_ffff;
/// How much is read at once, in bytes.
const AT_ONCE: usize = 64 << 10;
/// No message of a server is repeated beyond this, in bytes.
const LONGEST_MESSAGE: usize = 4 << 10;

impl Wire {
    /// Sends one payload.
    pub(super) fn send(&mut self, payload: &[u8]) -> Result<(), Fault> {
        let mut bytes = Vec::with_capacity(payload.len() + 4);
        let mut rest = payload;
        loop {
            let (part, behind) = rest.split_at(rest.len().min(FULL));
            bytes.extend_from_slice(&(part.len() as u32).to_le_bytes()[..3]);
            bytes.push(self.sequence);
            bytes.extend_from_slice(part);
            self.sequence = self.sequence.wrapping_add(1);
            rest = behind;
            if part.len() < FULL {
                break;
            }
        }
        Ok(self.channel.write_all(&bytes)?)
    }

    /// Receives one payload of `longest` bytes at most. Memory grows with what has come, not with what was announced.
    pub(super) fn receive(&mut self, longest: usize) -> Result<Vec<u8>, Fault> {
        let mut payload = Vec::new();
        loop {
            let head = self.take(4)?;
            let length = usize::from(head[0]) | usize::from(head[1]) << 8 | usize::from(head[2]) << 16;
            self.sequence = head[3].wrapping_add(1);
            if payload.len() + length > longest {
                return Err(Fault::nonsense(format!(
                    "it sent a packet of more than {longest} bytes"
                )));
            }
            self.take_into(length, &mut payload)?;
            if length < FULL {
                return Ok(payload);
            }
        }
    }

    /// The same, with an error of the server as one.
    pub fn receive_good(&mut self, longest: usize) -> Result<Vec<u8>, Fault> {
        let payload = self.receive(longest)?;
        match payload.first() {
            Some(0xff) => Err(server_error(&payload)),
            Some(_) => Ok(payload),
            None => Err(Fault::nonsense("it sent an empty packet")),
        }
    }

    /// Whether bytes have come that nobody asked for: before TLS begins there must be none.
    pub(super) fn has_more(&self) -> bool {
        self.start < self.buffer.len()
    }

    fn take(&mut self, count: usize) -> Result<[u8; 4], Fault> {
        let mut bytes = Vec::with_capacity(count);
        self.take_into(count, &mut bytes)?;
        bytes.try_into().map_err(|_| Fault::nonsense("a packet has no head"))
    }

    fn take_into(&mut self, mut count: usize, into: &mut Vec<u8>) -> Result<(), Fault> {
        while count > 0 {
            if !self.has_more() {
                self.fill()?;
            }
            let part = (self.buffer.len() - self.start).min(count);
            into.extend_from_slice(&self.buffer[self.start..self.start + part]);
            self.start += part;
            count -= part;
        }
        Ok(())
    }

    fn fill(&mut self) -> Result<(), Fault> {
        self.buffer.resize(AT_ONCE, 0);
        self.start = AT_ONCE;
        let read = self.channel.read(&mut self.buffer)?;
        self.buffer.truncate(read);
        self.start = 0;
        if read == 0 {
            let closed = std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "it was closed");
            return Err(Fault::Broken(closed));
        }
        Ok(())
    }
}

/// An error packet: number, then `#` and a state of five letters, then words.
pub(super) fn server_error(payload: &[u8]) -> Fault {
    /// MariaDB's progress reports have this number; nobody here asks for them.
    const PROGRESS: u16 = 0xffff;
    let mut cursor = Cursor(payload);
    let _ = cursor.bytes(1);
    let Some(code) = cursor.u16() else {
        return Fault::nonsense("it sent an error without a number");
    };
    if code == PROGRESS {
        return Fault::nonsense("it reported progress, which nobody asked for");
    }
    let words = match cursor.0 {
        [b'#', _, _, _, _, _, words @ ..] => words,
        words => words,
    };
    let words = &words[..words.len().min(LONGEST_MESSAGE)];
    Fault::Server {
        code,
        message: String::from_utf8_lossy(words).into_owned(),
    }
}

/// What is left of a payload; every step fails where it ends.
pub(super) struct Cursor<'p>(pub &'p [u8]);

impl<'p> Cursor<'p> {
    pub fn bytes(&mut self, count: usize) -> Option<&'p [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.bytes(1).map(|bytes| bytes[0])
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.number(2).map(|number| number as u16)
    }

    /// A number of this many bytes.
    pub fn number(&mut self, count: usize) -> Option<u64> {
        let bytes = self.bytes(count)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0, |number, byte| number << 8 | u64::from(*byte)),
        )
    }

    /// A number whose first byte says how long it is.
    pub fn length(&mut self) -> Option<u64> {
        match self.u8()? {
            0xfc => self.number(2),
            0xfd => self.number(3),
            0xfe => self.number(8),
            0xff | 0xfb => None,
            small => Some(u64::from(small)),
        }
    }

    /// Bytes with their length before them.
    pub fn string(&mut self) -> Option<&'p [u8]> {
        let length = self.length()?;
        self.bytes(usize::try_from(length).ok()?)
    }

    /// Bytes up to a zero, or to the end.
    pub fn until_zero(&mut self) -> &'p [u8] {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        let text = &self.0[..end];
        self.0 = &self.0[(end + 1).min(self.0.len())..];
        text
    }
}
