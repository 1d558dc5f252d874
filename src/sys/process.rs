//! Who answers a connection, and what that process works on: the kernel's word, by device and inode, whatever namespace the process is in.
#![allow(unsafe_code)]

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::net::SocketAddrAny;

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

    fn at(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid))
    }
}

/// Device and inode of what a path leads to.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let found = fs::metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

/// The process at the other end of a connected socket: of a Unix socket the one that listens there (unix(7), SO_PEERCRED), of TCP within this network namespace
/// the one that holds the other end. `None`: it is elsewhere, or not visible from here.
pub fn peer(connection: &impl AsRawFd) -> Option<Process> {
    // SAFETY: the connection is borrowed for the whole call, so its descriptor stays open.
    let socket = unsafe { BorrowedFd::borrow_raw(connection.as_raw_fd()) };
    let here = rustix::net::getsockname(socket).ok().and_then(inet);
    let there = rustix::net::getpeername(socket).ok().flatten().and_then(inet);
    match (here, there) {
        (Some(here), Some(there)) => holder(there, here),
        _ => Process::of(credentials(socket)?),
    }
}

/// The process that listens at the other end of a Unix socket; `None` also of any other socket.
pub fn local_peer(connection: &impl AsRawFd) -> Option<Process> {
    // SAFETY: the connection is borrowed for the whole call, so its descriptor stays open.
    let socket = unsafe { BorrowedFd::borrow_raw(connection.as_raw_fd()) };
    Process::of(credentials(socket)?)
}

/// `None`: no Unix socket, or the peer's process has no number in our namespace.
fn credentials(socket: BorrowedFd<'_>) -> Option<i32> {
    let mut found = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the socket is open; `found` and `length` are valid for writes of that many bytes during the call.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &raw mut length,
        )
    };
    (answer == 0 && found.pid > 0).then_some(found.pid)
}

fn inet(address: SocketAddrAny) -> Option<SocketAddr> {
    SocketAddr::try_from(address).ok()
}

/// Who holds the socket with these ends, by the kernel's tables of this network namespace.
fn holder(local: SocketAddr, remote: SocketAddr) -> Option<Process> {
    let inode = ["/proc/self/net/tcp", "/proc/self/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .find_map(|table| inode_of(&table, local, remote))?;
    let wanted = PathBuf::from(format!("socket:[{inode}]"));
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let holds = |pid: &i32| {
        let opened = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        opened
            .into_iter()
            .any(|one| fs::read_link(one.path()).is_ok_and(|target| target == wanted))
    };
    numbers.filter(holds).find_map(Process::of)
}

/// `  1: 0100007F:0CEA 0100007F:D2F0 01 00000000:00000000 00:00000000 00000000   106        0 28143 ...` (proc(5))
fn inode_of(table: &str, local: SocketAddr, remote: SocketAddr) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let ends = (address(fields.get(1)?)?, address(fields.get(2)?)?);
        let same = ends == (plain(local), plain(remote));
        let inode = fields.get(9)?.parse().ok()?;
        (same && inode != 0).then_some(inode)
    })
}

/// A server that listens for both families has IPv4 clients in the other family's table.
fn plain(address: SocketAddr) -> (IpAddr, u16) {
    (address.ip().to_canonical(), address.port())
}

/// Words of 32 bits in the machine's order, in hexadecimal.
fn address(text: &str) -> Option<(IpAddr, u16)> {
    let (ip, port) = text.split_once(':')?;
    let words: Option<Vec<[u8; 4]>> = (0..ip.len() / 8)
        .map(|at| Some(u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes()))
        .collect();
    let bytes = words?.concat();
    let ip = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
        _ => return None,
    };
    Some((ip.to_canonical(), u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    fn own() -> Process {
        Process::of(i32::try_from(std::process::id()).unwrap()).unwrap()
    }

    #[test]
    fn who_answers_is_the_kernels_word() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("s");
        let _listener = UnixListener::bind(&at).unwrap();
        let client = UnixStream::connect(&at).unwrap();
        assert_eq!((peer(&client), local_peer(&client)), (Some(own()), Some(own())));
        for address in ["127.0.0.1:0", "[::]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                continue;
            };
            let client = TcpStream::connect(("127.0.0.1", listener.local_addr().unwrap().port())).unwrap();
            let _accepted = listener.accept().unwrap();
            assert_eq!((peer(&client), local_peer(&client)), (Some(own()), None), "{address}");
        }
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
        assert_eq!(own.sees_same(&path), Some(true));
        assert_eq!(own.shares_mounts(), Some(true));
    }

    #[test]
    fn the_kernels_tables_are_read_in_either_family() {
        let four = "head\n 0: 0100007F:0CEA 0100007F:D2F0 01 0:0 00:0 0 106 0 28143 1";
        let ends = |port| SocketAddr::from(([127, 0, 0, 1], port));
        assert_eq!(inode_of(four, ends(3306), ends(54_000)), Some(28_143));
        assert_eq!(inode_of(four, ends(54_000), ends(3306)), None);
        let six = "head\n 0: 0000000000000000FFFF00000100007F:0CEA 0000000000000000FFFF00000100007F:D2F0 01 0:0 00:0 0 0 0 7 1";
        assert_eq!(inode_of(six, ends(3306), ends(54_000)), Some(7));
    }
}
