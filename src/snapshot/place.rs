//! Directories of ours in which held sets are shown: locked (flock(2)) as long as their run lives, so that `cleanup` finds those of the dead.

use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::detect::Mounts;
use crate::finding::Finding;
use crate::sys::process::Process;
use crate::units::Id;
use crate::{Error, Result, sys, volume};

/// Where they are.
const PRIVATE: &str = "/run/snapback";

/// How often a name is tried that `cleanup` takes away before it is locked.
const ATTEMPTS: u32 = 10;

/// What a directory is for, by the first part of its name.
#[derive(Debug, Clone, Copy)]
pub(super) enum Use {
    /// All trees of a set are shown in it.
    View,
    /// A snapshot that has to be mounted is mounted on it.
    Held(usize),
}

/// One of them. Dropped, it is removed, if nothing is mounted there any more.
#[derive(Debug)]
pub(super) struct Place {
    at: PathBuf,
    _lock: File,
}

impl Place {
    /// Makes one, for this process's look at a set.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn make(set: Id, what: Use) -> Result<Place> {
        let (set, process) = (set.short(), std::process::id());
        let name = match what {
            Use::View => format!("view-{set}-{process}"),
            Use::Held(number) => format!("held-{set}-{process}-{number}"),
        };
        Place::make_at(Path::new(PRIVATE).join(name))
    }

    fn make_at(at: PathBuf) -> Result<Place> {
        let failed = |error| sys::Error::path("make the directory", &at, error);
        for _ in 0..ATTEMPTS {
            let mut builder = std::fs::DirBuilder::new();
            builder.recursive(true).mode(0o700).create(&at).map_err(failed)?;
            let lock = match File::open(&at) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                opened => opened.map_err(failed)?,
            };
            // Whoever cleans up holds it for a moment.
            lock.lock().map_err(failed)?;
            if is_same(&lock, &at) {
                return Ok(Place { at, _lock: lock });
            }
        }
        Err(Error::failed(format!("{} is removed again and again", at.display())))
    }

    /// Its path.
    pub fn at(&self) -> &Path {
        &self.at
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.at);
    }
}

/// Removes (or, on trial, names) empty directories of runs that were killed, and says of others why they stay. Whatever is mounted, in whichever mount namespace, and
/// whatever has something in it stays.
pub fn remove_left_places(dry_run: bool) -> (Vec<PathBuf>, Vec<Finding>) {
    left_in(Path::new(PRIVATE), dry_run)
}

fn left_in(directory: &Path, dry_run: bool) -> (Vec<PathBuf>, Vec<Finding>) {
    let (mut removed, mut findings) = (Vec::new(), Vec::new());
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return (removed, findings),
        entries => entries.and_then(Iterator::collect::<std::io::Result<Vec<_>>>),
    };
    let mut places: Vec<PathBuf> = match entries {
        Ok(entries) => entries.into_iter().map(|entry| entry.path()).collect(),
        Err(error) => {
            let said = sys::Error::path("look for directories of ours in", directory, error).to_string();
            return (removed, vec![Finding::warning("left-directory", said)]);
        }
    };
    places.retain(|place| process_of(place).is_some());
    places.sort();
    for place in places {
        match remove(&place, dry_run) {
            Ok(true) => removed.push(place),
            Ok(false) => {}
            Err(error) => findings.push(
                Finding::warning("left-directory", format!("{} is left of a run that died: {error}", place.display()))
                    .remedy("when nobody needs it: end what still looks at it, `umount -R` what is mounted, and `snapback cleanup` removes it"),
            ),
        }
    }
    (removed, findings)
}

