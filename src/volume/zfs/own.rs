//! Snapshots of ours: known by name, user property and GUID; held while they are read; removed one by one, never with `-r`.

use std::time::{Duration, Instant};

use super::super::mark::{self, CLONE_OF};
use super::super::{Error, Health, ProviderKind, Result, Snapshot, Space, Volume};
use super::report::{self, Dataset, PROPERTY, zfs};
use super::{OF, pool_of};
use crate::detect::Mounts;
use crate::sys::command::{Command, Program};

/// The tag of our holds (zfs-hold(8)): nothing else destroys a snapshot that is being copied.
pub const HOLD: &str = "snapback";

/// How often a removal is tried, and how long it waits in between: somebody else may look at it for a moment.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(250);

/// What was freed counts as room only so many transaction groups later (OpenZFS, TXG_DEFER_SIZE).
const DEFERRED: u32 = 2;

/// The dataset is still the one that the plan was made for.
pub fn origin_is_the_same(snapshot: &Snapshot) -> Result<()> {
    let fail = |reason: &str| Err(Error::failed("snapshot", &snapshot.volume.source, reason));
    match report::one(&snapshot.volume.id)? {
        None => fail("the dataset is not there any more"),
        Some(dataset) if snapshot.identity.as_deref() != Some(&format!("{OF}{}", dataset.guid)) => {
            fail("it was replaced by another dataset since the plan was made")
        }
        Some(_) => Ok(()),
    }
}

/// The same snapshot with its own GUID, held.
pub fn identified_and_held(snapshot: &Snapshot) -> Result<Snapshot> {
    let found = report::one(&snapshot.name)?
        .ok_or_else(|| Error::failed("find the snapshot", &snapshot.name, "it is not there after it was made"))?;
    zfs("hold")?.args([HOLD, &snapshot.name]).run()?;
    Ok(Snapshot {
        identity: Some(found.guid),
        ..snapshot.clone()
    })
}

pub fn health(snapshot: &Snapshot) -> Result<Health> {
    let Some(found) = report::one(&snapshot.name)? else {
        return Ok(match hidden(snapshot)? {
            Some(reason) => Health::OutOfReach(format!("{}: {reason}", snapshot.name)),
            None => Health::Lost(format!("{} is gone", snapshot.name)),
        });
    };
    if let Some(reason) = foreign(snapshot, &found) {
        return Ok(Health::Lost(format!("{}: {reason}", snapshot.name)));
    }
    let pool = pool_of(&snapshot.name);
    let state = Command::new(&Program::find("zpool")?)
        .args(["list", "-H", "-o", "health", pool])
        .run()?;
    let state = String::from_utf8_lossy(&state).trim().to_owned();
    Ok(match state.as_str() {
        "ONLINE" => Health::Good,
        // A copy without its bandwidth limit would only slow the resilver.
        "DEGRADED" => Health::Warned(format!("pool {pool} is degraded")),
        _ => Health::OutOfReach(format!("pool {pool} is {state}")),
    })
}

/// Why one that `zfs` does not know may be there all the same, if so: its pool is not imported.
fn hidden(snapshot: &Snapshot) -> Result<Option<String>> {
    let pool = pool_of(&snapshot.name);
    let pools = Command::new(&Program::find("zpool")?)
        .args(["list", "-H", "-o", "name"])
        .run()?;
    let pools = String::from_utf8_lossy(&pools);
    let imported = pools.lines().any(|one| one.trim() == pool);
    Ok((!imported).then(|| format!("pool {pool} is not imported: `zpool import {pool}`")))
}

/// What a snapshot costs: what it alone refers to, and how full its pool is.
pub fn space(snapshot: &Snapshot) -> Result<Space> {
    let used = zfs("get")?
        .args(["-H", "-p", "-o", "value", "used", &snapshot.name])
        .run()?;
    let pool = pool_of(&snapshot.name);
    let full = Command::new(&Program::find("zpool")?)
        .args(["list", "-H", "-p", "-o", "capacity", pool])
        .run()?;
    let number = |answer: &[u8]| String::from_utf8_lossy(answer).trim().parse::<f64>().ok();
    Ok(Space {
        bytes: number(&used).map(|bytes| bytes as u64),
        room: None,
        fill: number(&full),
    })
}

