//! The manifest: its presence is the commit of a backup.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::units::Id;

/// Sizes, kept by the repository itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SizeFigures {
    /// Entries of the file table.
    pub entries: u64,
    /// Logical bytes of all regular files.
    pub bytes: u64,
    /// Bytes added to the store by this backup.
    pub stored: u64,
}

/// What the caller knows about a backup when it commits it.
#[derive(Debug, Clone)]
pub struct Draft {
    /// When the snapshot was taken (wall time, UTC).
    pub time: jiff::Timestamp,
    /// The host's name.
    pub host: String,
    /// The user's tags.
    pub tags: BTreeMap<String, String>,
    /// The run's record ([`crate::record::Record`] as JSON); the repository does not look inside.
    pub record: serde_json::Value,
}

/// A committed backup's manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Format version: 1.
    pub format: u32,
    /// Features a reader must know.
    pub features: Vec<String>,
    /// The backup (the run's id).
    pub id: Id,
    /// The repository that it belongs to.
    pub repository: Id,
    /// When the snapshot was taken.
    pub time: jiff::Timestamp,
    /// The host's name.
    pub host: String,
    /// Tags.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// A hint only: every backup restores by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Id>,
    /// Sizes.
    pub sizes: SizeFigures,
    /// The run's record.
    pub record: serde_json::Value,
}
