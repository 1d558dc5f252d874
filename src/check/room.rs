//! What a backup is expected to take in the repository, and a drill in scratch space, against what is free there.

use serde::Serialize;

use crate::Result;
use crate::backup::{examine, host_name, open_repository, trees};
use crate::config::Config;
use crate::copy;
use crate::finding::Finding;
use crate::repository::SizeFigures;
use crate::sys;
use crate::sys::signal::Cancel;
use crate::units::Bytes;

/// With less free than this, in bytes, no backup is begun: its file tables alone need some.
const LEAST: u64 = 16 << 20;

/// So many earlier backups tell what the next one adds.
const LOOKED_AT: usize = 7;

/// What a restored server needs beside its data, in bytes (as drills ask for it).
const BESIDE: u64 = 256 << 20;

/// Figures in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Room {
    /// What would be read; of sparse files what is allocated.
    pub data: u64,
    /// What a backup may add: all of it for the first one, before compression; else what the largest of the last ones added, and what there is more of.
    pub expected: u64,
    /// Whether there is no earlier backup to compare with.
    pub first: bool,
    /// What may still be written to the repository's filesystem, as statvfs(3) says: without reserved blocks, and within the quotas that it knows.
    pub repository_free: u64,
    /// The same for `scratch.dir`; none where that is not there.
    pub scratch_free: Option<u64>,
}

/// Measures: a walk over the trees, which looks at no content.
pub(super) fn look(config: &Config, examined: &examine::Examined, cancel: &Cancel) -> Result<Room> {
    let planned = trees::plan(config, &examined.layout, &examined.paths);
    let live = trees::readable(&planned, &[], config, &examined.paths, &[]);
    let data = copy::measure(&live, cancel)?;
    let host = host_name(config);
    let listed = open_repository(config)?.list()?;
    let own = listed.into_iter().filter_map(|one| one.manifest.ok());
    let before: Vec<SizeFigures> = own.filter(|one| one.host == host).map(|one| one.sizes).collect();
    Ok(Room {
        data,
        expected: expected(&before, data),
        first: before.is_empty(),
        repository_free: sys::fs::room(&config.repository)?.available,
        scratch_free: sys::fs::room(&config.scratch.dir).ok().map(|room| room.available),
    })
}

/// From earlier backups, oldest first. The first one does not count where there are others: it stored everything.
fn expected(before: &[SizeFigures], data: u64) -> u64 {
    let Some(last) = before.last() else { return data };
    let later = before[1..].iter().rev().take(LOOKED_AT);
    // After one backup alone nobody knows how fast the data changes.
    let added = later.map(|one| one.stored).max().unwrap_or(data / 10);
    (added + data.saturating_sub(last.bytes)).min(data)
}

impl Room {
    /// What there is too little of.
    pub(super) fn findings(&self, config: &Config) -> Vec<Finding> {
        self.in_repository(config)
            .into_iter()
            .chain(self.in_scratch(config))
            .collect()
    }

    fn in_scratch(&self, config: &Config) -> Option<Finding> {
        let needed = self.data + BESIDE;
        let free = self.scratch_free.filter(|free| *free < needed)?;
        let said = format!(
            "scratch space {} has {} free: a drill, a dump or a replay of a backup of this needs about {}",
            config.scratch.dir.display(),
            Bytes::b(free),
            Bytes::b(needed)
        );
        Some(Finding::note("scratch-room", said).remedy("`scratch.dir` or --scratch names another directory"))
    }

    fn in_repository(&self, config: &Config) -> Option<Finding> {
        let (free, expected) = (Bytes::b(self.repository_free), Bytes::b(self.expected));
        let at = config.repository.display();
        let remedy = "free some space (`snapback forget`, then `snapback prune`), or use a larger filesystem";
        if self.repository_free < LEAST {
            let said = format!("the repository {at} has {free} free: too little for any backup");
            return Some(Finding::blocker("repository-room", said).remedy(remedy));
        }
        let basis = match self.first {
            true => "the first one stores everything, compressed",
            false => "by what the last ones added and how the data has grown",
        };
        let said = format!(
            "the repository {at} has {free} free, and a backup may take up to {expected} ({basis}): where it does not fit there is none"
        );
        (self.repository_free < self.expected).then(|| Finding::warning("repository-room", said).remedy(remedy))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Severity;

    fn room(expected: u64, repository_free: u64) -> Room {
        Room {
            data: expected,
            expected,
            first: true,
            repository_free,
            scratch_free: Some(u64::MAX),
        }
    }

    #[test]
    fn room_that_is_not_there_is_not_promised() {
        let config = Config::default();
        let severity = |room: Room| room.findings(&config).first().map(|finding| finding.severity);
        assert_eq!(severity(room(511 << 20, 82 << 20)), Some(Severity::Warning));
        assert_eq!(severity(room(511 << 20, 600 << 20)), None);
        assert_eq!(severity(room(1, 1 << 20)), Some(Severity::Blocker));
        let scratch = Room {
            scratch_free: Some(600 << 20),
            ..room(511 << 20, u64::MAX)
        };
        assert_eq!(scratch.findings(&config)[0].code, "scratch-room");
    }

    #[test]
    fn what_earlier_backups_added_tells_what_the_next_one_adds() {
        let one = |bytes: u64, stored: u64| SizeFigures {
            entries: 1,
            bytes,
            stored,
        };
        let (first, second) = (one(1000, 400), one(1000, 7));
        assert_eq!(expected(&[], 1000), 1000);
        assert_eq!(expected(&[first], 1000), 100);
        assert_eq!(expected(&[first, second], 1000), 7);
        assert_eq!(expected(&[first, second], 1500), 507);
        assert_eq!(expected(&[first, second], 900), 7);
    }
}
