//! What the manifest keeps about a run: figures, facts and promises, under the manifest's `record` key.
//!
//! The repository carries it without looking inside; `show`, `list`, `restore` and machines read it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::database::{Consistency, LockFigures, Position, ReplicaChannel, ServerFacts, WrittenPath};
use crate::finding::Finding;
use crate::timeline::Phase;
use crate::volume::ProviderKind;

/// The record of one backup run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The tool's version.
    pub tool: String,
    /// The promise that was kept.
    pub consistency: Consistency,
    /// Whether the position is exact: every transaction up to it is in the data and none after it.
    pub exact: bool,
    /// Whose data this is (since 0.2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<crate::job::Job>,
    /// One more than what the job's backups had before: tells what follows what, whatever the clocks said (since 0.2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// The server, when a database was backed up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerFacts>,
    /// Every path that the server writes, copied or not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<WrittenPath>,
    /// Lock timings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<LockFigures>,
    /// The binary log position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// What the position's binary log is known by: the trace of its events up to the position, where it was in the snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_trace: Option<String>,
    /// Executed source positions on a replica.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replica: Vec<ReplicaChannel>,
    /// Prepared XA transactions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prepared_xa: Vec<String>,
    /// Level `clean`: how the copy was recovered, checked and shut down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<CleanRecord>,
    /// Checksums of tables, where they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksums: Option<ChecksumRecord>,
    /// Snapshots taken.
    pub volumes: Vec<VolumeRecord>,
    /// Trees in the backup.
    pub roots: Vec<RootRecord>,
    /// All phases.
    pub phases: Vec<Phase>,
    /// What the copy did.
    pub copy: CopyFigures,
    /// What was left out on purpose.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
    /// What a person must read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Finding>,
}

/// How a private server made a clone of the snapshot clean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CleanRecord {
    /// The server program.
    pub program: PathBuf,
    /// Its version, as it says it.
    pub version: String,
    /// What it said while it recovered.
    pub recovery: crate::database::mysql::scratch::Recovery,
    /// Tables that were checked.
    pub tables: u64,
    /// Those about which there is something to say, in the server's words; none is damaged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
    /// Start and recovery, in seconds.
    pub boot_seconds: f64,
    /// Checks, in seconds.
    pub check_seconds: f64,
    /// The slow shutdown, in seconds.
    pub shutdown_seconds: f64,
}

/// Checksums of tables (`CHECKSUM TABLE ... EXTENDED`), as a private server read them off the snapshot that the backup is of.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ChecksumRecord {
    /// The server program.
    pub program: PathBuf,
    /// Its version, as it says it.
    pub version: String,
    /// By schema and table.
    pub tables: BTreeMap<String, BTreeMap<String, u64>>,
    /// `SCHEMA.TABLE`: why there is no checksum of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unread: BTreeMap<String, String>,
    /// Reading them, in seconds.
    pub seconds: f64,
}

impl ChecksumRecord {
    /// How many tables have one.
    pub fn count(&self) -> usize {
        self.tables.values().map(BTreeMap::len).sum()
    }
}

/// A snapshot that was taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// Its provider.
    pub provider: ProviderKind,
    /// The volume in a person's words.
    pub source: String,
    /// The volume's stable id.
    pub id: String,
    /// The snapshot's name.
    pub snapshot: String,
    /// The decisive call, in microseconds.
    pub create_us: u64,
    /// Whether it was taken under the lock with the database, or on its own afterwards (nested subvolumes with web files).
    pub with_database: bool,
}

/// Where a tree was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RootSource {
    /// From the snapshot taken with the database.
    Snapshot,
    /// From a snapshot of its own.
    OwnSnapshot,
    /// From the live filesystem.
    Live,
}

/// What a tree is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RootRole {
    /// The server's datadir.
    Datadir,
    /// Another path of the database.
    Database,
    /// Files beside the database.
    Files,
}

/// A directory above a tree: who passes through it is who reaches the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Above {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Above {
    /// One of which nothing is known: root alone passes.
    pub const CLOSED: Above = Above {
        mode: 0o700,
        uid: 0,
        gid: 0,
    };
}

/// Of a record its trees alone.
#[derive(Debug, Deserialize)]
pub struct Roots {
    /// The trees.
    pub roots: Vec<RootRecord>,
}

/// One tree of the backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootRecord {
    /// Its original absolute path.
    pub path: PathBuf,
    /// What it is for.
    pub role: RootRole,
    /// Where it was read from.
    pub source: RootSource,
    /// The directories above it, `/` first, as they were when the snapshot was planned; records of older versions have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub above: Vec<Above>,
}

impl RootRecord {
    /// The directory above it at this path; closed where nothing is known.
    pub fn above(&self, path: &std::path::Path) -> Above {
        let number = path.components().count().saturating_sub(1);
        self.above.get(number).copied().unwrap_or(Above::CLOSED)
    }
}

/// What the copy did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CopyFigures {
    /// Files, directories, links.
    pub files: u64,
    /// Logical bytes of all regular files.
    pub bytes_total: u64,
    /// Bytes read (holes are not read).
    pub bytes_read: u64,
    /// Bytes of chunks that the parent did not have at the same offset, before compression.
    pub bytes_new: u64,
    /// Bytes that were added to the repository, packs' footers included.
    pub bytes_stored: u64,
    /// Wall time of the copy in seconds.
    pub seconds: f64,
}

/// Something left out on purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Its path.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}
