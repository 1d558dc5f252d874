//! The decision about one pack: which of its objects stays, which is copied, marked, deleted.

use super::{View, replaced};
use crate::repository::Repository;
use crate::repository::doomed::Why;
use crate::repository::keys::PackName;
use crate::repository::pack::{Footer, copy_slots, is_readable, read_footer};
use crate::repository::used::Slots;
use crate::repository::{Error, Result};
use crate::store;

/// What is to be done about a pack's objects.
#[derive(Default)]
pub(super) struct Decision {
    pub sizes: Vec<u64>,
    pub delete: Vec<(PackName, u64)>,
    pub mark: Vec<(PackName, u64, Why)>,
    /// Marked, but no mark says a time that can be believed.
    pub mark_again: Vec<PackName>,
    pub waiting: Vec<(PackName, u64)>,
    pub running: Vec<u64>,
    pub copied: Vec<u64>,
    pub unused: u64,
    pub damaged: Vec<String>,
    /// Why something that should be copied was not.
    pub failed: Option<String>,
}

impl Decision {
    pub fn changes_something(&self) -> bool {
        !(self.delete.is_empty() && self.mark.is_empty() && self.mark_again.is_empty() && self.copied.is_empty())
    }
}

/// One object of the pack.
struct Object {
    name: PackName,
    size: u64,
    doomed: bool,
    aged: bool,
    /// `None`: it cannot be read.
    footer: Option<Footer>,
}

impl Object {
    fn has(&self, slot: u32) -> bool {
        let footer = self.footer.as_ref();
        footer.is_some_and(|footer| footer.slots.get(slot as usize).is_some_and(|slot| slot.is_there()))
    }
}

impl Repository {
    pub(super) fn decide_pack(&self, names: &[PackName], view: &View<'_>) -> Result<Decision> {
        let mut decision = Decision::default();
        let need = names.first().and_then(|name| view.live.used.of(name.id));
        let mut objects = Vec::new();
        for name in names {
            let footer = match need.map(|_| read_footer(&*self.store, &self.keys, *name)) {
                Some(Err(
                    error @ (Error::Store(store::Error::Absent { .. }) | Error::Store(store::Error::Io { .. })),
                )) => {
                    return Err(error);
                }
                read => read.and_then(std::result::Result::ok).map(|(footer, _)| footer),
            };
            let size = self.store.size(&name.key())?;
            decision.sizes.push(size);
            let marked = view.marks.get(name);
            if marked.is_some_and(|marked| marked.age(view.options.now).is_none()) {
                decision.mark_again.push(*name);
            }
            objects.push(Object {
                name: *name,
                size,
                doomed: marked.is_some(),
                aged: view.is_aged(name),
                footer,
            });
        }
        match need {
            None => unreferenced(&objects, view, &mut decision),
            Some(need) => self.referenced(&objects, need, view, &mut decision)?,
        }
        Ok(decision)
    }

