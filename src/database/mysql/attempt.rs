//! One attempt at the lock: a session of its own, the sequence step by step, the position, and a clean end if it fails.

use std::time::{Duration, Instant};

use super::durability::{ASK_AND_FLUSH, Flush, RAISE_AND_FLUSH};
use super::grounds;
use super::guard::{Guard, temporary_tables};
use super::position::Reading;
use super::same_server::SameServer;
use super::session::{self, Session};
use super::strategy::{Sequence, Step};
use super::watchdog::{Fired, Watchdog};
use crate::database::{Error, QuiesceContext, Result, SettlePoint};
use crate::finding::Finding;
use crate::timeline::Phase;
use crate::units::micros;

/// Where the settle rounds before the lock took longer than this, no further one is made while writers of engines without transactions wait.
const SHORT_SETTLE: Duration = Duration::from_millis(100);

/// How long a lock session that was let go may take to be gone from the server.
const GONE_WITHIN: Duration = Duration::from_secs(2);
/// How long a server may take to answer that a lock is released, where something went wrong before. Then the connection
/// is closed, and the server drops the lock with it.
pub const RELEASED_WITHIN: Duration = Duration::from_secs(1);

/// Everything that one attempt works with.
pub struct Attempt<'a, 'c> {
    /// Bounds and blockers.
    pub guard: Guard<'a>,
    /// The sequence of the strategy.
    pub sequence: Sequence,
    /// Whether durability was raised for the run.
    pub raised: bool,
    /// Whether another attempt follows one under whose lock durability was too low.
    pub insist: bool,
    /// Whether tables of engines without transactions are in the footprint.
    pub other_engines: bool,
    /// How to reach the server, and that it is the one.
    pub server: &'a SameServer,
    /// The run.
    pub context: &'a mut QuiesceContext<'c>,
}

/// A lock that is held: the sessions behind it and what was read.
pub struct Grip {
    /// The pinned session that holds the lock.
    pub session: Session,
    /// Ends it at the limit.
    pub watchdog: Watchdog,
    /// What was read at the start of the hold.
    pub reading: Reading,
    /// When the lock was granted.
    pub granted: Instant,
    /// How long it was waited for.
    pub acquire: Duration,
    /// The steps so far.
    pub steps: Steps,
    /// Whether everything up to the position is in the redo log's file.
    pub written: bool,
    /// What was changed since the beginning.
    pub findings: Vec<Finding>,
}

/// What a lock gave that was granted.
struct Granted {
    reading: Reading,
    granted: Instant,
    acquire: Duration,
    written: bool,
    findings: Vec<Finding>,
}

/// The steps of a lock, timed on the run's clock.
#[derive(Debug, Clone)]
pub struct Steps {
    origin: Instant,
    phases: Vec<Phase>,
}

impl Steps {
    /// No steps yet.
    pub fn new(origin: Instant) -> Steps {
        Steps {
            origin,
            phases: Vec::new(),
        }
    }

    /// Adds a step.
    pub fn add(&mut self, name: &str, begun: Instant, ended: Instant) {
        self.phases.push(Phase {
            name: name.to_owned(),
            start_us: micros(begun.saturating_duration_since(self.origin)),
            us: micros(ended.saturating_duration_since(begun)),
        });
    }

    /// All steps.
    pub fn into_phases(self) -> Vec<Phase> {
        self.phases
    }
}

impl Attempt<'_, '_> {
    /// Takes the lock and reads the position.
    ///
    /// # Errors
    /// [`Error::Busy`] when it may be tried again; anything else when not. Nothing is locked any more.
    pub fn run(&mut self, admin: &mut Session) -> crate::Result<Grip> {
        self.guard.clear(admin, &[], self.context.monitor)?;
        let begun = Instant::now();
        (self.context.settle)(SettlePoint::Before)?;
        let settled = begun.elapsed();
        self.context.cancel.check()?;
        let session = open_lock_session(self.server, &self.guard)?;
        let watchdog = Watchdog::start(self.server, &session, self.context.cancel)?;
        let mut taking = Taking {
            session,
            watchdog,
            steps: Steps::new(self.context.origin),
            budget: self.guard.limits.acquire_timeout,
            last: "",
        };
        match self.take(&mut taking, admin, settled) {
            Ok(granted) => Ok(taking.into_grip(granted)),
            Err(error) => Err(self.give_up(taking, admin, error)),
        }
    }

