//! What changed since a held set was taken: by metadata alone (size, times), no content is read.
//!
//! A snapshot keeps size, modification and change time of every file, and the kernel moves the change time at every write. So the walk costs what
//! `find` costs, on every kind of storage. How much of a file changed is not known: its size counts.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::view::inside;
use crate::config::Config;
use crate::held::Held;
use crate::sys::signal::Cancel;
use crate::units::Id;
use crate::{Error, Result};

/// What changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// Every difference, by path.
    pub changes: Vec<Change>,
    /// Files that were compared.
    pub files: u64,
    /// The sizes of the files that are new or changed, in bytes: no more than that was written to what is there now, unless it was written twice.
    pub bytes: u64,
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
}

/// What happened to a path since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// It was not there.
    Added,
    /// It is not there any more.
    Removed,
    /// Its size or times are others.
    Changed,
}

/// Compares a set with what is there now.
///
/// # Errors
/// The set cannot be shown, or a directory cannot be read.
pub fn diff(config: &Config, id: Id, cancel: &Cancel) -> Result<Diff> {
    inside(config, id, |held, at| {
        let mut diff = Diff::default();
        for tree in &held.trees {
            let original = &tree.root.path;
            let then = at.join(original.strip_prefix("/").unwrap_or(original));
            let skip = left_out(held, original);
            compare(
                &walk(&then, original, &skip, cancel)?,
                &walk(original, original, &skip, cancel)?,
                &mut diff,
            );
        }
        diff.changes.sort_by(|one, two| one.path.cmp(&two.path));
        Ok(diff)
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

/// What of a file tells that it was written to.
type Signs = (u64, i64, i64, i64, i64, u64);

type Files = BTreeMap<PathBuf, Signs>;

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
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
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
            files.insert(named, signs);
        } else if Some(found.dev()) == own {
            match std::fs::read_dir(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
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

fn named(top: &Path, path: &Path, original: &Path) -> PathBuf {
    match path.strip_prefix(top) {
        Ok(below) if !below.as_os_str().is_empty() => original.join(below),
        _ => original.to_owned(),
    }
}

fn compare(then: &Files, now: &Files, diff: &mut Diff) {
    let change = |path: &PathBuf, what, then: Option<&Signs>, now: Option<&Signs>| Change {
        path: path.clone(),
        what,
        size_then: then.map(|signs| signs.0),
        size_now: now.map(|signs| signs.0),
    };
    for (path, before) in then {
        diff.files += 1;
        match now.get(path) {
            None => diff.changes.push(change(path, What::Removed, Some(before), None)),
            Some(after) if after != before => {
                diff.bytes += after.0;
                diff.changes
                    .push(change(path, What::Changed, Some(before), Some(after)));
            }
            Some(_) => {}
        }
    }
    for (path, after) in now.iter().filter(|(path, _)| !then.contains_key(*path)) {
        diff.files += 1;
        diff.bytes += after.0;
        diff.changes.push(change(path, What::Added, None, Some(after)));
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
        compare(&files(&then), &files(&now), &mut diff);
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
        assert_eq!((diff.files, diff.bytes), (4, 5));
    }
}
