//! Whether a snapshot will have the room that it needs: a thick one in its volume group, a thin one in its pool.

use std::time::Duration;

use super::super::{Result, Volume};
use super::CowSize;
use super::report::{self, Lv};
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
/// From here on a person is told.
const FILLING: f64 = 85.0;

/// How long the writes to a volume are watched before its snapshot's size is planned.
const WATCH: Duration = Duration::from_millis(300);
/// How fast a copy is taken to be, in bytes per second, and how long a run takes beside its copy.
const COPIED_PER_SECOND: u64 = 100 << 20;
const BESIDE_THE_COPY: u64 = 60;

/// About how many bytes will be written to a volume while its snapshot is copied: at the present rate, all of them to different places.
pub fn expected_changes(volume: &Volume) -> Result<u64> {
    let device = super::locate::device_of(&volume.top)?;
    let before = super::locate::bytes_written(device);
    std::thread::sleep(WATCH);
    let written = super::locate::bytes_written(device).saturating_sub(before);
    let room = crate::sys::fs::room(&volume.top)?;
    let seconds = room.total.saturating_sub(room.available) / COPIED_PER_SECOND + BESIDE_THE_COPY;
    let rate = written as f64 / WATCH.as_secs_f64();
    Ok((rate * seconds as f64) as u64)
}

/// The size of a thick snapshot's copy-on-write space, in bytes: whole extents, never more than could ever be used, nor than is free.
pub fn planned(origin: &Lv, cow_size: CowSize, expected: u64) -> u64 {
    let whole = |bytes: u64| bytes.div_ceil(origin.extent()) * origin.extent();
    let most = whole(origin.size() + origin.size() / 50 + LEAST);
    let wanted = match cow_size {
        CowSize::Bytes(bytes) => whole(bytes),
        CowSize::Percent(percent) => whole(origin.size() / 100 * percent),
        CowSize::Auto => {
            let wanted = (origin.size() / 100 * LEAST_PERCENT)
                .max(expected.saturating_mul(MARGIN))
                .max(LEAST);
            whole(wanted).min(origin.vg_free() / origin.extent() * origin.extent())
        }
    };
    wanted.min(most)
}

pub fn judge(origin: &Lv, cow_size: CowSize, expected: u64) -> Result<Vec<Finding>> {
    if origin.kind == "thin" {
        let pool = report::one(&format!("{}/{}", origin.vg, origin.pool))?;
        return Ok(pool.as_ref().and_then(judge_pool).into_iter().collect());
    }
    let (planned, free) = (planned(origin, cow_size, expected), origin.vg_free());
    let (name, vg) = (origin.full_name(), &origin.vg);
    let remedy = format!("free some space in it, add a disk (`vgextend {vg} DEVICE`), or set lvm.cow_size");
    Ok(if planned > free || planned < LEAST.min(origin.size()) {
        let message = format!(
            "volume group {vg} has {} free: too little for the copy-on-write space of a snapshot of {name} ({})",
            Bytes::b(free),
            Bytes::b(planned.max(LEAST))
        );
        vec![Finding::blocker("no-room", message).remedy(remedy)]
    } else if planned < expected.saturating_mul(2) {
        let message = format!(
            "a snapshot of {name} gets {} of copy-on-write space, and about {} are expected to change while it exists: it may overflow, and the backup fail",
            Bytes::b(planned),
            Bytes::b(expected)
        );
        vec![Finding::warning("little-room", message).remedy(remedy)]
    } else {
        Vec::new()
    })
}

/// A pool that fills up freezes its volumes, production first (trap 24).
fn judge_pool(pool: &Lv) -> Option<Finding> {
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
    if fullest >= FULL {
        Some(Finding::blocker("no-room", message).remedy(remedy))
    } else {
        (fullest >= FILLING).then(|| Finding::warning("little-room", message).remedy(remedy))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Severity;

    fn pool(data: &str, metadata: &str) -> Lv {
        let answer = format!(
            r#"{{"report":[{{"lv":[{{"vg_name":"vg0","lv_name":"pool","lv_uuid":"x","lv_attr":"twi-aotz--","lv_size":"1","segtype":"thin-pool","pool_lv":"",
            "origin":"","data_percent":"{data}","metadata_percent":"{metadata}","lv_tags":"","lv_dm_path":"/dev/mapper/vg0-pool","vg_free":"0",
            "vg_extent_size":"4194304","lv_snapshot_invalid":"","lv_health_status":""}}]}}]}}"#
        );
        report::parse(answer.as_bytes()).unwrap().remove(0)
    }

    #[test]
    fn a_pool_is_judged_by_data_and_by_metadata() {
        let judged = |data, metadata| judge_pool(&pool(data, metadata)).map(|finding| finding.severity);
        assert_eq!(judged("40.00", "10.00"), None);
        assert_eq!(judged("86.00", "10.00"), Some(Severity::Warning));
        assert_eq!(judged("10.00", "86.00"), Some(Severity::Warning));
        assert_eq!(judged("95.00", "10.00"), Some(Severity::Blocker));
        assert_eq!(judged("10.00", "95.10"), Some(Severity::Blocker));
    }
}
