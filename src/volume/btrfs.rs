//! Btrfs subvolumes, through ioctls. One read-only snapshot is one ioctl; two are never taken at one instant (trap 27).

use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::{Error, Health, Prepared, Provider, ProviderKind, Result, Snapshot, Survey, Volume};
use crate::detect::{Mount, Mounts};
use crate::finding::Finding;
use crate::sys::btrfs::{self as kernel, PreparedSnapshot, ROOT_INODE};
use crate::units::{Bytes, Id};

/// The directory for snapshots, where the configuration names none.
pub const SNAPSHOT_DIR: &str = ".snapback";
const PREFIX: &str = "snapback-";
/// Below this much free space a copy-on-write snapshot of a busy database is a risk.
const LOW_SPACE: u64 = 512 << 20;

/// The Btrfs provider.
#[derive(Debug, Clone, Default)]
pub struct Btrfs {
    /// Where snapshots go; on the volume's filesystem. By default [`SNAPSHOT_DIR`] near the volume's top.
    pub snapshot_dir: Option<PathBuf>,
}

impl Provider for Btrfs {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Btrfs
    }

    fn locate(&self, path: &Path, mounts: &Mounts) -> Result<Option<Volume>> {
        let Some(mount) = mounts.of(path).filter(|mount| mount.fs_type == "btrfs") else { return Ok(None) };
        let top = top_of(path, mount);
        let subvolume = kernel::subvolume(directory_of(path))?;
        let filesystem = kernel::filesystem_uuid(&top)?;
        Ok(Some(Volume {
            provider: ProviderKind::Btrfs,
            id: format!("{filesystem}:{}", subvolume.id),
            source: format!("{} (subvolume {} at {})", mount.source, subvolume.id, top.display()),
            fs_type: mount.fs_type.clone(),
            top,
            filesystem,
        }))
    }

    fn survey(&self, volume: &Volume, paths: &[PathBuf]) -> Result<Survey> {
        let mut survey = Survey::default();
        for path in paths {
            survey.nested.extend(self.nested_below(volume, path)?);
            survey.findings.extend(no_copy_on_write(path));
        }
        if !kernel::is_subvolume(&volume.top) {
            let said = format!("only a directory of {} is mounted; the kernel snapshots whole subvolumes", volume.source);
            survey.findings.push(Finding::blocker("subvolume-hidden", said).remedy("mount the subvolume itself (mount -o subvol=...)"));
        }
        if let Err(finding) = self.directory(volume) {
            survey.findings.push(finding);
        }
        Ok(survey)
    }

    fn one_instant(&self, volumes: &[Volume]) -> bool {
        volumes.len() == 1
    }

    fn room(&self, volumes: &[Volume], _written_per_second: u64, _seconds: u64) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        for volume in volumes {
            let free = crate::sys::fs::free_space(&volume.top)?;
            if free < LOW_SPACE {
                let said = format!("{} has {} free; while a snapshot exists every overwritten block needs new space", volume.source, Bytes::b(free));
                findings.push(Finding::warning("low-space", said).remedy("free some space, or back up when little is written"));
            }
        }
        Ok(findings)
    }

    /// syncfs(2), not BTRFS_IOC_SYNC: the latter was measured worse than nothing.
    fn settle(&self, volume: &Volume) -> Result<()> {
        Ok(crate::sys::fs::sync_filesystem(&volume.top)?)
    }

    fn plan(&self, run: Id, volumes: &[Volume]) -> Result<Vec<Snapshot>> {
        let plan_one = |volume: &Volume| {
            let directory = self.directory(volume).map_err(|finding| failed("find a place for the snapshot of", volume, &finding))?;
            let subvolume = volume.id.rsplit(':').next().unwrap_or_default();
            let name = directory.join(format!("{PREFIX}{run}-{subvolume}"));
            Ok(Snapshot { run, volume: volume.clone(), name: name.to_string_lossy().into_owned(), identity: None })
        };
        volumes.iter().map(plan_one).collect()
    }

    fn prepare(&self, planned: &[Snapshot]) -> Result<Box<dyn Prepared>> {
        let [snapshot] = planned else {
            return Err(Error::Failed {
                operation: "snapshot",
                object: format!("{} subvolumes", planned.len()),
                reason: "Btrfs takes one subvolume at an instant".to_owned(),
            });
        };
        let (directory, name) = split(snapshot)?;
        if !directory.exists() {
            std::fs::DirBuilder::new()
                .mode(0o700)
                .create(&directory)
                .map_err(|error| crate::sys::Error::path("make the snapshot directory", &directory, error))?;
        }
        let prepared = PreparedSnapshot::new(&snapshot.volume.top, &directory, &name)?;
        Ok(Box::new(Set { provider: self.clone(), snapshot: snapshot.clone(), prepared, taken: false }))
    }

    fn mount(&self, snapshot: &Snapshot, _at: &Path) -> Result<PathBuf> {
        Ok(PathBuf::from(&snapshot.name))
    }

    fn health(&self, snapshot: &Snapshot) -> Result<Health> {
        let path = Path::new(&snapshot.name);
        if !kernel::is_subvolume(path) {
            return Ok(Health::Lost("it is not there any more: somebody deleted it".to_owned()));
        }
        let now = kernel::subvolume(path)?;
        Ok(match &snapshot.identity {
            Some(identity) if *identity != now.uuid => Health::Lost("another subvolume took its place".to_owned()),
            _ if !now.read_only => Health::Lost("it was made writable".to_owned()),
            _ => Health::Good,
        })
    }

    fn remove(&self, snapshot: &Snapshot) -> Result<bool> {
        let (directory, name) = split(snapshot)?;
        let path = directory.join(&name);
        if std::fs::symlink_metadata(&path).is_err() {
            return Ok(false);
        }
        self.ours(snapshot, &path)?;
        kernel::destroy(&directory, &name)?;
        Ok(true)
    }

    fn list_own(&self, mounts: &Mounts) -> Result<Vec<Snapshot>> {
        let mut own: Vec<Snapshot> = Vec::new();
        for directory in self.directories(mounts) {
            for (path, run) in marked(&directory) {
                let Some(snapshot) = self.recognise(&path, run, mounts)? else { continue };
                if !own.iter().any(|one| one.identity == snapshot.identity) {
                    own.push(snapshot);
                }
            }
        }
        Ok(own)
    }
}

