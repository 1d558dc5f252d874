//! Taking a held set: detect, quiesce, barrier, position as for a backup; then the record instead of the copy.

use super::stopped::{examine_any, still_stopped};
use crate::backup::examine::Examined;
use crate::backup::run::Run;
use crate::backup::snapshots::Taken;
use crate::backup::trees::PlannedTree;
use crate::backup::{ended, facts, host_name, interrupted, quiet, refuse_or_note, trees};
use crate::config::Config;
use crate::database::Consistency;
use crate::database::mysql::stopped::Stopped;
use crate::finding::Finding;
use crate::held::{self, FORMAT, Held, HeldTree, HeldVolume, ServerState};
use crate::monitor::Monitor;
use crate::record::Record;
use crate::sys::signal::Cancel;
use crate::units::Id;
use crate::{Error, Result};

/// What only this set is told.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// What a person calls it.
    pub label: Option<String>,
    /// How long after the instant it is kept.
    pub keep_for: Option<jiff::SignedDuration>,
}

/// Takes a set and keeps it.
///
/// # Errors
/// There is none then: the lock is gone, what the run made is removed (or named, for `cleanup`).
pub fn create(config: &Config, request: &Request, monitor: &dyn Monitor, cancel: &Cancel) -> Result<Held> {
    let mut config = config.clone();
    // It lives for days, not for the time of a copy.
    config.lvm.cow_size = config.lvm.held_cow_size;
    let mut run = Run::begin(&config, monitor, cancel)?;
    let examined = run.phase("detect", |_| examine_any(&config, cancel));
    let result = examined.and_then(|(examined, stopped)| take(&mut run, &config, request, examined, stopped));
    ended(&run, result)
}

fn take(
    run: &mut Run<'_>,
    config: &Config,
    request: &Request,
    mut examined: Examined,
    stopped: Option<Stopped>,
) -> Result<Held> {
    if examined.quiesce.consistency == Consistency::Clean {
        return Err(Error::usage(
            "a held set has level `clean` when the server is stopped well before it; of a running one take `--consistency application`",
        ));
    }
    refuse_or_note(run, &examined.findings)?;
    let planned = on_snapshots(run, trees::plan(config, &examined.layout, &examined.paths));
    require_trees(&planned)?;
    let mut database = examined.database.take();
    let state = match (&database, &stopped) {
        (None, None) => ServerState::None,
        (None, Some(stopped)) if stopped.clean => ServerState::Stopped,
        (None, Some(_)) => ServerState::Killed,
        (Some(database), _) if database.facts().is_read_only() => ServerState::ReadOnly,
        (Some(_), _) => ServerState::Running,
    };
    let (mut moment, mut taken) = quiet::take(run, config, "snapshot", database.as_deref_mut(), &examined)?;
    let database = database.as_deref();
    let time = moment.time;
    if let Some(stopped) = &stopped {
        moment.exact = stopped.clean && stopped.position.is_some();
        moment.coordinates.position.clone_from(&stopped.position);
    }
    let still = || match &stopped {
        Some(stopped) => still_stopped(config, stopped),
        None => Ok(()),
    };
    let result = still()
        .and_then(|()| quiet::take_apart(run, &examined, &mut taken))
        .and_then(|()| facts::facts(run, &examined, &planned, database, moment, &taken))
        .map(|record| match &stopped {
            Some(stopped) => Record {
                server: Some(stopped.facts.clone()),
                ..record
            },
            None => record,
        })
        .and_then(|record| facts::with_job(config, record))
        .and_then(|record| {
            let promise = Promise { time, state, record };
            held(run.id, config, request, &examined, &planned, &taken, promise)
        })
        .and_then(|held| keep(run, config, held));
    match result {
        // Kept: from here on nothing takes it back.
        Ok(held) => Ok(let_go(run, taken, held)),
        Err(cause) => {
            let dropped = run.closing_phase("drop", |run| taken.remove(&run.journal));
            Err(interrupted(cause).and_rollback(dropped))
        }
    }
}

