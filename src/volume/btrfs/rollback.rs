//! A subvolume goes back: renamed away, a writable snapshot of the held one takes its name.
//!
//! All is done below the filesystem's top level, mounted where nobody sees it. A rename of a subvolume is one transaction.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::super::rollback::{GoBack, Own, Stand, Swap, read_mounts, remounts};
use super::super::{Error, Result, Snapshot, Volume, mark};
use super::{Btrfs, at, locate, place_of, seen};
use crate::detect::Mounts;
use crate::sys;
use crate::sys::btrfs::{
    Subvolume, TOP_INODE, clone_writable, commit, filesystem_uuid, nested_below, set_read_only, subvolume_of,
};
use crate::sys::command::{Command, Program};
use crate::units::Id;

/// The number of the subvolume that holds all others.
const TOP_LEVEL: u64 = 5;
const COMMIT_LIMIT: Duration = Duration::from_secs(120);

impl GoBack for Btrfs {
    fn plan(&self, run: Id, held: &Snapshot, mounts: &Mounts) -> Result<Swap> {
        let fail = |reason: String| Error::failed("roll back", &held.volume.source, reason);
        let top = &held.volume.top;
        let here = seen::here(held)?;
        if here.name != held.name {
            return Err(fail(format!(
                "its snapshot is seen at {} now: mount the volume at {} again, as it was when the set was taken",
                here.name,
                top.display()
            )));
        }
        let (directory, filesystem, live) =
            locate::top_at(top)?.ok_or_else(|| fail(format!("{} is not the top of a subvolume", top.display())))?;
        if filesystem.to_string() != held.volume.filesystem {
            return Err(fail(format!("{} is on another filesystem now", top.display())));
        }
        if live.id == TOP_LEVEL {
            return Err(fail(
                "it is the filesystem's top level, which no other subvolume can take the place of".to_owned(),
            ));
        }
        let (mount, path) = shown(top, mounts).ok_or_else(|| fail(format!("no mount holds {}", top.display())))?;
        not_by_number(&live, mount.source.as_str(), top).map_err(fail)?;
        for nested in nested_below(&directory).map_err(at("list the subvolumes nested in", top))? {
            if nested
                .path
                .file_name()
                .and_then(OsStr::to_str)
                .and_then(mark::run_of)
                .is_none()
            {
                let path = top.join(&nested.path);
                return Err(fail(format!(
                    "the subvolume {} lies in it and would stay behind: move it out first",
                    path.display()
                )));
            }
        }
        let place = place_of(held).ok_or_else(|| fail(format!("{} is no name of a snapshot", held.name)))?;
        let own = |mount: &crate::detect::Mount| match (
            mount.fs_type == "btrfs" && mount.super_options.contains("subvol="),
            &mount.root,
        ) {
            (true, root) if same_filesystem(mount, &held.volume) && *root == path => Own::Whole,
            (true, root)
                if same_filesystem(mount, &held.volume) && root.starts_with(&path) && !is_subvolume_mount(mount) =>
            {
                Own::Part
            }
            _ => Own::No,
        };
        let (from_top, device) = (inner(&path), mount.source.clone());
        let beside = |what: &str| text(&from_top.with_file_name(format!(".snapback-{what}-{run}-{}", live.id)));
        Ok(Swap {
            kept: Snapshot {
                run,
                volume: held.volume.clone(),
                name: text(&place.join(mark::name(run, live.id)))?,
                identity: Some(live.uuid.to_string()),
            },
            held: held.clone(),
            keep: true,
            live: text(&from_top)?,
            live_identity: live.uuid.to_string(),
            fresh: beside("fresh")?,
            away: beside("away")?,
            device,
            details: Default::default(),
            mounts: remounts(&held.volume, mounts, own, &format!("subvol={}", path.display()))?,
        })
    }

    fn make(&self, swap: &Swap) -> Result<()> {
        let top = Top::of(swap)?;
        if top.subvolume(&swap.fresh)?.is_some() {
            return Ok(());
        }
        let held = sys::fs::open_directory(Path::new(&swap.held.name))?;
        let found = subvolume_of(&held).map_err(at("ask for the subvolume of", Path::new(&swap.held.name)))?;
        if swap.held.identity.as_deref() != Some(&found.uuid.to_string()) || !found.read_only {
            let reason = "it is not the snapshot that was held, or was made writable";
            return Err(Error::failed("roll back to", &swap.held.name, reason));
        }
        let (directory, name) = top.parent(&swap.fresh)?;
        clone_writable(held, &directory, &name).map_err(at("copy the held snapshot to", Path::new(&swap.fresh)))?;
        top.commit()
    }

