//! What a backup would do: the server, its paths, their volumes, the lock, and whatever stands in the way. Touches nothing.

mod beside;
mod room;

use std::path::PathBuf;

use serde::Serialize;

use crate::Result;
use crate::backup::{examine, open_repository, require_writable, trees};
use crate::config::Config;
use crate::database::{Consistency, PathRole, ServerFacts, Strategy, WrittenPath};
use crate::detect::Layout;
use crate::finding::Finding;
use crate::held;
use crate::record::RootRecord;
use crate::sys::signal::Cancel;
use crate::volume::Volume;
use room::Room;

/// What a backup would do.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// The server, unless only files are backed up.
    pub server: Option<ServerFacts>,
    /// The promise.
    pub consistency: Consistency,
    /// The lock that would be taken; never `auto`.
    pub strategy: Strategy,
    /// Why this one.
    pub strategy_reason: String,
    /// Every path that the server writes.
    pub paths: Vec<WrittenPath>,
    /// The volumes below them.
    pub volumes: Vec<Volume>,
    /// Which path lies on which volume.
    pub placed: Vec<PlacedPath>,
    /// The trees that would be copied.
    pub roots: Vec<RootRecord>,
    /// The state of the repository.
    pub repository: RepositoryState,
    /// What a backup is expected to take, and what there is; nothing where the repository cannot be used.
    pub room: Option<Room>,
    /// Facts, warnings, blockers.
    pub findings: Vec<Finding>,
}

/// A path of the server and its volume.
#[derive(Debug, Clone, Serialize)]
pub struct PlacedPath {
    /// The path.
    pub path: PathBuf,
    /// What it holds.
    pub role: PathRole,
    /// Index into the plan's volumes.
    pub volume: usize,
}

/// What is known of the repository before a run.
#[derive(Debug, Clone, Serialize)]
pub struct RepositoryState {
    /// Its directory.
    pub path: PathBuf,
    /// Whether it can be opened.
    pub usable: bool,
    /// Readable backups in it.
    pub backups: usize,
}

/// Examines the host and says what a backup would do.
///
/// # Errors
/// The server or the host cannot be examined. Blockers are findings in the plan, not errors.
pub fn check(config: &Config, cancel: &Cancel) -> Result<Plan> {
    let mut examined = examine::of_backup(config, cancel)?;
    if let Some(database) = &mut examined.database {
        examined.findings.extend(database.missing_for_commands()?);
    }
    examined.findings.extend(config.missing_programs());
    let facts = examined.database.as_ref().map(|database| database.facts());
    examined.findings.extend(beside::findings(config, facts));
    let repository = repository_state(config, &mut examined.findings);
    let kept = held::list(&config.state_dir)?;
    examined.findings.extend(kept.findings);
    examined.findings.extend(held::findings(&kept.sets, config));
    let roots = trees::records(config, &examined);
    let room = match repository.usable {
        true => Some(room::look(config, &examined, cancel)?),
        false => None,
    };
    examined
        .findings
        .extend(room.iter().flat_map(|room| room.findings(config)));
    Ok(Plan {
        server: examined.database.as_ref().map(|database| database.facts().clone()),
        consistency: examined.quiesce.consistency,
        strategy: examined.quiesce.strategy,
        strategy_reason: examined.reason,
        placed: placed(&examined.layout),
        paths: examined.paths,
        volumes: examined.layout.volumes,
        roots,
        repository,
        room,
        findings: sorted(examined.findings),
    })
}

fn repository_state(config: &Config, findings: &mut Vec<Finding>) -> RepositoryState {
    let opened = open_repository(config);
    let listed = opened
        .as_ref()
        .map_err(ToString::to_string)
        .and_then(|repository| repository.list().map_err(|error| error.to_string()));
    let (usable, backups) = match listed {
        Ok(listed) => (true, listed.iter().filter(|one| one.manifest.is_ok()).count()),
        Err(error) => {
            findings
                .push(Finding::blocker("repository", error).remedy(
                    "mount it, or name another one; `snapback init` makes a new one, and never overwrites one",
                ));
            (false, 0)
        }
    };
    if let Some(error) = opened.iter().find_map(|repository| require_writable(repository).err()) {
        findings.push(
            Finding::blocker("repository-read-only", error.to_string())
                .remedy("mount it writable, or name another one"),
        );
    }
    RepositoryState {
        path: config.repository.clone(),
        usable,
        backups,
    }
}

fn placed(layout: &Layout) -> Vec<PlacedPath> {
    let one = |placed: &crate::detect::Placed| PlacedPath {
        path: placed.path.clone(),
        role: placed.role,
        volume: placed.volume,
    };
    layout.placed.iter().map(one).collect()
}

fn sorted(mut findings: Vec<Finding>) -> Vec<Finding> {
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}
