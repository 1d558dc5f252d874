//! A `zfs snapshot` of all datasets that waits at its ioctl.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::super::{Error, Prepared, Result, Snapshot};
use super::own;
use super::report::{PROPERTY, zfs};
use crate::finding::Finding;
use crate::sys::brink::{Brink, ZFS_IOC_SNAPSHOT, unsupported};
use crate::sys::command::Command;

/// The longest that `zfs snapshot` may take to get to its ioctl, and from there to its end.
const LIMIT: Duration = Duration::from_secs(120);
/// The longest that the ioctl may take: it waits for a transaction group.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(60);

pub struct PreparedZfs {
    planned: Vec<Snapshot>,
    step: Step,
    notes: Vec<Finding>,
}

/// For tests of what comes of a pool that never answers.
fn impatient(limit: Duration) -> Duration {
    if crate::sys::failpoint::asked("zfs.impatient") {
        Duration::from_secs(20)
    } else {
        limit
    }
}

/// How far the set is.
enum Step {
    /// Waits at the ioctl.
    Waiting(Brink),
    /// This kernel cannot hold a command: it runs under the lock as a whole.
    Plain(Command),
    /// Done, or given up.
    Over,
}

impl PreparedZfs {
    pub fn prepare(planned: &[Snapshot], alive: Option<BorrowedFd<'_>>) -> Result<PreparedZfs> {
        let Some(first) = planned.first() else {
            return Err(Error::failed("snapshot", "ZFS", "there is no dataset"));
        };
        for snapshot in planned {
            own::origin_is_the_same(snapshot)?;
        }
        let command = zfs("snapshot")?
            .limit(impatient(LIMIT))
            .args(["-o", &format!("{PROPERTY}={}", first.run)])
            .args(planned.iter().map(|snapshot| &snapshot.name));
        let mut prepared = PreparedZfs {
            planned: planned.to_vec(),
            step: Step::Over,
            notes: Vec::new(),
        };
        let mut brink = match Brink::start(&command, &[ZFS_IOC_SNAPSHOT], alive) {
            Ok(brink) => brink,
            Err(error) if unsupported(&error) => {
                let said = format!(
                    "zfs snapshot ran under the lock as a whole, because it cannot be held at its decisive call here: {error}"
                );
                prepared.notes.push(Finding::note("no-brink", said));
                prepared.step = Step::Plain(command);
                return Ok(prepared);
            }
            Err(error) => return Err(error.into()),
        };
        if brink.reach(|_| true, LIMIT)? {
            prepared.step = Step::Waiting(brink);
            return Ok(prepared);
        }
        // It took its snapshot without a lock, or failed and says why.
        prepared.give_up(brink)??;
        let reason = format!(
            "zfs snapshot did not get to its ioctl within {} s; what it made was removed",
            LIMIT.as_secs()
        );
        Err(Error::failed("snapshot", &first.volume.source, reason))
    }

    /// Lets the command end, removes what it made, and returns what came of it. One that runs on (its pool is suspended) is left to `cleanup`, for which the
    /// run is alive until its end.
    fn give_up(&self, brink: Brink) -> Result<Result<()>> {
        match brink.finish() {
            Err(running @ crate::sys::Error::StillRunning { .. }) => Err(running.into()),
            ended => {
                self.remove_all()?;
                Ok(ended.map(drop).map_err(Error::from))
            }
        }
    }

    fn remove_all(&self) -> Result<()> {
        let mut first = Ok(());
        for snapshot in &self.planned {
            first = first.and(own::remove(snapshot).map(drop));
        }
        first
    }

    fn complete(&mut self) -> Result<Vec<Snapshot>> {
        if let Step::Waiting(brink) = std::mem::replace(&mut self.step, Step::Over) {
            brink.finish()?;
        }
        self.planned.iter().map(own::identified_and_held).collect()
    }
}

impl Prepared for PreparedZfs {
    fn fix(&mut self) -> Result<(Instant, Instant)> {
        let begun = Instant::now();
        match std::mem::replace(&mut self.step, Step::Over) {
            Step::Waiting(mut brink) => {
                crate::failpoint!("zfs.at-brink", || Error::failed("snapshot", "the volume", "failpoint"));
                let fixed = brink.go(impatient(SNAPSHOT_LIMIT));
                self.step = Step::Waiting(brink);
                Ok((begun, fixed?))
            }
            Step::Plain(command) => {
                command.run()?;
                Ok((begun, Instant::now()))
            }
            Step::Over => Err(Error::failed("snapshot", "the datasets", "they were given up already")),
        }
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<Snapshot>> {
        let finished = self.complete();
        if finished.is_err() {
            let _ = self.remove_all();
        }
        finished
    }

    fn abandon(mut self: Box<Self>) -> Result<()> {
        match std::mem::replace(&mut self.step, Step::Over) {
            // It may fail; then there is nothing to remove, or `remove` says why not.
            Step::Waiting(brink) => self.give_up(brink).map(drop),
            Step::Plain(_) | Step::Over => self.remove_all(),
        }
    }

    fn notes(&self) -> Vec<Finding> {
        self.notes.clone()
    }
}