    fn stand(&self, swap: &Swap) -> Result<Stand> {
        let top = Top::of(swap)?;
        Ok(match top.subvolume(&swap.live)? {
            None => Stand::Away,
            Some(found) if found.uuid.to_string() == swap.live_identity => Stand::Old,
            Some(found) if Some(found.snapshot_of.to_string()) == swap.held.identity => Stand::New,
            Some(_) => {
                let reason = "another subvolume has its name now; look at it, and give the right one the name back";
                return Err(Error::failed("roll back", &swap.held.volume.source, reason));
            }
        })
    }

    fn away(&self, swap: &Swap) -> Result<()> {
        self.step(swap, Stand::Old, &swap.live, &swap.away)
    }

    fn enter(&self, swap: &Swap) -> Result<()> {
        self.step(swap, Stand::Away, &swap.fresh, &swap.live)
    }

    fn leave(&self, swap: &Swap) -> Result<()> {
        self.step(swap, Stand::New, &swap.live, &swap.fresh)
    }

    fn back(&self, swap: &Swap) -> Result<()> {
        self.step(swap, Stand::Away, &swap.away, &swap.live)
    }

    fn settle(&self, swap: &Swap) -> Result<Option<Snapshot>> {
        let top = Top::of(swap)?;
        let live = top.subvolume(&swap.live)?.map(|found| found.id);
        if top.subvolume(&swap.away)?.is_some() {
            top.take_along(swap)?;
        }
        // Mounted by now: the names of snapshots are those of the live host.
        let kept = Path::new(&swap.kept.name);
        let (mount, path) = shown_above(kept)?;
        if !same_filesystem(&mount, &swap.held.volume) {
            let reason = format!("{} is not on its filesystem", kept.display());
            return Err(Error::failed(
                "keep the present state of",
                &swap.held.volume.source,
                reason,
            ));
        }
        let to = text(&inner(&path))?;
        if top.subvolume(&swap.away)?.is_some() {
            top.directory_for(&to)?;
            top.rename(&swap.away, &to)?;
        }
        set_read_only(top.open(&to)?, true).map_err(at("make read-only", kept))?;
        top.commit()?;
        let volume = Volume {
            id: live.map_or_else(
                || swap.held.volume.id.clone(),
                |id| format!("{}:{id}", swap.held.volume.filesystem),
            ),
            ..swap.held.volume.clone()
        };
        Ok(Some(Snapshot {
            volume,
            ..swap.kept.clone()
        }))
    }

    /// It may be seen without a mount of its own, and under its new name as under its old one.
    fn seen_as(&self, swap: &Swap) -> Result<Option<u64>> {
        let top = Top::of(swap)?;
        let name = match top.subvolume(&swap.away)? {
            Some(_) => &swap.away,
            None => &swap.live,
        };
        match rustix::fs::statat(&top.0, name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(found.st_dev)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(sys::Error::path("look at", name.as_str(), error).into()),
        }
    }

    fn discard(&self, swap: &Swap) -> Result<()> {
        let top = Top::of(swap)?;
        let Some(found) = top.subvolume(&swap.fresh)? else {
            return Ok(());
        };
        if Some(found.snapshot_of.to_string()) != swap.held.identity {
            return Err(Error::failed(
                "remove",
                &swap.fresh,
                "it is not the copy that snapback made; it is left alone",
            ));
        }
        let (directory, name) = top.parent(&swap.fresh)?;
        sys::btrfs::destroy(&directory, &name).map_err(at("remove", Path::new(&swap.fresh)))?;
        top.commit()
    }
}

impl Btrfs {
    /// A rename, unless it is made already.
    fn step(&self, swap: &Swap, from: Stand, old: &str, new: &str) -> Result<()> {
        if self.stand(swap)? != from {
            return Ok(());
        }
        let top = Top::of(swap)?;
        top.rename(old, new)?;
        top.commit()
    }
}

/// The top level of a filesystem, mounted for ourselves.
struct Top(OwnedFd);