impl Btrfs {
    /// The directory for a volume's snapshots, or what stands in the way.
    ///
    /// A server takes every directory in its datadir for a database, so a datadir that is a subvolume itself keeps its snapshots beside
    /// it, in the directory above on the same filesystem.
    fn directory(&self, volume: &Volume) -> std::result::Result<PathBuf, Finding> {
        if let Some(directory) = &self.snapshot_dir {
            let existing = directory.ancestors().find(|path| path.exists()).unwrap_or(directory);
            let same = kernel::filesystem_uuid(existing).is_ok_and(|uuid| uuid == volume.filesystem);
            let refusal = || {
                Finding::blocker("snapshot-dir", format!("{} is not on the filesystem of {}", directory.display(), volume.source))
                    .remedy("`btrfs.snapshot_dir` names a directory on the same Btrfs filesystem as the datadir")
            };
            return if same { Ok(directory.clone()) } else { Err(refusal()) };
        }
        if let Some(above) = volume.top.parent() {
            let same = kernel::filesystem_uuid(above).is_ok_and(|uuid| uuid == volume.filesystem);
            if same {
                return Ok(above.join(SNAPSHOT_DIR));
            }
        }
        if looks_like_datadir(&volume.top) {
            let said = format!("{} is a datadir and a mounted subvolume: a directory for snapshots inside it would look like a database", volume.top.display());
            let remedy = "mount another directory of the same filesystem (say its top level) and name it: `btrfs: {snapshot_dir: /mnt/top/.snapback}`";
            return Err(Finding::blocker("snapshot-dir", said).remedy(remedy));
        }
        Ok(volume.top.join(SNAPSHOT_DIR))
    }

