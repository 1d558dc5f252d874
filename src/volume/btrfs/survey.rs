//! A look at a subvolume before anything is done: what is nested in it, oddities, room.

use std::path::{Path, PathBuf};

use super::super::{Error, ProviderKind, Result, Survey, Volume, mark};
use super::{at, locate, volume_id};
use crate::detect::swaps;
use crate::finding::Finding;
use crate::sys;
use crate::sys::btrfs::{Nested, Uuid, filesystem_uuid, is_nodatacow, nested_below, quotas_enabled};
use crate::units::Bytes;

/// Below this, in bytes, Btrfs may be unable to commit at all.
const LEAST_ROOM: u64 = 64 << 20;

pub fn survey(volume: &Volume, paths: &[PathBuf]) -> Result<Survey> {
    let mut survey = Survey::default();
    survey.findings.extend(
        swaps::active_beside(&volume.top)
            .iter()
            .map(|file| active_swap(file, volume)),
    );
    for path in paths.iter().filter(|path| path.is_dir()) {
        let directory = sys::fs::open_directory(path)?;
        let filesystem = filesystem_uuid(&directory).map_err(at("ask for the filesystem of", path))?;
        for nested in nested_below(&directory).map_err(at("list the subvolumes nested in", path))? {
            look_at(&nested, path, filesystem, volume, &mut survey)?;
        }
        if is_nodatacow(&directory).unwrap_or(false) {
            survey.findings.push(nodatacow(path));
        }
        if quotas_enabled(filesystem) {
            survey.findings.push(quotas(volume));
        }
    }
    Ok(survey)
}

fn look_at(nested: &Nested, path: &Path, filesystem: Uuid, volume: &Volume, survey: &mut Survey) -> Result<()> {
    let top = path.join(&nested.path);
    // Removed meanwhile, or hidden by a mount, which is looked at as such.
    let Some((_, found, subvolume)) = locate::top_at(&top)? else {
        return Ok(());
    };
    if (found, subvolume.id) != (filesystem, nested.id) {
        return Ok(());
    }
    if subvolume.read_only {
        let ours = subvolume.name.to_str().is_some_and(|name| mark::run_of(name).is_some());
        if !ours {
            survey.findings.push(Finding::note(
                "nested-snapshot",
                format!(
                    "{} is a read-only subvolume, so nothing writes there; it is not in the backup",
                    top.display()
                ),
            ));
        }
        return Ok(());
    }
    survey.nested.push(Volume {
        provider: ProviderKind::Btrfs,
        id: volume_id(filesystem, subvolume.id),
        source: format!("{} (nested in {})", top.display(), volume.source),
        fs_type: volume.fs_type.clone(),
        top,
        filesystem: filesystem.to_string(),
    });
    Ok(())
}

/// The kernel's answer would be ETXTBSY ("Text file busy"): an active swap file pins its extents.
fn active_swap(file: &Path, volume: &Volume) -> Finding {
    let message = format!(
        "{} is in use for swap and lies in {}, of which Btrfs makes no snapshot as long as that is so",
        file.display(),
        volume.source
    );
    let remedy = format!(
        "`swapoff {0}`, and move it to a subvolume of its own (`btrfs subvolume create`) before it is used again",
        file.display()
    );
    Finding::blocker("active-swap-file", message).remedy(remedy)
}

fn nodatacow(path: &Path) -> Finding {
    let message = format!(
        "{} is nodatacow: Btrfs keeps no checksums of its data, so that it cannot notice a damaged block while it is copied; \
         while the snapshot exists, the first write to each block is copied on write all the same",
        path.display()
    );
    Finding::note("nodatacow", message)
}

fn quotas(volume: &Volume) -> Finding {
    let message = format!(
        "quota groups are on for {}: removing a snapshot takes longer; the groups are not changed",
        volume.source
    );
    Finding::note("quota-groups", message)
}

/// What is changed in what shares its blocks with a snapshot takes room twice.
pub fn room(volumes: &[Volume], changed: u64) -> Result<Vec<Finding>> {
    let mut seen: Vec<&str> = Vec::new();
    let mut findings = Vec::new();
    for volume in volumes {
        if !seen.contains(&volume.filesystem.as_str()) {
            seen.push(&volume.filesystem);
            let room = sys::fs::room(&volume.top)?;
            findings.extend(judge(volume, room, changed)?);
        }
    }
    Ok(findings)
}

fn judge(volume: &Volume, room: sys::fs::Room, changed: u64) -> Result<Option<Finding>> {
    if room.total == 0 {
        return Err(Error::failed(
            "ask for the room on",
            &volume.source,
            "the filesystem says that it has no size",
        ));
    }
    let (available, needed) = (Bytes::b(room.available), Bytes::b(changed));
    let message = format!("{} has {available} available", volume.source);
    let remedy = "free some space, or back up at a quieter time: a full filesystem stops the server";
    Ok(if room.available < LEAST_ROOM {
        Some(Finding::blocker("no-room", format!("{message}: too little for a snapshot")).remedy(remedy))
    } else if room.available / 2 < changed {
        let message =
            format!("{message}; about {needed} are overwritten while the snapshot exists, and take room twice");
        Some(Finding::warning("little-room", message).remedy(remedy))
    } else if room.available < room.total / 50 {
        Some(Finding::warning("little-room", format!("{message}, which is less than 2 %")).remedy(remedy))
    } else {
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Severity;

    #[test]
    fn room_is_judged_by_what_will_change() {
        let volume = Volume {
            provider: ProviderKind::Btrfs,
            id: "f:5".into(),
            source: "/dev/x[/]".into(),
            fs_type: "btrfs".into(),
            top: "/x".into(),
            filesystem: "f".into(),
        };
        let severity = |available, changed| {
            let room = sys::fs::Room {
                total: 100 << 30,
                available,
                read_only: false,
            };
            judge(&volume, room, changed).unwrap().map(|finding| finding.severity)
        };
        assert_eq!(severity(50 << 30, 1 << 30), None);
        assert_eq!(severity(50 << 30, 30 << 30), Some(Severity::Warning));
        assert_eq!(severity(1 << 30, 0), Some(Severity::Warning));
        assert_eq!(severity(1 << 20, 0), Some(Severity::Blocker));
    }
}