impl Top {
    fn of(swap: &Swap) -> Result<Top> {
        let by_uuid = PathBuf::from(format!("/dev/disk/by-uuid/{}", swap.held.volume.filesystem));
        let mounts = read_mounts()?;
        let mounted = mounts
            .0
            .iter()
            .find(|mount| mount.fs_type == "btrfs" && same_filesystem(mount, &swap.held.volume));
        let device = match mounted {
            Some(mount) => PathBuf::from(&mount.source),
            None if by_uuid.exists() => by_uuid,
            None => PathBuf::from(&swap.device),
        };
        let top = sys::mount::hidden(&device, "btrfs", &[("subvolid", "5")])?;
        let found = filesystem_uuid(&top).map_err(at("ask for the filesystem of", &device))?;
        if found.to_string() != swap.held.volume.filesystem {
            let reason = format!(
                "{} holds another filesystem; bring its device back, then run `snapback cleanup`",
                device.display()
            );
            return Err(Error::failed(
                "find the filesystem of",
                &swap.held.volume.source,
                reason,
            ));
        }
        Ok(Top(top))
    }

    fn open(&self, path: &str) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.0, path, flags, Mode::empty())
            .map_err(|error| sys::Error::path("open", path, error))?)
    }

    /// The subvolume whose top is here; `None` when nothing is. Something else is an error.
    fn subvolume(&self, path: &str) -> Result<Option<Subvolume>> {
        let found = match rustix::fs::statat(&self.0, path, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            found => found.map_err(|error| sys::Error::path("look at", path, error))?,
        };
        if found.st_ino != TOP_INODE {
            return Err(Error::failed(
                "roll back",
                path,
                "something that is no subvolume has this name; move it away",
            ));
        }
        Ok(Some(
            subvolume_of(self.open(path)?).map_err(at("ask for the subvolume of", Path::new(path)))?,
        ))
    }

    fn parent(&self, path: &str) -> Result<(OwnedFd, std::ffi::OsString)> {
        let path = Path::new(path);
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        Ok((
            self.open(&text(parent)?)?,
            path.file_name().unwrap_or_default().to_owned(),
        ))
    }

    fn rename(&self, old: &str, new: &str) -> Result<()> {
        rustix::fs::renameat_with(&self.0, old, &self.0, new, RenameFlags::NOREPLACE)
            .map_err(|error| sys::Error::path("rename the subvolume", old, error).into())
    }

    fn commit(&self) -> Result<()> {
        match commit(self.0.as_fd(), COMMIT_LIMIT).map_err(at("commit", Path::new(".")))? {
            true => Ok(()),
            false => Err(Error::failed(
                "commit",
                "the filesystem",
                "it takes longer than two minutes; then run `snapback cleanup`",
            )),
        }
    }

    fn directory_for(&self, path: &str) -> Result<()> {
        let Some(parent) = Path::new(path).parent().filter(|parent| !parent.as_os_str().is_empty()) else {
            return Ok(());
        };
        match rustix::fs::mkdirat(&self.0, parent, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(sys::Error::path("make the directory", parent, error).into()),
        }
    }

    /// Snapshots of ours that lie in what was live go along into what is live now, so that their paths stay what they were.
    fn take_along(&self, swap: &Swap) -> Result<()> {
        let old = self.open(&swap.away)?;
        for nested in nested_below(&old).map_err(at("list the subvolumes nested in", Path::new(&swap.away)))? {
            let from = format!("{}/{}", swap.away, nested.path.display());
            let to = format!("{}/{}", swap.live, nested.path.display());
            self.directory_for(&to)?;
            // What a snapshot shows in the place of a nested subvolume is an empty directory.
            match rustix::fs::unlinkat(&self.0, to.as_str(), AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(sys::Error::path("remove the empty directory", &to, error).into()),
            }
            let moved = self.open(&from)?;
            // A read-only subvolume cannot change its directory (EROFS).
            set_read_only(&moved, false).map_err(at("make writable", Path::new(&from)))?;
            let renamed = self.rename(&from, &to);
            set_read_only(&moved, true).map_err(at("make read-only", Path::new(&to)))?;
            renamed?;
        }
        self.read_only_again(swap)?;
        self.commit()
    }

    /// A death between the two changes above left one writable.
    fn read_only_again(&self, swap: &Swap) -> Result<()> {
        let live = self.open(&swap.live)?;
        for nested in nested_below(&live).map_err(at("list the subvolumes nested in", Path::new(&swap.live)))? {
            if nested
                .path
                .file_name()
                .and_then(OsStr::to_str)
                .and_then(mark::run_of)
                .is_some()
            {
                let path = format!("{}/{}", swap.live, nested.path.display());
                set_read_only(self.open(&path)?, true).map_err(at("make read-only", Path::new(&path)))?;
            }
        }
        Ok(())
    }
}

