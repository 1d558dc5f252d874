//! Copying: out of a snapshot into a repository, in parallel ranges.
//!
//! One thread walks the trees in table order and cuts them into jobs; workers read, hash, compress and pack; the caller's thread
//! puts the results back into order and writes the file table. All channels are bounded, so memory does not grow with the data.

mod collect;
mod engine;
mod estimate;
pub(crate) use estimate::measure;
mod leave_out;
mod live;
pub(crate) mod notes;
mod parent;
mod place;
mod section;
mod size;
pub(crate) mod stop;
mod throttle;
mod unreadable;
mod walk;
mod worker;

pub(crate) use leave_out::PARTIAL;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::error::Kind;
use crate::record::{CopyFigures, LeftOut};

/// A tree to copy.
#[derive(Debug, Clone)]
pub struct Tree {
    /// Its original absolute path; names it in errors and the record.
    pub original: PathBuf,
    /// Where to read it: in a snapshot, or the original path when live.
    pub read_from: PathBuf,
    /// Read from the live filesystem: files may change or vanish while they are copied.
    pub live: bool,
    /// Whether the rules for a server's datadir apply (sockets, pid files, temporary spaces are left out).
    pub datadir: bool,
    /// Whether it is the server's: what cannot be copied of it ends the copy, unless no server could reach it. Of other trees it is left out with a warning.
    pub database: bool,
    /// Original absolute paths of subtrees not to copy from here (left out, or copied as a tree of their own), with the reason;
    /// an empty reason means that it is not worth listing.
    pub skip: Vec<(PathBuf, String)>,
}

/// How to copy.
#[derive(Debug, Clone)]
pub struct CopyOptions {
    /// Worker threads.
    pub workers: usize,
    /// Bytes read per second at most, over all workers.
    pub bandwidth: Option<u64>,
    /// Idle I/O priority for the workers (ioprio_set(2)).
    pub idle_priority: bool,
    /// Chunk class of ordinary files; logs that are only appended to use 1 MiB.
    pub class: crate::repository::ChunkClass,
    /// How often a file that changes while it is copied live is tried.
    pub live_attempts: u32,
    /// Whoever learns that the snapshot strains (its copy-on-write space fills) sets this: the bandwidth limit is lifted.
    pub hurry: Arc<AtomicBool>,
}

impl Default for CopyOptions {
    fn default() -> CopyOptions {
        CopyOptions {
            // Twice as many as processors: while one waits for the disk, another compresses.
            workers: (2 * crate::sys::host::processors()).min(16),
            bandwidth: None,
            idle_priority: true,
            class: crate::repository::ChunkClass::default(),
            live_attempts: 3,
            hurry: Arc::default(),
        }
    }
}

/// What a copy did.
#[derive(Debug, Clone, Default)]
pub struct CopyReport {
    /// Totals (`bytes_new` and `bytes_stored` as far as the workers know).
    pub figures: CopyFigures,
    /// What was left out on purpose.
    pub left_out: Vec<LeftOut>,
    /// Files that changed while they were copied live, vanished, or whatever a person must read.
    pub findings: Vec<crate::finding::Finding>,
}

/// A file could not be copied or restored.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading a file of a snapshot failed or gave less than its size: that is damage, not a race (trap 32).
    #[error("{} at offset {offset}: {reason}", path.display())]
    Read {
        /// The file's original path.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What happened.
        reason: String,
    },
    /// Writing a restored file failed.
    #[error("cannot restore {}: {reason}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What happened.
        reason: String,
    },
    /// The snapshot was lost while it was read.
    #[error("the snapshot was lost while it was read: {0}")]
    SnapshotLost(String),
    /// A restore was refused; nothing was written.
    #[error("{0}")]
    Refused(String),
    /// The repository.
    #[error(transparent)]
    Repository(#[from] crate::repository::Error),
    /// Files and the kernel.
    #[error(transparent)]
    Sys(#[from] crate::sys::Error),
    /// Asked to end.
    #[error("ended by signal {0}")]
    Interrupted(i32),
}

impl Error {
    /// What it means to the caller.
    pub fn kind(&self) -> Kind {
        match self {
            Error::Repository(error) => error.kind(),
            Error::Interrupted(signal) => Kind::Interrupted(*signal),
            _ => Kind::Failed,
        }
    }
}

/// A copy result.
pub type Result<T> = std::result::Result<T, Error>;

/// Copies the trees into the writer's backup, ranges in parallel. `health` is asked every two seconds and at the end; what it says
/// aborts the copy. The trees' order is the order of the record's `roots`.
///
/// # Errors
/// Any read error of a database on a snapshot, a lost snapshot, a full repository, a wish to end: nothing is committed.
pub fn copy(
    trees: &[Tree],
    writer: &crate::repository::Writer,
    options: &CopyOptions,
    health: &(dyn Fn() -> Result<()> + Sync),
    monitor: &dyn crate::monitor::Monitor,
    cancel: &crate::sys::signal::Cancel,
) -> Result<CopyReport> {
    engine::run(trees, writer, options, health, monitor, cancel)
}
