//! Database servers that run on this host, found by the files that they have open, and where directories lie, compared by device and inode.
//!
//! Names prove nothing: a server may run in a container, through a wrapper, or on a path that another mount shows elsewhere.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// What every server of ours keeps open, for writing, in a directory of its own: InnoDB's system tablespace, Aria's control file.
const HOME: [&str; 2] = ["ibdata1", "aria_log_control"];

/// Endings of files with tables.
const TABLES: [&str; 6] = ["ibd", "MYD", "MYI", "MAD", "MAI", "ibu"];

/// More directories than this lie above no other one.
const DEEPEST: usize = 4096;

/// A directory as the kernel knows it: device and inode.
pub type Identity = (u64, u64);

/// A server that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its process.
    pub process: i32,
    /// The name of that (comm).
    pub name: String,
    /// Where its tablespaces are, as it names it itself: in its own mount namespace.
    pub home: PathBuf,
    /// That directory, and those above it.
    pub above: Vec<Identity>,
    /// Of each directory in which it has tables open, the same.
    pub tables: Vec<Vec<Identity>>,
}

/// The directory and those above it, nearest first; empty when it cannot be opened.
pub fn above(directory: &Path) -> Vec<Identity> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut found = Vec::new();
    let mut at: OwnedFd = match rustix::fs::open(directory, flags, Mode::empty()) {
        Ok(opened) => opened,
        Err(_) => return found,
    };
    while let Ok(stat) = rustix::fs::fstat(&at) {
        let identity = (stat.st_dev, stat.st_ino);
        if found.last() == Some(&identity) || found.len() > DEEPEST {
            break;
        }
        found.push(identity);
        match rustix::fs::openat(&at, "..", flags, Mode::empty()) {
            Ok(parent) => at = parent,
            Err(_) => break,
        }
    }
    found
}

/// A file or directory, links followed.
pub fn identity(path: &Path) -> Option<Identity> {
    let found = rustix::fs::stat(path).ok()?;
    Some((found.st_dev, found.st_ino))
}

/// Every server that runs here, in containers as well; needs root to see other users'.
pub fn running() -> Vec<Running> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    numbers.filter_map(server).collect()
}

/// What a process has open tells whether it is a server.
fn server(process: i32) -> Option<Running> {
    let at = PathBuf::from(format!("/proc/{process}"));
    let open: Vec<(PathBuf, PathBuf)> = std::fs::read_dir(at.join("fd"))
        .ok()?
        .flatten()
        .filter_map(|entry| Some((entry.path(), std::fs::read_link(entry.path()).ok()?)))
        .collect();
    let is_home = |path: &Path| HOME.iter().any(|name| path.file_name() == Some(OsStr::new(name)));
    let (_, control) = open.iter().find(|(fd, path)| is_home(path) && writes(&at, fd))?;
    let home = control.parent()?.to_owned();
    // As the process sees it, whatever is mounted here.
    let seen = |directory: &Path| above(&at.join("root").join(directory.strip_prefix("/").unwrap_or(directory)));
    let has_tables = |path: &&PathBuf| path.extension().is_some_and(|end| TABLES.iter().any(|one| end == *one));
    let directories: BTreeSet<&Path> = open
        .iter()
        .map(|(_, path)| path)
        .filter(has_tables)
        .filter_map(|path| path.parent())
        .collect();
    Some(Running {
        process,
        name: std::fs::read_to_string(at.join("comm"))
            .unwrap_or_default()
            .trim()
            .to_owned(),
        above: seen(&home),
        tables: directories
            .into_iter()
            .map(seen)
            .filter(|above| !above.is_empty())
            .collect(),
        home,
    })
}

/// Whether a descriptor is open for writing (proc(5), fdinfo: flags in octal).
fn writes(process: &Path, descriptor: &Path) -> bool {
    let number = descriptor.file_name().unwrap_or_default();
    let text = std::fs::read_to_string(process.join("fdinfo").join(number)).unwrap_or_default();
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| i64::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| flags & i64::from(libc::O_ACCMODE) != i64::from(libc::O_RDONLY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_above_are_known_by_inode() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        std::fs::create_dir_all(&inner).unwrap();
        let all = above(&inner);
        for path in [inner.as_path(), &dir.path().join("a"), dir.path(), Path::new("/")] {
            assert!(all.contains(&identity(path).unwrap()), "{}", path.display());
        }
        assert_eq!(all[0], identity(&inner).unwrap());
        assert_eq!(all.last().copied(), identity(Path::new("/")));
        assert!(above(Path::new("/nonexistent")).is_empty());
    }

    #[test]
    fn who_has_a_tablespace_open_for_writing_is_a_server() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ibdata1");
        std::fs::write(&file, "").unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let seen = || {
            running()
                .into_iter()
                .find(|one| one.process == own && one.home == dir.path())
        };
        let reading = std::fs::File::open(&file).unwrap();
        assert_eq!(seen(), None);
        let _writing = std::fs::File::options().write(true).open(&file).unwrap();
        drop(reading);
        let server = seen().unwrap();
        assert_eq!(server.above[0], identity(dir.path()).unwrap());
    }
}
