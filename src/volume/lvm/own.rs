//! Snapshots of ours: known by name, tag, run and UUID; mounted, watched, removed.

use std::path::Path;
use std::time::Duration;

use super::super::mark::{self, CLONE_OF};
use super::super::{Error, Health, ProviderKind, Result, Snapshot, Space, Volume};
use super::report::{self, Lv, changing};
use super::{CowSize, OF};
use crate::sys;

/// Every snapshot of ours has it.
pub const TAG: &str = "snapback";

/// Fuller than this, in hundredths, copy-on-write space is extended where that was allowed, by this part of its size.
const EXTEND: f64 = 60.0;
const BY_PERCENT: u64 = 50;
/// Fuller than this, in hundredths, the copy should hurry.
const STRAINING: f64 = 80.0;
/// A pool fuller than this, in hundredths, is let go of: production matters more than a backup.
const POOL_FULL: f64 = 97.0;

/// How often a removal is tried, and how long it waits in between: udev or a scanner may have it open for a moment.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(250);

/// The tag of a run's snapshots.
pub fn run_tag(run: crate::units::Id) -> String {
    format!("{TAG}-run={run}")
}

/// Mounts a snapshot read-only. Suspending the origin froze the filesystem, so there is little or nothing to replay; what there is, is
/// replayed on the snapshot, which is writable. `noload` or `norecovery` would pass over it, and be wrong where the filesystem was not frozen.
pub fn mount(snapshot: &Snapshot, at: &Path) -> Result<()> {
    let lv = there(snapshot)?;
    // A thin one that was held over a restart of the host: LVM passes over it then.
    if lv.kind == "thin" && !lv.is_active() {
        report::activate(&snapshot.name, &["--ignoreactivationskip"])?;
    }
    let data = if snapshot.volume.fs_type == "xfs" { "nouuid" } else { "" };
    Ok(sys::mount::mount_read_only(
        Path::new(&lv.device),
        at,
        &snapshot.volume.fs_type,
        data,
    )?)
}

/// `grows` says whether a pool (by name) that is now so full fills.
pub fn health(snapshot: &Snapshot, limit: Option<CowSize>, grows: &dyn Fn(&str, f64) -> bool) -> Result<Health> {
    let Some(lv) = report::one(&snapshot.name)? else {
        return Ok(match hidden(snapshot)? {
            Some(reason) => Health::OutOfReach(format!("{}: {reason}", snapshot.name)),
            None => Health::Lost(format!("{} is gone", snapshot.name)),
        });
    };
    if let Some(reason) = foreign(snapshot, &lv) {
        return Ok(Health::Lost(format!("{}: {reason}", snapshot.name)));
    }
    if lv.kind == "thin" {
        return pool_health(&lv, grows);
    }
    // How full it is, and whether it overflowed, only an active one says.
    if !lv.is_active() {
        return Ok(Health::Warned(format!(
            "{} is not active: `vgchange --activate y {}`",
            snapshot.name, lv.vg
        )));
    }
    let mut full = lv.data_percent().unwrap_or(0.0);
    if let Some(limit) = limit.filter(|_| (EXTEND..100.0).contains(&full) && !lv.is_invalid()) {
        // What cannot be extended is as good as it was.
        match extend(&lv, limit) {
            Ok(now) => full = now.unwrap_or(full),
            Err(error) => {
                tracing::warn!(snapshot = lv.full_name(), %error, "cannot extend the copy-on-write space");
            }
        }
    }
    Ok(if lv.is_invalid() || full >= 100.0 {
        Health::Lost(format!(
            "the copy-on-write space of {} overflowed, or its disk failed (the kernel's log has that): make it larger (lvm.cow_size), or back up at a quieter time",
            snapshot.name
        ))
    } else if full >= STRAINING {
        Health::Straining(format!(
            "the copy-on-write space of {} is full to {full:.0} %",
            snapshot.name
        ))
    } else {
        Health::Good
    })
}

