//! A restore happens in a directory of its own, which takes its final name when all of it is there.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::lost::list_beside;
use super::pieces::{Piece, Survey};
use super::unfinished::{UNFINISHED, is_marked};
use super::write::dress;
use super::{Destination, Placed, Request};
use crate::copy::PARTIAL;
use crate::copy::notes::Notes;
use crate::repository::Metadata;
use crate::sys::fs::{Beneath, Found};
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

/// A directory in which names change while a tree is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// The one that has the destination.
    Parent,
    /// The destination itself.
    Destination,
    /// The workspace.
    Workspace,
    /// Where what was in the destination goes.
    Aside,
}

/// A name in one of them.
type Spot = (At, OsString);

/// The place of one restored tree. Dropped before it was published, it is removed.
///
/// Somebody else may own the directory that the tree appears in. So the directories are held from the beginning, everything is done
/// beneath their descriptors, and the workspace is closed to everybody else until the tree appears.
#[derive(Debug)]
pub(super) struct Workspace {
    destination: PathBuf,
    /// The destination's name.
    name: OsString,
    path: PathBuf,
    /// The workspace's name.
    partial: OsString,
    how: Publish,
    /// What is at the destination now is moved here first.
    aside: Option<OsString>,
    parent: Beneath,
    /// The destination, where it stays what it is.
    there: Option<Beneath>,
    aside_directory: Option<Beneath>,
    beneath: Beneath,
    /// A server that runs as its own user passes through the top to what is its own below.
    passable: bool,
    /// What the tree's top gets when the tree appears: nobody else comes in before.
    top: Mutex<Option<Metadata>>,
    /// Where things are, once it is being published: what was renamed, from and to, in order.
    renamed: Vec<(Spot, Spot)>,
    published: bool,
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
        return Err(is_there_already(&list));
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
        let (parent, name) = open_parent(destination)?;
        let found = parent.look(Path::new(&name))?;
        let directory = found.filter(Found::is_directory);
        let there = directory.map(|_| parent.enter(Path::new(&name))).transpose()?;
        let occupied = match &there {
            None => found.is_some(),
            Some(there) => !is_empty(there)?,
        };
        refuse_occupied(occupied, destination, request)?;
        let device = parent.itself()?.device();
        let how = match (single, directory.is_some_and(|found| found.device() != device)) {
            (true, _) => Publish::Single,
            (false, true) => Publish::Children,
            (false, false) => Publish::Whole,
        };
        let before = there
            .as_ref()
            .map(|there| there.open_directory(Path::new("")))
            .transpose()?;
        let there = there.filter(|_| how == Publish::Children);
        let holder = there.as_ref().unwrap_or(&parent);
        let named = |suffix: &str| match how {
            Publish::Children => OsString::from(format!("{suffix}{}", id.short())),
            _ => {
                let mut named = name.clone();
                named.push(format!("{suffix}{}", id.short()));
                named
            }
        };
        let aside = occupied.then(|| named(BEFORE));
        if let Some(aside) = aside.as_ref().map(|aside| holder.path().join(aside))
            && holder.exists(Path::new(aside.file_name().unwrap_or_default()))?
        {
            return Err(is_there_already(&aside));
        }
        let partial = named(PARTIAL);
        let beneath = take(holder, &partial)?;
        if let Some(before) = before {
            // The table of files does not have it: the directory that is there says what the owner wants. Without it the data are the same.
            let _ = crate::sys::btrfs::keep_nodatacow(before, beneath.open_directory(Path::new(""))?);
        }
        Ok(Workspace {
            beneath,
            path: holder.path().join(&partial),
            destination: destination.to_owned(),
            passable: matches!(request.destination, Destination::Datadir(_)),
            name,
            partial,
            how,
            aside,
            parent,
            there,
            aside_directory: None,
            top: Mutex::default(),
            renamed: Vec::new(),
            published: false,
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

    /// What the top of the tree gets when it appears.
    pub fn keep_for_top(&self, metadata: Metadata) {
        *self.top.lock().unwrap_or_else(PoisonError::into_inner) = Some(metadata);
    }

    /// Says in the tree that it is not yet what is wanted, over a mark that was in the backup.
    pub fn mark(&self, text: &str) -> Result<()> {
        let name = OsStr::new(UNFINISHED);
        if self.beneath.exists(Path::new(name))? {
            self.beneath.remove_all(name)?;
        }
        Ok(self.beneath.create_durably(name, text.as_bytes(), 0o644)?)
    }

    /// Writes a file beside the destination.
    pub fn write_beside(&self, name: &OsStr, bytes: &[u8]) -> Result<()> {
        Ok(self.parent.create_durably(name, bytes, 0o600)?)
    }

    /// Makes everything durable.
    pub fn sync(&self) -> Result<()> {
        Ok(self.beneath.syncfs()?)
    }

    /// Lets the tree appear.
    ///
    /// # Errors
    /// A rename failed. What was done can be undone.
    fn publish(&mut self, pieces: &[Piece], notes: &Notes<'_>) -> Result<()> {
        crate::failpoint!("restore.publish");
        // From here on the data is worth keeping, also when a rename fails.
        self.published = true;
        match self.how {
            Publish::Children => self.publish_children()?,
            Publish::Whole => {
                if self.passable && !pieces.iter().any(|piece| piece.destination == self.destination) {
                    self.beneath.set_mode(Path::new(""), 0o755)?;
                }
                self.move_aside()?;
                self.dress_top(&self.beneath, notes)?;
                self.rename((At::Workspace, OsString::new()), (At::Parent, self.name.clone()))?;
            }
            Publish::Single => {
                // A file that is not whole has another name, or is not there at all.
                for new in self.beneath.names()? {
                    if new == self.name {
                        self.move_aside()?;
                    }
                    self.rename((At::Workspace, new.clone()), (At::Parent, new))?;
                }
            }
        }
        Ok(self.holder().sync_names()?)
    }

    /// The directory in which the workspace is.
    fn holder(&self) -> &Beneath {
        self.there.as_ref().unwrap_or(&self.parent)
    }

    /// The directory of a spot, and the name in it. The workspace itself is a name in its holder.
    fn spot<'w>(&'w self, (at, name): &'w Spot) -> Result<(&'w Beneath, &'w OsStr)> {
        let missing = || Error::failed(format!("{} is not held", self.destination.display()));
        Ok(match at {
            At::Workspace if name.is_empty() => (self.holder(), &self.partial),
            At::Workspace => (&self.beneath, name),
            At::Parent => (&self.parent, name),
            At::Destination => (self.there.as_ref().ok_or_else(missing)?, name),
            At::Aside => (self.aside_directory.as_ref().ok_or_else(missing)?, name),
        })
    }

    fn path_of(&self, spot: &Spot) -> PathBuf {
        self.spot(spot).map_or_else(
            |_| self.destination.clone(),
            |(directory, name)| directory.path().join(name),
        )
    }

    /// Takes back what [`publish`](Workspace::publish) did: what was there is there again, and the restored tree in the workspace.
    ///
    /// # Errors
    /// A rename failed: what is where is said.
    fn take_back(&mut self) -> Result<()> {
        while let Some((from, to)) = self.renamed.last() {
            self.exchange(to, from)?;
            self.renamed.pop();
        }
        if let Some(aside) = self.aside.as_ref().filter(|_| self.how == Publish::Children) {
            let _ = self.holder().remove_directory(aside);
        }
        Ok(self.holder().sync_names()?)
    }

    /// Every tree has appeared: what is left of the workspace goes.
    fn finish(&self, pieces: &[Piece]) -> Vec<Placed> {
        if let Some(there) = &self.there {
            // The destination's own directory gets what the tree's top had.
            let top = self.top.lock().unwrap_or_else(PoisonError::into_inner);
            let root = (crate::sys::host::user_id(), crate::sys::host::group_id());
            let (owner, mode) = top.as_ref().map_or((root, 0o700), |top| ((top.uid, top.gid), top.mode));
            let mode = if top.is_none() && self.passable { 0o755 } else { mode };
            let _ = there.set_owner(Path::new(""), owner.0, owner.1);
            let _ = there.set_mode(Path::new(""), mode);
        }
        if self.how != Publish::Whole {
            let _ = self.holder().remove_directory(&self.partial);
            let _ = self.holder().sync_names();
        }
        let here = pieces.iter().filter(|piece| piece.space == self.destination);
        here.map(|piece| Placed {
            original: piece.original.clone(),
            at: piece.destination.clone(),
            moved_aside: self.aside.as_ref().map(|aside| self.holder().path().join(aside)),
        })
        .collect()
    }

    /// Gives the tree's top its owner and mode. Nothing is done beneath it by us after that.
    fn dress_top(&self, top: &Beneath, notes: &Notes<'_>) -> Result<()> {
        if let Some(metadata) = &*self.top.lock().unwrap_or_else(PoisonError::into_inner) {
            dress(top, Path::new(""), metadata, true, notes)?;
            top.sync_names()?;
        }
        Ok(())
    }

    fn move_aside(&mut self) -> Result<()> {
        match self.aside.clone() {
            Some(aside) => self.rename((At::Parent, self.name.clone()), (At::Parent, aside)),
            None => Ok(()),
        }
    }

    fn publish_children(&mut self) -> Result<()> {
        if let Some(aside) = self.aside.clone() {
            self.aside_directory = Some(self.holder().make_ours(&aside)?);
            self.holder().sync_names()?;
            for old in self.holder().names()? {
                if old != self.partial && old != aside {
                    self.rename((At::Destination, old.clone()), (At::Aside, old))?;
                }
            }
        }
        let mut all = self.beneath.names()?;
        // What says that it is half of something comes before the rest.
        all.sort_by_key(|new| new != UNFINISHED);
        for new in all {
            self.rename((At::Workspace, new.clone()), (At::Destination, new))?;
        }
        Ok(())
    }

    fn rename(&mut self, from: Spot, to: Spot) -> Result<()> {
        crate::failpoint!("restore.rename", || cannot_move(
            &self.path_of(&from),
            &self.path_of(&to),
            &std::io::Error::other("a test said so")
        ));
        self.exchange(&from, &to)?;
        self.renamed.push((from, to));
        Ok(())
    }

    /// Moves one thing, and sees that it is the one that has the new name.
    fn exchange(&self, from: &Spot, to: &Spot) -> Result<()> {
        let ((directory, name), (other, new)) = (self.spot(from)?, self.spot(to)?);
        let moved = match from {
            (At::Workspace, name) if name.is_empty() => Some(self.beneath.itself()?),
            _ => directory.look(Path::new(name))?,
        };
        let fail = |error: crate::sys::Error| cannot_move(&self.path_of(from), &self.path_of(to), &error.into_io());
        directory.move_to(name, other, new).map_err(fail)?;
        crate::failpoint!("restore.renamed");
        let there = other.look(Path::new(new))?;
        if there.map(|found| found.identity) != moved.map(|found| found.identity) {
            let said = "somebody else exchanged it meanwhile; choose a place where only root can write";
            return Err(cannot_move(
                &self.path_of(from),
                &self.path_of(to),
                &std::io::Error::other(said),
            ));
        }
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
pub(super) fn publish(spaces: &mut [Workspace], pieces: &[Piece], notes: &Notes<'_>) -> Result<Vec<Placed>> {
    for at in 0..spaces.len() {
        let Err(error) = spaces[at].publish(pieces, notes) else {
            continue;
        };
        let mut said = vec![error.to_string()];
        for space in spaces[..=at].iter_mut().rev() {
            if let Err(error) = space.take_back() {
                let left = space.renamed.iter().map(|(from, to)| {
                    format!(
                        "{} is at {}",
                        space.path_of(from).display(),
                        space.path_of(to).display()
                    )
                });
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
            let _ = self.holder().remove_held(&self.partial, &self.beneath);
        }
    }
}

/// Part of the name of what was at a destination before.
const BEFORE: &str = ".snapback-before-";

/// The directory that has the destination, made where it is missing, and the destination's name in it.
fn open_parent(destination: &Path) -> Result<(Beneath, OsString)> {
    let parent = destination
        .parent()
        .ok_or_else(|| Error::usage("`/` cannot be restored to: boot a rescue system and use --target"))?;
    let name = destination.file_name().ok_or_else(|| {
        Error::usage(format!(
            "{} ends with `..`: name the directory itself",
            destination.display()
        ))
    })?;
    Ok((Beneath::open_way(parent, true)?, name.to_owned()))
}

fn refuse_occupied(occupied: bool, destination: &Path, request: &Request) -> Result<()> {
    let in_place = request.destination == Destination::InPlace;
    if !occupied || (in_place && request.force) {
        return Ok(());
    }
    let remedy = match in_place {
        true => "--force moves it aside",
        false if is_marked(destination) => "it is half a replay, of a run that died: `snapback cleanup` removes it",
        false => "name an empty or new directory",
    };
    Err(Error::failed(format!(
        "{} is not empty; nothing was touched: {remedy}",
        destination.display()
    )))
}

fn is_there_already(path: &Path) -> Error {
    Error::failed(format!(
        "{} is there already, from an earlier restore: move it away first",
        path.display()
    ))
}

/// Whether a directory holds nothing but what `mkfs` puts there.
fn is_empty(directory: &Beneath) -> Result<bool> {
    let ours = |name: &OsString| name == "lost+found" || name.to_string_lossy().starts_with(PARTIAL);
    Ok(directory.names()?.iter().all(ours))
}

/// Makes the workspace's directory. One that a dead restore of the same backup left is taken away first.
fn take(holder: &Beneath, partial: &OsStr) -> Result<Beneath> {
    let path = holder.path().join(partial);
    let busy = || Error::failed(format!("another restore is working in {}", path.display()));
    if let Some(found) = holder.look(Path::new(partial))? {
        if !found.is_directory() || !(holder.is_only_ours() || found.uid == crate::sys::host::user_id()) {
            return Err(Error::failed(format!(
                "{} is not what a restore of ours left (owner {}): look at it, and move it away",
                path.display(),
                crate::sys::host::user_name(found.uid)
            )));
        }
        let old = holder.enter(Path::new(partial))?;
        if old.itself()?.identity != found.identity || !old.try_lock()? {
            return Err(busy());
        }
        holder.remove_held(partial, &old)?;
    }
    let made = holder.make_ours(partial)?;
    holder.sync_names()?;
    match made.try_lock()? {
        true => Ok(made),
        false => Err(busy()),
    }
}
