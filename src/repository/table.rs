//! The file table: entries in blocks, an index of the blocks, and the table of packs that a backup refers to.

use super::entry::Entry;
use super::keys::Hash;
use super::pack::Finished;
use super::wire::{Decoder, Encoder, Malformed};
use crate::units::Id;

/// A block is closed once its entries take this many bytes.
pub(super) const BLOCK: usize = 256 << 10;

/// Where a block of the table lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockRef {
    pub pack: Id,
    pub slot: u32,
    pub hash: Hash,
}

pub(super) fn encode_index(blocks: &[BlockRef]) -> Vec<u8> {
    let mut encoder = Encoder::default();
    encoder.varint(blocks.len() as u64);
    for block in blocks {
        encoder.raw(&block.pack.0);
        encoder.varint(u64::from(block.slot));
        encoder.raw(&block.hash);
    }
    encoder.bytes
}

pub(super) fn decode_index(bytes: &[u8]) -> Result<Vec<BlockRef>, Malformed> {
    let mut decoder = Decoder::new(bytes);
    let mut blocks = Vec::new();
    for _ in 0..decoder.count(49)? {
        blocks.push(BlockRef {
            pack: Id(decoder.array()?),
            slot: decoder.number()?,
            hash: decoder.array()?,
        });
    }
    decoder.end()?;
    Ok(blocks)
}

pub(super) fn decode_block(bytes: &[u8]) -> Result<Vec<Entry>, Malformed> {
    let mut decoder = Decoder::new(bytes);
    let mut entries = Vec::new();
    while !decoder.is_empty() {
        // The writer closes a block at the first entry that ends behind this; so few bytes cannot become very many entries.
        if bytes.len() - decoder.left() >= BLOCK {
            return Err(format!("an entry begins behind the first {BLOCK} bytes of its block"));
        }
        entries.push(Entry::decode(&mut decoder)?);
    }
    Ok(entries)
}

/// Sorted by id, so that equal sets have equal bytes.
pub(super) fn encode_packs(packs: &[Finished]) -> Vec<u8> {
    let mut encoder = Encoder::default();
    encoder.varint(packs.len() as u64);
    for pack in packs {
        encoder.raw(&pack.id.0);
        encoder.varint(pack.size);
        encoder.raw(&pack.digest);
    }
    encoder.bytes
}

pub(super) fn decode_packs(bytes: &[u8]) -> Result<Vec<Finished>, Malformed> {
    let mut decoder = Decoder::new(bytes);
    let mut packs: Vec<Finished> = Vec::new();
    for _ in 0..decoder.count(49)? {
        let pack = Finished {
            id: Id(decoder.array()?),
            size: decoder.varint()?,
            digest: decoder.array()?,
        };
        if packs.last().is_some_and(|last| last.id >= pack.id) {
            return Err("its packs are not in order".to_owned());
        }
        packs.push(pack);
    }
    decoder.end()?;
    Ok(packs)
}

#[cfg(test)]
mod tests {
    use super::super::entry::{EntryKind, Metadata};
    use super::*;

    #[test]
    fn tables_come_back() {
        let blocks = vec![
            BlockRef {
                pack: Id([1; 16]),
                slot: 300,
                hash: [2; 32]
            };
            5
        ];
        assert_eq!(decode_index(&encode_index(&blocks)), Ok(blocks));
        let packs: Vec<Finished> = (0..5)
            .map(|n| Finished {
                id: Id([n; 16]),
                size: 1 << (9 * n),
                digest: [n; 32],
            })
            .collect();
        assert_eq!(decode_packs(&encode_packs(&packs)), Ok(packs.clone()));
        let twice = [packs[1], packs[1]];
        assert!(decode_packs(&encode_packs(&twice)).is_err());
    }

    #[test]
    fn a_block_has_no_more_entries_than_a_writer_puts_into_one() {
        let mut encoder = Encoder::default();
        while encoder.bytes.len() < BLOCK {
            entry().encode(&mut encoder);
        }
        let whole = encoder.bytes.len();
        assert!(decode_block(&encoder.bytes).is_ok());
        entry().encode(&mut encoder);
        assert!(decode_block(&encoder.bytes).unwrap_err().contains("behind"), "{whole}");
    }

    fn entry() -> Entry {
        Entry {
            root: 0,
            path: vec![b'x'; 100],
            kind: EntryKind::Directory,
            metadata: Metadata::default(),
            live: false,
            torn: false,
        }
    }

    #[test]
    fn a_count_that_lies_is_refused_before_memory_is_taken() {
        let mut encoder = Encoder::default();
        encoder.varint(u64::MAX);
        assert!(decode_index(&encoder.bytes).is_err());
        assert!(decode_packs(&encoder.bytes).is_err());
    }
}
