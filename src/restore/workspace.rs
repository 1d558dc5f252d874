//! A restore happens in a directory of its own, which takes its final name when all of it is there.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::lost::list_beside;
use super::pieces::{Piece, Survey};
use super::unfinished::{UNFINISHED, is_marked};
use super::{Destination, Placed, Request};
use crate::copy::PARTIAL;
use crate::sys::fs::Beneath;
use crate::units::Id;
use crate::{Error, Result};

/// How the finished workspace appears at the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Publish {
    /// The workspace itself is renamed.
    Whole,
    /// The destination is a mount point or a subvolume of its own: what is in the workspace moves up into it.
    Children,
    /// The one file in it is renamed.
    Single,
}

/// The place of one restored tree. Dropped before it was published, it is removed.
#[derive(Debug)]
pub(super) struct Workspace {
    destination: PathBuf,
    path: PathBuf,
    how: Publish,
    /// What is at the destination now is moved here first.
    aside: Option<PathBuf>,
    beneath: Beneath,
    /// A server that runs as its own user passes through the top to what is its own below.
    passable: bool,
    /// Where things are, once it is being published: what was renamed, from and to, in order.
    renamed: Vec<(PathBuf, PathBuf)>,
    published: bool,
    /// Held so that another restore leaves it alone.
    _lock: File,
}

/// Opens a workspace for each tree that appears as a whole.
///
/// # Errors
/// Something is in the way.
pub(super) fn open(pieces: &[Piece], survey: &Survey, request: &Request, id: Id) -> Result<Vec<Workspace>> {
    let all: BTreeSet<&PathBuf> = pieces.iter().map(|piece| &piece.space).collect();
    // A tree inside another one appears with it.
    let nested = |space: &Path| all.iter().any(|other| space != **other && space.starts_with(other));
    if let Some(inner) = all.iter().find(|space| nested(space)) {
        return Err(Error::failed(format!(
            "{} lies inside another tree of this backup: restore with --target and move it, or --include one of them at a time",
            inner.display()
        )));
    }
    let taken = all.first().map(|space| list_beside(space));
    if let Some(list) = taken.filter(|list| request.keep_going && list.exists()) {
        return Err(Error::failed(format!(
            "{} is there already, from an earlier restore: move it away first",
            list.display()
        )));
    }
    let mut spaces = Vec::new();
    for space in all {
        let single = pieces
            .iter()
            .enumerate()
            .any(|(index, piece)| survey.single.contains(&index) && piece.destination == *space);
        spaces.push(Workspace::open(space, single, request, id)?);
    }
    Ok(spaces)
}

