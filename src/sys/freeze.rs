//! Freezing several filesystems at once (FIFREEZE of linux/fs.h), so that their snapshots can be taken one after another and still agree.
//!
//! Each filesystem has a keeper: a forked process with nothing but that filesystem and a socket, which freezes it, and thaws it again when it is told to, when
//! the limit has passed, or when this process is gone. It cannot block on a frozen filesystem: it writes to none. A freeze that hangs holds up its own keeper only; the
//! others thaw theirs in time. A keeper that is killed thaws nothing: this process does it then, and if it is gone as well, [`thaw`] by whoever cleans up.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

use super::helper::{Helper, interrupted, lock_memory};
use super::{Error, Result};

/// linux/fs.h: `_IOWR('X', 119, int)` and `_IOWR('X', 120, int)`.
const FIFREEZE: u32 = 0xc004_5877;
const FITHAW: u32 = 0xc004_5878;

/// Words of the tool to a keeper.
const FREEZE: u8 = b'f';
const THAW: u8 = b't';

/// A thaw is a matter of milliseconds; a keeper that says nothing for so long is stuck.
const THAW_LIMIT: Duration = Duration::from_secs(10);

/// Filesystems that can be frozen together. Dropping it thaws what is frozen.
#[derive(Debug)]
pub struct Freezer {
    keepers: Vec<Keeper>,
    limit: Duration,
}

#[derive(Debug)]
struct Keeper {
    top: PathBuf,
    /// `None` once it was told to end.
    talk: Option<OwnedFd>,
    helper: Helper,
    /// The filesystem.
    directory: OwnedFd,
}

/// Thaws the filesystem that a directory is on, if a user process froze it; whether it was frozen.
///
/// # Errors
/// The directory cannot be opened, or the filesystem not thawed.
pub fn thaw(directory: &Path) -> Result<bool> {
    let opened = super::fs::open_directory(directory)?;
    match call(opened.as_raw_fd(), FITHAW) {
        0 => Ok(true),
        // Not frozen, or not of a kind that can be.
        libc::EINVAL | libc::EOPNOTSUPP | libc::ENOTTY => Ok(false),
        errno => Err(Error::path("thaw", directory, io::Error::from_raw_os_error(errno))),
    }
}

impl Freezer {
    /// Forks a keeper for the filesystem of each directory. Freezes nothing yet. Each filesystem will be frozen for `limit` at most.
    ///
    /// # Errors
    /// A directory cannot be opened, or no process forked.
    pub fn prepare(directories: &[PathBuf], limit: Duration) -> Result<Freezer> {
        let keepers = directories.iter().map(|top| Keeper::fork(top, limit));
        Ok(Freezer {
            keepers: keepers.collect::<Result<_>>()?,
            limit,
        })
    }

    /// Freezes them all, at the same time: each call waits for the writes that have begun, syncs, and lets nothing more through. From its return to
    /// [`thaw`](Freezer::thaw) nothing changes on any of them.
    ///
    /// # Errors
    /// One of them could not be frozen, or not within the limit; all are thawed again.
    pub fn freeze(&mut self) -> Result<()> {
        let until = Instant::now() + self.limit;
        let asked = self.keepers.iter().try_for_each(|keeper| keeper.ask(FREEZE));
        let frozen = asked.and_then(|()| {
            let mut answers = self.keepers.iter();
            answers.try_for_each(|keeper| keeper.answer("freeze", until))
        });
        if frozen.is_err() {
            self.let_go();
        }
        frozen
    }

    /// Thaws them all.
    ///
    /// # Errors
    /// One of them had been thawed before, by its keeper at the limit or by somebody else: what was read meanwhile may not agree.
    pub fn thaw(mut self) -> Result<()> {
        let until = Instant::now() + THAW_LIMIT;
        let mut first = Ok(());
        for keeper in &self.keepers {
            first = first.and(keeper.ask(THAW));
        }
        for keeper in &self.keepers {
            first = first.and(keeper.answer("keep frozen", until));
        }
        self.let_go();
        first
    }

    fn let_go(&mut self) {
        for keeper in &mut self.keepers {
            keeper.talk = None;
        }
        for keeper in &mut self.keepers {
            if keeper.helper.reap() {
                // What it froze stays so otherwise. An error where it had frozen nothing.
                call(keeper.directory.as_fd().as_raw_fd(), FITHAW);
            }
        }
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        self.let_go();
    }
}

