//! The one door for durability: what is created or replaced here is on disk, under its name, when the call returns.
//!
//! Order: bytes, fsync of the file, the name (atomically), fsync of the directory. A crash leaves the old state or the new
//! one, never a torn file under the name.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::super::{Error, Result};
#[cfg(feature = "failpoints")]
use super::calls::Call;
use super::calls::told;
use crate::units::Id;

/// Creates `path` with these bytes and permission bits, durably. Nothing is there before all of it is.
///
/// # Errors
/// `AlreadyExists` when the name is taken (what is there stays as it is); no room; not writable.
pub fn create_durably(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    written(path, bytes, mode)?.publish(path)?;
    sync_directory(parent(path))
}

/// Puts these bytes at `path`, durably, over what is there.
///
/// # Errors
/// No room; not writable. What was there stays as it was.
pub fn replace_durably(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let mut file = Unpublished::named(parent(path), mode)?;
    file.write_all(bytes)
        .map_err(|error| Error::path("write", path, error))?;
    file.publish_over(path)?;
    sync_directory(parent(path))
}

/// Makes a directory with these permission bits, durably. Its parent must be there. `Ok(false)` when it is there already.
///
/// # Errors
/// The parent is missing or not writable, or something else has the name.
pub fn make_directory_durably(path: &Path, mode: u32) -> Result<bool> {
    let made = make_directory(path, mode)?;
    if made {
        sync_directory(parent(path))?;
    }
    Ok(made)
}

/// Makes a directory with these permission bits. Its name is durable after [`sync_directory`] of its parent, which must be there.
/// `Ok(false)` when it is there already.
///
/// # Errors
/// As [`make_directory_durably`].
pub fn make_directory(path: &Path, mode: u32) -> Result<bool> {
    use std::os::unix::fs::DirBuilderExt;
    told!(Call::MakeDirectory { path }, |error| Error::path(
        "make the directory",
        path,
        error
    ));
    match std::fs::DirBuilder::new().mode(mode).create(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(false),
        Err(error) => Err(Error::path("make the directory", path, error)),
    }
}

/// Removes a file's name. That it is gone is durable after [`sync_directory`] of its directory.
///
/// # Errors
/// It is not there, or not ours to remove.
pub fn remove_file(path: &Path) -> Result<()> {
    told!(Call::Remove { path }, |error| Error::path("remove", path, error));
    std::fs::remove_file(path).map_err(|error| Error::path("remove", path, error))
}

/// Makes the names in a directory durable (fsync of the directory).
///
/// # Errors
/// Durability is not certain.
pub fn sync_directory(path: &Path) -> Result<()> {
    crate::failpoint!("fs.sync-directory", || Error::path(
        "sync the directory",
        path,
        Errno::IO
    ));
    told!(Call::SyncDirectory { path }, |error| Error::path(
        "sync the directory",
        path,
        error
    ));
    let directory = super::open_directory(path)?;
    rustix::fs::fsync(directory).map_err(|error| Error::path("sync the directory", path, error))
}

/// Makes a file's bytes and length durable (fsync). `path` names it in the message.
///
/// # Errors
/// Durability is not certain: after a failed fsync what was written must be taken as lost.
pub fn sync_file(file: &File, path: &Path) -> Result<()> {
    crate::failpoint!("fs.sync-file", || Error::path("sync", path, Errno::IO));
    told!(Call::SyncFile { file, path }, |error| Error::path("sync", path, error));
    file.sync_all().map_err(|error| Error::path("sync", path, error))
}

/// A new file that has no name yet. Dropping it leaves nothing behind (after a crash: at most a `.snapback-*.tmp`, and that
/// only where the filesystem has no O_TMPFILE).
#[derive(Debug)]
pub struct Unpublished {
    file: File,
    /// Where it gets its name: held, so that nobody exchanges it meanwhile.
    within: OwnedFd,
    /// The temporary name, where there must be one.
    temporary: Option<PathBuf>,
    /// For which directory it was made.
    #[cfg(feature = "failpoints")]
    near: PathBuf,
}