    /// Every directory in which snapshots of ours may lie.
    fn directories(&self, mounts: &Mounts) -> Vec<PathBuf> {
        let mut directories: Vec<PathBuf> = self.snapshot_dir.iter().cloned().collect();
        for mount in mounts.0.iter().filter(|mount| mount.fs_type == "btrfs") {
            directories.push(mount.mount_point.join(SNAPSHOT_DIR));
            directories.extend(nested_tops(&mount.mount_point).iter().filter_map(|top| top.parent()).map(|above| above.join(SNAPSHOT_DIR)));
        }
        directories.sort();
        directories.dedup();
        directories
    }

    fn nested_below(&self, volume: &Volume, path: &Path) -> Result<Vec<Volume>> {
        let mut found = Vec::new();
        for (id, relative) in kernel::nested(&volume.top)? {
            let top = volume.top.join(&relative);
            let ours = top.file_name().is_some_and(|name| run_of(&name.to_string_lossy()).is_some());
            if ours || !top.starts_with(path) || !kernel::is_subvolume(&top) {
                continue;
            }
            let nested = Volume {
                provider: ProviderKind::Btrfs,
                id: format!("{}:{id}", volume.filesystem),
                source: format!("subvolume {id} at {}", top.display()),
                fs_type: volume.fs_type.clone(),
                top: top.clone(),
                filesystem: volume.filesystem.clone(),
            };
            let deeper = self.nested_below(&nested, &top)?;
            found.push(nested);
            found.extend(deeper);
        }
        Ok(found)
    }

    /// Only a read-only snapshot of the recorded volume under the recorded name is ours (invariant 6).
    fn ours(&self, snapshot: &Snapshot, path: &Path) -> Result<()> {
        let refuse = |reason: &str| {
            Err(Error::Failed { operation: "remove", object: snapshot.name.clone(), reason: format!("{reason}; it is left alone") })
        };
        let marked = path.file_name().and_then(|name| run_of(&name.to_string_lossy())) == Some(snapshot.run);
        if !marked || !kernel::is_subvolume(path) {
            return refuse("it does not carry this run's mark");
        }
        let there = kernel::subvolume(path)?;
        if !there.read_only || there.parent_uuid.is_none() {
            return refuse("it is not a read-only snapshot");
        }
        if snapshot.identity.as_ref().is_some_and(|identity| *identity != there.uuid) {
            return refuse("it is another subvolume of the same name");
        }
        let origin = kernel::subvolume(&snapshot.volume.top).ok().filter(|_| kernel::is_subvolume(&snapshot.volume.top));
        match origin {
            Some(origin) if snapshot.volume.id.ends_with(&format!(":{}", origin.id)) && there.parent_uuid.as_ref() != Some(&origin.uuid) => {
                refuse("it is not a snapshot of the recorded volume")
            }
            _ => Ok(()),
        }
    }

    fn recognise(&self, path: &Path, run: Id, mounts: &Mounts) -> Result<Option<Snapshot>> {
        if !kernel::is_subvolume(path) {
            return Ok(None);
        }
        let there = kernel::subvolume(path)?;
        if !there.read_only || there.parent_uuid.is_none() {
            return Ok(None);
        }
        let Some(mut volume) = self.locate(path.parent().unwrap_or(path), mounts)? else { return Ok(None) };
        // The origin may be gone or unmounted; the name keeps its subvolume id.
        if let Some(origin) = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.rsplit('-').next()) {
            volume.id = format!("{}:{origin}", volume.filesystem);
        }
        Ok(Some(Snapshot { run, volume, name: path.to_string_lossy().into_owned(), identity: Some(there.uuid) }))
    }
}

struct Set {
    provider: Btrfs,
    snapshot: Snapshot,
    prepared: PreparedSnapshot,
    taken: bool,
}

