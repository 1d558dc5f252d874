//! What was written to a live subvolume since a snapshot, by its extents.

use std::collections::BTreeMap;
use std::path::Path;

use super::super::{Result, Snapshot};
use super::{at, locate};
use crate::sys;
use crate::sys::btrfs::{filesystem_uuid, is_btrfs, subvolume_of, written_since};
use crate::sys::signal::Cancel;

/// `live` is a file or directory there now. A snapshot takes a file's times as they are, but what of its content is being written at that instant can come after
/// it: then its times tell nothing, and its extents do.
pub fn since(snapshot: &Snapshot, live: &Path, cancel: &Cancel) -> Result<Option<BTreeMap<u64, u64>>> {
    let path = Path::new(&snapshot.name);
    let (held, now) = (sys::fs::open_directory(path)?, locate::directory_of(live)?);
    let filesystem = filesystem_uuid(&held).map_err(at("ask for the filesystem of", path))?;
    // Something else may be mounted there by now.
    if !is_btrfs(&now).is_ok_and(|is| is) || !filesystem_uuid(&now).is_ok_and(|uuid| uuid == filesystem) {
        return Ok(None);
    }
    let subvolume = subvolume_of(&held).map_err(at("ask for the subvolume of", path))?;
    sys::fs::syncfs(&now, live)?;
    match written_since(&now, subvolume.changed_in, cancel) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(None),
        written => written.map_err(at("read the extents of", live)),
    }
}
