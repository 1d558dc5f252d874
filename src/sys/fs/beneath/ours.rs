//! A directory of our own inside one that others may write to: made, seen to be ours, and from then on known by its descriptor.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, RenameFlags, Stat};
use rustix::io::Errno;

use super::super::super::{Error, Result, host};
use super::super::{Room, create_durably, replace_durably};
use super::{Beneath, descriptor_path};

/// What has a name, without following a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// `st_dev` and `st_ino`: which thing it is.
    pub identity: (u64, u64),
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Kind and permission bits (`st_mode`).
    pub mode: u32,
    /// Its length in bytes.
    pub bytes: u64,
}

impl Found {
    fn of(found: &Stat) -> Found {
        Found {
            identity: (found.st_dev, found.st_ino),
            uid: found.st_uid,
            gid: found.st_gid,
            mode: found.st_mode,
            bytes: u64::try_from(found.st_size).unwrap_or(0),
        }
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        FileType::from_raw_mode(self.mode) == FileType::Directory
    }

    /// Whether it is a plain file.
    pub fn is_file(&self) -> bool {
        FileType::from_raw_mode(self.mode) == FileType::RegularFile
    }

    /// `st_dev`.
    pub fn device(&self) -> u64 {
        self.identity.0
    }
}

impl Beneath {
    /// Where it was when it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether nobody but root, or the user that we run as, can change the names in it. Known only of what
    /// [`open_way`](Beneath::open_way) opened.
    pub fn is_only_ours(&self) -> bool {
        self.only_ours
    }

