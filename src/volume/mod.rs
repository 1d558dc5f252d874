//! Volumes and their snapshots. A [`Provider`] knows one kind of storage; nothing here knows a repository.
//!
//! A run calls, in this order: `locate`, `survey`, `one_instant`, `room`; `settle`; `plan` (the journal is written) and
//! `prepare`; `fix` under the lock; `finish`; `mount`, `health`, `unmount`; `remove`.

pub mod barrier;
mod btrfs;
#[doc(hidden)]
pub mod fake;
mod lvm;
mod mark;
mod owner;
pub mod rollback;
mod shared;
mod zfs;

pub use btrfs::Btrfs;
pub use lvm::{CowSize, Lvm};
pub use owner::Owner;
pub use shared::shared;
pub use zfs::{Zfs, Zvol};

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::detect::{Mount, Mounts};
use crate::finding::Finding;
use crate::units::Id;

/// The kinds of storage, in the manifest's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProviderKind {
    /// A Btrfs subvolume.
    Btrfs,
    /// A logical volume with copy-on-write snapshots.
    Lvm,
    /// A thin logical volume.
    LvmThin,
    /// A ZFS dataset.
    Zfs,
    /// A filesystem on a ZFS volume.
    Zvol,
    /// Plain directories, for tests of control flow only.
    Fake,
}

/// One thing that can be snapshotted: a subvolume, a logical volume with its filesystem, a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Which provider it belongs to.
    pub provider: ProviderKind,
    /// A name that is stable over mounts and reboots: Btrfs `FSUUID:SUBVOLID`, LVM `VG/LV`, ZFS `pool/dataset`.
    pub id: String,
    /// What a person calls it: the device, subvolume path or dataset.
    pub source: String,
    /// The filesystem on it, as in mountinfo.
    pub fs_type: String,
    /// A directory at which the volume's top appears on the live host. For a nested subvolume this is its directory, which
    /// need not be a mount point; for a path in a bind mount it need not be above the path.
    pub top: PathBuf,
    /// What must be frozen or settled together: the filesystem's identity (Btrfs: its UUID).
    pub filesystem: String,
}

/// Where a path lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The volume.
    pub volume: Volume,
    /// The path relative to the volume's top; empty for the top itself. The same below a mounted snapshot.
    pub inside: PathBuf,
}

/// A snapshot as the journal and the manifest keep it: enough to find and remove it after a crash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The run that makes it.
    pub run: Id,
    /// Of which volume.
    pub volume: Volume,
    /// The provider's own name for it: Btrfs absolute path on the live host, LVM `VG/LV`, ZFS `pool/ds@name`.
    pub name: String,
    /// A second identity that tells ours from a stranger's of the same name (Btrfs: `of:UUID` of the origin while planned, then
    /// the snapshot's own UUID; ZFS: guid). Of a writable clone, `clone-of:` its snapshot's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
}

/// What a look at a volume, before any change, found in the paths that matter.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// Volumes nested below the paths, which a snapshot of this volume does not contain.
    pub nested: Vec<Volume>,
    /// Facts, warnings, blockers.
    pub findings: Vec<Finding>,
}

/// A snapshot set that is prepared so far that one short step is left.
///
/// The three steps let vendors' slow commands run around the lock: `prepare` (no lock), [`fix`](Prepared::fix) (under the lock),
/// [`finish`](Prepared::finish) (lock gone).
pub trait Prepared: Send {
    /// The decisive step. When it returns, the content of every volume of the set is fixed at one instant inside the call.
    /// Does nothing that can wait on anything but the kernel. Returns when the decisive call began and ended.
    ///
    /// # Errors
    /// The set could not be taken; what was made is removed by [`abandon`](Prepared::abandon).
    fn fix(&mut self) -> Result<(Instant, Instant)>;

    /// The rest of the work after the lock is gone; returns the snapshots, readable.
    ///
    /// # Errors
    /// The snapshots did not come to be; what was made is removed before returning.
    fn finish(self: Box<Self>) -> Result<Vec<Snapshot>>;

    /// After [`fix`](Prepared::fix): lets the vendor's command end, so that its own lock is free for the next one. Nothing to do without such.
    ///
    /// # Errors
    /// The command failed.
    fn let_end(&mut self) -> Result<()> {
        Ok(())
    }

    /// Undoes everything, also after a failed or successful [`fix`](Prepared::fix).
    ///
    /// # Errors
    /// Something of ours could not be removed; `cleanup` finds it again.
    fn abandon(self: Box<Self>) -> Result<()>;

    /// What the manifest should say of how the set is taken.
    fn notes(&self) -> Vec<Finding> {
        Vec::new()
    }
}

