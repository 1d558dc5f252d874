//! What cannot be read: whether the copy ends there, or goes on without it. A database that lacks a file is no backup. A web root without
//! one is, and the person is told.

use std::io;
use std::path::Path;

use super::{Error, Tree};
use crate::finding::Finding;

/// Bytes of a path below a datadir that no server reaches: MariaDB and MySQL open names of 512 bytes at most (`FN_REFLEN`).
const BEYOND_SERVERS: usize = 1024;
/// Bytes of an original path that is copied: PATH_MAX (4096) less what a snapshot's or a restore's place may add.
const LONGEST: usize = 4096 - 256;
/// Bytes of a path that a message shows.
const SHOWN: usize = 240;

/// Whether the copy goes on without what is at `path` in the tree.
pub(super) fn goes_without(tree: &Tree, path: &[u8], error: &io::Error) -> bool {
    match tree.database {
        true => error.raw_os_error() == Some(libc::ENAMETOOLONG) && path.len() > BEYOND_SERVERS,
        false => !lacks_resources(error),
    }
}

/// What the kernel would say of a path that a restore could not write, although it can be read here beneath a descriptor.
pub(super) fn too_long(original: &Path) -> Option<io::Error> {
    (original.as_os_str().len() > LONGEST).then(|| io::Error::from_raw_os_error(libc::ENAMETOOLONG))
}

/// Whether an error tells of this machine or process, and not of what was to be read. The next read may fail in the same way. EAGAIN is not one: a file's owner
/// causes it by a lease (fcntl(2), `F_SETLEASE`).
pub(super) fn lacks_resources(error: &io::Error) -> bool {
    let of_us = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS, libc::EINTR];
    error.raw_os_error().is_some_and(|errno| of_us.contains(&errno))
}

/// A file could not be read at this offset (bytes).
pub(super) fn read_error(original: &Path, offset: u64, error: io::Error) -> Error {
    if lacks_resources(&error) {
        return crate::sys::Error::path("read", original, error).into();
    }
    Error::Read {
        path: original.to_owned(),
        offset,
        reason: error.to_string(),
    }
}

/// Something was left out, since it cannot be read.
pub(super) fn left_out(original: &Path, reason: &str) -> Finding {
    Finding::warning("unreadable", format!("{} is left out: {reason}", shown(original)))
        .remedy("mend or remove it, or `exclude` it")
}

/// A path for a message: of a long one its beginning.
fn shown(path: &Path) -> String {
    let text = path.display().to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}... ({} bytes)", &text[..end], path.as_os_str().len()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(database: bool) -> Tree {
        Tree {
            original: "/srv".into(),
            read_from: "/srv".into(),
            live: false,
            datadir: database,
            database,
            skip: Vec::new(),
        }
    }

    #[test]
    fn a_web_root_goes_without_what_cannot_be_read_and_a_database_does_not() {
        for errno in [
            libc::EIO,
            libc::EACCES,
            libc::ESTALE,
            libc::ELOOP,
            libc::ENAMETOOLONG,
            libc::ENOENT,
        ] {
            let error = io::Error::from_raw_os_error(errno);
            assert!(goes_without(&tree(false), b"a", &error), "{error}");
            assert!(!goes_without(&tree(true), b"a", &error), "{error}");
        }
        let deep = io::Error::from_raw_os_error(libc::ENAMETOOLONG);
        assert!(goes_without(&tree(true), &[b'a'; 2000], &deep));
        assert!(!goes_without(
            &tree(true),
            &[b'a'; 2000],
            &io::Error::from_raw_os_error(libc::EIO)
        ));
    }

    #[test]
    fn what_the_machine_lacks_is_not_taken_for_the_files_fault() {
        for errno in [libc::EMFILE, libc::ENFILE, libc::ENOMEM] {
            let error = io::Error::from_raw_os_error(errno);
            assert!(!goes_without(&tree(false), b"a", &error), "{error}");
            assert!(matches!(read_error(Path::new("/srv/a"), 0, error), Error::Sys(_)));
        }
        let damaged = io::Error::from_raw_os_error(libc::EIO);
        assert!(matches!(
            read_error(Path::new("/srv/a"), 7, damaged),
            Error::Read { offset: 7, .. }
        ));
    }

    #[test]
    fn a_long_path_is_shown_by_its_beginning() {
        let long = format!("/srv/{}", "ä".repeat(4000));
        assert!(shown(Path::new(&long)).len() < 600);
        assert_eq!(shown(Path::new("/srv/a")), "/srv/a");
    }
}
