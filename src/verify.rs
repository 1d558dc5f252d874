//! Checking what is stored: structure, or every byte.

mod binlogs;

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use crate::Result;
use crate::monitor::Monitor;
use crate::record::Record;
use crate::repository::{Repository, StoredRecord, verify as stored};
use crate::sys::signal::Cancel;
use crate::units::Id;

pub use stored::Level;

/// Which backups to check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// `latest`, an id or a prefix of one.
    One(String),
    /// All of them, and packs that none of them needs.
    All,
}

/// What a check found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// How thorough it was.
    pub level: Level,
    /// Whether nothing is damaged.
    pub good: bool,
    /// Backups, entries of their file tables, packs that were looked at.
    pub backups: u64,
    /// Entries of their file tables.
    pub entries: u64,
    /// Packs.
    pub packs: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Segments of archived binary logs, of all hosts; 0 when one backup was asked for.
    pub binlog_segments: u64,
    /// Bytes of them that were read.
    pub binlog_bytes: u64,
    /// Wall time.
    pub seconds: f64,
    /// Packs that no backup needs.
    pub unreferenced_packs: u64,
    /// What is damaged.
    pub damage: Vec<Damage>,
    /// Backups that were noted as damaged because something could not be read, and all could now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub taken_back: Vec<Id>,
}

/// A damaged object of the repository.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Damage {
    /// Its key.
    pub object: String,
    /// What does not fit.
    pub reason: String,
    /// The backups that miss something for it.
    pub backups: Vec<Id>,
    /// Those of them of which nothing at all can be restored.
    pub unreadable: Vec<Id>,
    /// Original paths of files that cannot be restored whole, with their backup.
    pub files: Vec<DamagedFile>,
    /// Further files that are not named.
    pub more_files: u64,
    /// Lost parts of file tables.
    pub tables: Vec<LostTable>,
}

/// A part of a backup's file table that is lost: nobody knows what was in it.
#[derive(Debug, Clone, Serialize)]
pub struct LostTable {
    /// Which backup.
    pub backup: Id,
    /// Original path of the last entry before it; `None` at the table's beginning.
    pub after: Option<PathBuf>,
    /// Original path of the first entry behind it; `None` at the table's end.
    pub before: Option<PathBuf>,
}

/// A file that cannot be restored whole.
#[derive(Debug, Clone, Serialize)]
pub struct DamagedFile {
    /// In which backup.
    pub backup: Id,
    /// Its original path.
    pub path: PathBuf,
}

/// Checks backups; with all of them the archived binary logs as well. Damage is in the report, not an error.
///
/// # Errors
/// There is no such backup, the repository cannot be listed, or a signal asked to end.
pub fn verify(
    repository: &Repository,
    which: &Which,
    level: Level,
    workers: usize,
    monitor: &dyn Monitor,
    cancel: &Cancel,
) -> Result<Report> {
    let begun = Instant::now();
    let one = match which {
        Which::One(id) => Some(id.as_str()),
        Which::All => None,
    };
    let found = repository.verify(one, level, workers, monitor, cancel)?;
    let logs = match which {
        Which::One(_) => binlogs::Found::default(),
        Which::All => binlogs::check(repository, level, monitor, cancel)?,
    };
    let roots = if found.damage.is_empty() {
        Vec::new()
    } else {
        roots_of(repository)?
    };
    let named = |damage: stored::Damage| Damage {
        files: damage
            .paths
            .iter()
            .map(|(backup, root, path)| DamagedFile {
                backup: *backup,
                path: original(&roots, *backup, *root, path),
            })
            .collect(),
        tables: damage
            .tables
            .iter()
            .map(|lost| {
                let path = |(root, path): &stored::Place| original(&roots, lost.backup, *root, path);
                LostTable {
                    backup: lost.backup,
                    after: lost.after.as_ref().map(path),
                    before: lost.before.as_ref().map(path),
                }
            })
            .collect(),
        object: damage.object,
        reason: damage.reason,
        backups: damage.backups,
        unreadable: damage.unreadable,
        more_files: damage.more_paths,
    };
    let good = found.damage.is_empty() && logs.damage.is_empty();
    Ok(Report {
        level,
        good,
        backups: found.backups,
        entries: found.entries,
        packs: found.packs,
        bytes: found.bytes,
        binlog_segments: logs.segments,
        binlog_bytes: logs.bytes,
        seconds: begun.elapsed().as_secs_f64(),
        unreferenced_packs: found.unreferenced,
        taken_back: found.taken_back,
        damage: found.damage.into_iter().map(named).chain(logs.damage).collect(),
    })
}

fn roots_of(repository: &Repository) -> Result<Vec<(Id, Vec<PathBuf>)>> {
    let manifests = repository.list()?.into_iter().filter_map(|listed| listed.manifest.ok());
    let roots = |record: StoredRecord| {
        record
            .parse::<Record>()
            .map(|record| record.roots.into_iter().map(|root| root.path).collect())
    };
    Ok(manifests
        .map(|manifest| (manifest.id, roots(manifest.record).unwrap_or_default()))
        .collect())
}

fn original(roots: &[(Id, Vec<PathBuf>)], backup: Id, root: u32, path: &[u8]) -> PathBuf {
    let known = roots
        .iter()
        .find(|(id, _)| *id == backup)
        .and_then(|(_, roots)| roots.get(root as usize));
    let base = known.cloned().unwrap_or_else(|| PathBuf::from(format!("root {root}")));
    let relative = Path::new(std::ffi::OsStr::from_bytes(path));
    if path.is_empty() { base } else { base.join(relative) }
}
