//! What a run knows when its snapshots are readable and nothing is copied yet: promise, position, lock, volumes, roots.

use std::path::{Path, PathBuf};

use super::examine::Examined;
use super::quiet::Moment;
use super::run::Run;
use super::snapshots::Taken;
use super::trees::PlannedTree;
use crate::config::Config;
use crate::database::{Database, Position, Strategy};
use crate::detect::Layout;
use crate::job::{self, Installation, Job};
use crate::record::{CopyFigures, Record, VolumeRecord};
use crate::{Error, Result};

/// The record so far. For `lockless` the position is read off the snapshot now.
pub(crate) fn facts(
    run: &mut Run<'_>,
    examined: &Examined,
    planned: &[PlannedTree],
    database: Option<&dyn Database>,
    mut moment: Moment,
    taken: &Taken<'_>,
) -> Result<Record> {
    if let Some(database) = database.filter(|_| examined.quiesce.strategy == Strategy::Lockless) {
        let derived = run.phase("derive-position", |_| {
            derive_position(database, &examined.layout, taken)
        });
        moment.coordinates.position = Some(derived?);
    }
    let position = moment.coordinates.position.as_ref();
    let log_trace = database.zip(position).and_then(|(database, position)| {
        let (_, directory) = logs_in_snapshot(database, &examined.layout, taken).ok()?;
        let name = Path::new(&position.file).file_name()?;
        database.log_trace(&directory.join(name), position.position)
    });
    let volumes = taken.all.iter().map(|readable| VolumeRecord {
        provider: readable.snapshot.volume.provider,
        source: readable.snapshot.volume.source.clone(),
        id: readable.snapshot.volume.id.clone(),
        snapshot: readable.snapshot.name.clone(),
        create_us: readable.create_us,
        with_database: readable.with_database,
    });
    Ok(Record {
        tool: env!("CARGO_PKG_VERSION").to_owned(),
        consistency: examined.quiesce.consistency,
        exact: moment.exact,
        job: None,
        sequence: None,
        server: database.map(|database| database.facts().clone()),
        paths: examined.paths.clone(),
        lock: moment.lock,
        position: moment.coordinates.position,
        log_trace,
        replica: moment.coordinates.replica,
        prepared_xa: moment.coordinates.prepared_xa,
        recovery: None,
        checksums: None,
        volumes: volumes.collect(),
        roots: planned.iter().map(|tree| tree.record.clone()).collect(),
        phases: run.timeline.phases(),
        copy: CopyFigures::default(),
        left_out: Vec::new(),
        warnings: run.findings.clone(),
    })
}

/// Reads the exact position off the binary log in the snapshot.
fn derive_position(database: &dyn Database, layout: &Layout, taken: &Taken<'_>) -> Result<Position> {
    let (index, directory) = logs_in_snapshot(database, layout, taken)?;
    Ok(database.derive_position(&index, &directory)?)
}

/// The index of the binary logs and their directory, in the snapshot.
fn logs_in_snapshot(database: &dyn Database, layout: &Layout, taken: &Taken<'_>) -> Result<(PathBuf, PathBuf)> {
    let variable = |name: &str| {
        let value = database.facts().variables.get(name).filter(|value| !value.is_empty());
        value.map(PathBuf::from).ok_or_else(|| {
            Error::failed(format!(
                "the server does not say {name}: the position cannot be derived"
            ))
        })
    };
    let index = seen_in_snapshot(&variable("log_bin_index")?, layout, taken)?;
    let base = seen_in_snapshot(&variable("log_bin_basename")?, layout, taken)?;
    let directory = base.parent().unwrap_or(&base).to_owned();
    Ok((index, directory))
}

/// Where a live path of the server lies in the snapshots.
fn seen_in_snapshot(path: &Path, layout: &Layout, taken: &Taken<'_>) -> Result<PathBuf> {
    let real = match (
        path.parent().and_then(|parent| parent.canonicalize().ok()),
        path.file_name(),
    ) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => path.to_owned(),
    };
    let seen = layout.placed.iter().find_map(|placed| {
        let below = real.strip_prefix(&placed.path).ok()?;
        let top = taken.top_of(layout.volumes.get(placed.volume)?)?;
        Some(top.join(&placed.relative).join(below))
    });
    seen.ok_or_else(|| {
        Error::failed(format!(
            "{} is not on a snapshot: the position cannot be derived",
            path.display()
        ))
    })
}

/// Writes into the record whose data this is, and keeps it for commands that are given while the server is stopped.
pub(crate) fn with_job(config: &Config, record: Record) -> Result<Record> {
    let installation = Installation::of(&config.state_dir)?;
    let job = Job::here(config, record.server.as_ref(), &installation);
    if let Some(server) = config.server.as_ref().filter(|_| record.server.is_some()) {
        job::remember(&config.state_dir, &job::address(server), &job)?;
    }
    job::remember_roots(&config.state_dir, record.roots.iter().map(|root| &root.path))?;
    Ok(Record {
        job: Some(job),
        ..record
    })
}
