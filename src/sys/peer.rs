//! Who answers a connection: the kernel's word, and never the server's.
//!
//! A listening Unix socket belongs to whoever called listen(2) (unix(7), `SO_PEERCRED`). With systemd's socket activation, or where descriptors are inherited, that is
//! not who answers. So the socket that was accepted is asked for: whoever holds the other end of the connection answers.
#![allow(unsafe_code)]

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt,
};

use super::process::Process;
use super::user::Account;
use super::{Error, Result};

mod diag;
mod tables;

/// How long a server may take to greet before the listener's maker is believed to be who answers.
const GREETING: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

/// Why it is not known who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// Another host or network namespace, or a process that has no number here.
    #[error("the kernel does not say which process answers")]
    Elsewhere,
    /// Nobody that we see holds the other end.
    #[error("no visible process holds the other end of the connection")]
    NoHolder,
    /// Processes of several programs, users or directories hold it: each of them may answer.
    #[error("several processes that are not one server's hold the other end of the connection")]
    Several,
    /// A user made the listening socket that another user's process answers at.
    #[error("user {maker} made the listening socket, and another user's process answers there")]
    Passed {
        /// Who made it.
        maker: u32,
    },
}

/// Who made the listening socket at the other end of a Unix connection.
#[derive(Debug, Clone, Copy)]
struct Maker {
    /// `None`: it is gone, or has no number in our namespace.
    process: Option<Process>,
    account: Account,
}

/// The process that answers at the other end, on this host and in this network namespace. Ask after the server has sent something: before that nobody has accepted.
///
/// # Errors
/// It cannot be told, and why.
pub fn peer(connection: &impl AsRawFd) -> std::result::Result<Process, Unknown> {
    let socket = borrowed(connection);
    match ends(socket) {
        Some((near, far)) => tables::far_end(near, far)
            .ok_or(Unknown::Elsewhere)
            .and_then(|end| one(&Process::holding(end.inode))),
        None => local(socket),
    }
}

/// Whether the process that answered before answers this Unix connection, too; `None` of any other connection. Other processes are not looked at.
pub fn is_local_peer(connection: &impl AsRawFd, before: Process) -> Option<bool> {
    let socket = borrowed(connection);
    let maker = maker(socket)?;
    let holds = || diag::far_end(socket).is_some_and(|inode| before.holds_socket(inode));
    Some(before.is_there() && (maker.process == Some(before) || holds()))
}

/// As whom the process at the other end runs. Of a TCP connection it is only known on this host, and only after the server has sent something.
///
/// # Errors
/// The kernel does not say; in words.
pub fn user(connection: &impl AsRawFd) -> std::result::Result<u32, String> {
    let socket = borrowed(connection);
    if let Some((near, far)) = ends(socket) {
        return tcp_user(near, far);
    }
    let maker = maker(socket).ok_or_else(|| "the kernel does not say who listens at the socket".to_owned())?;
    // Root's listener may be another user's to answer at; any other user's is that user's.
    let answers = match maker.account.0 {
        0 => local(socket).ok().and_then(|process| process.account()),
        _ => None,
    };
    Ok(answers.unwrap_or(maker.account).0)
}

fn tcp_user(near: SocketAddr, far: SocketAddr) -> std::result::Result<u32, String> {
    if !near.ip().to_canonical().is_loopback() || !far.ip().to_canonical().is_loopback() {
        return Err(format!(
            "{far} is not on this host's loopback, so the kernel does not know the server"
        ));
    }
    match tables::far_end(near, far) {
        Some(end) => Ok(end.user),
        None => Err(format!("the kernel does not know whose process is at {far}")),
    }
}

/// Who answers at a Unix socket; where nobody greets in time, who made it.
///
/// # Errors
/// Nobody listens, nobody takes connections now, or it cannot be told who answers.
pub fn listener(socket: &Path) -> Result<Process> {
    let fail = |error: rustix::io::Errno| Error::path("connect to", socket, error);
    let ours = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    );
    let ours = ours.map_err(fail)?;
    connect(&ours, &SocketAddrUnix::new(socket).map_err(fail)?).map_err(fail)?;
    let _ = poll(&mut [PollFd::new(&ours, PollFlags::IN)], Some(&GREETING));
    peer(&ours).map_err(|why| Error::path("tell who answers at", socket, std::io::Error::other(why)))
}

