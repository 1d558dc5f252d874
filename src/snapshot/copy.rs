//! A held set becomes a backup: the copy that its creation left out.

use std::collections::BTreeMap;

use super::view::usable;
use crate::backup::run::Run;
use crate::backup::snapshots::Taken;
use crate::backup::store::{self, Work};
use crate::backup::trees::PlannedTree;
use crate::backup::{Outcome, ended, interrupted, open_repository, require_writable};
use crate::config::Config;
use crate::finding::Finding;
use crate::held::HeldTree;
use crate::monitor::Monitor;
use crate::record::Record;
use crate::sys::signal::Cancel;
use crate::units::Id;
use crate::volume;
use crate::volume::Volume;
use crate::{Error, Result};

/// Copies a set into the repository, as a backup of its instant with its position. The set stays.
///
/// # Errors
/// There is no backup then; the set is as it was.
pub fn backup(
    config: &Config,
    id: Id,
    tags: &BTreeMap<String, String>,
    monitor: &dyn Monitor,
    cancel: &Cancel,
) -> Result<Outcome> {
    let used = usable(config, id)?;
    let held = &used.held;
    if held.trees.is_empty() {
        return Err(Error::usage(format!(
            "the held set {} has nothing in it: a backup of it would be the newest of its job, and empty. `snapback snapshot delete {}` removes it",
            id.short(),
            id.short()
        )));
    }
    let repository = open_repository(config)?;
    require_writable(&repository)?;
    let mut config = config.clone();
    config.host = Some(held.host.clone());
    let mut run = Run::begin(&config, monitor, cancel)?;
    // It was said when the set was taken, and belongs to the backup.
    run.findings.extend(held.record.warnings.iter().cloned());
    let providers = volume::providers(&config);
    let volumes: Vec<Volume> = held.snapshots().map(|snapshot| snapshot.volume.clone()).collect();
    let planned: Vec<PlannedTree> = held.trees.iter().map(planned).collect();
    let taken = run.phase("mount", |run| {
        Taken::of_kept(run, &providers, &held.volumes, &held.places)
    });
    let result = taken.and_then(|taken| {
        let work = Work {
            config: &config,
            tags,
            repository: &repository,
            volumes: &volumes,
            planned: &planned,
            time: held.time,
            facts: held.record.clone(),
        };
        let stored = store::copy(&mut run, work, &taken).and_then(|copied| copied.commit(&mut run));
        let let_be = run.closing_phase("unmount", |run| taken.let_be(&run.journal));
        match (stored, let_be) {
            (Ok(outcome), Ok(())) => Ok(outcome),
            // Committed: what is still mounted is a warning, and the journal has it.
            (Ok(outcome), Err(error)) => {
                run.note([left(&error)]);
                Ok(outcome)
            }
            (Err(cause), let_be) => Err(interrupted(cause).and_rollback(let_be)),
        }
    });
    let outcome = ended(&run, result)?;
    let record = Record {
        warnings: run.findings.clone(),
        ..outcome.record
    };
    Ok(Outcome { record, ..outcome })
}

fn left(error: &Error) -> Finding {
    Finding::warning("left", format!("the backup is complete, but a mount is left: {error}"))
        .remedy("`snapback cleanup` removes it")
}

fn planned(tree: &HeldTree) -> PlannedTree {
    PlannedTree {
        record: tree.root.clone(),
        volume: Some(tree.volume),
        relative: tree.relative.clone(),
        skip: tree.skip.clone(),
    }
}