/// Waits until the pool of a snapshot has freed what was destroyed, which it does in the background.
pub fn given_back(snapshot: &Snapshot, limit: Duration) -> Result<bool> {
    let (pool, zpool) = (pool_of(&snapshot.name), Program::find("zpool")?);
    let asked = Command::new(&zpool).args(["list", "-H", "-p", "-o", "freeing", pool]);
    let begun = Instant::now();
    while String::from_utf8_lossy(&asked.run()?).trim() != "0" {
        if begun.elapsed() >= limit {
            return Ok(false);
        }
        std::thread::sleep(PAUSE);
    }
    for _ in 0..=DEFERRED {
        Command::new(&zpool).args(["sync", pool]).run()?;
    }
    Ok(true)
}

/// Removes a snapshot of ours; `Ok(false)` when it is gone.
pub fn remove(snapshot: &Snapshot) -> Result<bool> {
    let Some(found) = report::one(&snapshot.name)? else {
        return match hidden(snapshot)? {
            Some(reason) => Err(Error::failed("remove the snapshot", &snapshot.name, reason)),
            None => Ok(false),
        };
    };
    if let Some(reason) = foreign(snapshot, &found) {
        return Err(Error::failed(
            "remove the snapshot",
            &snapshot.name,
            format!("{reason}; it is left alone"),
        ));
    }
    if in_use(&snapshot.name)? {
        return Err(Error::failed(
            "remove the snapshot",
            &snapshot.name,
            "it is mounted, so somebody reads it; it is left alone",
        ));
    }
    crate::failpoint!("zfs.remove", || Error::failed(
        "remove the snapshot",
        "the dataset",
        "failpoint"
    ));
    // A clone: nothing stands on it, and no hold of ours is on it.
    if !snapshot.name.contains('@') {
        destroy(&snapshot.name)?;
        return Ok(true);
    }
    remove_clones(snapshot)?;
    if let Some(run) = stands_on(snapshot)? {
        let reason = format!(
            "the state that rollback {0} kept stands on it: `snapback snapshot delete {0}` first",
            run.short()
        );
        return Err(Error::failed("remove the snapshot", &snapshot.name, reason));
    }
    // Without our hold (a run that died before it) this fails, which is fine.
    let _ = zfs("release")?.args([HOLD, &snapshot.name]).run();
    destroy(&snapshot.name)?;
    remove_kept(snapshot)?;
    Ok(true)
}

/// What a rollback kept is a dataset of its own. It goes with the last snapshot in it: other sets' may have come into it.
fn remove_kept(snapshot: &Snapshot) -> Result<()> {
    let Some((dataset, _)) = snapshot.name.split_once('@') else {
        return Ok(());
    };
    let Some(run) = dataset.rsplit('/').next().and_then(mark::run_of) else {
        return Ok(());
    };
    let ours = |found: Dataset| found.run.as_deref() == Some(&run.to_string());
    let empty = || Ok::<bool, Error>(report::list(&["-r", "-t", "snapshot", dataset])?.is_empty());
    if report::one(dataset)?.is_some_and(ours) && empty()? {
        destroy(dataset)?;
    }
    Ok(())
}

/// A state that a rollback kept, and that stands on this snapshot.
fn stands_on(snapshot: &Snapshot) -> Result<Option<crate::units::Id>> {
    let output = zfs("get")?
        .args(["-H", "-o", "value", "clones", &snapshot.name])
        .run()?;
    let names = String::from_utf8_lossy(&output).trim().to_owned();
    let kept = names.split(',').find_map(|name| mark::run_of(name.rsplit('/').next()?));
    Ok(kept)
}

