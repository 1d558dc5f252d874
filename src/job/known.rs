//! What the state directory knows: this installation's id, and the job of each server that it backed up.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Job;
use crate::config::Server;
use crate::sys;
use crate::sys::fs::{create_durably, make_directory, read_plain, replace_durably};
use crate::units::Id;
use crate::{Error, Result};

const FILE: &str = "jobs.json";
/// Thousands of jobs.
const LIMIT: u64 = 8 << 20;

/// The id of a state directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Installation {
    /// Random.
    pub id: Id,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Known {
    installation: Id,
    /// Inode and instant of making of the state directory: a copy of it (to another machine) is another installation.
    #[serde(default)]
    place: Option<String>,
    /// By the server's address.
    #[serde(default)]
    jobs: BTreeMap<String, Job>,
    /// Trees that were backed up from here: where a restore in place may put something.
    #[serde(default)]
    roots: BTreeSet<PathBuf>,
}

impl Installation {
    /// The id in this state directory; made at the first time.
    ///
    /// # Errors
    /// The directory or the file cannot be made or read.
    pub fn of(state_dir: &Path) -> Result<Installation> {
        if let Some(known) = read(state_dir)? {
            return Ok(Installation { id: known.installation });
        }
        if !state_dir.is_dir() {
            make_directory(state_dir, 0o700)?;
        }
        let known = Known {
            installation: Id::random(),
            place: sys::identity::birth(state_dir),
            jobs: BTreeMap::new(),
            roots: BTreeSet::new(),
        };
        // Two runs may be the first at once: the one that comes second takes the other's.
        let copied = file(state_dir).exists();
        match write_first(state_dir, &known, copied) {
            Err(_) if !copied && file(state_dir).exists() => Installation::of(state_dir),
            written => written.map(|()| Installation { id: known.installation }),
        }
    }

    /// The same without making one: for commands that only look.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn look(state_dir: &Path) -> Result<Option<Installation>> {
        Ok(read(state_dir)?.map(|known| Installation { id: known.installation }))
    }
}

/// How a server is known in the state directory: as the configuration reaches it.
pub fn address(server: &Server) -> String {
    match crate::database::mysql::address(server) {
        Ok(address) => address,
        Err(_) => "unknown".to_owned(),
    }
}

/// Keeps the job of the server at this address.
///
/// # Errors
/// The file cannot be read or written.
pub fn remember(state_dir: &Path, address: &str, job: &Job) -> Result<()> {
    let Some(mut known) = read(state_dir)? else {
        return Ok(());
    };
    if known.jobs.get(address) != Some(job) {
        known.jobs.insert(address.to_owned(), job.clone());
        write(state_dir, &known)?;
    }
    Ok(())
}

/// The job of the server at this address when it was last backed up.
///
/// # Errors
/// The file cannot be read.
pub fn remembered(state_dir: &Path, address: &str) -> Result<Option<Job>> {
    Ok(read(state_dir)?.and_then(|mut known| known.jobs.remove(address)))
}

/// Keeps the trees that were backed up.
///
/// # Errors
/// The file cannot be read or written.
pub fn remember_roots<'p>(state_dir: &Path, roots: impl Iterator<Item = &'p PathBuf>) -> Result<()> {
    let Some(mut known) = read(state_dir)? else {
        return Ok(());
    };
    let before = known.roots.len();
    known.roots.extend(roots.cloned());
    if known.roots.len() == before {
        return Ok(());
    }
    write(state_dir, &known)
}

/// The trees that were ever backed up with this state directory.
///
/// # Errors
/// The file cannot be read.
pub fn remembered_roots(state_dir: &Path) -> Result<BTreeSet<PathBuf>> {
    Ok(read(state_dir)?.map(|known| known.roots).unwrap_or_default())
}

fn file(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

/// `None`: there is none, or it is a copy of another state directory's.
fn read(state_dir: &Path) -> Result<Option<Known>> {
    let path = file(state_dir);
    if !path.exists() {
        return Ok(None);
    }
    let bytes = read_plain(&path, LIMIT)?;
    let known: Known = serde_json::from_slice(&bytes).map_err(|error| {
        let path = path.display();
        Error::failed(format!(
            "{path} cannot be read: {error}; remove it, and the next backup makes it anew"
        ))
    })?;
    let place = sys::identity::birth(state_dir);
    let is_copy = known.place.is_some() && place.is_some() && known.place != place;
    Ok((!is_copy).then_some(known))
}

fn write_first(state_dir: &Path, known: &Known, over: bool) -> Result<()> {
    if over {
        return write(state_dir, known);
    }
    Ok(create_durably(&file(state_dir), &encoded(known)?, 0o600)?)
}

fn write(state_dir: &Path, known: &Known) -> Result<()> {
    Ok(replace_durably(&file(state_dir), &encoded(known)?, 0o600)?)
}

fn encoded(known: &Known) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(known).map_err(|error| Error::failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_keeps_its_id_and_a_copy_of_it_gets_another() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        assert_eq!(Installation::look(&one).unwrap(), None);
        let first = Installation::of(&one).unwrap();
        assert_eq!(Installation::of(&one).unwrap(), first);
        remember(&one, "socket /x", &Job::unknown("h")).unwrap();
        assert_eq!(remembered(&one, "socket /x").unwrap(), Some(Job::unknown("h")));
        assert_eq!(remembered(&one, "socket /y").unwrap(), None);
        std::fs::create_dir(&two).unwrap();
        std::fs::copy(one.join(FILE), two.join(FILE)).unwrap();
        assert_ne!(Installation::of(&two).unwrap(), first);
        assert_eq!(remembered(&two, "socket /x").unwrap(), None);
    }
}
