//! A server that is quiet, and how it is let go.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::attempt::{Grip, RELEASED_WITHIN, Steps, ensure_gone};
use super::binlog::temporary;
use super::durability;
use super::position::{Reader, Reading};
use super::same_server::SameServer;
use super::server::Server;
use super::session::{self, Session};
use super::strategy::Sequence;
use super::watchdog::Fired;
use crate::database::{Coordinates, Error, LockFigures, Quiesced, Released, Result, Strategy};
use crate::finding::Finding;
use crate::journal::Setting;
use crate::units::micros;

/// How long each statement may take that puts a setting back; the journal has it until then.
const PUT_BACK_WITHIN: Duration = Duration::from_secs(5);

/// A held lock.
pub struct Held<'s> {
    admin: &'s mut Session,
    server: &'s SameServer,
    grip: Option<Grip>,
    reader: Reader,
    coordinates: Coordinates,
    strategy: Strategy,
    sequence: Sequence,
    attempts: u32,
    exact: bool,
    setting: Option<Setting>,
    temporary_in: Option<PathBuf>,
    findings: Vec<Finding>,
}

/// What was decided before the lock and goes into its outcome.
pub struct Terms {
    /// The resolved strategy.
    pub strategy: Strategy,
    /// Its sequence.
    pub sequence: Sequence,
    /// Attempts that it took.
    pub attempts: u32,
    /// Whether the position is exact if it does not move.
    pub exact: bool,
    /// The setting to put back.
    pub setting: Option<Setting>,
    /// Where the binary log lies, if it may have open temporary tables in it.
    pub temporary_in: Option<PathBuf>,
}

impl<'s> Held<'s> {
    /// Takes over a lock.
    pub fn new(admin: &'s mut Session, server: &'s SameServer, grip: Grip, reader: Reader, terms: Terms) -> Held<'s> {
        Held {
            admin,
            server,
            coordinates: grip.reading.coordinates.clone(),
            reader,
            strategy: terms.strategy,
            sequence: terms.sequence,
            attempts: terms.attempts,
            exact: terms.exact && grip.written,
            setting: terms.setting,
            temporary_in: terms.temporary_in,
            findings: grip.findings.clone(),
            grip: Some(grip),
        }
    }

    /// Asks once more and unlocks, in one round trip. Whatever happens, the session is gone afterwards.
    fn let_go(&mut self, mut grip: Grip) -> Result<LockFigures> {
        let begun = Instant::now();
        let again = self.reader.read_then(&mut grip.session, &[self.sequence.unlock]);
        let released = Instant::now();
        grip.steps.add("position-again-and-unlock", begun, released);
        grip.watchdog.disarm();
        let proved = self.prove(&grip, again);
        let id = grip.session.id();
        let watched = grip.watchdog.stop();
        drop(grip.session);
        if proved.is_err() || watched.is_err() {
            let gone = ensure_gone(self.admin, self.server, id);
            proved.map_err(|error| and_still_there(error, gone))?;
        }
        Ok(LockFigures {
            strategy: self.strategy,
            attempts: self.attempts,
            acquire_us: micros(grip.acquire),
            held_us: micros(released.saturating_duration_since(grip.granted)),
            steps: grip.steps.into_phases(),
        })
    }

    /// The session is the same and alive, and the position has not moved (traps 3 and 15).
    fn prove(&mut self, grip: &Grip, again: Result<Reading>) -> Result<()> {
        let lost = |reason: String| Error::LockLost { reason };
        let again = match (again, grip.watchdog.fired()) {
            (Ok(again), _) => again,
            (Err(_), Some(Fired::HoldLimit)) => {
                return Err(lost(
                    "it was held for longer than the hold limit (lock.hold_limit)".into(),
                ));
            }
            (Err(_), Some(Fired::Cancelled)) => return Err(lost("a signal asked the run to end".into())),
            (Err(Error::Statement { reason, .. }), _) => return Err(lost(format!("its session failed: {reason}"))),
            (Err(error), _) => return Err(lost(error.to_string())),
        };
        if again.connection != grip.session.id() {
            return Err(lost(format!(
                "connection {} became {}",
                grip.session.id(),
                again.connection
            )));
        }
        self.server.judge(&again.grounds)?;
        if !again.grounds.redo_log {
            return Err(lost("InnoDB's redo log was disabled while it was held".into()));
        }
        if !self.reader.same_data(&grip.reading, &again) {
            self.exact = false;
            self.findings.push(
                Finding::warning(
                    "position-moved",
                    "the binary log position moved while the lock was held: it is not exact",
                )
                .remedy("find out who writes to the binary log under a global read lock (FLUSH LOGS?)"),
            );
        }
        self.coordinates.replica.clone_from(&again.coordinates.replica);
        Ok(())
    }

    /// A primary's sessions may have temporary tables open that no copy has. The lock is gone by now.
    fn temporary_tables(&self) -> Option<Finding> {
        let (directory, position) = self.temporary_in.as_ref().zip(self.coordinates.position.as_ref())?;
        let logged = temporary::open_at(&directory.join(&position.file), position.position);
        let message = match logged {
            Ok(0) => return None,
            Ok(open) => format!("{open} temporary tables were open at the position"),
            Err(error) => format!("temporary tables may have been open at the position ({error})"),
        };
        let message = format!(
            "{message}, and the binary log has them as statements: a replay or a replica that begins there fails where a session goes on to use one"
        );
        Some(
            Finding::warning("open-temporary-tables", message)
                .remedy("set binlog_format to ROW, or take another backup when they are gone"),
        )
    }

    fn put_back(&mut self) -> Result<Vec<Setting>> {
        let Some(setting) = self.setting.take() else {
            return Ok(Vec::new());
        };
        self.admin.set_limit(PUT_BACK_WITHIN);
        if durability::restore(self.admin, &setting).is_err() {
            // The admin session may have been dropped while it was idle.
            *self.admin = self.server.patient(PUT_BACK_WITHIN)?;
            durability::restore(self.admin, &setting)?;
        }
        self.admin.set_limit(session::PATIENCE);
        Ok(vec![setting])
    }

    fn end(&mut self) -> Result<()> {
        let gone = match self.grip.take() {
            None => Ok(()),
            Some(mut grip) => {
                let id = grip.session.id();
                // A watchdog that has fired has closed the session: then this fails, which is fine.
                grip.session.set_limit(RELEASED_WITHIN);
                drop(grip.session.run(self.sequence.unlock));
                grip.watchdog.disarm();
                drop(grip);
                ensure_gone(self.admin, self.server, id)
            }
        };
        let restored = self.put_back().map(drop);
        gone.and(restored)
    }
}

