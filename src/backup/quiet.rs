//! The instant: settle, prepare, quiesce, position, snapshot, release. Everything that the database needs is taken here, at once.

use std::time::Instant;

use super::examine::Examined;
use super::run::Run;
use super::snapshots::{self, Ready, Taken};
use crate::config::{Config, Hooks};
use crate::database::{
    self, Coordinates, Database, LockFigures, QuiesceContext, QuiescePlan, Released, SettlePoint, Strategy,
};
use crate::hooks::{self, Facts, Point};
use crate::journal::{Journal, Made};
use crate::monitor::Monitor;
use crate::volume::{Provider, Volume};
use crate::{Error, Result};

/// What was true at the instant of the snapshot.
pub(crate) struct Moment {
    /// Wall time, for the backup's name.
    pub time: jiff::Timestamp,
    /// Lock timings, when there was a database.
    pub lock: Option<LockFigures>,
    /// Read under the lock.
    pub coordinates: Coordinates,
    /// Whether position and data agree to the transaction; for `lockless` it is decided when the position is derived.
    pub exact: bool,
}

/// Takes the database's volumes at one instant, between the administrator's hooks. `command`: what they are told the run is.
pub(crate) fn take<'e>(
    run: &mut Run<'_>,
    config: &Config,
    command: &'static str,
    database: Option<&mut (dyn Database + 'static)>,
    examined: &'e Examined,
) -> Result<(Moment, Taken<'e>)> {
    let mut facts = Facts {
        run: run.id,
        command,
        host: super::host_name(config),
        position: None,
        succeeded: None,
    };
    let hooks = &config.hooks;
    let before = if Point::BeforeQuiesce.of(hooks).is_empty() {
        Ok(())
    } else {
        run.phase("before-hooks", |run| {
            hooks::run(hooks, Point::BeforeQuiesce, &facts, run.monitor)
        })
    };
    let result = before.and_then(|()| take_now(run, hooks, &facts, database, examined));
    // Also after a failure: what the first ones stopped goes on again.
    if !Point::AfterRelease.of(hooks).is_empty() {
        let moment = result.as_ref().ok().map(|(moment, _)| moment);
        facts.position = moment.and_then(|moment| moment.coordinates.position.as_ref());
        facts.succeeded = Some(result.is_ok());
        let said = run.closing_phase("after-hooks", |run| {
            Ok(hooks::run_after(hooks, Point::AfterRelease, &facts, run.monitor))
        });
        run.note(said.unwrap_or_default());
    }
    result
}

/// Under the lock (or none, as the strategy says).
fn take_now<'e>(
    run: &mut Run<'_>,
    hooks: &Hooks,
    facts: &Facts<'_>,
    database: Option<&mut (dyn Database + 'static)>,
    examined: &'e Examined,
) -> Result<(Moment, Taken<'e>)> {
    let Examined {
        quiesce,
        providers,
        layout,
        ..
    } = examined;
    let instant = &layout.instant;
    let volumes: Vec<Volume> = instant.volumes().cloned().collect();
    let keep_clear = examined.directories_of_server();
    let mut taken = Taken::default();
    if volumes.is_empty() {
        return Ok((Moment::unlocked(), taken));
    }
    run.phase("settle", |_| {
        snapshots::settle(providers, &volumes, SettlePoint::Before)
    })?;
    let limit = quiesce.limits.hold_limit;
    let ready = run.phase("prepare", |run| Ready::new(run, providers, instant, &keep_clear, limit))?;
    let (moment, ready, fixed) = match database {
        Some(database) => {
            let told = InLock { hooks, facts };
            locked(run, database, quiesce, providers, &volumes, ready, &told)?
        }
        // Nobody writes: the server is stopped.
        None => unlocked(run, ready)?,
    };
    let added = run.closing_phase("mount", |run| taken.add(run, ready.finish(&run.journal)?, fixed, true));
    match added {
        Ok(()) => Ok((moment, taken)),
        Err(cause) => Err(taken
            .explain(cause, run.monitor)
            .and_rollback(taken.remove(&run.journal))),
    }
}

impl Moment {
    /// Now, with no server that was asked anything.
    fn unlocked() -> Moment {
        Moment {
            time: jiff::Timestamp::now(),
            lock: None,
            coordinates: Coordinates::default(),
            exact: false,
        }
    }
}

fn unlocked<'p>(run: &mut Run<'_>, mut ready: Ready<'p>) -> Result<(Moment, Ready<'p>, (Instant, Instant))> {
    let fixed = run.phase("snapshot", |_| Ok((Moment::unlocked(), ready.fix()?)));
    match fixed {
        Ok((moment, fixed)) => Ok((moment, ready, fixed)),
        Err(cause) => Err(cause.and_rollback(ready.abandon(&run.journal))),
    }
}

/// The hooks that the administrator wants to run under the lock.
struct InLock<'h> {
    hooks: &'h Hooks,
    facts: &'h Facts<'h>,
}

impl InLock<'_> {
    fn run(&self, coordinates: &Coordinates, monitor: &dyn Monitor) -> Result<()> {
        let facts = Facts {
            position: coordinates.position.as_ref(),
            ..self.facts.clone()
        };
        hooks::run(self.hooks, Point::InLock, &facts, monitor)
    }
}

