//! Reading a backup: its entries in order, its sections, its chunks; each verified before it is given out.

use std::collections::VecDeque;
use std::sync::Arc;

use super::entry::table_order;
use super::keys::{Keys, pack_key};
use super::pack::{Finished, Kind, PackReader, Sizes};
use super::table::{self, BlockRef};
use super::{Entry, Error, Manifest, Piece, Repository, Result, Section, SectionRef};
use crate::store::Store;

/// A backup that can be read. Cheap to share between threads.
#[derive(Clone)]
pub struct Backup {
    store: Arc<dyn Store>,
    keys: Keys,
    manifest: Arc<Manifest>,
    /// Reads what is left of damaged packs.
    salvage: Option<Arc<Sizes>>,
}

impl Backup {
    pub(super) fn new(repository: &Repository, manifest: Manifest) -> Backup {
        Backup {
            store: Arc::clone(&repository.store),
            keys: repository.keys.clone(),
            manifest: Arc::new(manifest),
            salvage: None,
        }
    }

    /// The same backup, read with more patience: packs whose footer does not verify are read as far as their slots do.
    /// Whatever comes out is verified as always.
    pub fn salvaging(&self) -> Backup {
        let root = self.manifest.root.finished();
        let patient = Backup {
            salvage: Some(Arc::new([(root.id, root.size)].into())),
            ..self.clone()
        };
        let packs = patient.packs().unwrap_or_default();
        let sizes = packs.into_iter().chain([root]).map(|pack| (pack.id, pack.size));
        Backup {
            salvage: Some(Arc::new(sizes.collect())),
            ..patient
        }
    }

    fn reader(&self) -> Result<PackReader> {
        PackReader::new(Arc::clone(&self.store), self.keys.clone(), self.salvage.clone())
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// All entries, sorted by root, then by path (see [`table_order`]).
    ///
    /// # Errors
    /// The file table's root is missing or damaged.
    pub fn entries(&self) -> Result<Entries> {
        let (packs, blocks) = self.table()?;
        Ok(Entries {
            packs,
            blocks: blocks.into(),
            block: VecDeque::new(),
            last: None,
        })
    }

    /// The blocks of the file table, and what reads them.
    pub(super) fn table(&self) -> Result<(PackReader, Vec<BlockRef>)> {
        let mut packs = self.reader()?;
        let blocks = self.blocks_by(&mut packs)?;
        Ok((packs, blocks))
    }

    /// Where the blocks of the file table lie.
    pub(super) fn blocks(&self) -> Result<Vec<BlockRef>> {
        self.blocks_by(&mut self.reader()?)
    }

    fn blocks_by(&self, packs: &mut PackReader) -> Result<Vec<BlockRef>> {
        let root = self.manifest.root.table();
        let index = read_meta(packs, &root)?;
        table::decode_index(&index).map_err(|reason| bad_slot(&root, reason))
    }

    /// The packs that the backup refers to, but for the one of its root.
    pub(super) fn packs(&self) -> Result<Vec<Finished>> {
        let mut packs = self.reader()?;
        let root = self.manifest.root.packs();
        let bytes = read_meta(&mut packs, &root)?;
        table::decode_packs(&bytes).map_err(|reason| bad_slot(&root, reason))
    }

    /// A reader of sections and chunks for one thread: own buffers, own decompressor, a small cache of pack footers.
    ///
    /// # Errors
    /// The decompressor cannot be made.
    pub fn fetcher(&self) -> Result<Fetcher> {
        Ok(Fetcher::of(self.reader()?))
    }
}

pub(super) fn read_meta(packs: &mut PackReader, at: &BlockRef) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    packs.read(at.pack, at.slot, Kind::Meta, &at.hash, &mut bytes)?;
    Ok(bytes)
}

pub(super) fn bad_slot(at: &BlockRef, reason: String) -> Error {
    Error::damaged(pack_key(at.pack), format!("slot {}: {reason}", at.slot))
}

/// Iterates over a backup's entries with bounded memory. A block that is missing or damaged is one error in the place of all its
/// entries; the next block's entries follow.
pub struct Entries {
    packs: PackReader,
    blocks: VecDeque<BlockRef>,
    block: VecDeque<Entry>,
    last: Option<(u32, Vec<u8>)>,
}

