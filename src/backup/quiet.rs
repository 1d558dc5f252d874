//! The instant: settle, prepare, quiesce, position, snapshot, release. Everything that the database needs is taken here, at once.

use std::time::Instant;

use super::examine::Examined;
use super::run::Run;
use super::snapshots::{self, Ready, Taken};
use crate::database::{Coordinates, Database, LockFigures, QuiesceContext, QuiescePlan, Released, SettlePoint, Strategy};
use crate::detect::Layout;
use crate::sys::priority::Raised;
use crate::volume::{Provider, Volume};
use crate::{Error, Result};

/// What was true at the instant of the snapshot.
pub(super) struct Moment {
    /// Wall time, for the backup's name.
    pub time: jiff::Timestamp,
    /// Lock timings, when there was a database.
    pub lock: Option<LockFigures>,
    /// Read under the lock.
    pub coordinates: Coordinates,
    /// Whether position and data agree to the transaction; for `lockless` it is decided when the position is derived.
    pub exact: bool,
}

/// Takes the database's volumes at one instant under the lock (or none, as the strategy says).
pub(super) fn take<'e>(
    run: &mut Run<'_>,
    database: Option<&mut (dyn Database + 'static)>,
    examined: &'e Examined,
) -> Result<(Moment, Taken<'e>)> {
    let Examined { quiesce, providers, layout, .. } = examined;
    let volumes = volumes_of_database(layout);
    let mut taken = Taken::default();
    let Some(database) = database else {
        let moment = Moment { time: jiff::Timestamp::now(), lock: None, coordinates: Coordinates::default(), exact: false };
        return Ok((moment, taken));
    };
    run.phase("settle", |_| snapshots::settle(providers, &volumes, snapshots::rounds(SettlePoint::Before)))?;
    let ready = run.phase("prepare", |run| Ready::new(run, providers, &volumes))?;
    let (moment, ready, fixed) = locked(run, database, quiesce, providers, &volumes, ready)?;
    run.closing_phase("mount", |run| taken.add(run, ready.finish()?, fixed, true))?;
    Ok((moment, taken))
}

/// Takes the snapshots of volumes that hold only files, each by itself, with the lock long gone.
pub(super) fn take_apart<'e>(run: &mut Run<'_>, examined: &'e Examined, taken: &mut Taken<'e>) -> Result<()> {
    let with_database = volumes_of_database(&examined.layout);
    let apart: Vec<Volume> = examined.layout.volumes.iter().filter(|volume| !with_database.contains(volume)).cloned().collect();
    if apart.is_empty() {
        return Ok(());
    }
    run.phase("snapshot-files", |run| {
        apart.iter().try_for_each(|volume| {
            taken.take_own(run, &examined.providers, volume)?;
            run.monitor.finding(&snapshots::own_snapshot_note(volume));
            Ok(())
        })
    })
}

fn volumes_of_database(layout: &Layout) -> Vec<Volume> {
    layout.of_database().into_iter().map(|index| layout.volumes[index].clone()).collect()
}

/// The lock is held from inside `quiesce` to inside `release`; nothing else happens in between but the decisive call.
fn locked<'p>(
    run: &mut Run<'_>,
    database: &mut dyn Database,
    plan: &QuiescePlan,
    providers: &[Box<dyn Provider>],
    volumes: &[Volume],
    mut ready: Ready<'p>,
) -> Result<(Moment, Ready<'p>, (Instant, Instant))> {
    run.cancel.check()?;
    run.monitor.phase("quiesce");
    let begun = Instant::now();
    let mut settle = |point| snapshots::settle(providers, volumes, snapshots::rounds(point));
    let context = QuiesceContext {
        origin: run.timeline.origin(),
        journal: &run.journal,
        monitor: run.monitor,
        cancel: run.cancel,
        settle: &mut settle,
    };
    let raised = Raised::this_thread();
    let quiesced = match database.quiesce(plan, context) {
        Ok(quiesced) => quiesced,
        Err(cause) => return Err(cause.and_rollback(ready.abandon())),
    };
    let quiet = Instant::now();
    let time = jiff::Timestamp::now();
    let fixed = ready.fix();
    let asked = Instant::now();
    let coordinates = quiesced.coordinates().clone();
    let released = match &fixed {
        Ok(_) => quiesced.release().map(Some),
        Err(_) => quiesced.abandon().map(|()| None),
    };
    let ended = Instant::now();
    drop(raised);

    run.timeline.record("quiesce", begun, quiet);
    run.timeline.record("snapshot", quiet, asked);
    run.timeline.record("release", asked, ended);
    match (fixed, released) {
        (Ok(fixed), Ok(Some(released))) => {
            let moment = moment(run, time, coordinates, released);
            Ok((moment, ready, fixed))
        }
        // A failed lock never becomes a backup: the snapshot goes at once (invariant 1).
        (Ok(_), Ok(None)) => Err(Error::failed("the lock was given up before the snapshot").and_rollback(ready.abandon())),
        (Ok(_), Err(cause)) => Err(Error::from(cause).and_rollback(ready.abandon())),
        (Err(cause), released) => {
            let rollback = ready.abandon().and(released.map(|_| ()).map_err(Error::from));
            Err(cause.and_rollback(rollback))
        }
    }
}

fn moment(run: &mut Run<'_>, time: jiff::Timestamp, coordinates: Coordinates, released: Released) -> Moment {
    run.note(released.findings);
    let exact = released.exact && !matches!(released.figures.strategy, Strategy::None);
    Moment { time, lock: Some(released.figures), coordinates, exact }
}