/// Why one that its group does not have under its name may be there all the same, if so.
fn hidden(snapshot: &Snapshot) -> Result<Option<String>> {
    let vg = snapshot.name.split_once('/').map_or("", |(vg, _)| vg);
    if !report::is_group(vg)? {
        return Ok(Some(format!(
            "the volume group {vg} is not seen on this host: attach its disks (`pvscan --cache` looks for them), or `vgrename` it back"
        )));
    }
    let uuid = snapshot.identity.as_deref().filter(|one| !one.contains(':'));
    let Some(uuid) = uuid else { return Ok(None) };
    let renamed = report::selected(vg, &format!("lv_uuid={uuid}"))?;
    Ok(renamed.map(|lv| {
        let own = snapshot.name.rsplit('/').next().unwrap_or_default();
        format!(
            "it was renamed: `lvrename {vg} {} {own}` gives it its name again",
            lv.name
        )
    }))
}

/// What a snapshot costs: a thick one has a room of its own, a thin one shares its pool.
pub fn space(snapshot: &Snapshot) -> Result<Space> {
    let lv = there(snapshot)?;
    if lv.kind == "thin" {
        let pool = report::one(&format!("{}/{}", lv.vg, lv.pool))?;
        let fullest = |pool: &Lv| {
            let data = pool.data_percent().unwrap_or(0.0);
            data.max(pool.metadata_percent().unwrap_or(0.0))
        };
        return Ok(Space {
            fill: pool.as_ref().map(fullest),
            ..Space::default()
        });
    }
    let fill = lv.data_percent();
    Ok(Space {
        bytes: fill.map(|fill| (lv.size() as f64 * fill / 100.0) as u64),
        room: Some(lv.size()),
        fill,
    })
}

/// Gives the copy-on-write space of a held snapshot more room, if it has one of its own and is whole; whether it did.
pub fn extend_held(snapshot: &Snapshot, limit: Option<CowSize>) -> Result<bool> {
    let Some(limit) = limit else { return Ok(false) };
    let lv = there(snapshot)?;
    if lv.kind == "thin" || lv.is_invalid() || lv.data_percent().is_none_or(|full| full >= 100.0) {
        return Ok(false);
    }
    Ok(extend(&lv, limit)?.is_some())
}

/// Gives copy-on-write space more room, and says how full it is then; `None` when nothing was to be had.
fn extend(lv: &Lv, limit: CowSize) -> Result<Option<f64>> {
    let limit = match limit {
        CowSize::Bytes(bytes) => bytes,
        CowSize::Percent(percent) => match report::one(&format!("{}/{}", lv.vg, lv.origin))? {
            Some(origin) => origin.size() / 100 * percent,
            None => return Ok(None),
        },
        CowSize::Auto => u64::MAX,
    };
    let extents = more_extents(lv, limit);
    if extents == 0 {
        return Ok(None);
    }
    changing("lvextend")?
        .args(["--extents", &format!("+{extents}"), &lv.full_name()])
        .run()?;
    tracing::info!(snapshot = lv.full_name(), extents, "extended the copy-on-write space");
    Ok(report::one(&lv.full_name())?.and_then(|now| now.data_percent()))
}

/// How many extents copy-on-write space gets: at least one, where neither its limit in bytes nor the group's room forbids it.
fn more_extents(lv: &Lv, limit: u64) -> u64 {
    let most = limit.saturating_sub(lv.size()).min(lv.vg_free()) / lv.extent();
    (lv.size() / 100 * BY_PERCENT / lv.extent()).max(1).min(most)
}

