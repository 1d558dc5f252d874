//! What changed since a held set was taken. No content is read.
//!
//! A snapshot keeps size, modification and change time of every file, and the kernel moves the change time at every write. So a walk over both sees what was written
//! to, at the cost of a `find`, on every kind of storage. It does not see how much. Btrfs knows that besides, by the age of each extent; and it is needed there:
//! what is being written while a Btrfs snapshot is taken can be in it with its new times and its old content.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::view::inside;
use crate::config::Config;
use crate::held::{Held, HeldTree};
use crate::sys::signal::Cancel;
use crate::units::Id;
use crate::volume::{self, Provider};
use crate::{Error, Result};

/// What changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// Every difference, by path.
    pub changes: Vec<Change>,
    /// How they were found.
    pub way: Way,
    /// Files that were compared.
    pub files: u64,
    /// The sizes of the files that are new or changed, in bytes: no more than that was written to what is there now, unless it was written twice.
    pub bytes: u64,
    /// Bytes of what is there now that were written since; only by extents.
    pub written: Option<u64>,
}

/// How differences were found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// By the metadata (size, times, links) of all files, then and now.
    #[default]
    Metadata,
    /// By that, and the age of the extents, of every tree of the set.
    Extents,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The original path.
    pub path: PathBuf,
    /// What happened to it.
    pub what: What,
    /// Its size in the set.
    pub size_then: Option<u64>,
    /// Its size now.
    pub size_now: Option<u64>,
    /// Bytes of it that were written since; only by extents, of what is there now.
    pub written: Option<u64>,
}

/// What happened to a path since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// It was not there.
    Added,
    /// It is not there any more.
    Removed,
    /// Its size, times, links or extents are others.
    Changed,
}

/// Compares a set with what is there now.
///
/// # Errors
/// The set cannot be shown, or a directory cannot be read.
pub fn diff(config: &Config, id: Id, cancel: &Cancel) -> Result<Diff> {
    inside(config, id, |held, at| {
        let providers = volume::providers(config);
        let mut diff = Diff::default();
        let mut by_extents = true;
        for tree in &held.trees {
            let original = &tree.root.path;
            let then = at.join(original.strip_prefix("/").unwrap_or(original));
            let skip = left_out(held, original);
            let then = walk(&then, original, &skip, cancel)?;
            // What is seen now was written out before its extents are asked for, or has other times.
            let now = walk(original, original, &skip, cancel)?;
            let written = written(held, tree, &providers, cancel);
            cancel.check()?;
            by_extents &= written.is_some();
            compare(&then, &now, written.as_ref(), &mut diff);
        }
        if by_extents {
            diff.way = Way::Extents;
            diff.written.get_or_insert(0);
        } else {
            diff.written = None;
        }
        diff.changes.sort_by(|one, two| one.path.cmp(&two.path));
        Ok(diff)
    })
}

/// Bytes that were written since, by inode.
type Written = BTreeMap<u64, u64>;

/// Without it the walk is what there is.
fn written(held: &Held, tree: &HeldTree, providers: &[Box<dyn Provider>], cancel: &Cancel) -> Option<Written> {
    let snapshot = &held.volumes.get(tree.volume)?.snapshot;
    let provider = volume::of_kind(providers, snapshot.volume.provider)?;
    let found = provider.written_since(snapshot, &tree.root.path, cancel);
    found.unwrap_or_else(|error| {
        tracing::warn!(tree = %tree.root.path.display(), %error, "cannot tell what was written by its extents");
        None
    })
}

/// Trees of their own, places of snapshots.
fn left_out(held: &Held, original: &Path) -> Vec<PathBuf> {
    let others = held.trees.iter().map(|tree| &tree.root.path);
    let skipped = held.trees.iter().flat_map(|tree| &tree.skip);
    let all = others.chain(skipped).chain(&held.places);
    all.filter(|path| path.starts_with(original) && *path != original)
        .cloned()
        .collect()
}

/// A file, by its metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    inode: u64,
    signs: Signs,
}

/// What of a file tells that it was written to: size, modification and change time, links.
type Signs = (u64, i64, i64, i64, i64, u64);

type Files = BTreeMap<PathBuf, Found>;

