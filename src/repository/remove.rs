//! Forgetting a backup: its manifest goes, then what was noted about it. Its packs are a prune's business.

use super::hold::subject_of;
use super::keys::{DAMAGED, DRILLS, HOLDS, MANIFESTS};
use super::{Manifest, Repository, Result};
use crate::units::Id;

/// What is kept about a backup beside it, each below its id.
const NOTES: [&str; 3] = [DRILLS, HOLDS, DAMAGED];

impl Repository {
    /// Removes a backup. From the manifest's disappearance on there is none.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn remove(&self, manifest: &Manifest) -> Result<()> {
        let key = super::keys::manifest_key(&manifest.host, manifest.time, manifest.id);
        self.remove_by_key(&key, manifest.id)
    }

    /// Removes a backup whose manifest cannot be read; `key` is the manifest's, as [`list`](Repository::list) has it.
    ///
    /// # Errors
    /// The key is no manifest's, or the store cannot be written.
    pub fn remove_damaged(&self, key: &str) -> Result<()> {
        let id = backup_of(key).ok_or_else(|| super::Error::NotFound(format!("{key} is no manifest")))?;
        self.remove_by_key(key, id)
    }

    fn remove_by_key(&self, key: &str, id: Id) -> Result<()> {
        self.store.delete(key)?;
        self.store.sync()?;
        for prefix in NOTES {
            for note in self.store.list(&format!("{prefix}{id}/"))? {
                self.store.delete(&note)?;
            }
        }
        Ok(self.store.sync()?)
    }

    /// Removes notes about backups that are gone; returns how many.
    pub(super) fn remove_notes_of_the_gone(&self, dry_run: bool) -> Result<u64> {
        let mut notes = Vec::new();
        for prefix in NOTES {
            let keys = self.store.list(prefix)?.into_iter();
            notes.extend(keys.filter_map(|key| Some((subject_of(&key, prefix)?, key))));
        }
        // After the notes: a backup that has one was there before it.
        let there: std::collections::HashSet<Id> = self
            .store
            .list(MANIFESTS)?
            .iter()
            .filter_map(|key| backup_of(key))
            .collect();
        let mut removed = 0;
        for (_, key) in notes.iter().filter(|(id, _)| !there.contains(id)) {
            if !dry_run {
                self.store.delete(key)?;
            }
            removed += 1;
        }
        Ok(removed)
    }
}

/// The backup of a manifest's key.
pub(super) fn backup_of(key: &str) -> Option<Id> {
    key.strip_prefix(MANIFESTS)?.rsplit_once('-')?.1.parse().ok()
}