/// Whether a snapshot is mounted, other than by a look into `.zfs/snapshot`, which passes.
fn mounted(name: &str) -> Result<bool> {
    let mounts = Mounts::read().map_err(|error| Error::failed("look for mounts of", name, error.to_string()))?;
    let passing = |at: &std::path::Path| at.to_string_lossy().contains("/.zfs/snapshot/");
    let mut of_it = mounts
        .0
        .iter()
        .filter(|mount| mount.fs_type == "zfs" && mount.source == name);
    Ok(of_it.any(|mount| !passing(&mount.mount_point)))
}

/// Whether somebody reads a snapshot, or a clone of a dataset or a volume.
fn in_use(name: &str) -> Result<bool> {
    Ok(mounted(name)? || crate::sys::mount::is_mounted(&super::zvol::device_of(name)))
}

/// Again and again for a while.
fn destroy(name: &str) -> Result<()> {
    // What a suspended pool keeps waiting does not die of a signal, and ends by itself when the pool is back.
    let command = zfs("destroy")?.arg(name).spared();
    let mut attempt = 1;
    loop {
        match command.run() {
            Ok(_) => return Ok(()),
            Err(error @ crate::sys::Error::StillRunning { .. }) => return Err(error.into()),
            Err(_) if report::one(name)?.is_none() => return Ok(()),
            Err(error) if attempt == ATTEMPTS => return Err(error.into()),
            Err(_) => attempt += 1,
        }
        std::thread::sleep(PAUSE);
    }
}

/// The clones by which a snapshot of a volume was read, or that a private server worked on. Others' clones of it stay, and keep it.
fn remove_clones(snapshot: &Snapshot) -> Result<()> {
    let output = zfs("get")?
        .args(["-H", "-o", "value", "clones", &snapshot.name])
        .run()?;
    let names = String::from_utf8_lossy(&output).trim().to_owned();
    for name in names.split(',').filter(|name| !matches!(*name, "" | "-")) {
        let ours = report::one(name)?.is_some_and(|clone| clone.run.as_deref() == Some(&snapshot.run.to_string()));
        if !ours {
            continue;
        }
        if in_use(name)? {
            return Err(Error::failed(
                "remove the clone",
                name,
                "it is mounted, so somebody reads it; it is left alone",
            ));
        }
        destroy(name)?;
    }
    Ok(())
}

/// Every snapshot with our mark, on every pool.
pub fn list() -> Result<Vec<Snapshot>> {
    let found = report::list(&["-t", "snapshot"])?;
    let ours = found.into_iter().filter_map(|one| {
        let (dataset, name) = one.name.split_once('@')?;
        let run = mark::run_of(name)?;
        (one.run.as_deref() == Some(&run.to_string())).then(|| Snapshot {
            run,
            name: one.name.clone(),
            identity: Some(one.guid.clone()),
            volume: Volume {
                provider: ProviderKind::Zfs,
                id: dataset.to_owned(),
                source: dataset.to_owned(),
                fs_type: "zfs".to_owned(),
                top: "/".into(),
                filesystem: pool_of(dataset).to_owned(),
            },
        })
    });
    Ok(ours.collect())
}

/// Why this snapshot is not the one that we made, if so.
fn foreign(snapshot: &Snapshot, found: &Dataset) -> Option<String> {
    if found.run.as_deref() != Some(&snapshot.run.to_string()) {
        return Some(format!("its property {PROPERTY} does not name run {}", snapshot.run));
    }
    // A dataset's children and snapshots have its property as well: a clone is known by its name, too.
    let named = |name: &str| name.rsplit('/').next().and_then(mark::run_of) == Some(snapshot.run);
    if !snapshot.name.contains('@') && !named(&snapshot.name) {
        return Some(format!("it does not carry the mark of run {}", snapshot.run));
    }
    match snapshot.identity.as_deref() {
        Some(identity) if identity.starts_with(CLONE_OF) => None,
        Some(identity) if !identity.starts_with(OF) && identity != found.guid => Some(format!(
            "its GUID {} is not that of the snapshot that snapback made",
            found.guid
        )),
        _ => None,
    }
}
