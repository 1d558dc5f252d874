//! Scheduling: a thread that holds a lock must not wait for a processor; a thread that copies must not make others wait for the disk.
#![allow(unsafe_code)]

/// While it lives, this thread runs before ordinary ones (SCHED_RR at the lowest real-time priority); best effort.
#[derive(Debug)]
pub struct Raised(bool);

impl Raised {
    /// Raises this thread. Without the privilege nothing changes.
    pub fn this_thread() -> Raised {
        Raised(schedule(libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, 1))
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        if self.0 {
            schedule(libc::SCHED_OTHER, 0);
        }
    }
}

fn schedule(policy: i32, priority: i32) -> bool {
    let parameter = libc::sched_param { sched_priority: priority };
    // SAFETY: sched_setscheduler(2) reads one sched_param; pid 0 is the calling thread.
    unsafe { libc::sched_setscheduler(0, policy, &parameter) == 0 }
}

/// Gives this thread's reads the idle class (ioprio_set(2)): they wait while others use the disk. Best effort.
pub fn idle_io() {
    const WHO_PROCESS: libc::c_int = 1;
    const CLASS_IDLE: libc::c_int = 3 << 13;
    // SAFETY: ioprio_set takes three integers; who 0 is the calling thread.
    unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, CLASS_IDLE) };
}
