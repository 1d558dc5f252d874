//! The guard of the held sets' storage: one pass that warns, extends or drops, as `held:` in the configuration says.

use serde::Serialize;

use super::delete::{Removed, delete};
use super::status::{self, Status};
use crate::Result;
use crate::config::{Config, OnFull};
use crate::finding::Finding;
use crate::volume::{self, Health, ProviderKind};

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
    let (sets, said) = status::list(config)?;
    watched.findings.extend(said);
    // The oldest first: where several share a pool, one may be enough.
    for set in sets.into_iter().filter(|set| !set.held.deleting) {
        look(config, set, &mut watched);
    }
    Ok(watched)
}

fn look(config: &Config, mut set: Status, watched: &mut Watched) {
    let policy = &config.held;
    let is_lost = |set: &Status| set.findings.iter().any(|finding| finding.code == "held-lost");
    let full = |set: &Status| set.fill.filter(|fill| *fill >= policy.at);
    if is_lost(&set) {
        watched.findings.append(&mut set.findings);
        return;
    }
    if full(&set).is_some() && policy.on_full != OnFull::Warn && extend(config, &set, watched) {
        set = status::of(config, set.held);
    }
    // Those before it may have made room.
    let set = if watched.removed.is_empty() {
        set
    } else {
        status::of(config, set.held)
    };
    let Some(fill) = full(&set) else { return };
    let id = set.held.id.short();
    let label = set.held.label.as_deref().unwrap_or("no label");
    let said = format!("held set {id} ({label}): its storage is full to {fill:.0} %");
    if policy.on_full != OnFull::Drop {
        let remedy = format!("`snapback snapshot delete {id}`, or give its storage more room");
        watched
            .findings
            .push(Finding::warning("held-full", said).remedy(remedy));
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

/// Asks LVM for more copy-on-write space; the provider extends what is filling, up to `lvm.cow_limit`.
fn extend(config: &Config, set: &Status, watched: &mut Watched) -> bool {
    let providers = volume::providers(config);
    let mut any = false;
    for snapshot in set
        .held
        .snapshots()
        .filter(|one| one.volume.provider == ProviderKind::Lvm)
    {
        let Some(provider) = volume::of_kind(&providers, ProviderKind::Lvm) else {
            continue;
        };
        let room = || provider.space(snapshot).ok().and_then(|space| space.room);
        let before = room();
        if matches!(
            provider.health(snapshot),
            Ok(Health::Good | Health::Warned(_) | Health::Straining(_))
        ) && room() > before
        {
            watched.extended.push(snapshot.name.clone());
            any = true;
        }
    }
    any
}
