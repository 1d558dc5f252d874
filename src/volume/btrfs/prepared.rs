//! Snapshots of which one ioctl each is left.

use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::super::{Error, Prepared, Result, Snapshot};
use super::{OF, locate, own, place_of};
use crate::sys;
use crate::sys::btrfs::{SnapshotCall, filesystem_uuid};

pub struct PreparedBtrfs {
    calls: Vec<(Snapshot, SnapshotCall)>,
}

impl PreparedBtrfs {
    /// Opens everything and builds the arguments. Places that are missing are made.
    pub fn prepare(planned: &[Snapshot]) -> Result<PreparedBtrfs> {
        let mut made = Vec::new();
        let calls: Result<Vec<_>> = planned
            .iter()
            .map(|snapshot| Ok((snapshot.clone(), prepare_one(snapshot, &mut made)?)))
            .collect();
        match calls {
            Ok(calls) => Ok(PreparedBtrfs { calls }),
            Err(error) => {
                for place in made {
                    let _ = std::fs::remove_dir(place);
                }
                Err(error)
            }
        }
    }
}

fn prepare_one(snapshot: &Snapshot, made: &mut Vec<PathBuf>) -> Result<SnapshotCall> {
    let fail = |reason: String| Error::failed("snapshot", &snapshot.volume.source, reason);
    let (source, subvolume) = locate::origin(&snapshot.volume)?;
    if snapshot.identity.as_deref() != Some(&format!("{OF}{}", subvolume.uuid)) {
        return Err(fail(
            "it was replaced by another subvolume since the plan was made".to_owned(),
        ));
    }
    let path = Path::new(&snapshot.name);
    let (Some(place), Some(name)) = (place_of(snapshot), path.file_name()) else {
        return Err(fail(format!("{} is no name for a snapshot", snapshot.name)));
    };
    if std::fs::symlink_metadata(place).is_err() {
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(place)
            .map_err(|error| sys::Error::path("make the directory", place, error))?;
        made.push(place.to_owned());
    }
    let directory = sys::fs::open_directory(place)?;
    let filesystem = filesystem_uuid(&directory).map_err(super::at("ask for the filesystem of", place))?;
    if filesystem.to_string() != snapshot.volume.filesystem {
        return Err(fail(format!("{} is on another filesystem", place.display())));
    }
    SnapshotCall::prepare(source, directory, name).map_err(super::at("name the snapshot", path))
}

impl Prepared for PreparedBtrfs {
    fn fix(&mut self) -> Result<(Instant, Instant)> {
        crate::failpoint!("btrfs.before-snapshot", || Error::failed(
            "snapshot",
            "the volume",
            "failpoint"
        ));
        let begun = Instant::now();
        for (snapshot, call) in &mut self.calls {
            call.fix()
                .map_err(|error| sys::Error::path("create the snapshot", &snapshot.name, error))?;
        }
        let ended = Instant::now();
        crate::failpoint!("btrfs.after-snapshot", || Error::failed(
            "snapshot",
            "the volume",
            "failpoint"
        ));
        Ok((begun, ended))
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<Snapshot>> {
        let identified = self.calls.iter_mut().map(|(snapshot, call)| {
            call.finish()
                .map_err(|error| sys::Error::path("create the snapshot", &snapshot.name, error))?;
            own::identified(snapshot)
        });
        let identified: Result<Vec<Snapshot>> = identified.collect();
        identified.inspect_err(|_| {
            for (snapshot, _) in &self.calls {
                let _ = own::remove(snapshot);
            }
        })
    }

    fn abandon(mut self: Box<Self>) -> Result<()> {
        let mut first = Ok(());
        for (snapshot, call) in &mut self.calls {
            // A call on its way cannot be called back. When it fails there is nothing to remove.
            let _ = call.finish();
            let removed = own::remove_from(call.directory().as_fd(), snapshot).map(drop);
            if first.is_ok() {
                first = removed;
            }
        }
        first
    }
}
