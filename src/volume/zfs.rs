//! ZFS: snapshots of datasets, by ZFS's own commands; several datasets of one pool at one instant.
//!
//! `zfs snapshot` is held at its ioctl until the lock is taken ([`crate::sys::brink`]), and the lock ends when that ioctl has returned: the transaction
//! group with the snapshot is on disk then. Snapshots are mounted by themselves, whatever `snapdir` says.

mod clone;
mod own;
mod prepared;
mod report;
mod rollback;
mod room;
mod zvol;

pub use zvol::Zvol;

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{
    Error, Health, Located, Prepared, Provider, ProviderKind, Result, Snapshot, Space, Survey, Volume, mark, top_shown,
};
use crate::detect::Mounts;
use crate::finding::Finding;
use crate::sys;
use crate::sys::command::{Command, Program};
use crate::units::Id;

/// What a planned snapshot's identity begins with; the GUID of its dataset follows.
const OF: &str = "of:";

/// The ZFS provider.
#[derive(Debug, Clone, Copy, Default)]
pub struct Zfs;

impl Provider for Zfs {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Zfs
    }

    fn locate(&self, path: &Path, mounts: &Mounts) -> Result<Option<Located>> {
        let Some(mount) = mounts.holding(path).filter(|mount| mount.fs_type == "zfs") else {
            return Ok(None);
        };
        let fail = |reason: String| Error::failed("snapshot the storage of", path.display().to_string(), reason);
        if mount.source.contains('@') {
            return Err(fail(format!("{} is itself a snapshot", mount.source)));
        }
        let within = mount.within(path).unwrap_or_else(|| path.to_owned());
        let top = top_shown(mounts, mount.device)
            .ok_or_else(|| fail(format!("no mount shows the top of {}, only a part of it", mount.source)))?;
        Ok(Some(Located {
            volume: Volume {
                provider: ProviderKind::Zfs,
                id: mount.source.clone(),
                source: mount.source.clone(),
                fs_type: "zfs".to_owned(),
                top,
                filesystem: pool_of(&mount.source).to_owned(),
            },
            inside: within.strip_prefix("/").unwrap_or(&within).to_owned(),
        }))
    }

    fn survey(&self, _volume: &Volume, _paths: &[PathBuf]) -> Result<Survey> {
        Ok(Survey::default())
    }

    /// One `zfs snapshot` of several datasets of one pool is one transaction (zfs-snapshot(8)).
    fn one_instant(&self, volumes: &[Volume]) -> bool {
        volumes
            .split_first()
            .is_some_and(|(first, rest)| rest.iter().all(|one| pool_of(&one.id) == pool_of(&first.id)))
    }

    fn freezes(&self, _volume: &Volume) -> std::result::Result<(), String> {
        Err("is ZFS, which cannot be frozen".to_owned())
    }

    fn room(&self, volumes: &[Volume], _beside: u64) -> Result<Vec<Finding>> {
        room::look(volumes)
    }

    /// A snapshot is on disk with its transaction group, which carries all that was written since the last one: so that one is made small. syncfs(2)
    /// writes ZFS's intent log only (docs/consistency.md has both, measured).
    fn settle(&self, volume: &Volume) -> Result<()> {
        if sys::failpoint::asked("zfs.syncfs") {
            let top = sys::fs::open_directory(&volume.top)?;
            return Ok(sys::fs::syncfs(top, &volume.top)?);
        }
        let zpool = Program::find("zpool")?;
        // It only shortens the lock: a pool that is slow now is no reason to have no backup.
        if let Err(error) = Command::new(&zpool).args(["sync", pool_of(&volume.id)]).run() {
            tracing::warn!(%error, "cannot settle the pool before its snapshot; writers may wait longer");
        }
        Ok(())
    }

    fn plan(&self, run: Id, volumes: &[Volume], _keep_clear: &[PathBuf]) -> Result<Vec<Snapshot>> {
        plan(run, volumes)
    }

    fn prepare(&self, planned: &[Snapshot], alive: Option<BorrowedFd<'_>>) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(prepared::PreparedZfs::prepare(planned, alive)?))
    }

    fn mounts(&self) -> bool {
        true
    }

    /// By itself and not through `.zfs/snapshot`: what the kernel mounted there is unmounted when somebody tries to destroy the snapshot (also when our hold
    /// forbids it), and with OpenZFS 2.3.9 the next access then panics in the kernel (avl_add in zfsctl_snapshot_mount) [M].
    fn mount(&self, snapshot: &Snapshot, at: &Path) -> Result<PathBuf> {
        sys::mount::mount_read_only(Path::new(&snapshot.name), at, "zfs", "")?;
        Ok(at.to_owned())
    }

    fn unmount(&self, _snapshot: &Snapshot, at: &Path) -> Result<()> {
        sys::mount::unmount(at)?;
        Ok(())
    }

    fn health(&self, snapshot: &Snapshot) -> Result<Health> {
        own::health(snapshot)
    }

    fn space(&self, snapshot: &Snapshot) -> Result<Space> {
        own::space(snapshot)
    }

    fn given_back(&self, snapshot: &Snapshot, limit: Duration) -> Result<bool> {
        own::given_back(snapshot, limit)
    }

    fn remove(&self, snapshot: &Snapshot) -> Result<bool> {
        own::remove(snapshot)
    }

    fn clones(&self, _volume: &Volume) -> std::result::Result<(), String> {
        Ok(())
    }

    fn plan_clone(&self, snapshot: &Snapshot) -> Result<Option<Snapshot>> {
        clone::planned(snapshot).map(Some)
    }

    fn clone_writable(&self, snapshot: &Snapshot, planned: &Snapshot, at: &Path) -> Result<PathBuf> {
        clone::make(snapshot, &planned.name, &clone::of_dataset(&snapshot.volume.id)?)?;
        crate::failpoint!("volume.cloned");
        sys::mount::mount_writable(Path::new(&planned.name), at, "zfs", "")?;
        Ok(at.to_owned())
    }

    fn go_back(&self) -> Option<&dyn super::rollback::GoBack> {
        Some(self)
    }

    fn list_own(&self, _mounts: &Mounts) -> Result<Vec<Snapshot>> {
        // A host without ZFS has none.
        if Program::find("zfs").is_err() || !Path::new("/sys/module/zfs").exists() {
            return Ok(Vec::new());
        }
        own::list()
    }
}

fn plan(run: Id, volumes: &[Volume]) -> Result<Vec<Snapshot>> {
    let planned = volumes.iter().map(|volume| {
        let dataset = report::one(&volume.id)?
            .ok_or_else(|| Error::failed("snapshot", &volume.source, "the dataset is not there any more"))?;
        Ok(Snapshot {
            run,
            volume: volume.clone(),
            // One name for all datasets of the run: one command makes them all.
            name: format!("{}@{}", volume.id, mark::name(run, 0)),
            identity: Some(format!("{OF}{}", dataset.guid)),
        })
    });
    planned.collect()
}

fn pool_of(dataset: &str) -> &str {
    dataset.split(['/', '@']).next().unwrap_or(dataset)
}
