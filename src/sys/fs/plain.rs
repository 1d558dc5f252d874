//! The one way of opening what somebody else may have made: a plain file, never a pipe or a device, never waited for, of bounded size.
//!
//! The name is resolved with O_PATH first, which opens nothing: no pipe is waited for, no device is woken. Only what is seen to be a plain file is opened for
//! reading, through its descriptor's entry in /proc, so nobody can exchange it in between.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags};

use super::super::{Error, Result};
use super::Beneath;

/// Option files, pid files, `.isl`, `db.opt`, `auto.cnf`: what a person or a server writes as text, in bytes.
pub const TEXT_LIMIT: u64 = 1 << 20;

/// Opens a plain file. A symbolic link as the last name is refused; those above it are followed.
///
/// # Errors
/// It is not there, is a link, or is no plain file.
pub fn open_plain(path: &Path) -> Result<File> {
    open_at(path, OFlags::NOFOLLOW)
}

/// The same, but the last name may be a symbolic link: for what a person names (`/etc/mysql/my.cnf` is one on Debian).
///
/// # Errors
/// It is not there, or no plain file.
pub fn open_plain_linked(path: &Path) -> Result<File> {
    open_at(path, OFlags::empty())
}

/// All of a plain file (links as [`open_plain`]).
///
/// # Errors
/// As [`open_plain`]; it has more than `limit` bytes; it cannot be read.
pub fn read_plain(path: &Path, limit: u64) -> Result<Vec<u8>> {
    read_all(&open_plain(path)?, path, limit)
}

/// All of a plain file (links as [`open_plain_linked`]).
///
/// # Errors
/// As [`open_plain_linked`]; it has more than `limit` bytes; it cannot be read.
pub fn read_plain_linked(path: &Path, limit: u64) -> Result<Vec<u8>> {
    read_all(&open_plain_linked(path)?, path, limit)
}

/// All of an opened file, which may have `limit` bytes at the most. `path` names it in messages.
///
/// # Errors
/// It has more, or cannot be read.
pub fn read_all(file: &File, path: &Path, limit: u64) -> Result<Vec<u8>> {
    let fail = |error: io::Error| Error::path("read", path, error);
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    if bytes.len() as u64 > limit {
        let text = format!("it has more than {limit} bytes");
        return Err(fail(io::Error::new(io::ErrorKind::FileTooLarge, text)));
    }
    Ok(bytes)
}

impl Beneath {
    /// Opens a plain file below, for reading.
    ///
    /// # Errors
    /// It is not there or no plain file; the way leads outside or through a link.
    pub fn open_plain(&self, relative: &Path) -> Result<File> {
        let found = self
            .resolve(relative, OFlags::PATH, Mode::empty())
            .map_err(|error| self.error("open", relative, error))?;
        reopen(&found, &self.path.join(relative))
    }

    /// Opens a plain file below for reading and writing; nothing of it is changed yet.
    ///
    /// # Errors
    /// As [`open_plain`](Beneath::open_plain).
    pub fn open_plain_to_write(&self, relative: &Path) -> Result<File> {
        let found = self
            .resolve(relative, OFlags::PATH, Mode::empty())
            .map_err(|error| self.error("open", relative, error))?;
        reopen_as(&found, &self.path.join(relative), OFlags::RDWR)
    }

    /// All of a plain file below.
    ///
    /// # Errors
    /// As [`open_plain`](Beneath::open_plain); it has more than `limit` bytes; it cannot be read.
    pub fn read_plain(&self, relative: &Path, limit: u64) -> Result<Vec<u8>> {
        read_all(&self.open_plain(relative)?, &self.path.join(relative), limit)
    }
}

fn open_at(path: &Path, links: OFlags) -> Result<File> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | links;
    let found =
        rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|error| Error::path("open", path, error))?;
    reopen(&found, path)
}

/// Opens for reading what an O_PATH descriptor refers to, if that is a plain file.
fn reopen(found: &OwnedFd, path: &Path) -> Result<File> {
    reopen_as(found, path, OFlags::RDONLY)
}

/// The file was found already, so it is its entry in /proc that is not there.
fn without_proc(error: rustix::io::Errno) -> io::Error {
    match error == rustix::io::Errno::NOENT && !Path::new("/proc/self/fd").is_dir() {
        true => io::Error::other("/proc is not mounted here, and snapback needs it: `mount -t proc proc /proc`"),
        false => error.into(),
    }
}

fn reopen_as(found: &OwnedFd, path: &Path, access: OFlags) -> Result<File> {
    let fail = |error: io::Error| Error::path("open", path, error);
    let kind = rustix::fs::fstat(found).map_err(|error| fail(error.into()))?;
    let what = match FileType::from_raw_mode(kind.st_mode) {
        FileType::RegularFile => {
            let entry = format!("/proc/self/fd/{}", found.as_raw_fd());
            let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            let opened = rustix::fs::open(&entry, flags, Mode::empty()).map_err(|error| fail(without_proc(error)))?;
            return Ok(File::from(opened));
        }
        FileType::Symlink => "a symbolic link",
        FileType::Directory => "a directory",
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Unknown => "something unknown",
    };
    let text = format!("it is {what}, not a plain file");
    Err(fail(io::Error::new(io::ErrorKind::InvalidInput, text)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::sys::fs::Special;

    #[test]
    fn only_plain_files_of_bounded_size_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("plain"), "12345").unwrap();
        symlink("plain", at("link")).unwrap();
        symlink("/dev/zero", at("zero")).unwrap();
        let beneath = Beneath::open(dir.path()).unwrap();
        beneath.make_special(Special::Fifo, Path::new("pipe"), 0o600).unwrap();

        assert_eq!(read_plain(&at("plain"), 5).unwrap(), b"12345");
        assert_eq!(read_plain_linked(&at("link"), 5).unwrap(), b"12345");
        assert_eq!(beneath.read_plain(Path::new("plain"), 5).unwrap(), b"12345");
        let said = |result: Result<Vec<u8>>| result.unwrap_err().to_string();
        for answer in [read_plain(&at("plain"), 4), beneath.read_plain(Path::new("plain"), 4)] {
            assert!(said(answer).contains("more than 4 bytes"));
        }
        assert!(said(read_plain(&at("link"), 5)).contains("symbolic link"));
        assert!(said(beneath.read_plain(Path::new("link"), 5)).contains("symbolic link"));
        assert!(said(read_plain(&at("pipe"), 5)).contains("named pipe"));
        assert!(said(beneath.read_plain(Path::new("pipe"), 5)).contains("named pipe"));
        assert!(said(read_plain_linked(&at("zero"), 5)).contains("device"));
        assert!(said(read_plain(dir.path(), 5)).contains("directory"));
    }
}
