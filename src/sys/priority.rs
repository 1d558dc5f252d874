//! How much the processor and the disks favour a thread. All of it is best effort: a refusal changes nothing.
#![allow(unsafe_code)]

use std::io;
use std::marker::PhantomData;

/// Linux's numbers for ioprio_set(2), which libc does not wrap.
const IOPRIO_WHO_PROCESS: libc::c_int = 1;
const IOPRIO_CLASS_IDLE: libc::c_int = 3;
const IOPRIO_CLASS_SHIFT: libc::c_int = 13;

/// Gives the calling thread idle I/O priority: its reads wait while anybody else wants the disk (schedulers without
/// priorities ignore it).
///
/// # Errors
/// The kernel refused; nothing changed.
pub fn idle_io() -> io::Result<()> {
    // SAFETY: ioprio_set takes three integers; 0 means the calling thread.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_ioprio_set,
            IOPRIO_WHO_PROCESS,
            0,
            IOPRIO_CLASS_IDLE << IOPRIO_CLASS_SHIFT,
        )
    };
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Lets the calling thread run after others that want the processor (nice 19): a backup must not take it from the server.
/// Best effort.
pub fn lower_cpu() {
    // SAFETY: integers only; 0 means the calling thread (setpriority(2), "C library/kernel differences").
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
}

/// The calling thread runs before ordinary ones until this is dropped. Must be dropped on the thread that made it.
#[derive(Debug)]
pub struct Raised {
    old: Old,
    same_thread: PhantomData<*const ()>,
}

#[derive(Debug)]
enum Old {
    Unchanged,
    Policy(libc::c_int, libc::sched_param),
    Nice(libc::c_int),
}

/// Raises the calling thread for the short time in which a server is locked: the lowest real-time priority, else nice -20,
/// else nothing. Threads that it starts meanwhile are not raised.
pub fn raise() -> Raised {
    Raised {
        old: real_time().or_else(negative_nice).unwrap_or(Old::Unchanged),
        same_thread: PhantomData,
    }
}

impl Raised {
    /// What was had, in words.
    pub fn how(&self) -> &'static str {
        match self.old {
            Old::Unchanged => "ordinary priority",
            Old::Policy(..) => "real-time priority 1",
            Old::Nice(_) => "nice -20",
        }
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        match &self.old {
            Old::Unchanged => {}
            Old::Policy(policy, parameters) => {
                // SAFETY: `parameters` outlives the call; 0 means the calling thread, the one that was raised (not Send).
                unsafe { libc::sched_setscheduler(0, *policy, parameters) };
            }
            Old::Nice(nice) => {
                // SAFETY: three integers; 0 means the calling thread.
                unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, *nice) };
            }
        }
    }
}

fn real_time() -> Option<Old> {
    let mut old = libc::sched_param { sched_priority: 0 };
    // SAFETY: plain queries of the calling thread (0); `old` is a valid place for the answer.
    let policy = unsafe {
        if libc::sched_getparam(0, &mut old) != 0 {
            return None;
        }
        libc::sched_getscheduler(0)
    };
    let new = libc::sched_param { sched_priority: 1 };
    // SAFETY: `new` outlives the call.
    let answer = unsafe { libc::sched_setscheduler(0, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, &new) };
    (policy >= 0 && answer == 0).then_some(Old::Policy(policy, old))
}

fn negative_nice() -> Option<Old> {
    // SAFETY: integers only; -1 is an answer as well as an error, and either is a good value to put back.
    unsafe {
        let old = libc::getpriority(libc::PRIO_PROCESS, 0);
        (libc::setpriority(libc::PRIO_PROCESS, 0, -20) == 0).then_some(Old::Nice(old))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> libc::c_int {
        // SAFETY: a query of the calling thread.
        unsafe { libc::sched_getscheduler(0) }
    }

    #[test]
    fn a_raised_thread_is_put_back() {
        std::thread::spawn(|| {
            let before = policy();
            let raised = raise();
            if matches!(raised.old, Old::Policy(..)) {
                assert_eq!(policy() & !libc::SCHED_RESET_ON_FORK, libc::SCHED_RR);
            }
            drop(raised);
            assert_eq!(policy(), before);
        })
        .join()
        .unwrap();
    }
}