impl Unpublished {
    /// Begins a file that will get its name in `directory`.
    ///
    /// # Errors
    /// The directory is missing or not writable.
    pub fn create(directory: &Path, mode: u32) -> Result<Unpublished> {
        Unpublished::create_in(hold(directory)?, directory, mode)
    }

    /// The same in a directory that was opened; `directory` names it.
    ///
    /// # Errors
    /// The directory is not writable.
    pub fn create_in(within: OwnedFd, directory: &Path, mode: u32) -> Result<Unpublished> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::openat(&within, ".", flags, Mode::from_raw_mode(mode)) {
            Ok(descriptor) if can_link() => {
                let again = within.try_clone();
                match Unpublished::begun(within, directory, File::from(descriptor), None) {
                    // A test plays a filesystem without O_TMPFILE.
                    Err(error) if error.errno() == Some(libc::EOPNOTSUPP) => {
                        let again = again.map_err(|error| Error::path("open the directory", directory, error))?;
                        Unpublished::named_in(again, directory, mode)
                    }
                    begun => begun,
                }
            }
            Ok(_) | Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                Unpublished::named_in(within, directory, mode)
            }
            Err(error) => Err(Error::path("create a file in", directory, error)),
        }
    }

    fn named(directory: &Path, mode: u32) -> Result<Unpublished> {
        Unpublished::named_in(hold(directory)?, directory, mode)
    }

    fn named_in(within: OwnedFd, directory: &Path, mode: u32) -> Result<Unpublished> {
        let path = directory.join(format!(".snapback-{}.tmp", Id::random()));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&within, last(&path), flags, Mode::from_raw_mode(mode))
            .map_err(|error| Error::path("create", &path, error))?;
        Unpublished::begun(within, directory, File::from(file), Some(path))
    }

    #[cfg_attr(not(feature = "failpoints"), allow(unused_variables, clippy::unnecessary_wraps))]
    fn begun(within: OwnedFd, directory: &Path, file: File, temporary: Option<PathBuf>) -> Result<Unpublished> {
        let unpublished = Unpublished {
            file,
            within,
            temporary,
            #[cfg(feature = "failpoints")]
            near: directory.to_owned(),
        };
        told!(
            Call::Create {
                directory,
                file: &unpublished.file,
                name: unpublished.temporary.as_deref()
            },
            |error| Error::path("create a file in", directory, error)
        );
        Ok(unpublished)
    }

    /// The file, for positioned writes and the like.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Syncs the bytes, then gives the file its name; refuses a name that is taken. The *name* is durable after
    /// [`sync_directory`] of its directory, which the caller does (once for many files).
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken; the bytes could not be made durable. Nothing has the name then.
    pub fn publish(mut self, path: &Path) -> Result<()> {
        sync_file(&self.file, path)?;
        crate::failpoint!("fs.publish", || Error::path("publish", path, Errno::NOSPC));
        let Some(temporary) = &self.temporary else {
            told!(
                Call::Link {
                    file: &self.file,
                    to: path
                },
                |error| Error::path("create", path, error)
            );
            let descriptor = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            return rustix::fs::linkat(CWD, descriptor, &self.within, last(path), AtFlags::SYMLINK_FOLLOW)
                .map_err(|error| Error::path("create", path, error));
        };
        told!(
            Call::Rename {
                from: temporary,
                to: path
            },
            |error| Error::path("create", path, error)
        );
        let (within, old, new) = (&self.within, last(temporary), last(path));
        match rustix::fs::renameat_with(within, old, within, new, RenameFlags::NOREPLACE) {
            // Filesystems without RENAME_NOREPLACE (NFS, some FUSE): a hard link refuses a taken name as well; the
            // temporary name goes when `self` is dropped.
            Err(Errno::INVAL | Errno::NOSYS) => rustix::fs::linkat(within, old, within, new, AtFlags::empty())
                .map_err(|error| Error::path("create", path, error)),
            Err(error) => Err(Error::path("create", path, error)),
            Ok(()) => {
                self.temporary = None;
                Ok(())
            }
        }
    }

    /// Like [`publish`](Unpublished::publish), over what is there.
    fn publish_over(mut self, path: &Path) -> Result<()> {
        sync_file(&self.file, path)?;
        crate::failpoint!("fs.publish", || Error::path("publish", path, Errno::NOSPC));
        if let Some(temporary) = &self.temporary {
            told!(
                Call::Rename {
                    from: temporary,
                    to: path
                },
                |error| Error::path("replace", path, error)
            );
            rustix::fs::renameat(&self.within, last(temporary), &self.within, last(path))
                .map_err(|error| Error::path("replace", path, error))?;
        }
        self.temporary = None;
        Ok(())
    }
}

