//! What lives where on this host: the mount table, and which path lies on which volume.

mod layout;
mod mountinfo;
pub mod swaps;

use std::path::PathBuf;

pub use layout::{Layout, Placed, PlacedFile, lay_out};
pub use mountinfo::{Mount, Mounts};

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
    #[error("{} is on {fs_type} ({source_name}), which snapback cannot snapshot", path.display())]
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
