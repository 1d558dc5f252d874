//! What this run made on the host, written down before it is made, so that `cleanup` can undo it after any death.
//!
//! One file per run, `<state_dir>/runs/<run>.jsonl`, locked (flock(2)) while the run lives. Each line is durable before the
//! thing that it names is made; a torn last line therefore names nothing that exists.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::finding::Finding;
use crate::sys;
use crate::units::Id;
use crate::volume::Snapshot;

const RUNS: &str = "runs";
const SUFFIX: &str = "jsonl";

/// The largest journal that is read, in bytes; a run writes some hundred per thing that it makes.
const LARGEST: u64 = 16 << 20;

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
    /// The journal was closed by [`Journal::done`].
    #[error("the run journal {} is closed: nothing may be made any more", path.display())]
    Closed {
        /// The file.
        path: PathBuf,
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
    /// The filesystem at this directory is about to be frozen for a moment.
    Frozen {
        /// A directory on it.
        top: PathBuf,
    },
    /// A directory is about to be made (removed again when it is empty).
    Directory {
        /// The directory.
        at: PathBuf,
    },
    /// A tree of ours is about to be made, with all that comes into it: `snapback-drill-<run>`.
    Scratch {
        /// Its top directory.
        at: PathBuf,
    },
    /// A restored datadir is about to be made, with what goes beside it, that is half a replay until its mark is lifted.
    Replay {
        /// The datadir.
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
    /// Which server it was, whatever listens there later; journals before 0.2 have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
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

impl Made {
    /// Whether both name the same thing; a snapshot's identity becomes known only after it was made.
    fn same_thing(&self, other: &Made) -> bool {
        match (self, other) {
            (Made::Snapshot(one), Made::Snapshot(two)) => one.name == two.name,
            _ => self == other,
        }
    }
}

/// An open journal: one file per run, locked while the run lives. May be used from several threads.
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
    closed: bool,
}

impl Journal {
    /// Makes the journal of a new run below `<state_dir>/runs/`. It is locked before it has a name, so that nobody ever
    /// sees it unlocked while the run lives.
    ///
    /// # Errors
    /// The directory or the file cannot be made or locked.
    pub fn create(state_dir: &Path, run: Id) -> Result<Journal> {
        let directory = state_dir.join(RUNS);
        sys::trust::require(&directory)?;
        make_private(&directory)?;
        sys::trust::require(&directory)?;
        let path = directory.join(format!("{run}.{SUFFIX}"));
        let at = |operation| {
            let path = path.clone();
            move |error: std::io::Error| sys::Error::path(operation, path, error)
        };
        let unpublished = sys::fs::Unpublished::create(&directory, 0o600)?;
        let file = unpublished.file().try_clone().map_err(at("open"))?;
        file.lock().map_err(at("lock"))?;
        let state = State {
            file,
            left: Vec::new(),
            closed: false,
        };
        let journal = Journal {
            run,
            path: path.clone(),
            state: Mutex::new(state),
        };
        journal.write(&mut journal.state(), &Line::Begun { run })?;
        unpublished.publish(&path)?;
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
        crate::failpoint!("journal.record", || sys::Error::path(
            "write",
            &self.path,
            std::io::Error::from(std::io::ErrorKind::StorageFull)
        ));
        let mut state = self.state();
        // In the list first: after a failed write nobody knows whether the line is on disk.
        state.left.push(made.clone());
        self.write(&mut state, &Line::Making { thing: made.clone() })
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

    /// Another descriptor of the locked file: the run counts as alive as long as any process has one open.
    ///
    /// # Errors
    /// No descriptor can be had.
    pub fn descriptor(&self) -> Result<std::os::fd::OwnedFd> {
        let copy = self.state().file.try_clone();
        Ok(copy
            .map_err(|error| sys::Error::path("open once more", &self.path, error))?
            .into())
    }

    /// What was written down and not undone yet, in the order of making.
    pub fn left(&self) -> Vec<Made> {
        self.state().left.clone()
    }

    /// Ends the journal: its file goes when all was undone, else it stays for `cleanup`. A directory that could not be
    /// removed does not keep it: another run may be using it.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn done(&self) -> Result<()> {
        let mut state = self.state();
        state.closed = true;
        let worth_keeping = |made: &Made| !matches!(made, Made::Directory { .. });
        if state.left.iter().any(worth_keeping) {
            return Ok(());
        }
        remove(&self.path)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while the mutex was held leaves at worst a torn last line, which readers tolerate.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, state: &mut State, line: &Line) -> Result<()> {
        if state.closed {
            return Err(Error::Closed {
                path: self.path.clone(),
            });
        }
        let mut bytes = serde_json::to_vec(line).map_err(|error| Error::Unreadable {
            path: self.path.clone(),
            reason: error.to_string(),
        })?;
        bytes.push(b'\n');
        let written = state.file.write_all(&bytes).and_then(|()| state.file.sync_data());
        Ok(written.map_err(|error| sys::Error::path("write", &self.path, error))?)
    }
}

/// Makes the directory of the journals, for us alone, with those above it.
fn make_private(directory: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    if directory.is_dir() {
        return Ok(());
    }
    builder
        .create(directory)
        .map_err(|error| sys::Error::path("make the directory", directory, error))?;
    for made in directory.ancestors().skip(1).take(2) {
        sys::fs::sync_directory(made)?;
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(sys::Error::path("remove the run journal", path, error).into())
        }
        _ => Ok(()),
    }
}

