//! Making things below one directory and never outside it: no `..`, no absolute path, no symbolic link on the way (trap 34).

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT, XattrFlags,
};
use rustix::io::Errno;

use super::super::{Error, Result};
#[cfg(feature = "failpoints")]
use super::calls::Call;
use super::calls::told;
use steps::step_by_step;

mod ours;
mod steps;
mod way;

pub use ours::Found;

/// A special file to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// A named pipe.
    Fifo,
    /// A character device: major, minor.
    CharDevice(u32, u32),
    /// A block device: major, minor.
    BlockDevice(u32, u32),
}

/// A directory below which everything happens. All paths are relative to it; an empty path is the directory itself.
#[derive(Debug)]
pub struct Beneath {
    directory: OwnedFd,
    pub(super) path: PathBuf,
    /// Nobody else can change the names in it, as far as is known.
    only_ours: bool,
}

impl Beneath {
    /// Anchors at an existing directory (here symbolic links are followed: the person named it).
    ///
    /// # Errors
    /// It is not there, or not a directory.
    pub fn open(path: &Path) -> Result<Beneath> {
        Ok(Beneath {
            directory: super::open_directory(path)?,
            path: path.to_owned(),
            only_ours: false,
        })
    }

    /// Creates a new regular file for writing (and reading).
    ///
    /// # Errors
    /// Something has the name; the way leads outside or through a link.
    pub fn create_file(&self, relative: &Path, mode: u32) -> Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let open = self.resolve(relative, flags, Mode::from_raw_mode(mode));
        open.map(File::from)
            .map_err(|error| self.error("create", relative, error))
    }

    /// Opens an existing regular file for writing (and reading).
    ///
    /// # Errors
    /// It is not there; the way leads outside or through a link.
    pub fn open_file(&self, relative: &Path) -> Result<File> {
        let open = self.resolve(relative, OFlags::RDWR, Mode::empty());
        open.map(File::from)
            .map_err(|error| self.error("open", relative, error))
    }

    /// Makes one directory; `Ok(false)` when there is one already.
    ///
    /// # Errors
    /// The parent is missing; something else has the name; the way leads outside or through a link.
    pub fn make_directory(&self, relative: &Path, mode: u32) -> Result<bool> {
        let fail = |error| self.error("make the directory", relative, error);
        told!(
            Call::MakeDirectory {
                path: &self.path.join(relative)
            },
            |error| { Error::path("make the directory", self.path.join(relative), error) }
        );
        let (parent, name) = self.parent(relative).map_err(fail)?;
        match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(mode)) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => self.open_directory(relative).map(|_| false),
            Err(error) => Err(fail(error)),
        }
    }

    /// Makes a directory and those above it that are missing.
    ///
    /// # Errors
    /// As [`make_directory`](Beneath::make_directory).
    pub fn make_directories(&self, relative: &Path, mode: u32) -> Result<()> {
        let mut way = PathBuf::new();
        for component in relative.components() {
            way.push(component);
            self.make_directory(&way, mode)?;
        }
        Ok(())
    }

    /// Opens a directory below.
    ///
    /// # Errors
    /// It is not there or not a directory; the way leads outside or through a link.
    pub fn open_directory(&self, relative: &Path) -> Result<OwnedFd> {
        self.resolve(relative, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
            .map_err(|error| self.error("open the directory", relative, error))
    }

    /// What is in a directory below, in no order: names and kinds, links not followed.
    ///
    /// # Errors
    /// It is no directory, or cannot be read; the way leads outside or through a link.
    pub fn entries(&self, relative: &Path) -> Result<Vec<(OsString, FileType)>> {
        let directory = self.open_directory(relative)?;
        let fail = |error| self.error("read the directory", relative, error);
        let mut entries = Vec::new();
        for entry in Dir::read_from(&directory).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => match rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(found) => FileType::from_raw_mode(found.st_mode),
                    // It went meanwhile.
                    Err(Errno::NOENT) => continue,
                    Err(error) => return Err(fail(error)),
                },
                kind => kind,
            };
            entries.push((name.to_owned(), kind));
        }
        Ok(entries)
    }

    /// Where a symbolic link below leads.
    ///
    /// # Errors
    /// It is none; the way leads outside or through a link.
    pub fn read_link(&self, relative: &Path) -> Result<PathBuf> {
        let fail = |error| self.error("read the link", relative, error);
        let (parent, name) = self.parent(relative).map_err(fail)?;
        let target = rustix::fs::readlinkat(&parent, name, Vec::new()).map_err(fail)?;
        Ok(PathBuf::from(OsStr::from_bytes(target.to_bytes())))
    }

    /// Makes a symbolic link. The target is text and is not looked at.
    ///
    /// # Errors
    /// Something has the name; the way leads outside or through a link.
    pub fn make_symlink(&self, target: &[u8], relative: &Path) -> Result<()> {
        let fail = |error| self.error("make the link", relative, error);
        let (parent, name) = self.parent(relative).map_err(fail)?;
        rustix::fs::symlinkat(OsStr::from_bytes(target), &parent, name).map_err(fail)
    }

    /// Gives an existing file below a further name.
    ///
    /// # Errors
    /// The file is not there; something has the name; a way leads outside or through a link.
    pub fn make_hard_link(&self, existing: &Path, relative: &Path) -> Result<()> {
        let fail = |error| self.error("make the hard link", relative, error);
        let (from, old) = self.parent(existing).map_err(fail)?;
        let (to, new) = self.parent(relative).map_err(fail)?;
        rustix::fs::linkat(&from, old, &to, new, AtFlags::empty()).map_err(fail)
    }

    /// Renames a file, never over another one.
    ///
    /// # Errors
    /// The file is not there; something has the name; a way leads outside or through a link.
    pub fn rename(&self, existing: &Path, relative: &Path) -> Result<()> {
        let fail = |error| self.error("rename to", relative, error);
        let (from, old) = self.parent(existing).map_err(fail)?;
        let (to, new) = self.parent(relative).map_err(fail)?;
        match rustix::fs::renameat_with(&from, old, &to, new, RenameFlags::NOREPLACE) {
            // Filesystems without RENAME_NOREPLACE: a hard link refuses a taken name as well.
            Err(Errno::INVAL | Errno::NOSYS) => {
                rustix::fs::linkat(&from, old, &to, new, AtFlags::empty()).map_err(fail)?;
                rustix::fs::unlinkat(&from, old, AtFlags::empty()).map_err(fail)
            }
            answer => answer.map_err(fail),
        }
    }

    /// Removes a file's name (a link is not followed).
    ///
    /// # Errors
    /// It is not there, or a directory; the way leads outside or through a link.
    pub fn remove_file(&self, relative: &Path) -> Result<()> {
        let fail = |error| self.error("remove", relative, error);
        told!(
            Call::Remove {
                path: &self.path.join(relative)
            },
            |error| { Error::path("remove", self.path.join(relative), error) }
        );
        let (parent, name) = self.parent(relative).map_err(fail)?;
        rustix::fs::unlinkat(&parent, name, AtFlags::empty()).map_err(fail)
    }

    /// Makes a named pipe or a device.
    ///
    /// # Errors
    /// Something has the name; not permitted; the way leads outside or through a link.
    pub fn make_special(&self, special: Special, relative: &Path, mode: u32) -> Result<()> {
        let fail = |error| self.error("make the special file", relative, error);
        let (kind, device) = match special {
            Special::Fifo => (FileType::Fifo, 0),
            Special::CharDevice(major, minor) => (FileType::CharacterDevice, rustix::fs::makedev(major, minor)),
            Special::BlockDevice(major, minor) => (FileType::BlockDevice, rustix::fs::makedev(major, minor)),
        };
        let (parent, name) = self.parent(relative).map_err(fail)?;
        rustix::fs::mknodat(&parent, name, kind, Mode::from_raw_mode(mode), device).map_err(fail)
    }

    /// Whether something has this name (a link is not followed).
    ///
    /// # Errors
    /// The way leads outside or through a link, or cannot be looked at.
    pub fn exists(&self, relative: &Path) -> Result<bool> {
        let answer = self
            .parent(relative)
            .and_then(|(parent, name)| rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW));
        match answer {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(self.error("look at", relative, error)),
        }
    }

    /// Sets owner and group without following a link. Do it before the mode: the kernel clears setuid bits here.
    ///
    /// # Errors
    /// Not permitted; the way leads outside or through a link.
    pub fn set_owner(&self, relative: &Path, uid: u32, gid: u32) -> Result<()> {
        let fail = |error| self.error("set the owner of", relative, error);
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        let (parent, name) = self.parent(relative).map_err(fail)?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(&parent, name, Some(uid), Some(gid), flags).map_err(fail)
    }

    /// Sets the permission bits (0o7777) of anything but a symbolic link, which has none.
    ///
    /// # Errors
    /// Not permitted, or a symbolic link; the way leads outside or through a link.
    pub fn set_mode(&self, relative: &Path, mode: u32) -> Result<()> {
        let fail = |error| self.error("set the mode of", relative, error);
        let found = self.resolve(relative, OFlags::PATH, Mode::empty()).map_err(fail)?;
        // fchmod(2) refuses an O_PATH descriptor; its entry in /proc leads to exactly that inode.
        rustix::fs::chmod(descriptor_path(found.as_fd()), Mode::from_raw_mode(mode)).map_err(fail)
    }

    /// Sets the modification time (nanoseconds since 1970) without following a link; the access time stays.
    ///
    /// # Errors
    /// Not permitted; the way leads outside or through a link.
    pub fn set_modified(&self, relative: &Path, mtime_ns: i128) -> Result<()> {
        let fail = |error| self.error("set the time of", relative, error);
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
            last_modification: timespec(mtime_ns).ok_or_else(|| fail(Errno::RANGE))?,
        };
        let (parent, name) = self.parent(relative).map_err(fail)?;
        rustix::fs::utimensat(&parent, name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(fail)
    }

    /// Sets an extended attribute, also of a symbolic link itself.
    ///
    /// # Errors
    /// Not permitted or not supported (see [`no_such_attribute`](super::no_such_attribute)).
    pub fn set_xattr(&self, relative: &Path, name: &[u8], value: &[u8]) -> Result<()> {
        let fail = |error| self.error("set an extended attribute of", relative, error);
        let (parent, file) = self.parent(relative).map_err(fail)?;
        // There is no setxattrat(2) before Linux 6.13; the entry in /proc leads to the parent, the last name is not followed.
        let path = descriptor_path(parent.as_fd()).join(file);
        rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).map_err(fail)
    }

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// Durability is not certain.
    pub fn sync_directory(&self, relative: &Path) -> Result<()> {
        let path = self.path.join(relative);
        crate::failpoint!("fs.sync-directory", || Error::path(
            "sync the directory",
            &path,
            Errno::IO
        ));
        told!(Call::SyncDirectory { path: &path }, |error| Error::path(
            "sync the directory",
            &path,
            error
        ));
        let directory = self.open_directory(relative)?;
        rustix::fs::fsync(directory).map_err(|error| Error::path("sync the directory", path, error))
    }

    /// Writes out the whole filesystem below which everything was made: one barrier after many files.
    ///
    /// # Errors
    /// Durability is not certain.
    pub fn syncfs(&self) -> Result<()> {
        super::syncfs(&self.directory, &self.path)
    }

    /// The directory that holds `relative`, and its last name. The anchor itself is `.` in itself.
    fn parent<'p>(&self, relative: &'p Path) -> rustix::io::Result<(OwnedFd, &'p OsStr)> {
        let (directory, name) = match (relative.parent(), relative.components().next_back()) {
            (None, None) => (Path::new(""), OsStr::new(".")),
            (Some(parent), Some(Component::Normal(name))) => (parent, name),
            _ => return Err(Errno::XDEV),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        self.resolve(directory, flags, Mode::empty())
            .map(|parent| (parent, name))
    }

    pub(super) fn resolve(&self, relative: &Path, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
        static OLD_KERNEL: AtomicBool = AtomicBool::new(false);
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        // `.` stands for the anchor; `a/../b` would stay beneath, but nobody honest asks for it.
        let plain = |component| matches!(component, Component::Normal(_)) || relative == Path::new(".");
        if !relative.components().all(plain) {
            return Err(Errno::XDEV);
        }
        let path = if relative.as_os_str().is_empty() {
            Path::new(".")
        } else {
            relative
        };
        if !OLD_KERNEL.load(Ordering::Relaxed) {
            let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            match rustix::fs::openat2(&self.directory, path, flags, mode, within) {
                // Before Linux 5.6, or behind a seccomp filter that does not know it.
                Err(Errno::NOSYS | Errno::PERM) => OLD_KERNEL.store(true, Ordering::Relaxed),
                answer => return answer,
            }
        }
        step_by_step(self.directory.as_fd(), path, flags, mode)
    }

    pub(super) fn error(&self, operation: &'static str, relative: &Path, error: Errno) -> Error {
        let path = self.path.join(relative);
        match error {
            Errno::LOOP => Error::path(operation, path, std::io::Error::other("a symbolic link is in the way")),
            Errno::XDEV => Error::path(
                operation,
                path,
                std::io::Error::other(format!("the path leaves {}", self.path.display())),
            ),
            error => Error::path(operation, path, error),
        }
    }
}

fn descriptor_path(descriptor: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))
}

fn timespec(nanoseconds: i128) -> Option<Timespec> {
    Some(Timespec {
        tv_sec: i64::try_from(nanoseconds.div_euclid(1_000_000_000)).ok()?,
        tv_nsec: nanoseconds.rem_euclid(1_000_000_000) as _,
    })
}

#[cfg(test)]
mod tests;
