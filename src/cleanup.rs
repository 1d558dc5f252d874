//! Undoing what dead runs left on the host: snapshots, settings, mounts, directories; each was written down before it was made.

mod orphans;

use std::path::PathBuf;

use serde::Serialize;

use crate::backup::examine::provider_of;
use crate::config::Config;
use crate::database;
use crate::finding::Finding;
use crate::held::{self, Kept};
use crate::journal::{self, Made, Past};
use crate::monitor::Monitor;
use crate::repository::Repository;
use crate::rollback;
use crate::snapshot::{self, Removed};
use crate::sys;
use crate::sys::signal::Cancel;
use crate::units::Id;
use crate::volume::{self, Provider};
use crate::{Error, Result};
use orphans::orphans;

/// What to do.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Only say what would be removed.
    pub dry_run: bool,
    /// Also remove snapshots of this installation that none of its journals knows (its state directory was lost).
    pub orphans: bool,
    /// Also remove these, by name, which carry our mark and are not proved to be of this installation.
    pub snapshots: Vec<String>,
}

/// What was found and done.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// The runs that left something.
    pub runs: Vec<RunLeft>,
    /// Rollbacks that had died.
    pub rollbacks: Vec<rollback::Resumed>,
    /// Snapshots that this installation made and that no journal of it knows; removed only when asked.
    pub orphans: Vec<String>,
    /// Snapshots with our mark that are not proved to be of this installation: of another state directory or host, or made before marks told. Removed only by name.
    pub not_ours: Vec<String>,
    /// Those of both that were removed (or would be).
    pub removed_orphans: Vec<String>,
    /// Held sets that were removed (or would be): their time is over, or their removal had begun.
    pub removed_sets: Vec<Removed>,
    /// Empty directories that killed looks at held sets left and that were removed (or would be).
    pub removed_directories: Vec<PathBuf>,
    /// Unfinished files removed from the repository (or that would be).
    pub repository_leftovers: u64,
    /// What a person must read.
    pub findings: Vec<Finding>,
}

/// What one run left.
#[derive(Debug, Clone, Serialize)]
pub struct RunLeft {
    /// The run.
    pub run: Id,
    /// It still runs: left alone.
    pub alive: bool,
    /// What was removed or put back (or would be).
    pub removed: Vec<String>,
    /// What could not be.
    pub failed: Vec<String>,
}

/// Finishes what dead runs could not.
///
/// # Errors
/// The journals or the mount table cannot be read. What could not be undone is in the report.
pub fn cleanup(config: &Config, request: &Request, monitor: &dyn Monitor, cancel: &Cancel) -> Result<Report> {
    // What is removed here stands in files there.
    sys::trust::require(&config.state_dir)?;
    let providers = volume::providers(config);
    let mut report = Report::default();
    let past = journal::list(&config.state_dir)?;
    // After the journals: a run writes its set's record before its journal goes.
    let kept = held::list(&config.state_dir)?;
    report.findings.extend(past.findings);
    report.findings.extend(kept.findings.iter().cloned());
    // First of all, of every run: whoever writes to a frozen filesystem waits, and so would what follows.
    let thawed: Vec<RunLeft> = past.runs.iter().map(|one| thaw_run(request, one)).collect();
    // Cut short, it would leave a server stopped once more.
    report.rollbacks = cancel.critical(|| rollback::resume_all(config, request.dry_run, monitor))?;
    for (one, left) in past.runs.into_iter().zip(thawed) {
        cancel.check()?;
        monitor.message(&format!("run {}", one.run.short()));
        report
            .runs
            .push(undo_run(config, request, &providers, &kept, one, left));
    }
    // What an unfinished rollback needs must not expire, nor count as nobody's.
    if report
        .rollbacks
        .iter()
        .all(|one| matches!(one.result, "finished" | "undone"))
    {
        sets(config, request, &mut report)?;
        orphans(config, request, &providers, &mut report)?;
    }
    let (removed, findings) = snapshot::remove_left_places(request.dry_run);
    report.removed_directories = removed;
    report.findings.extend(findings);
    repository_leftovers(config, request, &mut report);
    Ok(report)
}

