//! Removing held sets: the record says that it goes, the snapshots go, the record goes. A death in between is finished by `cleanup`.

use serde::Serialize;

use crate::backup::examine::provider_of;
use crate::config::Config;
use crate::detect::Mounts;
use crate::finding::Finding;
use crate::held::{self, Held};
use crate::units::Id;
use crate::volume::{self, Provider, ProviderKind};
use crate::{Error, Result};

/// A set that was removed, or would be.
#[derive(Debug, Clone, Serialize)]
pub struct Removed {
    /// It.
    pub id: Id,
    /// What a person called it.
    pub label: Option<String>,
    /// Why.
    pub reason: &'static str,
}

/// Removes one set: all of its snapshots, then its record.
///
/// # Errors
/// Somebody uses it, or one of its snapshots is out of reach and may be whole: it is as it was. Or one of its snapshots cannot be removed after another one was: the record stays until all are gone.
pub fn delete(config: &Config, id: Id) -> Result<()> {
    delete_with(config, &volume::providers(config), id, false).map(drop)
}

/// Removes what can be reached of a set, then its record. Returns the snapshots that are out of reach, and stay.
///
/// # Errors
/// As [`delete`].
pub fn forget(config: &Config, id: Id) -> Result<Vec<String>> {
    delete_with(config, &volume::providers(config), id, true)
}

fn delete_with(config: &Config, providers: &[Box<dyn Provider>], id: Id, forced: bool) -> Result<Vec<String>> {
    let used = held::take_for(&config.state_dir, id, true)?;
    let held = &used.held;
    let stay = held::out_of_reach(held, config);
    if let Some((_, reason)) = stay.first().filter(|_| !forced) {
        return Err(Error::failed(format!(
            "held set {0}: {reason}. Nothing was removed. Where it never comes back: `snapback snapshot delete --force {0}` forgets the record",
            id.short()
        )));
    }
    let stay: Vec<String> = stay.into_iter().map(|(snapshot, _)| snapshot.name.clone()).collect();
    if let Some(at) = mounted_at(held, providers)? {
        return Err(Error::failed(format!(
            "held set {} is mounted at {at}: `umount -R` it first",
            id.short()
        )));
    }
    if !held.deleting {
        let doomed = Held {
            deleting: true,
            ..held.clone()
        };
        held::replace(&config.state_dir, &doomed)?;
    }
    let there = held.snapshots().filter(|snapshot| !stay.contains(&snapshot.name));
    for (number, snapshot) in there.enumerate() {
        let removed = provider_of(providers, &snapshot.volume).and_then(|provider| Ok(provider.remove(snapshot)?));
        if let Err(cause) = removed {
            // All of it is still there: it can be used as before.
            let whole = number == 0 && !held.deleting;
            let back = if whole {
                held::replace(&config.state_dir, held)
            } else {
                Ok(())
            };
            return Err(cause.and_rollback(back));
        }
        crate::failpoint!("held.deleting");
    }
    for place in &held.places {
        volume::remove_place(place)?;
    }
    held::remove(&config.state_dir, id)?;
    Ok(stay)
}

/// Where a Btrfs snapshot of the set is mounted by itself; the kernel keeps the others from being removed while they are.
fn mounted_at(held: &Held, providers: &[Box<dyn Provider>]) -> Result<Option<String>> {
    let mounts = Mounts::read()?;
    for snapshot in held
        .snapshots()
        .filter(|one| one.volume.provider == ProviderKind::Btrfs)
    {
        // What is gone or out of reach is removed by nobody.
        let Ok(seen) = provider_of(providers, &snapshot.volume).and_then(|provider| Ok(provider.seen(snapshot)?))
        else {
            continue;
        };
        let path = std::path::Path::new(&seen.name);
        let Some((device, within)) = mounts
            .holding(path)
            .and_then(|mount| Some((mount.device, mount.within(path)?)))
        else {
            continue;
        };
        let shows = |mount: &&crate::detect::Mount| mount.device == device && mount.root.starts_with(&within);
        if let Some(mount) = mounts.0.iter().find(shows) {
            return Ok(Some(mount.mount_point.display().to_string()));
        }
    }
    Ok(None)
}

/// Removes the sets whose time is over. One that cannot be removed is a finding: it is tried again next time.
///
/// # Errors
/// The records cannot be read.
pub fn expire(config: &Config, now: jiff::Timestamp, dry_run: bool) -> Result<(Vec<Removed>, Vec<Finding>)> {
    remove_all(config, dry_run, "expired", |held| !held.deleting && held.expired(now))
}

/// Goes on with removals that a death cut short.
///
/// # Errors
/// The records cannot be read.
pub fn finish_deletions(config: &Config, dry_run: bool) -> Result<(Vec<Removed>, Vec<Finding>)> {
    remove_all(config, dry_run, "its removal had begun", |held| held.deleting)
}

fn remove_all(
    config: &Config,
    dry_run: bool,
    reason: &'static str,
    wanted: impl Fn(&Held) -> bool,
) -> Result<(Vec<Removed>, Vec<Finding>)> {
    let kept = held::list(&config.state_dir)?;
    let providers = volume::providers(config);
    let (mut removed, mut findings) = (Vec::new(), Vec::new());
    for held in kept.sets.into_iter().filter(wanted) {
        let done = if dry_run {
            Ok(())
        } else {
            delete_with(config, &providers, held.id, false).map(drop)
        };
        match done {
            Ok(()) => removed.push(Removed {
                id: held.id,
                label: held.label,
                reason,
            }),
            Err(error) => {
                let said = format!("held set {} ({reason}) could not be removed: {error}", held.id.short());
                findings.push(Finding::warning("held", said));
            }
        }
    }
    Ok((removed, findings))
}
