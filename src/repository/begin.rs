//! Beginning a backup: the parent is opened, and those of its packs that a new backup may refer to are found.

use std::collections::HashMap;

use super::keys::{DOOMED, pack_key, pack_of};
use super::pack::{Finished, Finisher};
use super::writer::{Parent, Writer, WriterOptions};
use super::{Error, Repository, Result};
use crate::store;
use crate::units::Id;

impl Repository {
    /// Begins to write a backup. Nothing is visible until [`Writer::commit`].
    ///
    /// # Errors
    /// The parent cannot be read (then the caller goes on without one), or the store cannot be written.
    pub fn begin(&self, options: WriterOptions) -> Result<Writer> {
        if !zstd::compression_level_range().contains(&options.level) {
            return Err(Error::Unusable(format!("zstd has no level {}", options.level)));
        }
        let parent = options.parent.map(|id| self.open_parent(id)).transpose()?;
        Ok(Writer::new(self.clone(), options, parent, Finisher::start()))
    }

    fn open_parent(&self, id: Id) -> Result<Parent> {
        let backup = self.find(&id.to_string())?;
        let doomed = self.doomed()?;
        let mut usable = HashMap::new();
        for pack in backup.packs()? {
            if !doomed.contains(&pack.id) && self.is_there(&pack)? {
                usable.insert(pack.id, pack);
            }
        }
        Ok(Parent { backup, usable })
    }

    /// Packs that a prune means to delete: a backup treats them as absent.
    pub(super) fn doomed(&self) -> Result<Vec<Id>> {
        let marks = self.store.list(DOOMED)?;
        Ok(marks
            .iter()
            .filter_map(|mark| mark.strip_prefix(DOOMED)?.parse().ok())
            .collect())
    }

    /// Whether a pack is in the store with its length.
    pub(super) fn is_there(&self, pack: &Finished) -> Result<bool> {
        match self.store.size(&pack_key(pack.id)) {
            Ok(size) => Ok(size == pack.size),
            Err(store::Error::Absent { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The packs in the store.
    pub(super) fn packs_in_store(&self) -> Result<Vec<Id>> {
        Ok(self
            .store
            .list(super::keys::PACKS)?
            .iter()
            .filter_map(|key| pack_of(key))
            .collect())
    }
}
