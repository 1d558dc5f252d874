//! Snapshots of ours: known by name, run and UUID; removed durably; found again after a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::super::mark::{self, CLONE_OF};
use super::super::{Error, Health, ProviderKind, Result, Snapshot, Volume};
use super::seen::{self, Seen};
use super::{OF, at, locate, place_of, volume_id};
use crate::detect::Mounts;
use crate::sys;
use crate::sys::btrfs::{
    Subvolume, TOP_INODE, Uuid, commit, destroy, filesystem_uuid, nested_below, removals_pending, subvolume_of, sync,
};

/// The longest that a removal waits to be durable; the kernel commits by itself every 30 s.
const COMMIT_LIMIT: Duration = Duration::from_secs(60);

/// How often it is looked whether removed subvolumes are gone for good.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Makes a clone as it was planned.
pub fn make_clone(snapshot: &Snapshot, planned: &Snapshot) -> Result<()> {
    let path = Path::new(&planned.name);
    let (source, _, subvolume) = locate::top_at(Path::new(&snapshot.name))?
        .ok_or_else(|| Error::failed("clone", &snapshot.name, "it is not there"))?;
    if planned.identity.as_deref() != Some(&format!("{CLONE_OF}{}", subvolume.uuid)) {
        return Err(Error::failed(
            "clone",
            &snapshot.name,
            "it is not the snapshot that was made",
        ));
    }
    let place = place_of(planned).unwrap_or(path);
    let directory = sys::fs::open_directory(place)?;
    let name = path.file_name().unwrap_or_default();
    crate::sys::btrfs::clone_writable(source, &directory, name).map_err(at("clone the snapshot to", path))
}

/// The same snapshot with its own UUID, if it is what was planned.
pub fn identified(snapshot: &Snapshot) -> Result<Snapshot> {
    let path = Path::new(&snapshot.name);
    let (_, _, subvolume) = locate::top_at(path)?
        .ok_or_else(|| Error::failed("find the snapshot", &snapshot.name, "it is not there after it was made"))?;
    if let Some(reason) = foreign(snapshot, &subvolume) {
        return Err(Error::failed("use the snapshot", &snapshot.name, reason));
    }
    Ok(Snapshot {
        identity: Some(subvolume.uuid.to_string()),
        ..snapshot.clone()
    })
}

/// Marks a snapshot as being read, as long as the descriptor lives.
pub fn lock(snapshot: &Snapshot) -> Result<OwnedFd> {
    let path = Path::new(&snapshot.name);
    let directory = sys::fs::open_directory(path)?;
    rustix::fs::flock(&directory, FlockOperation::NonBlockingLockShared)
        .map_err(|error| sys::Error::path("lock", path, error))?;
    Ok(directory)
}

/// Why this subvolume is not the snapshot that we made, if so.
fn foreign(snapshot: &Snapshot, found: &Subvolume) -> Option<String> {
    let own = found.uuid.to_string();
    let identity = snapshot.identity.as_deref();
    let clone_of = identity.and_then(|identity| identity.strip_prefix(CLONE_OF));
    let same = match identity {
        None => true,
        Some(identity) => match clone_of.or_else(|| identity.strip_prefix(OF)) {
            Some(origin) => found.snapshot_of.to_string() == origin,
            None => own == *identity,
        },
    };
    if !same {
        Some(format!("its UUID {own} is not that of the snapshot that snapback made"))
    } else if !found.read_only && clone_of.is_none() {
        Some("it was made writable, so somebody uses it".to_owned())
    } else {
        None
    }
}

/// Whether a snapshot is still there, the same, and readable.
pub fn health(snapshot: &Snapshot) -> Result<Health> {
    let gone = || Ok(Health::Lost(format!("{} is gone", snapshot.name)));
    let path = match seen::find(snapshot)? {
        Seen::At(path) => path,
        Seen::Hidden(reason) => return Ok(Health::OutOfReach(format!("{}: {reason}", snapshot.name))),
        Seen::Gone => return gone(),
    };
    let Some((_, _, subvolume)) = locate::top_at(&path)? else {
        return gone();
    };
    if let Some(reason) = foreign(snapshot, &subvolume) {
        return Ok(Health::Lost(format!("{}: {reason}", snapshot.name)));
    }
    if sys::fs::room(&path)?.read_only {
        let source = &snapshot.volume.source;
        return Ok(Health::OutOfReach(format!(
            "the filesystem of {source} turned read-only, as it does after an error"
        )));
    }
    Ok(Health::Good)
}

