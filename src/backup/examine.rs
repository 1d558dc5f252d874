//! The first look at the host: the server, its paths, their volumes, and what stands in the way. Changes nothing.

pub(super) mod places;
mod servers;
mod stale;

use std::path::{Path, PathBuf};

use super::trees;
use crate::Result;
use crate::config::{Checksums, Config};
use crate::database::{self, Consistency, Database, LockLimits, QuiescePlan, Strategy, WrittenPath};
use crate::detect::{Layout, Mounts, lay_out};
use crate::finding::{Finding, Severity};
use crate::sys::signal::Cancel;
use crate::sys::trust;
use crate::units::Id;
use crate::volume::{self, Provider, Volume};

/// What the examination gave, with everything that a run goes on with.
pub(crate) struct Examined {
    pub database: Option<Box<dyn Database>>,
    pub quiesce: QuiescePlan,
    pub reason: String,
    pub paths: Vec<WrittenPath>,
    pub providers: Vec<Box<dyn Provider>>,
    pub layout: Layout,
    pub findings: Vec<Finding>,
}

impl Examined {
    /// Directories in which the server takes every directory for a database, or cleans up: nothing of ours may appear there.
    pub fn directories_of_server(&self) -> Vec<PathBuf> {
        directories_of_server(&self.paths)
    }
}

fn directories_of_server(paths: &[WrittenPath]) -> Vec<PathBuf> {
    let directories = paths.iter().filter(|written| written.path.is_dir());
    directories.map(|written| written.path.clone()).collect()
}

/// Detects the server and the layout, and looks for blockers. Changes nothing.
pub(crate) fn examine(config: &Config, cancel: &Cancel) -> Result<Examined> {
    let mut quiesce = quiesce_plan(config);
    let mut findings = config.distrusted();
    let asks = config
        .server
        .as_ref()
        .and_then(|server| server.defaults_file.as_deref());
    if asks.is_some_and(|path| trust::require(path).is_err()) {
        // Without it the server is not asked either: all that is known by then.
        return Err(crate::Error::Refused(findings));
    }
    findings.extend(stale::runs(&config.state_dir));
    let (database, paths, reason): (Option<Box<dyn Database>>, Vec<WrittenPath>, String) = match &config.server {
        Some(server) => {
            let mut database = database::mysql::connect(server)?;
            let examination = database.examine(&quiesce)?;
            quiesce.strategy = examination.strategy;
            findings.extend(examination.findings);
            (Some(database), examination.paths, examination.reason)
        }
        None => {
            quiesce.strategy = Strategy::None;
            quiesce.consistency = Consistency::Crash;
            (None, Vec::new(), "no server is configured: files only".to_owned())
        }
    };
    cancel.check()?;
    let beside = super::clean::expected_writes(config, database.as_deref());
    let mut examined = on_host(config, quiesce, paths, reason, findings, beside)?;
    if examined.quiesce.consistency == Consistency::Clean {
        let found = super::clean::findings(config, database.as_deref(), &examined, "level `clean`");
        examined.findings.extend(found);
    }
    examined.database = database;
    Ok(examined)
}

/// The same for a backup, which may be asked for checksums.
pub(crate) fn of_backup(config: &Config, cancel: &Cancel) -> Result<Examined> {
    let mut examined = examine(config, cancel)?;
    examined
        .findings
        .extend(crate::rollback::unfinished_findings(&config.state_dir)?);
    if config.checksums != Checksums::None && examined.quiesce.consistency != Consistency::Clean {
        let found = super::clean::findings(config, examined.database.as_deref(), &examined, "checksums");
        examined.findings.extend(found);
    }
    Ok(examined)
}

/// The same for a server that is stopped, and writes these paths when it runs.
pub(crate) fn of_stopped(
    config: &Config,
    consistency: Consistency,
    paths: Vec<WrittenPath>,
    reason: String,
    mut findings: Vec<Finding>,
) -> Result<Examined> {
    let quiesce = QuiescePlan {
        consistency,
        strategy: Strategy::None,
        ..quiesce_plan(config)
    };
    findings.extend(config.distrusted());
    findings.extend(stale::runs(&config.state_dir));
    on_host(config, quiesce, paths, reason, findings, 0)
}

