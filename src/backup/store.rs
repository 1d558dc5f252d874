//! Copy and commit: from the readable snapshots into the repository.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::examine::Examined;
use super::quiet::Moment;
use super::run::Run;
use super::snapshots::Taken;
use super::trees::{self, PlannedTree};
use super::{Outcome, Request};
use crate::config::{self, Config};
use crate::copy::{self, CopyOptions, CopyReport};
use crate::database::{Database, Position, Strategy};
use crate::detect::Layout;
use crate::finding::{Finding, Severity};
use crate::record::{CleanRecord, Record, VolumeRecord};
use crate::repository::{ChunkClass, Draft, Repository, Running, Writer, WriterOptions};
use crate::{Error, Result};

/// What is stored, and where.
pub(super) struct Work<'a> {
    pub config: &'a Config,
    pub request: &'a Request,
    pub repository: &'a Repository,
    pub database: Option<&'a dyn Database>,
    pub examined: &'a Examined,
    pub planned: &'a [PlannedTree],
    pub moment: Moment,
    pub recovery: Option<CleanRecord>,
}

/// Copies the trees and commits the backup.
pub(super) fn store(run: &mut Run<'_>, mut work: Work<'_>, taken: &Taken<'_>) -> Result<Outcome> {
    if work.examined.quiesce.strategy == Strategy::Lockless && work.database.is_some() {
        let position = run.phase("derive-position", |_| derive_position(&work, taken))?;
        work.moment.coordinates.position = Some(position);
        work.moment.exact = true;
    }
    let parent = newest_of(work.repository, &host_name(work.config))?;
    // Until the manifest is there: `forget` and `prune` leave alone what this run needs.
    let _announced = work.repository.announce(Running {
        run: run.id,
        host: host_name(work.config),
        parent,
        owner: format!("{}:{}", crate::sys::host::name(), work.config.state_dir.display()),
    })?;
    let writer = begin(run, &work, parent)?;
    let report = run.phase("copy", |run| copy_trees(run, &work, taken, &writer))?;
    // The monitor has heard them.
    run.findings.extend(taken.said());
    run.note(
        report
            .findings
            .iter()
            .filter(|finding| finding.severity != Severity::Note)
            .cloned(),
    );
    run.phase("commit", |run| commit(run, work, taken, writer, report))
}

/// A parent that cannot be read costs time, not the backup.
fn begin(run: &mut Run<'_>, work: &Work<'_>, parent: Option<crate::units::Id>) -> Result<Writer> {
    let options = WriterOptions {
        id: run.id,
        parent,
        level: work.config.copy.level,
    };
    match work.repository.begin(options.clone()) {
        Err(error) if parent.is_some() => {
            run.note([Finding::warning(
                "parent-unreadable",
                format!("the previous backup cannot be compared with: {error}"),
            )
            .remedy("`snapback verify --all` shows what is damaged; this backup stores everything again")]);
            Ok(work.repository.begin(WriterOptions {
                parent: None,
                ..options
            })?)
        }
        begun => Ok(begun?),
    }
}

fn newest_of(repository: &Repository, host: &str) -> Result<Option<crate::units::Id>> {
    let listed = repository.list()?;
    let newest = listed
        .iter()
        .rev()
        .filter_map(|one| one.manifest.as_ref().ok())
        .find(|manifest| manifest.host == host);
    Ok(newest.map(|manifest| manifest.id))
}

fn copy_trees(run: &Run<'_>, work: &Work<'_>, taken: &Taken<'_>, writer: &Writer) -> Result<CopyReport> {
    let tops: Vec<Option<PathBuf>> = work
        .examined
        .layout
        .volumes
        .iter()
        .map(|volume| taken.top_of(volume))
        .collect();
    let trees = trees::readable(work.planned, &tops, work.config, &work.examined.paths, &taken.places);
    let options = copy_options(&work.config.copy);
    Ok(copy::copy(
        &trees,
        writer,
        &options,
        &|| taken.health(&options.hurry, run.monitor),
        run.monitor,
        run.cancel,
    )?)
}

fn copy_options(copy: &config::Copy) -> CopyOptions {
    let defaults = CopyOptions::default();
    CopyOptions {
        workers: if copy.workers == 0 {
            defaults.workers
        } else {
            copy.workers
        },
        bandwidth: copy.bandwidth.map(|bandwidth| bandwidth.as_u64()),
        idle_priority: copy.idle_priority,
        class: ChunkClass::of(copy.chunk_size.as_u64()).unwrap_or_default(),
        live_attempts: copy.live_attempts,
        ..defaults
    }
}

fn commit(run: &mut Run<'_>, work: Work<'_>, taken: &Taken<'_>, writer: Writer, report: CopyReport) -> Result<Outcome> {
    let record = record(run, &work, taken, report);
    let mut tags: BTreeMap<String, String> = work.config.tags.clone();
    tags.extend(work.request.tags.clone());
    let as_json =
        serde_json::to_value(&record).map_err(|error| Error::failed(format!("cannot write the record: {error}")))?;
    let draft = Draft {
        time: work.moment.time,
        host: host_name(work.config),
        tags,
        record: as_json,
    };
    // The manifest is the commit point: `commit` makes every pack durable first.
    let manifest = writer.commit(draft)?;
    Ok(Outcome { manifest, record })
}

fn record(run: &Run<'_>, work: &Work<'_>, taken: &Taken<'_>, report: CopyReport) -> Record {
    let examined = work.examined;
    let volumes = taken.all.iter().map(|readable| VolumeRecord {
        provider: readable.snapshot.volume.provider,
        source: readable.snapshot.volume.source.clone(),
        id: readable.snapshot.volume.id.clone(),
        snapshot: readable.snapshot.name.clone(),
        create_us: readable.create_us,
        with_database: readable.with_database,
    });
    Record {
        tool: env!("CARGO_PKG_VERSION").to_owned(),
        consistency: examined.quiesce.consistency,
        exact: work.moment.exact,
        server: work.database.map(|database| database.facts().clone()),
        paths: examined.paths.clone(),
        lock: work.moment.lock.clone(),
        position: work.moment.coordinates.position.clone(),
        replica: work.moment.coordinates.replica.clone(),
        prepared_xa: work.moment.coordinates.prepared_xa.clone(),
        recovery: work.recovery.clone(),
        volumes: volumes.collect(),
        roots: work.planned.iter().map(|tree| tree.record.clone()).collect(),
        phases: run.timeline.phases(),
        copy: report.figures,
        left_out: report.left_out,
        warnings: run.findings.clone(),
    }
}

/// Reads the exact position off the binary log in the snapshot.
fn derive_position(work: &Work<'_>, taken: &Taken<'_>) -> Result<Position> {
    let database = work
        .database
        .ok_or_else(|| Error::failed("there is no server whose position could be derived"))?;
    let variable = |name: &str| {
        let value = database.facts().variables.get(name).filter(|value| !value.is_empty());
        value.map(PathBuf::from).ok_or_else(|| {
            Error::failed(format!(
                "the server does not say {name}: the position cannot be derived"
            ))
        })
    };
    let index = seen_in_snapshot(&variable("log_bin_index")?, &work.examined.layout, taken)?;
    let base = seen_in_snapshot(&variable("log_bin_basename")?, &work.examined.layout, taken)?;
    let directory = base.parent().unwrap_or(&base);
    Ok(database.derive_position(&index, directory)?)
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

/// The name under which this host's backups are kept.
pub(crate) fn host_name(config: &Config) -> String {
    config.host.clone().unwrap_or_else(crate::sys::host::name)
}
