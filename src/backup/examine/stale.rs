//! What runs that died left on this host: said before each run, undone by `cleanup` alone.

use std::path::Path;

use crate::finding::Finding;
use crate::held;
use crate::journal::{self, Made};

/// A warning for each dead run that left something. A raised setting is named with its old value: it is not the administrator's.
pub(super) fn runs(state_dir: &Path) -> Vec<Finding> {
    let past = match journal::list(state_dir) {
        Ok(past) => past,
        Err(error) => return vec![Finding::warning("stale-run", error.to_string())],
    };
    // After the journals: a run writes its set's record before its journal goes.
    let kept = held::list(state_dir).unwrap_or_default();
    let dead = past.runs.iter().filter(|run| !run.alive);
    let left = dead.map(|run| {
        let held = kept.of(run.run);
        let stays = |made: &&Made| match (made, held) {
            (Made::Snapshot(snapshot), Some(held)) => held.holds(snapshot),
            // The place of a held snapshot.
            (Made::Directory { .. }, Some(_)) => true,
            _ => false,
        };
        let left: Vec<String> = run.left.iter().filter(|made| !stays(made)).map(describe).collect();
        (run, left)
    });
    left.filter(|(_, left)| !left.is_empty())
        .map(|(run, left)| {
            let said = format!("a run that died ({}) left {}", run.run.short(), left.join(", "));
            Finding::warning("stale-run", said).remedy("`snapback cleanup` removes it, and puts settings back")
        })
        .collect()
}

fn describe(made: &Made) -> String {
    match made {
        Made::Setting(setting) => format!(
            "{} at {} on the server at {} (it was {})",
            setting.variable, setting.new, setting.server, setting.old
        ),
        other => crate::cleanup::name_of(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Severity;
    use crate::journal::{Journal, Setting};
    use crate::units::Id;

    #[test]
    fn a_dead_run_is_named_with_what_it_left_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        assert!(runs(dir.path()).is_empty());
        let journal = Journal::create(dir.path(), Id::random()).unwrap();
        let setting = Setting {
            server: "/run/s".into(),
            identity: None,
            variable: "innodb_flush_log_at_trx_commit".into(),
            old: "0".into(),
            new: "1".into(),
        };
        journal.record(&Made::Mount { at: "/mnt/x".into() }).unwrap();
        journal.record(&Made::Setting(setting)).unwrap();
        assert!(runs(dir.path()).is_empty(), "the run lives");
        let run = journal.run().short();
        drop(journal);
        let found = runs(dir.path());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].severity, Severity::Warning);
        for word in [
            run.as_str(),
            "/mnt/x",
            "innodb_flush_log_at_trx_commit at 1",
            "it was 0",
        ] {
            assert!(found[0].message.contains(word), "{word}: {}", found[0].message);
        }
        assert!(found[0].remedy.as_deref().unwrap().contains("snapback cleanup"));
    }

    #[test]
    fn a_dead_run_that_left_nothing_is_not_worth_a_word() {
        let dir = tempfile::tempdir().unwrap();
        drop(Journal::create(dir.path(), Id::random()).unwrap());
        assert!(runs(dir.path()).is_empty());
    }
}
