//! The exact position of a copy taken without a lock, read off the copy's own binary log.
//!
//! Recovery keeps a transaction that is prepared in InnoDB exactly when its commit is in the binary log, so the end of the last
//! *complete* event group is the position of the recovered data. A torn tail is what the instant cut off, and stops there.

mod crc32;
mod event;
mod group;
mod gtid;

use std::path::{Path, PathBuf};

use crate::database::{Error, Flavour, Position, Result};
use crate::sys;

use group::Scan;

/// The position at the end of the last complete event group of the newest log in an index.
///
/// # Errors
/// A file is missing, encrypted, damaged before its end, or of a kind that is not understood.
pub fn position(flavour: Flavour, index: &Path, dir: &Path) -> Result<Position> {
    let names = names(index)?;
    // The newest log may be so new that not even its header had been written: then the one before it ends the history.
    for name in names.iter().rev().take(2) {
        let path = dir.join(name);
        if let Some(scan) = Scan::of(&path, flavour)? {
            return Ok(Position {
                file: name.clone(),
                position: scan.end,
                gtid: scan.gtids.to_text(),
            });
        }
    }
    Err(wrong(index, "none of its last two logs has a complete header"))
}

/// File names in an index, without their directories: those are the live server's.
fn names(index: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(index).map_err(|error| sys::Error::path("read", index, error))?;
    let name = |line: &str| Some(Path::new(line.trim()).file_name()?.to_string_lossy().into_owned());
    let names: Vec<String> = text.lines().filter_map(name).collect();
    if names.is_empty() {
        return Err(wrong(index, "it names no binary log"));
    }
    Ok(names)
}

fn wrong(path: &Path, reason: impl Into<String>) -> Error {
    Error::BinaryLog {
        path: PathBuf::from(path),
        reason: reason.into(),
    }
}
