//! Where records of held sets are: `<state_dir>/held/<id>.json`, one file each, written and removed durably.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{FORMAT, Held};
use crate::finding::Finding;
use crate::job::{Job, Kind, Likeness};
use crate::sys;
use crate::units::Id;
use crate::{Error, Result};

const DIRECTORY: &str = "held";
const SUFFIX: &str = "json";

/// The largest record that is read, in bytes; one has some kilobytes.
const LARGEST: u64 = 16 << 20;

/// The records of this host.
#[derive(Debug, Default)]
pub struct Kept {
    /// Those that can be read, oldest first.
    pub sets: Vec<Held>,
    /// Every set that a record is named after, readable or not: its snapshots are nobody's to remove.
    pub named: Vec<Id>,
    /// Files that are no records of ours, or damaged: reported, never acted on.
    pub findings: Vec<Finding>,
}

impl Kept {
    /// The set of this run.
    pub fn of(&self, run: Id) -> Option<&Held> {
        self.sets.iter().find(|held| held.id == run)
    }
}

/// Writes a new set's record. When this returns the set is kept.
///
/// # Errors
/// There is no record then.
pub fn write(state_dir: &Path, held: &Held) -> Result<()> {
    let directory = state_dir.join(DIRECTORY);
    sys::fs::make_directory_durably(&directory, 0o700)?;
    Ok(sys::fs::create_durably(
        &path_of(state_dir, held.id),
        &bytes(held)?,
        0o600,
    )?)
}

/// Writes a set's record over its older one.
///
/// # Errors
/// The older one is still there.
pub fn replace(state_dir: &Path, held: &Held) -> Result<()> {
    Ok(sys::fs::replace_durably(
        &path_of(state_dir, held.id),
        &bytes(held)?,
        0o600,
    )?)
}

/// Removes a set's record, durably; its snapshots are gone already. `Ok(false)` when there is none.
///
/// # Errors
/// It may still be there.
pub fn remove(state_dir: &Path, id: Id) -> Result<bool> {
    match sys::fs::remove_file(&path_of(state_dir, id)) {
        Err(error) if error.is(std::io::ErrorKind::NotFound) => return Ok(false),
        removed => removed?,
    }
    sys::fs::sync_directory(&state_dir.join(DIRECTORY))?;
    Ok(true)
}

/// Reads all records.
///
/// # Errors
/// The directory cannot be read.
pub fn list(state_dir: &Path) -> Result<Kept> {
    let directory = state_dir.join(DIRECTORY);
    let unreadable = |error| sys::Error::path("read", &directory, error);
    let entries = match std::fs::read_dir(&directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Kept::default()),
        entries => entries.map_err(unreadable)?,
    };
    let mut kept = Kept::default();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "tmp") {
            continue;
        }
        let named = id_of(&path);
        kept.named.extend(named);
        match named
            .ok_or_else(|| bad(&path, "it does not carry the name of a set"))
            .and_then(|id| read(&path, id))
        {
            Ok(held) => kept.sets.push(held),
            // Removed just now.
            Err(Error::Sys(error)) if error.is(std::io::ErrorKind::NotFound) => {}
            Err(error) => kept.findings.push(
                Finding::warning("foreign-record", error.to_string())
                    .remedy("nothing was done about it, nor about its snapshots: look at the file"),
            ),
        }
    }
    kept.sets.sort_by_key(|held| (held.time, held.id));
    Ok(kept)
}

/// The sets, newest first.
///
/// # Errors
/// As [`list`].
pub fn latest_first(state_dir: &Path) -> Result<Vec<Held>> {
    let mut sets = list(state_dir)?.sets;
    sets.reverse();
    Ok(sets)
}

/// The set that `name` means: `latest`, an id or a unique prefix of one, or a label that one set alone has.
///
/// # Errors
/// None or several are meant.
pub fn choose(state_dir: &Path, name: &str) -> Result<Held> {
    let kept = list(state_dir)?;
    if name == "latest" {
        return newest_of_one(kept.sets);
    }
    let digits = !name.is_empty() && name.chars().all(|digit| digit.is_ascii_hexdigit());
    let by_id = |held: &&Held| digits && held.id.to_string().starts_with(&name.to_ascii_lowercase());
    let by_label = |held: &&Held| held.label.as_deref() == Some(name);
    let mut found: Vec<&Held> = kept.sets.iter().filter(by_label).collect();
    if found.is_empty() {
        found = kept.sets.iter().filter(by_id).collect();
    }
    match found.as_slice() {
        [one] => Ok((*one).clone()),
        [] => Err(Error::usage(format!(
            "there is no held set `{name}`: `snapback snapshot list` shows them"
        ))),
        several => {
            let ids: Vec<String> = several.iter().map(|held| held.id.short()).collect();
            Err(Error::usage(format!(
                "`{name}` means several held sets: {}",
                ids.join(", ")
            )))
        }
    }
}

