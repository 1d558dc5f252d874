//! Btrfs: read-only snapshots of one subvolume, by ioctl.
//!
//! A snapshot fixes one subvolume at one instant. It does not descend into nested subvolumes (they appear as empty
//! directories), and two subvolumes cannot be taken at one instant.

mod locate;
mod own;
mod place;
mod prepared;
mod rollback;
mod seen;
mod space;
mod survey;
mod written;

use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Error, Health, Located, Prepared, Provider, ProviderKind, Result, Snapshot, Space, Survey, Volume, mark};
use crate::detect::Mounts;
use crate::finding::Finding;
use crate::sys;
use crate::sys::btrfs::Uuid;
use crate::sys::signal::Cancel;
use crate::units::Id;

/// The directory of ours at the top of a subvolume, for us alone.
const PLACE: &str = ".snapback";

/// What a planned snapshot's identity begins with; the UUID of its origin follows.
const OF: &str = "of:";

/// The Btrfs provider.
#[derive(Debug, Clone, Default)]
pub struct Btrfs {
    snapshot_dir: Option<PathBuf>,
    /// The mounted snapshots by name, each locked (flock(2)): another run's `cleanup` leaves them alone.
    in_use: Arc<Mutex<BTreeMap<String, OwnedFd>>>,
}

impl Btrfs {
    /// `snapshot_dir` is where snapshots appear, on the same filesystem as the volume; by default `.snapback` at the top of the
    /// volume, or of one above it where the server would take that for a database.
    pub fn new(snapshot_dir: Option<PathBuf>) -> Btrfs {
        Btrfs {
            snapshot_dir,
            in_use: Arc::default(),
        }
    }

    fn in_use(&self) -> MutexGuard<'_, BTreeMap<String, OwnedFd>> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Provider for Btrfs {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Btrfs
    }

    fn locate(&self, path: &Path, mounts: &Mounts) -> Result<Option<Located>> {
        locate::locate(path, mounts)
    }

    fn survey(&self, volume: &Volume, paths: &[PathBuf]) -> Result<Survey> {
        survey::survey(volume, paths)
    }

    fn one_instant(&self, volumes: &[Volume]) -> bool {
        volumes
            .split_first()
            .is_some_and(|(first, rest)| rest.iter().all(|one| one.id == first.id))
    }

    fn freezes(&self, _volume: &Volume) -> std::result::Result<(), String> {
        // The transaction commit that makes the snapshot waits for the thaw, unkillably [M: shared measurements, docs/consistency.md].
        Err("is Btrfs, whose snapshots cannot be taken while it is frozen".to_owned())
    }

    fn room(&self, volumes: &[Volume], beside: u64) -> Result<Vec<Finding>> {
        survey::room(volumes, beside)
    }

    fn settle(&self, volume: &Volume) -> Result<()> {
        let top = sys::fs::open_directory(&volume.top)?;
        Ok(sys::fs::syncfs(top, &volume.top)?)
    }

    fn plan(&self, run: Id, volumes: &[Volume], keep_clear: &[PathBuf]) -> Result<Vec<Snapshot>> {
        let mounts = Mounts::read().map_err(|error| Error::failed("plan snapshots on", "Btrfs", error.to_string()))?;
        let mut planned = Vec::new();
        for volume in volumes {
            let (_, origin) = locate::origin(volume)?;
            let place = place::find(self.snapshot_dir.as_deref(), volume, keep_clear, &mounts)?;
            // By the origin's number: two plans of one run never collide.
            let name = place.join(mark::name(run, origin.id));
            let name = name.to_str().ok_or_else(|| {
                let reason = format!("the path {} is not UTF-8", place.display());
                Error::failed("snapshot", &volume.source, reason)
            })?;
            planned.push(Snapshot {
                run,
                volume: volume.clone(),
                name: name.to_owned(),
                identity: Some(format!("{OF}{}", origin.uuid)),
            });
        }
        Ok(planned)
    }

    fn places(&self, planned: &[Snapshot]) -> Vec<PathBuf> {
        let mut places: Vec<PathBuf> = planned
            .iter()
            .filter_map(|one| place_of(one).map(Path::to_owned))
            .collect();
        places.sort();
        places.dedup();
        places
    }

    fn prepare(&self, planned: &[Snapshot], _alive: Option<BorrowedFd<'_>>) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(prepared::PreparedBtrfs::prepare(planned)?))
    }

    fn mount(&self, snapshot: &Snapshot, _at: &Path) -> Result<PathBuf> {
        let here = seen::here(snapshot)?;
        let locked = own::lock(&here)?;
        self.in_use().insert(snapshot.name.clone(), locked);
        Ok(PathBuf::from(here.name))
    }

    fn unmount(&self, snapshot: &Snapshot, _at: &Path) -> Result<()> {
        self.in_use().remove(&snapshot.name);
        Ok(())
    }

    fn clones(&self, _volume: &Volume) -> std::result::Result<(), String> {
        Ok(())
    }

    fn plan_clone(&self, snapshot: &Snapshot) -> Result<Option<Snapshot>> {
        mark::clone_of(snapshot, &seen::here(snapshot)?.name).map(Some)
    }

    fn clone_writable(&self, snapshot: &Snapshot, planned: &Snapshot, _at: &Path) -> Result<PathBuf> {
        own::make_clone(&seen::here(snapshot)?, planned)?;
        crate::failpoint!("volume.cloned");
        let locked = own::lock(planned)?;
        self.in_use().insert(planned.name.clone(), locked);
        Ok(PathBuf::from(&planned.name))
    }

    fn health(&self, snapshot: &Snapshot) -> Result<Health> {
        own::health(snapshot)
    }

    fn space(&self, snapshot: &Snapshot) -> Result<Space> {
        space::space(&seen::here(snapshot)?)
    }

    fn measure(&self, snapshot: &Snapshot, cancel: &Cancel) -> Result<Option<u64>> {
        space::measure(&seen::here(snapshot)?, cancel)
    }

    fn written_since(&self, snapshot: &Snapshot, live: &Path, cancel: &Cancel) -> Result<Option<BTreeMap<u64, u64>>> {
        written::since(&seen::here(snapshot)?, live, cancel)
    }

    fn given_back(&self, snapshot: &Snapshot, limit: Duration) -> Result<bool> {
        own::given_back(&seen::here(snapshot)?, limit)
    }

    fn remove(&self, snapshot: &Snapshot) -> Result<bool> {
        self.in_use().remove(&snapshot.name);
        own::remove(snapshot)
    }

    fn seen(&self, snapshot: &Snapshot) -> Result<Snapshot> {
        seen::here(snapshot)
    }

    fn go_back(&self) -> Option<&dyn super::rollback::GoBack> {
        Some(self)
    }

    fn list_own(&self, mounts: &Mounts) -> Result<Vec<Snapshot>> {
        own::list(mounts)
    }
}

/// The directory that holds a snapshot.
fn place_of(snapshot: &Snapshot) -> Option<&Path> {
    Path::new(&snapshot.name).parent()
}

/// `FSUUID:SUBVOLID`.
fn volume_id(filesystem: Uuid, subvolume: u64) -> String {
    format!("{filesystem}:{subvolume}")
}

/// An ioctl on a directory failed.
fn at(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |error| sys::Error::path(operation, path, error).into()
}
