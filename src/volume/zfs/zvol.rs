//! ext4 or XFS on a ZFS volume. ZFS knows nothing of the filesystem on it, so that it is frozen around the snapshot; what is read is a clone, because a snapshot of a
//! volume is read-only and shows no device unless `snapdev` is changed.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::super::{
    Error, Health, Located, Prepared, Provider, ProviderKind, Result, Snapshot, Space, Survey, Volume, part_elsewhere,
    top_shown,
};
use super::{clone, own, pool_of, prepared, report, room};
use crate::detect::Mounts;
use crate::finding::Finding;
use crate::sys;
use crate::sys::command::Program;
use crate::units::Id;

/// Filesystems that can be frozen, and mounted a second time from a clone.
const FILESYSTEMS: [&str; 3] = ["ext4", "ext3", "xfs"];
/// Below this directory udev names the volumes' devices (zvol_id(8)).
const DEVICES: &str = "/dev/zvol";
/// What a clone gets, whatever the pool says: `none` would give no device.
const DEVICE: [&str; 1] = ["volmode=dev"];
/// How long udev is waited for.
const DEVICE_LIMIT: Duration = Duration::from_secs(30);

/// The provider of filesystems on ZFS volumes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Zvol;

impl Provider for Zvol {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Zvol
    }

    fn locate(&self, path: &Path, mounts: &Mounts) -> Result<Option<Located>> {
        let Some(mount) = mounts
            .holding(path)
            .filter(|mount| FILESYSTEMS.contains(&mount.fs_type.as_str()))
        else {
            return Ok(None);
        };
        let Some(name) = name_of(mount.device)? else {
            return Ok(None);
        };
        let within = mount.within(path).unwrap_or_else(|| path.to_owned());
        let fail = |reason: String| Error::failed("snapshot the storage of", path.display().to_string(), reason);
        if let Some(reason) = part_elsewhere(mount) {
            return Err(fail(reason));
        }
        // It is this directory by which the filesystem is frozen.
        let top = top_shown(mounts, mount.device)
            .ok_or_else(|| fail(format!("no mount shows the top of {name}, only a part of it")))?;
        Ok(Some(Located {
            volume: Volume {
                provider: ProviderKind::Zvol,
                id: name.clone(),
                source: device_of(&name).display().to_string(),
                fs_type: mount.fs_type.clone(),
                top,
                filesystem: name,
            },
            inside: within.strip_prefix("/").unwrap_or(&within).to_owned(),
        }))
    }

    fn survey(&self, _volume: &Volume, _paths: &[PathBuf]) -> Result<Survey> {
        Ok(Survey::default())
    }

    fn one_instant(&self, volumes: &[Volume]) -> bool {
        volumes
            .split_first()
            .is_some_and(|(first, rest)| rest.iter().all(|one| pool_of(&one.id) == pool_of(&first.id)))
    }

    fn freezes(&self, _volume: &Volume) -> std::result::Result<(), String> {
        Ok(())
    }

    fn must_freeze(&self) -> bool {
        true
    }

    fn room(&self, volumes: &[Volume], _beside: u64) -> Result<Vec<Finding>> {
        room::look(volumes)
    }

    fn settle(&self, volume: &Volume) -> Result<()> {
        let top = sys::fs::open_directory(&volume.top)?;
        Ok(sys::fs::syncfs(top, &volume.top)?)
    }

    fn plan(&self, run: Id, volumes: &[Volume], _keep_clear: &[PathBuf]) -> Result<Vec<Snapshot>> {
        super::plan(run, volumes)
    }

    fn prepare(&self, planned: &[Snapshot], alive: Option<BorrowedFd<'_>>) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(prepared::PreparedZfs::prepare(planned, alive)?))
    }

    fn mounts(&self) -> bool {
        true
    }

    fn mount(&self, snapshot: &Snapshot, at: &Path) -> Result<PathBuf> {
        let name = clone::beside(snapshot)?;
        // A held one was mounted before: its clone goes with it.
        let there = report::one(&name)?.is_some_and(|found| found.run == Some(snapshot.run.to_string()));
        if !there {
            clone::make(snapshot, &name, &DEVICE)?;
        }
        let device = device_of(&name);
        wait_for(&device)?;
        sys::mount::mount_read_only(&device, at, &snapshot.volume.fs_type, options(&snapshot.volume))?;
        Ok(at.to_owned())
    }

    fn unmount(&self, _snapshot: &Snapshot, at: &Path) -> Result<()> {
        sys::mount::unmount(at)?;
        Ok(())
    }

    fn health(&self, snapshot: &Snapshot) -> Result<Health> {
        own::health(snapshot)
    }

    fn clones(&self, _volume: &Volume) -> std::result::Result<(), String> {
        Ok(())
    }

    fn plan_clone(&self, snapshot: &Snapshot) -> Result<Option<Snapshot>> {
        clone::planned(snapshot).map(Some)
    }

    /// Not the one that the snapshot is read through, which stays as it is.
    fn clone_writable(&self, snapshot: &Snapshot, planned: &Snapshot, at: &Path) -> Result<PathBuf> {
        clone::make(snapshot, &planned.name, &DEVICE)?;
        let device = device_of(&planned.name);
        wait_for(&device)?;
        crate::failpoint!("volume.cloned");
        sys::mount::mount_writable(&device, at, &snapshot.volume.fs_type, options(&snapshot.volume))?;
        Ok(at.to_owned())
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

    /// ZFS lists them all.
    fn list_own(&self, _mounts: &Mounts) -> Result<Vec<Snapshot>> {
        Ok(Vec::new())
    }
}

/// The filesystem is mounted a second time.
fn options(volume: &Volume) -> &'static str {
    if volume.fs_type == "xfs" { "nouuid" } else { "" }
}

/// The volume of a block device; `None` when it is none.
fn name_of((major, minor): (u32, u32)) -> Result<Option<String>> {
    let of_device = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok();
    let name = of_device
        .as_deref()
        .and_then(Path::file_name)
        .and_then(|name| name.to_str());
    // Whole volumes: zd0, not its partitions.
    let whole = |name: &&str| {
        name.strip_prefix("zd")
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit()))
    };
    let Some(name) = name.filter(whole) else {
        return Ok(None);
    };
    if Program::find("zfs").is_err() {
        return Ok(None);
    }
    let device = Path::new("/dev").join(name);
    let volumes = report::list(&["-t", "volume"])?;
    let found = volumes
        .into_iter()
        .find(|volume| std::fs::canonicalize(device_of(&volume.name)).is_ok_and(|at| at == device));
    Ok(found.map(|volume| volume.name))
}

/// The device of a volume, as udev names it.
pub fn device_of(volume: &str) -> PathBuf {
    Path::new(DEVICES).join(volume)
}

fn wait_for(device: &Path) -> Result<()> {
    let begun = Instant::now();
    while !device.exists() {
        if begun.elapsed() > DEVICE_LIMIT {
            return Err(Error::failed(
                "mount",
                device.display().to_string(),
                "its device did not appear: is udev running, with the rules of zfsutils-linux?",
            ));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