    /// Something of the pack is needed: after this, one object that is not doomed has all of it.
    fn referenced(&self, objects: &[Object], need: &Slots, view: &View<'_>, decision: &mut Decision) -> Result<()> {
        let need = needed(objects, need);
        let missing = |object: &Object| need.iter().filter(|slot| !object.has(**slot)).count();
        // The object that others are measured against: it has the most of what is needed and, of equals, is the latest.
        let base = objects
            .iter()
            .filter(|object| !object.doomed && object.footer.is_some())
            .min_by_key(|object| (missing(object), std::cmp::Reverse(object.name)));
        // What the base has not may be in another object: then all is brought together. It may also be lost for good.
        let mut to_copy = base.is_none_or(|base| mostly_unused(base, &need, view, decision));
        let mut lost = false;
        for slot in need.iter().filter(|slot| base.is_some_and(|base| !base.has(**slot))) {
            if to_copy {
                break;
            }
            let others = || objects.iter().filter(|object| object.has(*slot));
            to_copy = others().any(|other| is_readable(&self.store, &self.keys, other.name, *slot));
            lost |= others().next().is_some() && !to_copy;
        }
        // Whether the base is to be copied and cannot be, because something needed in it is damaged.
        let mut rotten = false;
        let mut keeper = base.map(|base| base.name);
        if to_copy && !need.is_empty() {
            // Whatever is damaged: a copy never has less than what it replaces.
            let allowed = base.map_or(need.len(), missing);
            let copied = match self.copy(objects, &need, allowed, view.options.dry_run) {
                // No room for a copy must not keep others from being deleted.
                Err(Error::Store(error @ store::Error::Io { .. })) => {
                    decision.failed = Some(error.to_string());
                    Copy::default()
                }
                copied => copied?,
            };
            lost |= copied.missing > 0 || copied.name.is_none();
            if let Some(name) = copied.name {
                decision.copied.push(copied.size);
                keeper = Some(name);
            } else {
                rotten = true;
            }
        }
        if lost {
            // Another prune may be ahead: what is gone was not damaged, and the next prune looks again.
            objects
                .iter()
                .try_for_each(|object| self.store.size(&object.name.key()).map(|_| ()))?;
        }
        let unreadable = |object: &Object| object.footer.is_none();
        for object in objects {
            match (object.doomed, object.aged) {
                // Nothing is wrong with what could only not be copied.
                _ if decision.failed.is_some() => {}
                _ if Some(object.name) == keeper && !rotten => {}
                // What is needed and cannot be copied may be read one day.
                _ if lost || unreadable(object) => decision.damaged.push(object.name.key()),
                (false, _) => decision.mark.push(replaced(object.name, object.size)),
                (true, true) => decision.delete.push((object.name, object.size)),
                (true, false) => decision.waiting.push((object.name, object.size)),
            }
        }
        Ok(())
    }

    fn copy(&self, objects: &[Object], need: &[u32], allowed: usize, dry_run: bool) -> Result<Copy> {
        let sources: Vec<PackName> = objects
            .iter()
            .rev()
            .filter(|object| object.footer.is_some())
            .map(|object| object.name)
            .collect();
        let wanted = |slot: u32| need.binary_search(&slot).is_ok();
        if dry_run {
            let stored = |slot: &u32| {
                let holder = objects.iter().find(|object| object.has(*slot))?;
                Some(holder.footer.as_ref()?.slots.get(*slot as usize)?.stored())
            };
            return Ok(Copy {
                // It stands for a name that nothing has.
                name: sources
                    .first()
                    .map(|name| PackName::later(name.id, name.generation + 1)),
                size: need.iter().filter_map(stored).sum(),
                missing: 0,
            });
        }
        let copied = copy_slots(&self.store, &self.keys, &sources, &wanted, allowed)?;
        Ok(Copy {
            name: copied.object.map(|(name, _)| name),
            size: copied.object.map_or(0, |(_, size)| size),
            missing: copied.missing.len(),
        })
    }
}

/// A new generation.
#[derive(Default)]
struct Copy {
    name: Option<PackName>,
    size: u64,
    missing: usize,
}

/// The slots that are needed and that some object still has, ascending.
fn needed(objects: &[Object], need: &Slots) -> Vec<u32> {
    let count = objects
        .iter()
        .filter_map(|object| Some(object.footer.as_ref()?.slots.len()))
        .max();
    (0..count.unwrap_or(0) as u32)
        .filter(|slot| need.contains(*slot) && objects.iter().any(|object| object.has(*slot)))
        .collect()
}

fn unreferenced(objects: &[Object], view: &View<'_>, decision: &mut Decision) {
    for object in objects {
        match (object.doomed, object.aged) {
            (true, true) => decision.delete.push((object.name, object.size)),
            (true, false) => decision.waiting.push((object.name, object.size)),
            // Its manifest is yet to come.
            (false, _) if view.is_of_a_running_backup(&object.name) => decision.running.push(object.size),
            (false, _) => decision.mark.push((object.name, object.size, Why::Unreferenced)),
        }
    }
}

/// The rule of compaction: more of the stored bytes are unused than allowed.
fn mostly_unused(base: &Object, need: &[u32], view: &View<'_>, decision: &mut Decision) -> bool {
    let slots = base.footer.iter().flat_map(|footer| footer.slots.iter().enumerate());
    let (mut unused, mut all) = (0, 0);
    for (number, slot) in slots {
        all += slot.stored();
        if need.binary_search(&(number as u32)).is_err() {
            unused += slot.stored();
        }
    }
    let compact = u128::from(unused) * 100 > u128::from(all) * u128::from(view.options.max_unused);
    if !compact {
        decision.unused += unused;
    }
    compact
}