impl Quiesced for Held<'_> {
    fn coordinates(&self) -> &Coordinates {
        &self.coordinates
    }

    fn release(mut self: Box<Self>) -> Result<Released> {
        let Some(grip) = self.grip.take() else {
            return Err(Error::LockLost {
                reason: "it was released before".into(),
            });
        };
        let figures = self.let_go(grip);
        let settings = self.put_back();
        let figures = figures.map_err(|cause| and_not_put_back(cause, settings.as_ref().err()))?;
        let settings = settings.unwrap_or_else(|error| {
            self.findings.push(not_restored(&error));
            Vec::new()
        });
        self.findings.extend(self.temporary_tables());
        Ok(Released {
            figures,
            coordinates: self.coordinates.clone(),
            exact: self.exact,
            findings: std::mem::take(&mut self.findings),
            settings,
        })
    }

    fn abandon(mut self: Box<Self>) -> Result<()> {
        self.end()
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // Nobody looks at the answer here; the journal still has the setting, and the server ends the session on its own.
        drop(self.end());
    }
}

/// The cause first, then what could not be undone (style rule 2).
fn and_still_there(error: Error, gone: Result<()>) -> Error {
    match (error, gone) {
        (Error::LockLost { reason }, Err(gone)) => Error::LockLost {
            reason: format!("{reason}; then {gone}"),
        },
        (error, _) => error,
    }
}

/// Both are said, and the caller learns whether the journal must keep the setting.
fn and_not_put_back(cause: Error, put_back: Option<&Error>) -> Error {
    match put_back {
        None => cause,
        Some(error) => Error::NotPutBack {
            cause: Box::new(cause),
            reason: error.to_string(),
        },
    }
}

fn not_restored(error: &Error) -> Finding {
    Finding::warning(
        "setting-not-restored",
        format!("innodb_flush_log_at_trx_commit was not put back: {error}"),
    )
    .remedy("`snapback cleanup` puts it back")
}

/// No lock: `lockless` and `none`.
pub struct Unlocked<'s> {
    coordinates: Coordinates,
    strategy: Strategy,
    steps: Steps,
    server: Option<&'s mut Server>,
    findings: Vec<Finding>,
}

impl<'s> Unlocked<'s> {
    /// Nothing is held. `server`: of `lockless`, which asks it before the snapshot and after it.
    pub fn new(strategy: Strategy, origin: Instant, mut server: Option<&'s mut Server>) -> Unlocked<'s> {
        Unlocked {
            coordinates: Coordinates::default(),
            strategy,
            steps: Steps::new(origin),
            findings: server
                .as_mut()
                .map(|server| server.lockless_changes())
                .unwrap_or_default(),
            server,
        }
    }
}

impl Quiesced for Unlocked<'_> {
    fn coordinates(&self) -> &Coordinates {
        &self.coordinates
    }

    fn release(self: Box<Self>) -> Result<Released> {
        let mut findings = self.findings;
        let after = self.server.map(Server::lockless_changes).unwrap_or_default();
        findings.extend(
            after
                .into_iter()
                .filter(|after| !findings.contains(after))
                .collect::<Vec<_>>(),
        );
        Ok(Released {
            figures: LockFigures {
                strategy: self.strategy,
                attempts: 0,
                acquire_us: 0,
                held_us: 0,
                steps: self.steps.into_phases(),
            },
            coordinates: self.coordinates,
            // `lockless` is exact once its position is derived; `none` has none.
            exact: self.strategy == Strategy::Lockless && findings.is_empty(),
            findings,
            settings: Vec::new(),
        })
    }

    fn abandon(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_was_not_put_back_is_said_after_the_cause() {
        let lost = || Error::LockLost {
            reason: "its session failed".into(),
        };
        assert!(matches!(and_not_put_back(lost(), None), Error::LockLost { .. }));
        let refused = Error::Unsupported("no".into());
        let both = and_not_put_back(lost(), Some(&refused));
        assert!(matches!(both, Error::NotPutBack { .. }));
        let said = both.to_string();
        assert!(
            said.find("its session failed") < said.find("could not be put back: no")
                && said.contains("snapback cleanup"),
            "{said}"
        );
    }
}