/// What the journals of this host say.
#[derive(Debug, Default)]
pub struct PastRuns {
    /// Readable journals, oldest first.
    pub runs: Vec<Past>,
    /// Files that are not journals of ours, or damaged: reported, never acted on.
    pub findings: Vec<Finding>,
}

/// One past, or present, run. While a dead run's `Past` is held, its journal is locked: nobody else acts on it.
#[derive(Debug)]
pub struct Past {
    /// The run.
    pub run: Id,
    /// It still runs (or somebody else cleans up after it): its journal is locked.
    pub alive: bool,
    /// What it made and did not undo, in the order of making.
    pub left: Vec<Made>,
    /// The journal's file.
    pub file: PathBuf,
    _lock: File,
}

impl Past {
    /// Removes the journal: everything in it is undone.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn forget(self) -> Result<()> {
        remove(&self.file)
    }
}

/// Reads the journals of all runs below `state_dir`.
///
/// # Errors
/// The directory cannot be read.
pub fn list(state_dir: &Path) -> Result<PastRuns> {
    let directory = state_dir.join(RUNS);
    let unreadable = |error| sys::Error::path("read", &directory, error);
    let entries = match std::fs::read_dir(&directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(PastRuns::default()),
        entries => entries.map_err(unreadable)?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_none_or(|extension| extension != "tmp") {
            paths.push(path);
        }
    }
    paths.sort_by_key(|path| std::fs::symlink_metadata(path).and_then(|found| found.modified()).ok());
    let mut past = PastRuns::default();
    for path in paths {
        match read(&path) {
            Ok(run) => past.runs.push(run),
            // A run that ended just now took its journal along.
            Err(Error::Sys(error)) if error.is(std::io::ErrorKind::NotFound) => {}
            Err(error) => past.findings.push(
                Finding::warning("foreign-journal", error.to_string())
                    .remedy("nothing was done about it: look at the file, then remove it"),
            ),
        }
    }
    Ok(past)
}

fn read(path: &Path) -> Result<Past> {
    let bad = |reason: &str| Error::Unreadable {
        path: path.to_owned(),
        reason: reason.to_owned(),
    };
    let named = path.extension().is_some_and(|extension| extension == SUFFIX);
    let run: Id = path
        .file_stem()
        .and_then(|stem| stem.to_str())
        .filter(|_| named)
        .and_then(|stem| stem.parse().ok())
        .ok_or_else(|| bad("it does not carry the name of a run"))?;
    let file = open_own(path)?.ok_or_else(|| bad("it is not a file of ours that nobody else can write"))?;
    let alive = file.try_lock().is_err();
    let bytes = sys::fs::read_all(&file, path, LARGEST)?;
    let left = replay(&bytes, run).map_err(|reason| bad(&reason))?;
    Ok(Past {
        run,
        alive,
        left,
        file: path.to_owned(),
        _lock: file,
    })
}

/// `None` for what a run of this user never makes: a link, a pipe, a stranger's file, one that others may write.
fn open_own(path: &Path) -> Result<Option<File>> {
    let file = match sys::fs::open_plain(path) {
        // Not the kernel's word: it is no plain file.
        Err(error) if error.errno().is_none() => return Ok(None),
        opened => opened?,
    };
    let found = file
        .metadata()
        .map_err(|error| sys::Error::path("look at", path, error))?;
    let ours = found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o022 == 0;
    Ok(ours.then_some(file))
}

/// What is left after all lines. A torn last line is what a crash leaves; the thing that it named was not made yet.
fn replay(bytes: &[u8], run: Id) -> std::result::Result<Vec<Made>, String> {
    let whole = &bytes[..bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)];
    let mut left: Vec<Made> = Vec::new();
    for (number, line) in whole.split_inclusive(|byte| *byte == b'\n').enumerate() {
        match serde_json::from_slice(line).map_err(|error| format!("line {}: {error}", number + 1))? {
            Line::Begun { run: begun } if begun == run => {}
            Line::Begun { run: begun } => return Err(format!("it belongs to run {begun}")),
            Line::Making {
                thing: Made::Snapshot(snapshot),
            } if snapshot.run != run => {
                return Err(format!(
                    "line {}: the snapshot belongs to run {}",
                    number + 1,
                    snapshot.run
                ));
            }
            Line::Making { thing } => left.push(thing),
            Line::Undone { thing } => left.retain(|one| !one.same_thing(&thing)),
        }
    }
    Ok(left)
}

#[cfg(test)]
mod tests;
