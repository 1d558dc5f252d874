//! What a process works on: the kernel's word, by device and inode, whatever namespace the process is in.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::user::Account;

/// A process, which no later one of the same number is mistaken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Its number in our namespace.
    pub pid: i32,
    /// When it started, in clock ticks since boot (proc(5), `stat`).
    pub started: u64,
}

impl Process {
    /// The running process of this number.
    pub fn of(pid: i32) -> Option<Process> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything; field 22 is the 20th behind it.
        let started = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
        Some(Process { pid, started })
    }

    /// Whether it still runs.
    pub fn is_there(&self) -> bool {
        Process::of(self.pid) == Some(*self)
    }

    /// Its name (`/proc/PID/comm`).
    pub fn name(&self) -> String {
        fs::read_to_string(self.at("comm"))
            .unwrap_or_default()
            .trim()
            .to_owned()
    }

    /// Its working directory, as a path that leads there whatever namespace the process is in.
    pub fn directory(&self) -> PathBuf {
        self.at("cwd")
    }

    /// Whether its working directory is this one. `None`: one of them cannot be seen.
    pub fn works_in(&self, directory: &Path) -> Option<bool> {
        Some(identity(&self.at("cwd"))? == identity(directory)?)
    }

    /// Whether it has this file open. `None`: the file, or what it has open, cannot be seen.
    pub fn has_open(&self, file: &Path) -> Option<bool> {
        let wanted = identity(file)?;
        let opened = fs::read_dir(self.at("fd")).ok()?.flatten();
        Some(opened.into_iter().any(|one| identity(&one.path()) == Some(wanted)))
    }

    /// Whether what it finds at an absolute path is what we find there. `None`: one of us finds nothing.
    pub fn sees_same(&self, path: &Path) -> Option<bool> {
        let below: PathBuf = path
            .components()
            .filter(|part| matches!(part, Component::Normal(_)))
            .collect();
        Some(identity(&self.at("root").join(below))? == identity(path)?)
    }

    /// Whether it lives in our mount namespace. `None`: it cannot be seen.
    pub fn shares_mounts(&self) -> Option<bool> {
        let own = fs::read_link("/proc/self/ns/mnt").ok()?;
        Some(fs::read_link(self.at("ns/mnt")).ok()? == own)
    }

    /// Whom it runs as now (proc(5), `status`: real, effective, saved, of files). `None`: it is gone.
    pub fn account(&self) -> Option<Account> {
        let status = fs::read_to_string(self.at("status")).ok()?;
        let effective = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            line.split_whitespace().nth(1)?.parse().ok()
        };
        Some((effective("Uid:")?, effective("Gid:")?))
    }

    /// Whether it holds the socket with this inode. `false` as well where what it has open cannot be seen.
    pub(super) fn holds_socket(&self, inode: u64) -> bool {
        let wanted = PathBuf::from(format!("socket:[{inode}]"));
        let opened = fs::read_dir(self.at("fd")).into_iter().flatten().flatten();
        opened
            .into_iter()
            .any(|one| fs::read_link(one.path()).is_ok_and(|target| target == wanted))
    }

    /// Every process that we see and that holds the socket with this inode.
    pub(super) fn holding(inode: u64) -> Vec<Process> {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        numbers
            .filter_map(Process::of)
            .filter(|process| process.holds_socket(inode))
            .collect()
    }

    /// Whether both run the same program, as the same user, in the same directory: one server's processes.
    pub(super) fn is_one_with(&self, other: &Process) -> bool {
        let same = |name| {
            let ours = identity(&self.at(name));
            ours.is_some() && ours == identity(&other.at(name))
        };
        self.account().is_some() && self.account() == other.account() && same("exe") && same("cwd")
    }

    fn at(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid))
    }
}

/// Device and inode of what a path leads to.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let found = fs::metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Process {
        Process::of(i32::try_from(std::process::id()).unwrap()).unwrap()
    }

    #[test]
    fn a_process_is_known_by_what_it_works_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let own = own();
        assert!(own.is_there());
        assert!(
            !Process {
                started: own.started + 1,
                ..own
            }
            .is_there()
        );
        assert_eq!(own.works_in(&std::env::current_dir().unwrap()), Some(true));
        assert_eq!(own.works_in(dir.path()), Some(false));
        assert_eq!(own.has_open(&path), None);
        let file = fs::File::create(&path).unwrap();
        assert_eq!(own.has_open(&path), Some(true));
        drop(file);
        assert_eq!(own.has_open(&path), Some(false));
        assert_eq!(
            own.account(),
            Some((super::super::host::user_id(), super::super::host::group_id()))
        );
        assert_eq!(own.sees_same(&path), Some(true));
        assert_eq!(own.shares_mounts(), Some(true));
    }
}
