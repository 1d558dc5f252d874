//! Mounts.

use std::path::Path;

use super::{Error, Result};

/// Unmounts what is mounted at `at`; `Ok(false)` when nothing is.
///
/// # Errors
/// It is in use, or the kernel says no.
pub fn unmount(at: &Path) -> Result<bool> {
    match rustix::mount::unmount(at, rustix::mount::UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(false),
        Err(error) => Err(Error::path("unmount", at, error)),
    }
}