/// What lies on storage without snapshots cannot be held.
fn on_snapshots(run: &mut Run<'_>, planned: Vec<PlannedTree>) -> Vec<PlannedTree> {
    let (held, live): (Vec<_>, Vec<_>) = planned.into_iter().partition(|tree| tree.volume.is_some());
    run.note(live.into_iter().map(|tree| {
        let said = format!(
            "{} lies on storage without snapshots: it is not in the set",
            tree.record.path.display()
        );
        Finding::warning("not-held", said)
    }));
    held
}

/// A set that holds nothing is no way back, and a backup of it would be the newest of its job.
fn require_trees(planned: &[PlannedTree]) -> Result<()> {
    match planned {
        [] => Err(Error::usage(
            "nothing of what is configured lies on storage with snapshots (`snapback check` shows it), so there is nothing to hold: `snapback backup` copies it",
        )),
        _ => Ok(()),
    }
}

/// What is known of the instant.
struct Promise {
    time: jiff::Timestamp,
    state: ServerState,
    record: Record,
}

fn held(
    id: Id,
    config: &Config,
    request: &Request,
    examined: &Examined,
    planned: &[PlannedTree],
    taken: &Taken<'_>,
    promise: Promise,
) -> Result<Held> {
    let layout = &examined.layout;
    let volumes = layout.volumes.iter().map(|volume| {
        let same = |other: &crate::volume::Volume| (other.provider, &other.id) == (volume.provider, &volume.id);
        let mut all = taken.all.iter();
        let readable = all.find(|readable| same(&readable.snapshot.volume));
        let one = readable.map(|readable| HeldVolume {
            snapshot: readable.snapshot.clone(),
            with_database: readable.with_database,
        });
        one.ok_or_else(|| Error::failed(format!("no snapshot of {} was taken", volume.source)))
    });
    let tree = |tree: &PlannedTree| {
        Some(HeldTree {
            root: tree.record.clone(),
            volume: tree.volume?,
            relative: tree.relative.clone(),
            skip: tree.skip.clone(),
        })
    };
    let expires = match request.keep_for {
        None => None,
        Some(span) => Some(
            promise
                .time
                .checked_add(span)
                .map_err(|error| Error::usage(format!("the set cannot expire then: {error}")))?,
        ),
    };
    Ok(Held {
        format: FORMAT,
        id,
        time: promise.time,
        host: host_name(config),
        label: request.label.clone(),
        expires,
        server: promise.state,
        volumes: volumes.collect::<Result<_>>()?,
        placed: layout.placed.clone(),
        trees: planned.iter().filter_map(tree).collect(),
        places: taken.places.clone(),
        record: promise.record,
        deleting: false,
    })
}

/// The record's appearance is the commit point; the journal has every snapshot until after it.
fn keep(run: &mut Run<'_>, config: &Config, mut held: Held) -> Result<Held> {
    crate::failpoint!("held.before-record", || Error::failed("failpoint"));
    run.phase("keep", |run| {
        held.record.phases = run.timeline.phases();
        match held::write(&config.state_dir, &held) {
            Ok(()) => Ok(()),
            // Its name may be there all the same.
            Err(cause) => Err(cause.and_rollback(held::remove(&config.state_dir, held.id).map(drop))),
        }
    })?;
    Ok(held)
}

fn let_go(run: &mut Run<'_>, taken: Taken<'_>, held: Held) -> Held {
    let kept = taken.keep(&run.journal, || {
        crate::failpoint!("held.recorded");
    });
    if let Err(error) = kept {
        let said = format!("the set is held, but something that the run made is left: {error}");
        run.note([Finding::warning("left", said).remedy("`snapback cleanup` removes it, and keeps the set")]);
    }
    let record = Record {
        warnings: run.findings.clone(),
        ..held.record
    };
    Held { record, ..held }
}