impl Write for Unpublished {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        told!(
            Call::Write {
                file: &self.file,
                near: &self.near,
                bytes
            },
            |error| error
        );
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Unpublished {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = remove_in(&self.within, temporary);
        }
    }
}

/// Removes a file's name in a directory that was opened.
fn remove_in(within: &OwnedFd, path: &Path) -> Result<()> {
    told!(Call::Remove { path }, |error| Error::path("remove", path, error));
    let removed = rustix::fs::unlinkat(within, last(path), AtFlags::empty());
    removed.map_err(|error| Error::path("remove", path, error))
}

fn hold(directory: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(directory, flags, Mode::empty()).map_err(|error| Error::path("create a file in", directory, error))
}

/// The name that a path ends with.
fn last(path: &Path) -> &OsStr {
    path.file_name().unwrap_or_default()
}

fn written(path: &Path, bytes: &[u8], mode: u32) -> Result<Unpublished> {
    let mut file = Unpublished::create(parent(path), mode)?;
    file.write_all(bytes)
        .map_err(|error| Error::path("write", path, error))?;
    Ok(file)
}

/// A file without a name gets one through /proc, which a chroot may lack.
fn can_link() -> bool {
    static PROC: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *PROC.get_or_init(|| Path::new("/proc/self/fd").is_dir())
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn names(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_created_file_has_its_bytes_and_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        create_durably(&path, b"one", 0o600).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_taken_name_is_refused_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        create_durably(&path, b"one", 0o600).unwrap();
        let error = create_durably(&path, b"two", 0o600).unwrap_err();
        assert!(error.is(io::ErrorKind::AlreadyExists), "{error}");
        let named = Unpublished::named(dir.path(), 0o600).unwrap();
        let error = named.publish(&path).unwrap_err();
        assert!(error.is(io::ErrorKind::AlreadyExists), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        assert_eq!(names(dir.path()), ["a"]);
    }

    #[test]
    fn both_ways_of_naming_publish() {
        let dir = tempfile::tempdir().unwrap();
        for (name, make) in [
            ("x", Unpublished::create as fn(&Path, u32) -> Result<Unpublished>),
            ("y", Unpublished::named),
        ] {
            let mut file = make(dir.path(), 0o640).unwrap();
            file.write_all(b"bytes").unwrap();
            file.publish(&dir.path().join(name)).unwrap();
            assert_eq!(std::fs::read(dir.path().join(name)).unwrap(), b"bytes");
        }
        assert_eq!(names(dir.path()).len(), 2);
    }

    #[test]
    fn an_unpublished_file_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        drop(Unpublished::create(dir.path(), 0o600).unwrap());
        drop(Unpublished::named(dir.path(), 0o600).unwrap());
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn replacing_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        replace_durably(&path, b"one", 0o600).unwrap();
        replace_durably(&path, b"two", 0o600).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(names(dir.path()), ["a"]);
    }

    #[test]
    fn a_directory_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        assert!(make_directory_durably(&dir.path().join("d"), 0o700).unwrap());
        assert!(!make_directory_durably(&dir.path().join("d"), 0o700).unwrap());
        std::fs::write(dir.path().join("f"), "").unwrap();
        assert!(make_directory_durably(&dir.path().join("f"), 0o700).is_err());
    }
}
