//! Bringing a held snapshot back: a writable copy of it takes the live volume's name, and what was live is kept under a name of ours.
//!
//! Every step can be asked whether it is done (`stand`, names and identities on the storage itself), so that it can be finished or undone after any death.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Error, Result, Snapshot, Volume};
use crate::detect::{Mount, Mounts};
use crate::sys;
use crate::units::Id;

/// The exchange of one volume, as the rollback's record keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swap {
    /// The snapshot that comes back; it stays.
    pub held: Snapshot,
    /// What is live now, afterwards: a held snapshot of ours.
    pub kept: Snapshot,
    /// False where what is live is given up.
    #[serde(default = "kept")]
    pub keep: bool,
    /// The live volume's name: Btrfs path from the filesystem's top, LVM `VG/LV`, ZFS dataset.
    pub live: String,
    /// Tells the live volume that is there now from the one that takes its name (Btrfs and LVM: UUID, ZFS: GUID).
    pub live_identity: String,
    /// The name of the writable copy until it takes the live one's.
    pub fresh: String,
    /// The name that the live volume has while the copy takes its name.
    pub away: String,
    /// The device or pool, for providers that must reach it without a mount.
    pub device: String,
    /// What the provider has to put back besides.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<String, String>,
    /// Where the live volume is mounted; unmounted in reverse, mounted again in this order.
    pub mounts: Vec<Remount>,
}

fn kept() -> bool {
    true
}

/// A mount that is undone and made again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remount {
    /// Its directory.
    pub at: PathBuf,
    /// Device or dataset.
    pub source: String,
    /// Filesystem type.
    pub fs_type: String,
    /// As mount(8) takes them.
    pub options: String,
}

/// How far an exchange is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stand {
    /// The volume that was live has its name.
    Old,
    /// Nothing has the live name: nothing can be mounted, no server can start.
    Away,
    /// The copy of the held snapshot has the name, or [`commit`](GoBack::commit) gives it.
    New,
}

/// A provider that can bring a snapshot back. Each step does nothing where it is done already, and is durable when it returns.
pub trait GoBack {
    /// Looks whether and how it would be done; changes nothing.
    ///
    /// # Errors
    /// It cannot be done; why, and what to do.
    fn plan(&self, run: Id, held: &Snapshot, mounts: &Mounts) -> Result<Swap>;

    /// Whether the held snapshot is used up, so that its set is gone afterwards.
    fn uses_up(&self) -> bool {
        false
    }

    /// What only all volumes of a rollback together show: `Some` says why what is live cannot be kept.
    ///
    /// # Errors
    /// It cannot be found out.
    fn arrange(&self, _swaps: &mut [&mut Swap]) -> Result<Option<String>> {
        Ok(None)
    }

    /// What may go wrong for others.
    ///
    /// # Errors
    /// It cannot be found out.
    fn strains(&self, _swap: &Swap) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Makes the writable copy; the live volume is untouched.
    ///
    /// # Errors
    /// The held snapshot is gone, or there is no room.
    fn make(&self, swap: &Swap) -> Result<()>;

    /// How far the exchange is.
    ///
    /// # Errors
    /// The storage cannot be looked at, or something unknown has one of the names.
    fn stand(&self, swap: &Swap) -> Result<Stand>;

    /// [`Stand::Old`] to [`Stand::Away`].
    ///
    /// # Errors
    /// It is in use.
    fn away(&self, swap: &Swap) -> Result<()>;

    /// [`Stand::Away`] to [`Stand::New`].
    ///
    /// # Errors
    /// The copy is not there.
    fn enter(&self, swap: &Swap) -> Result<()>;

    /// [`Stand::New`] to [`Stand::Away`], before anybody used the copy.
    ///
    /// # Errors
    /// It is in use.
    fn leave(&self, swap: &Swap) -> Result<()>;

    /// [`Stand::Away`] to [`Stand::Old`].
    ///
    /// # Errors
    /// What was live is not there.
    fn back(&self, swap: &Swap) -> Result<()>;

    /// After [`Stand::New`]: what cannot be taken back, and gives the volume its name, where that is not done.
    ///
    /// # Errors
    /// It is tried again by whoever goes on.
    fn commit(&self, _swap: &Swap) -> Result<()> {
        Ok(())
    }

    /// After [`commit`](GoBack::commit): what was live becomes a held snapshot of ours, which is returned as it can be found from now on. `None` when it was not kept.
    ///
    /// # Errors
    /// It could not be marked or moved; it is still there.
    fn settle(&self, swap: &Swap) -> Result<Option<Snapshot>>;

    /// At [`Stand::Old`]: removes the copy.
    ///
    /// # Errors
    /// It is still there.
    fn discard(&self, swap: &Swap) -> Result<()>;

    /// Mounts the live volume again wherever it was and is not.
    ///
    /// # Errors
    /// A mount failed.
    fn mount_again(&self, swap: &Swap) -> Result<()> {
        mount_missing(&swap.mounts)
    }

