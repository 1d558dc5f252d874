//! One backup run, from the first look at the host to the removal of its snapshots.
//!
//! The path reads like the list in docs/architecture.md: [`examine`], then [`quiet`] (settle, prepare, quiesce, position, snapshot,
//! release), then [`store`] (copy, commit), then the snapshots are dropped.

mod clean;
pub(crate) mod examine;
pub(crate) mod facts;
pub(crate) mod quiet;
pub(crate) mod run;
pub(crate) mod snapshots;
pub(crate) mod store;
pub(crate) mod trees;

pub(crate) use store::host_name;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::config::Config;
use crate::finding::Finding;
use crate::monitor::Monitor;
use crate::record::Record;
use crate::repository::{Manifest, Repository};
use crate::store::DirectoryStore;
use crate::sys::signal::Cancel;
use crate::{Error, Result};

use examine::Examined;
use run::Run;

/// What only this run is told; everything else comes from the configuration.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Tags for this backup, over the configuration's.
    pub tags: BTreeMap<String, String>,
}

/// A committed backup.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Its manifest.
    pub manifest: Manifest,
    /// What the manifest keeps about the run, and what was seen after the commit.
    pub record: Record,
}

/// Takes one backup.
///
/// # Errors
/// There is no backup then: the lock is gone, what the run made is removed (or named, for `cleanup`).
pub fn backup(config: &Config, request: &Request, monitor: &dyn Monitor, cancel: &Cancel) -> Result<Outcome> {
    let repository = open_repository(config)?;
    require_writable(&repository)?;
    let mut run = Run::begin(config, monitor, cancel)?;
    let result = run
        .phase("detect", |_| examine::of_backup(config, cancel))
        .and_then(|examined| with_host(&mut run, config, request, &repository, examined));
    ended(&run, result)
}

/// Ends a run with what came of it.
pub(crate) fn ended<T>(run: &Run<'_>, result: Result<T>) -> Result<T> {
    match result {
        Ok(outcome) => {
            run.end()?;
            Ok(outcome)
        }
        // The journal stays only when something in it could not be undone: `cleanup` needs it then.
        Err(error @ Error::Rollback { .. }) => Err(error),
        Err(error) => Err(interrupted(error).and_rollback(run.end())),
    }
}

/// Opens the configured repository.
///
/// # Errors
/// None is configured, there is none, or it is damaged.
pub fn open_repository(config: &Config) -> Result<Repository> {
    if config.repository.as_os_str().is_empty() {
        return Err(Error::usage(
            "no repository is configured: set `repository:` or give --repository DIR",
        ));
    }
    open_directory(&config.repository)
}

/// Before anything is locked or made: whether the repository takes a backup.
///
/// # Errors
/// It cannot be written: it is mounted read-only, or others' alone to write.
pub(crate) fn require_writable(repository: &Repository) -> Result<()> {
    repository.try_writing().map_err(|error| {
        Error::failed(format!(
            "the repository cannot be written, so no backup is begun: {error}. Is it mounted read-only (`findmnt -T DIR`), as after an error of its disk?"
        ))
    })
}

/// Opens the repository in a directory.
///
/// # Errors
/// There is none, or it is damaged.
pub fn open_directory(directory: &Path) -> Result<Repository> {
    let store = match DirectoryStore::open(directory) {
        Err(crate::store::Error::Absent { .. }) => {
            return Err(Error::usage(format!(
                "there is no directory {}: is the repository's disk mounted? For a new repository `snapback init` makes it",
                directory.display()
            )));
        }
        store => store.map_err(crate::repository::Error::from)?,
    };
    Ok(Repository::open(Arc::new(store))?)
}

