//! The process groups of programs that may be killed: they end with us, also where nobody waits for them any more.

use std::collections::BTreeSet;
use std::process::{Child, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal, kill_process_group};

static GROUPS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

fn groups() -> MutexGuard<'static, BTreeSet<i32>> {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A program that was started as the leader of a group of its own.
pub fn add(child: &Child) {
    if let Ok(group) = i32::try_from(child.id()) {
        groups().insert(group);
    }
}

/// Its status, if it has ended. Under the lock, so that [`kill_all`] never meets a number that is free again.
pub fn reap(child: &mut Child) -> std::io::Result<Option<ExitStatus>> {
    let mut groups = groups();
    let status = child.try_wait()?;
    if let (Some(_), Ok(group)) = (status, i32::try_from(child.id())) {
        groups.remove(&group);
    }
    Ok(status)
}

/// Kills them all, at the end of the process. Who holds the lock holds it for one system call.
pub fn kill_all() {
    for group in groups().iter().copied().filter_map(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
}
