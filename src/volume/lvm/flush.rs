//! What LVM has changed survives a power failure from here on.
//!
//! LVM's commands write their metadata past the page cache, and do not ask the disks to keep it: what lies in a volatile write cache is lost with the power.
//! [M: in the lab's guest, whose group lies on a loop device, LVM 2.03.31: after a reset the group was as it had been several commands before.] A record of ours,
//! which is durable, must not be ahead of it.

use std::path::PathBuf;

use super::super::Result;
use super::report::lvm;
use crate::sys;

/// Flushes the write caches of all disks of a volume group (fsync(2) of a block device, `blkdev_issue_flush`).
///
/// # Errors
/// They cannot be listed, or one of them cannot be flushed. A disk that is missing is passed over.
pub fn flush(vg: &str) -> Result<()> {
    let listed = lvm("vgs")?.args(["--noheadings", "-o", "pv_name", vg]).run()?;
    for disk in disks(&String::from_utf8_lossy(&listed)) {
        let failed = |source| sys::Error::path("flush the disk", &disk, source);
        std::fs::File::open(&disk)
            .and_then(|disk| disk.sync_all())
            .map_err(failed)?;
    }
    Ok(())
}

/// The names of devices among what `vgs -o pv_name` printed; one that is missing is `[unknown]`.
fn disks(listed: &str) -> Vec<PathBuf> {
    let names = listed.lines().map(str::trim);
    names.filter(|name| name.starts_with('/')).map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_disk_that_is_missing_is_passed_over() {
        let listed = "  /dev/loop0\n  [unknown]\n  /dev/mapper/mpatha\n";
        assert_eq!(
            disks(listed),
            [Path::new("/dev/loop0"), Path::new("/dev/mapper/mpatha")]
        );
        assert!(disks("").is_empty());
    }
}
