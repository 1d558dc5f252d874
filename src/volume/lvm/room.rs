//! Whether a snapshot will have the room that it needs: a thick one in its volume group, a thin one in its pool.

use std::time::Duration;

use super::super::{Result, Volume};
use super::CowSize;
use super::report::Lv;
use crate::finding::Finding;
use crate::units::Bytes;

/// Part of the origin's size that `auto` takes at least, in hundredths: a copy of a database takes minutes, in which hot pages change.
const LEAST_PERCENT: u64 = 10;
/// How many times what is expected to change `auto` takes.
const MARGIN: u64 = 3;
/// Less than this, in bytes, holds little but the metadata.
const LEAST: u64 = 32 << 20;
/// A pool fuller than this, in hundredths, gets no snapshot.
const FULL: f64 = 95.0;
/// LVM makes nothing new in a pool unless so many bytes of its metadata are free, or this part of it, in hundredths (lvm2, pool_metadata_min_threshold).
const METADATA_FREE: u64 = 4 << 20;
const METADATA_FREE_PERCENT: f64 = 25.0;
/// From here on a person is told.
const FILLING: f64 = 85.0;

/// How long the writes to a volume are watched before its snapshot's size is planned: InnoDB flushes in a rhythm of a second.
const WATCH: Duration = Duration::from_secs(2);
/// How fast a copy is taken to be at most, in bytes per second, and how long a run takes beside its copy.
const COPIED_PER_SECOND: u64 = 100 << 20;
const BESIDE_THE_COPY: u64 = 60;

/// About how many bytes will be written to each volume while its snapshot exists, until all are copied: at the present rate, all of them to different places.
/// `bandwidth`: what the copy is limited to, in bytes per second. `reads`: how often all is read.
pub fn expected_changes(volumes: &[Volume], bandwidth: Option<u64>, reads: u64) -> Result<Vec<u64>> {
    let devices = volumes.iter().map(|volume| super::locate::device_of(&volume.top));
    let devices: Vec<(u32, u32)> = devices.collect::<Result<_>>()?;
    let written = || devices.iter().map(|device| super::locate::bytes_written(*device));
    let before: Vec<u64> = written().collect();
    std::thread::sleep(WATCH);
    let mut used = 0;
    for volume in volumes {
        let room = crate::sys::fs::room(&volume.top)?;
        used += room.total.saturating_sub(room.available);
    }
    let seconds = copy_seconds(used, bandwidth, reads);
    let rates = written()
        .zip(before)
        .map(|(now, before)| now.saturating_sub(before) as f64 / WATCH.as_secs_f64());
    Ok(rates.map(|rate| (rate * seconds as f64) as u64).collect())
}

/// How long a run over so many bytes takes, in seconds. What is read beside the copy has no bandwidth limit.
fn copy_seconds(used: u64, bandwidth: Option<u64>, reads: u64) -> u64 {
    let rate = bandwidth.unwrap_or(COPIED_PER_SECOND).clamp(1, COPIED_PER_SECOND);
    used / rate + reads.saturating_sub(1) * used / COPIED_PER_SECOND + reads * BESIDE_THE_COPY
}

/// The size of a thick snapshot's copy-on-write space, in bytes: whole extents, never more than could ever be used; whether it is free is another question.
fn wanted(origin: &Lv, cow_size: CowSize, expected: u64) -> u64 {
    let whole = |bytes: u64| bytes.div_ceil(origin.extent()) * origin.extent();
    let most = whole(origin.size() + origin.size() / 50 + LEAST);
    let wanted = match cow_size {
        CowSize::Bytes(bytes) => bytes,
        CowSize::Percent(percent) => origin.size() / 100 * percent,
        CowSize::Auto => (origin.size() / 100 * LEAST_PERCENT)
            .max(expected.saturating_mul(MARGIN))
            .max(LEAST),
    };
    whole(wanted).min(most)
}

/// As [`wanted`], with `auto` never more than is free.
pub fn planned(origin: &Lv, cow_size: CowSize, expected: u64) -> u64 {
    let wanted = wanted(origin, cow_size, expected);
    match cow_size {
        CowSize::Auto => wanted.min(origin.vg_free() / origin.extent() * origin.extent()),
        _ => wanted,
    }
}

