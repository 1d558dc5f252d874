//! The map of up to 64 MiB of one file: which chunks, and where they lie.

use super::wire::{Decoder, Encoder, Malformed};
use crate::units::Id;

/// How many bytes of a file one section covers.
pub const SECTION_BYTES: u64 = 64 << 20;

/// Chunks in a section at most: 64 MiB of the smallest class.
const MOST_CHUNKS: usize = (SECTION_BYTES as usize) / (16 << 10);

/// A section of at most this many bytes is kept in the file table itself.
pub(super) const INLINE: usize = 512;

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

const HOLE: u64 = 0;
const ZERO: u64 = 1;
const DATA: u64 = 2;

/// Chunks in a row that one run describes.
struct Run {
    kind: u64,
    count: u64,
    pack: u64,
    slot: u32,
}

impl SectionRef {
    /// A section of so many chunks in which nothing was ever written: its only encoding.
    pub fn hole(chunks: usize) -> SectionRef {
        let mut encoder = Encoder::default();
        encoder.varint(chunks as u64);
        encoder.varint(0);
        encoder.varint((chunks as u64) << 2 | HOLE);
        SectionRef::Inline(encoder.bytes)
    }
}

impl Section {
    /// The section's only encoding: chunk count; packs in the order of their first use; runs; hashes of the data pieces.
    pub(super) fn encode(&self) -> Vec<u8> {
        let (packs, runs) = self.runs();
        let mut encoder = Encoder::default();
        encoder.varint(self.pieces.len() as u64);
        encoder.varint(packs.len() as u64);
        packs.iter().for_each(|pack| encoder.raw(&pack.0));
        for run in runs {
            encoder.varint(run.count << 2 | run.kind);
            if run.kind == DATA {
                encoder.varint(run.pack);
                encoder.varint(u64::from(run.slot));
            }
        }
        for piece in &self.pieces {
            if let Piece::Data { hash, .. } = piece {
                encoder.raw(hash);
            }
        }
        encoder.bytes
    }

    fn runs(&self) -> (Vec<Id>, Vec<Run>) {
        let (mut packs, mut runs): (Vec<Id>, Vec<Run>) = (Vec::new(), Vec::new());
        for piece in &self.pieces {
            let run = match piece {
                Piece::Hole => Run {
                    kind: HOLE,
                    count: 1,
                    pack: 0,
                    slot: 0,
                },
                Piece::Zero => Run {
                    kind: ZERO,
                    count: 1,
                    pack: 0,
                    slot: 0,
                },
                Piece::Data { pack, slot, .. } => {
                    let known = packs.iter().rposition(|known| known == pack);
                    let pack = known.unwrap_or_else(|| {
                        packs.push(*pack);
                        packs.len() - 1
                    });
                    Run {
                        kind: DATA,
                        count: 1,
                        pack: pack as u64,
                        slot: *slot,
                    }
                }
            };
            match runs.last_mut() {
                Some(last) if last.continues_with(&run) => last.count += 1,
                _ => runs.push(run),
            }
        }
        (packs, runs)
    }

