//! What a private server writes to: a thin snapshot of a thin snapshot, or a thick snapshot itself. Mounted writable, so that the filesystem's journal is replayed.

use std::path::Path;

use super::super::{Result, Snapshot};
use super::own;
use super::report::{activate, changing};
use crate::sys;

/// Makes a thin clone as it was planned, active for this run alone.
pub fn make(snapshot: &Snapshot, planned: &Snapshot) -> Result<()> {
    own::there(snapshot)?;
    let name = planned.name.split_once('/').map_or(&*planned.name, |(_, name)| name);
    let made = changing("lvcreate")?
        .args(["--snapshot", "--yes", "--name", name])
        .args(["--addtag", own::TAG, "--addtag", &own::run_tag(planned.run)])
        .args(["--setactivationskip", "y", "--permission", "rw"])
        .arg(&snapshot.name)
        .run();
    if let Err(cause) = made {
        // One that was killed may have left the snapshot suspended, and one that runs on must not be disturbed.
        if !matches!(cause, sys::Error::StillRunning { .. }) {
            own::wake_origin(planned)?;
        }
        return Err(cause.into());
    }
    activate(&planned.name, &["--ignoreactivationskip"])
}

/// Mounts a clone, or a thick snapshot, writable.
pub fn mount(snapshot: &Snapshot, at: &Path) -> Result<()> {
    let lv = own::there(snapshot)?;
    let data = match snapshot.volume.fs_type.as_str() {
        "xfs" => "nouuid",
        // Else the kernel goes on, in the background, with zeroing what mkfs left (ext4(5)): copy-on-write space spent on nothing.
        "ext4" => "noinit_itable",
        _ => "",
    };
    Ok(sys::mount::mount_writable(
        Path::new(&lv.device),
        at,
        &snapshot.volume.fs_type,
        data,
    )?)
}