/// The sizes of the snapshots of volumes of one group, each with what is expected to change on it: together, `auto` takes no more than is free.
pub fn shares(volumes: &[(Lv, u64)], cow_size: CowSize) -> Vec<u64> {
    let wanted: Vec<u64> = volumes
        .iter()
        .map(|(origin, expected)| wanted(origin, cow_size, *expected))
        .collect();
    let total: u64 = wanted.iter().sum();
    let free = volumes.first().map_or(0, |(origin, _)| origin.vg_free());
    if cow_size != CowSize::Auto || total <= free {
        return wanted;
    }
    let share = |(wanted, (origin, _)): (u64, &(Lv, u64))| {
        let part = u128::from(wanted) * u128::from(free) / u128::from(total.max(1));
        u64::try_from(part).unwrap_or(u64::MAX) / origin.extent() * origin.extent()
    };
    wanted.into_iter().zip(volumes).map(share).collect()
}

/// Judges the snapshots of volumes of one group by their [`shares`].
pub fn judge(volumes: &[(Lv, u64)], shares: &[u64]) -> Vec<Finding> {
    let Some((first, _)) = volumes.first() else {
        return Vec::new();
    };
    let (vg, free) = (&first.vg, first.vg_free());
    let remedy = format!("free some space in it, add a disk (`vgextend {vg} DEVICE`), or set lvm.cow_size");
    let small = |(share, (origin, _)): (&u64, &(Lv, u64))| *share < LEAST.min(origin.size());
    if shares.iter().sum::<u64>() > free || shares.iter().zip(volumes).any(small) {
        let names: Vec<String> = volumes.iter().map(|(origin, _)| origin.full_name()).collect();
        let needed: u64 = shares.iter().map(|share| (*share).max(LEAST)).sum();
        let message = format!(
            "volume group {vg} has {} free: too little for the copy-on-write space of a snapshot of {} ({})",
            Bytes::b(free),
            names.join(" and one of "),
            Bytes::b(needed)
        );
        return vec![Finding::blocker("no-room", message).remedy(remedy)];
    }
    let tight = |(share, (origin, expected)): (&u64, &(Lv, u64))| {
        (*share < expected.saturating_mul(2)).then(|| {
            let message = format!(
                "a snapshot of {} gets {} of copy-on-write space, and about {} are expected to change while it exists: it may overflow, and the backup fail",
                origin.full_name(),
                Bytes::b(*share),
                Bytes::b(*expected)
            );
            Finding::warning("little-room", message).remedy(remedy.clone())
        })
    };
    shares.iter().zip(volumes).filter_map(tight).collect()
}

/// LVM makes no snapshot of a volume while another one is merged into it (after a rollback).
pub fn judge_merging(origin: &Lv) -> Option<Finding> {
    origin.is_merging().then(|| {
        let message = format!(
            "a snapshot is being merged into {} ({:.0} % to go): LVM makes no other one until that has ended",
            origin.full_name(),
            origin.data_percent().unwrap_or(0.0)
        );
        Finding::blocker("merging", message).remedy("wait for its end: `lvs` shows it")
    })
}

/// A pool that fills up freezes its volumes, production first (trap 24). `expected`: bytes that will change on its volumes while their snapshots exist.
pub fn judge_pool(pool: &Lv, expected: u64) -> Option<Finding> {
    let (data, metadata) = (
        pool.data_percent().unwrap_or(0.0),
        pool.metadata_percent().unwrap_or(0.0),
    );
    let message = format!(
        "thin pool {} is full to {data:.0} % (data) and {metadata:.0} % (metadata)",
        pool.full_name()
    );
    let remedy = format!(
        "extend it: `lvextend -L +SIZE {0}` or `lvextend --poolmetadatasize +SIZE {0}`",
        pool.full_name()
    );
    let fullest = data.max(metadata);
    let free = (pool.size() as f64 * (100.0 - data) / 100.0) as u64;
    if fullest >= FULL || metadata >= most_metadata(pool.metadata_size()) {
        Some(Finding::blocker("no-room", message).remedy(remedy))
    } else if free < expected {
        let message = format!(
            "{message}: {} are free, and about {} are expected to change while a snapshot exists",
            Bytes::b(free),
            Bytes::b(expected)
        );
        Some(Finding::warning("little-room", message).remedy(remedy))
    } else {
        (fullest >= FILLING).then(|| Finding::warning("little-room", message).remedy(remedy))
    }
}

