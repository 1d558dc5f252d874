//! What restored trees carry from before they appear until a replay over them is done: a file that says that they are no state that ever was.
//!
//! The run's id in it proves that a tree is that run's to remove. A journal alone would not: somebody may have put something else there since.

use std::ffi::OsString;
use std::path::Path;

use super::pieces::external_of;
use super::running;
use crate::Result;
use crate::sys::fs::Beneath;
use crate::units::Id;

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

/// A datadir on which all is done, and durable, is what was asked for.
///
/// # Errors
/// A mark cannot be removed.
pub(crate) fn lift(run: Id, datadir: &Path) -> Result<()> {
    for tree in [datadir, &external_of(datadir)] {
        if let Some(tree) = Tree::open(tree)?.map_or(Ok(None), |tree| tree.of(run))? {
            tree.top.remove_file(Path::new(UNFINISHED))?;
            tree.top.sync_names()?;
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
    let open = |tree: &Path| Tree::open(tree);
    let (there, beside) = (open(datadir)?, open(&external_of(datadir))?);
    let bare = there.as_ref().map_or(Ok(true), Tree::is_bare)?;
    let of_run = |tree: Option<Tree>| tree.map_or(Ok(None), |tree| tree.of(run));
    let (half, half_beside) = (of_run(there)?, of_run(beside)?);
    if half.is_none() && half_beside.is_some() && !bare {
        // The datadir's mark goes first: it was done.
        lift(run, datadir)?;
        return Ok(false);
    }
    if half.is_none() && half_beside.is_none() {
        return Ok(false);
    }
    running::wait_for_end(datadir)?;
    for tree in [half_beside, half].iter().flatten() {
        tree.clear()?;
    }
    Ok(true)
}

/// A tree that has appeared, held by descriptors: from then on it is the server's user's.
struct Tree {
    parent: Beneath,
    name: OsString,
    top: Beneath,
}

impl Tree {
    /// `None`: nothing is there, or no directory.
    fn open(path: &Path) -> Result<Option<Tree>> {
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(None);
        };
        let parent = match Beneath::open_way(above, false) {
            Err(error) if error.is(std::io::ErrorKind::NotFound) => return Ok(None),
            parent => parent?,
        };
        if !parent.look(Path::new(name))?.is_some_and(|found| found.is_directory()) {
            return Ok(None);
        }
        Ok(Some(Tree {
            top: parent.enter(Path::new(name))?,
            name: name.to_owned(),
            parent,
        }))
    }

    /// Itself, if it has the mark of this run.
    fn of(self, run: Id) -> Result<Option<Tree>> {
        let wanted = text(run);
        match self.top.read_plain(Path::new(UNFINISHED), wanted.len() as u64) {
            Ok(found) => Ok((found == wanted.as_bytes()).then_some(self)),
            // The kernel's own word; all else says that a mark is not what is there.
            Err(error) if error.errno().is_some_and(|errno| errno != libc::ENOENT) => Err(error.into()),
            Err(_) => Ok(None),
        }
    }

    fn is_bare(&self) -> Result<bool> {
        Ok(self.top.names()?.iter().all(|name| name == OF_MKFS))
    }

    /// Removes everything in it, its mark last: a tree of which some is gone is half a tree as well. A directory that is a mount of its own stays, empty.
    fn clear(&self) -> Result<()> {
        for name in self.top.names()? {
            if name != OF_MKFS && name != UNFINISHED {
                self.top.remove_all(&name)?;
            }
        }
        self.top.sync_names()?;
        crate::failpoint!("replay.cleared");
        self.top.remove_file(Path::new(UNFINISHED))?;
        self.top.sync_names()?;
        let _ = self.parent.remove_directory(&self.name);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn mark(tree: &Path, text: &str) -> std::io::Result<()> {
        std::fs::write(tree.join(UNFINISHED), text)
    }

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
