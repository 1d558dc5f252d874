//! Filling files, several threads at once: fetch, verify, write, and the metadata when a file is whole.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::Receiver;

use super::super::lost::{Losses, LostRange, Place, REMEDY};
use crate::copy::notes::Notes;
use crate::copy::stop::Stop;
use crate::copy::{Error, Result};
use crate::finding::Finding;
use crate::monitor::Monitor;
use crate::repository::{Backup, Content, Fetcher, Metadata, Piece as Chunk, SECTION_BYTES};
use crate::sys::fs::{Beneath, no_such_attribute, start_writing};

/// What all threads of a restore share.
pub(super) struct Shared<'s> {
    pub notes: &'s Notes<'s>,
    pub losses: &'s Losses,
    pub monitor: &'s dyn Monitor,
    pub stop: &'s Stop<'s>,
}

/// A file that is being filled.
struct Filling<'s> {
    beneath: &'s Beneath,
    place: Place,
    file: File,
    content: Content,
    metadata: Metadata,
    /// Sections that are not written yet; whoever writes the last one sets the metadata.
    left: AtomicUsize,
    /// What of it could not be read.
    lost: Mutex<Vec<LostRange>>,
    /// Whether any of its data could be read.
    some: AtomicBool,
}

/// One section of one file, to be written.
pub(super) struct Job<'s> {
    filling: Arc<Filling<'s>>,
    section: usize,
}

impl<'s> Job<'s> {
    /// A new file's sections that are no holes; `None` when there is none: the file is whole as it is.
    pub fn all(
        beneath: &'s Beneath,
        place: Place,
        file: File,
        content: Content,
        metadata: Metadata,
    ) -> Option<impl Iterator<Item = Job<'s>>> {
        let all = 0..content.sections.len();
        let sections = all.clone().filter(|index| !content.is_hole(*index)).count();
        if sections == 0 {
            return None;
        }
        let filling = Arc::new(Filling {
            beneath,
            place,
            file,
            content,
            metadata,
            left: AtomicUsize::new(sections),
            lost: Mutex::default(),
            some: AtomicBool::new(false),
        });
        let filled = all.filter({
            let filling = Arc::clone(&filling);
            move |index| !filling.content.is_hole(*index)
        });
        Some(filled.map(move |section| Job {
            filling: Arc::clone(&filling),
            section,
        }))
    }
}

/// A worker: fetches, verifies, writes.
pub(super) fn fill(jobs: &Receiver<Job<'_>>, backup: &Backup, shared: &Shared<'_>) -> Result<()> {
    let mut fetcher = backup.fetcher()?;
    let mut chunk = Vec::new();
    for job in jobs {
        section(&job.filling, job.section, &mut fetcher, &mut chunk, shared)?;
        if job.filling.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            job.filling.finish(shared)?;
        }
    }
    Ok(())
}

impl Filling<'_> {
    fn finish(&self, shared: &Shared<'_>) -> Result<()> {
        let lost = std::mem::take(&mut *self.lost.lock().unwrap_or_else(PoisonError::into_inner));
        if !lost.is_empty() {
            let some = self.some.load(Ordering::Acquire);
            shared.losses.file(self.place.clone(), self.content.size, lost, some);
        }
        dress(self.beneath, &self.place.relative, &self.metadata, true, shared.notes)
    }

    /// What could not be read stays a hole, if the restore goes on over damage.
    fn lose(&self, error: crate::repository::Error, offset: u64, length: u64, shared: &Shared<'_>) -> Result<()> {
        let Some((object, reason)) = shared.losses.passes(&error) else {
            let original = self.place.original.display();
            return Err(match error {
                crate::repository::Error::Damaged { object, reason } => {
                    crate::repository::Error::damaged(object, format!("{reason}; needed for {original}; {REMEDY}"))
                }
                other => other,
            }
            .into());
        };
        let range = LostRange {
            offset,
            length,
            object,
            reason,
        };
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).push(range);
        Ok(())
    }
}

fn section(
    filling: &Filling<'_>,
    index: usize,
    fetcher: &mut Fetcher,
    buffer: &mut Vec<u8>,
    shared: &Shared<'_>,
) -> Result<()> {
    let Filling { content, file, .. } = filling;
    let (start, bytes) = (index as u64 * SECTION_BYTES, content.section_bytes(index));
    let section = match fetcher.section(&content.sections[index], content.section_chunks(index)) {
        Ok(section) => section,
        Err(error) => {
            shared.monitor.advance(bytes, 0);
            return filling.lose(error, start, bytes, shared);
        }
    };
    let mut at = 0;
    for piece in &section.pieces {
        shared.stop.check()?;
        let length = (bytes - at).min(content.class.bytes() as u64);
        let skipped = match piece {
            Chunk::Hole => true,
            // The file is new and as long as it will be: it reads as zeros there. Written all the same where blocks were had.
            Chunk::Zero => content.sparse,
            Chunk::Data { .. } => false,
        };
        if !skipped {
            match fetcher.chunk(piece, length as usize, buffer) {
                Ok(()) => {
                    file.write_all_at(buffer, start + at)
                        .map_err(|error| wrong(&filling.place.original, error))?;
                    if matches!(piece, Chunk::Data { .. }) {
                        filling.some.store(true, Ordering::Release);
                    }
                }
                Err(error) => filling.lose(error, start + at, length, shared)?,
            }
        }
        shared.monitor.advance(length, 0);
        at += length;
    }
    // So that the sync at the end is short.
    start_writing(file, start, bytes);
    Ok(())
}

/// Sets owner, mode, attributes and time; what this user may not set is said once and does not end the restore.
pub(in crate::restore) fn dress(
    beneath: &Beneath,
    relative: &Path,
    metadata: &Metadata,
    has_mode: bool,
    notes: &Notes<'_>,
) -> Result<()> {
    if let Err(error) = beneath.set_owner(relative, metadata.uid, metadata.gid) {
        if error.errno() != Some(libc::EPERM) {
            return Err(error.into());
        }
        let said = "owners could not be restored: only root may give files away";
        notes.once("owner", || {
            Finding::warning("owner", said).remedy("restore as root, or `chown -R` afterwards")
        });
    }
    for (name, value) in &metadata.xattrs {
        match beneath.set_xattr(relative, name, value) {
            Err(error) if no_such_attribute(&error) || error.errno() == Some(libc::EPERM) => {
                notes.find(Finding::warning(
                    "xattr",
                    format!("{error} (`{}`)", name.escape_ascii()),
                ));
            }
            answer => answer?,
        }
    }
    // After the attributes: an ACL would change the mode's group bits.
    if has_mode {
        beneath.set_mode(relative, metadata.mode)?;
    }
    Ok(beneath.set_modified(relative, metadata.mtime_ns)?)
}

pub(super) fn wrong(path: &Path, reason: impl ToString) -> Error {
    Error::Write {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}
