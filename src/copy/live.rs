//! Files of live trees: they change and vanish while they are copied.

use std::fs::Metadata as Found;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use super::Result;
use super::section::{Reading, Source, next_section};
use super::size::too_large;
use super::unreadable::read_error;
use super::walk::{FileJob, is_gone};
use crate::repository::{Content, SECTION_BYTES, SectionRef, Worker};
use crate::sys::fs::ReadBuffer;

/// The pause before a file that changed is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// A live file as it was copied.
pub(super) struct Copied {
    pub content: Content,
    pub mtime_ns: i128,
    /// It changed during the last attempt as well.
    pub torn: bool,
}

/// How the copy of a live file ended.
pub(super) enum Live {
    Copied(Copied),
    /// It is gone, or is no regular file any more.
    Vanished,
    /// It grew, since it was seen, to more than a backup holds.
    TooLarge(String),
}

/// What tells that a file was written meanwhile.
fn state(found: &Found) -> (u64, u64, i64, i64, i64, i64) {
    (
        found.ino(),
        found.len(),
        found.mtime(),
        found.mtime_nsec(),
        found.ctime(),
        found.ctime_nsec(),
    )
}

/// Copies a live file, again if it changed meanwhile.
pub(super) fn copy(
    job: &FileJob,
    attempts: u32,
    worker: &mut Worker<'_>,
    reading: &Reading<'_>,
    buffer: &mut ReadBuffer,
) -> Result<Live> {
    let wrong = |error: std::io::Error| read_error(&job.original, 0, error);
    for attempt in 1.. {
        let opened = job
            .place
            .open(&job.relative)
            .and_then(|file| Ok((file.metadata()?, file)));
        let (before, file) = match opened {
            Ok((before, file)) if before.is_file() => (before, file),
            Ok(_) => return Ok(Live::Vanished),
            Err(error) if is_gone(&error) => return Ok(Live::Vanished),
            Err(error) => return Err(wrong(error)),
        };
        if let Some(reason) = too_large(before.len(), before.blocks()) {
            return Ok(Live::TooLarge(reason));
        }
        let mut content = Content {
            size: 0,
            class: job.class,
            sparse: false,
            sections: Vec::new(),
        };
        let holes = before.blocks() * 512 < before.len();
        let count = before.len().div_ceil(SECTION_BYTES) as usize;
        let mut index = 0;
        while index < count {
            let data = match holes {
                true => next_section(&file, index, count).map_err(wrong)?,
                false => index,
            };
            if data > index {
                push_holes(&mut content, before.len(), data);
                index = data;
                continue;
            }
            let parent = job
                .parent
                .as_ref()
                .and_then(|parent| Some((parent.sections.get(index)?, parent.section_chunks(index))));
            let mut builder = worker.section(job.class, parent)?;
            let source = Source {
                file: &file,
                original: &job.original,
                size: before.len(),
                holes,
                direct: false,
            };
            let ended = reading.section(&source, index, job.class, buffer, &mut builder)?;
            content.size += ended.bytes;
            content.sparse |= ended.sparse;
            if ended.bytes > 0 {
                content.sections.push(builder.finish()?);
            }
            if ended.bytes < SECTION_BYTES {
                break;
            }
            index += 1;
        }
        let after = match job.place.look(&job.relative) {
            Ok(after) => state(&after),
            // Deleted while it was copied; what was read is whole, and worth keeping.
            Err(_) => state(&file.metadata().map_err(wrong)?),
        };
        let torn = after != state(&before);
        if !torn || attempt >= attempts.max(1) {
            let mtime_ns = i128::from(before.mtime()) * 1_000_000_000 + i128::from(before.mtime_nsec());
            return Ok(Live::Copied(Copied {
                content,
                mtime_ns,
                torn,
            }));
        }
        reading.stop.sleep(PAUSE)?;
    }
    Ok(Live::Vanished)
}

/// Holes up to section `upto` (without) of a file of `size` bytes.
fn push_holes(content: &mut Content, size: u64, upto: usize) {
    content.sparse = true;
    let written = std::mem::replace(&mut content.size, size);
    for index in content.sections.len()..upto {
        content.sections.push(SectionRef::hole(content.section_chunks(index)));
    }
    content.size = size.min(upto as u64 * SECTION_BYTES).max(written);
}
