//! LVM: snapshots of logical volumes, thick (copy-on-write space of a fixed size) and thin, by LVM's own commands.
//!
//! `lvcreate -s` runs to the brink of suspending the origin before the lock is taken ([`crate::sys::brink`]). Suspending freezes the filesystem (the kernel's
//! lockfs), so that its journal is clean in the snapshot; whatever the journal holds all the same is replayed on the snapshot, which is writable.

mod clone;
mod cow_size;
mod flush;
mod locate;
mod merge;
mod own;
mod prepared;
mod report;
mod rollback;
mod room;

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Error, Health, Located, Prepared, Provider, ProviderKind, Result, Snapshot, Space, Survey, Volume, mark};
use crate::detect::Mounts;
use crate::finding::Finding;
use crate::sys;
use crate::units::Id;
pub use cow_size::CowSize;
use report::Lv;

/// What a planned snapshot's identity begins with; the UUID of its origin follows.
const OF: &str = "of:";

/// By so many hundredths a pool has grown when that counts.
const GROWN: f64 = 0.5;

/// The LVM provider, for thick or for thin volumes.
#[derive(Debug)]
pub struct Lvm {
    kind: ProviderKind,
    cow_size: CowSize,
    cow_limit: Option<CowSize>,
    /// What the copy is limited to, in bytes per second.
    bandwidth: Option<u64>,
    /// How often all of a snapshot is read before it goes.
    reads: u64,
    /// The size in bytes of a volume's (by id) thick snapshot, as [`Provider::room`] planned it: those of one group fit together.
    sizes: Mutex<BTreeMap<String, u64>>,
    /// How thick volumes go back.
    merge: merge::Merge,
    /// How full each thin pool was when its health was first asked for, in hundredths.
    pools: Mutex<BTreeMap<String, f64>>,
}

impl Lvm {
    /// Thick volumes, with copy-on-write space of this size for each snapshot, extended up to the limit when it fills.
    pub fn thick(cow_size: CowSize, cow_limit: Option<CowSize>) -> Lvm {
        Lvm {
            kind: ProviderKind::Lvm,
            cow_size,
            cow_limit,
            bandwidth: None,
            reads: 1,
            sizes: Mutex::default(),
            merge: merge::Merge { cow_size },
            pools: Mutex::default(),
        }
    }

    /// Thin volumes: their snapshots have no size.
    pub fn thin() -> Lvm {
        Lvm {
            kind: ProviderKind::LvmThin,
            cow_size: CowSize::Auto,
            cow_limit: None,
            bandwidth: None,
            reads: 1,
            sizes: Mutex::default(),
            merge: merge::Merge {
                cow_size: CowSize::Auto,
            },
            pools: Mutex::default(),
        }
    }

    /// The copy is limited to so many bytes per second, so that its snapshots exist for longer.
    pub fn with_bandwidth(self, bandwidth: Option<u64>) -> Lvm {
        Lvm { bandwidth, ..self }
    }

    /// All of a snapshot is read so many times before it goes.
    pub fn with_reads(self, reads: u64) -> Lvm {
        Lvm { reads, ..self }
    }

    fn sizes(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.sizes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a thin pool fills since its health was first asked for.
    fn grows(&self, pool: &str, full: f64) -> bool {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let first = *pools.entry(pool.to_owned()).or_insert(full);
        full > first + GROWN
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

    fn room(&self, volumes: &[Volume], beside: u64) -> Result<Vec<Finding>> {
        let changes = room::expected_changes(volumes, self.bandwidth, self.reads)?;
        // Which of them it writes to is not known.
        let expected = changes.into_iter().map(|changes| changes.saturating_add(beside));
        // Those of one group, or pool, share its room.
        let mut sharing: BTreeMap<String, Vec<(Lv, u64)>> = BTreeMap::new();
        for (volume, expected) in volumes.iter().zip(expected) {
            let origin = origin(volume)?;
            let of = match self.kind {
                ProviderKind::LvmThin => format!("{}/{}", origin.vg, origin.pool),
                _ => origin.vg.clone(),
            };
            sharing.entry(of).or_default().push((origin, expected));
        }
        let mut findings = Vec::new();
        for (of, volumes) in sharing {
            if self.kind == ProviderKind::LvmThin {
                let expected = volumes.iter().map(|(_, expected)| expected).sum();
                findings.extend(report::one(&of)?.and_then(|pool| room::judge_pool(&pool, expected)));
                continue;
            }
            findings.extend(volumes.iter().filter_map(|(origin, _)| room::judge_merging(origin)));
            let shares = room::shares(&volumes, self.cow_size);
            findings.extend(room::judge(&volumes, &shares));
            let named = volumes.iter().map(|(origin, _)| origin.full_name());
            self.sizes().extend(named.zip(shares));
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
        let told = |snapshot: &Snapshot| self.sizes().get(&snapshot.volume.id).copied();
        let size = planned.first().and_then(told).map_or(self.cow_size, CowSize::Bytes);
        let prepared = prepared::PreparedLvm::prepare(planned, size, 0, alive)?;
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
        own::health(snapshot, self.cow_limit, &|pool, full| self.grows(pool, full))
    }

    fn space(&self, snapshot: &Snapshot) -> Result<Space> {
        own::space(snapshot)
    }

    fn extend(&self, snapshot: &Snapshot) -> Result<bool> {
        own::extend_held(snapshot, self.cow_limit)
    }

    fn remove(&self, snapshot: &Snapshot) -> Result<bool> {
        own::remove(snapshot)
    }

    fn clones(&self, _volume: &Volume) -> std::result::Result<(), String> {
        Ok(())
    }

    /// LVM makes no snapshot of a thick one. But that can be written to by itself.
    fn plan_clone(&self, snapshot: &Snapshot) -> Result<Option<Snapshot>> {
        match self.kind {
            ProviderKind::LvmThin => mark::clone_of(snapshot, &snapshot.name).map(Some),
            _ => Ok(None),
        }
    }

    fn clone_writable(&self, snapshot: &Snapshot, planned: &Snapshot, at: &Path) -> Result<PathBuf> {
        match self.kind {
            ProviderKind::LvmThin => clone::make(snapshot, planned)?,
            // One device cannot be mounted read-only and writable at the same time.
            _ => drop(sys::mount::unmount(at)?),
        }
        crate::failpoint!("volume.cloned");
        clone::mount(planned, at)?;
        Ok(at.to_owned())
    }

    fn go_back(&self) -> Option<&dyn super::rollback::GoBack> {
        match self.kind {
            ProviderKind::LvmThin => Some(self),
            _ => Some(&self.merge),
        }
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
