//! Which logical volume holds a path: by the device of its mount, and device-mapper's names in sysfs.

use std::path::{Path, PathBuf};

use super::super::{Error, Located, ProviderKind, Result, Volume, part_elsewhere, top_shown};
use super::report;
use crate::detect::{Mount, Mounts};
use crate::sys;

/// Filesystems that can be mounted a second time from a snapshot. Btrfs cannot: two filesystems with one UUID.
const FILESYSTEMS: [&str; 4] = ["ext4", "ext3", "ext2", "xfs"];

pub fn locate(kind: ProviderKind, path: &Path, mounts: &Mounts) -> Result<Option<Located>> {
    let Some(mount) = mounts.holding(path) else {
        return Ok(None);
    };
    let Some(mapped) = Mapped::of(mount.device) else {
        return Ok(None);
    };
    if !FILESYSTEMS.contains(&mount.fs_type.as_str()) {
        return Ok(None);
    }
    if mapped.uuid.starts_with("CRYPT-") && kind == ProviderKind::Lvm && mapped.stands_on_lvm(mount.device) {
        let reason = format!(
            "{} is encrypted (LUKS) on top of a logical volume: its snapshot could only be read with the key. Put LVM on top of LUKS instead",
            mount.source
        );
        return Err(Error::failed(
            "snapshot the storage of",
            path.display().to_string(),
            reason,
        ));
    }
    let Some((vg, lv)) = mapped.logical_volume() else {
        return Ok(None);
    };
    let name = format!("{vg}/{lv}");
    let found = report::one(&name)?.ok_or_else(|| {
        Error::failed(
            "snapshot the storage of",
            path.display().to_string(),
            format!("LVM does not know {name}"),
        )
    })?;
    let is_thin = found.kind == "thin";
    if is_thin != (kind == ProviderKind::LvmThin) {
        return Ok(None);
    }
    let within = mount.within(path).unwrap_or_else(|| path.to_owned());
    if let Some(reason) = part_elsewhere(mount) {
        return Err(Error::failed(
            "snapshot the storage of",
            path.display().to_string(),
            reason,
        ));
    }
    let top = top_shown(mounts, mount.device).ok_or_else(|| part_only(path, mount))?;
    Ok(Some(Located {
        volume: Volume {
            provider: kind,
            id: name,
            source: found.device,
            fs_type: mount.fs_type.clone(),
            top,
            filesystem: mapped.uuid,
        },
        inside: within.strip_prefix("/").unwrap_or(&within).to_owned(),
    }))
}

fn part_only(path: &Path, mount: &Mount) -> Error {
    let reason = format!(
        "no mount shows the top of {}, only a part of it: mount it as a whole as well",
        mount.source
    );
    Error::failed("snapshot the storage of", path.display().to_string(), reason)
}

/// The device number of the filesystem that a path lies on.
pub fn device_of(path: &Path) -> Result<(u32, u32)> {
    let found = rustix::fs::stat(path).map_err(|error| sys::Error::path("look at", path, error))?;
    Ok((rustix::fs::major(found.st_dev), rustix::fs::minor(found.st_dev)))
}

/// Bytes written to a block device since it came up (Documentation/block/stat.rst: the seventh field, in sectors of 512 bytes).
pub fn bytes_written(device: (u32, u32)) -> u64 {
    let text = std::fs::read_to_string(sysfs(device).join("stat")).unwrap_or_default();
    let sectors: u64 = text
        .split_whitespace()
        .nth(6)
        .and_then(|field| field.parse().ok())
        .unwrap_or(0);
    sectors * 512
}

/// A device-mapper device, as sysfs knows it.
struct Mapped {
    name: String,
    uuid: String,
}

impl Mapped {
    fn of(device: (u32, u32)) -> Option<Mapped> {
        let read = |what: &str| {
            let text = std::fs::read_to_string(sysfs(device).join("dm").join(what)).ok()?;
            Some(text.trim().to_owned())
        };
        Some(Mapped {
            name: read("name")?,
            uuid: read("uuid")?,
        })
    }

    /// Volume group and logical volume, when it is one.
    fn logical_volume(&self) -> Option<(String, String)> {
        self.uuid.starts_with("LVM-").then(|| split(&self.name)).flatten()
    }

    fn stands_on_lvm(&self, device: (u32, u32)) -> bool {
        let below = std::fs::read_dir(sysfs(device).join("slaves"))
            .into_iter()
            .flatten()
            .flatten();
        let mut uuids = below.filter_map(|entry| std::fs::read_to_string(entry.path().join("dm/uuid")).ok());
        uuids.any(|uuid| uuid.starts_with("LVM-"))
    }
}

fn sysfs((major, minor): (u32, u32)) -> PathBuf {
    PathBuf::from(format!("/sys/dev/block/{major}:{minor}"))
}

/// device-mapper's name of a logical volume is `VG-LV`, with hyphens inside the names doubled.
fn split(name: &str) -> Option<(String, String)> {
    let bytes = name.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'-' {
            if bytes.get(at + 1) == Some(&b'-') {
                at += 1;
            } else {
                let plain = |part: &str| part.replace("--", "-");
                return Some((plain(&name[..at]), plain(&name[at + 1..])));
            }
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_mapper_names_are_taken_apart() {
        let pair = |vg: &str, lv: &str| Some((vg.to_owned(), lv.to_owned()));
        assert_eq!(split("vg0-db"), pair("vg0", "db"));
        assert_eq!(split("my--vg-my--lv"), pair("my-vg", "my-lv"));
        assert_eq!(split("a--b--c-d"), pair("a-b-c", "d"));
        assert_eq!(split("plain"), None);
    }
}
