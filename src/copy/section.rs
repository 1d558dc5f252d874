//! Reading one section of a file: holes are found, data is read in large pieces and given to the builder chunk by chunk.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Result;
use super::stop::Stop;
use super::throttle::Throttle;
use super::unreadable::read_error;
use crate::repository::{ChunkClass, SECTION_BYTES, SectionBuilder};
use crate::sys::fs::{self as system, ReadBuffer};

/// Read at once; a multiple of every chunk class.
pub(super) const READ: usize = 1 << 20;

/// What reading needs besides the file.
pub(super) struct Reading<'r> {
    pub stop: &'r Stop<'r>,
    pub throttle: &'r Throttle,
    /// Bytes read, for the figures.
    pub read: &'r AtomicU64,
    pub monitor: &'r dyn crate::monitor::Monitor,
}

/// Opens a file for reading: never through a link, and without touching its access time where that is allowed.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let with = |flags: i32| {
        File::options()
            .read(true)
            .custom_flags(flags | libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)
    };
    match with(libc::O_NOATIME) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => with(0),
        answer => answer,
    }
}

/// The file that a section is read from.
pub(super) struct Source<'s> {
    pub file: &'s File,
    /// Its original path, for errors.
    pub original: &'s Path,
    /// The bytes that it should have.
    pub size: u64,
    /// It may have holes.
    pub holes: bool,
    /// It is read around the page cache.
    pub direct: bool,
}

/// How a section ended.
pub(super) struct Ended {
    /// It had holes.
    pub sparse: bool,
    /// Bytes of the section; less than asked for when the file ended early.
    pub bytes: u64,
}

/// The first section at or after `index`, of `count`, that has data; `count` when the rest of the file is a hole.
///
/// # Errors
/// The file cannot be asked.
pub(super) fn next_section(file: &File, index: usize, count: usize) -> io::Result<usize> {
    let begins = system::next_data_begins(file, index as u64 * SECTION_BYTES)?;
    Ok(begins.map_or(count, |at| ((at / SECTION_BYTES) as usize).clamp(index, count)))
}

impl Reading<'_> {
    /// Reads the section at `index`. Ends early, and says so, where the file does.
    pub fn section(
        &self,
        source: &Source<'_>,
        index: usize,
        class: ChunkClass,
        buffer: &mut ReadBuffer,
        builder: &mut SectionBuilder<'_, '_>,
    ) -> Result<Ended> {
        let (file, size) = (source.file, source.size);
        let start = index as u64 * SECTION_BYTES;
        let end = size.min(start + SECTION_BYTES);
        let chunk = class.bytes() as u64;
        let wrong = |offset: u64, error| read_error(source.original, offset, error);
        let (mut at, mut sparse) = (start, false);
        while at < end {
            let data = if source.holes {
                system::next_data(file, at, end).map_err(|error| wrong(at, error))?
            } else {
                Some(at..end)
            };
            // Only chunks that lie in a hole as a whole count as hole.
            let first = data
                .as_ref()
                .map_or(end, |data| data.start - data.start % chunk)
                .max(at);
            if first > at {
                builder.hole((first - at).div_ceil(chunk) as usize)?;
                self.monitor.advance(first - at, 0);
                sparse = true;
                at = first;
            }
            let Some(data) = data else { break };
            let upto = data.end.next_multiple_of(chunk).min(end);
            while at < upto {
                self.stop.check()?;
                let wanted = (upto - at).min(READ as u64) as usize;
                self.throttle.take(wanted, self.stop)?;
                let read = if source.direct {
                    system::read_some_directly(file, buffer, wanted, at)
                } else {
                    system::read_up_to(file, &mut buffer.bytes()[..wanted], at)
                };
                crate::failpoint!("copy.read", || wrong(at, io::Error::from_raw_os_error(libc::EIO)));
                let got = read.map_err(|error| wrong(at, error))?;
                self.read.fetch_add(got as u64, Ordering::Relaxed);
                for piece in buffer.bytes()[..got].chunks(class.bytes()) {
                    builder.data(piece)?;
                }
                self.monitor.advance(got as u64, 0);
                at += got as u64;
                if got < wanted {
                    return Ok(Ended {
                        sparse,
                        bytes: at - start,
                    });
                }
            }
        }
        Ok(Ended {
            sparse,
            bytes: end - start,
        })
    }
}
