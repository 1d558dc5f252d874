//! A worker stores sections of files: chunks that the parent has at the same offset keep their place, others go into its open pack.

use std::sync::Arc;

use super::pack::{Kind, PackWriter};
use super::section::INLINE;
use super::used::Used;
use super::writer::{MetaPack, WorkerFigures, Writer, compress, compressor};
use super::{ChunkClass, Error, Fetcher, Piece, Result, SECTION_BYTES, Section, SectionRef};
use crate::units::Id;

/// Writes sections of files for one thread: one compressor, one open data pack, one open meta pack.
pub struct Worker<'w> {
    writer: &'w Writer,
    data: Option<PackWriter>,
    meta: MetaPack<'w>,
    parent: Option<Fetcher>,
    /// Reads single chunks of the parent back.
    back: Option<Fetcher>,
    read_back: Vec<u8>,
    compressor: zstd::bulk::Compressor<'static>,
    compressed: Vec<u8>,
    /// Slots that its sections refer to, and that hold them.
    referenced: Used,
    figures: WorkerFigures,
}

impl<'w> Worker<'w> {
    pub(super) fn new(writer: &'w Writer) -> Result<Worker<'w>> {
        let repository = &writer.repository;
        let fetcher = || Fetcher::new(Arc::clone(&repository.store), repository.keys.clone());
        let scattered = || Fetcher::scattered(Arc::clone(&repository.store), repository.keys.clone());
        Ok(Worker {
            writer,
            data: None,
            meta: MetaPack::new(writer)?,
            parent: writer.parent.as_ref().map(|_| fetcher()).transpose()?,
            back: writer.parent.as_ref().map(|_| scattered()).transpose()?,
            read_back: Vec::new(),
            compressor: compressor(writer.options.level)?,
            compressed: Vec::new(),
            referenced: Used::default(),
            figures: WorkerFigures::default(),
        })
    }

    /// Begins a section; `parent` is the parent's section of the same file at the same offset with the same chunk class, and how
    /// many chunks it has. A damaged or missing parent section is treated as absent.
    ///
    /// # Errors
    /// The store failed.
    pub fn section(
        &mut self,
        class: ChunkClass,
        parent: Option<(&SectionRef, usize)>,
    ) -> Result<SectionBuilder<'_, 'w>> {
        self.writer.finisher.check()?;
        let known =
            parent.and_then(|(at, chunks)| self.parent_section(at, chunks).map(|section| (section, at.clone())));
        let (parent, parent_ref) = known.map_or((Vec::new(), None), |(section, at)| (section.pieces, Some(at)));
        Ok(SectionBuilder {
            worker: self,
            class,
            parent,
            parent_ref,
            pieces: Vec::new(),
            ended: false,
        })
    }

    fn parent_section(&mut self, at: &SectionRef, chunks: usize) -> Option<Section> {
        if matches!(at, SectionRef::Stored { pack, slot, .. } if !self.is_usable(*pack, *slot)) {
            return None;
        }
        match self.parent.as_mut()?.section(at, chunks) {
            Ok(section) => Some(section),
            Err(error) => {
                tracing::warn!(%error, "the parent's section cannot be compared with");
                None
            }
        }
    }

    fn is_usable(&self, pack: Id, slot: u32) -> bool {
        let parent = self.writer.parent.as_ref();
        parent.is_some_and(|parent| parent.has(pack, slot)) && !self.writer.read_back.is_damaged(pack)
    }

    /// Whether a chunk that the parent has may be shared with it: those in the sample are read back first.
    fn is_shareable(&mut self, known: &Piece, length: usize) -> bool {
        let Piece::Data { hash, pack, slot } = known else {
            return false;
        };
        let read_back = &self.writer.read_back;
        if !self.is_usable(*pack, *slot) {
            return false;
        }
        let Some(back) = self.back.as_mut().filter(|_| read_back.chooses(hash)) else {
            return true;
        };
        let answer = back.chunk(known, length, &mut self.read_back);
        read_back.note(*pack, &answer);
        if let Err(error) = &answer {
            tracing::warn!(%error, "a chunk of the parent does not verify");
        }
        answer.is_ok()
    }

    fn store(&mut self, chunk: &[u8], hash: [u8; 32]) -> Result<Piece> {
        if self.data.as_ref().is_some_and(PackWriter::is_full) {
            self.close_data()?;
        }
        compress(&mut self.compressor, chunk, &mut self.compressed)?;
        let pack = match &mut self.data {
            Some(pack) => pack,
            none => none.insert(self.writer.begin_pack(Kind::Data)?),
        };
        let slot = pack.add(chunk, Some(&self.compressed), hash)?;
        self.figures.bytes_new += chunk.len() as u64;
        Ok(Piece::Data {
            hash,
            pack: pack.id,
            slot,
        })
    }

    fn close_data(&mut self) -> Result<()> {
        if let Some(pack) = self.data.take() {
            self.figures.bytes_stored += self.writer.finisher.finish(pack)?.size;
        }
        Ok(())
    }

    /// Closes the open packs.
    ///
    /// # Errors
    /// The store failed.
    pub fn close(mut self) -> Result<WorkerFigures> {
        self.close_data()?;
        self.meta.close()?;
        self.figures.bytes_stored += self.meta.stored;
        self.writer.state().referenced.merge(&self.referenced);
        Ok(self.figures)
    }
}

/// A section that is being filled, chunk by chunk.
pub struct SectionBuilder<'b, 'w> {
    worker: &'b mut Worker<'w>,
    class: ChunkClass,
    parent: Vec<Piece>,
    parent_ref: Option<SectionRef>,
    pieces: Vec<Piece>,
    /// A short chunk was the last one.
    ended: bool,
}

impl SectionBuilder<'_, '_> {
    /// The next chunk's bytes: exactly one chunk of the class, or the file's last, shorter one. Zero chunks are found here.
    ///
    /// # Errors
    /// The store failed.
    pub fn data(&mut self, chunk: &[u8]) -> Result<()> {
        self.expect_room(1)?;
        if chunk.is_empty() || chunk.len() > self.class.bytes() {
            return Err(Error::Unusable(format!("a chunk of {} bytes", chunk.len())));
        }
        self.ended = chunk.len() < self.class.bytes();
        let piece = if is_zero(chunk) {
            Piece::Zero
        } else {
            let hash = self.worker.writer.repository.keys.chunk(chunk);
            let known = self.parent.get(self.pieces.len()).copied();
            let same = |known: &Piece| matches!(known, Piece::Data { hash: before, .. } if *before == hash);
            match known.filter(same) {
                Some(known) if self.worker.is_shareable(&known, chunk.len()) => known,
                _ => self.worker.store(chunk, hash)?,
            }
        };
        self.pieces.push(piece);
        Ok(())
    }

