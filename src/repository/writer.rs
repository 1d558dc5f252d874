//! Writing a backup: workers fill packs, a table lists the entries, the manifest commits.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::begin::Parent;
use super::entry::table_order;
use super::keys::{PackName, pack_key};
use super::pack::{Finisher, Kind, PackWriter};
use super::read_back::{ReadBack, ReadBackReport};
use super::running;
use super::table::{BLOCK, BlockRef};
use super::used::Used;
use super::wire::Encoder;
use super::worker::Worker;
use super::{Entries, Entry, EntryKind, Error, Repository, Result, SizeFigures};
use crate::units::Id;

/// How a backup is written.
#[derive(Debug, Clone)]
pub struct WriterOptions {
    /// The backup's id: the run's.
    pub id: Id,
    /// The backup to compare with.
    pub parent: Option<Id>,
    /// zstd level (1 by default).
    pub level: i32,
}

/// What one worker, or all of them, added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkerFigures {
    /// Bytes of chunks that were not in the parent at the same offset.
    pub bytes_new: u64,
    /// Bytes added to the store.
    pub bytes_stored: u64,
}

/// A backup being written; shared by the workers (`Sync`). Dropped without a commit, it removes the packs that it had published.
pub struct Writer {
    pub(super) repository: Repository,
    pub(super) options: WriterOptions,
    pub(super) parent: Option<Parent>,
    pub(super) finisher: Finisher,
    pub(super) read_back: ReadBack,
    pub(super) state: Mutex<State>,
}

/// What workers and table leave for the commit.
#[derive(Default)]
pub(super) struct State {
    /// Slots that sections refer to, and that hold sections or blocks of the table.
    pub referenced: Used,
    /// The finished table: its blocks, and the pack that is still open.
    pub table: Option<(Vec<BlockRef>, PackWriter)>,
    pub sizes: SizeFigures,
    /// From here on a manifest may exist, so nothing may be removed.
    pub published: bool,
}

impl Writer {
    pub(super) fn new(
        repository: Repository,
        options: WriterOptions,
        parent: Option<Parent>,
        finisher: Finisher,
    ) -> Writer {
        Writer {
            repository,
            options,
            parent,
            finisher,
            read_back: ReadBack::default(),
            state: Mutex::default(),
        }
    }

    /// Reads one of `every` chunks that the parent has back from the store, others in each run; 0, the default, for none. The chunks of a
    /// pack that turns out to be damaged are stored anew from then on.
    #[must_use]
    pub fn with_read_back(mut self, every: u32) -> Writer {
        let salt = blake3::hash(self.options.id.to_string().as_bytes());
        let [a, b, c, d, ..] = *salt.as_bytes();
        self.read_back = ReadBack::new(every, u32::from_le_bytes([a, b, c, d]));
        self
    }

    /// What reading back has shown so far.
    pub fn read_back(&self) -> ReadBackReport {
        self.read_back.report()
    }

    /// The parent's entries in table order, if there is a parent.
    ///
    /// # Errors
    /// The parent's table is damaged.
    pub fn parent_entries(&self) -> Result<Option<Entries>> {
        self.parent.as_ref().map(|parent| parent.backup.entries()).transpose()
    }

    /// The parent that this backup is compared with.
    pub fn parent_id(&self) -> Option<Id> {
        self.parent.as_ref().map(|parent| parent.backup.manifest().id)
    }

    /// A worker for one thread.
    ///
    /// # Errors
    /// The compressor cannot be made.
    pub fn worker(&self) -> Result<Worker<'_>> {
        Worker::new(self)
    }

    /// The table of entries; there is one per backup.
    ///
    /// # Errors
    /// The compressor cannot be made, or the store cannot be written.
    pub fn table(&self) -> Result<TableWriter<'_>> {
        Ok(TableWriter {
            writer: self,
            meta: MetaPack::new(self)?,
            block: Encoder::default(),
            blocks: Vec::new(),
            last: None,
            sizes: SizeFigures::default(),
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin_pack(&self, kind: Kind) -> Result<PackWriter> {
        let name = PackName::first(running::pack_id(self.options.id));
        PackWriter::begin(&*self.repository.store, &self.repository.keys, kind, name)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let published = self.finisher.join();
        if self.state().published {
            return;
        }
        // No manifest can refer to them: a run that fails for lack of room gives back what it took.
        for pack in published {
            let _ = self.repository.store.delete(&pack_key(pack.id));
        }
    }
}

pub(super) fn compressor(level: i32) -> Result<zstd::bulk::Compressor<'static>> {
    zstd::bulk::Compressor::new(level).map_err(|error| Error::Unusable(format!("zstd: {error}")))
}

