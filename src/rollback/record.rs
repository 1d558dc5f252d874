//! The record of a rollback, `<state_dir>/rollback/<id>.json`: durable before the step that it names is made, gone when all is done.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::held::Held;
use crate::sys;
use crate::units::Id;
use crate::volume::rollback::Swap;
use crate::{Error, Result};

const DIRECTORY: &str = "rollback";
const FORMAT: u32 = 1;
/// The largest record that is read, in bytes.
const LARGEST: u64 = 16 << 20;

/// What is being done, or is about to be. The order is that of a rollback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Copies are made; the server may be stopped and its volumes unmounted. Undone after a death.
    Preparing,
    /// It failed, or was asked to end: the names go back.
    Undoing,
    /// Names are exchanged. Finished after a death.
    Exchanging,
    /// Every volume is the new one; what is left is order.
    Settling,
}

/// The record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub format: u32,
    /// The rollback's run, and the id of the set that keeps the present state.
    pub id: Id,
    pub phase: Phase,
    /// It stopped the server: whoever ends it starts it.
    pub server_stopped: bool,
    /// The set that comes back.
    pub set: Held,
    /// The datadir's first.
    pub swaps: Vec<Swap>,
    /// Where the binary log ended when the server had stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<crate::database::Position>,
}

impl Record {
    pub fn new(id: Id, set: &Held, swaps: Vec<Swap>) -> Record {
        Record {
            format: FORMAT,
            id,
            phase: Phase::Preparing,
            server_stopped: false,
            set: set.clone(),
            swaps,
            position: None,
        }
    }

    /// Writes it over the one before.
    ///
    /// # Errors
    /// Nobody knows which one is there: the step must not be made.
    pub fn write(&self, state_dir: &Path) -> Result<()> {
        let directory = state_dir.join(DIRECTORY);
        sys::fs::make_directory_durably(&directory, 0o700)?;
        let bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::failed(format!("cannot write the record of a rollback: {error}")))?;
        crate::failpoint!("rollback.record", || Error::failed(
            "cannot write the record of a rollback: failpoint"
        ));
        Ok(sys::fs::replace_durably(&path_of(state_dir, self.id), &bytes, 0o600)?)
    }

    /// The rollback is over.
    ///
    /// # Errors
    /// It may still be there.
    pub fn remove(&self, state_dir: &Path) -> Result<()> {
        match sys::fs::remove_file(&path_of(state_dir, self.id)) {
            Err(error) if !error.is(std::io::ErrorKind::NotFound) => return Err(error.into()),
            _ => {}
        }
        Ok(sys::fs::sync_directory(&state_dir.join(DIRECTORY))?)
    }

    /// Reads one.
    ///
    /// # Errors
    /// It is not there, not ours, or damaged.
    pub fn read(state_dir: &Path, id: Id) -> Result<Record> {
        let path = path_of(state_dir, id);
        let wrong = |reason: String| {
            Error::failed(format!(
                "the record of a rollback, {}, cannot be used: {reason}",
                path.display()
            ))
        };
        let file = sys::fs::open_plain(&path).map_err(|error| wrong(error.to_string()))?;
        let found = file.metadata().map_err(|error| wrong(error.to_string()))?;
        if found.uid() != sys::host::user_id() || found.mode() & 0o022 != 0 {
            return Err(wrong("others could have written it".to_owned()));
        }
        let bytes = sys::fs::read_all(&file, &path, LARGEST).map_err(|error| wrong(error.to_string()))?;
        let record: Record = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
        match record.format {
            FORMAT if record.id == id => Ok(record),
            FORMAT => Err(wrong(format!("it belongs to rollback {}", record.id))),
            other => Err(wrong(format!("its form {other} is of another version of snapback"))),
        }
    }
}

/// The rollbacks that have a record.
///
/// # Errors
/// The directory cannot be read.
pub fn list(state_dir: &Path) -> Result<Vec<Id>> {
    let directory = state_dir.join(DIRECTORY);
    let entries = match std::fs::read_dir(&directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| sys::Error::path("read", &directory, error))?,
    };
    let id = |path: PathBuf| {
        let named = path.extension().is_some_and(|extension| extension == "json");
        path.file_stem()?.to_str().filter(|_| named)?.parse().ok()
    };
    Ok(entries.flatten().filter_map(|entry| id(entry.path())).collect())
}

fn path_of(state_dir: &Path, id: Id) -> PathBuf {
    state_dir.join(DIRECTORY).join(format!("{id}.json"))
}
