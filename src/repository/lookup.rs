//! Looking up paths in a backup's file table without reading all of it each time.
//!
//! The table is sorted (see [`table_order`]), in blocks of about 256 KiB. Opening reads it once, block by block, and keeps the first key of each
//! block and the entries that have further names. After that a path is found by a binary search over first keys and one block, of which a few
//! are kept decoded. Memory: about 150 bytes per block and per hard link, plus [`KEPT`] decoded blocks (1 MiB each at most, as snapback writes
//! them): 10 million entries (1.5 GB of table) take less than 10 MB.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::entry::table_order;
use super::pack::PackReader;
use super::reader::{bad_slot, read_meta};
use super::table::{self, BlockRef};
use super::{Backup, Entry, EntryKind, Result};
use crate::sys::signal::Cancel;

/// Decoded blocks that are kept.
const KEPT: usize = 6;

/// An entry's place in its table: never changes, so it can name the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The block.
    pub block: u32,
    /// The entry in the block.
    pub index: u32,
}

type Block = Arc<Vec<Entry>>;

/// A backup's file table, open for lookups. Not for several threads at once.
pub struct Lookup {
    packs: PackReader,
    blocks: Vec<BlockRef>,
    /// Root and path of each block's first entry.
    firsts: Vec<(u32, Box<[u8]>)>,
    /// Names that a file has besides its first, for files that have any.
    further: HashMap<Place, u32>,
    /// The one used last comes first.
    kept: VecDeque<(u32, Block)>,
}

impl Lookup {
    /// Reads the whole table once; see the module for what is kept of it.
    ///
    /// # Errors
    /// The table is missing or damaged, or out of order; a signal asked to end.
    pub fn open(backup: &Backup, cancel: &Cancel) -> crate::Result<Lookup> {
        let (packs, blocks) = backup.table()?;
        let mut lookup = Lookup {
            packs,
            blocks,
            firsts: Vec::new(),
            further: HashMap::new(),
            kept: VecDeque::new(),
        };
        let mut links: HashMap<(u32, Vec<u8>), u32> = HashMap::new();
        let mut last: Option<(u32, Vec<u8>)> = None;
        for number in 0..lookup.blocks.len() as u32 {
            cancel.check()?;
            let block = lookup.decode(number)?;
            let at = &lookup.blocks[number as usize];
            let Some(first) = block.first() else {
                return Err(bad_slot(at, "a block without entries".to_owned()).into());
            };
            lookup.firsts.push((first.root, first.path.as_slice().into()));
            for entry in &block {
                let before = last.as_ref().map(|(root, path)| (*root, path.as_slice()));
                if before.is_some_and(|before| table_order(before, (entry.root, &entry.path)).is_ge()) {
                    let path = entry.path.escape_ascii();
                    return Err(bad_slot(at, format!("the entry `{path}` is out of order")).into());
                }
                if let EntryKind::HardLink(first) = &entry.kind {
                    *links.entry((entry.root, first.clone())).or_default() += 1;
                }
                last = Some((entry.root, entry.path.clone()));
            }
        }
        for ((root, path), count) in links {
            cancel.check()?;
            if let Some((place, _)) = lookup.find(root, &path)? {
                lookup.further.insert(place, count);
            }
        }
        Ok(lookup)
    }

    /// The entry with this path, and its place.
    ///
    /// # Errors
    /// A block is missing or damaged.
    pub fn find(&mut self, root: u32, path: &[u8]) -> Result<Option<(Place, Entry)>> {
        let key = (root, path);
        let place = self.first_where(|entry| table_order(entry, key).is_ge())?;
        let found = self.get(place)?;
        Ok(found
            .filter(|entry| (entry.root, entry.path.as_slice()) == key)
            .map(|entry| (place, entry)))
    }

    /// The entry at a place.
    ///
    /// # Errors
    /// A block is missing or damaged.
    pub fn get(&mut self, place: Place) -> Result<Option<Entry>> {
        if place.block as usize >= self.blocks.len() {
            return Ok(None);
        }
        Ok(self.block(place.block)?.get(place.index as usize).cloned())
    }

    /// The entry that holds the content of a hard link, and its place; for any other entry itself.
    ///
    /// # Errors
    /// A block is missing or damaged.
    pub fn content_of(&mut self, place: Place, entry: Entry) -> Result<Option<(Place, Entry)>> {
        match &entry.kind {
            EntryKind::HardLink(first) => self.find(entry.root, first),
            _ => Ok(Some((place, entry))),
        }
    }

    /// How many names the entry at this place has.
    pub fn names(&self, place: Place) -> u32 {
        1 + self.further.get(&place).copied().unwrap_or(0)
    }

    /// The next entry directly below a directory: the first, or the one after `after`. What lies below subdirectories is jumped over.
    ///
    /// # Errors
    /// A block is missing or damaged.
    pub fn child(&mut self, root: u32, directory: &[u8], after: Option<Place>) -> Result<Option<(Place, Entry)>> {
        let after = after.map(|place| self.get(place)).transpose()?.flatten();
        let place = match after {
            // Behind everything below it: a subtree is contiguous.
            Some(child) => self.first_where(|entry| {
                table_order(entry, (child.root, &child.path)).is_gt() && !is_within(entry, child.root, &child.path)
            })?,
            None => self.first_where(|entry| table_order(entry, (root, directory)).is_gt())?,
        };
        let found = self.get(place)?;
        let inside = |entry: &Entry| is_within((entry.root, &entry.path), root, directory);
        Ok(found.filter(inside).map(|entry| (place, entry)))
    }

    /// The place of the first entry for which `reached` holds; it holds for all that follow.
    fn first_where(&mut self, reached: impl Fn((u32, &[u8])) -> bool) -> Result<Place> {
        let after = self.firsts.partition_point(|(root, path)| !reached((*root, path)));
        let Some(block) = after.checked_sub(1) else {
            return Ok(Place { block: 0, index: 0 });
        };
        let entries = self.block(block as u32)?;
        let index = entries.partition_point(|entry| !reached((entry.root, &entry.path)));
        // Behind a block's last entry comes the next one's first.
        let (block, index) = if index == entries.len() {
            (block + 1, 0)
        } else {
            (block, index)
        };
        Ok(Place {
            block: block as u32,
            index: index as u32,
        })
    }

    fn block(&mut self, number: u32) -> Result<Block> {
        if let Some(at) = self.kept.iter().position(|(known, _)| *known == number) {
            if let Some(found) = self.kept.remove(at) {
                self.kept.push_front(found);
            }
        } else {
            let block = Arc::new(self.decode(number)?);
            self.kept.truncate(KEPT - 1);
            self.kept.push_front((number, block));
        }
        Ok(Arc::clone(&self.kept[0].1))
    }

    fn decode(&mut self, number: u32) -> Result<Vec<Entry>> {
        let at = self.blocks[number as usize];
        let bytes = read_meta(&mut self.packs, &at)?;
        table::decode_block(&bytes).map_err(|reason| bad_slot(&at, reason))
    }
}

/// Whether an entry lies below a directory (not the directory itself).
fn is_within(entry: (u32, &[u8]), root: u32, directory: &[u8]) -> bool {
    entry.0 == root
        && match entry.1.strip_prefix(directory) {
            Some(rest) if directory.is_empty() => !rest.is_empty(),
            Some(rest) => rest.first() == Some(&b'/'),
            None => false,
        }
}

#[cfg(test)]
mod tests;