/// Whether it is gone (or would be); `Ok(false)`: its run is alive, or took it along.
fn remove(at: &Path, dry_run: bool) -> Result<bool> {
    // What is mounted on it here hides it, and its lock.
    if is_mounted(&Mounts::read()?, at) {
        return match process_of(at).is_some_and(sys::host::is_process) {
            true => Ok(false),
            false => Err(Error::failed("something is mounted there")),
        };
    }
    let lock = match sys::fs::open_directory(at) {
        Err(error) if error.is(std::io::ErrorKind::NotFound) => return Ok(false),
        opened => File::from(opened?),
    };
    // While this is held no run begins to use it.
    if lock.try_lock().is_err() || !is_same(&lock, at) {
        return Ok(false);
    }
    // The kernel would take away what is mounted on it elsewhere: what a command of a dead run started may still be looking at it.
    for (process, table) in sys::host::mount_tables() {
        // A container's path of the same name is another one.
        let above = at.parent().unwrap_or(at);
        let sees_it = Process::of(process).is_none_or(|process| process.sees_same(above) != Some(false));
        if sees_it && is_mounted(&Mounts::parse(&table)?, at) {
            return Err(Error::failed(format!(
                "something is mounted there that process {process} still sees"
            )));
        }
    }
    let failed = |error| sys::Error::path("read", at, error);
    if std::fs::read_dir(at).map_err(failed)?.next().is_some() {
        return Err(Error::failed("it is not empty"));
    }
    Ok(dry_run || volume::remove_place(at)?)
}

fn is_mounted(mounts: &Mounts, at: &Path) -> bool {
    mounts.0.iter().any(|mount| mount.mount_point == at)
}

fn is_same(open: &File, at: &Path) -> bool {
    let of = |found: std::io::Result<std::fs::Metadata>| found.ok().map(|found| (found.dev(), found.ino()));
    let open = of(open.metadata());
    open.is_some() && open == of(std::fs::symlink_metadata(at))
}

/// The process that made it: `view-SET-PROCESS`, `held-SET-PROCESS-NUMBER`. `None`: it is not one of them.
fn process_of(at: &Path) -> Option<i32> {
    let parts: Vec<&str> = at.file_name()?.to_str()?.split('-').collect();
    let (set, process) = match parts[..] {
        ["view", set, process] => (set, process),
        ["held", set, process, number] if number.parse::<u32>().is_ok() => (set, process),
        _ => return None,
    };
    let named = set.len() == 8 && set.bytes().all(|byte| byte.is_ascii_hexdigit());
    process.parse().ok().filter(|process| named && *process > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_places_of_the_dead_go_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let at = dir.path().join(name);
            std::fs::create_dir(&at).unwrap();
            at
        };
        let (dead, also) = (make("view-39c3c606-13739"), make("held-39c3c606-13739-0"));
        let full = make("view-39c3c606-13740");
        std::fs::write(full.join("f"), "").unwrap();
        let others = [
            make("view-39c3c606"),
            make("view-39c3c606-x"),
            make("39c3c606-0"),
            make("view-39c3c6-13739"),
        ];
        let living = Place::make_at(dir.path().join("view-39c3c606-13741")).unwrap();
        let would = left_in(dir.path(), true);
        assert!(dead.exists() && also.exists());
        let (removed, findings) = left_in(dir.path(), false);
        assert_eq!((&removed, &would.0), (&vec![also.clone(), dead.clone()], &removed));
        assert!(!dead.exists() && !also.exists());
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].message.contains("13740") && findings[0].message.contains("not empty"));
        assert!(full.exists() && living.at().exists() && others.iter().all(|other| other.exists()));
        let at = living.at().to_owned();
        drop(living);
        assert!(!at.exists());
        assert!(left_in(&dir.path().join("missing"), false).0.is_empty());
    }

    #[test]
    fn a_place_that_is_taken_away_before_it_is_locked_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("view-39c3c606-1");
        std::fs::create_dir(&at).unwrap();
        // A cleanup has it locked, and removes it.
        let cleaning = File::open(&at).unwrap();
        cleaning.lock().unwrap();
        std::thread::scope(|scope| {
            let made = scope.spawn(|| Place::make_at(at.clone()).unwrap());
            std::thread::sleep(std::time::Duration::from_millis(20));
            std::fs::remove_dir(&at).unwrap();
            drop(cleaning);
            let place = made.join().unwrap();
            assert!(is_same(&place._lock, &at));
        });
    }
}
