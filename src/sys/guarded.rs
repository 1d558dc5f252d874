//! A program that dies with us, whatever ends us: it leads a process group of its own, and a guardian process, which holds the other end of a socket that closes
//! with this process, kills the group then. The program tells the guardian its number before it becomes the program, so there is no moment at which it is unguarded;
//! children that a wrapper starts are in the group as well.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
use rustix::process::{Pid, Signal, WaitIdOptions, kill_process_group, waitid};

use super::command::Program;
use super::confine::Confinement;
use super::helper::{Helper, interrupted};
use super::user::{Account, become_user};
use super::{Error, Result};

/// How a guarded program is started.
#[derive(Debug)]
pub struct Guarded<'g> {
    /// Which.
    pub program: &'g Program,
    /// Its arguments (never secrets).
    pub arguments: &'g [String],
    /// The user and group that it runs as; `None`: as we do.
    pub user: Option<Account>,
    /// Everything that it says goes to the end of this file.
    pub output: &'g Path,
    /// The directories that it may write below, and single files; the copies as well.
    pub writes: &'g [&'g Path],
    /// Originals and their copies: it sees the copy where the original was, too.
    pub copies: &'g [(PathBuf, PathBuf)],
    /// It works on the copies under the names of the originals, and is not started where it would not see them there.
    pub instead: bool,
}

/// A guarded program that runs. Dropping it kills it and all that it started.
#[derive(Debug)]
pub struct Running {
    program: PathBuf,
    child: Child,
    /// Closed, or a byte over it, ends the guardian.
    talk: Option<OwnedFd>,
    guardian: Helper,
    ended: Option<ExitStatus>,
}

impl Guarded<'_> {
    /// Starts it.
    ///
    /// # Errors
    /// It cannot be started, or not be confined.
    pub fn start(&self) -> Result<Running> {
        let fail = |error: io::Error| Error::path("start", self.program.path(), error);
        let output = File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(self.output)
            .map_err(|error| Error::path("open", self.output, error))?;
        // A rule holds where its path is reached, and a copy is reached over the original's.
        let copies = self.copies.iter().map(|(_, copy)| copy.as_path());
        let writes: Vec<&Path> = self.writes.iter().copied().chain(copies).collect();
        let confinement = Confinement::to(&writes).and_then(|confinement| match self.instead {
            true => confinement.instead(self.copies, self.user),
            false => confinement.with_copies(self.copies, self.user),
        });
        let confinement = confinement.map_err(|error| Error::kernel("confine a program", error))?;
        let (talk, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|error| Error::kernel("make a socket pair", error))?;
        // SAFETY: the task makes system calls only, on the descriptor that it is given.
        let guardian = unsafe { Helper::fork(c"snapback-guard", [theirs.as_raw_fd()], || guard(3)) };
        let guardian = guardian.map_err(|error| Error::kernel("fork", error))?;
        drop(theirs);
        let mut command = std::process::Command::new(self.program.path());
        super::environment::clean(&mut command);
        command
            .args(self.arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(fail)?)
            .stderr(output)
            .process_group(0);
        let (user, guardian_end) = (self.user, talk.as_raw_fd());
        // SAFETY: between fork and exec, system calls only; `confinement` and the descriptor live until the spawn is over.
        unsafe {
            command.pre_exec(move || {
                tell(guardian_end)?;
                raise_descriptors();
                confinement.enter()?;
                become_user(user)
            });
        }
        let child = command.spawn().map_err(fail)?;
        Ok(Running {
            program: self.program.path().to_owned(),
            child,
            talk: Some(talk),
            guardian,
            ended: None,
        })
    }
}

impl Running {
    /// Its exit status, once it has ended by itself; everything that it left in its group is killed then.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_some() {
            return Ok(self.ended);
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let fail = |error: io::Error| Error::path("wait for", &self.program, error);
        let Some(pid) = self.group() else { return Ok(None) };
        let seen = waitid(rustix::process::WaitId::Pid(pid), options).map_err(|error| fail(error.into()))?;
        if seen.is_none() {
            return Ok(None);
        }
        self.close()
            .map_err(|error| Error::path("wait for", &self.program, error))?;
        Ok(self.ended)
    }

    /// Waits for its end; `None` when the limit has passed.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let until = Instant::now() + limit;
        loop {
            match self.ended()? {
                None if Instant::now() < until => std::thread::sleep(Duration::from_millis(10)),
                ended => return Ok(ended),
            }
        }
    }

    /// Asks its group to end (SIGTERM).
    pub fn ask_to_end(&self) {
        if let Some(group) = self.group().filter(|_| self.ended.is_none()) {
            let _ = kill_process_group(group, Signal::TERM);
        }
    }

    /// Kills it and all that it started, and waits.
    pub fn kill(&mut self) {
        if self.ended.is_none() {
            let _ = self.close();
        }
    }

    fn group(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }

    /// In this order: the group is killed while the leader is not reaped, so its number cannot belong to strangers; the guardian is sent away before that changes.
    fn close(&mut self) -> io::Result<()> {
        if let Some(group) = self.group() {
            let _ = kill_process_group(group, Signal::KILL);
        }
        if let Some(talk) = self.talk.take() {
            let _ = send(&talk, b"x", SendFlags::NOSIGNAL);
        }
        self.guardian.reap();
        self.ended = Some(self.child.wait()?);
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The guardian's life: hear the group's number, wait for the tool's word or end, kill in the latter case.
fn guard(talk: i32) {
    let mut number = [0u8; 4];
    if receive(talk, &mut number) != 4 {
        return;
    }
    let group = i32::from_ne_bytes(number);
    let mut word = [0u8; 4];
    if receive(talk, &mut word) <= 0 && group > 1 {
        // SAFETY: a number only. The leader's parent is gone, and whoever inherited it reaps it only after it has died.
        unsafe { libc::kill(-group, libc::SIGKILL) };
    }
}

/// As many descriptors as a server with many tables asks for: as root, else as many as it may have. Where that fails the server says what it lacks.
fn raise_descriptors() {
    const WANTED: libc::rlim_t = 65_536;
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a structure on the stack.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return;
    }
    for most in [limit.rlim_max.max(WANTED), limit.rlim_max] {
        let new = libc::rlimit {
            rlim_cur: most.min(WANTED),
            rlim_max: most,
        };
        // SAFETY: a structure on the stack.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const new) } == 0 {
            return;
        }
    }
}

fn receive(talk: i32, into: &mut [u8; 4]) -> isize {
    loop {
        // SAFETY: four bytes on the stack.
        let got = unsafe { libc::recv(talk, into.as_mut_ptr().cast(), into.len(), 0) };
        if got >= 0 || !interrupted() {
            return got;
        }
    }
}

/// The child's first act: its own number, which is its group's.
fn tell(guardian: i32) -> io::Result<()> {
    // SAFETY: no pointers; then four bytes on the stack.
    let number = unsafe { libc::getpid() }.to_ne_bytes();
    let sent = unsafe { libc::send(guardian, number.as_ptr().cast(), number.len(), libc::MSG_NOSIGNAL) };
    if sent == 4 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests;
