//! GTID state of both flavours, collected from the lists and events of one log.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::event::Event;
use crate::database::Flavour;

const GTID: u8 = 33;
const GTID_TAGGED: u8 = 42;

/// Intervals, ends included, of each source (uuid) and tag.
type Sets = BTreeMap<([u8; 16], String), Vec<(u64, u64)>>;

/// The GTIDs up to a point of a log.
#[derive(Debug, Clone)]
pub enum Gtids {
    /// The last GTID of each domain: (server id, sequence number).
    MariaDb(BTreeMap<u32, (u32, u64)>),
    /// Those of each source and tag.
    MySql(Sets),
}

type Answer<T> = std::result::Result<T, String>;

impl Gtids {
    /// None yet.
    pub fn new(flavour: Flavour) -> Gtids {
        match flavour {
            Flavour::MariaDb => Gtids::MariaDb(BTreeMap::new()),
            Flavour::MySql => Gtids::MySql(BTreeMap::new()),
        }
    }

    /// Takes the list at the beginning of a log: everything before it.
    pub fn take_list(&mut self, body: &[u8]) -> Answer<()> {
        let mut bytes = Bytes(body);
        match self {
            Gtids::MariaDb(domains) => {
                // The count's high four bits are flags. The newest of a domain comes last.
                for _ in 0..bytes.u32()? & 0x0FFF_FFFF {
                    let (domain, server, number) = (bytes.u32()?, bytes.u32()?, bytes.u64()?);
                    domains.insert(domain, (server, number));
                }
            }
            Gtids::MySql(sets) => {
                let header = bytes.u64()?;
                // Since 8.3 the highest byte names the format; with tags the count moves up by one byte.
                let tagged = header >> 56 != 0;
                let count = if tagged { header << 8 >> 16 } else { header };
                for _ in 0..count {
                    let uuid = bytes.uuid()?;
                    let tag = if tagged { bytes.tag()? } else { String::new() };
                    for _ in 0..bytes.u64()? {
                        let (first, after) = (bytes.u64()?, bytes.u64()?);
                        let last = after.checked_sub(1).ok_or("an empty interval of GTIDs")?;
                        add(sets.entry((uuid, tag.clone())).or_default(), first, last);
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes the GTID of a complete group.
    pub fn take_event(&mut self, event: &Event) -> Answer<()> {
        let mut bytes = Bytes(&event.body);
        match self {
            Gtids::MariaDb(domains) => {
                let (number, domain) = (bytes.u64()?, bytes.u32()?);
                domains.insert(domain, (event.server_id, number));
            }
            Gtids::MySql(sets) => {
                let (uuid, tag, number) = match event.kind {
                    GTID => {
                        bytes.skip(1)?;
                        (bytes.uuid()?, String::new(), bytes.u64()?)
                    }
                    GTID_TAGGED => tagged(bytes)?,
                    _ => return Ok(()),
                };
                add(sets.entry((uuid, tag)).or_default(), number, number);
            }
        }
        Ok(())
    }

    /// As `gtid_binlog_pos` or `gtid_executed` says it; `None` when there are none.
    pub fn to_text(&self) -> Option<String> {
        let text = match self {
            Gtids::MariaDb(domains) => {
                let one = |(domain, (server, number)): (&u32, &(u32, u64))| format!("{domain}-{server}-{number}");
                domains.iter().map(one).collect::<Vec<_>>().join(",")
            }
            Gtids::MySql(sets) => mysql_text(sets),
        };
        (!text.is_empty()).then_some(text)
    }
}

/// `uuid:1-5:7:tag:1-3,uuid:9`.
fn mysql_text(sets: &Sets) -> String {
    let (mut text, mut before) = (String::new(), None);
    for ((uuid, tag), intervals) in sets {
        if before != Some(uuid) {
            if before.is_some() {
                text.push(',');
            }
            text += &uuid_text(uuid);
        }
        before = Some(uuid);
        if !tag.is_empty() {
            text.push(':');
            text += tag;
        }
        for (first, last) in intervals {
            // Writing to a String cannot fail.
            let _ = if first == last {
                write!(text, ":{first}")
            } else {
                write!(text, ":{first}-{last}")
            };
        }
    }
    text
}

fn uuid_text(uuid: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in uuid.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Adds an interval to a sorted list of disjoint ones that do not touch.
fn add(intervals: &mut Vec<(u64, u64)>, first: u64, last: u64) {
    // The usual case: the next number of the last interval.
    if let Some(newest) = intervals.last_mut()
        && first == newest.1.saturating_add(1)
    {
        newest.1 = last.max(newest.1);
        return;
    }
    let from = intervals.partition_point(|interval| interval.1.saturating_add(1) < first);
    let to = intervals.partition_point(|interval| interval.0 <= last.saturating_add(1));
    let joined = match intervals.get(from..to) {
        Some([head, .., tail]) => (first.min(head.0), last.max(tail.1)),
        Some([only]) => (first.min(only.0), last.max(only.1)),
        _ => (first, last),
    };
    intervals.splice(from..to.max(from), [joined]);
}

/// A tagged GTID event is written by MySQL's serialization library: a version, a length and the last field that may not be
/// ignored; then fields, each with its number.
fn tagged(mut bytes: Bytes<'_>) -> Answer<([u8; 16], String, u64)> {
    for _ in 0..3 {
        bytes.varlen()?;
    }
    let (mut uuid, mut tag, mut number) = (None, None, None);
    while uuid.is_none() || tag.is_none() || number.is_none() {
        match bytes.varlen()? {
            0 => drop(bytes.varlen()?),
            1 => {
                let mut value = [0; 16];
                for byte in &mut value {
                    *byte = u8::try_from(bytes.varlen()?).map_err(|_| "a tagged GTID's uuid is not understood")?;
                }
                uuid = Some(value);
            }
            2 => number = Some(zigzag(bytes.varlen()?)?),
            3 => tag = Some(bytes.tag()?),
            other => return Err(format!("field {other} of a tagged GTID is not understood")),
        }
    }
    match (uuid, tag, number) {
        (Some(uuid), Some(tag), Some(number)) => Ok((uuid, tag, number)),
        _ => Err("a tagged GTID is not complete".into()),
    }
}

/// Signed numbers keep their sign in the lowest bit.
fn zigzag(number: u64) -> Answer<u64> {
    if number & 1 == 1 {
        Err("a negative GTID".into())
    } else {
        Ok(number >> 1)
    }
}

/// Bytes that are read from the front.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Answer<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count).ok_or("it is too short")?;
        self.0 = rest;
        Ok(head)
    }

    fn skip(&mut self, count: usize) -> Answer<()> {
        self.take(count).map(drop)
    }

    fn array<const N: usize>(&mut self) -> Answer<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| "it is too short".to_owned())
    }

    fn u32(&mut self) -> Answer<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Answer<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn uuid(&mut self) -> Answer<[u8; 16]> {
        self.array()
    }

    /// A number of 1 to 9 bytes: the first byte's trailing ones count the bytes that follow, the rest is the number.
    fn varlen(&mut self) -> Answer<u64> {
        let first = *self.0.first().ok_or("it is too short")?;
        let more = first.trailing_ones() as usize;
        let mut wide = [0; 16];
        wide[..=more].copy_from_slice(self.take(more + 1)?);
        let value = u128::from_le_bytes(wide) >> if more == 8 { 8 } else { more + 1 };
        u64::try_from(value).map_err(|_| "a number is too large".to_owned())
    }

    fn tag(&mut self) -> Answer<String> {
        let length = self.varlen()?;
        let length = usize::try_from(length)
            .ok()
            .filter(|length| *length <= 32)
            .ok_or("a GTID tag is too long")?;
        String::from_utf8(self.take(length)?.to_vec()).map_err(|_| "a GTID tag is no text".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_join_in_any_order() {
        let all: [u64; 7] = [1, 2, 3, 5, 7, 8, 20];
        let mut orders = vec![all.to_vec(), all.iter().rev().copied().collect()];
        orders.push(vec![5, 1, 8, 3, 20, 2, 7]);
        for order in orders {
            let mut intervals = Vec::new();
            for number in order {
                add(&mut intervals, number, number);
                add(&mut intervals, number, number);
            }
            assert_eq!(intervals, [(1, 3), (5, 5), (7, 8), (20, 20)]);
        }
        let mut intervals = vec![(1, 2), (5, 6), (9, 9)];
        add(&mut intervals, 2, 7);
        assert_eq!(intervals, [(1, 7), (9, 9)]);
    }

    #[test]
    fn numbers_of_varying_length() {
        for (bytes, value) in [
            (&[0b0000_0000][..], 0),
            (&[0b1111_1110], 127),
            (&[0b0000_0001, 0b0000_0010], 128),
            (&[0xFF, 1, 0, 0, 0, 0, 0, 0, 0], 1),
        ] {
            assert_eq!(Bytes(bytes).varlen(), Ok(value), "{bytes:?}");
        }
        assert!(Bytes(&[0x01]).varlen().is_err());
        assert!(Bytes(&[]).varlen().is_err());
    }

    #[test]
    fn lists_that_lie_about_their_size_are_errors() {
        let mut gtids = Gtids::new(Flavour::MariaDb);
        assert!(gtids.take_list(&[0xFF, 0xFF, 0xFF, 0x0F, 1]).is_err());
        let mut gtids = Gtids::new(Flavour::MySql);
        assert!(gtids.take_list(&[9, 0, 0, 0, 0, 0, 0, 0]).is_err());
        assert!(gtids.take_list(&[]).is_err());
    }
}