/// The maker itself, where it holds the accepted socket or nothing tells who does; else who holds it.
fn local(socket: BorrowedFd<'_>) -> std::result::Result<Process, Unknown> {
    let maker = maker(socket).ok_or(Unknown::Elsewhere)?;
    let Some(inode) = diag::far_end(socket) else {
        return maker.process.ok_or(Unknown::Elsewhere);
    };
    match maker.process {
        Some(process) if process.holds_socket(inode) => Ok(process),
        _ => {
            let process = one(&Process::holding(inode))?;
            let user = process.account().ok_or(Unknown::NoHolder)?.0;
            match maker.account.0 {
                made if made == 0 || made == user => Ok(process),
                made => Err(Unknown::Passed { maker: made }),
            }
        }
    }
}

/// The one server whose processes these are.
fn one(holders: &[Process]) -> std::result::Result<Process, Unknown> {
    let first = holders.iter().min_by_key(|process| process.started);
    let first = first.ok_or(Unknown::NoHolder)?;
    match holders.iter().all(|other| other == first || first.is_one_with(other)) {
        true => Ok(*first),
        false => Err(Unknown::Several),
    }
}

fn borrowed<T: AsRawFd>(connection: &T) -> BorrowedFd<'_> {
    // SAFETY: the connection is borrowed as long as what is returned, so its descriptor stays open.
    unsafe { BorrowedFd::borrow_raw(connection.as_raw_fd()) }
}

/// Both ends of a TCP connection, ours first.
fn ends(socket: BorrowedFd<'_>) -> Option<(SocketAddr, SocketAddr)> {
    let inet = |address: SocketAddrAny| SocketAddr::try_from(address).ok();
    let near = rustix::net::getsockname(socket).ok().and_then(inet)?;
    let far = rustix::net::getpeername(socket).ok().flatten().and_then(inet)?;
    Some((near, far))
}

/// `None`: no Unix socket. The kernel's structure is read as such: a maker that is gone has the number 0.
fn maker(socket: BorrowedFd<'_>) -> Option<Maker> {
    if sockopt::socket_domain(socket).ok()? != AddressFamily::UNIX {
        return None;
    }
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
    (answer == 0).then(|| Maker {
        process: (found.pid > 0).then(|| Process::of(found.pid)).flatten(),
        account: (found.uid, found.gid),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
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
        let listener = UnixListener::bind(&at).unwrap();
        let client = UnixStream::connect(&at).unwrap();
        assert_eq!(peer(&client), Ok(own()), "nobody has accepted yet: the maker");
        let _accepted = listener.accept().unwrap();
        assert_eq!((peer(&client), is_local_peer(&client, own())), (Ok(own()), Some(true)));
        for address in ["127.0.0.1:0", "[::]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                continue;
            };
            let client = TcpStream::connect(("127.0.0.1", listener.local_addr().unwrap().port())).unwrap();
            let _accepted = listener.accept().unwrap();
            assert_eq!(
                (peer(&client), is_local_peer(&client, own())),
                (Ok(own()), None),
                "{address}"
            );
            assert_eq!(user(&client), Ok(super::super::host::user_id()), "{address}");
        }
    }

    #[test]
    fn who_holds_the_accepted_end_answers_and_not_who_listens() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let inode = diag::far_end(borrowed(&ours)).unwrap();
        assert!(own().holds_socket(inode));
        // Another program gets it as its input, and we keep nothing.
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .stdin(std::os::fd::OwnedFd::from(theirs))
            .spawn()
            .unwrap();
        let sleeper = Process::of(i32::try_from(child.id()).unwrap()).unwrap();
        let found = (
            peer(&ours),
            is_local_peer(&ours, sleeper),
            is_local_peer(&ours, Process { started: 1, ..sleeper }),
        );
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found, (Ok(sleeper), Some(true), Some(false)));
        assert_eq!(peer(&ours).unwrap_or(own()), own(), "closed: nobody else");
    }

    #[test]
    fn processes_that_are_not_one_servers_are_nobody() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let other = Process::of(i32::try_from(child.id()).unwrap()).unwrap();
        let found = (one(&[own(), other]), one(&[other, other]), one(&[]));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found, (Err(Unknown::Several), Ok(other), Err(Unknown::NoHolder)));
    }

    #[test]
    fn a_listener_is_known_by_its_socket() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("s");
        let listening = UnixListener::bind(&at).unwrap();
        let greeter = std::thread::spawn(move || {
            let (mut accepted, _) = listening.accept().unwrap();
            accepted.write_all(b"x").unwrap();
            accepted
        });
        assert_eq!(listener(&at).unwrap(), own());
        drop(greeter.join().unwrap());
        assert!(listener(&dir.path().join("none")).is_err());
    }
}