fn pool_health(lv: &Lv, grows: &dyn Fn(&str, f64) -> bool) -> Result<Health> {
    let name = format!("{}/{}", lv.vg, lv.pool);
    let Some(pool) = report::one(&name)? else {
        return Ok(Health::Lost(format!("pool {name} is gone")));
    };
    let full = pool
        .data_percent()
        .unwrap_or(0.0)
        .max(pool.metadata_percent().unwrap_or(0.0));
    let grows = grows(&name, full);
    let status = pool.status.as_str();
    Ok(if !matches!(status, "" | "unknown") {
        Health::Lost(format!("pool {name}: {status}"))
    } else if full >= POOL_FULL {
        Health::Full(format!("pool {name} is full to {full:.0} %"))
    } else if full >= STRAINING {
        let reason = format!("pool {name} is full to {full:.0} %");
        // One that stays as it is gives no reason to hurry.
        if grows {
            Health::Straining(reason)
        } else {
            Health::Warned(reason)
        }
    } else {
        Health::Good
    })
}

/// Resumes the volume that a snapshot is of, if an `lvcreate` that was killed left it suspended: whoever writes to it waits for ever otherwise.
/// While any of LVM's commands is at work, `lvs` waits for it, so what it calls suspended is nobody's.
pub fn wake_origin(snapshot: &Snapshot) -> Result<()> {
    // A clone's is a snapshot of ours.
    let cloned = snapshot.identity.as_deref().and_then(|one| one.strip_prefix(CLONE_OF));
    if let (Some(uuid), Some((vg, _))) = (cloned, snapshot.name.split_once('/')) {
        return report::selected(vg, &format!("lv_uuid={uuid}"))?
            .iter()
            .try_for_each(wake_if_suspended);
    }
    // A snapshot that was interrupted at its wiping has no origin yet.
    if snapshot.volume.id.ends_with('/') {
        return Ok(());
    }
    report::one(&snapshot.volume.id)?.iter().try_for_each(wake_if_suspended)
}

fn wake_if_suspended(origin: &Lv) -> Result<()> {
    if !origin.is_suspended() {
        return Ok(());
    }
    let found =
        rustix::fs::stat(&*origin.device).map_err(|error| sys::Error::path("look at", &*origin.device, error))?;
    wake(
        (rustix::fs::major(found.st_rdev), rustix::fs::minor(found.st_rdev)),
        &origin.full_name(),
    )?;
    Ok(())
}

/// Resumes a logical volume if it is suspended; whether it was.
pub fn wake(device: (u32, u32), name: &str) -> Result<bool> {
    let woken = sys::device_mapper::wake(device, name)?;
    if woken {
        tracing::warn!(volume = name, "lvcreate was killed and left it suspended; resumed it");
        // What LVM's metadata says counts, if it says more than what was in force.
        if let Err(error) = changing("lvchange")?.args(["--refresh", name]).run() {
            tracing::warn!(%error, "cannot refresh the logical volume");
        }
    }
    Ok(woken)
}

/// Removes a snapshot of ours; `Ok(false)` when it is gone.
pub fn remove(snapshot: &Snapshot) -> Result<bool> {
    wake_origin(snapshot)?;
    let Some(lv) = report::one(&snapshot.name)? else {
        return match hidden(snapshot)? {
            Some(reason) => Err(Error::failed("remove the snapshot", &snapshot.name, reason)),
            None => Ok(false),
        };
    };
    if let Some(reason) = foreign(snapshot, &lv) {
        return Err(Error::failed(
            "remove the snapshot",
            &snapshot.name,
            format!("{reason}; it is left alone"),
        ));
    }
    if sys::mount::is_mounted(Path::new(&lv.device)) {
        return Err(Error::failed(
            "remove the snapshot",
            &snapshot.name,
            "it is mounted, so somebody reads it; it is left alone",
        ));
    }
    crate::failpoint!("lvm.remove", || Error::failed(
        "remove the snapshot",
        "the volume",
        "failpoint"
    ));
    let command = changing("lvremove")?.args(["--yes", &snapshot.name]);
    let mut attempt = 1;
    loop {
        match command.run() {
            Ok(_) => return Ok(true),
            Err(error @ sys::Error::StillRunning { .. }) => return Err(error.into()),
            Err(_) if report::one(&snapshot.name)?.is_none() => return Ok(true),
            Err(error) if attempt == ATTEMPTS => return Err(error.into()),
            Err(_) => attempt += 1,
        }
        std::thread::sleep(PAUSE);
    }
}

