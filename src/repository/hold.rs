//! Backups that must be kept, whatever a policy says.

use serde::{Deserialize, Serialize};

use super::keys::HOLDS;
use super::{Note, Repository, Result};
use crate::units::Id;

/// Why a backup is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The backup.
    pub backup: Id,
    /// In a person's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Repository {
    /// Holds a backup: neither a policy nor `forget ID` removes it.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn hold(&self, backup: Id, reason: Option<String>) -> Result<()> {
        let key = format!("{HOLDS}{backup}/{}", Id::random());
        self.put_note(&key, jiff::Timestamp::now(), Hold { backup, reason })?;
        Ok(self.store.sync()?)
    }

    /// Ends all holds of a backup; returns how many there were.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn release(&self, backup: Id) -> Result<u64> {
        let keys = self.store.list(&format!("{HOLDS}{backup}/"))?;
        for key in &keys {
            self.store.delete(key)?;
        }
        self.store.sync()?;
        Ok(keys.len() as u64)
    }

    /// All holds. A damaged one holds as well: its key names the backup.
    ///
    /// # Errors
    /// The store cannot be listed.
    pub fn holds(&self) -> Result<Vec<Hold>> {
        let holds = self.notes::<Hold>(HOLDS)?.into_iter().filter_map(|(key, note)| {
            let backup = subject_of(&key, HOLDS)?;
            let reason = note.map_or_else(|error| Some(error.to_string()), |note: Note<Hold>| note.body.reason);
            Some(Hold { backup, reason })
        });
        Ok(holds.collect())
    }
}

/// The backup that a note is about: `<prefix><backup id>/...`.
pub(super) fn subject_of(key: &str, prefix: &str) -> Option<Id> {
    key.strip_prefix(prefix)?.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;
    use std::sync::Arc;

    #[test]
    fn a_hold_lasts_until_it_is_released_even_damaged() {
        let store = MemoryStore::default();
        let repository = Repository::create(Arc::new(store.clone())).unwrap();
        let (one, other) = (Id::random(), Id::random());
        repository.hold(one, Some("audit".to_owned())).unwrap();
        repository.hold(one, None).unwrap();
        repository.hold(other, None).unwrap();
        assert_eq!(repository.holds().unwrap().len(), 3);
        for key in store.objects().into_keys().filter(|key| key.starts_with(HOLDS)) {
            store.tamper(&key, b"rot".to_vec());
        }
        assert_eq!(
            repository
                .holds()
                .unwrap()
                .iter()
                .filter(|hold| hold.backup == one)
                .count(),
            2
        );
        assert_eq!(repository.release(one).unwrap(), 2);
        assert_eq!(repository.holds().unwrap().len(), 1);
    }
}