impl Workspace {
    fn open(destination: &Path, single: bool, request: &Request, id: Id) -> Result<Workspace> {
        let sys = |operation: &'static str, path: &Path, error: std::io::Error| {
            Error::Sys(crate::sys::Error::path(operation, path, error))
        };
        let parent = destination
            .parent()
            .ok_or_else(|| Error::usage("`/` cannot be restored to: boot a rescue system and use --target"))?;
        let found = match std::fs::symlink_metadata(destination) {
            Ok(found) => Some(found),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(sys("look at", destination, error)),
        };
        if found.is_none() {
            std::fs::create_dir_all(parent).map_err(|error| sys("make the directory", parent, error))?;
        }
        let occupied = match &found {
            None => false,
            Some(found) if found.is_dir() => !is_empty(destination).map_err(|error| sys("read", destination, error))?,
            Some(_) => true,
        };
        let in_place = request.destination == Destination::InPlace;
        if occupied && !(in_place && request.force) {
            let remedy = match in_place {
                true => "--force moves it aside",
                false if is_marked(destination) => {
                    "it is half a replay, of a run that died: `snapback cleanup` removes it"
                }
                false => "name an empty or new directory",
            };
            return Err(Error::failed(format!(
                "{} is not empty; nothing was touched: {remedy}",
                destination.display()
            )));
        }
        let own_filesystem = found.as_ref().filter(|found| found.is_dir()).is_some_and(|found| {
            let device = std::fs::metadata(parent).map(|parent| parent.dev());
            device.is_ok_and(|device| device != found.dev())
        });
        let how = match (single, own_filesystem) {
            (true, _) => Publish::Single,
            (false, true) => Publish::Children,
            (false, false) => Publish::Whole,
        };
        let name = destination
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let path = match how {
            Publish::Children => destination.join(format!("{PARTIAL}{}", id.short())),
            _ => parent.join(format!("{name}{PARTIAL}{}", id.short())),
        };
        let aside = occupied.then(|| aside_of(destination, &name, how, id));
        if let Some(aside) = aside.as_ref().filter(|aside| aside.exists()) {
            return Err(Error::failed(format!(
                "{} is there already, from an earlier restore: move it away first",
                aside.display()
            )));
        }
        let lock = take(&path)?;
        let beneath = Beneath::open(&path)?;
        Ok(Workspace {
            destination: destination.to_owned(),
            path,
            how,
            aside,
            beneath,
            passable: matches!(request.destination, Destination::Datadir(_)),
            renamed: Vec::new(),
            published: false,
            _lock: lock,
        })
    }

    /// Where the restored tree will be.
    pub fn destination(&self) -> &Path {
        &self.destination
    }

    /// Where it is being made.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Everything is made below here.
    pub fn beneath(&self) -> &Beneath {
        &self.beneath
    }

    /// The name in the workspace of what is `relative` to the destination.
    pub fn inside(&self, relative: &Path) -> PathBuf {
        match self.how {
            // The one file; joined with an empty path it would be taken for a directory.
            Publish::Single => PathBuf::from(self.destination.file_name().unwrap_or_default()),
            _ => relative.to_owned(),
        }
    }

    /// Where something in the workspace is once it is published.
    pub fn final_path(&self, inside: &Path) -> PathBuf {
        match self.how {
            Publish::Single => self.destination.with_file_name(inside),
            _ => self.destination.join(inside),
        }
    }

    /// Makes everything durable.
    pub fn sync(&self) -> Result<()> {
        Ok(self.beneath.syncfs()?)
    }

    /// Lets the tree appear.
    ///
    /// # Errors
    /// A rename failed. What was done can be undone.
    fn publish(&mut self, pieces: &[Piece]) -> Result<()> {
        crate::failpoint!("restore.publish");
        // From here on the data is worth keeping, also when a rename fails.
        self.published = true;
        if self.passable && !pieces.iter().any(|piece| piece.destination == self.destination) {
            self.beneath.set_mode(Path::new(""), 0o755)?;
        }
        match self.how {
            Publish::Children => self.publish_children()?,
            Publish::Whole => {
                self.move_aside()?;
                self.rename(&self.path.clone(), &self.destination.clone())?;
            }
            Publish::Single => {
                // A file that is not whole has another name, or is not there at all.
                for new in list(&self.path)? {
                    let to = self.final_path(Path::new(new.file_name().unwrap_or_default()));
                    if to == self.destination {
                        self.move_aside()?;
                    } else if to.exists() {
                        return Err(Error::failed(format!("{} is there already", to.display())));
                    }
                    self.rename(&new, &to)?;
                }
            }
        }
        Ok(crate::sys::fs::sync_directory(self.directory())?)
    }

    /// The directory in which names change.
    fn directory(&self) -> &Path {
        match self.how {
            Publish::Children => &self.destination,
            _ => self.destination.parent().unwrap_or(Path::new("/")),
        }
    }

    /// Takes back what [`publish`](Workspace::publish) did: what was there is there again, and the restored tree in the workspace.
    ///
    /// # Errors
    /// A rename failed: what is where is said.
    fn take_back(&mut self) -> Result<()> {
        while let Some((from, to)) = self.renamed.last() {
            std::fs::rename(to, from).map_err(|error| cannot_move(to, from, &error))?;
            self.renamed.pop();
        }
        if let Some(aside) = self.aside.as_ref().filter(|_| self.how == Publish::Children) {
            let _ = std::fs::remove_dir(aside);
        }
        Ok(crate::sys::fs::sync_directory(self.directory())?)
    }

    /// Every tree has appeared: what is left of the workspace goes.
    fn finish(&self, pieces: &[Piece]) -> Vec<Placed> {
        if self.how == Publish::Children
            && let (Ok(found), Ok(top)) = (std::fs::metadata(&self.path), Beneath::open(&self.destination))
        {
            // The destination's own directory gets what the tree's top had.
            let _ = top.set_owner(Path::new(""), found.uid(), found.gid());
            let _ = top.set_mode(Path::new(""), found.mode() & 0o7777);
        }
        if self.how != Publish::Whole {
            let _ = std::fs::remove_dir(&self.path);
            let _ = crate::sys::fs::sync_directory(self.directory());
        }
        let here = pieces.iter().filter(|piece| piece.space == self.destination);
        here.map(|piece| Placed {
            original: piece.original.clone(),
            at: piece.destination.clone(),
            moved_aside: self.aside.clone(),
        })
        .collect()
    }

    fn move_aside(&mut self) -> Result<()> {
        match self.aside.clone() {
            Some(aside) => self.rename(&self.destination.clone(), &aside),
            None => Ok(()),
        }
    }

    fn publish_children(&mut self) -> Result<()> {
        if let Some(aside) = self.aside.clone() {
            crate::sys::fs::make_directory_durably(&aside, 0o700)?;
            for old in list(&self.destination)? {
                if old != self.path && old != aside {
                    self.rename(&old, &aside.join(old.file_name().unwrap_or_default()))?;
                }
            }
        }
        let mut all = list(&self.path)?;
        // What says that it is half of something comes before the rest.
        all.sort_by_key(|new| new.file_name().is_none_or(|name| name != UNFINISHED));
        for new in all {
            let to = self.destination.join(new.file_name().unwrap_or_default());
            self.rename(&new, &to)?;
        }
        Ok(())
    }

    fn rename(&mut self, from: &Path, to: &Path) -> Result<()> {
        crate::failpoint!("restore.rename", || cannot_move(
            from,
            to,
            &std::io::Error::other("a test said so")
        ));
        std::fs::rename(from, to).map_err(|error| cannot_move(from, to, &error))?;
        self.renamed.push((from.to_owned(), to.to_owned()));
        Ok(())
    }
}