/// How full a pool's metadata of this size may be for a snapshot to be made, in hundredths.
fn most_metadata(size: u64) -> f64 {
    let free = METADATA_FREE as f64 * 100.0 / size.max(1) as f64;
    100.0 - free.min(METADATA_FREE_PERCENT)
}

#[cfg(test)]
mod tests {
    use super::super::report;
    use super::*;
    use crate::finding::Severity;

    fn lv(name: &str, kind: &str, size: u64, free: u64, data: &str, metadata: &str) -> Lv {
        let answer = format!(
            r#"{{"report":[{{"lv":[{{"vg_name":"vg0","lv_name":"{name}","lv_uuid":"x","lv_attr":"twi-aotz--","lv_size":"{size}","segtype":"{kind}","pool_lv":"",
            "origin":"","data_percent":"{data}","metadata_percent":"{metadata}","lv_tags":"","lv_dm_path":"/dev/mapper/vg0-x","vg_free":"{free}",
            "vg_extent_size":"4194304","lv_snapshot_invalid":"","lv_health_status":"","lv_metadata_size":"134217728"}}]}}]}}"#
        );
        report::parse(answer.as_bytes()).unwrap().remove(0)
    }

    fn pool(data: &str, metadata: &str) -> Lv {
        lv("pool", "thin-pool", 1 << 30, 0, data, metadata)
    }

    /// Each would fit by itself.
    #[test]
    fn several_volumes_of_a_group_are_judged_together() {
        let two = |free: u64| {
            let one = |name| (lv(name, "linear", 4 << 30, free, "", ""), 0);
            vec![one("data"), one("logs")]
        };
        let planned = |free, cow_size| {
            let volumes = two(free);
            let shares = shares(&volumes, cow_size);
            let found = judge(&volumes, &shares);
            (shares, found)
        };
        // 10 % of 4 GiB, in whole extents.
        let (sizes, found) = planned(2 << 30, CowSize::Auto);
        assert_eq!((sizes, found.len()), (vec![412 << 20; 2], 0));
        let (sizes, found) = planned(500 << 20, CowSize::Auto);
        assert_eq!((sizes, found.len()), (vec![248 << 20; 2], 0));
        let (_, found) = planned(40 << 20, CowSize::Auto);
        assert_eq!(found[0].severity, Severity::Blocker);
        assert!(
            found[0].message.contains("vg0/data and one of vg0/logs"),
            "{}",
            found[0].message
        );
        let (sizes, found) = planned(500 << 20, CowSize::Bytes(400 << 20));
        assert_eq!((sizes, found[0].severity), (vec![400 << 20; 2], Severity::Blocker));
    }

    #[test]
    fn a_slow_copy_gives_writers_more_time() {
        assert_eq!(copy_seconds(100 << 30, None, 1), 1024 + 60);
        assert_eq!(copy_seconds(100 << 30, Some(10 << 20), 1), 10240 + 60);
        assert_eq!(copy_seconds(100 << 30, Some(10 << 30), 1), 1024 + 60);
        // With a private server on the snapshot as well.
        assert_eq!(copy_seconds(100 << 30, Some(10 << 20), 2), 10240 + 1024 + 120);
    }

    #[test]
    fn a_pool_is_judged_by_what_will_change_as_well() {
        let judged = |expected| judge_pool(&pool("50.00", "10.00"), expected).map(|finding| finding.severity);
        assert_eq!(judged(500 << 20), None);
        assert_eq!(judged(600 << 20), Some(Severity::Warning));
    }

    #[test]
    fn a_pool_is_judged_by_data_and_by_metadata() {
        let judged = |data, metadata| judge_pool(&pool(data, metadata), 0).map(|finding| finding.severity);
        assert_eq!(judged("40.00", "10.00"), None);
        assert_eq!(judged("86.00", "10.00"), Some(Severity::Warning));
        assert_eq!(judged("10.00", "86.00"), Some(Severity::Warning));
        assert_eq!(judged("95.00", "10.00"), Some(Severity::Blocker));
        assert_eq!(judged("10.00", "95.10"), Some(Severity::Blocker));
        // Of small metadata more has to be free.
        assert_eq!(
            [4, 16, 128, 16 << 10].map(|mebibytes| most_metadata(mebibytes << 20) as u32),
            [75, 75, 96, 99]
        );
    }
}