/// The newest set, where all are of one job: two servers may share a state directory, and neither is given the other's.
fn newest_of_one(sets: Vec<Held>) -> Result<Held> {
    let mut there: Vec<Held> = sets.into_iter().filter(|held| !held.deleting).collect();
    let newest = there
        .pop()
        .ok_or_else(|| Error::usage("there is no held set: `snapback snapshot create` makes one"))?;
    let job = |held: &Held| Job::of_record("", &held.record);
    let own = job(&newest);
    let is_others = |one: &&Held| {
        let other = job(one);
        [own.kind, other.kind] == [Kind::Database; 2] && other.compare(&own) == Likeness::Other
    };
    match there.iter().rev().find(is_others) {
        None => Ok(newest),
        Some(other) => Err(Error::usage(format!(
            "`latest` is not clear: held set {} is of {} (job {}), and {} of {} (job {}): give an id or a label",
            newest.id.short(),
            own.about(),
            own.short(),
            other.id.short(),
            job(other).about(),
            job(other).short()
        ))),
    }
}

/// A set in use; others see it as long as this lives, and the kernel ends it with the process.
#[derive(Debug)]
pub struct Use {
    /// The set as it is now.
    pub held: Held,
    _lock: File,
}

/// Takes a set for reading it (several may), or `alone`, for removing or exchanging it.
///
/// # Errors
/// It is gone, or somebody uses it.
pub fn take_for(state_dir: &Path, id: Id, alone: bool) -> Result<Use> {
    let path = path_of(state_dir, id);
    loop {
        let file = open(&path)?;
        let locked = if alone { file.try_lock() } else { file.try_lock_shared() };
        if locked.is_err() {
            return Err(Error::failed(format!(
                "held set {} is in use by another snapback: wait for its end",
                id.short()
            )));
        }
        // Replaced since it was opened: the lock is on a file that nobody sees.
        let inode = |meta: std::io::Result<std::fs::Metadata>| meta.map(|meta| meta.ino()).ok();
        if inode(file.metadata()) == inode(std::fs::metadata(&path)) {
            let held = parse(&file, &path, id)?;
            return Ok(Use { held, _lock: file });
        }
    }
}

fn path_of(state_dir: &Path, id: Id) -> PathBuf {
    state_dir.join(DIRECTORY).join(format!("{id}.{SUFFIX}"))
}

fn id_of(path: &Path) -> Option<Id> {
    let named = path.extension().is_some_and(|extension| extension == SUFFIX);
    path.file_stem()?.to_str().filter(|_| named)?.parse().ok()
}

fn bytes(held: &Held) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(held).map_err(|error| Error::failed(format!("cannot write the record of a set: {error}")))
}

fn read(path: &Path, id: Id) -> Result<Held> {
    parse(&open(path)?, path, id)
}

/// What a run of this user never makes is refused: a link, a pipe, a stranger's file, one that others may write.
fn open(path: &Path) -> Result<File> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .map_err(|error| sys::Error::path("open the record of a held set", path, error))?;
    let found = file
        .metadata()
        .map_err(|error| sys::Error::path("look at", path, error))?;
    let ours = found.is_file() && found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o022 == 0;
    match ours {
        true => Ok(file),
        false => Err(bad(path, "it is not a file of ours that nobody else can write")),
    }
}

fn parse(file: &File, path: &Path, id: Id) -> Result<Held> {
    let mut bytes = Vec::new();
    file.take(LARGEST)
        .read_to_end(&mut bytes)
        .map_err(|error| sys::Error::path("read", path, error))?;
    let held: Held = serde_json::from_slice(&bytes).map_err(|error| bad(path, &error.to_string()))?;
    if held.format > FORMAT {
        return Err(bad(path, "a newer version of snapback wrote it"));
    }
    let strange = |snapshot: &crate::volume::Snapshot| snapshot.run != id;
    let outside = |volume: usize| volume >= held.volumes.len();
    if held.id != id || held.snapshots().any(strange) {
        return Err(bad(path, "it belongs to another set"));
    }
    if held.placed.iter().any(|placed| outside(placed.volume)) || held.trees.iter().any(|tree| outside(tree.volume)) {
        return Err(bad(path, "it names a volume that it does not have"));
    }
    Ok(held)
}

fn bad(path: &Path, reason: &str) -> Error {
    Error::failed(format!("the record {} cannot be read: {reason}", path.display()))
}

#[cfg(test)]
mod tests;
