//! Snapshots with our mark that no journal and no record of this installation names: its own orphans, and those that are not proved to be its own.

use super::{Report, Request};
use crate::config::Config;
use crate::detect::Mounts;
use crate::finding::Finding;
use crate::units::Id;
use crate::volume::{Owner, Provider, Snapshot};
use crate::{Error, Result, held, journal};

/// So many names are said of the snapshots of others; the JSON has all.
const NAMED: usize = 5;

/// Looks for them on all storage, and removes what was asked for: orphans of this installation, and what was named.
pub(super) fn orphans(
    config: &Config,
    request: &Request,
    providers: &[Box<dyn Provider>],
    report: &mut Report,
) -> Result<()> {
    let mounts = Mounts::read()?;
    let mut found: Vec<(&dyn Provider, Snapshot)> = Vec::new();
    for provider in providers {
        match provider.list_own(&mounts) {
            Ok(own) => found.extend(own.into_iter().map(|snapshot| (&**provider, snapshot))),
            // One kind of storage that cannot be looked at must not keep the others from being cleaned.
            Err(error) => {
                let said = format!(
                    "snapshots of ours on {:?} cannot be looked for: {error}",
                    provider.kind()
                );
                report.findings.push(Finding::warning("orphan", said));
            }
        }
    }
    // After the snapshots: what a run of this installation made by then was in its journal before, and is in a record before the journal goes.
    let known = known(config)?;
    refuse_strange(request, &found, &known)?;
    let owner = Owner::of(&config.state_dir);
    for (provider, snapshot) in found.iter().filter(|(_, snapshot)| !known.contains(&snapshot.run)) {
        let named = request.snapshots.contains(&snapshot.name);
        if owner.owns(snapshot.run) {
            report.orphans.push(snapshot.name.clone());
            match named || request.orphans {
                true => remove(request, *provider, snapshot, report),
                false => report.findings.push(orphan(snapshot)),
            }
        } else {
            report.not_ours.push(snapshot.name.clone());
            if named {
                remove(request, *provider, snapshot, report);
            }
        }
    }
    report
        .findings
        .extend(not_ours(&report.not_ours, &report.removed_orphans));
    Ok(())
}

/// Every run that has a journal or a record here, alive or not.
fn known(config: &Config) -> Result<Vec<Id>> {
    let mut known: Vec<Id> = journal::list(&config.state_dir)?
        .runs
        .iter()
        .map(|one| one.run)
        .collect();
    known.extend(held::list(&config.state_dir)?.named);
    Ok(known)
}

/// A name that means no such snapshot is a mistake: nothing is removed then.
fn refuse_strange(request: &Request, found: &[(&dyn Provider, Snapshot)], known: &[Id]) -> Result<()> {
    for name in &request.snapshots {
        match found.iter().find(|(_, snapshot)| snapshot.name == *name) {
            None => {
                return Err(Error::usage(format!(
                    "{name} is no snapshot with snapback's mark: `snapback cleanup --json` lists those in `orphans` and `not_ours`"
                )));
            }
            Some((_, snapshot)) if known.contains(&snapshot.run) => {
                return Err(Error::usage(format!(
                    "{name} is in use by this installation (run {}): `snapback snapshot delete {}` removes a held set",
                    snapshot.run.short(),
                    snapshot.run.short()
                )));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn orphan(snapshot: &Snapshot) -> Finding {
    let said = format!(
        "{} was made by this installation, and nothing in its state directory names it any more",
        snapshot.name
    );
    Finding::warning("orphan", said).remedy("`snapback cleanup --orphans` removes it")
}

fn remove(request: &Request, provider: &dyn Provider, snapshot: &Snapshot, report: &mut Report) {
    let removed = match request.dry_run {
        true => Ok(true),
        false => provider.remove(snapshot),
    };
    match removed {
        Ok(true) => report.removed_orphans.push(snapshot.name.clone()),
        Ok(false) => {}
        Err(error) => report.findings.push(Finding::warning("orphan", error.to_string())),
    }
}

/// A fact, and nothing to warn of: others use snapback on this machine, or on its disks.
fn not_ours(names: &[String], removed: &[String]) -> Option<Finding> {
    let left: Vec<&str> = names
        .iter()
        .filter(|name| !removed.contains(name))
        .map(String::as_str)
        .collect();
    let first = *left.first()?;
    let (shown, more) = left.split_at(left.len().min(NAMED));
    let more = match more.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let said = format!(
        "not ours: {}{more}. Another state directory, another host or an older version made it; it is left alone",
        shown.join(", ")
    );
    let remedy = format!("only when that installation is gone for good: `snapback cleanup --snapshot {first}`");
    Some(Finding::note("not-ours", said).remedy(remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_ours_is_a_note_with_names() {
        let names: Vec<String> = (0..7).map(|number| format!("/m/snapback-{number}")).collect();
        let note = not_ours(&names, &names[..1]).unwrap();
        assert_eq!(note.severity, crate::finding::Severity::Note);
        assert!(
            note.message.contains("/m/snapback-1,") && note.message.contains("and 1 more"),
            "{}",
            note.message
        );
        assert!(!note.message.contains("/m/snapback-0"));
        assert!(note.remedy.unwrap().contains("--snapshot /m/snapback-1`"));
        assert!(not_ours(&names, &names).is_none());
    }
}
