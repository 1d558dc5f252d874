//! Reading a backup: its entries in order, its sections, its chunks; each verified before it is given out.

use super::{Entry, Manifest, Piece, Result, Section, SectionRef};

/// A backup that can be read. Cheap to share between threads.
pub struct Backup {
    manifest: Manifest,
}

impl Backup {
    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// All entries, sorted by root, then by path (compared component by component, bytewise; a directory before its content).
    ///
    /// # Errors
    /// The file table's root is missing or damaged.
    pub fn entries(&self) -> Result<Entries> {
        todo!()
    }

    /// A reader of sections and chunks for one thread: own buffers, own decompressor, a small cache of pack footers.
    ///
    /// # Errors
    /// The decompressor cannot be made.
    pub fn fetcher(&self) -> Result<Fetcher> {
        todo!()
    }
}

/// Iterates over a backup's entries with bounded memory.
pub struct Entries {}

impl Iterator for Entries {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Result<Entry>> {
        todo!()
    }
}

/// Reads sections and chunks; one per thread.
pub struct Fetcher {}

impl Fetcher {
    /// Reads and verifies a section.
    ///
    /// # Errors
    /// It is missing or damaged.
    pub fn section(&mut self, _at: &SectionRef) -> Result<Section> {
        todo!()
    }

    /// Reads, decompresses and verifies one data piece into `into` (cleared first).
    /// `expected` is the chunk's length in bytes; anything else is damage. Zero and hole pieces give `expected` zero bytes.
    ///
    /// # Errors
    /// It is missing or damaged.
    pub fn chunk(&mut self, _piece: &Piece, _expected: usize, _into: &mut Vec<u8>) -> Result<()> {
        todo!()
    }
}
