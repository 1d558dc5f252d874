//! What this run made on the host, written down before it is made, so that `cleanup` can undo it after any death.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::finding::Finding;
use crate::sys;
use crate::units::Id;
use crate::volume::Snapshot;

const RUNS: &str = "runs";
const SUFFIX: &str = "jsonl";

/// The journal could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A journal file or its directory failed.
    #[error(transparent)]
    Sys(#[from] crate::sys::Error),
    /// A journal file is not what we wrote.
    #[error("the run journal {} cannot be read: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// A journal result.
pub type Result<T> = std::result::Result<T, Error>;

/// Something that a run makes or changes on the host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "made", rename_all = "kebab-case")]
pub enum Made {
    /// A snapshot is about to be made under this name.
    Snapshot(Snapshot),
    /// A mount is about to be made at this directory.
    Mount {
        /// The directory.
        at: PathBuf,
    },
    /// A directory is about to be made (removed again when it is empty).
    Directory {
        /// The directory.
        at: PathBuf,
    },
    /// A server setting is about to be changed.
    Setting(Setting),
}

/// A global variable of the server that a run changes for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// How to reach the same server again; holds no secret.
    pub server: String,
    /// The variable, e.g. `innodb_flush_log_at_trx_commit`.
    pub variable: String,
    /// The value to put back.
    pub old: String,
    /// The value that the run sets.
    pub new: String,
}

/// One line of a journal file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Line {
    Begun { run: Id },
    Making { thing: Made },
    Undone { thing: Made },
}

/// An open journal: one file per run, locked by the kernel while the run lives.
#[derive(Debug)]
pub struct Journal {
    run: Id,
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: File,
    left: Vec<Made>,
}

impl Journal {
    /// Makes the journal of a new run below `<state_dir>/runs/`.
    ///
    /// # Errors
    /// The directory or the file cannot be made or locked.
    pub fn create(state_dir: &Path, run: Id) -> Result<Journal> {
        let directory = state_dir.join(RUNS);
        let at = |operation, error| sys::Error::path(operation, &directory, error);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(|error| at("make", error))?;
        let path = directory.join(format!("{run}.{SUFFIX}"));
        let file = File::options()
            .read(true)
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| sys::Error::path("make the journal", &path, error))?;
        file.lock().map_err(|error| sys::Error::path("lock the journal", &path, error))?;
        let journal = Journal { run, path, state: Mutex::new(State { file, left: Vec::new() }) };
        journal.write(&mut journal.state(), &Line::Begun { run })?;
        sys::fs::sync_directory(&directory)?;
        Ok(journal)
    }

    /// The run that this journal belongs to.
    pub fn run(&self) -> Id {
        self.run
    }

    /// Writes down, durably, what is about to be made. Only then may it be made.
    ///
    /// # Errors
    /// It is not certain to be on disk: do not make the thing.
    pub fn record(&self, made: &Made) -> Result<()> {
        let mut state = self.state();
        self.write(&mut state, &Line::Making { thing: made.clone() })?;
        state.left.push(made.clone());
        Ok(())
    }

    /// Writes down that it was undone.
    ///
    /// # Errors
    /// The file cannot be written; `cleanup` will find the thing gone.
    pub fn undone(&self, made: &Made) -> Result<()> {
        let mut state = self.state();
        state.left.retain(|one| !one.same_thing(made));
        self.write(&mut state, &Line::Undone { thing: made.clone() })
    }

    /// Ends the journal: the file goes when nothing of value is left in it, else it stays for `cleanup`.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn done(&self) -> Result<()> {
        let state = self.state();
        let worth_keeping = |made: &Made| !matches!(made, Made::Directory { .. });
        if state.left.iter().any(worth_keeping) {
            return Ok(());
        }
        std::fs::remove_file(&self.path).map_err(|error| sys::Error::path("remove the journal", &self.path, error))?;
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held leaves at worst a torn last line, which readers tolerate.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, state: &mut State, line: &Line) -> Result<()> {
        let mut bytes = serde_json::to_vec(line).map_err(|error| Error::Unreadable { path: self.path.clone(), reason: error.to_string() })?;
        bytes.push(b'\n');
        let written = state.file.write_all(&bytes).and_then(|()| state.file.sync_data());
        Ok(written.map_err(|error| sys::Error::path("write the journal", &self.path, error))?)
    }
}

impl Made {
    /// Whether both name the same thing; a snapshot's identity becomes known only after it was made.
    fn same_thing(&self, other: &Made) -> bool {
        match (self, other) {
            (Made::Snapshot(one), Made::Snapshot(two)) => one.name == two.name,
            _ => self == other,
        }
    }
}

/// What the journals of this host say.
#[derive(Debug, Default)]
pub struct PastRuns {
    /// Readable journals.
    pub runs: Vec<Past>,
    /// Files that are not journals of ours: reported, never acted on.
    pub findings: Vec<Finding>,
}

/// One past, or present, run.
#[derive(Debug)]
pub struct Past {
    /// The run.
    pub run: Id,
    /// It still runs: its journal is locked.
    pub alive: bool,
    /// What it made and did not undo, in the order of making.
    pub left: Vec<Made>,
    path: PathBuf,
}