    /// The directory itself, wherever it is now.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn itself(&self) -> Result<Found> {
        let found = rustix::fs::fstat(&self.directory);
        found
            .map(|found| Found::of(&found))
            .map_err(|error| self.error("look at", Path::new(""), error))
    }

    /// What has this name; `None`: nothing has.
    ///
    /// # Errors
    /// The way leads outside or through a link, or cannot be looked at.
    pub fn look(&self, relative: &Path) -> Result<Option<Found>> {
        let answer = self
            .parent(relative)
            .and_then(|(parent, name)| rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW));
        match answer {
            Ok(found) => Ok(Some(Found::of(&found))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(self.error("look at", relative, error)),
        }
    }

    /// Anchors at a directory below.
    ///
    /// # Errors
    /// It is not there or not a directory; the way leads outside or through a link.
    pub fn enter(&self, relative: &Path) -> Result<Beneath> {
        Ok(Beneath {
            directory: self.open_directory(relative)?,
            path: self.path.join(relative),
            only_ours: false,
        })
    }

    /// Makes a directory that nobody else may enter, and anchors at it. Where others can write, what was opened is seen to be what was
    /// made: it is ours, closed to others, empty, and on the same filesystem.
    ///
    /// # Errors
    /// Something has the name; somebody else exchanged it.
    pub fn make_ours(&self, name: &OsStr) -> Result<Beneath> {
        let at = Path::new(name);
        let fail = |error| self.error("make the directory", at, error);
        rustix::fs::mkdirat(&self.directory, name, Mode::from_raw_mode(0o700)).map_err(fail)?;
        crate::failpoint!("fs.made-ours");
        let made = self.enter(at)?;
        let found = made.itself()?;
        let ours = found.uid == host::user_id() && found.mode & 0o777 == 0o700;
        let here = found.device() == self.itself()?.device() && made.names()?.is_empty();
        let proved = ours && here;
        if !self.only_ours && !proved {
            let said = format!(
                "it is not the directory that was just made (owner {}, mode {:04o}): somebody else writes in {}; \
                 choose a place where only root can",
                host::user_name(found.uid),
                found.mode & 0o7777,
                self.path.display()
            );
            return Err(Error::path("use", self.path.join(name), std::io::Error::other(said)));
        }
        if !self.only_ours {
            made.forget_inherited()?;
        }
        Ok(made)
    }

    /// An ACL that somebody else's directory hands down would be handed down to all that is made here.
    fn forget_inherited(&self) -> Result<()> {
        for name in ["system.posix_acl_default", "system.posix_acl_access"] {
            match rustix::fs::fremovexattr(&self.directory, name) {
                Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                Err(error) => return Err(self.error("take the inherited ACL from", Path::new(""), error)),
            }
        }
        Ok(())
    }

    /// Takes the lock (flock(2)) of the directory itself; `false` when somebody has it. It is held as long as this value.
    ///
    /// # Errors
    /// The filesystem knows no locks.
    pub fn try_lock(&self) -> Result<bool> {
        match rustix::fs::flock(&self.directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(self.error("lock", Path::new(""), error)),
        }
    }

    /// The names in it, in no order.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn names(&self) -> Result<Vec<OsString>> {
        let entries = self.entries(Path::new(""))?;
        Ok(entries.into_iter().map(|(name, _)| name).collect())
    }

    /// Gives what has a name here a name in another directory. An empty directory there gives way to a directory; nothing else does.
    ///
    /// # Errors
    /// It is not there; something has the name; the two are on different filesystems.
    pub fn move_to(&self, name: &OsStr, other: &Beneath, new: &OsStr) -> Result<()> {
        let fail = |error: Errno| Error::path("move", self.path.join(name), error);
        let directory = self.look(Path::new(name))?.is_some_and(|found| found.is_directory());
        let (from, to) = (&self.directory, &other.directory);
        if directory {
            return rustix::fs::renameat(from, name, to, new).map_err(fail);
        }
        match rustix::fs::renameat_with(from, name, to, new, RenameFlags::NOREPLACE) {
            // Filesystems without RENAME_NOREPLACE: a hard link refuses a taken name as well.
            Err(Errno::INVAL | Errno::NOSYS) => {
                rustix::fs::linkat(from, name, to, new, AtFlags::empty()).map_err(fail)?;
                rustix::fs::unlinkat(from, name, AtFlags::empty()).map_err(fail)
            }
            answer => answer.map_err(fail),
        }
    }

    /// Removes what has a name, with all that is below; no link is followed.
    ///
    /// # Errors
    /// It is not there, or something in it cannot be removed.
    pub fn remove_all(&self, name: &OsStr) -> Result<()> {
        if !matches!(Path::new(name).components().next(), Some(std::path::Component::Normal(only)) if only == name) {
            return Err(self.error("remove", Path::new(name), Errno::XDEV));
        }
        let fail = |error: std::io::Error| Error::path("remove", self.path.join(name), error);
        let directory = self.look(Path::new(name))?.is_some_and(|found| found.is_directory());
        if !directory {
            let removed = rustix::fs::unlinkat(&self.directory, name, AtFlags::empty());
            return removed.map_err(|error| fail(error.into()));
        }
        // It goes from descriptor to descriptor, and refuses a link at the top.
        std::fs::remove_dir_all(self.entry(name)).map_err(fail)
    }

    /// Removes all that is in it, but for one name.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn clear(&self, but: Option<&OsStr>) -> Result<()> {
        for name in self.names()? {
            if Some(name.as_os_str()) != but {
                self.remove_all(&name)?;
            }
        }
        Ok(())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// It is not there, no directory, or not empty.
    pub fn remove_directory(&self, name: &OsStr) -> Result<()> {
        let removed = rustix::fs::unlinkat(&self.directory, name, AtFlags::REMOVEDIR);
        removed.map_err(|error| self.error("remove", Path::new(name), error))
    }

    /// As [`create_durably`](create_durably()), in this directory.
    ///
    /// # Errors
    /// Something has the name; no room; not writable.
    pub fn create_durably(&self, name: &OsStr, bytes: &[u8], mode: u32) -> Result<()> {
        let made = create_durably(&self.entry(name), bytes, mode);
        made.map_err(|error| Error::path("create", self.path.join(name), error.into_io()))
    }

    /// The room on its filesystem.
    ///
    /// # Errors
    /// The filesystem cannot be asked.
    pub fn room(&self) -> Result<Room> {
        let room = super::super::room(&descriptor_path(self.directory.as_fd()));
        room.map_err(|error| Error::path("ask for the free space of", &self.path, error.into_io()))
    }

    /// As [`replace_durably`](replace_durably()), in this directory: a link that has the name is replaced, not followed.
    ///
    /// # Errors
    /// No room; not writable.
    pub fn replace_durably(&self, name: &OsStr, bytes: &[u8], mode: u32) -> Result<()> {
        let made = replace_durably(&self.entry(name), bytes, mode);
        made.map_err(|error| Error::path("write", self.path.join(name), error.into_io()))
    }

    /// A path by which a program that we start finds the directory, whoever renames what is above it. It leads there as long as this
    /// value lives.
    pub fn path_for_programs(&self) -> PathBuf {
        PathBuf::from(format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.directory.as_raw_fd()
        ))
    }

    /// A path that leads to a name here, whoever renames what is above it.
    fn entry(&self, name: &OsStr) -> PathBuf {
        descriptor_path(self.directory.as_fd()).join(name)
    }

    /// Lets something be done by a path that leads to a name below, whoever renames what is above it. The last name may be anything,
    /// a link as well: what is done must not follow it.
    ///
    /// # Errors
    /// The way leads outside or through a link; what is done fails.
    pub fn at<T>(&self, relative: &Path, act: impl FnOnce(&Path) -> std::io::Result<T>) -> std::io::Result<T> {
        let found = self.parent(relative);
        let (parent, name) = found.map_err(|error| self.error("find", relative, error).into_io())?;
        act(&descriptor_path(parent.as_fd()).join(name))
    }

    /// Removes a directory that we hold, with all that is in it: what is below by its descriptor, its name only while it is empty.
    ///
    /// # Errors
    /// Something in it cannot be removed, or its name has become another's.
    pub fn remove_held(&self, name: &OsStr, held: &Beneath) -> Result<()> {
        held.clear(None)?;
        self.remove_directory(name)
    }

    /// Whether a name still belongs to a directory that we hold.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn is_named(&self, name: &OsStr, held: &Beneath) -> Result<bool> {
        let found = self.look(Path::new(name))?;
        Ok(found.map(|found| found.identity) == Some(held.itself()?.identity))
    }

    /// Makes its own names durable.
    ///
    /// # Errors
    /// Durability is not certain.
    pub fn sync_names(&self) -> Result<()> {
        self.sync_directory(Path::new(""))
    }
}
