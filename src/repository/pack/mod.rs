//! A pack: header, slots, slot table, trailer. docs/repository-format.md has every byte.

mod copy;
mod footers;
mod reader;
mod salvage;
mod window;
mod writer;

pub(super) use copy::{copy_slots, is_readable};
pub(super) use footers::{objects_of, read_footer};
pub(super) use reader::{PackReader, sweep};
pub(super) use salvage::Sizes;
pub(super) use writer::{Finished, Finisher, PackWriter};

use super::keys::{Hash, Keys, PackName};

const MAGIC: &[u8; 8] = b"SNAPPACK";
const END: &[u8; 8] = b"SNAPDONE";
const VERSION: u16 = 1;
/// Bytes of the header.
const HEADER: usize = 32;
/// Bytes of one line of the slot table.
const SLOT: usize = 44;
/// Bytes of the trailer.
const TRAILER: usize = 96;
/// A pack is closed once it holds this many bytes.
const TARGET: u64 = 64 << 20;
/// Slots in a pack at most; bounds the memory that a footer takes (2.8 MiB).
const MOST_SLOTS: usize = 1 << 16;
/// The largest plain content of a data slot: the largest chunk class.
const LARGEST_CHUNK: usize = 1 << 20;
/// The largest plain content of a meta slot.
pub(super) const LARGEST_META: usize = 64 << 20;

/// What a pack holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Chunks of files.
    Data,
    /// Sections, file table, pack table.
    Meta,
}

impl Kind {
    fn number(self) -> u8 {
        match self {
            Kind::Data => 1,
            Kind::Meta => 2,
        }
    }

    fn largest(self) -> usize {
        match self {
            Kind::Data => LARGEST_CHUNK,
            Kind::Meta => LARGEST_META,
        }
    }
}

/// How a slot's bytes are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    /// As they are.
    Raw,
    /// One zstd frame.
    Zstd,
    /// Not any more: a later generation of the pack left it out.
    Dropped,
}

impl Encoding {
    fn number(self) -> u8 {
        match self {
            Encoding::Raw => 0,
            Encoding::Zstd => 1,
            Encoding::Dropped => 2,
        }
    }
}

/// One line of the slot table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    /// Where its stored bytes begin; not stored, the sum of what is before it.
    offset: u64,
    stored: u32,
    plain: u32,
    encoding: Encoding,
    /// Keyed BLAKE3 of the plain bytes.
    pub hash: Hash,
}

impl Slot {
    /// Whether its bytes are in this object.
    pub fn is_there(&self) -> bool {
        self.encoding != Encoding::Dropped
    }

    /// Bytes that it takes.
    pub fn stored(&self) -> u64 {
        u64::from(self.stored)
    }
}

/// Header, slot table and trailer of a pack, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Footer {
    pub kind: Kind,
    pub slots: Vec<Slot>,
    /// Of header and slot table: names the pack's content in pack tables.
    pub digest: Hash,
    /// Of all slots' stored bytes.
    body: Hash,
    /// Where the slot table begins.
    end: u64,
}

fn header(kind: Kind, name: PackName) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8..10].copy_from_slice(&VERSION.to_le_bytes());
    header[10] = kind.number();
    // [11]: encryption, 0 for none.
    header[12..16].copy_from_slice(&name.generation.to_le_bytes());
    header[16..].copy_from_slice(&name.id.0);
    header
}

fn table(slots: &[Slot]) -> Vec<u8> {
    let mut table = Vec::with_capacity(slots.len() * SLOT);
    for slot in slots {
        table.extend_from_slice(&slot.stored.to_le_bytes());
        table.extend_from_slice(&slot.plain.to_le_bytes());
        table.extend_from_slice(&[slot.encoding.number(), 0, 0, 0]);
        table.extend_from_slice(&slot.hash);
    }
    table
}

fn digest(keys: &Keys, header: &[u8; HEADER], table: &[u8], body: &Hash) -> Hash {
    let mut hasher = keys.pack();
    hasher.update(header).update(table).update(body);
    hasher.finalize().into()
}

fn trailer(slots: usize, digest: &Hash, body: &Hash) -> [u8; TRAILER] {
    let mut trailer = [0; TRAILER];
    trailer[..32].copy_from_slice(digest);
    trailer[32..64].copy_from_slice(body);
    trailer[64..68].copy_from_slice(&(slots as u32).to_le_bytes());
    // [68..88]: reserved, zero.
    trailer[88..].copy_from_slice(END);
    trailer
}

/// The bytes of a pack with this id and a digest that fits them, whatever they are.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn with_fitting_digest(bytes: &[u8], id: crate::units::Id, keys: &Keys) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let size = bytes.len();
    if size < HEADER + TRAILER {
        return bytes;
    }
    bytes[16..HEADER].copy_from_slice(&id.0);
    let count = u32::from_le_bytes([bytes[size - 32], bytes[size - 31], bytes[size - 30], bytes[size - 29]]) as usize;
    let table = size.saturating_sub(TRAILER + count.saturating_mul(SLOT)).max(HEADER);
    let (mut header, mut body) = ([0; HEADER], [0; 32]);
    header.copy_from_slice(&bytes[..HEADER]);
    body.copy_from_slice(&bytes[size - 64..size - 32]);
    let digest = digest(keys, &header, &bytes[table..size - TRAILER], &body);
    bytes[size - TRAILER..size - 64].copy_from_slice(&digest);
    bytes
}

/// Reads the slot table; the pack's own length must come out exactly.
fn parse_table(bytes: &[u8], kind: Kind, generation: u32, end: u64) -> Result<Vec<Slot>, String> {
    let mut offset = HEADER as u64;
    let mut slots = Vec::with_capacity(bytes.len() / SLOT);
    for (number, line) in bytes.chunks_exact(SLOT).enumerate() {
        let word = |at: usize| u32::from_le_bytes([line[at], line[at + 1], line[at + 2], line[at + 3]]);
        let (stored, plain) = (word(0), word(4));
        let encoding = match word(8) {
            0 => Encoding::Raw,
            1 => Encoding::Zstd,
            // A backup writes no such slot.
            2 if generation > 0 => Encoding::Dropped,
            other => return Err(format!("slot {number} has the unknown encoding {other}")),
        };
        let fits = match encoding {
            Encoding::Raw => stored == plain,
            Encoding::Zstd => stored < plain,
            Encoding::Dropped => stored == 0,
        };
        if !fits || plain == 0 || plain as usize > kind.largest() {
            return Err(format!("slot {number} says {stored} bytes stored for {plain}"));
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(&line[12..]);
        slots.push(Slot {
            offset,
            stored,
            plain,
            encoding,
            hash,
        });
        offset += u64::from(stored);
    }
    if offset != end {
        return Err(format!("its slots end at {offset}, its slot table begins at {end}"));
    }
    Ok(slots)
}