    /// The sequence itself. On error the caller lets go of everything.
    fn take(&mut self, taking: &mut Taking, admin: &mut Session, settled: Duration) -> crate::Result<Granted> {
        let (sequence, limits) = (self.sequence, self.guard.limits);
        for step in sequence.early {
            taking.step(*step)?;
        }
        if !sequence.early.is_empty() {
            taking.hold(limits.hold_limit)?;
            let others_wait = self.other_engines && sequence.early_stops_other_engines;
            if !others_wait || settled < SHORT_SETTLE {
                let begun = Instant::now();
                (self.context.settle)(SettlePoint::Between)?;
                taking.steps.add("settle-between", begun, Instant::now());
            }
            self.context.cancel.check()?;
        }
        self.guard.clear(admin, &[taking.session.id()], self.context.monitor)?;
        let (mut granted, mut acquire) = (Instant::now(), Duration::ZERO);
        for step in sequence.last {
            let begun = Instant::now();
            taking.step(*step)?;
            granted = Instant::now();
            acquire = granted - begun;
        }
        crate::failpoint!("lock.granted");
        taking.hold(limits.hold_limit)?;
        let flush = taking.flush(self.raised)?;
        let begun = Instant::now();
        let reading = self.guard.reader.read(&mut taking.session)?;
        taking.steps.add("position", begun, Instant::now());
        if reading.open_temp_tables > 0 {
            return Err(temporary_tables(reading.open_temp_tables).into());
        }
        let written = self.judge(flush, &reading)?;
        let first = self.server.first();
        let mut findings = reading.grounds.changes(first);
        if !written && (self.raised || first.commits_are_written()) {
            findings.push(grounds::unwritten(first.get(grounds::COMMIT)));
        }
        Ok(Granted {
            reading,
            granted,
            acquire,
            written,
            findings,
        })
    }

    /// Whether all that was committed is in the redo log's file; by what the server said in the position's own round trip.
    ///
    /// # Errors
    /// [`Error::Busy`] where it is not, and another attempt may have it; or there is no redo log; or another server answers.
    fn judge(&self, flush: Flush, reading: &Reading) -> Result<bool> {
        let grounds = &reading.grounds;
        self.server.judge(grounds)?;
        if !grounds.redo_log {
            return Err(Error::Busy {
                reason: "InnoDB's redo log is disabled (ALTER INSTANCE DISABLE INNODB REDO_LOG): no copy could be recovered; enable it first".into(),
            });
        }
        // MySQL flushes whatever the setting is.
        let written = !self.guard.dialect.is_mariadb() || flush.is_proved(grounds);
        match written || !self.insist {
            true => Ok(written),
            false => Err(Error::Busy {
                reason: format!(
                    "{} was 0 under the lock: another session set it, or the server was started anew",
                    grounds::COMMIT
                ),
            }),
        }
    }

    /// Lets go first, then finds words for what happened (trap 12).
    fn give_up(&mut self, taking: Taking, admin: &mut Session, error: crate::Error) -> crate::Error {
        let Taking {
            mut session, watchdog, ..
        } = taking;
        let id = session.id();
        let fired = watchdog.fired();
        watchdog.disarm();
        if fired.is_none() {
            // On MySQL a FTWRL that failed may hold the global read lock all the same (trap 5).
            session.set_limit(RELEASED_WITHIN);
            drop(session.run(self.sequence.unlock));
        }
        drop(session);
        drop(watchdog);
        let gone = ensure_gone(admin, self.server, id);
        let error = match gone {
            Ok(()) => self.explain(admin, id, fired, error),
            // Nothing more is asked of a server that does not answer.
            Err(_) => self.explain_hold(fired, error),
        };
        error.and_rollback(gone.map_err(Into::into))
    }

    fn explain(&self, admin: &mut Session, id: u64, fired: Option<Fired>, error: crate::Error) -> crate::Error {
        if let Err(interrupted) = self.context.cancel.check() {
            return interrupted;
        }
        let (step, code) = match &error {
            crate::Error::Database(Error::Statement { statement, code, .. }) => (statement.clone(), *code),
            _ => return error,
        };
        match fired {
            Some(Fired::HoldLimit) => self.explain_hold(fired, error),
            Some(Fired::AcquireTimeout) => self.guard.timed_out(admin, &[id], &step).into(),
            _ if code == session::LOCK_WAIT_TIMEOUT => self.guard.timed_out(admin, &[id], &step).into(),
            _ => error,
        }
    }
}

impl Attempt<'_, '_> {
    /// The words for an end that needs no question to the server.
    fn explain_hold(&self, fired: Option<Fired>, error: crate::Error) -> crate::Error {
        match (self.context.cancel.check(), fired) {
            (Err(interrupted), _) => interrupted,
            (Ok(()), Some(Fired::HoldLimit)) => Error::LockLost {
                reason: format!(
                    "it took longer than the hold limit of {:?} before the snapshot",
                    self.guard.limits.hold_limit
                ),
            }
            .into(),
            (Ok(()), _) => error,
        }
    }
}

/// A lock on its way.
struct Taking {
    session: Session,
    watchdog: Watchdog,
    steps: Steps,
    /// What is left of the time that the attempt may wait.
    budget: Duration,
    /// The statement that was sent last.
    last: &'static str,
}