/// Waits until the filesystem of a snapshot has given back the room of removed subvolumes, which it does in the background (the kernel's cleaner).
pub fn given_back(snapshot: &Snapshot, limit: Duration) -> Result<bool> {
    let path = Path::new(&snapshot.name);
    let directory = sys::fs::open_directory(path)?;
    let ask = || removals_pending(&directory).map_err(at("look for removed subvolumes on the filesystem of", path));
    let synced = || sync(&directory).map_err(at("sync the filesystem of", path));
    if ask()? > 0 {
        // It wakes the cleaner, which otherwise sleeps until the next commit.
        synced()?;
    }
    let begun = Instant::now();
    while ask()? > 0 {
        if begun.elapsed() >= limit {
            return Ok(false);
        }
        std::thread::sleep(LOOK_EVERY);
    }
    // What the cleaner let go of is free from the next commit on.
    synced()?;
    Ok(true)
}

/// Removes a snapshot of ours wherever it appears now; `Ok(false)` when it is gone.
pub fn remove(snapshot: &Snapshot) -> Result<bool> {
    let fail = |reason: &str| Error::failed("remove the snapshot", &snapshot.name, reason);
    let place = place_of(snapshot).ok_or_else(|| fail("that is no path of a snapshot"))?;
    if seen::own_uuid(snapshot).is_none()
        && let Ok(directory) = sys::fs::open_directory(place)
        && on_filesystem(&directory, &snapshot.volume.filesystem)
    {
        return remove_from(directory.as_fd(), snapshot);
    }
    // Gone only when the filesystem says so.
    match seen::find(snapshot)? {
        Seen::Gone => Ok(false),
        Seen::Hidden(reason) => Err(fail(&reason)),
        Seen::At(path) => {
            let place = path.parent().ok_or_else(|| fail("that is no path of a snapshot"))?;
            let here = Snapshot {
                name: path.display().to_string(),
                ..snapshot.clone()
            };
            remove_from(sys::fs::open_directory(place)?.as_fd(), &here)
        }
    }
}

fn on_filesystem(directory: &OwnedFd, filesystem: &str) -> bool {
    filesystem_uuid(directory).is_ok_and(|uuid| uuid.to_string() == filesystem)
}

/// Removes a snapshot of ours from the directory that holds it, and waits for that to be durable.
pub fn remove_from(directory: BorrowedFd<'_>, snapshot: &Snapshot) -> Result<bool> {
    let path = Path::new(&snapshot.name);
    let fail = |reason: String| Error::failed("remove the snapshot", &snapshot.name, reason);
    let name = path
        .file_name()
        .ok_or_else(|| fail("that is no path of a snapshot".to_owned()))?;
    if name.to_str().and_then(mark::run_of) != Some(snapshot.run) {
        return Err(fail(format!("it does not carry the mark of run {}", snapshot.run)));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(false),
        found => found.map_err(|error| sys::Error::path("open the snapshot", path, error))?,
    };
    let inode = rustix::fs::statat(&found, "", AtFlags::EMPTY_PATH)
        .map_err(|error| sys::Error::path("look at", path, error))?
        .st_ino;
    let subvolume = subvolume_of(&found).map_err(at("ask for the subvolume of", path))?;
    let reason = match inode {
        TOP_INODE => foreign(snapshot, &subvolume),
        _ => Some("it is no subvolume".to_owned()),
    };
    if let Some(reason) = reason {
        return Err(fail(format!("{reason}; it is left alone")));
    }
    // A run that reads it, perhaps one with another state directory, holds a shared lock.
    rustix::fs::flock(&found, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| fail("another run is reading it; it is left alone".to_owned()))?;
    crate::failpoint!("btrfs.remove", || fail("failpoint".to_owned()));
    destroy(directory, name).map_err(at("remove the snapshot", path))?;
    // When the commit takes longer than the limit it still ends by itself.
    commit(directory, COMMIT_LIMIT).map_err(at("commit the removal of", path))?;
    Ok(true)
}

/// The top of what a mount shows of a filesystem.
pub struct Root {
    /// The mount point.
    pub path: PathBuf,
    /// It, opened.
    pub directory: OwnedFd,
}

/// A mount of the filesystem with this UUID.
pub fn root_of(mounts: &Mounts, filesystem: &str) -> Option<Root> {
    filesystem_roots(mounts)
        .into_iter()
        .find(|root| on_filesystem(&root.directory, filesystem))
}

