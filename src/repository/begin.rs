//! Beginning a backup: the parent is opened, and those of its slots that a new backup may refer to are found.

use std::collections::{HashMap, HashSet};

use super::keys::{DOOMED, PackName, pack_key};
use super::pack::{Finished, Finisher, objects_of, read_footer};
use super::used::Slots;
use super::writer::{Writer, WriterOptions};
use super::{Backup, Error, Repository, Result};
use crate::store;
use crate::units::Id;

/// The backup that a new one is compared with.
pub(super) struct Parent {
    pub backup: Backup,
    /// Its packs that may be referred to again.
    pub usable: HashMap<Id, Usable>,
}

/// A pack that may be referred to again, and the object that was looked at.
pub(super) struct Usable {
    pub pack: Finished,
    pub object: PackName,
    /// The slots that a later generation still has; `None` for generation 0, which has all.
    slots: Option<Slots>,
}

impl Parent {
    /// Whether a new backup may refer to the slot.
    pub fn has(&self, pack: Id, slot: u32) -> bool {
        let usable = self.usable.get(&pack);
        usable.is_some_and(|usable| usable.slots.as_ref().is_none_or(|slots| slots.contains(slot)))
    }
}

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
            if let Some(found) = self.usable(&pack, &doomed)? {
                usable.insert(pack.id, found);
            }
        }
        Ok(Parent { backup, usable })
    }

    /// The object of a pack that may be referred to: generation 0, else the newest that is not doomed.
    fn usable(&self, pack: &Finished, doomed: &HashSet<PackName>) -> Result<Option<Usable>> {
        let first = PackName::first(pack.id);
        if !doomed.contains(&first) && self.is_there(pack)? {
            return Ok(Some(Usable {
                pack: *pack,
                object: first,
                slots: None,
            }));
        }
        for object in self.later_objects(pack.id, doomed)? {
            // One that cannot be read is as good as absent.
            if let Ok((footer, _)) = read_footer(&*self.store, &self.keys, object) {
                let mut slots = Slots::default();
                let there = footer.slots.iter().enumerate().filter(|(_, slot)| slot.is_there());
                there.for_each(|(number, _)| slots.insert(number as u32));
                return Ok(Some(Usable {
                    pack: *pack,
                    object,
                    slots: Some(slots),
                }));
            }
        }
        Ok(None)
    }

    /// Whether all these slots of a pack are in one object that is not doomed. `known` is an object that was found to have them.
    pub(super) fn still_has(
        &self,
        pack: &Finished,
        slots: Option<&Slots>,
        known: Option<PackName>,
        doomed: &HashSet<PackName>,
    ) -> Result<bool> {
        if !doomed.contains(&PackName::first(pack.id)) && self.is_there(pack)? {
            return Ok(true);
        }
        let objects = self.later_objects(pack.id, doomed)?;
        if known.is_some_and(|known| objects.contains(&known)) {
            return Ok(true);
        }
        Ok(objects.into_iter().any(|object| {
            read_footer(&*self.store, &self.keys, object).is_ok_and(|(footer, _)| {
                let there = |slot: u32| footer.slots.get(slot as usize).is_some_and(|slot| slot.is_there());
                slots.is_some_and(|slots| !slots.is_whole() && slots.iter().all(there))
            })
        }))
    }

    fn later_objects(&self, id: Id, doomed: &HashSet<PackName>) -> Result<Vec<PackName>> {
        let objects = objects_of(&*self.store, id)?.into_iter();
        Ok(objects
            .filter(|object| object.generation > 0 && !doomed.contains(object))
            .collect())
    }

    /// Objects that a prune means to delete: a backup treats them as absent.
    pub(super) fn doomed(&self) -> Result<HashSet<PackName>> {
        let marks = self.store.list(DOOMED)?;
        Ok(marks.iter().filter_map(|mark| doomed_by(mark)).collect())
    }

    /// Whether generation 0 of a pack is in the store with its length.
    fn is_there(&self, pack: &Finished) -> Result<bool> {
        match self.store.size(&pack_key(pack.id)) {
            Ok(size) => Ok(size == pack.size),
            Err(store::Error::Absent { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The objects of packs in the store, by pack, then generation.
    pub(super) fn packs_in_store(&self) -> Result<Vec<PackName>> {
        let keys = self.store.list(super::keys::PACKS)?;
        let mut names: Vec<PackName> = keys.iter().filter_map(|key| PackName::of_key(key)).collect();
        names.sort_unstable();
        Ok(names)
    }
}

/// The object that a mark is about: `doomed/<name>`, or `doomed/<name>_<anything>` for a further one.
pub(super) fn doomed_by(mark: &str) -> Option<PackName> {
    let name = mark.strip_prefix(DOOMED)?;
    PackName::parse(name.split_once('_').map_or(name, |(name, _)| name))
}