fn with_host(
    run: &mut Run<'_>,
    config: &Config,
    request: &Request,
    repository: &Repository,
    mut examined: Examined,
) -> Result<Outcome> {
    refuse_or_note(run, &examined.findings)?;
    let planned = trees::plan(config, &examined.layout, &examined.paths);

    // Apart from the rest, because the lock borrows it alone.
    let mut database = examined.database.take();
    let (moment, mut taken) = quiet::take(run, config, "backup", database.as_deref_mut(), &examined)?;
    let database = database.as_deref();
    let time = moment.time;
    let stored = quiet::take_apart(run, &examined, &mut taken)
        .and_then(|()| {
            crate::failpoint!("backup.readable");
            let made = clean::make(run, config, database, &examined, &planned, &mut taken)?;
            let facts = facts::facts(run, &examined, &planned, database, moment, &taken)?;
            facts::with_job(
                config,
                Record {
                    recovery: made.recovery,
                    checksums: made.checksums,
                    ..facts
                },
            )
        })
        .and_then(|facts| {
            let work = store::Work {
                config,
                tags: &request.tags,
                repository,
                volumes: &examined.layout.volumes,
                planned: &planned,
                time,
                facts,
            };
            let mut copied = store::copy(run, work, &taken)?;
            copied.add_checksums(clean::afterwards(
                run, config, database, &examined, &planned, &mut taken,
            )?);
            copied.commit(run)
        });
    let stored = stored.map_err(|cause| taken.explain(cause, run.monitor));
    // The snapshots go whether or not the copy succeeded, and a wish to end does not keep them.
    let dropped = run.closing_phase("drop", |run| taken.remove(&run.journal));
    match (stored, dropped) {
        (Ok(outcome), Ok(())) => Ok(with_last_words(run, outcome)),
        (Ok(outcome), Err(error)) => {
            run.note([left_behind(&error)]);
            Ok(with_last_words(run, outcome))
        }
        (Err(cause), dropped) => Err(interrupted(cause).and_rollback(dropped)),
    }
}

/// Blockers end the run before anything is touched; warnings go into its record.
pub(crate) fn refuse_or_note(run: &mut Run<'_>, findings: &[Finding]) -> Result<()> {
    let blockers = examine::blockers(findings);
    if !blockers.is_empty() {
        return Err(Error::Refused(blockers));
    }
    let worth = findings
        .iter()
        .filter(|finding| finding.severity != crate::finding::Severity::Note);
    run.note(worth.cloned());
    Ok(())
}

/// The backup is committed; a snapshot that could not be removed is a warning, and the journal keeps it for `cleanup`.
fn left_behind(error: &Error) -> Finding {
    Finding::warning(
        "snapshot-left",
        format!("the backup is complete, but a snapshot is left: {error}"),
    )
    .remedy("`snapback cleanup` removes it")
}

fn with_last_words(run: &Run<'_>, outcome: Outcome) -> Outcome {
    let record = Record {
        warnings: run.findings.clone(),
        phases: run.timeline.phases(),
        ..outcome.record
    };
    Outcome { record, ..outcome }
}

/// One word for "asked to end", whichever layer noticed first.
pub(crate) fn interrupted(error: Error) -> Error {
    match error.kind() {
        crate::error::Kind::Interrupted(signal) if !matches!(error, Error::Rollback { .. }) => {
            Error::Interrupted(signal)
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::Silent;

    #[test]
    fn a_repository_that_cannot_be_written_is_found_before_anything_else() {
        let dir = tempfile::tempdir().unwrap();
        let (at, state) = (dir.path().join("r"), dir.path().join("state"));
        Repository::create(Arc::new(DirectoryStore::create(&at).unwrap())).unwrap();
        let repository = open_directory(&at).unwrap();
        require_writable(&repository).unwrap();
        assert_eq!(repository.store().list("packs/").unwrap(), [""; 0], "nothing is left");
        // Where objects belong is a file: nobody can write there, root included.
        std::fs::remove_dir_all(at.join("packs")).unwrap();
        std::fs::write(at.join("packs"), "").unwrap();
        let config = Config {
            repository: at,
            state_dir: state.clone(),
            server: None,
            ..Config::default()
        };
        let said = backup(&config, &Request::default(), &Silent, &Cancel::new())
            .unwrap_err()
            .to_string();
        assert!(said.contains("cannot be written") && said.contains("findmnt"), "{said}");
        assert!(!state.exists(), "no run was begun");
    }
}
