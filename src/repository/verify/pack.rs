//! Checking one pack: all objects that hold it. A slot is lost when no object gives it.

use std::collections::{BTreeSet, HashSet};

use super::super::Repository;
use super::super::keys::PackName;
use super::super::pack::{Finished, Footer, objects_of, read_footer, sweep};
use super::{BadPack, Level};
use crate::units::Id;

/// What one object gives.
struct Object {
    name: PackName,
    footer: Option<Footer>,
    bad: BadPack,
}

impl Object {
    fn gives(&self, slot: u32) -> bool {
        let there = |footer: &Footer| footer.slots.get(slot as usize).is_some_and(|slot| slot.is_there());
        self.footer.as_ref().is_some_and(there) && self.bad.of(slot).is_none()
    }

    fn is_sound(&self) -> bool {
        self.bad.object.is_none() && self.bad.whole.is_none() && self.bad.slots.is_empty()
    }
}

impl Repository {
    pub(super) fn check_pack(
        &self,
        id: Id,
        expected: Option<Finished>,
        level: Level,
        doomed: &HashSet<PackName>,
        advance: &mut dyn FnMut(u64) -> bool,
    ) -> (Option<BadPack>, u64) {
        let (first, mut bytes) = self.check_object(PackName::first(id), expected, level, advance);
        if first.is_sound() {
            return (None, bytes);
        }
        let mut objects = vec![first];
        // A prune may copy the pack right now: what is gone was copied before.
        for name in objects_of(&*self.store, id).unwrap_or_default() {
            if name.generation > 0 {
                let (later, read) = self.check_object(name, None, level, advance);
                bytes += read;
                objects.push(later);
            }
        }
        if objects.len() > 1 && objects[0].footer.is_none() && self.store.size(&objects[0].name.key()).is_err() {
            objects.remove(0);
        }
        (merged(objects, doomed), bytes)
    }

    fn check_object(
        &self,
        name: PackName,
        expected: Option<Finished>,
        level: Level,
        advance: &mut dyn FnMut(u64) -> bool,
    ) -> (Object, u64) {
        let mut object = Object {
            name,
            footer: None,
            bad: BadPack::default(),
        };
        match read_footer(&*self.store, &self.keys, name) {
            Err(error) => {
                object.bad = BadPack::whole(&error);
                return (object, 0);
            }
            Ok((footer, size)) => {
                object.bad.object = expected
                    .filter(|pack| pack.digest != footer.digest || pack.size != size)
                    .map(|_| "it is not the pack that the backup refers to".to_owned());
                object.footer = Some(footer);
            }
        }
        let mut bytes = 0;
        if level == Level::Data {
            match sweep(&*self.store, &self.keys, name, advance) {
                Err(error) => {
                    let object_bad = object.bad.object.take();
                    object.bad = BadPack {
                        object: object_bad,
                        ..BadPack::whole(&error)
                    };
                }
                Ok(sweep) => {
                    bytes = sweep.bytes;
                    object.bad.slots = sweep.slots.into_iter().collect();
                    let body = || "its slots' bytes do not fit their digest, although each slot reads well".to_owned();
                    object.bad.object = object.bad.object.take().or_else(|| sweep.body.then(body));
                }
            }
        }
        (object, bytes)
    }
}

/// What all objects of a pack together do not give.
fn merged(mut objects: Vec<Object>, doomed: &HashSet<PackName>) -> Option<BadPack> {
    if objects.len() == 1 {
        let only = objects.remove(0);
        return (!only.is_sound()).then_some(only.bad);
    }
    // What is wrong with an object that goes anyway is of interest only to those who miss something for it.
    let quiet = objects
        .iter()
        .all(|object| object.is_sound() || doomed.contains(&object.name));
    let candidates: BTreeSet<u32> = objects
        .iter()
        .flat_map(|object| object.bad.slots.keys().copied())
        .collect();
    let lost = candidates
        .into_iter()
        .filter(|slot| !objects.iter().any(|object| object.gives(*slot)));
    let lost: BTreeSet<u32> = lost.collect();
    let mut bad = BadPack {
        quiet,
        ..BadPack::default()
    };
    for object in &mut objects {
        for (slot, reason) in object.bad.slots.drain() {
            if lost.contains(&slot) {
                bad.slots.insert(slot, reason);
            }
        }
        let reason = object.bad.object.take().or_else(|| object.bad.whole.clone());
        bad.object = bad.object.take().or(reason.filter(|_| !doomed.contains(&object.name)));
    }
    bad.unread = objects.iter().any(|object| object.bad.unread);
    if objects.iter().all(|object| object.bad.whole.is_some()) {
        bad.whole = objects.remove(0).bad.whole;
    }
    let is_bad = bad.object.is_some() || bad.whole.is_some() || !bad.slots.is_empty();
    is_bad.then_some(bad)
}
