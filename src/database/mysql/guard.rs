//! The guard around the lock: nobody is queued behind us. Blockers are looked for first, waits are bounded, attempts back off.

use std::time::{Duration, Instant};

use super::blockers::{self, Blocker, Doing, Search, Source};
use super::flavour::Dialect;
use super::position::Reader;
use super::session::Session;
use crate::database::{Error, LockLimits, OnBusy, Result, Strategy};
use crate::monitor::Monitor;
use crate::sys::signal::Cancel;

/// How long a killed statement gets to go away before the attempt is given up.
const KILL_GRACE: Duration = Duration::from_millis(500);
/// How often that is looked at, and how often a signal is looked for in a pause.
const POLL: Duration = Duration::from_millis(20);

/// What the guard needs to know of the server.
#[derive(Debug, Clone, Copy)]
pub struct Guard<'a> {
    /// The server's kind.
    pub dialect: Dialect,
    /// Where locks can be seen.
    pub source: Source,
    /// The resolved strategy.
    pub strategy: Strategy,
    /// The limits.
    pub limits: &'a LockLimits,
    /// Decided before.
    pub reader: &'a Reader,
}

impl Guard<'_> {
    /// Makes sure that nobody is in the way, by the means that `on_busy` allows.
    ///
    /// # Errors
    /// [`Error::Busy`] with who is in the way; or the server cannot be asked.
    pub fn clear(&self, admin: &mut Session, own: &[u64], monitor: &dyn Monitor) -> Result<()> {
        self.no_temporary_tables(admin)?;
        let blockers = self.find(admin, self.limits.blocker_age, own)?;
        if blockers.is_empty() {
            return Ok(());
        }
        let left = self.kill(admin, own, monitor, blockers)?;
        if left.is_empty() { Ok(()) } else { Err(self.busy(&left)) }
    }

    /// Who would be in the way of the lock now, from this age on.
    ///
    /// # Errors
    /// The server cannot be asked.
    pub fn find(&self, admin: &mut Session, age: Duration, own: &[u64]) -> Result<Vec<Blocker>> {
        let Guard {
            dialect,
            source,
            strategy,
            ..
        } = *self;
        blockers::find(
            admin,
            Search {
                dialect,
                source,
                strategy,
                age,
                own,
            },
        )
    }

    /// Ends what may be ended, and returns who is left.
    fn kill(
        &self,
        admin: &mut Session,
        own: &[u64],
        monitor: &dyn Monitor,
        blockers: Vec<Blocker>,
    ) -> Result<Vec<Blocker>> {
        let mine = |blocker: &Blocker| may_kill(self.limits.on_busy, blocker);
        if !blockers.iter().any(mine) {
            return Ok(blockers);
        }
        for blocker in blockers.iter().filter(|blocker| mine(blocker)) {
            monitor.message(&format!("ending what is in the lock's way: {blocker}"));
            match blocker.doing {
                Doing::TableLock | Doing::Backup => admin.kill(blocker.id)?,
                Doing::Read | Doing::Write | Doing::Ddl => admin.kill_query(blocker.id)?,
            }
        }
        let deadline = Instant::now() + KILL_GRACE;
        loop {
            let left = self.find(admin, self.limits.blocker_age, own)?;
            if left.is_empty() || Instant::now() >= deadline {
                return Ok(left);
            }
            std::thread::sleep(POLL);
        }
    }

    /// A replica that applies statements keeps temporary tables that no snapshot has (trap 17).
    fn no_temporary_tables(&self, admin: &mut Session) -> Result<()> {
        if !self.reader.is_replica() {
            return Ok(());
        }
        match self.reader.read(admin)?.open_temp_tables {
            0 => Ok(()),
            open => Err(temporary_tables(open)),
        }
    }

    /// The error for those who are in the way.
    pub fn busy(&self, blockers: &[Blocker]) -> Error {
        let list: Vec<String> = blockers.iter().take(5).map(Blocker::to_string).collect();
        let more = match blockers.len().saturating_sub(5) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let way_out = match blockers.iter().all(|blocker| blocker.system) {
            true => "wait for the server's own threads, or use strategy `lockless`",
            false => "wait for them, or allow `on_busy: kill-reads` or `kill-all`",
        };
        Error::Busy {
            reason: format!("in the lock's way: {}{more}; {way_out}", list.join("; ")),
        }
    }

    /// The error for a wait that ran out; says who was there, as far as that can be seen.
    pub fn timed_out(&self, admin: &mut Session, own: &[u64], step: &str) -> Error {
        let limit = self.limits.acquire_timeout;
        let who = self.find(admin, limit / 2, own).unwrap_or_default();
        if !who.is_empty() {
            return self.busy(&who);
        }
        let Guard {
            dialect,
            source,
            strategy,
            ..
        } = *self;
        let search = Search {
            dialect,
            source,
            strategy,
            age: limit / 2,
            own,
        };
        let suspects = blockers::suspects(admin, search).unwrap_or_default();
        let hint = match self.source.sees_table_locks() {
            _ if !suspects.is_empty() => &format!("longest at a statement then: {}", suspects.join("; ")),
            true => "nobody was seen holding it up",
            false => {
                "nobody was seen holding it up; an idle session with LOCK TABLES cannot be seen here without the plugin \
                 metadata_lock_info"
            }
        };
        Error::Busy {
            reason: format!("the lock was not granted within {limit:?} (at {step}): {hint}"),
        }
    }
}

