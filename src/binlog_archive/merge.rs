//! Many small segments of a log become few large ones: a follower writes one every few seconds, and each is an object of the repository.

use super::lines;
use super::logs::Log;
use super::then::Then;
use crate::Result;
use crate::repository::{Repository, Segment, SegmentNote};

/// A merged segment has at least so many bytes, but for a log's last one. What is merged is held in memory once.
const MERGED: u64 = 32 << 20;

/// Merges the segments of a log that is complete. New ones are durable before old ones go: whoever dies in between leaves both, which together are the log, and the next
/// merge removes what is not needed. Returns how many objects went.
///
/// # Errors
/// A segment is damaged, or the store cannot be written; the log is as it was.
pub fn merge(repository: &Repository, log: &Log) -> Result<usize> {
    if !log.closed() {
        return Ok(0);
    }
    let cover = log.cover();
    let mut kept: Vec<Segment> = Vec::new();
    for group in groups(&cover) {
        let Some((first, last)) = group.first().zip(group.last()) else {
            continue;
        };
        let whole = Segment {
            from: first.from,
            to: last.to,
            closed: last.closed,
            ..(*first).clone()
        };
        if group.len() > 1 {
            let mut bytes = Vec::with_capacity(usize::try_from(whole.to - whole.from).unwrap_or(0));
            let mut at = whole.from;
            for segment in group {
                bytes.extend(
                    &repository.read_binlog(segment)?[usize::try_from(at - segment.from).unwrap_or(usize::MAX)..],
                );
                at = segment.to;
            }
            repository.put_binlog(&whole, &note_of(repository, log, group)?, &bytes)?;
        }
        kept.push(whole);
    }
    let old: Vec<&Segment> = log.segments.iter().filter(|segment| !kept.contains(segment)).collect();
    if old.is_empty() {
        return Ok(0);
    }
    repository.store().sync().map_err(crate::repository::Error::from)?;
    crate::failpoint!("binlog.merged");
    old.iter().try_for_each(|segment| repository.remove_binlog(segment))?;
    Ok(old.len())
}

/// What the headers of a group say together. The link is that of whichever segment of the log's beginning has it.
fn note_of(repository: &Repository, log: &Log, group: &[&Segment]) -> Result<SegmentNote> {
    let mut whole = SegmentNote {
        latest: Some(0),
        earliest: Some(u32::MAX),
        ..SegmentNote::default()
    };
    for segment in group {
        let note = repository.binlog_note(segment)?;
        whole.trace = note.trace;
        whole.server = together(whole.server, note.server);
        whole.latest = whole.latest.zip(note.latest).map(|(one, other)| one.max(other));
        whole.earliest = whole.earliest.zip(note.earliest).map(|(one, other)| one.min(other));
    }
    if group.first().is_some_and(|first| first.from == 0) {
        whole.link = lines::link_of(repository, log)?;
    }
    Ok(whole)
}

/// Settings of the later one win, as in a replay.
fn together(one: Option<serde_json::Value>, later: Option<serde_json::Value>) -> Option<serde_json::Value> {
    let then = |value: Option<serde_json::Value>| value.and_then(|value| serde_json::from_value::<Then>(value).ok());
    match (then(one), then(later)) {
        (Some(mut one), Some(later)) => {
            one.add(later);
            serde_json::to_value(one).ok()
        }
        (one, later) => one.or(later).and_then(|then| serde_json::to_value(then).ok()),
    }
}