/// Compresses into `into`, whose capacity is made large enough for anything.
pub(super) fn compress(compressor: &mut zstd::bulk::Compressor<'_>, plain: &[u8], into: &mut Vec<u8>) -> Result<()> {
    into.clear();
    into.reserve(zstd::zstd_safe::compress_bound(plain.len()));
    compressor
        .compress_to_buffer(plain, into)
        .map_err(|error| Error::Unusable(format!("zstd: {error}")))?;
    Ok(())
}

/// The open meta pack of a worker or of the table.
pub(super) struct MetaPack<'w> {
    writer: &'w Writer,
    open: Option<PackWriter>,
    compressor: zstd::bulk::Compressor<'static>,
    compressed: Vec<u8>,
    /// Bytes of the packs that were closed.
    pub stored: u64,
}

impl<'w> MetaPack<'w> {
    pub fn new(writer: &'w Writer) -> Result<MetaPack<'w>> {
        let compressor = compressor(writer.options.level)?;
        Ok(MetaPack {
            writer,
            open: None,
            compressor,
            compressed: Vec::new(),
            stored: 0,
        })
    }

    /// Stores one meta slot.
    pub fn add(&mut self, plain: &[u8]) -> Result<BlockRef> {
        if self.open.as_ref().is_some_and(PackWriter::is_full) {
            self.close()?;
        }
        compress(&mut self.compressor, plain, &mut self.compressed)?;
        let hash = self.writer.repository.keys.chunk(plain);
        let pack = match &mut self.open {
            Some(pack) => pack,
            none => none.insert(self.writer.begin_pack(Kind::Meta)?),
        };
        let slot = pack.add(plain, Some(&self.compressed), hash)?;
        Ok(BlockRef {
            pack: pack.id,
            slot,
            hash,
        })
    }

    pub fn close(&mut self) -> Result<()> {
        if let Some(pack) = self.open.take() {
            let finished = self.writer.finisher.finish(pack)?;
            self.stored += finished.size;
        }
        Ok(())
    }
}

/// Writes the file table.
pub struct TableWriter<'w> {
    writer: &'w Writer,
    meta: MetaPack<'w>,
    block: Encoder,
    blocks: Vec<BlockRef>,
    last: Option<(u32, Vec<u8>)>,
    sizes: SizeFigures,
}

impl TableWriter<'_> {
    /// Adds an entry; entries come in table order (see [`table_order`]).
    ///
    /// # Errors
    /// Out of order, or the store failed.
    pub fn push(&mut self, entry: &Entry) -> Result<()> {
        if let Some((root, path)) = &self.last
            && table_order((*root, path), (entry.root, &entry.path)).is_ge()
        {
            return Err(Error::Unusable(format!(
                "the entry `{}` is out of order",
                entry.path.escape_ascii()
            )));
        }
        self.last = Some((entry.root, entry.path.clone()));
        self.sizes.entries += 1;
        if let EntryKind::File(content) = &entry.kind {
            self.sizes.bytes += content.size;
        }
        entry.encode(&mut self.block);
        if self.block.bytes.len() >= BLOCK {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> Result<()> {
        let bytes = std::mem::take(&mut self.block.bytes);
        if !bytes.is_empty() {
            self.blocks.push(self.meta.add(&bytes)?);
        }
        Ok(())
    }

    /// Ends the table.
    ///
    /// # Errors
    /// The store failed.
    pub fn finish(mut self) -> Result<()> {
        self.flush()?;
        let open = match self.meta.open.take() {
            Some(pack) if !pack.is_full() => pack,
            full => {
                self.meta.open = full;
                self.meta.close()?;
                self.writer.begin_pack(Kind::Meta)?
            }
        };
        let mut state = self.writer.state();
        state.sizes.entries = self.sizes.entries;
        state.sizes.bytes = self.sizes.bytes;
        let closed = self.blocks.iter().filter(|block| block.pack != open.id);
        closed.for_each(|block| state.referenced.insert(block.pack, block.slot));
        state.table = Some((self.blocks, open));
        Ok(())
    }
}
