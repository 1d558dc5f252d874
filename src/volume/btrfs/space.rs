//! What a held snapshot costs: how full its filesystem is, and the bytes that it alone refers to, which its removal gives back.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::super::{Result, Snapshot, Space};
use super::at;
use crate::sys;
use crate::sys::btrfs::{exclusive_by_quota, filesystem_uuid, quotas_enabled, subvolume_of};
use crate::sys::signal::Cancel;

/// What can be had at once: with quotas on, the kernel has counted.
pub fn space(snapshot: &Snapshot) -> Result<Space> {
    let path = Path::new(&snapshot.name);
    let room = sys::fs::room(path)?;
    let used = room.total.saturating_sub(room.available);
    Ok(Space {
        bytes: counted(path)?,
        room: None,
        fill: (room.total > 0).then(|| used as f64 * 100.0 / room.total as f64),
    })
}

fn counted(path: &Path) -> Result<Option<u64>> {
    let directory = sys::fs::open_directory(path)?;
    let filesystem = filesystem_uuid(&directory).map_err(at("ask for the filesystem of", path))?;
    if !quotas_enabled(filesystem) {
        return Ok(None);
    }
    let subvolume = subvolume_of(&directory).map_err(at("ask for the subvolume of", path))?;
    exclusive_by_quota(&directory, subvolume.id).map_err(at("read the quota group of", path))
}

/// Asks for every extent of every file whether something else refers to it: as `btrfs filesystem du`. Metadata does not count.
pub fn measure(snapshot: &Snapshot, cancel: &Cancel) -> Result<Option<u64>> {
    let top = PathBuf::from(&snapshot.name);
    let own = std::fs::symlink_metadata(&top).map_err(at("look at", &top))?.dev();
    let (mut bytes, mut several) = (0, BTreeSet::new());
    let mut open = vec![top];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).map_err(at("read", &directory))? {
            let path = entry.map_err(at("read", &directory))?.path();
            let found = std::fs::symlink_metadata(&path).map_err(at("look at", &path))?;
            if found.is_dir() && found.dev() == own {
                open.push(path);
            } else if found.is_file() && (found.nlink() == 1 || several.insert(found.ino())) {
                let file = File::open(&path).map_err(at("open", &path))?;
                let alone = sys::fs::unshared_bytes(&file, cancel).map_err(at("ask for the extents of", &path))?;
                let Some(alone) = alone else { return Ok(None) };
                bytes += alone;
            }
        }
    }
    Ok(Some(bytes))
}