    /// Decodes a section; anything but its only encoding is refused.
    pub(super) fn decode(bytes: &[u8]) -> Result<Section, Malformed> {
        let mut decoder = Decoder::new(bytes);
        let count: usize = decoder.number()?;
        if count > MOST_CHUNKS {
            return Err(format!("a section of {count} chunks"));
        }
        let packs = (0..decoder.count(16)?)
            .map(|_| decoder.array().map(Id))
            .collect::<Result<Vec<Id>, _>>()?;
        let mut pieces: Vec<Piece> = Vec::with_capacity(count);
        while pieces.len() < count {
            let word = decoder.varint()?;
            let run = usize::try_from(word >> 2).unwrap_or(usize::MAX);
            if run == 0 || run > count - pieces.len() {
                return Err(format!("a run of {run} chunks where {} are left", count - pieces.len()));
            }
            let piece = match word & 3 {
                HOLE => Piece::Hole,
                ZERO => Piece::Zero,
                DATA => {
                    let index: usize = decoder.number()?;
                    let pack = *packs
                        .get(index)
                        .ok_or_else(|| format!("pack {index} of {}", packs.len()))?;
                    Piece::Data {
                        hash: [0; 32],
                        pack,
                        slot: decoder.number()?,
                    }
                }
                other => return Err(format!("a run of kind {other}")),
            };
            for further in 0..run as u32 {
                pieces.push(match piece {
                    Piece::Data { hash, pack, slot } => {
                        let slot = slot.checked_add(further).ok_or("a slot number overflows")?;
                        Piece::Data { hash, pack, slot }
                    }
                    other => other,
                });
            }
        }
        for piece in &mut pieces {
            if let Piece::Data { hash, .. } = piece {
                *hash = decoder.array()?;
            }
        }
        decoder.end()?;
        let section = Section { pieces };
        // Equal sections have equal bytes: that is what makes a shared section comparable.
        if section.encode() != bytes {
            return Err("it is not in its canonical form".to_owned());
        }
        Ok(section)
    }

    /// The slots that hold its chunks.
    pub(super) fn slots(&self) -> impl Iterator<Item = (Id, u32)> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Data { pack, slot, .. } => Some((*pack, *slot)),
            _ => None,
        })
    }

    /// The packs that hold its chunks.
    pub(super) fn packs(&self) -> impl Iterator<Item = Id> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Data { pack, .. } => Some(*pack),
            _ => None,
        })
    }
}

impl Run {
    fn continues_with(&self, next: &Run) -> bool {
        self.kind == next.kind
            && (self.kind != DATA
                || (self.pack == next.pack && u64::from(next.slot) == u64::from(self.slot) + self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn piece() -> impl Strategy<Value = Piece> {
        prop_oneof![
            Just(Piece::Hole),
            Just(Piece::Zero),
            (0u8..3, 0u32..6, any::<[u8; 32]>()).prop_map(|(pack, slot, hash)| Piece::Data {
                hash,
                pack: Id([pack; 16]),
                slot
            }),
        ]
    }

    proptest! {
        #[test]
        fn a_section_comes_back(pieces in proptest::collection::vec(piece(), 0..200)) {
            let section = Section { pieces };
            prop_assert_eq!(Section::decode(&section.encode()), Ok(section));
        }

        #[test]
        fn any_bytes_are_decoded_to_something_with_these_bytes_or_refused(bytes: Vec<u8>) {
            if let Ok(section) = Section::decode(&bytes) {
                prop_assert_eq!(section.encode(), bytes);
            }
        }
    }

    #[test]
    fn a_whole_section_of_one_pack_takes_little_more_than_its_hashes() {
        let data = |slot| Piece::Data {
            hash: [slot as u8; 32],
            pack: Id([7; 16]),
            slot,
        };
        let section = Section {
            pieces: (0..1024).map(data).collect(),
        };
        assert!(section.encode().len() < 1024 * 32 + 32);
        let zeros = Section {
            pieces: vec![Piece::Zero; 4096],
        };
        assert!(zeros.encode().len() < 8);
    }

    #[test]
    fn a_section_of_holes_is_written_without_its_pieces() {
        for chunks in [1, 31, 32, 1024, MOST_CHUNKS] {
            let pieces = vec![Piece::Hole; chunks];
            assert_eq!(
                SectionRef::hole(chunks),
                SectionRef::Inline(Section { pieces }.encode())
            );
        }
    }

    #[test]
    fn more_chunks_than_a_section_can_have_are_refused() {
        let mut encoder = Encoder::default();
        encoder.varint(1 << 40);
        encoder.varint(0);
        encoder.varint(1 << 42);
        assert!(Section::decode(&encoder.bytes).is_err());
    }
}
