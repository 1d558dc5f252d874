//! The manifest: its presence is the commit of a backup.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::pack::Finished;
use super::stored_record::StoredRecord;
use super::table::BlockRef;
use crate::units::Id;

/// Tags that a backup may have; whoever reads a manifest keeps them all in memory.
pub(super) const MOST_TAGS: usize = 1024;

/// The format version that this program writes.
pub(super) const FORMAT: u32 = 1;
/// Features that this program knows. An unknown one forbids reading.
pub(super) const FEATURES: [&str; 1] = ["zstd"];

/// A 32-byte hash as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest(pub [u8; 32]);

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = String::deserialize(deserializer)?;
        let hash = blake3::Hash::from_hex(text).map_err(serde::de::Error::custom)?;
        Ok(Digest(hash.into()))
    }
}

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

/// The pack that holds the index of the file table and the table of packs, and which of its slots they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// The meta pack.
    pub pack: Id,
    /// Its object's length in bytes.
    pub size: u64,
    /// Its footer's digest.
    pub digest: Digest,
    /// The slot of the file table's index.
    pub table_slot: u32,
    /// The hash of that slot.
    pub table_hash: Digest,
    /// The slot of the table of packs.
    pub packs_slot: u32,
    /// The hash of that slot.
    pub packs_hash: Digest,
}

impl Root {
    pub(super) fn finished(&self) -> Finished {
        Finished {
            id: self.pack,
            size: self.size,
            digest: self.digest.0,
        }
    }

    pub(super) fn table(&self) -> BlockRef {
        BlockRef {
            pack: self.pack,
            slot: self.table_slot,
            hash: self.table_hash.0,
        }
    }

    pub(super) fn packs(&self) -> BlockRef {
        BlockRef {
            pack: self.pack,
            slot: self.packs_slot,
            hash: self.packs_hash.0,
        }
    }
}

/// What the caller knows about a backup when it commits it.
#[derive(Debug, Clone)]
pub struct Draft {
    /// When the snapshot was taken (wall time, UTC).
    pub time: jiff::Timestamp,
    /// The host's name: letters, digits, `.`, `_`, `-`.
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
    /// Where the file table begins.
    pub root: Root,
    /// The run's record.
    pub record: StoredRecord,
}
