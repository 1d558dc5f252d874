//! A dataset goes back: renamed away, a clone of the held snapshot takes its name and is promoted.
//!
//! Not by `zfs rollback`, which destroys what was live and every newer snapshot. The promotion makes what was live depend on the held snapshot, and not the
//! other way round, so that it can be given up again.

use std::collections::BTreeMap;

use super::super::rollback::{GoBack, Own, Stand, Swap, mount_missing, remounts};
use super::super::{Error, Result, Snapshot, mark};
use super::report::{self, PROPERTY, zfs};
use super::{Zfs, own};
use crate::detect::Mounts;
use crate::units::Id;

/// The user property of the clone until all is done; its value is the rollback.
const FRESH: &str = "snapback:fresh";
/// The live dataset's own value, put back when it is mounted again.
const CANMOUNT: &str = "canmount";
const MOUNTPOINT: &str = "mountpoint";

/// Local properties that a clone has from its origin, and that cannot be given to it; and those that have a way of their own.
const LEFT_OUT: [&str; 7] = [
    "encryption",
    "keyformat",
    "keylocation",
    "pbkdf2iters",
    "canmount",
    PROPERTY,
    FRESH,
];

/// More promotions than a lineage of rollbacks needs.
const GENERATIONS: usize = 1000;

impl GoBack for Zfs {
    fn plan(&self, run: Id, held: &Snapshot, mounts: &Mounts) -> Result<Swap> {
        let live = &held.volume.id;
        let fail = |reason: String| Error::failed("roll back", live, reason);
        let (parent, _) = live.rsplit_once('/').ok_or_else(|| {
            fail("it is the pool's own dataset, which cannot be renamed: put the data into one below it".to_owned())
        })?;
        let found = report::one(live)?.ok_or_else(|| fail("the dataset is not there any more".to_owned()))?;
        let below = report::list(&["-r", "-t", "filesystem,volume", live])?;
        if let Some(child) = below.iter().find(|one| one.name != *live) {
            return Err(fail(format!(
                "{} lies below it and would stay behind: move it first",
                child.name
            )));
        }
        held_now(held)?;
        let own = |mount: &crate::detect::Mount| match (
            mount.fs_type == "zfs" && mount.source == *live,
            mount.root.as_os_str() == "/",
        ) {
            (true, true) => Own::Whole,
            (true, false) => Own::Part,
            _ => Own::No,
        };
        let number: u64 = found
            .guid
            .parse()
            .map_err(|_| fail(format!("its GUID {} is no number", found.guid)))?;
        let away = format!("{parent}/{}", mark::name(run, number));
        let details = [CANMOUNT, MOUNTPOINT].map(|name| Ok((name.to_owned(), value(name, live)?)));
        Ok(Swap {
            kept: Snapshot {
                run,
                volume: held.volume.clone(),
                name: format!("{away}@{}", mark::name(run, 0)),
                identity: None,
            },
            held: held.clone(),
            keep: true,
            live: live.clone(),
            live_identity: found.guid,
            fresh: format!("{parent}/snapback_fresh_{run}_{number}"),
            away,
            device: held.volume.filesystem.clone(),
            details: details.into_iter().collect::<Result<BTreeMap<_, _>>>()?,
            mounts: remounts(&held.volume, mounts, own, "")?,
        })
    }

    fn make(&self, swap: &Swap) -> Result<()> {
        if report::one(&swap.fresh)?.is_some() {
            return Ok(());
        }
        let mut command = zfs("clone")?.args(["-o", "canmount=noauto", "-o", &format!("{FRESH}={}", swap.kept.run)]);
        for (name, value) in local_properties(&swap.live)? {
            command = command.args(["-o", &format!("{name}={value}")]);
        }
        command.args([&held_now(&swap.held)?, &swap.fresh]).run()?;
        Ok(())
    }

    fn stand(&self, swap: &Swap) -> Result<Stand> {
        match report::one(&swap.live)? {
            None => Ok(Stand::Away),
            Some(found) if found.guid == swap.live_identity => Ok(Stand::Old),
            Some(_) if is_fresh(swap, &swap.live)? || is_settled(swap)? => Ok(Stand::New),
            Some(_) => {
                let reason = "another dataset has its name now; look at it, and give the right one the name back";
                Err(Error::failed("roll back", &swap.live, reason))
            }
        }
    }

    fn away(&self, swap: &Swap) -> Result<()> {
        if self.stand(swap)? == Stand::Old {
            // Not mounted at boot, whatever becomes of this.
            zfs("set")?.args(["canmount=noauto", &swap.live]).run()?;
            rename(&swap.live, &swap.away)?;
        }
        Ok(())
    }

    fn enter(&self, swap: &Swap) -> Result<()> {
        if self.stand(swap)? == Stand::Away {
            rename(&swap.fresh, &swap.live)?;
        }
        Ok(())
    }

