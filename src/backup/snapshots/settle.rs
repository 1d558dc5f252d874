//! What is dirty reaches the disk before the lock and not under it.

use std::time::{Duration, Instant};

use crate::Result;
use crate::backup::examine::provider_of;
use crate::database::SettlePoint;
use crate::volume::{Provider, Volume};

/// A settle round shorter than this leaves nothing worth another one (docs/benchmarks.md, "settle").
const CLEAN_ENOUGH: Duration = Duration::from_millis(15);
/// More rounds than this do not help: the load dirties as fast as the disk writes.
const MOST_ROUNDS: usize = 4;

/// Syncs the filesystems of the volumes until a round is short, as often at most as suits the point of the lock sequence. Each filesystem once per round.
pub(crate) fn settle(providers: &[Box<dyn Provider>], volumes: &[Volume], point: SettlePoint) -> Result<()> {
    // To measure what it gives.
    if crate::sys::failpoint::asked("backup.no-settle") {
        return Ok(());
    }
    let mut before = Duration::MAX;
    for _ in 0..rounds(point) {
        let begun = Instant::now();
        let mut done: Vec<&str> = Vec::new();
        for volume in volumes
            .iter()
            .filter(|volume| volume.provider != crate::volume::ProviderKind::Fake)
        {
            if !done.contains(&volume.filesystem.as_str()) {
                provider_of(providers, volume)?.settle(volume)?;
                done.push(&volume.filesystem);
            }
        }
        let took = begun.elapsed();
        // Stop when clean, or when a round no longer shortens what is left.
        if took < CLEAN_ENOUGH || took > before.mul_f32(0.8) {
            break;
        }
        before = took;
    }
    Ok(())
}

const fn rounds(point: SettlePoint) -> usize {
    match point {
        SettlePoint::Before => MOST_ROUNDS,
        SettlePoint::Between => 1,
        SettlePoint::Pause => 0,
    }
}
