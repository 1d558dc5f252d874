//! Which subvolume a path lies in, and where that subvolume's top can be seen.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::super::{Error, Located, ProviderKind, Result, Volume};
use super::{at, volume_id};
use crate::detect::{Mount, Mounts};
use crate::sys;
use crate::sys::btrfs::{Subvolume, TOP_INODE, Uuid, filesystem_uuid, is_btrfs, subvolume_of};

/// The subvolume of a path: the nearest directory above it (or itself) that is a subvolume's top, seen through the path's own mount
/// where that shows it, else through another mount of the same filesystem (a bind mount may show only a part).
pub fn locate(path: &Path, mounts: &Mounts) -> Result<Option<Located>> {
    let Some(mount) = mounts.holding(path).filter(|mount| mount.fs_type == "btrfs") else {
        return Ok(None);
    };
    let directory = directory_of(path)?;
    let (filesystem, subvolume) = identity(&directory, path)?;
    let within = mount.within(path).unwrap_or_else(|| path.to_owned());
    for ancestor in within.ancestors() {
        let through = mount
            .shows(ancestor)
            .into_iter()
            .chain(mounts.showing(mount.device, ancestor));
        let Some(top) = through.into_iter().find(|live| is_top(live, filesystem, subvolume.id)) else {
            continue;
        };
        return Ok(Some(Located {
            volume: volume(mount, filesystem, &subvolume, ancestor, top),
            inside: within.strip_prefix(ancestor).unwrap_or(Path::new("")).to_owned(),
        }));
    }
    let (id, device) = (subvolume.id, &mount.source);
    Err(Error::failed(
        "snapshot the storage of",
        path.display().to_string(),
        format!(
            "no mount shows the top of its subvolume (number {id}), only a part of it: mount it as a whole as well, for \
             instance with `mount -o subvolid={id} {device} /mnt`",
        ),
    ))
}

fn volume(mount: &Mount, filesystem: Uuid, subvolume: &Subvolume, within: &Path, top: PathBuf) -> Volume {
    Volume {
        provider: ProviderKind::Btrfs,
        id: volume_id(filesystem, subvolume.id),
        source: format!("{}[{}]", mount.source, within.display()),
        fs_type: mount.fs_type.clone(),
        top,
        filesystem: filesystem.to_string(),
    }
}

/// A descriptor on the path itself when it is a directory, else on the one that holds it: a file is always in the same subvolume.
pub fn directory_of(path: &Path) -> Result<OwnedFd> {
    let is_directory = std::fs::metadata(path).map_err(at("look at", path))?.is_dir();
    let directory = if is_directory {
        path
    } else {
        path.parent().unwrap_or(path)
    };
    Ok(sys::fs::open_directory(directory)?)
}

/// Filesystem and subvolume of an open directory.
pub fn identity(directory: &OwnedFd, path: &Path) -> Result<(Uuid, Subvolume)> {
    let filesystem = filesystem_uuid(directory).map_err(at("ask for the filesystem of", path))?;
    let subvolume = subvolume_of(directory).map_err(at("ask for the subvolume of", path))?;
    Ok((filesystem, subvolume))
}

/// Whether a live path is the top of exactly this subvolume, and not hidden by something else.
pub fn is_top(live: &Path, filesystem: Uuid, id: u64) -> bool {
    let found = top_at(live).ok().flatten();
    found.is_some_and(|(_, uuid, subvolume)| (uuid, subvolume.id) == (filesystem, id))
}

/// The subvolume whose top this directory is; `None` when it is no such top (or not Btrfs).
pub fn top_at(live: &Path) -> Result<Option<(OwnedFd, Uuid, Subvolume)>> {
    match std::fs::symlink_metadata(live) {
        Ok(found) if found.is_dir() && found.ino() == TOP_INODE => {}
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at("look at", live)(error)),
    }
    let directory = sys::fs::open_directory(live)?;
    if !is_btrfs(&directory).map_err(at("ask for the filesystem of", live))? {
        return Ok(None);
    }
    let (filesystem, subvolume) = identity(&directory, live)?;
    Ok(Some((directory, filesystem, subvolume)))
}

/// The volume's top, opened, if it is still the volume that it was.
pub fn origin(volume: &Volume) -> Result<(OwnedFd, Subvolume)> {
    let top = &volume.top;
    match top_at(top)? {
        Some((directory, filesystem, subvolume)) if volume_id(filesystem, subvolume.id) == volume.id => {
            Ok((directory, subvolume))
        }
        _ => Err(Error::failed(
            "find",
            &volume.source,
            format!("{} does not show it any more; was it unmounted?", top.display()),
        )),
    }
}
