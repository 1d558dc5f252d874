//! Whether a directory is on the same storage as volumes: the same Btrfs, volume group or pool, by whichever volume or mount of it.

use std::path::Path;

use super::{Provider, ProviderKind, Volume};
use crate::detect::Mounts;

/// The first of these volumes whose storage a directory shares, and what that is in a person's words.
pub fn shared<'v>(
    volumes: &'v [Volume],
    directory: &Path,
    providers: &[Box<dyn Provider>],
    mounts: &Mounts,
) -> Option<(&'v Volume, String)> {
    let located = providers
        .iter()
        .find_map(|provider| provider.locate(directory, mounts).ok().flatten());
    let own = located.map(|located| storage(&located.volume));
    let by_storage = volumes.iter().find(|volume| own.as_ref() == Some(&storage(volume)));
    if let Some(volume) = by_storage {
        return Some((volume, word(volume)));
    }
    // Whatever the storage is: one filesystem is one.
    let device = |path: &Path| rustix::fs::stat(path).ok().map(|found| found.st_dev);
    let same = |volume: &&Volume| device(&volume.top).is_some() && device(&volume.top) == device(directory);
    volumes
        .iter()
        .find(same)
        .map(|volume| (volume, "the same filesystem".to_owned()))
}

/// What fails, and fills, as one.
fn storage(volume: &Volume) -> (&'static str, String) {
    let group = || volume.id.split('/').next().unwrap_or(&volume.id).to_owned();
    match volume.provider {
        ProviderKind::Btrfs | ProviderKind::Fake => ("filesystem", volume.filesystem.clone()),
        ProviderKind::Lvm | ProviderKind::LvmThin => ("group", group()),
        ProviderKind::Zfs | ProviderKind::Zvol => ("pool", group()),
    }
}

fn word(volume: &Volume) -> String {
    match storage(volume) {
        ("group", name) => format!("the same volume group ({name})"),
        ("pool", name) => format!("the same ZFS pool ({name})"),
        _ => "the same filesystem".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_of_one_group_or_pool_are_one_storage() {
        let volume = |provider, id: &str, filesystem: &str| Volume {
            provider,
            id: id.into(),
            source: id.into(),
            fs_type: "x".into(),
            top: "/".into(),
            filesystem: filesystem.into(),
        };
        let same = |one: Volume, other: Volume| storage(&one) == storage(&other);
        use ProviderKind::{Btrfs, Lvm, LvmThin, Zfs, Zvol};
        assert!(same(volume(Lvm, "vg0/db", "a"), volume(LvmThin, "vg0/backups", "b")));
        assert!(!same(volume(Lvm, "vg0/db", "a"), volume(Lvm, "vg1/db", "a")));
        assert!(same(
            volume(Zfs, "tank/db", "tank"),
            volume(Zvol, "tank/vol", "tank/vol")
        ));
        assert!(!same(volume(Zfs, "vg0", "vg0"), volume(Lvm, "vg0/db", "vg0")));
        assert!(same(volume(Btrfs, "u:5", "u"), volume(Btrfs, "u:300", "u")));
        assert!(!same(volume(Btrfs, "u:5", "u"), volume(Btrfs, "w:5", "w")));
        assert!(word(&volume(Lvm, "vg0/db", "a")).contains("volume group (vg0)"));
    }
}