impl Keeper {
    fn fork(top: &Path, limit: Duration) -> Result<Keeper> {
        let directory = super::fs::open_directory(top)?;
        let (talk, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|error| Error::kernel("make a socket pair", error))?;
        let limit = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the task makes system calls only, on the descriptors that it is given.
        let helper = unsafe {
            Helper::fork(c"snapback-freeze", [directory.as_raw_fd(), theirs.as_raw_fd()], || {
                keep(3, 4, limit);
            })
        };
        Ok(Keeper {
            top: top.to_owned(),
            talk: Some(talk),
            helper: helper.map_err(|error| Error::kernel("fork", error))?,
            directory,
        })
    }

    fn ask(&self, word: u8) -> Result<()> {
        let gone = || Error::path("freeze", &self.top, io::Error::from(io::ErrorKind::TimedOut));
        let talk = self.talk.as_ref().ok_or_else(gone)?;
        match send(talk, &[word], SendFlags::NOSIGNAL) {
            // Its answer, or its end, says why.
            Ok(_) | Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => Ok(()),
            Err(error) => Err(Error::path("talk to the keeper of", &self.top, error)),
        }
    }

    /// 0, or the number of the kernel's error. A keeper that ended without an answer had thawed at the limit.
    fn answer(&self, operation: &'static str, until: Instant) -> Result<()> {
        let fail = |error: io::Error| Err(Error::path(operation, &self.top, error));
        let Some(talk) = &self.talk else {
            return fail(io::ErrorKind::TimedOut.into());
        };
        loop {
            let left = Timespec::try_from(until.saturating_duration_since(Instant::now())).ok();
            match poll(&mut [PollFd::new(talk, PollFlags::IN)], left.as_ref()) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(0) => return fail(io::ErrorKind::TimedOut.into()),
                Ok(_) => break,
                Err(error) => return fail(error.into()),
            }
        }
        let mut errno = [0u8; 4];
        match recv(talk, &mut errno[..], RecvFlags::empty()) {
            Ok((4, _)) => match i32::from_ne_bytes(errno) {
                0 => Ok(()),
                errno => fail(io::Error::from_raw_os_error(errno)),
            },
            Ok(_) | Err(rustix::io::Errno::CONNRESET) => fail(io::ErrorKind::TimedOut.into()),
            Err(error) => fail(error.into()),
        }
    }
}

/// The keeper's life: wait for the word, freeze, wait for the word, thaw.
fn keep(filesystem: i32, talk: i32, limit: i32) {
    // As far as it may. Reading from a frozen filesystem works, but not from a device that LVM suspends meanwhile.
    lock_memory();
    if wait(talk, -1) != Some(FREEZE) {
        return;
    }
    let errno = call(filesystem, FIFREEZE);
    say(talk, errno);
    if errno != 0 {
        return;
    }
    let told = wait(talk, limit) == Some(THAW);
    let errno = call(filesystem, FITHAW);
    // Thawed unasked: the closed socket tells.
    if told {
        say(talk, errno);
    }
}

/// A word, or `None` when the limit (ms, -1: none) has passed or there is nobody any more.
fn wait(talk: i32, limit: i32) -> Option<u8> {
    let mut event = libc::pollfd {
        fd: talk,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd on the stack. All signals are blocked: nothing interrupts it.
    let ready = unsafe { libc::poll(&mut event, 1, limit) };
    let mut word = 0u8;
    // SAFETY: one byte on the stack.
    let got = ready > 0 && unsafe { libc::recv(talk, (&raw mut word).cast(), 1, 0) } == 1;
    got.then_some(word)
}

fn say(talk: i32, errno: i32) {
    let bytes = errno.to_ne_bytes();
    // SAFETY: the bytes live here.
    unsafe { libc::send(talk, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
}

/// The error's number, or 0.
fn call(filesystem: i32, request: u32) -> i32 {
    loop {
        // SAFETY: these requests take no argument that the kernel reads.
        if unsafe { libc::ioctl(filesystem, request as _, 0) } == 0 {
            return 0;
        }
        if !interrupted() {
            return io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        }
    }
}

#[cfg(test)]
mod tests;
