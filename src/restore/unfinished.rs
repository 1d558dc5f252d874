//! What restored trees carry from before they appear until a replay over them is done: a file that says that they are no state that ever was.
//!
//! The run's id in it proves that a tree is that run's to remove. A journal alone would not: somebody may have put something else there since.

use std::path::{Path, PathBuf};

use super::pieces::external_of;
use super::running;
use crate::units::Id;
use crate::{Error, Result, sys};

/// The file's name, at the top of each tree.
pub const UNFINISHED: &str = "SNAPBACK-REPLAY-UNFINISHED";

/// What a new filesystem has at its top.
const OF_MKFS: &str = "lost+found";

/// What is in the file.
pub(crate) fn text(run: Id) -> String {
    format!(
        "snapback was replaying binary logs over this datadir and did not come to the end. It is no state that ever was: `snapback cleanup` removes it; then restore again.\nrun {run}\n"
    )
}

/// Whether a tree says of itself that a replay over it is not done.
pub(crate) fn is_marked(tree: &Path) -> bool {
    tree.join(UNFINISHED).symlink_metadata().is_ok()
}

/// Marks a tree that has not appeared yet, over a mark that was in the backup.
pub(super) fn mark(tree: &Path, text: &str) -> Result<()> {
    Ok(sys::fs::replace_durably(
        &tree.join(UNFINISHED),
        text.as_bytes(),
        0o644,
    )?)
}

/// A datadir on which all is done, and durable, is what was asked for.
///
/// # Errors
/// A mark cannot be removed.
pub(crate) fn lift(run: Id, datadir: &Path) -> Result<()> {
    for tree in [datadir, &external_of(datadir)] {
        if is_of(run, tree)? {
            sys::fs::remove_file(&tree.join(UNFINISHED))?;
            sys::fs::sync_directory(tree)?;
        }
    }
    Ok(())
}

/// Removes a datadir over which a run replayed, and what is beside it; `Ok(false)` when nothing of that run's is there: it did not come so far, or came to
/// its end, or somebody took it, or its mark, away.
///
/// # Errors
/// A server runs on it, or it cannot be removed.
pub(crate) fn remove(run: Id, datadir: &Path) -> Result<bool> {
    let external = external_of(datadir);
    let (half, half_beside) = (is_of(run, datadir)?, is_of(run, &external)?);
    if !half && half_beside && !is_bare(datadir)? {
        // The datadir's mark goes first: it was done.
        lift(run, datadir)?;
        return Ok(false);
    }
    if !half && !half_beside {
        return Ok(false);
    }
    running::wait_for_end(datadir)?;
    if half_beside {
        clear(&external)?;
    }
    if half {
        clear(datadir)?;
    }
    Ok(true)
}

/// Whether a tree has the mark of this run.
fn is_of(run: Id, tree: &Path) -> Result<bool> {
    let (wanted, at) = (text(run), tree.join(UNFINISHED));
    let plain = |path: &Path| path.symlink_metadata().ok();
    let marked = plain(&at).is_some_and(|found| found.is_file() && found.len() == wanted.len() as u64);
    if !marked || !plain(tree).is_some_and(|found| found.is_dir()) {
        return Ok(false);
    }
    let found = std::fs::read(&at).map_err(|error| sys::Error::path("read", &at, error))?;
    Ok(found == wanted.as_bytes())
}

fn is_bare(tree: &Path) -> Result<bool> {
    Ok(entries(tree)?.is_empty())
}

/// Everything in a tree, its mark last: a tree of which some is gone is half a tree as well. A directory that is a mount of its own stays, empty.
fn clear(tree: &Path) -> Result<()> {
    let mark = tree.join(UNFINISHED);
    for entry in entries(tree)?.iter().filter(|entry| **entry != mark) {
        let is_directory = entry.symlink_metadata().is_ok_and(|found| found.is_dir());
        let removed = match is_directory {
            true => std::fs::remove_dir_all(entry),
            false => std::fs::remove_file(entry),
        };
        removed.map_err(|error| sys::Error::path("remove", entry, error))?;
    }
    sys::fs::sync_directory(tree)?;
    crate::failpoint!("replay.cleared");
    sys::fs::remove_file(&mark)?;
    let _ = std::fs::remove_dir(tree);
    Ok(())
}

/// What is in a tree that may not be there.
fn entries(tree: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(tree) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.and_then(|entries| {
            entries
                .map(|entry| Ok(entry?.path()))
                .collect::<std::io::Result<Vec<_>>>()
        }),
    };
    let mut entries = entries.map_err(|error| Error::Sys(sys::Error::path("read", tree, error)))?;
    entries.retain(|entry| entry.file_name().is_some_and(|name| name != OF_MKFS));
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A datadir with something beside it, marked by a run or not.
    fn trees(dir: &Path, run: Option<Id>, beside: Option<Id>) -> (PathBuf, PathBuf) {
        let datadir = dir.join("then");
        let external = dir.join("then.external");
        for (tree, run) in [(&datadir, run), (&external, beside)] {
            std::fs::create_dir_all(tree.join("db")).unwrap();
            std::fs::write(tree.join("db/t.ibd"), "rows").unwrap();
            if let Some(run) = run {
                mark(tree, &text(run)).unwrap();
            }
        }
        (datadir, external)
    }

    #[test]
    fn what_a_run_marked_goes_with_what_is_beside_it() {
        let (dir, run) = (tempfile::tempdir().unwrap(), Id::random());
        let (datadir, external) = trees(dir.path(), Some(run), Some(run));
        assert!(remove(run, &datadir).unwrap());
        assert!(!datadir.exists() && !external.exists());
        assert!(!remove(run, &datadir).unwrap());
    }

    #[test]
    fn what_another_run_or_nobody_marked_stays() {
        let (dir, run) = (tempfile::tempdir().unwrap(), Id::random());
        for of in [None, Some(Id::random())] {
            let (datadir, external) = trees(dir.path(), of, of);
            assert!(!remove(run, &datadir).unwrap());
            assert!(datadir.join("db/t.ibd").exists() && external.join("db/t.ibd").exists());
        }
        // Nor is a link followed to what carries it.
        let real = dir.path().join("real");
        std::fs::create_dir(&real).unwrap();
        mark(&real, &text(run)).unwrap();
        std::os::unix::fs::symlink(&real, dir.path().join("link")).unwrap();
        assert!(!remove(run, &dir.path().join("link")).unwrap());
        assert!(is_marked(&real));
    }

    #[test]
    fn a_datadir_whose_mark_is_gone_was_done_and_keeps_what_is_beside_it() {
        let (dir, run) = (tempfile::tempdir().unwrap(), Id::random());
        let (datadir, external) = trees(dir.path(), None, Some(run));
        assert!(!remove(run, &datadir).unwrap());
        assert!(external.join("db/t.ibd").exists() && !is_marked(&external));
        // But not where somebody removed the datadir by hand.
        mark(&external, &text(run)).unwrap();
        std::fs::remove_dir_all(&datadir).unwrap();
        assert!(remove(run, &datadir).unwrap());
        assert!(!external.exists());
    }

    #[test]
    fn lifting_leaves_the_trees_and_the_marks_of_others() {
        let (dir, run) = (tempfile::tempdir().unwrap(), Id::random());
        let (datadir, external) = trees(dir.path(), Some(run), Some(Id::random()));
        lift(run, &datadir).unwrap();
        assert!(!is_marked(&datadir) && is_marked(&external));
        assert!(datadir.join("db/t.ibd").exists());
    }
}
