//! Rollbacks that died: `cleanup` finishes those whose names were being exchanged, and undoes the others.

use std::path::Path;

use serde::Serialize;

use super::record::{self, Record};
use super::steps::Steps;
use crate::Result;
use crate::backup::run;
use crate::config::Config;
use crate::finding::Finding;
use crate::monitor::Monitor;
use crate::units::Id;

/// What became of a rollback that had died.
#[derive(Debug, Clone, Serialize)]
pub struct Resumed {
    /// The rollback.
    pub rollback: Id,
    /// `finished`, `undone`, `alive` (left alone) or `failed`; with `dry_run`, what would be tried.
    pub result: &'static str,
    /// Why it failed.
    pub error: Option<String>,
}

/// The rollbacks that were begun and not finished.
///
/// # Errors
/// The state directory cannot be read.
pub fn unfinished(state_dir: &Path) -> Result<Vec<Id>> {
    record::list(state_dir)
}

/// A warning for each rollback that was begun and not finished: what is live may be half of it.
///
/// # Errors
/// The state directory cannot be read.
pub fn unfinished_findings(state_dir: &Path) -> Result<Vec<Finding>> {
    let warn = |id: Id| {
        let said = format!("rollback {} was begun and is not finished", id.short());
        Finding::warning("rollback-unfinished", said).remedy("`snapback cleanup` finishes or undoes it")
    };
    Ok(unfinished(state_dir)?.into_iter().map(warn).collect())
}

/// Finishes or undoes every one of them. With `dry_run` it only says so.
///
/// # Errors
/// The state directory cannot be read. What failed is in the result.
pub fn resume_all(config: &Config, dry_run: bool, monitor: &dyn Monitor) -> Result<Vec<Resumed>> {
    let all = unfinished(&config.state_dir)?;
    if all.is_empty() {
        return Ok(Vec::new());
    }
    let report = |rollback: Id, result: &'static str, error: Option<String>| Resumed {
        rollback,
        result,
        error,
    };
    // Whoever holds it is a run, perhaps the rollback itself.
    let Ok(_alone) = run::lock_out_others(&config.state_dir, all[0]) else {
        return Ok(all.into_iter().map(|id| report(id, "alive", None)).collect());
    };
    let mut resumed = Vec::new();
    for id in all {
        monitor.message(&format!("rollback {}", id.short()));
        let providers = super::providers(config);
        let done = Record::read(&config.state_dir, id).and_then(|record| {
            let mut steps = Steps::new(config, &providers, record, monitor);
            match dry_run {
                true => steps.goes_forward(),
                false => steps.resume(),
            }
        });
        resumed.push(match done {
            Ok(true) => report(id, "finished", None),
            Ok(false) => report(id, "undone", None),
            Err(error) => report(id, "failed", Some(error.to_string())),
        });
    }
    Ok(resumed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Severity;

    #[test]
    fn an_unfinished_rollback_is_warned_of() {
        let dir = tempfile::tempdir().unwrap();
        assert!(unfinished_findings(dir.path()).unwrap().is_empty());
        let id = Id::random();
        let records = dir.path().join("rollback");
        std::fs::create_dir(&records).unwrap();
        std::fs::write(records.join(format!("{id}.json")), "").unwrap();
        let found = unfinished_findings(dir.path()).unwrap();
        assert_eq!((found.len(), found[0].severity), (1, Severity::Warning));
        assert!(found[0].message.contains(&id.short()), "{found:?}");
    }
}
