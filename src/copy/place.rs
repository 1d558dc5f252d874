//! Where a tree is read: a snapshot by its paths, since nobody writes there; a live tree beneath a descriptor that is held, since its owners may
//! exchange a directory for a link to what is not theirs while root reads.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::section::open;
use crate::sys;
use crate::sys::fs::Beneath;

/// A tree that is being read.
#[derive(Debug, Clone)]
pub(super) struct Place {
    path: PathBuf,
    /// The directory that holds a live tree, and the tree's name in it.
    held: Option<(Arc<Beneath>, PathBuf)>,
}

impl Place {
    /// Opens what a live tree lies in.
    ///
    /// # Errors
    /// It is gone, or a link was put on the way since the tree was found.
    pub fn of(path: &Path, live: bool) -> sys::Result<Place> {
        let held = match (live, path.parent(), path.file_name()) {
            (false, ..) => None,
            (true, Some(parent), Some(name)) => Some((Beneath::open_way(parent, false)?, PathBuf::from(name))),
            (true, ..) => Some((Beneath::open_way(path, false)?, PathBuf::new())),
        };
        Ok(Place {
            path: path.to_owned(),
            held: held.map(|(beneath, name)| (Arc::new(beneath), name)),
        })
    }

    /// The path of what is `relative` to the tree; an empty one is the tree itself.
    pub fn path(&self, relative: &Path) -> PathBuf {
        join(&self.path, relative)
    }

    /// Lets something be done by a path whose last name alone is still to be resolved.
    ///
    /// # Errors
    /// The way to it leads through a link, or is gone; what is done fails.
    pub fn at<T>(&self, relative: &Path, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
        match &self.held {
            None => act(&self.path(relative)),
            Some((beneath, name)) => beneath.at(&join(name, relative), act),
        }
    }

    /// What has the name; a link is not followed.
    ///
    /// # Errors
    /// As [`at`](Place::at).
    pub fn look(&self, relative: &Path) -> io::Result<Metadata> {
        self.at(relative, |path| std::fs::symlink_metadata(path))
    }

    /// The names in a directory.
    ///
    /// # Errors
    /// As [`at`](Place::at).
    pub fn names(&self, relative: &Path) -> io::Result<Vec<OsString>> {
        match &self.held {
            None => std::fs::read_dir(self.path(relative))?
                .map(|entry| Ok(entry?.file_name()))
                .collect(),
            Some((beneath, name)) => {
                let directory = beneath.enter(&join(name, relative)).map_err(sys::Error::into_io)?;
                directory.names().map_err(sys::Error::into_io)
            }
        }
    }

    /// Opens a file. In a live tree only a plain one, whatever the walk saw there.
    ///
    /// # Errors
    /// As [`at`](Place::at); it is no plain file any more.
    pub fn open(&self, relative: &Path) -> io::Result<File> {
        match &self.held {
            None => open(&self.path(relative)),
            Some((beneath, name)) => beneath.open_plain(&join(name, relative)).map_err(sys::Error::into_io),
        }
    }
}

/// Without the slash at the end that an empty path brings.
fn join(base: &Path, relative: &Path) -> PathBuf {
    match relative == OsStr::new("") {
        true => base.to_owned(),
        false => base.join(relative),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_live_tree_is_not_left_through_what_its_owner_exchanges() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        for name in ["tree/sub", "outside"] {
            std::fs::create_dir_all(top.join(name)).unwrap();
            std::fs::write(top.join(name).join("file"), name).unwrap();
        }
        let (live, file) = (Place::of(&top.join("tree"), true).unwrap(), Path::new("sub/file"));
        assert!(live.look(file).unwrap().is_file() && live.open(file).is_ok());
        assert_eq!(live.names(Path::new("sub")).unwrap(), ["file"]);
        std::fs::rename(top.join("tree/sub"), top.join("tree/gone")).unwrap();
        symlink(top.join("outside"), top.join("tree/sub")).unwrap();
        assert!(live.look(file).is_err() && live.open(file).is_err() && live.names(Path::new("sub")).is_err());
        assert!(live.look(Path::new("sub")).unwrap().is_symlink());
        // A pipe where the walk saw a file is not waited for.
        let beneath = Beneath::open(&top.join("tree")).unwrap();
        beneath
            .make_special(sys::fs::Special::Fifo, Path::new("pipe"), 0o600)
            .unwrap();
        assert!(live.open(Path::new("pipe")).is_err());
    }
}