impl Past {
    /// Removes the journal: everything in it is undone.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn forget(&self) -> Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(sys::Error::path("remove the journal", &self.path, error).into())
            }
            _ => Ok(()),
        }
    }
}

/// Reads the journals of all runs, oldest first.
///
/// # Errors
/// The directory cannot be read.
pub fn list(state_dir: &Path) -> Result<PastRuns> {
    let directory = state_dir.join(RUNS);
    let entries = match std::fs::read_dir(&directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(PastRuns::default()),
        entries => entries.map_err(|error| sys::Error::path("read", &directory, error))?,
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort_by_key(|path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok());
    let mut past = PastRuns::default();
    for path in paths {
        match read(&path) {
            Ok(run) => past.runs.push(run),
            Err(error) => past.findings.push(
                Finding::warning("journal", error.to_string()).remedy("nothing was done about it; look at the file, then remove it"),
            ),
        }
    }
    Ok(past)
}

fn read(path: &Path) -> Result<Past> {
    let bad = |reason: &str| Error::Unreadable { path: path.to_owned(), reason: reason.to_owned() };
    let named = path.extension().is_some_and(|extension| extension == SUFFIX);
    let run: Id = path
        .file_stem()
        .and_then(|stem| stem.to_str())
        .filter(|_| named)
        .and_then(|stem| stem.parse().ok())
        .ok_or_else(|| bad("it does not carry the name of a run"))?;
    let mut file = File::open(path).map_err(|error| sys::Error::path("open the journal", path, error))?;
    let alive = matches!(file.try_lock_shared(), Err(std::fs::TryLockError::WouldBlock));
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(|error| sys::Error::path("read the journal", path, error))?;
    let left = replay(&text, run).map_err(|reason| bad(&reason))?;
    Ok(Past { run, alive, left, path: path.to_owned() })
}

/// A torn last line is what a crash leaves; the thing it named was not made yet.
fn replay(text: &str, run: Id) -> std::result::Result<Vec<Made>, String> {
    let whole = &text[..text.rfind('\n').map_or(0, |at| at + 1)];
    let mut left: Vec<Made> = Vec::new();
    for (number, line) in whole.lines().enumerate() {
        match serde_json::from_str(line).map_err(|error| format!("line {}: {error}", number + 1))? {
            Line::Begun { run: begun } if begun == run => {}
            Line::Begun { run: begun } => return Err(format!("it belongs to run {begun}")),
            Line::Making { thing: Made::Snapshot(snapshot) } if snapshot.run != run => {
                return Err(format!("line {}: the snapshot belongs to run {}", number + 1, snapshot.run));
            }
            Line::Making { thing } => left.push(thing),
            Line::Undone { thing } => left.retain(|one| !one.same_thing(&thing)),
        }
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> Made {
        Made::Directory { at: PathBuf::from(name) }
    }

    fn setting(variable: &str) -> Made {
        Made::Setting(Setting { server: "s".into(), variable: variable.into(), old: "0".into(), new: "1".into() })
    }

    #[test]
    fn what_was_made_and_not_undone_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::create(dir.path(), Id::random()).unwrap();
        journal.record(&setting("a")).unwrap();
        journal.record(&setting("b")).unwrap();
        journal.undone(&setting("a")).unwrap();
        journal.done().unwrap();
        let past = list(dir.path()).unwrap();
        assert_eq!(past.runs[0].left, [setting("b")]);
        assert!(past.runs[0].alive, "the journal is locked while it is open");
        drop(journal);
        assert!(!list(dir.path()).unwrap().runs[0].alive);
    }

    #[test]
    fn a_journal_with_nothing_left_goes() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::create(dir.path(), Id::random()).unwrap();
        journal.record(&directory("/x")).unwrap();
        journal.record(&setting("a")).unwrap();
        journal.undone(&setting("a")).unwrap();
        journal.done().unwrap();
        assert!(list(dir.path()).unwrap().runs.is_empty());
    }

    #[test]
    fn a_torn_last_line_is_what_a_crash_leaves() {
        let dir = tempfile::tempdir().unwrap();
        let run = Id::random();
        let journal = Journal::create(dir.path(), run).unwrap();
        journal.record(&setting("a")).unwrap();
        let path = journal.path.clone();
        drop(journal);
        File::options().append(true).open(&path).unwrap().write_all(b"{\"event\":\"mak").unwrap();
        assert_eq!(list(dir.path()).unwrap().runs[0].left, [setting("a")]);
    }

    #[test]
    fn a_file_that_is_not_ours_is_named_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let runs = dir.path().join(RUNS);
        std::fs::create_dir(&runs).unwrap();
        std::fs::write(runs.join("notes.txt"), "keep").unwrap();
        std::fs::write(runs.join(format!("{}.jsonl", Id::random())), "{\"event\":\"making\"}\n").unwrap();
        let past = list(dir.path()).unwrap();
        assert!(past.runs.is_empty());
        assert_eq!(past.findings.len(), 2);
        assert!(runs.join("notes.txt").exists());
    }
}
