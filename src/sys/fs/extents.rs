//! Extents of a file, and whether something else refers to them (`FS_IOC_FIEMAP`, linux/fiemap.h).
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use linux_raw_sys::ioctl as request;

use super::super::signal::Cancel;

/// Extents for which the kernel is asked at once.
const BATCH: usize = 512;

/// `struct fiemap_extent`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved_64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// `struct fiemap` with room for extents.
#[derive(Debug)]
#[repr(C)]
struct Page {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    extents: [Extent; BATCH],
}

/// The request number carries the size of what comes before the extents.
const HEADER: usize = std::mem::offset_of!(Page, extents);
const _: () = assert!(((request::FS_IOC_FIEMAP >> 16) & 0x3fff) as usize == HEADER && size_of::<Extent>() == 56);

/// Bytes of a file in extents that this file alone refers to, where the filesystem knows sharing (Btrfs, XFS); `None` when the run was asked to end. Of a
/// compressed extent the uncompressed length counts. What lies in the filesystem's own blocks (small files) or is not written out yet does not count.
///
/// # Errors
/// The filesystem does not tell.
pub fn unshared_bytes(file: &File, cancel: &Cancel) -> io::Result<Option<u64>> {
    let not_counted =
        request::FIEMAP_EXTENT_SHARED | request::FIEMAP_EXTENT_DATA_INLINE | request::FIEMAP_EXTENT_DELALLOC;
    let mut page = Box::new(Page {
        start: 0,
        length: 0,
        flags: 0,
        mapped: 0,
        count: BATCH as u32,
        reserved: 0,
        extents: [Extent::default(); BATCH],
    });
    let mut bytes = 0;
    while cancel.asked().is_none() {
        (page.length, page.mapped) = (u64::MAX - page.start, 0);
        // SAFETY: Page is `struct fiemap` followed by as many extents as `count` says; the kernel writes no more than those.
        let answer = unsafe { libc::ioctl(file.as_raw_fd(), request::FS_IOC_FIEMAP as _, &raw mut *page) };
        if answer < 0 {
            return Err(io::Error::last_os_error());
        }
        let found = page.extents.get(..page.mapped as usize).unwrap_or_default();
        let alone = found.iter().filter(|extent| extent.flags & not_counted == 0);
        bytes += alone.map(|extent| extent.length).sum::<u64>();
        match found.last() {
            Some(last) if last.flags & request::FIEMAP_EXTENT_LAST == 0 => {
                page.start = last.logical.saturating_add(last.length);
            }
            _ => return Ok(Some(bytes)),
        }
    }
    Ok(None)
}
