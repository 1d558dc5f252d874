//! The map of up to 64 MiB of one file: which chunks, and where they lie.

use crate::units::Id;

/// How many bytes of a file one section covers.
pub const SECTION_BYTES: u64 = 64 << 20;

/// Where a section is stored, or the section itself where it is small.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SectionRef {
    /// Kept in the file table.
    Inline(Vec<u8>),
    /// Kept in a meta pack.
    Stored {
        /// The pack.
        pack: Id,
        /// The slot.
        slot: u32,
        /// Keyed BLAKE3 of the section's bytes.
        hash: [u8; 32],
    },
}

/// One chunk's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// Stored data.
    Data {
        /// Keyed BLAKE3 of the plain bytes.
        hash: [u8; 32],
        /// The pack.
        pack: Id,
        /// The slot.
        slot: u32,
    },
    /// All zero bytes, written as such.
    Zero,
    /// Nothing was ever written here.
    Hole,
}

/// A decoded section: one piece per chunk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Section {
    /// In file order. The last chunk of a file may be short.
    pub pieces: Vec<Piece>,
}
