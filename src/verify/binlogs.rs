//! Archived binary logs: every segment is there with its size, or every byte of it reads well.

use super::{Damage, Level};
use crate::Result;
use crate::monitor::{Monitor, Work};
use crate::repository::{Repository, Segment};
use crate::sys::signal::Cancel;

/// What a look at the archive of all hosts found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub segments: u64,
    /// Bytes of logs that were read.
    pub bytes: u64,
    pub damage: Vec<Damage>,
}

/// Looks at all segments, one after the other: each is read whole, and is held in memory once.
pub(super) fn check(repository: &Repository, level: Level, monitor: &dyn Monitor, cancel: &Cancel) -> Result<Found> {
    let segments = repository.all_binlogs()?;
    let mut found = Found {
        segments: segments.len() as u64,
        ..Found::default()
    };
    let told = level == Level::Data && !segments.is_empty();
    if told {
        monitor.begin(Work {
            name: "verifying binary logs",
            bytes: segments.iter().map(|segment| segment.to - segment.from).sum(),
            items: segments.len() as u64,
        });
    }
    for segment in &segments {
        cancel.check()?;
        match look(repository, segment, level) {
            Ok(read) => found.bytes += read,
            // Merged or forgotten meanwhile.
            Err(error) if error.is_absent() && !repository.all_binlogs()?.contains(segment) => {}
            Err(error) => {
                let (_, reason) = error.object_and_reason();
                found.damage.push(Damage {
                    object: segment.key()?,
                    reason,
                    ..Damage::default()
                });
            }
        }
        if told {
            monitor.advance(segment.to - segment.from, 1);
        }
    }
    if told {
        monitor.end();
    }
    Ok(found)
}

/// Bytes of the log that were read.
fn look(repository: &Repository, segment: &Segment, level: Level) -> crate::repository::Result<u64> {
    match level {
        Level::Structure => repository.look_at_binlog(segment).map(|()| 0),
        Level::Data => Ok(repository.read_binlog(segment)?.len() as u64),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::repository::SegmentNote;
    use crate::store::memory::MemoryStore;

    /// Does something to the archive after it was listed.
    struct Meanwhile<F: Fn() + Send + Sync>(F);

    impl<F: Fn() + Send + Sync> Monitor for Meanwhile<F> {
        fn begin(&self, _work: Work) {
            (self.0)();
        }
    }

    #[test]
    fn a_segment_that_a_merge_took_meanwhile_is_no_damage_and_one_that_was_cut_off_is() {
        let store = MemoryStore::default();
        let repository = Repository::create(Arc::new(store.clone())).unwrap();
        let segment = |from: u64, to: u64| Segment {
            host: "h".to_owned(),
            server: "s".to_owned(),
            created: 7,
            head: None,
            file: "b.000001".to_owned(),
            from,
            to,
            closed: false,
        };
        let (first, second) = (segment(0, 10), segment(10, 30));
        repository
            .put_binlog(&first, &SegmentNote::default(), &[1; 10])
            .unwrap();
        repository
            .put_binlog(&second, &SegmentNote::default(), &[2; 20])
            .unwrap();
        let check = |monitor: &dyn Monitor| check(&repository, Level::Data, monitor, &Cancel::new()).unwrap();
        let found = check(&Meanwhile(|| {}));
        assert_eq!((found.segments, found.bytes, found.damage.len()), (2, 30, 0));
        let found = check(&Meanwhile(|| repository.remove_binlog(&first).unwrap()));
        assert_eq!((found.segments, found.bytes), (2, 20));
        assert!(found.damage.is_empty(), "{:?}", found.damage);
        let found = check(&Meanwhile(|| store.tamper(&second.key().unwrap(), Vec::new())));
        assert_eq!(found.damage.len(), 1);
        assert_eq!(found.damage[0].object, second.key().unwrap());
    }
}
