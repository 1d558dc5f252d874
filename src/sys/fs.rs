//! Files: the one door for durability, and the system calls that std lacks.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::{Error, Result};

/// Writes a new file so that after a crash it is whole or absent: temporary name, fsync, rename that never replaces, fsync of the directory.
///
/// # Errors
/// EEXIST when the name is taken; nothing is left behind.
pub fn create_durably(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut temporary = tempfile::Builder::new()
        .prefix(".snapback-new-")
        .tempfile_in(directory)
        .map_err(|error| Error::path("make a file in", directory, error))?;
    let file = temporary.as_file_mut();
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
    file.set_permissions(permissions).map_err(|error| Error::path("set the mode of", path, error))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|error| Error::path("write", path, error))?;
    temporary.persist_noclobber(path).map_err(|error| Error::path("make", path, error.error))?;
    sync_directory(directory)
}

/// Makes the names in a directory durable.
///
/// # Errors
/// The kernel's answer.
pub fn sync_directory(path: &Path) -> Result<()> {
    let directory = File::open(path).map_err(|error| Error::path("open", path, error))?;
    directory.sync_all().map_err(|error| Error::path("fsync", path, error))
}

/// Makes a private directory (0700) with its parents, durably named.
///
/// # Errors
/// The kernel's answer.
pub fn make_private_directory(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| Error::path("make the directory", path, error))?;
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or(Ok(()), sync_directory)
}

/// Writes everything dirty on the filesystem of `path` (syncfs(2)).
///
/// # Errors
/// The kernel's answer, writeback errors included (Linux 5.8).
pub fn sync_filesystem(path: &Path) -> Result<()> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECTORY)
        .open(path)
        .map_err(|error| Error::path("open", path, error))?;
    sync_filesystem_of(&file).map_err(|error| Error::path("sync the filesystem of", path, error))
}

fn sync_filesystem_of(file: impl AsFd) -> std::io::Result<()> {
    Ok(rustix::fs::syncfs(file)?)
}

/// Bytes that an unprivileged process may still write on the filesystem of `path` (statvfs(3), `f_bavail`).
///
/// # Errors
/// The kernel's answer.
pub fn free_space(path: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(path).map_err(|error| Error::path("ask the free space of", path, error))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
