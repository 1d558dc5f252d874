//! Ranges of a file: holes, the page cache, writing out early.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{Advice, SeekFrom};
use rustix::io::Errno;

/// The next range at or after `from` that holds data rather than a hole (SEEK_DATA, SEEK_HOLE), cut off at `end`; `None` when only
/// a hole is left. A filesystem that knows no holes answers with everything. Moves the file's own position: read with
/// positioned reads.
///
/// # Errors
/// The file cannot be asked.
pub fn next_data(file: &File, from: u64, end: u64) -> io::Result<Option<Range<u64>>> {
    if from >= end {
        return Ok(None);
    }
    let start = match rustix::fs::seek(file, SeekFrom::Data(from)) {
        Ok(start) if start >= end => return Ok(None),
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some(from..end)),
        Err(error) => return Err(error.into()),
    };
    match rustix::fs::seek(file, SeekFrom::Hole(start)) {
        Ok(hole) => Ok(Some(start..hole.min(end))),
        // The file shrank in between; whoever reads it will see.
        Err(Errno::NXIO) => Ok(Some(start..end)),
        Err(error) => Err(error.into()),
    }
}

/// Where the next data at or after `from` begins (SEEK_DATA); `None` when only a hole is left. Unlike [`next_data`] it costs the same
/// however long the data is.
///
/// # Errors
/// The file cannot be asked.
pub fn next_data_begins(file: &File, from: u64) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, SeekFrom::Data(from)) {
        Ok(start) => Ok(Some(start)),
        Err(Errno::NXIO) => Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some(from)),
        Err(error) => Err(error.into()),
    }
}

/// Reads at `offset` until `into` is full or the file ends; returns how many bytes there were.
///
/// # Errors
/// The file cannot be read.
pub fn read_up_to(file: &File, into: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut got = 0;
    while got < into.len() {
        match file.read_at(&mut into[got..], offset + got as u64) {
            Ok(0) => break,
            Ok(more) => got += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

/// Drops what the page cache holds of a range (POSIX_FADV_DONTNEED): a backup must not push out what the server caches. Best effort;
/// dirty pages stay.
pub fn forget_cached(file: &File, offset: u64, length: u64) {
    let _ = rustix::fs::fadvise(file, offset, NonZeroU64::new(length), Advice::DontNeed);
}

/// Starts writing out a range without waiting (sync_file_range(2)), so that the fsync at the end is short. Best effort; promises
/// nothing about durability.
pub fn start_writing(file: &File, offset: u64, length: u64) {
    let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) else {
        return;
    };
    // SAFETY: the descriptor is open for the length of the call; everything else is an integer.
    unsafe { libc::sync_file_range(file.as_raw_fd(), offset, length, libc::SYNC_FILE_RANGE_WRITE) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_found_between_holes() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(10 << 20).unwrap();
        file.write_all_at(b"x", 4 << 20).unwrap();
        let found = next_data(&file, 0, 10 << 20).unwrap().unwrap();
        assert!(found.contains(&(4 << 20)) && found.end <= 10 << 20, "{found:?}");
        if found.start > 0 {
            assert_eq!(next_data(&file, found.end, 10 << 20).unwrap(), None);
        }
        assert_eq!(next_data(&file, 10 << 20, 10 << 20).unwrap(), None);
    }

    #[test]
    fn a_range_ends_where_asked() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 8192], 0).unwrap();
        assert_eq!(next_data(&file, 100, 5000).unwrap(), Some(100..5000));
        start_writing(&file, 0, 8192);
        forget_cached(&file, 0, 8192);
    }
}