    /// So many whole chunks lie in a hole (the last may be the file's shorter one).
    ///
    /// # Errors
    /// More than a section holds.
    pub fn hole(&mut self, chunks: usize) -> Result<()> {
        self.expect_room(chunks)?;
        self.pieces.extend(std::iter::repeat_n(Piece::Hole, chunks));
        Ok(())
    }

    fn expect_room(&self, chunks: usize) -> Result<()> {
        if self.ended || self.pieces.len() + chunks > SECTION_BYTES as usize / self.class.bytes() {
            return Err(Error::Unusable("more chunks than a section holds".to_owned()));
        }
        Ok(())
    }

    /// Ends the section. A section equal to the parent's is not stored again: the parent's reference comes back.
    ///
    /// # Errors
    /// The store failed.
    pub fn finish(self) -> Result<SectionRef> {
        let same = self.pieces == self.parent;
        let section = Section { pieces: self.pieces };
        self.worker.referenced.insert_section(&section);
        if let Some(parent) = self.parent_ref.filter(|_| same) {
            self.worker.referenced.insert_reference(&parent);
            return Ok(parent);
        }
        let bytes = section.encode();
        if bytes.len() <= INLINE {
            return Ok(SectionRef::Inline(bytes));
        }
        let stored = self.worker.meta.add(&bytes)?;
        self.worker.referenced.insert(stored.pack, stored.slot);
        Ok(SectionRef::Stored {
            pack: stored.pack,
            slot: stored.slot,
            hash: stored.hash,
        })
    }
}

/// Whether all bytes are zero; by machine words, and most chunks answer with their first.
fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}