    /// The number (st_dev) of what is live, or was, as processes that use it see it; `None` where none can, because it is not mounted.
    ///
    /// # Errors
    /// The storage cannot be looked at.
    fn seen_as(&self, swap: &Swap) -> Result<Option<u64>> {
        use std::os::unix::fs::MetadataExt;
        let mounts = read_mounts()?;
        // Where it is not mounted, the directory is the host's own filesystem, which everybody uses.
        let shown = swap.mounts.iter().find(|one| is_made(one, &mounts));
        Ok(shown.and_then(|one| Some(std::fs::metadata(&one.at).ok()?.dev())))
    }

    /// Names that snapshots of ours, known by their identities, have now, where an exchange changed them.
    ///
    /// # Errors
    /// They cannot be listed.
    fn names_now(&self) -> Result<BTreeMap<String, String>> {
        Ok(BTreeMap::new())
    }
}

/// Makes those of the mounts that are not there.
pub(super) fn mount_missing(wanted: &[Remount]) -> Result<()> {
    let mounts = read_mounts()?;
    for one in wanted {
        if !is_made(one, &mounts) {
            sys::mount::mount_live(&one.source, &one.at, &one.fs_type, &one.options)?;
        }
    }
    Ok(())
}

fn is_made(wanted: &Remount, mounts: &Mounts) -> bool {
    let same = |mount: &Mount| mount.mount_point == wanted.at && mount.fs_type == wanted.fs_type;
    mounts.0.iter().any(same)
}

/// Every mount of a volume, in the order of their making, with the options that make it again. `own` says which mounts are of the volume.
///
/// # Errors
/// It is the root filesystem; only a part of it is mounted somewhere; something else is mounted below one of them.
pub fn remounts(volume: &Volume, mounts: &Mounts, own: impl Fn(&Mount) -> Own, extra: &str) -> Result<Vec<Remount>> {
    let fail = |reason: String| Error::failed("roll back", &volume.source, reason);
    let mut found = Vec::new();
    for mount in &mounts.0 {
        let at = &mount.mount_point;
        match own(mount) {
            Own::No => continue,
            Own::Part => {
                return Err(fail(format!(
                    "a part of it is mounted at {} by itself: unmount that first",
                    at.display()
                )));
            }
            Own::Whole if at == Path::new("/") => {
                return Err(fail(
                    "it is the root filesystem, which is never rolled back under a running system".to_owned(),
                ));
            }
            Own::Whole => found.push(Remount {
                at: at.clone(),
                source: mount.source.clone(),
                fs_type: mount.fs_type.clone(),
                options: options_of(mount, extra),
            }),
        }
    }
    Ok(found)
}

/// Whether a mount is of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    /// It is not.
    No,
    /// It shows the volume from its top.
    Whole,
    /// It shows a directory of the volume.
    Part,
}

/// Mount options as mount(8) takes them, without those that name a subvolume (`extra` does).
fn options_of(mount: &Mount, extra: &str) -> String {
    let mut words: Vec<&str> = Vec::new();
    let named = |word: &&str| word.starts_with("subvol=") || word.starts_with("subvolid=") || *word == "seclabel";
    for word in mount.options.split(',').chain(mount.super_options.split(',')) {
        // What the mount says of reading and writing wins over what the filesystem says.
        let access = matches!(word, "rw" | "ro") && words.iter().any(|have| matches!(*have, "rw" | "ro"));
        if !word.is_empty() && !access && !named(&word) && !words.contains(&word) {
            words.push(word);
        }
    }
    if !extra.is_empty() {
        words.push(extra);
    }
    words.join(",")
}

/// The mount table, as an error of this module.
pub(super) fn read_mounts() -> Result<Mounts> {
    Mounts::read().map_err(|error| Error::failed("read", "the mount table", error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(lines: &str) -> Mounts {
        Mounts::parse(lines.as_bytes()).unwrap()
    }

    fn volume() -> Volume {
        Volume {
            provider: super::super::ProviderKind::Btrfs,
            id: "x:256".to_owned(),
            source: "/dev/sda[/db]".to_owned(),
            fs_type: "btrfs".to_owned(),
            top: "/srv/db".into(),
            filesystem: "x".to_owned(),
        }
    }

    #[test]
    fn a_mount_is_made_again_with_its_options() {
        let mounts =
            table("1 0 0:1 /db /srv/db rw,noatime - btrfs /dev/sda rw,compress=zstd:1,subvolid=256,subvol=/db\n");
        let found = remounts(&volume(), &mounts, |_| Own::Whole, "subvol=/db").unwrap();
        assert_eq!(found[0].options, "rw,noatime,compress=zstd:1,subvol=/db");
        let read_only = table("1 0 0:1 / /srv/db ro,relatime - ext4 /dev/sda rw,seclabel\n");
        assert_eq!(
            remounts(&volume(), &read_only, |_| Own::Whole, "").unwrap()[0].options,
            "ro,relatime"
        );
    }

    #[test]
    fn the_root_filesystem_and_parts_are_refused() {
        let root = table("1 0 0:1 / / rw - btrfs /dev/sda rw\n");
        let refused = |own| remounts(&volume(), &root, |_| own, "").unwrap_err().to_string();
        assert!(refused(Own::Whole).contains("root filesystem"));
        assert!(refused(Own::Part).contains("a part of it"));
        assert!(remounts(&volume(), &root, |_| Own::No, "").unwrap().is_empty());
    }
}
