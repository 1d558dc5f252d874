//! Volumes that no single command takes at one instant: every filesystem but one is frozen, then each snapshot is taken, then all are thawed.
//!
//! The one that is not frozen, the anchor, is what can be taken at one instant but not while frozen (a Btrfs snapshot waits for the thaw; ZFS cannot be
//! frozen), or what must stay writable because the tools at work write to it. Its own decisive call is the instant for all: the others do not change around it.

mod arrange;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

pub use arrange::{Arrangement, arrange};

use super::{Error, Prepared, Provider, Result, Snapshot};
use crate::finding::Finding;
use crate::sys::failpoint;
use crate::sys::freeze::Freezer;

/// For the test that shows what the freezing is for.
const UNGUARDED: &str = "barrier.unguarded";

/// What one provider takes by one decisive call.
#[derive(Clone)]
pub struct Set<'p> {
    /// The provider of all of it.
    pub provider: &'p dyn Provider,
    /// As the journal has it.
    pub planned: Vec<Snapshot>,
}

/// Snapshots of several sets, made to agree.
pub struct Barrier<'p> {
    /// The anchor first.
    sets: Vec<Waiting<'p>>,
    freezer: Option<Freezer>,
    alive: Option<OwnedFd>,
}

struct Waiting<'p> {
    set: Set<'p>,
    /// `None`: a command of the set before holds the vendor's lock, so that this one is prepared while everything is frozen.
    prepared: Option<Box<dyn Prepared>>,
}

impl<'p> Barrier<'p> {
    /// Prepares as many of the sets as can be at a time, and a keeper for each filesystem that will be frozen, for `limit` at most.
    ///
    /// # Errors
    /// Nothing is left behind.
    pub fn prepare(
        sets: Vec<Set<'p>>,
        frozen: &[std::path::PathBuf],
        limit: Duration,
        alive: Option<BorrowedFd<'_>>,
    ) -> Result<Barrier<'p>> {
        let mut barrier = Barrier {
            sets: Vec::new(),
            freezer: Some(Freezer::prepare(frozen, limit)?),
            alive: copy_of(alive)?,
        };
        let mut locks: Vec<String> = Vec::new();
        for set in sets {
            let own = locks_of(&set);
            let prepared = if own.iter().any(|lock| locks.contains(lock)) {
                None
            } else {
                match set.provider.prepare(&set.planned, barrier.alive()) {
                    Ok(prepared) => Some(prepared),
                    Err(error) => {
                        // The first failure is the one to be told; but a command that runs on has to be known.
                        return Err(match barrier.abandon_all() {
                            Err(running @ Error::Sys(crate::sys::Error::StillRunning { .. })) => running,
                            _ => error,
                        });
                    }
                }
            };
            locks.extend(own);
            barrier.sets.push(Waiting { set, prepared });
        }
        Ok(barrier)
    }

    fn alive(&self) -> Option<BorrowedFd<'_>> {
        self.alive.as_ref().map(AsFd::as_fd)
    }

    fn take(&mut self, freezer: &mut Freezer) -> Result<()> {
        if !failpoint::asked(UNGUARDED) {
            freezer.freeze()?;
        }
        crate::failpoint!("barrier.frozen", || Error::failed(
            "snapshot",
            "the volumes",
            "failpoint"
        ));
        for waiting in &mut self.sets {
            if let Some(prepared) = &mut waiting.prepared {
                prepared.fix()?;
            }
        }
        crate::failpoint!("barrier.anchor-fixed");
        for at in 0..self.sets.len() {
            if self.sets.get(at).is_some_and(|waiting| waiting.prepared.is_none()) {
                self.take_late(at)?;
            }
        }
        Ok(())
    }

    /// A set that could not be prepared before: once the commands that hold its lock have ended.
    fn take_late(&mut self, at: usize) -> Result<()> {
        let (before, rest) = self.sets.split_at_mut(at);
        let Some(waiting) = rest.first_mut() else { return Ok(()) };
        let own = locks_of(&waiting.set);
        for other in before {
            let holds = locks_of(&other.set).iter().any(|lock| own.contains(lock));
            if let Some(prepared) = other.prepared.as_mut().filter(|_| holds) {
                prepared.let_end()?;
            }
        }
        let alive = self.alive.as_ref().map(AsFd::as_fd);
        let mut prepared = waiting.set.provider.prepare(&waiting.set.planned, alive)?;
        let fixed = prepared.fix();
        waiting.prepared = Some(prepared);
        fixed.map(drop)
    }

    /// Thaws first.
    fn abandon_all(&mut self) -> Result<()> {
        self.freezer = None;
        let mut first = Ok(());
        for waiting in std::mem::take(&mut self.sets) {
            if let Some(prepared) = waiting.prepared {
                first = first.and(prepared.abandon());
            }
        }
        first
    }
}

fn locks_of(set: &Set<'_>) -> Vec<String> {
    let locks = set.planned.iter();
    locks
        .filter_map(|snapshot| set.provider.exclusive(&snapshot.volume))
        .collect()
}

fn copy_of(descriptor: Option<BorrowedFd<'_>>) -> Result<Option<OwnedFd>> {
    let copied = descriptor.map(|descriptor| descriptor.try_clone_to_owned()).transpose();
    Ok(copied.map_err(|error| crate::sys::Error::kernel("duplicate a descriptor", error))?)
}

impl Prepared for Barrier<'_> {
    fn fix(&mut self) -> Result<(Instant, Instant)> {
        let begun = Instant::now();
        let mut freezer = self
            .freezer
            .take()
            .ok_or_else(|| Error::failed("snapshot", "the volumes", "they were given up already"))?;
        // On a failure the freezer is dropped, which thaws.
        self.take(&mut freezer)?;
        if !failpoint::asked(UNGUARDED) {
            freezer.thaw()?;
        }
        Ok((begun, Instant::now()))
    }

    fn let_end(&mut self) -> Result<()> {
        let mut prepared = self.sets.iter_mut().filter_map(|waiting| waiting.prepared.as_mut());
        prepared.try_for_each(|prepared| prepared.let_end())
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<Snapshot>> {
        let mut made: Vec<(&dyn Provider, Snapshot)> = Vec::new();
        let mut failed = None;
        for waiting in std::mem::take(&mut self.sets) {
            let Some(prepared) = waiting.prepared else { continue };
            if failed.is_some() {
                let _ = prepared.abandon();
                continue;
            }
            match prepared.finish() {
                Ok(snapshots) => made.extend(snapshots.into_iter().map(|one| (waiting.set.provider, one))),
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            None => Ok(made.into_iter().map(|(_, snapshot)| snapshot).collect()),
            Some(error) => {
                for (provider, snapshot) in made {
                    let _ = provider.remove(&snapshot);
                }
                Err(error)
            }
        }
    }

    fn abandon(mut self: Box<Self>) -> Result<()> {
        self.abandon_all()
    }

    fn notes(&self) -> Vec<Finding> {
        let prepared = self.sets.iter().filter_map(|waiting| waiting.prepared.as_ref());
        prepared.flat_map(|prepared| prepared.notes()).collect()
    }
}

#[cfg(test)]
mod tests;
