//! Files and filesystems: the one door for durability, opening below a directory, metadata, ranges, free space.

mod attributes;
mod beneath;
#[doc(hidden)]
pub mod calls;
mod direct;
mod durable;
mod extents;
mod give;
mod local;
mod locks;
mod plain;
mod ranges;

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::{Error, Result};

pub use attributes::{Xattr, link_xattrs, no_such_attribute, xattrs};
pub use beneath::{Beneath, Found, Special};
pub use direct::{ReadBuffer, read_directly, read_some_directly};
pub use durable::{
    Unpublished, create_durably, make_directory, make_directory_durably, remove_file, replace_durably, sync_directory,
    sync_file,
};
pub use extents::unshared_bytes;
pub use give::give_tree;
pub use local::{remote, require_local};
pub use locks::locked_by;
pub use plain::{TEXT_LIMIT, open_plain, open_plain_linked, read_all, read_plain, read_plain_linked};
pub use ranges::{forget_cached, next_data, next_data_begins, read_up_to, start_writing};

/// Opens a directory for use as an anchor (close-on-exec).
///
/// # Errors
/// It is not there, or not a directory.
pub fn open_directory(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|error| Error::path("open the directory", path, error))
}

/// Writes out everything that is dirty on the filesystem of this descriptor, and waits for it (syncfs(2)).
///
/// # Errors
/// Something could not be written. `path` names it in the message.
pub fn syncfs(descriptor: impl AsFd, path: &Path) -> Result<()> {
    rustix::fs::syncfs(descriptor).map_err(|error| Error::path("sync the filesystem of", path, error))
}

/// Sizes of a filesystem in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// In all.
    pub total: u64,
    /// What this process may still write.
    pub available: u64,
    /// Mounted read-only, or turned read-only after an error.
    pub read_only: bool,
}

/// The room on the filesystem that holds `path` (statvfs(3)).
///
/// # Errors
/// The filesystem cannot be asked.
pub fn room(path: &Path) -> Result<Room> {
    let answer = rustix::fs::statvfs(path).map_err(|error| Error::path("ask for the free space of", path, error))?;
    Ok(Room {
        total: answer.f_blocks.saturating_mul(answer.f_frsize),
        available: answer.f_bavail.saturating_mul(answer.f_frsize),
        read_only: answer.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY),
    })
}