/// Every mount point of a Btrfs that can be opened.
fn filesystem_roots(mounts: &Mounts) -> Vec<Root> {
    let btrfs = mounts.0.iter().filter(|mount| mount.fs_type == "btrfs");
    let open = |path: &PathBuf| {
        let directory = sys::fs::open_directory(path).ok()?;
        filesystem_uuid(&directory).ok()?;
        Some(Root {
            path: path.clone(),
            directory,
        })
    };
    btrfs.filter_map(|mount| open(&mount.mount_point)).collect()
}

/// Every snapshot with our mark that any mount of a Btrfs shows.
pub fn list(mounts: &Mounts) -> Result<Vec<Snapshot>> {
    let mut search = Search::default();
    for root in filesystem_roots(mounts) {
        let (filesystem, subvolume) = locate::identity(&root.directory, &root.path)?;
        let origin = locate::locate(&root.path, mounts)
            .ok()
            .flatten()
            .map(|located| located.volume);
        if let Some(volume) = origin {
            search.origins.insert((filesystem, subvolume.uuid), volume);
        }
        search.below(&root.path, &root.directory, filesystem)?;
    }
    Ok(search.snapshots())
}

#[derive(Default)]
struct Search {
    seen: BTreeSet<(Uuid, PathBuf)>,
    origins: BTreeMap<(Uuid, Uuid), Volume>,
    found: BTreeMap<(Uuid, u64), (PathBuf, Subvolume)>,
}

impl Search {
    fn below(&mut self, path: &Path, directory: &OwnedFd, filesystem: Uuid) -> Result<()> {
        if !self.seen.insert((filesystem, path.to_owned())) {
            return Ok(());
        }
        for nested in nested_below(directory).map_err(at("list the subvolumes nested in", path))? {
            let top = path.join(&nested.path);
            // Removed meanwhile, or hidden by a mount: then it is seen elsewhere or not at all.
            let Ok(Some((directory, found, subvolume))) = locate::top_at(&top) else {
                continue;
            };
            if (found, subvolume.id) != (filesystem, nested.id) {
                continue;
            }
            if subvolume.name.to_str().and_then(mark::run_of).is_some() {
                self.found.entry((filesystem, subvolume.id)).or_insert((top, subvolume));
            } else if !subvolume.read_only {
                self.origins
                    .entry((filesystem, subvolume.uuid))
                    .or_insert_with(|| origin(&top, filesystem, &subvolume));
                self.below(&top, &directory, filesystem)?;
            }
        }
        Ok(())
    }

    fn snapshots(self) -> Vec<Snapshot> {
        let snapshot = |((filesystem, _), (path, subvolume)): ((Uuid, u64), (PathBuf, Subvolume))| {
            let run = mark::run_of(subvolume.name.to_str()?)?;
            let known = self.origins.get(&(filesystem, subvolume.snapshot_of)).cloned();
            Some(Snapshot {
                run,
                volume: known.unwrap_or_else(|| unknown_origin(filesystem, &subvolume)),
                name: path.to_str()?.to_owned(),
                // Only a clone of ours is numbered so, and writable.
                identity: Some(match subvolume.read_only || !is_clone(&path) {
                    true => subvolume.uuid.to_string(),
                    false => format!("{CLONE_OF}{}", subvolume.snapshot_of),
                }),
            })
        };
        self.found.into_iter().filter_map(snapshot).collect()
    }
}

fn is_clone(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()?.rsplit_once('-'));
    name.is_some_and(|(_, number)| number.len() > 1 && number.starts_with('0'))
}

fn origin(top: &Path, filesystem: Uuid, subvolume: &Subvolume) -> Volume {
    Volume {
        provider: ProviderKind::Btrfs,
        id: volume_id(filesystem, subvolume.id),
        source: top.display().to_string(),
        fs_type: "btrfs".to_owned(),
        top: top.to_owned(),
        filesystem: filesystem.to_string(),
    }
}

/// The origin may have been removed since, or is not mounted.
fn unknown_origin(filesystem: Uuid, snapshot: &Subvolume) -> Volume {
    Volume {
        provider: ProviderKind::Btrfs,
        id: format!("{filesystem}:"),
        source: format!("the subvolume with UUID {}", snapshot.snapshot_of),
        fs_type: "btrfs".to_owned(),
        top: PathBuf::new(),
        filesystem: filesystem.to_string(),
    }
}
