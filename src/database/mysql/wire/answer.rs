//! What a server answers to a statement, of bounded size.

use std::sync::Arc;
use std::time::Instant;

use super::packet::Cursor;
use super::{Fault, LONGEST_PACKET, TextSet, Wire};

/// More than this of one answer is not kept, in bytes of memory: a server with a million tables needs less.
const MOST_KEPT: usize = if cfg!(test) { 8 << 20 } else { 512 << 20 };
/// What a row and a value cost besides their bytes.
const ROW: usize = 64;
const VALUE: usize = 32;
/// A table has 4096 columns at most.
const MOST_COLUMNS: u64 = 4096;
/// No batch of ours has as many statements.
const MOST_RESULTS: usize = 4096;
const MORE_RESULTS: u16 = 8;

/// Reads all results of one command.
pub fn read(wire: &mut Wire) -> Result<Vec<TextSet>, Fault> {
    let mut results = Vec::new();
    let mut room = MOST_KEPT;
    loop {
        let (set, more) = read_set(wire, &mut room)?;
        results.push(set);
        if !more {
            return Ok(results);
        }
        if results.len() >= MOST_RESULTS {
            return Err(Fault::nonsense(format!("it sent more than {MOST_RESULTS} results")));
        }
    }
}

/// One result, and whether another follows.
fn read_set(wire: &mut Wire, room: &mut usize) -> Result<(TextSet, bool), Fault> {
    let head = wire.receive_good(LONGEST_PACKET)?;
    if head[0] == 0x00 {
        return Ok((set_of(Vec::new(), Vec::new()), ok_status(&head)? & MORE_RESULTS != 0));
    }
    if head[0] == 0xfb {
        return Err(Fault::nonsense("it asked for a file of this host"));
    }
    let columns = Cursor(&head)
        .length()
        .filter(|count| (1..=MOST_COLUMNS).contains(count));
    let columns = columns.ok_or_else(|| Fault::nonsense("a result has no number of columns"))?;
    let mut names = Vec::new();
    for _ in 0..columns {
        let packet = wire.receive_good(LONGEST_PACKET)?;
        keep(room, packet.len() + VALUE)?;
        names.push(column_name(&packet).ok_or_else(|| Fault::nonsense("a column has no name"))?);
    }
    end_status(&wire.receive_good(LONGEST_PACKET)?).ok_or_else(|| Fault::nonsense("the columns do not end"))?;
    let mut rows = Vec::new();
    loop {
        let packet = wire.receive_good(LONGEST_PACKET)?;
        if let Some(status) = end_status(&packet) {
            return Ok((set_of(names, rows), status & MORE_RESULTS != 0));
        }
        keep(room, packet.len() + ROW + names.len() * VALUE)?;
        rows.push(values(&packet, names.len()).ok_or_else(|| Fault::nonsense("a row is damaged"))?);
    }
}

fn set_of(names: Vec<String>, rows: Vec<Vec<Option<String>>>) -> TextSet {
    TextSet {
        names: Arc::from(names),
        rows,
        at: Instant::now(),
    }
}

fn keep(room: &mut usize, bytes: usize) -> Result<(), Fault> {
    *room = room
        .checked_sub(bytes)
        .ok_or_else(|| Fault::nonsense(format!("its answer is longer than {} MiB", MOST_KEPT >> 20)))?;
    Ok(())
}

/// The status in an OK packet: after the rows that were changed and the last id.
pub(super) fn ok_status(packet: &[u8]) -> Result<u16, Fault> {
    let mut cursor = Cursor(packet);
    let mut read = || {
        cursor.u8()?;
        cursor.length()?;
        cursor.length()?;
        cursor.u16()
    };
    read().ok_or_else(|| Fault::nonsense("its OK has no status"))
}

/// The status in an end-of-rows packet; `None` for any other.
pub(super) fn end_status(packet: &[u8]) -> Option<u16> {
    match packet {
        [0xfe, _, _, low, high, ..] if packet.len() < 9 => Some(u16::from_le_bytes([*low, *high])),
        _ => None,
    }
}

/// A column's name is the fifth of the texts that describe it.
fn column_name(packet: &[u8]) -> Option<String> {
    let mut cursor = Cursor(packet);
    for _ in 0..4 {
        cursor.string()?;
    }
    Some(String::from_utf8_lossy(cursor.string()?).into_owned())
}

fn values(packet: &[u8], count: usize) -> Option<Vec<Option<String>>> {
    const NULL: u8 = 0xfb;
    let mut cursor = Cursor(packet);
    let mut values = Vec::with_capacity(count);
    for _ in 0..count {
        if cursor.0.first() == Some(&NULL) {
            cursor.u8();
            values.push(None);
        } else {
            values.push(Some(String::from_utf8_lossy(cursor.string()?).into_owned()));
        }
    }
    cursor.0.is_empty().then_some(values)
}
