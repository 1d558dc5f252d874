//! LVM: snapshots of logical volumes, thick (copy-on-write space of a fixed size) and thin, by LVM's own commands.
//!
//! `lvcreate -s` runs to the brink of suspending the origin before the lock is taken ([`crate::sys::brink`]). Suspending freezes the filesystem (the kernel's
//! lockfs), so that its journal is clean in the snapshot; whatever the journal holds all the same is replayed on the snapshot, which is writable.

mod cow_size;
mod locate;
mod own;
mod prepared;
mod report;
mod room;

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Error, Health, Located, Prepared, Provider, ProviderKind, Result, Snapshot, Survey, Volume, mark};
use crate::detect::Mounts;
use crate::finding::Finding;
use crate::sys;
use crate::units::Id;
pub use cow_size::CowSize;
use report::Lv;

/// What a planned snapshot's identity begins with; the UUID of its origin follows.
const OF: &str = "of:";

/// The LVM provider, for thick or for thin volumes.
#[derive(Debug)]
pub struct Lvm {
    kind: ProviderKind,
    cow_size: CowSize,
    cow_limit: Option<CowSize>,
    /// Bytes that are expected to change on a volume (by id) while its snapshot exists, as last told by [`Provider::room`].
    expected: Mutex<BTreeMap<String, u64>>,
}

impl Lvm {
    /// Thick volumes, with copy-on-write space of this size for each snapshot, extended up to the limit when it fills.
    pub fn thick(cow_size: CowSize, cow_limit: Option<CowSize>) -> Lvm {
        Lvm {
            kind: ProviderKind::Lvm,
            cow_size,
            cow_limit,
            expected: Mutex::default(),
        }
    }

    /// Thin volumes: their snapshots have no size.
    pub fn thin() -> Lvm {
        Lvm {
            kind: ProviderKind::LvmThin,
            cow_size: CowSize::Auto,
            cow_limit: None,
            expected: Mutex::default(),
        }
    }
}

impl Lvm {
    fn expected(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Provider for Lvm {
    fn kind(&self) -> ProviderKind {
        self.kind
    }

    fn locate(&self, path: &Path, mounts: &Mounts) -> Result<Option<Located>> {
        locate::locate(self.kind, path, mounts)
    }

    fn survey(&self, _volume: &Volume, _paths: &[PathBuf]) -> Result<Survey> {
        Ok(Survey::default())
    }

    fn one_instant(&self, volumes: &[Volume]) -> bool {
        volumes
            .split_first()
            .is_some_and(|(first, rest)| rest.iter().all(|one| one.id == first.id))
    }

    /// Suspending the origin freezes its filesystem once more. Before Linux 6.8 (FREEZE_MAY_NEST in fs/super.c) that failed with EBUSY where it was frozen.
    fn freezes(&self, volume: &Volume) -> std::result::Result<(), String> {
        match volume.fs_type.as_str() {
            "ext2" => Err("has ext2, which cannot be frozen".to_owned()),
            _ if !sys::host::kernel_is_at_least(6, 8) => {
                Err("cannot be suspended by LVM while it is frozen (this needs Linux 6.8)".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// LVM's lock on the volume group.
    fn exclusive(&self, volume: &Volume) -> Option<String> {
        volume.id.split_once('/').map(|(group, _)| group.to_owned())
    }

    fn room(&self, volumes: &[Volume], written_per_second: u64, seconds: u64) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        for volume in volumes {
            let expected = match (written_per_second.saturating_mul(seconds), self.kind) {
                (0, ProviderKind::Lvm) => room::expected_changes(volume)?,
                (told, _) => told,
            };
            self.expected().insert(volume.id.clone(), expected);
            findings.extend(room::judge(&origin(volume)?, self.cow_size, expected)?);
        }
        Ok(findings)
    }

    fn settle(&self, volume: &Volume) -> Result<()> {
        let top = sys::fs::open_directory(&volume.top)?;
        Ok(sys::fs::syncfs(top, &volume.top)?)
    }

    fn plan(&self, run: Id, volumes: &[Volume], _keep_clear: &[PathBuf]) -> Result<Vec<Snapshot>> {
        let planned = volumes.iter().map(|volume| {
            let origin = origin(volume)?;
            // By the origin's minor number: two plans of one run never collide.
            let name = mark::name(run, u64::from(locate::device_of(&volume.top)?.1));
            Ok(Snapshot {
                run,
                volume: volume.clone(),
                name: format!("{}/{name}", origin.vg),
                identity: Some(format!("{OF}{}", origin.uuid)),
            })
        });
        planned.collect()
    }

    fn prepare(&self, planned: &[Snapshot], alive: Option<BorrowedFd<'_>>) -> Result<Box<dyn Prepared>> {
        let told = |snapshot: &Snapshot| self.expected().get(&snapshot.volume.id).copied();
        let expected = planned.first().and_then(told).unwrap_or(0);
        let prepared = prepared::PreparedLvm::prepare(planned, self.cow_size, expected, alive)?;
        Ok(Box::new(prepared))
    }

    fn mounts(&self) -> bool {
        true
    }

    fn mount(&self, snapshot: &Snapshot, at: &Path) -> Result<PathBuf> {
        own::mount(snapshot, at)?;
        Ok(at.to_owned())
    }

    fn unmount(&self, _snapshot: &Snapshot, at: &Path) -> Result<()> {
        sys::mount::unmount(at)?;
        Ok(())
    }

    fn health(&self, snapshot: &Snapshot) -> Result<Health> {
        own::health(snapshot, self.cow_limit)
    }

    fn remove(&self, snapshot: &Snapshot) -> Result<bool> {
        own::remove(snapshot)
    }

    fn list_own(&self, _mounts: &Mounts) -> Result<Vec<Snapshot>> {
        own::list(self.kind)
    }
}

/// The logical volume as it is now.
fn origin(volume: &Volume) -> Result<Lv> {
    report::one(&volume.id)?
        .ok_or_else(|| Error::failed("snapshot", &volume.source, "the logical volume is not there any more"))
}
