//! Where a snapshot of ours is now: at its path, at another one, on storage that is out of sight, or nowhere.
//!
//! A path that is not there says nothing of the snapshot: its filesystem may be mounted elsewhere, in another part, or not at all. Gone is only
//! what the filesystem itself does not know any more.

use std::path::{Path, PathBuf};

use super::super::{Error, Result, Snapshot, mark};
use super::{at, locate, own};
use crate::detect::Mounts;
use crate::sys::btrfs::{Uuid, is_subvolume, is_subvolume_name};

/// Where a snapshot is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// It, or what took its name, is at this path.
    At(PathBuf),
    /// No mount shows it, and it may be there. Holds what to do.
    Hidden(String),
    /// Its filesystem is mounted and has no such subvolume.
    Gone,
}

/// Looks at its path, then through every other mount of its filesystem, then asks the filesystem.
///
/// # Errors
/// What is mounted cannot be looked at.
pub fn find(snapshot: &Snapshot) -> Result<Seen> {
    let path = Path::new(&snapshot.name);
    let filesystem = &snapshot.volume.filesystem;
    if let Some((_, found, _)) = locate::top_at(path)?
        && found.to_string() == *filesystem
    {
        return Ok(Seen::At(path.to_owned()));
    }
    let fail = |error: &dyn std::fmt::Display| Error::failed("find the snapshot", &snapshot.name, error.to_string());
    let mounts = Mounts::read().map_err(|error| fail(&error))?;
    let top = snapshot.volume.top.display();
    let Some(root) = own::root_of(&mounts, filesystem) else {
        return Ok(Seen::Hidden(format!(
            "its filesystem (UUID {filesystem}) is not mounted: mount it at {top} again"
        )));
    };
    let uuid = own_uuid(snapshot);
    let same = |one: &&Snapshot| {
        let name = |one: &Snapshot| Path::new(&one.name).file_name().map(ToOwned::to_owned);
        one.volume.filesystem == *filesystem
            && match uuid {
                Some(_) => one.identity == snapshot.identity,
                None => name(one) == name(snapshot),
            }
    };
    if let Some(elsewhere) = own::list(&mounts)?.iter().find(same) {
        return Ok(Seen::At(PathBuf::from(&elsewhere.name)));
    }
    let known = match uuid {
        Some(uuid) => {
            is_subvolume(&root.directory, uuid).map_err(at("look for a subvolume by its UUID on", &root.path))?
        }
        // Planned only, and perhaps made: its name has its run.
        None => is_subvolume_name(&root.directory, path.file_name().unwrap_or_default())
            .map_err(at("look for a subvolume by its name on", &root.path))?,
    };
    Ok(match known {
        true => Seen::Hidden(format!(
            "its filesystem (UUID {filesystem}) has it, and no mount shows it: mount the volume at {top} again, as it was when the snapshot was made"
        )),
        false => Seen::Gone,
    })
}

/// The snapshot under the path at which it is seen now.
///
/// # Errors
/// It is gone, or out of sight.
pub fn here(snapshot: &Snapshot) -> Result<Snapshot> {
    let fail = |reason: String| Err(Error::failed("find the snapshot", &snapshot.name, reason));
    match find(snapshot)? {
        Seen::At(path) => match path.to_str() {
            Some(name) => Ok(Snapshot {
                name: name.to_owned(),
                ..snapshot.clone()
            }),
            None => fail(format!("the path {} is not UTF-8", path.display())),
        },
        Seen::Hidden(reason) => fail(reason),
        Seen::Gone => fail("it is gone".to_owned()),
    }
}

/// The UUID of the snapshot itself; `None` where it was only planned, of a clone, and of a record without.
pub fn own_uuid(snapshot: &Snapshot) -> Option<Uuid> {
    let identity = snapshot.identity.as_deref()?;
    let plain = !identity.starts_with(super::OF) && !identity.starts_with(mark::CLONE_OF);
    identity.parse().ok().filter(|_| plain)
}
