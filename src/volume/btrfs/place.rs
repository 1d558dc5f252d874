//! Where a snapshot appears: on the same filesystem, reachable, writable, for us alone, and not where the server would take our
//! directory for a database.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::super::{Error, Result, Volume};
use super::{PLACE, locate};
use crate::detect::{Mount, Mounts};
use crate::sys;

/// The number of the subvolume that every Btrfs begins with (BTRFS_FS_TREE_OBJECTID).
const TOP_LEVEL: &str = "5";

/// The directory for snapshots of a volume; it may have to be made.
pub fn find(configured: Option<&Path>, volume: &Volume, keep_clear: &[PathBuf], mounts: &Mounts) -> Result<PathBuf> {
    if let Some(place) = configured {
        let around = if place.exists() {
            place
        } else {
            place.parent().unwrap_or(place)
        };
        return match unfit(around, volume, keep_clear, mounts).or_else(|| unfit_place(place)) {
            None => Ok(place.to_owned()),
            Some(reason) => {
                let reason = format!("btrfs.snapshot_dir {}: {reason}", place.display());
                Err(refusal(volume, &reason, keep_clear, mounts))
            }
        };
    }
    let mut reasons = Vec::new();
    for around in candidates(volume, mounts) {
        let place = around.join(PLACE);
        match unfit(&around, volume, keep_clear, mounts).or_else(|| unfit_place(&place)) {
            None => return Ok(place),
            Some(reason) => reasons.push(format!("{}: {reason}", around.display())),
        }
    }
    Err(refusal(volume, &reasons.join("; "), keep_clear, mounts))
}

/// Where the server's directory is the top of the whole filesystem, no other directory of it is outside: mounting the top level shows the same one again.
fn refusal(volume: &Volume, reasons: &str, keep_clear: &[PathBuf], mounts: &Mounts) -> Error {
    let is_top_level = volume
        .id
        .rsplit_once(':')
        .is_some_and(|(_, number)| number == TOP_LEVEL);
    let reason = match keep_clear
        .iter()
        .find(|path| is_top_level && is_within(&volume.top, path, mounts))
    {
        Some(directory) => {
            let at = directory.display();
            format!(
                "{at} is the top of the whole filesystem, so it has no place outside of that directory, where the server takes every directory for a database. Move the data into a \
                 subvolume: stop the server, `btrfs subvolume snapshot {at} {at}/@mysql`, mount that in its place (`-o subvol=@mysql`), start the server; then mount the top level \
                 elsewhere (`mount -o subvolid=5`) and set `btrfs.snapshot_dir` to a directory there. docs/operations.md, \"A Btrfs disk that is the datadir\", has each step"
            )
        }
        None => format!(
            "{reasons}; set `btrfs.snapshot_dir` to a directory on the same filesystem, outside the server's directories (mount its \
             top level for that where nothing else shows it: `mount -o subvolid=5`)"
        ),
    };
    Error::failed("find a place for a snapshot of", &volume.source, reason)
}

/// The volume's top; the tops of the subvolumes above it, nearest first; what other mounts of the filesystem show, the highest
/// directory first.
fn candidates(volume: &Volume, mounts: &Mounts) -> Vec<PathBuf> {
    let mut found = vec![volume.top.clone()];
    let above = volume.top.ancestors().skip(1);
    found.extend(
        above
            .filter_map(|path| locate::locate(path, mounts).ok()?)
            .map(|located| located.volume.top),
    );
    if let Some(own) = mounts.holding(&volume.top) {
        let mut same: Vec<&Mount> = mounts.0.iter().filter(|mount| mount.device == own.device).collect();
        same.sort_by_key(|mount| (mount.root.components().count(), mount.id));
        found.extend(same.into_iter().map(|mount| mount.mount_point.clone()));
    }
    let mut unique: Vec<PathBuf> = Vec::new();
    for path in found {
        if !unique.contains(&path) {
            unique.push(path);
        }
    }
    unique
}

/// Why no directory of ours can be made in `around`, if so.
fn unfit(around: &Path, volume: &Volume, keep_clear: &[PathBuf], mounts: &Mounts) -> Option<String> {
    let same = locate::locate(around, mounts).ok().flatten();
    let Some(located) = same.filter(|located| located.volume.filesystem == volume.filesystem) else {
        return Some("it is not on the same filesystem".to_owned());
    };
    if let Some(path) = keep_clear.iter().find(|path| is_within(around, path, mounts)) {
        return Some(format!(
            "the server would take a directory there, in {}, for its own",
            path.display()
        ));
    }
    let subvolume = locate::origin(&located.volume).ok();
    if subvolume.is_none_or(|(_, subvolume)| subvolume.read_only) {
        return Some("it is in a read-only subvolume".to_owned());
    }
    match sys::fs::room(around) {
        Ok(room) if room.read_only => Some("it is mounted read-only".to_owned()),
        Ok(_) => None,
        Err(error) => Some(error.to_string()),
    }
}

/// Whether a directory is another one or lies in it, compared within the filesystem: other mounts may show the same directory.
fn is_within(directory: &Path, outer: &Path, mounts: &Mounts) -> bool {
    let within = |path: &Path| {
        let mount = mounts.holding(path)?;
        Some((mount.device, mount.within(path)?))
    };
    let outer = std::fs::canonicalize(outer).unwrap_or_else(|_| outer.to_owned());
    match (within(directory), within(&outer)) {
        (Some((device, inner)), Some((other, outer))) => device == other && inner.starts_with(outer),
        _ => directory.starts_with(outer),
    }
}

/// Why an existing directory cannot be ours, if so: others could have put something of theirs there.
fn unfit_place(place: &Path) -> Option<String> {
    let found = match std::fs::symlink_metadata(place) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => return Some(error.to_string()),
        Ok(found) => found,
    };
    let name = place.file_name().unwrap_or_default().display();
    if !found.is_dir() {
        Some(format!("{name} is there and not a directory"))
    } else if found.uid() != rustix::process::geteuid().as_raw() {
        Some(format!("{name} is there and belongs to user {}", found.uid()))
    } else if found.mode() & 0o022 != 0 {
        Some(format!("{name} is there and others may write to it"))
    } else {
        None
    }
}
