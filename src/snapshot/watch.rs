//! The guard of the held sets' storage: one pass that warns, extends or drops, as `held:` in the configuration says.

use std::time::Duration;

use serde::Serialize;

use super::delete::{Removed, delete};
use super::status::{self, Status};
use crate::config::{Config, OnFull};
use crate::finding::Finding;
use crate::volume::{self, ProviderKind};
use crate::{Result, held};

/// How long a pass waits for the storage to give back the room of what was removed before it judges a further set.
const GIVE_BACK: Duration = Duration::from_secs(120);

/// What one pass found and did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Watched {
    /// Sets that were removed.
    pub removed: Vec<Removed>,
    /// Snapshots whose copy-on-write space was extended.
    pub extended: Vec<String>,
    /// What a person must read.
    pub findings: Vec<Finding>,
}

/// Looks at every set once. Sets whose time is over go first, whatever the policy says.
///
/// # Errors
/// The records cannot be read. What could not be done is among the findings.
pub fn watch(config: &Config) -> Result<Watched> {
    let (removed, findings) = super::expire(config, jiff::Timestamp::now(), false)?;
    let mut watched = Watched {
        removed,
        findings,
        ..Watched::default()
    };
    let kept = held::list(&config.state_dir)?;
    watched.findings.extend(kept.findings);
    // The oldest first: where several share a pool, one may be enough.
    for set in kept.sets.into_iter().filter(|set| !set.deleting) {
        look(config, status::of(config, set), &mut watched);
    }
    Ok(watched)
}

fn look(config: &Config, mut set: Status, watched: &mut Watched) {
    let policy = &config.held;
    let is_lost = |set: &Status| {
        let codes = [held::LOST, held::UNREACHABLE];
        set.findings
            .iter()
            .any(|finding| codes.contains(&finding.code.as_str()))
    };
    let full = |set: &Status| set.fill.filter(|fill| *fill >= policy.at);
    if is_lost(&set) {
        watched.findings.append(&mut set.findings);
        return;
    }
    if full(&set).is_none() {
        return;
    }
    // Storage that is still giving back what was removed looks fuller than it is.
    let given_back = given_back(config, &set);
    set = status::of(config, set.held);
    while full(&set).is_some() && policy.on_full != OnFull::Warn && extend(config, &set, watched) {
        set = status::of(config, set.held);
    }
    let Some(fill) = full(&set) else { return };
    let id = set.held.id.short();
    let label = set.held.label.as_deref().unwrap_or("no label");
    let said = format!("held set {id} ({label}): its storage is full to {fill:.0} %");
    if policy.on_full != OnFull::Drop {
        let finding = Finding::warning("held-full", said);
        watched.findings.push(finding.remedy(remedy(config, &set)));
        return;
    }
    if !given_back {
        let said = format!("{said}, and still gives back the room of what was removed");
        let finding = Finding::warning("held-full", said);
        watched
            .findings
            .push(finding.remedy("the next pass looks whether it has to go"));
        return;
    }
    match delete(config, set.held.id) {
        Ok(()) => {
            let said = format!("{said}: it was removed, as `held.on_full: drop` says");
            watched.findings.push(Finding::warning("held-dropped", said));
            watched.removed.push(Removed {
                id: set.held.id,
                label: set.held.label,
                reason: "its storage filled",
            });
        }
        Err(error) => {
            let said = format!("{said}, and it could not be removed: {error}");
            watched.findings.push(Finding::warning("held-full", said));
        }
    }
}

fn remedy(config: &Config, set: &Status) -> String {
    let id = set.held.id.short();
    let thick = set
        .held
        .snapshots()
        .any(|snapshot| snapshot.volume.provider == ProviderKind::Lvm);
    let limit = match config.lvm.cow_limit {
        None if thick && config.held.on_full == OnFull::Extend => ", or allow more copy-on-write space (lvm.cow_limit)",
        Some(_) if thick => ", or allow more copy-on-write space (lvm.cow_limit, and room in the volume group)",
        _ => ", or give its storage more room",
    };
    format!("`snapback snapshot delete {id}`{limit}")
}

/// Whether the storage of a set has given back all that was removed from it, after a wait. One that cannot be asked is taken at its word.
fn given_back(config: &Config, set: &Status) -> bool {
    let providers = volume::providers(config);
    set.held.snapshots().all(|snapshot| {
        let provider = volume::of_kind(&providers, snapshot.volume.provider);
        provider.is_none_or(|provider| {
            provider.given_back(snapshot, GIVE_BACK).unwrap_or_else(|error| {
                tracing::warn!(snapshot = snapshot.name, %error, "cannot tell whether room is being given back");
                true
            })
        })
    })
}

/// Gives the set's fullest snapshots more room, one step each; whether any got it.
fn extend(config: &Config, set: &Status, watched: &mut Watched) -> bool {
    let providers = volume::providers(config);
    let mut any = false;
    for snapshot in set.held.snapshots() {
        let Some(provider) = volume::of_kind(&providers, snapshot.volume.provider) else {
            continue;
        };
        let full = provider.space(snapshot).ok().and_then(|space| space.fill);
        if full.is_none_or(|fill| fill < config.held.at) {
            continue;
        }
        match provider.extend(snapshot) {
            Ok(true) => {
                any = true;
                if !watched.extended.contains(&snapshot.name) {
                    watched.extended.push(snapshot.name.clone());
                }
            }
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(snapshot = snapshot.name, %error, "cannot extend the copy-on-write space");
            }
        }
    }
    any
}
