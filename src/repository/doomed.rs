//! Marks: objects that a prune means to delete. An object is marked, left alone for the grace, and then deleted by any prune that has
//! listed the manifests after that. A mark is never taken back: an object that is needed after all is copied.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::begin::doomed_by;
use super::keys::{DOOMED, PackName};
use super::{Error, Note, Repository, Result};
use crate::store;
use crate::units::Id;

/// Why an object is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Why {
    /// No backup refers to it.
    Unreferenced,
    /// A later generation has what is needed of it.
    Replaced,
    /// It is damaged; a repair saved what could be saved.
    Damaged,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Mark {
    why: Why,
}

/// The marks of one object.
#[derive(Debug, Clone, Default)]
pub(super) struct Marked {
    pub keys: Vec<String>,
    /// The earliest time that can be believed: not damaged, and not in the future.
    since: Option<jiff::Timestamp>,
}

impl Marked {
    /// How long it has been marked; `None` when no mark says so credibly.
    pub fn age(&self, now: jiff::Timestamp) -> Option<jiff::SignedDuration> {
        self.since.map(|since| now.duration_since(since))
    }

    pub fn since(&self) -> Option<jiff::Timestamp> {
        self.since
    }
}

impl Repository {
    /// Marks an object; no matter if somebody else did already.
    pub(super) fn doom(&self, object: PackName, why: Why, now: jiff::Timestamp) -> Result<()> {
        self.put_mark(&format!("{DOOMED}{object}"), why, now)
    }

    /// A further mark, for an object whose marks say no time that can be believed.
    pub(super) fn doom_again(&self, object: PackName, now: jiff::Timestamp) -> Result<()> {
        self.put_mark(&format!("{DOOMED}{object}_{}", Id::random()), Why::Unreferenced, now)
    }

    fn put_mark(&self, key: &str, why: Why, now: jiff::Timestamp) -> Result<()> {
        match self.put_note(key, now, Mark { why }) {
            Err(Error::Store(store::Error::Present { .. })) => Ok(()),
            put => put,
        }
    }

    /// All marks, by object.
    pub(super) fn marks(&self, now: jiff::Timestamp) -> Result<BTreeMap<PackName, Marked>> {
        let mut marks: BTreeMap<PackName, Marked> = BTreeMap::new();
        for (key, note) in self.notes::<Mark>(DOOMED)? {
            let Some(object) = doomed_by(&key) else { continue };
            let marked = marks.entry(object).or_default();
            marked.keys.push(key);
            let time = note.ok().map(|note: Note<Mark>| note.time).filter(|time| *time <= now);
            marked.since = [marked.since, time].into_iter().flatten().min();
        }
        Ok(marks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;
    use std::sync::Arc;

    #[test]
    fn a_mark_from_the_future_or_a_damaged_one_does_not_age_and_a_further_one_does() {
        let store = MemoryStore::default();
        let repository = Repository::create(Arc::new(store.clone())).unwrap();
        let (now, hour) = (jiff::Timestamp::now(), jiff::SignedDuration::from_hours(1));
        let (ahead, rotten) = (PackName::first(Id::random()), PackName::later(Id::random(), 2));
        repository.doom(ahead, Why::Unreferenced, now + hour * 1000).unwrap();
        store.tamper(&format!("{DOOMED}{rotten}"), Vec::new());
        let age = |object: PackName, at| repository.marks(at).unwrap()[&object].age(at);
        assert_eq!((age(ahead, now), age(rotten, now)), (None, None));
        for object in [ahead, rotten] {
            repository.doom_again(object, now).unwrap();
            assert_eq!(age(object, now + hour), Some(hour));
        }
        assert_eq!(repository.doomed().unwrap(), [ahead, rotten].into());
        repository.doom(ahead, Why::Replaced, now).unwrap();
        assert_eq!(
            repository.marks(now).unwrap()[&ahead].keys.len(),
            2,
            "the first mark stays as it is"
        );
    }
}
