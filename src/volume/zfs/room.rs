//! Whether a pool has room for snapshots. One of a dataset or volume with a reservation of its own (`refreservation`, which `zfs create -V` sets) needs as much beside
//! it as was written: what the snapshot keeps is no longer of the reservation (OpenZFS, dsl_dataset_snapshot_reserve_space).

use std::collections::BTreeMap;

use super::super::{Error, Result, Volume};
use super::pool_of;
use super::report::zfs;
use crate::finding::Finding;
use crate::units::Bytes;

/// A snapshot needs little more than this, in bytes, where nothing is reserved.
const LEAST: u64 = 64 << 20;

/// What `zfs list` says of a dataset's space, in bytes.
struct Space {
    reserved: u64,
    written: u64,
    available: u64,
    /// The part of `available` that only the dataset itself may use.
    own: u64,
}

impl Space {
    fn of(dataset: &str) -> Result<Space> {
        let fields = "refreservation,usedbydataset,available,usedbyrefreservation";
        let output = zfs("list")?.args(["-H", "-p", "-o", fields, dataset]).run()?;
        Space::parse(&String::from_utf8_lossy(&output))
            .ok_or_else(|| Error::failed("understand the answer of", "zfs list", String::from_utf8_lossy(&output)))
    }

    fn parse(line: &str) -> Option<Space> {
        // `none` and `-` are nothing.
        let mut fields = line.trim().split('\t').map(|field| field.parse().unwrap_or(0));
        Some(Space {
            reserved: fields.next()?,
            written: fields.next()?,
            available: fields.next()?,
            own: fields.next()?,
        })
    }

    fn need(&self) -> u64 {
        self.reserved.min(self.written)
    }

    fn free(&self) -> u64 {
        self.available.saturating_sub(self.own)
    }
}

/// Judges all volumes of each pool together.
pub fn look(volumes: &[Volume]) -> Result<Vec<Finding>> {
    let mut pools: BTreeMap<&str, Vec<Space>> = BTreeMap::new();
    for volume in volumes {
        pools
            .entry(pool_of(&volume.id))
            .or_default()
            .push(Space::of(&volume.id)?);
    }
    Ok(pools.iter().filter_map(|(pool, spaces)| judge(pool, spaces)).collect())
}

fn judge(pool: &str, spaces: &[Space]) -> Option<Finding> {
    let need = LEAST + spaces.iter().map(Space::need).sum::<u64>();
    let free = spaces.iter().map(Space::free).min()?;
    let message = format!(
        "pool {pool} has {} available: too little for a snapshot, which needs {}",
        Bytes::b(free),
        Bytes::b(need)
    );
    let remedy = if need > LEAST {
        "free some space, or make the volume sparse: `zfs set refreservation=none VOLUME` (a full pool then stops the server)"
    } else {
        "free some space: a full pool stops the server"
    };
    (free < need).then(|| Finding::blocker("no-room", message).remedy(remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_and_written_is_needed_once_more() {
        let judged = |lines: &[&str]| {
            let spaces: Vec<Space> = lines.iter().map(|line| Space::parse(line).unwrap()).collect();
            judge("tank", &spaces).is_some()
        };
        // A volume of 1 GiB, half written, with 600 MiB beside it; then two of them; then a sparse one.
        let thick = "1073741824\t536870912\t1166016512\t536870912\n";
        assert!(!judged(&[thick]));
        assert!(judged(&[thick, thick]));
        assert!(!judged(&["none\t536870912\t104857600\t0\n"]));
        assert!(judged(&["none\t536870912\t1048576\t0\n"]));
        assert!(Space::parse("12").is_none());
    }
}