/// Thaws what a dead run froze. Its keepers have done so, unless they were killed as well.
fn thaw_run(request: &Request, past: &Past) -> RunLeft {
    let mut left = RunLeft {
        run: past.run,
        alive: past.alive,
        removed: Vec::new(),
        failed: Vec::new(),
    };
    if past.alive || request.dry_run {
        return left;
    }
    for made in &past.left {
        let Made::Frozen { top } = made else { continue };
        match sys::freeze::thaw(top) {
            Ok(true) => left.removed.push(name_of(made)),
            Ok(false) => {}
            // Not mounted there any more: nothing that was frozen can be unmounted, so it is not frozen.
            Err(error) if error.is(std::io::ErrorKind::NotFound) => {}
            Err(error) => left.failed.push(format!("{}: {error}", name_of(made))),
        }
    }
    left
}

/// Undoes the rest of one run's leavings, the last made first, and forgets its journal when nothing is left.
fn undo_run(
    config: &Config,
    request: &Request,
    providers: &[Box<dyn Provider>],
    kept: &Kept,
    past: Past,
    mut left: RunLeft,
) -> RunLeft {
    if past.alive {
        return left;
    }
    if kept.named.contains(&past.run) && kept.of(past.run).is_none() {
        left.failed.push("the record of its held set cannot be read".to_owned());
        return left;
    }
    let stays = |made: &Made| match (made, kept.of(past.run)) {
        (Made::Snapshot(snapshot), Some(held)) => held.holds(snapshot),
        _ => false,
    };
    for made in past.left.iter().rev().filter(|made| !stays(made)) {
        let name = name_of(made);
        if request.dry_run {
            left.removed.push(name);
            continue;
        }
        match undo(config, providers, past.run, made) {
            Ok(true) => left.removed.push(name),
            Ok(false) => {}
            Err(error) => left.failed.push(format!("{name}: {error}")),
        }
    }
    if left.failed.is_empty()
        && !request.dry_run
        && let Err(error) = past.forget()
    {
        left.failed.push(error.to_string());
    }
    left
}

/// Held sets: removals go on, those whose time is over go, and what is wrong with the others is said.
fn sets(config: &Config, request: &Request, report: &mut Report) -> Result<()> {
    let removals = [
        snapshot::finish_deletions(config, request.dry_run)?,
        snapshot::expire(config, jiff::Timestamp::now(), request.dry_run)?,
    ];
    for (removed, findings) in removals {
        report.removed_sets.extend(removed);
        report.findings.extend(findings);
    }
    let left = held::list(&config.state_dir)?.sets;
    report.findings.extend(held::findings(&left, config));
    Ok(())
}

/// Undoes one thing; `Ok(false)` when it was gone already.
fn undo(config: &Config, providers: &[Box<dyn Provider>], run: Id, made: &Made) -> Result<bool> {
    match made {
        Made::Snapshot(snapshot) => Ok(provider_of(providers, &snapshot.volume)?.remove(snapshot)?),
        // Another run's snapshots, or somebody's files, may still be in it: then it stays.
        Made::Directory { at } => Ok(volume::remove_place(at)?),
        Made::Mount { at } => Ok(sys::mount::unmount(at)?),
        // `thaw_run` did.
        Made::Frozen { .. } => Ok(false),
        Made::Scratch { at } => crate::drill::remove_space(run, at),
        Made::Replay { at } => crate::restore::unfinished::remove(run, at),
        Made::Setting(setting) => match &config.server {
            Some(server) => Ok(database::mysql::restore_setting(server, setting)?),
            None => Err(Error::failed("the configuration names no server to put it back on")),
        },
    }
}

/// What was made, in a person's words.
pub(crate) fn name_of(made: &Made) -> String {
    match made {
        Made::Snapshot(snapshot) => format!("snapshot {}", snapshot.name),
        Made::Mount { at } => format!("mount {}", at.display()),
        Made::Frozen { top } => format!("frozen filesystem {}", top.display()),
        Made::Directory { at } => format!("directory {}", at.display()),
        Made::Scratch { at } => format!("scratch space {}", at.display()),
        Made::Replay { at } => format!("half a replay at {}", at.display()),
        Made::Setting(setting) => format!("setting {} back to {}", setting.variable, setting.old),
    }
}

fn repository_leftovers(config: &Config, request: &Request, report: &mut Report) {
    let leftovers = |repository: Repository| match request.dry_run {
        true => Ok(repository.store().leftovers()?),
        false => repository.clean_leftovers(),
    };
    let cleaned = crate::backup::open_repository(config).and_then(|repository| Ok(leftovers(repository)?));
    match cleaned {
        Ok(count) => report.repository_leftovers = count,
        Err(error) => report.findings.push(Finding::warning("repository", error.to_string())),
    }
}
