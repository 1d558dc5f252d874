//! How much there is to copy, for the progress bar: a quick look at sizes beside the copy.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::stop::Stop;
use super::{Tree, walk};
use crate::monitor::Monitor;

/// Tells the monitor the sum of all files' sizes. Errors do not matter here: the copy meets them as well.
pub(super) fn estimate(trees: &[Tree], monitor: &dyn Monitor, stop: &Stop<'_>) {
    let (mut bytes, mut items) = (0, 0);
    for tree in trees {
        add(tree, stop, &mut bytes, &mut items);
    }
    if stop.check().is_ok() {
        monitor.resize(bytes, items);
    }
}

/// The bytes that the trees hold now, as far as they can be read: of a sparse file what is allocated.
///
/// # Errors
/// A signal asked to end.
pub(crate) fn measure(trees: &[Tree], cancel: &crate::sys::signal::Cancel) -> super::Result<u64> {
    let stop = Stop::new(cancel);
    let (mut bytes, mut items) = (0, 0);
    for tree in trees {
        add(tree, &stop, &mut bytes, &mut items);
    }
    stop.check().map(|()| bytes)
}

/// No recursion: whoever owns a tree chooses how deep it is.
fn add(tree: &Tree, stop: &Stop<'_>, bytes: &mut u64, items: &mut u64) {
    let mut open = vec![tree.read_from.clone()];
    while let Some(at) = open.pop() {
        if stop.check().is_err() {
            return;
        }
        let Some(found) = counted(tree, &at) else { continue };
        *items += 1;
        if found.is_file() {
            // Holes are no bytes that are stored.
            *bytes = bytes.saturating_add(found.len().min(std::os::unix::fs::MetadataExt::blocks(&found) * 512));
        } else if found.is_dir() {
            let entries = std::fs::read_dir(&at).into_iter().flatten();
            open.extend(entries.map_while(Result::ok).map(|entry| entry.path()));
        }
    }
}

/// What is there, unless it is left out or cannot be looked at.
fn counted(tree: &Tree, at: &Path) -> Option<std::fs::Metadata> {
    let found = std::fs::symlink_metadata(at).ok()?;
    let relative = at.strip_prefix(&tree.read_from).unwrap_or(Path::new(""));
    let path = relative.as_os_str().as_bytes();
    let original = if path.is_empty() {
        tree.original.clone()
    } else {
        tree.original.join(relative)
    };
    let is_socket = std::os::unix::fs::FileTypeExt::is_socket(&found.file_type());
    walk::left_out(tree, path, &original, is_socket)
        .is_none()
        .then_some(found)
}