impl Taking {
    fn step(&mut self, step: Step) -> Result<()> {
        self.last = step.1;
        self.watch(self.budget, Fired::AcquireTimeout)?;
        let begun = Instant::now();
        let answer = self.step_unbounded(step);
        self.budget = self.budget.saturating_sub(begun.elapsed());
        answer
    }

    /// The last step's lock is granted: from now on it is held. Not so where the wait ended at that very moment: the KILL is on its way then,
    /// and would come in the middle of the hold.
    fn hold(&self, limit: Duration) -> Result<()> {
        self.watch(limit, Fired::HoldLimit)
    }

    fn watch(&self, limit: Duration, why: Fired) -> Result<()> {
        self.watchdog.arm(limit, why).map_err(|fired| Error::Statement {
            statement: self.last.into(),
            code: 0,
            reason: format!("its session was ended: {fired:?}"),
        })
    }

    /// The engines' logs, and the setting by which that works.
    fn flush(&mut self, raised: bool) -> Result<Flush> {
        let begun = Instant::now();
        let answers = self
            .session
            .batch(if raised { RAISE_AND_FLUSH } else { ASK_AND_FLUSH })?;
        self.steps.add("flush-engine-logs", begun, Instant::now());
        Ok(Flush::of(&answers))
    }

    fn into_grip(self, granted: Granted) -> Grip {
        Grip {
            session: self.session,
            watchdog: self.watchdog,
            reading: granted.reading,
            granted: granted.granted,
            acquire: granted.acquire,
            steps: self.steps,
            written: granted.written,
            findings: granted.findings,
        }
    }

    fn step_unbounded(&mut self, (name, statement): Step) -> Result<()> {
        let begun = Instant::now();
        self.session.run(statement)?;
        self.steps.add(name, begun, Instant::now());
        Ok(())
    }
}

/// Whole seconds, rounded up.
fn seconds(span: Duration) -> u64 {
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}

/// The dead-man switch is the server's own: an idle holder is dropped after `wait_timeout` (trap 4).
fn open_lock_session(server: &SameServer, guard: &Guard<'_>) -> Result<Session> {
    let limits = guard.limits;
    let mut session = server.open(limits.acquire_timeout + limits.hold_limit + Duration::from_secs(30))?;
    session.run(&format!(
        "SET SESSION wait_timeout = {}, lock_wait_timeout = {}",
        seconds(limits.hold_limit) + 1,
        seconds(limits.acquire_timeout).max(1),
    ))?;
    // Nothing that we run is written to the binary log anyway; where the privilege is there, say so twice.
    drop(session.run("SET SESSION sql_log_bin = 0"));
    Ok(session)
}

/// Waits until a connection is gone from the server, and ends it if it lingers; [`GONE_WITHIN`] altogether. A server at
/// which nobody listens any more holds no locks. The admin session is replaced if it broke: it never holds anything.
///
/// # Errors
/// It is still there, or the server does not tell.
pub fn ensure_gone(admin: &mut Session, server: &SameServer, id: u64) -> Result<()> {
    let deadline = Instant::now() + GONE_WITHIN;
    let look = format!("SELECT ID FROM information_schema.PROCESSLIST WHERE ID = {id}");
    let answer = loop {
        let Some(left) = deadline.checked_duration_since(Instant::now()) else {
            break Err(format!("our connection {id} is still there and may hold a lock"));
        };
        admin.set_limit(left);
        match admin.rows(&look) {
            Ok(rows) if rows.is_empty() => break Ok(()),
            Ok(_) => drop(admin.kill(id)),
            Err(error) => match again(server, deadline) {
                Ok(Some(session)) => *admin = session,
                Ok(None) => break Ok(()),
                Err(_) => break Err(unknown(&server.options, id, &error)),
            },
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    admin.set_limit(session::PATIENCE);
    answer.map_err(|reason| Error::Statement {
        statement: format!("KILL {id}"),
        code: 0,
        reason,
    })
}

/// A new admin session; `None` where nobody listens any more, or another server does: ours ended, and its connections with it.
fn again(server: &SameServer, deadline: Instant) -> Result<Option<Session>> {
    let left = deadline.saturating_duration_since(Instant::now());
    match server.patient(left) {
        Ok(session) => Ok(Some(session)),
        Err(Error::LockLost { .. }) if server.has_ended() => Ok(None),
        Err(_) if session::nobody_listens(&server.options, GONE_WITHIN / 2) => Ok(None),
        Err(error) => Err(error),
    }
}

fn unknown(options: &super::connect::ConnectOptions, id: u64, error: &Error) -> String {
    format!(
        "the server at {} does not say whether our connection {id} is gone ({error}); the server itself ends it soon, by the \
         wait_timeout that it was given before the lock",
        options.address()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_round_up() {
        assert_eq!(seconds(Duration::from_millis(1)), 1);
        assert_eq!(seconds(Duration::from_secs(2)), 2);
        assert_eq!(seconds(Duration::from_millis(2001)), 3);
    }
}