fn cannot_move(from: &Path, to: &Path, error: &std::io::Error) -> Error {
    Error::failed(format!("cannot move {} to {}: {error}", from.display(), to.display()))
}

/// Lets every tree appear, or none: trees of two moments beside each other are worse than none.
///
/// # Errors
/// A tree could not appear. What had appeared was taken back, or is listed; the restored data is in the workspaces, which are named.
pub(super) fn publish(spaces: &mut [Workspace], pieces: &[Piece]) -> Result<Vec<Placed>> {
    for at in 0..spaces.len() {
        let Err(error) = spaces[at].publish(pieces) else {
            continue;
        };
        let mut said = vec![error.to_string()];
        for space in spaces[..=at].iter_mut().rev() {
            if let Err(error) = space.take_back() {
                let left = space
                    .renamed
                    .iter()
                    .map(|(from, to)| format!("{} is at {}", from.display(), to.display()));
                said.push(format!("taking it back failed: {error}"));
                said.extend(left);
            }
        }
        if said.len() == 1 {
            said.push("nothing has changed at the destination".to_owned());
        }
        // The others are whole as well.
        let kept: Vec<String> = spaces
            .iter_mut()
            .map(|space| {
                space.published = true;
                space.path.display().to_string()
            })
            .collect();
        said.push(format!("the restored data is in {}", kept.join(", ")));
        return Err(Error::failed(said.join("; ")));
    }
    Ok(spaces.iter().flat_map(|space| space.finish(pieces)).collect())
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if !self.published {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

fn list(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(directory).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    entries.map_err(|error| Error::Sys(crate::sys::Error::path("read", directory, error)))
}

/// Where what is at the destination goes.
fn aside_of(destination: &Path, name: &str, how: Publish, id: Id) -> PathBuf {
    match how {
        Publish::Children => destination.join(format!(".snapback-before-{}", id.short())),
        _ => destination.with_file_name(format!("{name}.snapback-before-{}", id.short())),
    }
}

/// Whether a directory holds nothing but what `mkfs` puts there.
fn is_empty(directory: &Path) -> std::io::Result<bool> {
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        if name != "lost+found" && !name.to_string_lossy().starts_with(PARTIAL) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes the workspace's directory. One that a dead restore of the same backup left is taken away first.
fn take(path: &Path) -> Result<File> {
    let sys = |operation: &'static str| {
        let path = path.to_owned();
        move |error: std::io::Error| crate::sys::Error::path(operation, path, error)
    };
    if path.exists() {
        let old = File::open(path).map_err(sys("open"))?;
        if old.try_lock().is_err() {
            return Err(Error::failed(format!(
                "another restore is working in {}",
                path.display()
            )));
        }
        std::fs::remove_dir_all(path).map_err(sys("remove what a dead restore left at"))?;
    }
    crate::sys::fs::make_directory_durably(path, 0o700)?;
    let lock = File::open(path).map_err(sys("open"))?;
    lock.try_lock()
        .map_err(|_| Error::failed(format!("another restore is working in {}", path.display())))?;
    Ok(lock)
}