/// Neighbours, each group with as many bytes as are worth an object.
fn groups<'s>(cover: &'s [&'s Segment]) -> Vec<&'s [&'s Segment]> {
    let (mut groups, mut begin) = (Vec::new(), 0);
    for (index, segment) in cover.iter().enumerate() {
        if segment.to - cover[begin].from >= MERGED {
            groups.push(&cover[begin..=index]);
            begin = index + 1;
        }
    }
    if begin < cover.len() {
        // The mark of the end alone is no object of its own.
        groups.push(&cover[begin..]);
    }
    groups
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::binlog_archive::logs;
    use crate::store::Store;
    use crate::store::faulty::FaultyStore;
    use crate::store::memory::MemoryStore;

    fn put(repository: &Repository, content: &[u8], from: usize, to: usize, closed: bool) {
        let segment = Segment {
            host: "h".to_owned(),
            server: "s".to_owned(),
            created: 7,
            head: None,
            file: "b.000001".to_owned(),
            from: from as u64,
            to: to as u64,
            closed,
        };
        let note = SegmentNote {
            trace: Some(to.to_string()),
            ..SegmentNote::default()
        };
        repository.put_binlog(&segment, &note, &content[from..to]).unwrap();
    }

    fn log(repository: &Repository) -> Log {
        logs::of_server(repository, "h", "s").unwrap().remove(0)
    }

    fn content(repository: &Repository) -> Vec<u8> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::read(log(repository).write_into(repository, directory.path()).unwrap()).unwrap()
    }

    #[test]
    fn a_complete_log_becomes_one_object_with_the_same_bytes() {
        let store = MemoryStore::default();
        let repository = Repository::create(Arc::new(store)).unwrap();
        let bytes: Vec<u8> = (0..1000u32).map(|number| number as u8).collect();
        for (from, to) in [(0, 100), (80, 300), (100, 250), (300, 301), (301, 1000)] {
            put(&repository, &bytes, from, to, false);
        }
        assert_eq!(merge(&repository, &log(&repository)).unwrap(), 0, "it may go on");
        put(&repository, &bytes, 1000, 1000, true);
        assert_eq!(merge(&repository, &log(&repository)).unwrap(), 6);
        let merged = log(&repository);
        assert_eq!((merged.segments.len(), merged.end(), merged.closed()), (1, 1000, true));
        assert_eq!(content(&repository), bytes);
        assert_eq!(merge(&repository, &merged).unwrap(), 0);
        // What a merge that died left beside its result.
        put(&repository, &bytes, 0, 100, false);
        put(&repository, &bytes, 301, 1000, false);
        assert_eq!(content(&repository), bytes);
        assert_eq!(merge(&repository, &log(&repository)).unwrap(), 2);
        assert_eq!(content(&repository), bytes);
    }

    #[test]
    fn no_part_goes_before_what_replaces_it_is_stored_and_durable() {
        let bytes: Vec<u8> = (0..300u32).map(|number| number as u8).collect();
        for calls in 1.. {
            let store = MemoryStore::default();
            let repository = Repository::create(Arc::new(store.clone())).unwrap();
            for at in [0, 100, 200] {
                put(&repository, &bytes, at, at + 100, at == 200);
            }
            repository.store().sync().unwrap();
            let faulty = FaultyStore::new(Arc::new(store.clone()), calls);
            let failing = Repository::open(Arc::new(faulty.clone())).unwrap();
            let merged = merge(&failing, &log(&failing));
            assert_eq!(merged.is_err(), faulty.has_failed());
            // A power cut then takes what was not synced; what was removed may be gone already.
            let crashed = store.after_crash(|_| false);
            for key in crashed
                .objects()
                .keys()
                .filter(|key| !store.objects().contains_key(*key))
            {
                crashed.delete(key).unwrap();
            }
            let left = Repository::open(Arc::new(crashed)).unwrap();
            assert_eq!(content(&left), bytes, "the {calls}. call failed: {merged:?}");
            if merged.is_ok() {
                assert!(calls > 3, "nothing was written");
                return;
            }
            assert_eq!(
                log(&repository)
                    .segments
                    .iter()
                    .filter(|part| part.to - part.from == 100)
                    .count(),
                3
            );
        }
    }

    #[test]
    fn what_is_large_stays_as_it_is() {
        let size = MERGED as usize;
        let bytes = vec![5; 2 * size + 100];
        let repository = Repository::create(Arc::new(MemoryStore::default())).unwrap();
        put(&repository, &bytes, 0, size, false);
        put(&repository, &bytes, size, size + 50, false);
        put(&repository, &bytes, size + 50, 2 * size + 100, true);
        assert_eq!(merge(&repository, &log(&repository)).unwrap(), 2);
        let ends: Vec<u64> = log(&repository).segments.iter().map(|segment| segment.to).collect();
        assert_eq!(ends, [MERGED, 2 * MERGED + 100]);
    }

    #[test]
    fn a_damaged_segment_stays_where_it_is_with_its_neighbours() {
        let store = MemoryStore::default();
        let repository = Repository::create(Arc::new(store.clone())).unwrap();
        put(&repository, &[1; 20], 0, 10, false);
        put(&repository, &[1; 20], 10, 20, true);
        let key = store.objects().keys().find(|key| key.ends_with("10")).unwrap().clone();
        store.tamper(&key, b"rot".to_vec());
        let before = store.objects();
        assert!(merge(&repository, &log(&repository)).is_err());
        assert_eq!(store.objects(), before);
    }
}
