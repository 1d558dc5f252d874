//! What the held sets are like now: what they cost, how full their storage is, and when it will be full.

use serde::Serialize;

use crate::Result;
use crate::backup::examine::provider_of;
use crate::config::Config;
use crate::finding::Finding;
use crate::held::{self, Held};
use crate::sys::signal::Cancel;
use crate::volume::{self, Provider, Space};

/// A set as it is now.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// It.
    #[serde(flatten)]
    pub held: Held,
    /// Its promise: `clean`, `application`, `crash`.
    pub level: &'static str,
    /// How old it is, in seconds.
    pub age_s: i64,
    /// Bytes that its snapshots alone hold, and its removal gives back, where the storage of all of them says so, or they were measured.
    pub bytes: Option<u64>,
    /// How full the fullest room of its snapshots is, in hundredths.
    pub fill: Option<f64>,
    /// When the snapshots' own room (thick LVM) is full at the rate since they were taken, in seconds from now.
    pub full_in_s: Option<i64>,
    /// What is wrong with it.
    pub findings: Vec<Finding>,
}

/// All sets, oldest first, and what is wrong with their records.
///
/// # Errors
/// The records cannot be read.
pub fn list(config: &Config) -> Result<(Vec<Status>, Vec<Finding>)> {
    let kept = held::list(&config.state_dir)?;
    let now = jiff::Timestamp::now();
    let providers = volume::providers(config);
    let sets = kept.sets.into_iter().map(|held| status(config, &providers, held, now));
    Ok((sets.collect(), kept.findings))
}

/// Measures what a set's snapshots alone hold, where their storage does not say so by itself. It takes a look at every extent.
///
/// # Errors
/// A snapshot cannot be read, or the run was asked to end.
pub fn measure(config: &Config, status: &mut Status, cancel: &Cancel) -> Result<()> {
    if status.bytes.is_some() || status.held.deleting {
        return Ok(());
    }
    let providers = volume::providers(config);
    let measured = |snapshot: &volume::Snapshot| -> Result<Option<u64>> {
        let provider = provider_of(&providers, &snapshot.volume)?;
        Ok(match provider.space(snapshot)?.bytes {
            Some(bytes) => Some(bytes),
            None => provider.measure(snapshot, cancel)?,
        })
    };
    // Nobody removes it meanwhile.
    let _used = held::take_for(&config.state_dir, status.held.id, false)?;
    let all: Vec<Option<u64>> = status.held.snapshots().map(measured).collect::<Result<_>>()?;
    cancel.check()?;
    status.bytes = all.into_iter().sum();
    Ok(())
}

/// One set.
pub fn of(config: &Config, held: Held) -> Status {
    status(config, &volume::providers(config), held, jiff::Timestamp::now())
}

fn status(config: &Config, providers: &[Box<dyn Provider>], held: Held, now: jiff::Timestamp) -> Status {
    let space = |snapshot: &volume::Snapshot| {
        let provider = volume::of_kind(providers, snapshot.volume.provider)?;
        provider.space(snapshot).ok()
    };
    let spaces: Vec<Option<Space>> = held.snapshots().map(space).collect();
    let bytes: Option<Vec<u64>> = spaces.iter().map(|space| space.and_then(|space| space.bytes)).collect();
    let known = || spaces.iter().flatten();
    let age_s = now.duration_since(held.time).as_secs();
    let full_in = known()
        .filter(|space| space.room.is_some())
        .filter_map(|space| full_in(space.fill?, age_s))
        .min();
    Status {
        level: held.level(),
        age_s,
        bytes: bytes.map(|all| all.iter().sum()),
        fill: known().filter_map(|space| space.fill).max_by(f64::total_cmp),
        full_in_s: full_in,
        findings: held::findings(std::slice::from_ref(&held), config),
        held,
    }
}

/// In how many seconds a room that began empty so many seconds ago, and is so full, will be full.
fn full_in(fill: f64, age_s: i64) -> Option<i64> {
    (fill > 0.0 && age_s > 0).then(|| ((100.0 - fill).max(0.0) / fill * age_s as f64) as i64)
}

#[cfg(test)]
mod tests {
    use super::full_in;

    #[test]
    fn a_room_is_full_when_the_rest_is_written_at_the_same_rate() {
        assert_eq!(full_in(25.0, 3600), Some(3 * 3600));
        assert_eq!(full_in(100.0, 3600), Some(0));
        assert_eq!(full_in(0.0, 3600), None);
        assert_eq!(full_in(10.0, 0), None);
    }
}