    fn leave(&self, swap: &Swap) -> Result<()> {
        if self.stand(swap)? == Stand::New {
            rename(&swap.live, &swap.fresh)?;
        }
        Ok(())
    }

    fn back(&self, swap: &Swap) -> Result<()> {
        if self.stand(swap)? == Stand::Away {
            rename(&swap.away, &swap.live)?;
        }
        Ok(())
    }

    fn settle(&self, swap: &Swap) -> Result<Option<Snapshot>> {
        let run = swap.kept.run.to_string();
        zfs("set")?.args([&format!("{PROPERTY}={run}"), &swap.away]).run()?;
        if report::one(&swap.kept.name)?.is_none() {
            zfs("snapshot")?
                .args(["-o", &format!("{PROPERTY}={run}"), &swap.kept.name])
                .run()?;
        }
        take_snapshots_over(&swap.live)?;
        zfs("inherit")?.args([FRESH, &swap.live]).run()?;
        // Again after a death: it is held already.
        let _ = zfs("hold")?.args([own::HOLD, &swap.kept.name]).run();
        let found = report::one(&swap.kept.name)?
            .ok_or_else(|| Error::failed("keep", &swap.kept.name, "it is not there after it was made"))?;
        Ok(Some(Snapshot {
            identity: Some(found.guid),
            ..swap.kept.clone()
        }))
    }

    fn discard(&self, swap: &Swap) -> Result<()> {
        if report::one(&swap.fresh)?.is_some() && is_fresh(swap, &swap.fresh)? {
            zfs("destroy")?.arg(&swap.fresh).run()?;
        }
        Ok(())
    }

    fn mount_again(&self, swap: &Swap) -> Result<()> {
        let detail = |name: &str| swap.details.get(name).map_or("", String::as_str);
        zfs("set")?
            .args([&format!("{CANMOUNT}={}", detail(CANMOUNT)), &swap.live])
            .run()?;
        if detail(MOUNTPOINT) == "legacy" {
            return mount_missing(&swap.mounts);
        }
        if !swap.mounts.is_empty() && value("mounted", &swap.live)? != "yes" {
            zfs("mount")?.arg(&swap.live).run()?;
        }
        Ok(())
    }

    fn names_now(&self) -> Result<BTreeMap<String, String>> {
        let own = own::list()?;
        Ok(own
            .into_iter()
            .filter_map(|one| Some((one.identity?, one.name)))
            .collect())
    }
}

/// The live dataset becomes the one that what was kept depends on, through however many rollbacks: so each of those can be given up.
fn take_snapshots_over(live: &str) -> Result<()> {
    for _ in 0..GENERATIONS {
        let origin = value("origin", live)?;
        let dataset = origin.split('@').next().unwrap_or_default();
        if dataset.rsplit('/').next().and_then(mark::run_of).is_none() {
            break;
        }
        // The data is right without it, for instance when a snapshot of the administrator's has the same name in both.
        if let Err(error) = zfs("promote")?.arg(live).run() {
            tracing::warn!(%error, "the live dataset stays a clone of what was kept");
            break;
        }
    }
    Ok(())
}

/// The name that the held snapshot has now: an earlier rollback may have moved it to another dataset.
fn held_now(held: &Snapshot) -> Result<String> {
    let found = report::one(&held.name)?.filter(|found| held.identity.as_deref() == Some(&found.guid));
    found.map(|found| found.name).ok_or_else(|| {
        Error::failed(
            "roll back to",
            &held.name,
            "it is not the snapshot that was held any more",
        )
    })
}

fn is_fresh(swap: &Swap, dataset: &str) -> Result<bool> {
    Ok(value(FRESH, dataset)? == swap.kept.run.to_string())
}

/// Whether what was live is marked as kept: from then on the copy loses its own mark.
fn is_settled(swap: &Swap) -> Result<bool> {
    match report::one(&swap.away)? {
        Some(away) if away.guid == swap.live_identity => Ok(value(PROPERTY, &swap.away)? == swap.kept.run.to_string()),
        _ => Ok(false),
    }
}

fn value(property: &str, dataset: &str) -> Result<String> {
    let output = zfs("get")?.args(["-H", "-p", "-o", "value", property, dataset]).run()?;
    Ok(String::from_utf8_lossy(&output).trim().to_owned())
}

fn local_properties(dataset: &str) -> Result<Vec<(String, String)>> {
    let output = zfs("get")?
        .args(["-H", "-p", "-s", "local", "-o", "property,value", "all", dataset])
        .run()?;
    let text = String::from_utf8_lossy(&output).into_owned();
    let pair = |line: &str| {
        let (name, value) = line.split_once('\t')?;
        (!LEFT_OUT.contains(&name)).then(|| (name.to_owned(), value.to_owned()))
    };
    Ok(text.lines().filter_map(pair).collect())
}

/// Neither is mounted: `-u` is not needed.
fn rename(old: &str, new: &str) -> Result<()> {
    zfs("rename")?.args([old, new]).run()?;
    Ok(())
}
