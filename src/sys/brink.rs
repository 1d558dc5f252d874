//! A vendor's command that runs up to one ioctl and waits there.
//!
//! `lvcreate -s` is nine tenths preparation and a few milliseconds of truth. Run to the brink, all the preparation is done before a lock is taken: the kernel
//! holds the command at its decisive ioctl (seccomp(2), `SECCOMP_RET_USER_NOTIF`) until [`Brink::go`]. The command stays the only owner of its metadata; all that changes is when.
//!
//! A small process of its own, the supervisor, owns the listener. Once this process is gone it lets everything go on, so that a held ioctl is never answered with
//! an error (which is not clean for LVM's thick snapshots: it wants "manual intervention" then). What is left behind then is an ordinary snapshot for `cleanup`.
//!
//! Needs Linux 5.9: `SECCOMP_USER_NOTIF_FLAG_CONTINUE` is of 5.5, and before 5.9 a listener is not told that nobody uses its filter any more. Also
//! CAP_SYS_ADMIN (else no_new_privs would be needed) and CAP_IPC_LOCK: the supervisor's own pages may lie on the device that is suspended.
//!
//! The command is never killed: between suspend and resume that would leave a device on which everybody hangs. Past its limit it is reported, and runs on.
#![allow(unsafe_code)]

mod filter;
mod supervisor;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

use super::command::{Command, Running};
use super::helper::Helper;
use super::host::kernel_is_at_least;
use super::{Error, Result};
use filter::Filter;
pub use supervisor::Report;

/// `DM_DEV_SUSPEND` of linux/dm-ioctl.h, which suspends or resumes a device: `_IOWR(0xfd, 6, struct dm_ioctl)`.
pub const DM_DEV_SUSPEND: u32 = 0xc138_fd06;
/// `ZFS_IOC_SNAPSHOT` of OpenZFS (sys/fs/zfs.h): `'Z' << 8 | 0x23`.
pub const ZFS_IOC_SNAPSHOT: u32 = 0x5a23;

/// A command on its way to the brink, at it, or past it. Dropping it lets it run to its end.
#[derive(Debug)]
pub struct Brink {
    /// `None` once it was collected.
    running: Option<Running>,
    /// `None` once the supervisor was told to let everything go on.
    talk: Option<OwnedFd>,
    supervisor: Helper,
}