impl Prepared for Set {
    fn fix(&mut self) -> Result<(Instant, Instant)> {
        let begun = Instant::now();
        self.prepared.take()?;
        let ended = Instant::now();
        self.taken = true;
        Ok((begun, ended))
    }

    fn finish(self: Box<Self>) -> Result<Vec<Snapshot>> {
        let Set { snapshot, .. } = *self;
        let made = kernel::subvolume(Path::new(&snapshot.name))?;
        Ok(vec![Snapshot { identity: Some(made.uuid), ..snapshot }])
    }

    fn abandon(self: Box<Self>) -> Result<()> {
        // Removed by name even when `fix` failed: an interrupted ioctl may have made it all the same.
        self.provider.remove(&self.snapshot).map(|_| ())
    }
}

/// The subvolume's root directory as seen above `path`; the mount point when the root itself is not visible.
fn top_of(path: &Path, mount: &Mount) -> PathBuf {
    let is_root = |path: &&Path| std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir() && meta.ino() == ROOT_INODE);
    let within = path.ancestors().take_while(|above| above.starts_with(&mount.mount_point));
    within.into_iter().find(is_root).unwrap_or(&mount.mount_point).to_owned()
}

fn directory_of(path: &Path) -> &Path {
    if path.is_dir() { path } else { path.parent().unwrap_or(path) }
}

fn nested_tops(mount_point: &Path) -> Vec<PathBuf> {
    let nested = kernel::nested(mount_point).unwrap_or_default();
    nested.into_iter().map(|(_, relative)| mount_point.join(relative)).collect()
}

/// The entries of a snapshot directory that carry our mark.
fn marked(directory: &Path) -> Vec<(PathBuf, Id)> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.path(), run_of(&entry.file_name().to_string_lossy())?))).collect()
}

/// `snapback-<32 hex digits>-<subvolume id>`
fn run_of(name: &str) -> Option<Id> {
    let (run, subvolume) = name.strip_prefix(PREFIX)?.split_once('-')?;
    subvolume.parse::<u64>().ok()?;
    run.parse().ok()
}

fn split(snapshot: &Snapshot) -> Result<(PathBuf, String)> {
    let path = Path::new(&snapshot.name);
    match (path.is_absolute(), path.parent(), path.file_name().and_then(|name| name.to_str())) {
        (true, Some(parent), Some(name)) => Ok((parent.to_owned(), name.to_owned())),
        _ => Err(Error::Failed { operation: "use", object: snapshot.name.clone(), reason: "it is not an absolute path".to_owned() }),
    }
}

fn looks_like_datadir(path: &Path) -> bool {
    ["ibdata1", "aria_log_control", "mysql.ibd", "auto.cnf"].iter().any(|file| path.join(file).exists())
}

/// nodatacow files have no checksums (trap 27): Btrfs cannot tell when their blocks rot.
fn no_copy_on_write(path: &Path) -> Option<Finding> {
    let flags = File::open(path).ok().and_then(|file| rustix::fs::ioctl_getflags(file).ok())?;
    flags.contains(rustix::fs::IFlags::NOCOW).then(|| {
        Finding::note("nodatacow", format!("{} is nodatacow: Btrfs keeps no checksums of its files, snapback's own are the only ones", path.display()))
    })
}

fn failed(operation: &'static str, volume: &Volume, finding: &Finding) -> Error {
    let remedy = finding.remedy.as_deref().unwrap_or_default();
    Error::Failed { operation, object: volume.source.clone(), reason: format!("{}: {remedy}", finding.message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_with_our_mark_and_a_run_are_ours() {
        let run = Id::random();
        assert_eq!(run_of(&format!("snapback-{run}-256")), Some(run));
        for name in ["snapback-", "snapback-x-256", "snapshot", &format!("snapback-{run}"), &format!("snapback-{run}-x"), &format!("x-{run}-1")] {
            assert_eq!(run_of(name), None, "{name}");
        }
    }
}
