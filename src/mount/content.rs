//! Verified reads anywhere in a file.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::recent::Recent;
use crate::repository::{Backup, Content, Fetcher, Piece, Result, SECTION_BYTES, Section, SectionRef};

/// Sections that are kept decoded (230 KiB each at most).
const SECTIONS: usize = 32;
/// Chunks that are kept, and their bytes in all.
const CHUNKS: usize = 512;
const CHUNK_BYTES: usize = 32 << 20;

/// Reads for all threads.
pub(super) struct Reads {
    /// Those that nobody uses just now: at most one per thread.
    fetchers: Mutex<Vec<Fetcher>>,
    sections: Recent<[u8; 32], Section>,
    chunks: Recent<[u8; 32], Vec<u8>>,
}

impl Reads {
    pub fn new() -> Reads {
        Reads {
            fetchers: Mutex::default(),
            sections: Recent::new(SECTIONS, usize::MAX),
            chunks: Recent::new(CHUNKS, CHUNK_BYTES),
        }
    }

    /// The bytes of a range; fewer only at the file's end.
    ///
    /// # Errors
    /// What is stored is missing or damaged.
    pub fn read(&self, backup: &Backup, content: &Content, range: Range<u64>) -> Result<Vec<u8>> {
        let range = range.start..range.end.min(content.size);
        let mut bytes = Vec::with_capacity(range.end.saturating_sub(range.start) as usize);
        self.with_fetcher(backup, |fetcher| {
            let mut at = range.start;
            while at < range.end {
                let index = (at / SECTION_BYTES) as usize;
                let section = self.section(fetcher, content, index)?;
                let (start, chunk) = (index as u64 * SECTION_BYTES, content.class.bytes() as u64);
                let end = range.end.min(start + SECTION_BYTES);
                while at < end {
                    let number = (at - start) / chunk;
                    let from = start + number * chunk;
                    let length = chunk.min(content.size - from);
                    let upto = end.min(from + length);
                    let inside = (at - from) as usize..(upto - from) as usize;
                    match &section.pieces[number as usize] {
                        Piece::Data { hash, .. } => {
                            let plain = self.chunk(fetcher, &section.pieces[number as usize], hash, length as usize)?;
                            bytes.extend_from_slice(&plain[inside]);
                        }
                        Piece::Zero | Piece::Hole => bytes.resize(bytes.len() + inside.len(), 0),
                    }
                    at = upto;
                }
            }
            Ok(())
        })?;
        Ok(bytes)
    }

    /// The first offset from `from` on that is data (or a hole): what a restore writes, and what it leaves out. The file's end is a hole.
    ///
    /// # Errors
    /// What is stored is missing or damaged.
    pub fn seek(&self, backup: &Backup, content: &Content, from: u64, data: bool) -> Result<Option<u64>> {
        let mut found = None;
        self.with_fetcher(backup, |fetcher| {
            let chunk = content.class.bytes() as u64;
            let first = (from / SECTION_BYTES) as usize;
            for index in first..content.sections.len() {
                let section = self.section(fetcher, content, index)?;
                for (number, piece) in section.pieces.iter().enumerate() {
                    let start = index as u64 * SECTION_BYTES + number as u64 * chunk;
                    if start + chunk > from && is_data(piece, content) == data {
                        found = Some(start.max(from));
                        return Ok(());
                    }
                }
            }
            Ok(())
        })?;
        Ok(found.or((!data).then_some(content.size)))
    }

    fn with_fetcher(&self, backup: &Backup, work: impl FnOnce(&mut Fetcher) -> Result<()>) -> Result<()> {
        let lock = || self.fetchers.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = lock().pop();
        let mut fetcher = idle.map_or_else(|| backup.fetcher(), Ok)?;
        let answer = work(&mut fetcher);
        lock().push(fetcher);
        answer
    }

    fn section(&self, fetcher: &mut Fetcher, content: &Content, index: usize) -> Result<Arc<Section>> {
        let (at, chunks) = (&content.sections[index], content.section_chunks(index));
        let SectionRef::Stored { hash, .. } = at else {
            return Ok(Arc::new(fetcher.section(at, chunks)?));
        };
        // The count belongs to the file, not to the section: a shared one is checked again.
        if let Some(known) = self.sections.get(hash).filter(|known| known.pieces.len() == chunks) {
            return Ok(known);
        }
        let section = Arc::new(fetcher.section(at, chunks)?);
        self.sections.put(*hash, Arc::clone(&section), 0);
        Ok(section)
    }

    fn chunk(&self, fetcher: &mut Fetcher, piece: &Piece, hash: &[u8; 32], length: usize) -> Result<Arc<Vec<u8>>> {
        if let Some(known) = self.chunks.get(hash).filter(|known| known.len() == length) {
            return Ok(known);
        }
        let mut plain = Vec::new();
        fetcher.chunk(piece, length, &mut plain)?;
        let plain = Arc::new(plain);
        self.chunks.put(*hash, Arc::clone(&plain), length);
        Ok(plain)
    }
}

/// Whether a restore writes the piece.
fn is_data(piece: &Piece, content: &Content) -> bool {
    match piece {
        Piece::Data { .. } => true,
        Piece::Zero => !content.sparse,
        Piece::Hole => false,
    }
}