impl Brink {
    /// Starts a command that will be held at every ioctl of these requests, its own and those of its children. The supervisor keeps `alive`
    /// open until the command has ended, also when this process is gone by then. The time that it waits at the brink does not count for its limit.
    ///
    /// # Errors
    /// It could not be started; [`unsupported`] tells whether that is because this kernel or account cannot do it, then run it plainly.
    pub fn start(command: &Command, requests: &[u32], alive: Option<BorrowedFd<'_>>) -> Result<Brink> {
        crate::failpoint!("brink.unsupported", || Error::kernel(
            "install a seccomp filter",
            io::Error::from_raw_os_error(libc::ENOSYS)
        ));
        if !kernel_is_at_least(5, 9) {
            let missing = io::Error::from_raw_os_error(libc::ENOSYS);
            return Err(Error::kernel("hold a command before Linux 5.9", missing));
        }
        let pair = || {
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|error| Error::kernel("make a socket pair", error))
        };
        let ((talk, theirs), (give, take)) = (pair()?, pair()?);
        let supervisor = supervisor::fork(&take, &theirs, alive).map_err(|error| Error::kernel("fork", error))?;
        drop((theirs, take));
        locked(&talk)?;
        let filter = Filter::stopping_at(requests);
        let command = command.clone().spared();
        let running = command.start(move |child| filter.install_in(child, give))?;
        Ok(Brink {
            running: Some(running),
            talk: Some(talk),
            supervisor,
        })
    }

    /// Waits until the command is about to make the call that `decisive` knows. All before it are let through.
    ///
    /// `Ok(false)`: it ended without it, or `limit` passed, and it runs on by itself: [`finish`](Brink::finish) tells what came of it.
    ///
    /// # Errors
    /// The supervisor cannot be talked to.
    pub fn reach(&mut self, decisive: impl Fn(&Report) -> bool, limit: Duration) -> Result<bool> {
        let until = Instant::now() + limit;
        loop {
            match self.next(until)? {
                Next::Stopped(report) if report.request().is_some() && decisive(&report) => return Ok(true),
                Next::Stopped(report) if report.request().is_some() => self.answer(supervisor::ASK_ON)?,
                Next::Stopped(_) => {}
                Next::Ended | Next::Late => {
                    self.talk = None;
                    return Ok(false);
                }
            }
        }
    }

    /// Lets the call that it waits at be made; returns as soon as it was: when the command makes its next one or ends. Its limit begins again.
    ///
    /// # Errors
    /// It took longer than `limit` (it runs on), or the supervisor cannot be talked to.
    pub fn go(&mut self, limit: Duration) -> Result<Instant> {
        let until = Instant::now() + limit;
        self.restart_limit();
        self.answer(supervisor::RUN_ON)?;
        let main = self.running.as_ref().map(Running::pid);
        loop {
            match self.next(until)? {
                Next::Stopped(report) if Some(report.pid()) != main => {}
                Next::Stopped(_) | Next::Ended => return Ok(Instant::now()),
                Next::Late => {
                    self.talk = None;
                    return Err(Error::kernel("see the held call return", io::ErrorKind::TimedOut));
                }
            }
        }
    }

    /// Lets the call that it waits at be made, and holds it at the next one: for tests of what a death in between leaves. Whether there is a next one.
    ///
    /// # Errors
    /// The supervisor cannot be talked to.
    pub fn step(&mut self, limit: Duration) -> Result<bool> {
        self.answer(supervisor::ASK_ON)?;
        self.reach(|_| true, limit)
    }

    /// Lets it run to its end, and returns its standard output. Its limit begins again.
    ///
    /// # Errors
    /// As [`Command::run`] of a [spared](Command::spared) one.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.collect()
    }

    fn collect(&mut self) -> Result<Vec<u8>> {
        self.talk = None;
        self.restart_limit();
        let output = self.running.take().map_or_else(|| Ok(Vec::new()), Running::finish);
        self.supervisor.reap();
        output
    }

    fn restart_limit(&mut self) {
        if let Some(running) = &mut self.running {
            running.restart_limit();
        }
    }

    fn answer(&self, word: u8) -> Result<()> {
        let talk = self
            .talk
            .as_ref()
            .ok_or_else(|| Error::kernel("go on from the brink", io::ErrorKind::NotConnected))?;
        match send(talk, &[word], SendFlags::NOSIGNAL) {
            // Gone with the command: the next look says so.
            Ok(_) | Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => Ok(()),
            Err(error) => Err(Error::kernel("talk to the supervisor", error)),
        }
    }

    fn next(&mut self, until: Instant) -> Result<Next> {
        let fail = |error| Error::kernel("talk to the supervisor", error);
        let Some(talk) = &self.talk else { return Ok(Next::Ended) };
        let left = until.saturating_duration_since(Instant::now());
        let wait = Timespec::try_from(left).ok();
        let mut events = [PollFd::new(talk, PollFlags::IN)];
        match poll(&mut events, wait.as_ref()) {
            Ok(0) => return Ok(Next::Late),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return self.next(until),
            Err(error) => return Err(fail(error)),
        }
        let mut report = Box::<Report>::default();
        match recv(talk.as_fd(), report.bytes_mut(), RecvFlags::empty()) {
            Ok((0, _)) | Err(rustix::io::Errno::CONNRESET) => Ok(Next::Ended),
            Ok(_) => Ok(Next::Stopped(report)),
            Err(error) => Err(fail(error)),
        }
    }
}

impl Drop for Brink {
    fn drop(&mut self) {
        let _ = self.collect();
    }
}

/// Waits until the supervisor has all its memory.
fn locked(talk: &OwnedFd) -> Result<()> {
    const OPERATION: &str = "lock the memory of the process that answers for a held command";
    let mut errno = [0; 4];
    loop {
        match recv(talk, &mut errno[..], RecvFlags::empty()) {
            Ok((4, _)) => break,
            Ok(_) => return Err(Error::kernel(OPERATION, io::ErrorKind::UnexpectedEof)),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Error::kernel(OPERATION, error)),
        }
    }
    match i32::from_ne_bytes(errno) {
        0 => Ok(()),
        errno => Err(Error::kernel(OPERATION, io::Error::from_raw_os_error(errno))),
    }
}

/// What the supervisor said.
enum Next {
    /// The command is held at a call, or was seen to end.
    Stopped(Box<Report>),
    /// Everything under the filter has ended.
    Ended,
    /// Nothing until the limit.
    Late,
}

/// Whether [`Brink::start`] failed because this kernel or this account cannot do it.
pub fn unsupported(error: &Error) -> bool {
    matches!(
        error.errno(),
        Some(
            libc::ENOSYS
                | libc::EINVAL
                | libc::EACCES
                | libc::EPERM
                | libc::EOPNOTSUPP
                | libc::EBUSY
                | libc::ENOMEM
                | libc::EAGAIN
        )
    )
}

#[cfg(test)]
mod tests;