/// All that is not a directory below `top`, by original path.
fn walk(top: &Path, original: &Path, skip: &[PathBuf], cancel: &Cancel) -> Result<Files> {
    let mut files = Files::new();
    let mut open = vec![top.to_owned()];
    let device = |path: &Path| std::fs::symlink_metadata(path).map(|found| found.dev()).ok();
    let own = device(top);
    while let Some(path) = open.pop() {
        cancel.check()?;
        let named = named(top, &path, original);
        if skip.contains(&named) {
            continue;
        }
        let found = match std::fs::symlink_metadata(&path) {
            // It went meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound || is_too_long(&error) => continue,
            found => found.map_err(|error| crate::sys::Error::path("look at", &path, error))?,
        };
        if !found.is_dir() {
            let signs = (
                found.size(),
                found.mtime(),
                found.mtime_nsec(),
                found.ctime(),
                found.ctime_nsec(),
                found.nlink(),
            );
            let inode = found.ino();
            files.insert(named, Found { inode, signs });
        } else if Some(found.dev()) == own {
            match std::fs::read_dir(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound || is_too_long(&error) => {}
                entries => {
                    let unreadable = |error| Error::Sys(crate::sys::Error::path("read", &path, error));
                    for entry in entries.map_err(unreadable)? {
                        open.push(entry.map_err(unreadable)?.path());
                    }
                }
            }
        }
    }
    Ok(files)
}

/// Longer than the kernel takes: a backup does not hold it either.
fn is_too_long(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENAMETOOLONG)
}

fn named(top: &Path, path: &Path, original: &Path) -> PathBuf {
    match path.strip_prefix(top) {
        Ok(below) if !below.as_os_str().is_empty() => original.join(below),
        _ => original.to_owned(),
    }
}

fn compare(then: &Files, now: &Files, written: Option<&Written>, diff: &mut Diff) {
    // Several names of one file were written to once.
    let mut counted = BTreeSet::new();
    diff.files += now.len() as u64;
    for (path, after) in now {
        let before = then.get(path);
        let bytes = written.map(|written| written.get(&after.inode).copied());
        let what = match before {
            None => What::Added,
            Some(before) if before.signs != after.signs || bytes.flatten().is_some() => What::Changed,
            Some(_) => continue,
        };
        let bytes = bytes.map(Option::unwrap_or_default);
        diff.bytes += after.signs.0;
        if counted.insert(after.inode) {
            diff.written = bytes
                .map(|bytes| bytes + diff.written.unwrap_or_default())
                .or(diff.written);
        }
        diff.changes.push(Change {
            path: path.clone(),
            what,
            size_then: before.map(|before| before.signs.0),
            size_now: Some(after.signs.0),
            written: bytes,
        });
    }
    for (path, before) in then.iter().filter(|(path, _)| !now.contains_key(*path)) {
        diff.files += 1;
        diff.changes.push(Change {
            path: path.clone(),
            what: What::Removed,
            size_then: Some(before.signs.0),
            size_now: None,
            written: None,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_removed_and_written_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (then, now) = (dir.path().join("then"), dir.path().join("now"));
        for top in [&then, &now] {
            std::fs::create_dir_all(top.join("d/skipped")).unwrap();
            std::fs::write(top.join("d/skipped/x"), "x").unwrap();
        }
        std::fs::write(then.join("same"), "s").unwrap();
        std::fs::hard_link(then.join("same"), now.join("same")).unwrap();
        std::fs::write(then.join("gone"), "g").unwrap();
        std::fs::write(then.join("d/changed"), "1").unwrap();
        std::fs::write(now.join("d/changed"), "22").unwrap();
        std::fs::write(now.join("new"), "new").unwrap();
        let original = Path::new("/db");
        let skip = [PathBuf::from("/db/d/skipped")];
        let cancel = Cancel::new();
        let files = |top: &Path| walk(top, original, &skip, &cancel).unwrap();
        let mut diff = Diff::default();
        compare(&files(&then), &files(&now), None, &mut diff);
        let mut told: Vec<_> = diff
            .changes
            .iter()
            .map(|one| (one.path.to_str().unwrap(), one.what, one.size_then, one.size_now))
            .collect();
        told.sort_by_key(|one| one.0);
        assert_eq!(
            told,
            [
                ("/db/d/changed", What::Changed, Some(1), Some(2)),
                ("/db/gone", What::Removed, Some(1), None),
                ("/db/new", What::Added, None, Some(3)),
            ]
        );
        assert_eq!((diff.files, diff.bytes, diff.written), (4, 5, None));
    }

    #[test]
    fn what_only_its_extents_tell_of_is_changed_and_links_are_written_to_once() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        std::fs::write(&one, "content").unwrap();
        std::fs::hard_link(&one, &two).unwrap();
        std::fs::write(dir.path().join("same"), "s").unwrap();
        let files = walk(dir.path(), Path::new("/db"), &[], &Cancel::new()).unwrap();
        let written = Written::from([(std::fs::metadata(&one).unwrap().ino(), 4096)]);
        let mut diff = Diff::default();
        compare(&files, &files, Some(&written), &mut diff);
        let told: Vec<_> = diff
            .changes
            .iter()
            .map(|one| (one.path.to_str().unwrap(), one.what))
            .collect();
        assert_eq!(told, [("/db/one", What::Changed), ("/db/two", What::Changed)]);
        assert_eq!((diff.files, diff.bytes, diff.written), (3, 14, Some(4096)));
        assert!(diff.changes.iter().all(|one| one.written == Some(4096)));
    }
}