/// Where the paths and the configured trees lie, and what stands in the way there. `beside`: see [`Provider::room`].
fn on_host(
    config: &Config,
    quiesce: QuiescePlan,
    paths: Vec<WrittenPath>,
    reason: String,
    mut findings: Vec<Finding>,
    beside: u64,
) -> Result<Examined> {
    let mounts = Mounts::read()?;
    let providers = volume::providers(config);
    let (files, said) = places::wanted(config);
    findings.extend(said);
    let layout = lay_out(
        &paths,
        &files,
        &providers,
        &mounts,
        std::slice::from_ref(&config.state_dir),
    )?;
    findings.extend(layout.findings.iter().cloned());
    findings.extend(room(&layout, &providers, beside)?);
    findings.extend(no_place(&layout, &providers, &directories_of_server(&paths)));
    findings.extend(repository_place(
        &config.repository,
        &layout,
        &paths,
        (&providers, &mounts),
    ));
    findings.extend(places::findings(config, &layout));
    findings.extend(servers::in_files(config, &layout));
    findings.extend(places::half_replayed(&paths));
    // A server's data that lies where no snapshot can be taken has a blocker of its own.
    if paths.is_empty() {
        findings.extend(places::nothing(trees::plan(config, &layout, &paths).len()));
    }
    Ok(Examined {
        database: None,
        quiesce,
        reason,
        paths,
        providers,
        layout,
        findings,
    })
}

/// The provider of a volume.
pub(crate) fn provider_of<'p>(providers: &'p [Box<dyn Provider>], volume: &Volume) -> Result<&'p dyn Provider> {
    volume::of_kind(providers, volume.provider).ok_or_else(|| {
        crate::Error::failed(format!(
            "no provider is built in for {} ({:?})",
            volume.source, volume.provider
        ))
    })
}

fn quiesce_plan(config: &Config) -> QuiescePlan {
    let lock = &config.lock;
    QuiescePlan {
        consistency: config.consistency,
        strategy: lock.strategy,
        limits: LockLimits {
            acquire_timeout: lock.acquire_timeout.unsigned(),
            hold_limit: lock.hold_limit.unsigned(),
            attempts: lock.attempts,
            backoff: lock.backoff.unsigned(),
            blocker_age: lock.blocker_age.unsigned(),
            on_busy: lock.on_busy,
        },
        raise_durability: lock.raise_durability,
    }
}

fn room(layout: &Layout, providers: &[Box<dyn Provider>], beside: u64) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for provider in providers {
        let of_kind = |volume: &&Volume| volume.provider == provider.kind();
        // All at once: they may share the room.
        let volumes: Vec<Volume> = layout.volumes.iter().filter(of_kind).cloned().collect();
        if !volumes.is_empty() {
            findings.extend(provider.room(&volumes, beside)?);
        }
    }
    Ok(findings)
}

/// Where a snapshot cannot be named there will be none: said now, and not when a backup fails.
fn no_place(layout: &Layout, providers: &[Box<dyn Provider>], keep_clear: &[PathBuf]) -> Vec<Finding> {
    let planned = |volume: &Volume| -> Result<()> {
        provider_of(providers, volume)?.plan(Id::random(), std::slice::from_ref(volume), keep_clear)?;
        Ok(())
    };
    let errors = layout.volumes.iter().filter_map(|volume| planned(volume).err());
    errors
        .map(|error| Finding::blocker("no-place", error.to_string()))
        .collect()
}

/// A repository below the datadir would be backed up into itself; on the same filesystem it dies with what it protects.
fn repository_place(
    repository: &Path,
    layout: &Layout,
    paths: &[WrittenPath],
    (providers, mounts): (&[Box<dyn Provider>], &Mounts),
) -> Vec<Finding> {
    let Ok(repository) = repository.canonicalize() else {
        return Vec::new();
    };
    if let Some(inside) = paths
        .iter()
        .find(|written| written.needed && repository.starts_with(&written.path))
    {
        return vec![
            Finding::blocker(
                "repository-inside",
                format!(
                    "the repository {} lies inside {}, which it backs up",
                    repository.display(),
                    inside.path.display()
                ),
            )
            .remedy("put the repository on another filesystem, best on another machine's storage"),
        ];
    }
    let shared = volume::shared(&layout.volumes, &repository, providers, mounts);
    let finding = |(volume, what): (&Volume, String)| {
        Finding::warning(
            "repository-same-volume",
            format!(
                "the repository {} is on {what} as the data that it backs up ({}): what takes the data takes its backups, and snapshot, data and copy share the room",
                repository.display(),
                volume.source
            ),
        )
        .remedy("a disk that fails takes the backups with it: keep the repository on other storage, best of another machine")
    };
    shared.map(finding).into_iter().collect()
}

/// The blockers among findings.
pub(crate) fn blockers(findings: &[Finding]) -> Vec<Finding> {
    findings
        .iter()
        .filter(|finding| finding.severity == Severity::Blocker)
        .cloned()
        .collect()
}
