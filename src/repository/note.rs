//! Notes: small sealed objects beside the backups (marks, holds, announcements, damage), each written once and valid only under its own key.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Error, Repository, Result, sealed};
use crate::units::Id;

/// A note: what every one has, and its body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note<T> {
    /// Its own key: a note that was moved says so.
    pub key: String,
    /// The repository that it belongs to.
    pub repository: Id,
    /// When it was written, by the writer's clock.
    pub time: jiff::Timestamp,
    /// The host that wrote it.
    pub writer: String,
    /// What it says.
    #[serde(flatten)]
    pub body: T,
}

impl Repository {
    pub(super) fn put_note<T: Serialize>(&self, key: &str, time: jiff::Timestamp, body: T) -> Result<()> {
        let note = Note {
            key: key.to_owned(),
            repository: self.id,
            time,
            writer: crate::sys::host::name(),
            body,
        };
        let bytes = sealed::seal(&note, |json| self.keys.note(json))?;
        Ok(sealed::put(&*self.store, key, &bytes)?)
    }

    pub(super) fn read_note<T: DeserializeOwned>(&self, key: &str) -> Result<Note<T>> {
        let bytes = sealed::read(&*self.store, key)?;
        let json = sealed::unseal(&bytes, |json| self.keys.note(json)).map_err(|reason| Error::damaged(key, reason))?;
        let note: Note<T> = sealed::parse(key, json)?;
        if note.key != key || note.repository != self.id {
            return Err(Error::damaged(key, "it belongs to another repository or another name"));
        }
        Ok(note)
    }

    /// All notes below a prefix. One that is deleted meanwhile is left out; one that is damaged is an error in its place.
    pub(super) fn notes<T: DeserializeOwned>(&self, prefix: &str) -> Result<Vec<(String, Result<Note<T>>)>> {
        let keys = self.store.list(prefix)?;
        let read = keys.into_iter().filter_map(|key| match self.read_note(&key) {
            Err(Error::Store(crate::store::Error::Absent { .. })) => None,
            read => Some((key, read)),
        });
        Ok(read.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;
    use crate::store::memory::MemoryStore;
    use std::sync::Arc;

    #[test]
    fn a_note_is_valid_under_its_own_key_only() {
        #[derive(Debug, Serialize, Deserialize)]
        struct Body {
            why: String,
        }
        let store = MemoryStore::default();
        let repository = Repository::create(Arc::new(store.clone())).unwrap();
        let body = Body { why: "x".to_owned() };
        let time = jiff::Timestamp::now();
        repository.put_note("holds/a/b", time, &body).unwrap();
        assert_eq!(repository.read_note::<Body>("holds/a/b").unwrap().body.why, "x");
        assert!(repository.put_note("holds/a/b", time, &body).is_err(), "overwritten");
        let bytes = store.objects()["holds/a/b"].to_vec();
        store.tamper("holds/a/c", bytes.clone());
        assert!(repository.read_note::<Body>("holds/a/c").is_err(), "moved");
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            store.tamper("holds/a/b", flipped);
            assert!(repository.read_note::<Body>("holds/a/b").is_err(), "byte {at}");
        }
        store.delete("holds/a/b").unwrap();
        assert_eq!(repository.notes::<Body>("holds/").unwrap().len(), 1);
    }
}