/// Takes the snapshots of volumes that hold only files, each by itself, with the lock long gone.
pub(crate) fn take_apart<'e>(run: &mut Run<'_>, examined: &'e Examined, taken: &mut Taken<'e>) -> Result<()> {
    let layout = &examined.layout;
    let apart: Vec<Volume> = layout
        .own_volumes()
        .into_iter()
        .map(|index| layout.volumes[index].clone())
        .collect();
    if apart.is_empty() {
        return Ok(());
    }
    let keep_clear = examined.directories_of_server();
    run.phase("snapshot-files", |run| {
        apart.iter().try_for_each(|volume| {
            taken.take_own(run, &examined.providers, volume, &keep_clear)?;
            run.monitor.finding(&snapshots::own_snapshot_note(volume));
            Ok(())
        })
    })
}

/// The lock is held from inside `quiesce` to inside `release`; nothing else happens in between but the decisive call.
fn locked<'p>(
    run: &mut Run<'_>,
    database: &mut dyn Database,
    plan: &QuiescePlan,
    providers: &[Box<dyn Provider>],
    volumes: &[Volume],
    mut ready: Ready<'p>,
    in_lock: &InLock<'_>,
) -> Result<(Moment, Ready<'p>, (Instant, Instant))> {
    if let Err(asked) = run.cancel.check() {
        return Err(asked.and_rollback(ready.abandon(&run.journal)));
    }
    run.monitor.phase("quiesce");
    let begun = Instant::now();
    let mut settle = |point| {
        match point {
            SettlePoint::Before => ready.take_up(&run.journal)?,
            SettlePoint::Between => {}
            SettlePoint::Pause => ready.put_down()?,
        }
        snapshots::settle(providers, volumes, point)
    };
    let context = QuiesceContext {
        origin: run.timeline.origin(),
        journal: &run.journal,
        monitor: run.monitor,
        cancel: run.cancel,
        settle: &mut settle,
    };
    let raised = crate::sys::priority::raise();
    let quiesced = match database.quiesce(plan, context) {
        Ok(quiesced) => quiesced,
        Err(cause) => return Err(cause.and_rollback(ready.abandon(&run.journal))),
    };
    let quiet = Instant::now();
    let time = jiff::Timestamp::now();
    crate::failpoint!("backup.locked");
    let fixed = in_lock
        .run(quiesced.coordinates(), run.monitor)
        .and_then(|()| ready.fix());
    crate::failpoint!("backup.fixed");
    let asked = Instant::now();
    let released = match &fixed {
        Ok(_) => quiesced.release().map(Some).map_err(|error| lost(&run.journal, error)),
        Err(_) => put_back(&run.journal, quiesced.abandon().map_err(Error::from)).map(|()| None),
    };
    let ended = Instant::now();
    drop(raised);

    run.timeline.record("quiesce", begun, quiet);
    run.timeline.record("snapshot", quiet, asked);
    run.timeline.record("release", asked, ended);
    match (fixed, released) {
        (Ok(fixed), Ok(Some(released))) => {
            crate::failpoint!("backup.released");
            let moment = moment(run, time, released)?;
            Ok((moment, ready, fixed))
        }
        // A failed lock never becomes a backup: the snapshot goes at once (invariant 1).
        (Ok(_), Ok(None)) => {
            Err(Error::failed("the lock was given up before the snapshot").and_rollback(ready.abandon(&run.journal)))
        }
        (Ok(_), Err(cause)) => Err(ended_by_signal(run, cause).and_rollback(ready.abandon(&run.journal))),
        (Err(cause), released) => {
            let rollback = ready.abandon(&run.journal).and(released.map(|_| ()));
            Err(cause.and_rollback(rollback))
        }
    }
}

/// A signal during the hold ends the lock from the watchdog: that is why the release found it gone.
fn ended_by_signal(run: &Run<'_>, cause: Error) -> Error {
    run.cancel.check().err().unwrap_or(cause)
}

/// After a hold that was given up well, all settings have their old values again: the journal is told so.
fn put_back(journal: &Journal, abandoned: Result<()>) -> Result<()> {
    abandoned?;
    let mut settings = journal
        .left()
        .into_iter()
        .filter(|made| matches!(made, Made::Setting(_)));
    settings.try_for_each(|made| Ok(journal.undone(&made)?))
}

/// A lock that was lost leaves no setting behind either, unless the error says so: the journal is told.
fn lost(journal: &Journal, error: database::Error) -> Error {
    let left = matches!(error, database::Error::NotPutBack { .. });
    let told = if left { Ok(()) } else { put_back(journal, Ok(())) };
    Error::from(error).and_rollback(told)
}

fn moment(run: &mut Run<'_>, time: jiff::Timestamp, released: Released) -> Result<Moment> {
    run.note(released.findings);
    for setting in released.settings {
        run.journal.undone(&Made::Setting(setting))?;
    }
    let exact = released.exact && !matches!(released.figures.strategy, Strategy::None);
    Ok(Moment {
        time,
        lock: Some(released.figures),
        coordinates: released.coordinates,
        exact,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Setting;
    use crate::units::Id;

    #[test]
    fn after_a_lost_lock_the_journal_keeps_a_setting_only_when_it_was_not_put_back() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::create(dir.path(), Id::random()).unwrap();
        let setting = Setting {
            server: "s".into(),
            identity: None,
            variable: "v".into(),
            old: "0".into(),
            new: "1".into(),
        };
        journal.record(&Made::Setting(setting)).unwrap();
        let gone = || database::Error::LockLost { reason: "x".into() };
        let kept = database::Error::NotPutBack {
            cause: Box::new(gone()),
            reason: "y".into(),
        };
        lost(&journal, kept);
        assert_eq!(journal.left().len(), 1);
        lost(&journal, gone());
        assert!(journal.left().is_empty());
    }
}
