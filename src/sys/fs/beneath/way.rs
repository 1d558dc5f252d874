//! Coming to a directory that a person named, when others may own directories on the way.
//!
//! A link is followed only where nobody else could have laid it: in directories that only root, or the user that we run as, can
//! change. Below a directory of somebody else links and `..` are refused, and each name is held before the next one is looked up.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::super::super::{Error, Result, host};
use super::Beneath;

/// The kernel follows as many links in one path (path_resolution(7)).
const MOST_LINKS: usize = 40;
/// Permission bits of a directory that comes to be on the way, before the umask.
const MODE: u32 = 0o777;

impl Beneath {
    /// Opens the directory at `path`. With `make`, missing directories are made.
    ///
    /// # Errors
    /// Part of the way is missing or no directory; a link or `..` lies where somebody else could have put it.
    pub fn open_way(path: &Path, make: bool) -> Result<Beneath> {
        let absolute = std::path::absolute(path).map_err(|error| Error::path("find", path, error))?;
        let mut way = Way::begin(names_of(&absolute), make)?;
        while let Some(name) = way.left.pop() {
            way.step(name)?;
        }
        way.end()
    }

    /// The directory in which a path ends, as [`open_way`](Beneath::open_way), and the name that it ends with, which is not looked at.
    ///
    /// # Errors
    /// As [`open_way`](Beneath::open_way); the path ends with no name (`/`, `..`).
    pub fn open_holder(path: &Path, make: bool) -> Result<(Beneath, &OsStr)> {
        match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) if parent.as_os_str().is_empty() => {
                Ok((Beneath::open_way(Path::new("."), make)?, name))
            }
            (Some(parent), Some(name)) => Ok((Beneath::open_way(parent, make)?, name)),
            _ => Err(Error::path(
                "make",
                path,
                std::io::Error::other("the path ends with no name"),
            )),
        }
    }
}

/// The names of a path, last first.
fn names_of(path: &Path) -> Vec<OsString> {
    let named = path.components().rev().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    named.collect()
}

struct Way {
    /// What is still to go, last first.
    left: Vec<OsString>,
    make: bool,
    here: OwnedFd,
    /// The real path of `here`.
    path: PathBuf,
    /// Who else can exchange what is below, since where.
    others: Option<(PathBuf, u32)>,
    links: usize,
}

impl Way {
    fn begin(left: Vec<OsString>, make: bool) -> Result<Way> {
        let path = PathBuf::from("/");
        let (here, found) = root()?;
        let others = somebodys(&found, true).map(|uid| (path.clone(), uid));
        Ok(Way {
            left,
            make,
            here,
            path,
            others,
            links: 0,
        })
    }

    fn step(&mut self, name: OsString) -> Result<()> {
        let at = self.path.join(&name);
        let fail = |error: Errno| Error::path("open", &at, error);
        if name == ".." {
            self.refuse_to_follow(&at, "`..`")?;
            self.here = open(&self.here, &name).map_err(fail)?;
            self.path.pop();
            return Ok(());
        }
        let next = match open(&self.here, &name) {
            Err(Errno::NOENT) if self.make => match rustix::fs::mkdirat(&self.here, &name, Mode::from_raw_mode(MODE)) {
                Ok(()) | Err(Errno::EXIST) => open(&self.here, &name).map_err(fail)?,
                Err(error) => return Err(Error::path("make the directory", &at, error)),
            },
            next => next.map_err(fail)?,
        };
        let found = rustix::fs::fstat(&next).map_err(fail)?;
        match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => {
                if let Some(uid) = somebodys(&found, true).filter(|_| self.others.is_none()) {
                    self.others = Some((at.clone(), uid));
                }
                (self.here, self.path) = (next, at);
                Ok(())
            }
            FileType::Symlink => self.follow(&at, &next, &found),
            _ => Err(fail(Errno::NOTDIR)),
        }
    }

    fn follow(&mut self, at: &Path, link: &OwnedFd, found: &Stat) -> Result<()> {
        let fail = |error: Errno| Error::path("follow", at, error);
        if self.others.is_none() && !is_ours(found.st_uid) {
            self.others = Some((at.to_owned(), found.st_uid));
        }
        self.refuse_to_follow(at, "a symbolic link")?;
        self.links += 1;
        if self.links > MOST_LINKS {
            return Err(fail(Errno::LOOP));
        }
        let target = rustix::fs::readlinkat(link, "", Vec::new()).map_err(fail)?;
        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
        if target.is_absolute() {
            (self.here, self.path) = (root()?.0, PathBuf::from("/"));
        }
        self.left.extend(names_of(&target));
        Ok(())
    }

    fn refuse_to_follow(&self, at: &Path, what: &str) -> Result<()> {
        let Some((whose, uid)) = &self.others else {
            return Ok(());
        };
        let said = format!(
            "it is {what}, and {} could have put it there (see {}): name the real path",
            host::user_name(*uid),
            whose.display()
        );
        Err(Error::path("follow", at, std::io::Error::other(said)))
    }

    fn end(self) -> Result<Beneath> {
        let fail = |error: Errno| Error::path("open the directory", &self.path, error);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = match rustix::fs::openat(&self.here, ".", flags, Mode::empty()) {
            // Who may pass, and not read, finds what is below all the same.
            Err(Errno::ACCESS) => open(&self.here, &".".into()),
            opened => opened,
        };
        let directory = directory.map_err(fail)?;
        let found = rustix::fs::fstat(&directory).map_err(fail)?;
        Ok(Beneath {
            directory,
            only_ours: self.others.is_none() && somebodys(&found, false).is_none(),
            path: self.path,
        })
    }
}

fn root() -> Result<(OwnedFd, Stat)> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open("/", flags, Mode::empty()).and_then(|root| Ok((rustix::fs::fstat(&root)?, root)));
    opened
        .map(|(found, root)| (root, found))
        .map_err(|error| Error::path("open", "/", error))
}

fn open(here: &OwnedFd, name: &OsString) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(here, name, flags, Mode::empty())
}

fn is_ours(uid: u32) -> bool {
    uid == 0 || uid == host::user_id()
}

/// Who else can change the names in a directory: its owner; everybody and its group stand for theirs. With `sticky`, a directory whose
/// sticky bit is set (`/tmp`) is nobody's: there, what belongs to one cannot be renamed by another.
fn somebodys(found: &Stat, sticky: bool) -> Option<u32> {
    const NOBODY: u32 = 65_534;
    if !is_ours(found.st_uid) {
        return Some(found.st_uid);
    }
    let group = found.st_mode & 0o020 != 0 && found.st_gid != 0;
    let open = group || found.st_mode & 0o002 != 0;
    (open && !(sticky && found.st_mode & 0o1000 != 0)).then_some(NOBODY)
}