/// Every snapshot with our mark.
pub fn list(kind: ProviderKind) -> Result<Vec<Snapshot>> {
    // A host without LVM has none; without device-mapper, LVM's commands fail.
    let mapper = Path::new("/sys/class/misc/device-mapper");
    if !mapper.exists() || sys::command::Program::find("lvs").is_err() {
        return Ok(Vec::new());
    }
    let found = report::list(&[&format!("@{TAG}")])?;
    let ours = found.into_iter().filter_map(|lv| {
        let run = mark::run_of(&lv.name)?;
        let of_kind = (lv.kind == "thin") == (kind == ProviderKind::LvmThin);
        (of_kind && lv.has_tag(&run_tag(run))).then(|| Snapshot {
            run,
            name: lv.full_name(),
            identity: Some(lv.uuid.clone()),
            volume: Volume {
                provider: kind,
                id: format!("{}/{}", lv.vg, lv.origin),
                source: format!("{}/{}", lv.vg, lv.origin),
                fs_type: String::new(),
                top: "/".into(),
                filesystem: String::new(),
            },
        })
    });
    Ok(ours.collect())
}

/// The snapshot or clone as it is now, if it is the one that was made.
pub fn there(snapshot: &Snapshot) -> Result<Lv> {
    let lv =
        report::one(&snapshot.name)?.ok_or_else(|| Error::failed("read the snapshot", &snapshot.name, "it is gone"))?;
    match foreign(snapshot, &lv) {
        None => Ok(lv),
        Some(reason) => Err(Error::failed("read the snapshot", &snapshot.name, reason)),
    }
}

/// Why this volume is not the snapshot that we made, if so.
fn foreign(snapshot: &Snapshot, found: &Lv) -> Option<String> {
    if !found.has_tag(TAG) || !found.has_tag(&run_tag(snapshot.run)) {
        return Some("it does not carry the tags of snapback's run".to_owned());
    }
    if mark::run_of(&found.name) != Some(snapshot.run) {
        return Some(format!("it does not carry the mark of run {}", snapshot.run));
    }
    match snapshot.identity.as_deref() {
        // Planned, and perhaps made: known by its tags, as a clone is. A thick one that was interrupted at its wiping has no origin yet.
        Some(identity) if !identity.starts_with(OF) && !identity.starts_with(CLONE_OF) && identity != found.uuid => {
            Some(format!(
                "its UUID {} is not that of the snapshot that snapback made",
                found.uuid
            ))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(size: u64, free: u64, extent: u64) -> Lv {
        let answer = format!(
            r#"{{"report":[{{"lv":[{{"vg_name":"vg0","lv_name":"s","lv_uuid":"x","lv_attr":"swi-a-s---","lv_size":"{size}","segtype":"linear",
            "pool_lv":"","origin":"db","data_percent":"70.00","metadata_percent":"","lv_tags":"","lv_dm_path":"/dev/mapper/vg0-s","vg_free":"{free}",
            "vg_extent_size":"{extent}","lv_snapshot_invalid":"","lv_health_status":""}}]}}]}}"#
        );
        report::parse(answer.as_bytes()).unwrap().remove(0)
    }

    #[test]
    fn space_grows_by_half_and_by_one_extent_at_least() {
        let mib = |mib: u64| mib << 20;
        assert_eq!(more_extents(&space(mib(800), mib(9000), mib(4)), u64::MAX), 100);
        // One extent is the whole of it.
        assert_eq!(more_extents(&space(mib(512), mib(9000), mib(512)), u64::MAX), 1);
        assert_eq!(more_extents(&space(mib(512), mib(511), mib(512)), u64::MAX), 0);
        assert_eq!(more_extents(&space(mib(512), mib(9000), mib(512)), mib(1000)), 0);
        assert_eq!(more_extents(&space(mib(800), mib(8), mib(4)), u64::MAX), 2);
        assert_eq!(more_extents(&space(mib(800), mib(9000), mib(4)), mib(812)), 3);
    }
}
