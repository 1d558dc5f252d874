//! What this run made on the host, written down before it is made, so that `cleanup` can undo it after any death.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::units::Id;
use crate::volume::Snapshot;

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

/// An open journal: one file per run, locked while the run lives.
#[derive(Debug)]
pub struct Journal {
    run: Id,
}

impl Journal {
    /// The run that this journal belongs to.
    pub fn run(&self) -> Id {
        self.run
    }
}