/// The mount that holds a path, and the path from the filesystem's top.
fn shown(path: &Path, mounts: &Mounts) -> Option<(crate::detect::Mount, PathBuf)> {
    let mount = mounts.holding(path)?;
    Some((mount.clone(), mount.within(path)?))
}

/// As [`shown`], for a path that is not there yet.
fn shown_above(path: &Path) -> Result<(crate::detect::Mount, PathBuf)> {
    let mounts = read_mounts()?;
    let there = path
        .ancestors()
        .skip(1)
        .find(|above| above.exists())
        .unwrap_or(Path::new("/"));
    let found = mounts
        .holding(there)
        .and_then(|mount| Some((mount.clone(), mount.within(path)?)));
    found.ok_or_else(|| Error::failed("find", path.display().to_string(), "no mount holds it"))
}

/// `/a/b` as `a/b`.
fn inner(path: &Path) -> PathBuf {
    path.strip_prefix("/").unwrap_or(path).to_owned()
}

fn text(path: &Path) -> Result<String> {
    let utf8 = path.to_str().map(str::to_owned);
    utf8.ok_or_else(|| Error::failed("roll back", path.display().to_string(), "the path is not UTF-8"))
}

fn same_filesystem(mount: &crate::detect::Mount, volume: &Volume) -> bool {
    let directory = sys::fs::open_directory(&mount.mount_point);
    mount.fs_type == "btrfs"
        && directory.is_ok_and(|found| filesystem_uuid(&found).is_ok_and(|uuid| uuid.to_string() == volume.filesystem))
}

/// Whether a mount shows a subvolume from its top (else it shows a directory of one).
fn is_subvolume_mount(mount: &crate::detect::Mount) -> bool {
    locate::top_at(&mount.mount_point).is_ok_and(|found| found.is_some())
}

/// A number in the option file or as the default would go on naming the subvolume that is kept.
fn not_by_number(live: &Subvolume, device: &str, top: &Path) -> std::result::Result<(), String> {
    let table = std::fs::read_to_string("/etc/fstab").unwrap_or_default();
    if let Some(line) = by_number(&table, live.id) {
        return Err(format!(
            "/etc/fstab mounts it by its number (`{line}`), which it does not keep: write subvol=PATH there"
        ));
    }
    let program = Program::find("btrfs").map_err(|error| error.to_string())?;
    let answer = Command::new(&program).args(["subvolume", "get-default"]).arg(top).run();
    let answer = answer.map_err(|error| format!("the default subvolume of {device} cannot be asked for: {error}"))?;
    if String::from_utf8_lossy(&answer).split_whitespace().nth(1) == Some(&live.id.to_string()) {
        return Err(format!(
            "it is the default subvolume of {device}, by its number, which it does not keep: mount it by subvol=PATH, and `btrfs subvolume set-default 5 {}`",
            top.display()
        ));
    }
    Ok(())
}

/// The line of a mount table for people (fstab(5)) that names a subvolume by this number.
fn by_number(table: &str, id: u64) -> Option<&str> {
    let wanted = format!("subvolid={id}");
    table.lines().map(str::trim).find(|line| {
        let options = line.split_whitespace().nth(3).unwrap_or_default();
        !line.starts_with('#') && options.split(',').any(|option| option == wanted)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subvolume_named_by_number_in_fstab_is_seen() {
        let table = "# UUID=x /old btrfs subvolid=256 0 0\nUUID=x /srv btrfs noatime,subvolid=256 0 0\nUUID=x /a btrfs subvol=/a 0 0\n";
        assert_eq!(
            by_number(table, 256),
            Some("UUID=x /srv btrfs noatime,subvolid=256 0 0")
        );
        assert_eq!(by_number(table, 25), None);
    }
}