/// The error for a replica whose applier needs temporary tables.
pub fn temporary_tables(open: u64) -> Error {
    Error::Busy {
        reason: format!(
            "the replica's applier has {open} temporary tables open, which no copy would have; replicate by rows, \
             or try again later"
        ),
    }
}

/// Only what was seen in the way is ended; replication and the server's own threads never are.
fn may_kill(on_busy: OnBusy, blocker: &Blocker) -> bool {
    !blocker.system
        && match on_busy {
            OnBusy::Fail | OnBusy::Wait => false,
            OnBusy::KillReads => blocker.doing == Doing::Read,
            OnBusy::KillAll => blocker.doing != Doing::Backup,
        }
}

/// Pauses, unless a signal asks to end.
///
/// # Errors
/// A signal asked.
pub fn pause(span: Duration, cancel: &Cancel) -> crate::Result<()> {
    let deadline = Instant::now() + span;
    loop {
        cancel.check()?;
        match deadline.checked_duration_since(Instant::now()) {
            None => return Ok(()),
            Some(left) => std::thread::sleep(left.min(POLL)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocker(doing: Doing, system: bool) -> Blocker {
        Blocker {
            id: 1,
            user: "app".into(),
            age: Duration::from_secs(3),
            state: String::new(),
            doing,
            system,
            statement: 0,
        }
    }

    #[test]
    fn only_what_was_allowed_is_killed() {
        use Doing::{Backup, Ddl, Read, TableLock, Write};
        for doing in [Read, Write, Ddl, TableLock, Backup] {
            for on_busy in [OnBusy::Fail, OnBusy::Wait] {
                assert!(!may_kill(on_busy, &blocker(doing, false)));
            }
            assert!(!may_kill(OnBusy::KillAll, &blocker(doing, true)));
            assert_eq!(may_kill(OnBusy::KillReads, &blocker(doing, false)), doing == Read);
            assert_eq!(may_kill(OnBusy::KillAll, &blocker(doing, false)), doing != Backup);
        }
    }

    #[test]
    fn a_pause_ends_at_once_when_a_signal_asks() {
        let cancel = Cancel::new();
        cancel.cancel(15);
        let begun = Instant::now();
        assert!(pause(Duration::from_secs(10), &cancel).is_err());
        assert!(begun.elapsed() < Duration::from_secs(1));
    }
}