/// Whether a snapshot can still be trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// All is well.
    Good,
    /// It can be trusted; something about its storage is not as it should be, which a faster copy would not mend. Holds the reason.
    Warned(String),
    /// It may go wrong soon (copy-on-write space filling); the copy should hurry. Holds the reason.
    Straining(String),
    /// It is intact, but the room that it shares with production is all but full: production matters more than a copy of it. Holds the reason.
    Full(String),
    /// It is not seen, or its storage answers badly, and it may well be whole: nothing may be removed or forgotten for that. Holds the reason, with what to do.
    OutOfReach(String),
    /// It is gone or invalid: what was read from it cannot be trusted. Holds the reason.
    Lost(String),
}

/// What a snapshot that is kept costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Space {
    /// Bytes that it alone holds; `None` where the storage does not say.
    pub bytes: Option<u64>,
    /// The room that it has for itself, in bytes; `None` where it shares the volume's or the pool's.
    pub room: Option<u64>,
    /// How full that room, or the pool that it shares with production, is, in hundredths.
    pub fill: Option<f64>,
}

/// A kind of storage that can make snapshots.
pub trait Provider: Send + Sync {
    /// Which kind this is.
    fn kind(&self) -> ProviderKind;

    /// The volume that holds `path` (absolute, without symlinks, there), or `None` when it is not this provider's.
    ///
    /// # Errors
    /// The path cannot be examined, or its volume cannot be reached.
    fn locate(&self, path: &Path, mounts: &Mounts) -> Result<Option<Located>>;

    /// Looks at those parts of the volume that are needed: nested volumes at or below `paths` (absolute, on this volume),
    /// oddities. Changes nothing.
    ///
    /// # Errors
    /// The volume cannot be examined.
    fn survey(&self, volume: &Volume, paths: &[PathBuf]) -> Result<Survey>;

    /// The snapshot under the name by which it is seen now.
    ///
    /// # Errors
    /// It is gone, or out of reach.
    fn seen(&self, snapshot: &Snapshot) -> Result<Snapshot> {
        Ok(snapshot.clone())
    }

    /// Whether this provider can snapshot all these volumes at one instant by itself. True for a single one.
    fn one_instant(&self, volumes: &[Volume]) -> bool;

    /// Whether the volume's filesystem can be frozen (FIFREEZE) while its snapshot is taken, so that several volumes agree.
    ///
    /// # Errors
    /// It cannot; why, to follow the volume's name.
    fn freezes(&self, volume: &Volume) -> std::result::Result<(), String>;

    /// Whether it has to be frozen while its snapshot is taken even by itself: where the snapshot's maker knows nothing of the filesystem.
    fn must_freeze(&self) -> bool {
        false
    }

    /// A lock of the vendor's that a command of ours holds from [`prepare`](Provider::prepare) to its end: of two volumes with the same one, the second is
    /// prepared when the first one's command has ended.
    fn exclusive(&self, _volume: &Volume) -> Option<String> {
        None
    }

    /// Whether there is room for the snapshots, as far as they need any of their own, at the present rate of writes. `beside`: bytes that a private server of
    /// ours is expected to write to what it opens of them. Changes nothing.
    ///
    /// # Errors
    /// The room cannot be found out.
    fn room(&self, volumes: &[Volume], beside: u64) -> Result<Vec<Finding>>;

    /// Makes one volume's filesystem clean, so that the snapshot's own commit is short. No lock is held (or none that matters).
    ///
    /// # Errors
    /// The filesystem cannot be synced.
    fn settle(&self, volume: &Volume) -> Result<()>;

    /// The snapshots that [`prepare`](Provider::prepare) will make, with their names, so that the journal has them first.
    /// Nothing of ours will appear in the directories `keep_clear` (the server's own: it takes directories for databases).
    ///
    /// # Errors
    /// No place or name for a snapshot was found.
    fn plan(&self, run: Id, volumes: &[Volume], keep_clear: &[PathBuf]) -> Result<Vec<Snapshot>>;

