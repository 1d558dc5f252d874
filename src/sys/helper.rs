//! A forked process with one task and nothing else: it outlives a signal to the tool, keeps only the descriptors that it is given, and makes system calls only.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::ptr::null_mut;
use std::time::{Duration, Instant};

/// How long a helper's end is waited for.
const LINGER: Duration = Duration::from_secs(1);

/// A forked helper, not yet waited for.
#[derive(Debug)]
pub struct Helper(Option<libc::pid_t>);

impl Helper {
    /// Forks a process that has `given` as its descriptors 3, 4, 5 (and nothing else of the tool's open: neither its output nor its sessions,
    /// whose end ends a lock), blocks all signals, and ends when `task` returns.
    ///
    /// # Safety
    /// `task` runs between fork and exit in a process that may have had threads: system calls only, no allocation, no locks. The descriptors
    /// are open.
    ///
    /// # Errors
    /// fork(2) failed.
    pub unsafe fn fork<const N: usize>(name: &CStr, given: [i32; N], task: impl FnOnce()) -> io::Result<Helper> {
        // SAFETY: the child keeps to what is asked of `task`, and never returns.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                unsafe { shed(name, given) };
                task();
                unsafe { libc::_exit(0) }
            }
            pid => Ok(Helper(Some(pid))),
        }
    }

    /// Its process number, until it was waited for.
    #[cfg(test)]
    pub fn pid(&self) -> Option<libc::pid_t> {
        self.0
    }

    /// Waits for its end; not for long: what it serves may still need it. Says whether it was killed.
    pub fn reap(&mut self) -> bool {
        let Some(pid) = self.0.take() else { return false };
        let until = Instant::now() + LINGER;
        let mut status = 0;
        loop {
            // SAFETY: our own child, which nobody else waits for; the status is on the stack.
            match unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) } {
                0 if Instant::now() < until => std::thread::sleep(Duration::from_millis(1)),
                -1 if interrupted() => {}
                ended => return ended == pid && libc::WIFSIGNALED(status),
            }
        }
    }
}

/// Keeps all memory of this process, now and later, from being paged out or read in late: a page fault on a device that is suspended would wait for
/// what only this process can do. Returns 0, or the error's number.
pub fn lock_memory() -> i32 {
    // SAFETY: a system call without pointers.
    match unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) } {
        0 => 0,
        _ => io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO),
    }
}

/// Whether the last system call was interrupted by a signal.
pub fn interrupted() -> bool {
    io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
}

/// Signals that are meant for the tool (Ctrl-C, a service's stop) must not end a helper.
unsafe fn shed<const N: usize>(name: &CStr, mut given: [i32; N]) {
    // SAFETY (all): system calls on the child's own descriptors and stack.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &all, null_mut());
        libc::setsid();
        libc::prctl(libc::PR_SET_NAME, name.as_ptr());
        // First to numbers out of the way; -1 stays -1.
        for descriptor in &mut given {
            *descriptor = libc::fcntl(*descriptor, libc::F_DUPFD, 100);
        }
        for (at, descriptor) in (3..).zip(given) {
            libc::close(at);
            libc::dup2(descriptor, at);
        }
        // When memory runs out, it is needed most. Where this is refused, it goes on without.
        let badness = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY);
        libc::write(badness, c"-1000".as_ptr().cast(), 5);
        libc::close(badness);
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
        for standard in 0..3 {
            libc::dup2(null, standard);
        }
        let rest = 3 + N as libc::c_uint;
        if libc::syscall(libc::SYS_close_range, rest, libc::c_uint::MAX, 0) != 0 {
            for descriptor in rest..4096 {
                libc::close(descriptor as i32);
            }
        }
    }
}
