//! Writing a backup: workers fill packs, a table lists the entries, the manifest commits.

use super::{ChunkClass, Draft, Entries, Entry, Manifest, Result, SectionRef};
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

/// A backup being written; shared by the workers (`Sync`).
pub struct Writer {}

impl Writer {
    /// The parent's entries in table order, if there is a readable parent.
    ///
    /// # Errors
    /// The parent's table is damaged.
    pub fn parent_entries(&self) -> Result<Option<Entries>> {
        todo!()
    }

    /// A worker for one thread.
    ///
    /// # Errors
    /// The compressor cannot be made.
    pub fn worker(&self) -> Result<Worker<'_>> {
        todo!()
    }

    /// The table of entries; there is one per backup.
    ///
    /// # Errors
    /// The compressor cannot be made.
    pub fn table(&self) -> Result<TableWriter<'_>> {
        todo!()
    }

    /// Makes everything durable, checks once more that what it refers to is there, and publishes the manifest.
    /// All workers were closed and the table finished before.
    ///
    /// # Errors
    /// Nothing was published.
    pub fn commit(self, _draft: Draft) -> Result<Manifest> {
        todo!()
    }
}

/// Writes sections of files for one thread: one compressor, one open data pack, one open meta pack.
pub struct Worker<'w> {
    _writer: &'w Writer,
}

impl<'w> Worker<'w> {
    /// Begins a section; `parent` is the parent's section of the same file at the same offset, with the same chunk class.
    /// A damaged or missing parent section is treated as absent.
    ///
    /// # Errors
    /// The store failed.
    pub fn section(&mut self, _class: ChunkClass, _parent: Option<&SectionRef>) -> Result<SectionBuilder<'_, 'w>> {
        todo!()
    }

    /// Closes the open packs.
    ///
    /// # Errors
    /// The store failed.
    pub fn close(self) -> Result<WorkerFigures> {
        todo!()
    }
}

/// A section that is being filled, chunk by chunk.
pub struct SectionBuilder<'b, 'w> {
    _worker: &'b mut Worker<'w>,
}

impl SectionBuilder<'_, '_> {
    /// The next chunk's bytes: exactly one chunk of the class, or the file's last, shorter one. Zero chunks are found here.
    ///
    /// # Errors
    /// The store failed.
    pub fn data(&mut self, _chunk: &[u8]) -> Result<()> {
        todo!()
    }

    /// So many whole chunks lie in a hole.
    pub fn hole(&mut self, _chunks: u32) {
        todo!()
    }

    /// Ends the section. A section equal to the parent's is not stored again: the parent's reference comes back.
    ///
    /// # Errors
    /// The store failed.
    pub fn finish(self) -> Result<SectionRef> {
        todo!()
    }
}

/// Writes the file table.
pub struct TableWriter<'w> {
    _writer: &'w Writer,
}

impl TableWriter<'_> {
    /// Adds an entry; entries come in table order (see [`super::Backup::entries`]).
    ///
    /// # Errors
    /// Out of order, or the store failed.
    pub fn push(&mut self, _entry: &Entry) -> Result<()> {
        todo!()
    }

    /// Ends the table.
    ///
    /// # Errors
    /// The store failed.
    pub fn finish(self) -> Result<()> {
        todo!()
    }
}
