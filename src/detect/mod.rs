//! What lives where on this host: the mount table, and which path lies on which volume.

mod layout;
mod mountinfo;

use std::path::PathBuf;

pub use layout::{Layout, Placed, PlacedFile};

/// The host could not be made sense of.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel's mount table has a line that cannot be parsed.
    #[error("cannot parse the mount table line `{line}`")]
    MountTable {
        /// The line.
        line: String,
    },
    /// No provider knows the storage of this path.
    #[error("{} is on {fs_type} ({source_name}), which snapback cannot snapshot: use Btrfs, LVM or ZFS below it, or move it", path.display())]
    Unsupported {
        /// The path.
        path: PathBuf,
        /// Its filesystem.
        fs_type: String,
        /// The mount's source.
        source_name: String,
    },
    /// Files, programs and the kernel.
    #[error(transparent)]
    Sys(#[from] crate::sys::Error),
    /// A volume could not be examined.
    #[error(transparent)]
    Volume(#[from] crate::volume::Error),
}

/// One line of /proc/self/mountinfo (proc(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Mount id.
    pub id: u32,
    /// Parent mount id.
    pub parent: u32,
    /// Device number of files here (st_dev), major and minor.
    pub device: (u32, u32),
    /// The directory of the filesystem that forms the root of this mount (Btrfs: with the subvolume's path).
    pub root: PathBuf,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Per-mount options.
    pub options: String,
    /// Filesystem type.
    pub fs_type: String,
    /// Source: device or dataset.
    pub source: String,
    /// Per-superblock options.
    pub super_options: String,
}

/// The mount table at one moment.
#[derive(Debug, Clone, Default)]
pub struct Mounts(pub Vec<Mount>);

/// A detection result.
pub type Result<T> = std::result::Result<T, Error>;