    /// The directories of ours in which planned snapshots appear on the live host: those that are missing are made by
    /// [`prepare`](Provider::prepare) (so the journal has them first), and the copy leaves them out. None for providers whose
    /// snapshots have no place in a filesystem.
    fn places(&self, _planned: &[Snapshot]) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Does all that can be done before the lock for the planned snapshots. `alive` is a descriptor whose lock shows that the run
    /// lives: helper processes that go on when this one dies keep it open, so that `cleanup` does not come before their end.
    ///
    /// # Errors
    /// Nothing is left behind.
    fn prepare(&self, planned: &[Snapshot], alive: Option<BorrowedFd<'_>>) -> Result<Box<dyn Prepared>>;

    /// Whether [`mount`](Provider::mount) mounts something, which the journal must have first.
    fn mounts(&self) -> bool {
        false
    }

    /// Makes a finished snapshot readable and returns the directory of its top. `at` is where providers
    /// without their own path mount it, on a private directory that they make (in the journal already); Btrfs returns the snapshot itself.
    ///
    /// # Errors
    /// The snapshot cannot be mounted.
    fn mount(&self, snapshot: &Snapshot, at: &Path) -> Result<PathBuf>;

    /// Undoes [`mount`](Provider::mount). Nothing to do for providers that did not mount anything.
    ///
    /// # Errors
    /// It is still mounted.
    fn unmount(&self, _snapshot: &Snapshot, _at: &Path) -> Result<()> {
        Ok(())
    }

    /// Whether a snapshot that is being read can still be trusted. Called during and after the copy.
    ///
    /// # Errors
    /// The state cannot be found out: treat it as lost.
    fn health(&self, snapshot: &Snapshot) -> Result<Health>;

    /// What a snapshot that is kept costs now; nothing is known of it where the storage does not say. Changes nothing.
    ///
    /// # Errors
    /// The storage cannot be asked.
    fn space(&self, _snapshot: &Snapshot) -> Result<Space> {
        Ok(Space::default())
    }

    /// Bytes that a snapshot alone holds, where that takes a walk over it ([`space`](Provider::space) has what is known without one); `None` where it
    /// cannot be found out, or the run was asked to end. Changes nothing.
    ///
    /// # Errors
    /// The snapshot cannot be read.
    fn measure(&self, _snapshot: &Snapshot, _cancel: &crate::sys::signal::Cancel) -> Result<Option<u64>> {
        Ok(None)
    }

    /// Bytes that were written since a snapshot to each file of the live volume that shows `live`, by inode, where the storage knows; `None` where it does not, or
    /// the run was asked to end. Writes out what is dirty.
    ///
    /// # Errors
    /// The volume cannot be read.
    fn written_since(
        &self,
        _snapshot: &Snapshot,
        _live: &Path,
        _cancel: &crate::sys::signal::Cancel,
    ) -> Result<Option<std::collections::BTreeMap<u64, u64>>> {
        Ok(None)
    }

    /// Gives a snapshot that is kept more room of its own, one step of it; `Ok(false)` where it has none, or no more is allowed or to be had.
    ///
    /// # Errors
    /// The room could be extended, and was not.
    fn extend(&self, _snapshot: &Snapshot) -> Result<bool> {
        Ok(false)
    }

    /// Waits until the storage of a snapshot has given back the room of what was removed from it, but not longer than `limit`; `Ok(false)`: it still does so then.
    ///
    /// # Errors
    /// The storage cannot be asked.
    fn given_back(&self, _snapshot: &Snapshot, _limit: std::time::Duration) -> Result<bool> {
        Ok(true)
    }

    /// Removes a snapshot of ours, durably; `Ok(false)` when it is gone already. Refuses what does not carry our mark.
    ///
    /// # Errors
    /// It is still there.
    fn remove(&self, snapshot: &Snapshot) -> Result<bool>;

    /// How a snapshot of this kind is brought back; `None` where it cannot be.
    fn go_back(&self) -> Option<&dyn rollback::GoBack> {
        None
    }

    /// Whether what a snapshot of this volume has can be written to, for a private server.
    ///
    /// # Errors
    /// It cannot; why, to follow the volume's name.
    fn clones(&self, _volume: &Volume) -> std::result::Result<(), String> {
        Err(format!(
            "is on {:?}, of whose snapshots snapback makes no writable clones",
            self.kind()
        ))
    }

    /// The clone that [`clone_writable`](Provider::clone_writable) will make of a finished snapshot, so that the journal has it first.
    /// [`health`](Provider::health), [`unmount`](Provider::unmount) and [`remove`](Provider::remove) know it; it is removed before its snapshot.
    /// `None` where the snapshot itself is written to: from then on it is not what was taken any more.
    ///
    /// # Errors
    /// There can be none.
    fn plan_clone(&self, snapshot: &Snapshot) -> Result<Option<Snapshot>> {
        let reason = self.clones(&snapshot.volume).err().unwrap_or_default();
        Err(Error::failed(
            "clone",
            &snapshot.name,
            format!("{} {reason}", snapshot.volume.source),
        ))
    }

    /// Makes the planned clone, writable, and returns the directory of its top. `at` is where providers that mount do so (in the journal already). Where there is
    /// none, `planned` is the snapshot, which is mounted at `at` and nobody reads; it is mounted there again, writable.
    ///
    /// # Errors
    /// There is none then, or it can be unmounted and removed as planned.
    fn clone_writable(&self, snapshot: &Snapshot, _planned: &Snapshot, _at: &Path) -> Result<PathBuf> {
        self.plan_clone(snapshot).map(|_| PathBuf::new())
    }

    /// Every snapshot with our mark on the mounted volumes of this kind, for `cleanup`: also those of runs that are alive,
    /// which the caller knows by their journals ([`remove`](Provider::remove) refuses what another process has mounted).
    ///
    /// # Errors
    /// The volumes cannot be examined.
    fn list_own(&self, mounts: &Mounts) -> Result<Vec<Snapshot>>;
}

/// A volume or snapshot operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An operation on a volume or snapshot failed.
    #[error("cannot {operation} {object}: {reason}")]
    Failed {
        /// What was tried.
        operation: &'static str,
        /// The volume or snapshot.
        object: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The kernel or a program failed.
    #[error(transparent)]
    Sys(#[from] crate::sys::Error),
}

impl Error {
    /// An operation on a volume or snapshot failed.
    pub fn failed(operation: &'static str, object: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::Failed {
            operation,
            object: object.into(),
            reason: reason.into(),
        }
    }
}

/// A volume result.
pub type Result<T> = std::result::Result<T, Error>;

/// Every provider that this build has.
pub fn providers(config: &crate::config::Config) -> Vec<Box<dyn Provider>> {
    let bandwidth = config.copy.bandwidth.map(|bandwidth| bandwidth.as_u64());
    let reads = 1 + u64::from(config.wants_private_server());
    let lvm = |lvm: Lvm| Box::new(lvm.with_bandwidth(bandwidth).with_reads(reads));
    vec![
        Box::new(Btrfs::new(config.btrfs.snapshot_dir.clone())),
        Box::new(Zfs),
        Box::new(Zvol),
        lvm(Lvm::thick(config.lvm.cow_size, config.lvm.cow_limit)),
        lvm(Lvm::thin()),
    ]
}

/// A directory that shows the whole of a mounted filesystem; `None` where none does. Not one that another mount hides: what is done there happens to another
/// filesystem.
fn top_shown(mounts: &Mounts, device: (u32, u32)) -> Option<PathBuf> {
    mounts.showing(device, Path::new("/")).find(|live| {
        rustix::fs::stat(live)
            .is_ok_and(|found| (rustix::fs::major(found.st_dev), rustix::fs::minor(found.st_dev)) == device)
    })
}

/// Why a filesystem cannot be read from a snapshot of its volume: a part of it is on another device.
fn part_elsewhere(mount: &Mount) -> Option<String> {
    let mut options = mount.super_options.split(',');
    let elsewhere = options.find(|option| option.starts_with("logdev=") || option.starts_with("rtdev="))?;
    Some(format!(
        "{} has a part of its filesystem on another device ({elsewhere}), which its snapshot would lack",
        mount.source
    ))
}

/// The provider of a kind, to undo what a journal says.
pub fn of_kind(providers: &[Box<dyn Provider>], kind: ProviderKind) -> Option<&dyn Provider> {
    providers
        .iter()
        .map(AsRef::as_ref)
        .find(|provider| provider.kind() == kind)
}

/// Removes a directory of ours that a journal has ([`Made::Directory`](crate::journal::Made::Directory)); `Ok(false)` when it stays
/// because something is in it, or is gone already.
///
/// # Errors
/// It cannot be removed for another reason.
pub fn remove_place(at: &Path) -> Result<bool> {
    use std::io::ErrorKind::{DirectoryNotEmpty, NotFound};
    match std::fs::remove_dir(at) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.kind(), DirectoryNotEmpty | NotFound) => Ok(false),
        Err(error) => Err(crate::sys::Error::path("remove the directory", at, error).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(device: (u32, u32), at: &Path, options: &str) -> Mount {
        let line = format!(
            "36 35 {}:{} / {} rw - xfs /dev/zd0 {options}\n",
            device.0,
            device.1,
            at.display()
        );
        Mounts::parse(line.as_bytes()).unwrap().0.remove(0)
    }

    #[test]
    fn a_mount_that_another_one_hides_shows_no_top() {
        let dir = tempfile::tempdir().unwrap();
        let found = rustix::fs::stat(dir.path()).unwrap();
        let device = (rustix::fs::major(found.st_dev), rustix::fs::minor(found.st_dev));
        let hidden = |device| mount(device, Path::new("/proc"), "rw");
        assert_eq!(top_shown(&Mounts(vec![hidden(device)]), device), None);
        let both = Mounts(vec![hidden(device), mount(device, dir.path(), "rw")]);
        assert_eq!(top_shown(&both, device).as_deref(), Some(dir.path()));
    }

    #[test]
    fn a_filesystem_with_a_part_elsewhere_is_told() {
        let told = |options| part_elsewhere(&mount((252, 0), Path::new("/srv"), options));
        assert_eq!(told("rw,attr2,inode64,noquota"), None);
        assert!(
            told("rw,logdev=/dev/sdb1,noquota")
                .unwrap()
                .contains("logdev=/dev/sdb1")
        );
        assert!(told("rw,rtdev=/dev/sdc").is_some());
    }
}