impl Entries {
    fn read(&mut self) -> Result<Option<Entry>> {
        while self.block.is_empty() {
            let Some(at) = self.blocks.pop_front() else {
                return Ok(None);
            };
            let bytes = read_meta(&mut self.packs, &at)?;
            let block = table::decode_block(&bytes).map_err(|reason| bad_slot(&at, reason))?;
            self.last = self.check_order(&block, &at)?;
            self.block = block.into();
        }
        Ok(self.block.pop_front())
    }

    /// Strictly ascending: no path comes twice, whoever wrote the table. Returns the last entry's place.
    fn check_order(&self, block: &[Entry], at: &BlockRef) -> Result<Option<(u32, Vec<u8>)>> {
        let mut last = self.last.as_ref().map(|(root, path)| (*root, &path[..]));
        for entry in block {
            if last.is_some_and(|last| table_order(last, (entry.root, &entry.path)).is_ge()) {
                let path = entry.path.escape_ascii();
                return Err(bad_slot(at, format!("the entry `{path}` is out of order")));
            }
            last = Some((entry.root, &entry.path));
        }
        Ok(last.map(|(root, path)| (root, path.to_vec())))
    }
}

impl Iterator for Entries {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Result<Entry>> {
        self.read().transpose()
    }
}

/// Reads sections and chunks; one per thread.
pub struct Fetcher {
    packs: PackReader,
    buffer: Vec<u8>,
}

impl Fetcher {
    pub(super) fn new(store: Arc<dyn Store>, keys: Keys) -> Result<Fetcher> {
        Ok(Fetcher::of(PackReader::new(store, keys, None)?))
    }

    /// For single chunks here and there.
    pub(super) fn scattered(store: Arc<dyn Store>, keys: Keys) -> Result<Fetcher> {
        Ok(Fetcher::of(PackReader::new(store, keys, None)?.scattered()))
    }

    fn of(packs: PackReader) -> Fetcher {
        Fetcher {
            packs,
            buffer: Vec::new(),
        }
    }

    /// Reads and verifies a section, which must have this many chunks ([`super::Content::section_chunks`]).
    ///
    /// # Errors
    /// It is missing or damaged.
    pub fn section(&mut self, at: &SectionRef, chunks: usize) -> Result<Section> {
        let (section, object) = match at {
            SectionRef::Inline(bytes) => (Section::decode(bytes), "a section in the file table".to_owned()),
            SectionRef::Stored { pack, slot, hash } => {
                self.packs.read(*pack, *slot, Kind::Meta, hash, &mut self.buffer)?;
                (Section::decode(&self.buffer), pack_key(*pack))
            }
        };
        let section = section.map_err(|reason| Error::damaged(&object, reason))?;
        if section.pieces.len() != chunks {
            let reason = format!(
                "a section of {} chunks where {chunks} are expected",
                section.pieces.len()
            );
            return Err(Error::damaged(object, reason));
        }
        Ok(section)
    }

    /// Reads, decompresses and verifies one data piece into `into` (cleared first).
    /// `expected` is the chunk's length in bytes; anything else is damage. Zero and hole pieces give `expected` zero bytes.
    ///
    /// # Errors
    /// It is missing or damaged.
    pub fn chunk(&mut self, piece: &Piece, expected: usize, into: &mut Vec<u8>) -> Result<()> {
        let Piece::Data { hash, pack, slot } = piece else {
            into.clear();
            into.resize(expected, 0);
            return Ok(());
        };
        self.packs.read(*pack, *slot, Kind::Data, hash, into)?;
        if into.len() != expected {
            let reason = format!("slot {slot} has {} bytes where {expected} are expected", into.len());
            into.clear();
            return Err(Error::damaged(pack_key(*pack), reason));
        }
        Ok(())
    }

    /// Whether a data piece's pack has the slot with that hash and length, without reading the data.
    ///
    /// # Errors
    /// It has not.
    pub(super) fn look_up(&mut self, piece: &Piece) -> Result<()> {
        let Piece::Data { hash, pack, slot } = piece else {
            return Ok(());
        };
        self.packs.look_up(*pack, *slot, Kind::Data, hash)
    }
}
