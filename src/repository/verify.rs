//! Checking what is stored: that everything is there and fits together, or that every byte reads well.

mod entries;
mod ledger;
mod meanwhile;
mod pack;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::keys::{PackName, pack_key};
use super::pack::Finished;
use super::{Backup, Repository};
use crate::monitor::{Monitor, Work};
use crate::sys::signal::Cancel;
use crate::units::Id;

use entries::check_entries;
use ledger::Ledger;
pub(super) use ledger::describe;
pub use ledger::{Damage, LostTable, Place};

/// How thoroughly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Every manifest, table, section and pack footer; chunks are known to be where they should be, but are not read.
    #[default]
    Structure,
    /// Every stored byte is read, decompressed and compared with its hash.
    Data,
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Backups that were looked at.
    pub backups: u64,
    /// Entries of their file tables.
    pub entries: u64,
    /// Packs that were looked at.
    pub packs: u64,
    /// Bytes of packs that were read.
    pub bytes: u64,
    /// Packs that no readable backup needs: left by runs that died, for `prune`.
    pub unreferenced: u64,
    /// What is damaged; empty when all is well.
    pub damage: Vec<Damage>,
    /// Backups of which something could not be read once, and all could now: the note of it is gone.
    pub taken_back: Vec<Id>,
}

/// What is known of one damaged pack.
#[derive(Debug, Default)]
pub(super) struct BadPack {
    /// It does not fit as a whole; whether that costs anything its slots tell.
    pub object: Option<String>,
    /// Nothing of it can be read.
    pub whole: Option<String>,
    pub slots: HashMap<u32, String>,
    /// Nothing that stays is damaged; only who misses something need hear of it.
    pub quiet: bool,
    /// It could not be read, which may pass; nobody knows what its bytes are.
    pub unread: bool,
}

impl BadPack {
    fn whole(error: &super::Error) -> BadPack {
        BadPack {
            whole: Some(describe(error).1),
            unread: matches!(error, super::Error::Store(error) if crate::store::may_pass(error)),
            ..BadPack::default()
        }
    }

    /// Why a slot cannot be read; `None` when it can.
    fn of(&self, slot: u32) -> Option<&str> {
        let own = || self.slots.get(&slot).map(String::as_str);
        self.whole.as_deref().or_else(own)
    }

    /// The reason that stands for all.
    pub fn reason(&self) -> String {
        let first = || Some(self.slots.iter().min()?).map(|(slot, reason)| format!("slot {slot}: {reason}"));
        let whole = self.whole.clone().or_else(|| self.object.clone());
        whole.or_else(first).unwrap_or_default()
    }
}

pub(super) type BadPacks = BTreeMap<Id, BadPack>;

/// The packs to look at: what is known of each, if any, and how many backups refer to it.
type Needed = BTreeMap<Id, (Option<Finished>, u64)>;

impl Repository {
    /// Checks one backup (`latest`, an id, a prefix), or all of them and every pack that is there.
    ///
    /// # Errors
    /// The store cannot be listed, no backup fits, or a signal asked to end. Damage is in the answer, not an error.
    pub fn verify(
        &self,
        which: Option<&str>,
        level: Level,
        workers: usize,
        monitor: &dyn Monitor,
        cancel: &Cancel,
    ) -> crate::Result<Found> {
        let mut ledger = Ledger::default();
        let mut backups = self.chosen(which, &mut ledger)?;
        let mut found = Found {
            backups: backups.len() as u64,
            ..Found::default()
        };

        let doomed = self.doomed()?;
        let mut needed = needed_by(&backups, &mut ledger, cancel)?;
        if which.is_none() {
            // An object that a prune is about to delete is nobody's loss.
            for name in self.packs_in_store()?.iter().filter(|name| !doomed.contains(name)) {
                needed.entry(name.id).or_default();
            }
            found.unreferenced = needed.values().filter(|(_, backups)| *backups == 0).count() as u64;
        }
        let bad = self.check_packs(&needed, &doomed, level, workers, monitor, cancel, &mut found)?;
        // Who misses what for it the entries tell: a backup may refer to a damaged pack and need only what is intact.
        for (id, bad) in bad.iter().filter(|(_, bad)| !bad.quiet) {
            ledger.note(&pack_key(*id), &bad.reason(), None);
        }
        for backup in &backups {
            cancel.check()?;
            check_entries(backup, &bad, &mut ledger, &mut found, cancel)?;
        }
        found.damage = ledger.into_damage();
        let stay = |backup: &Backup| !self.is_forgotten(backup);
        if !found.damage.is_empty() && !backups.iter().all(stay) {
            // What was forgotten meanwhile, and what only that needed, is nobody's loss.
            if let Some(which) = which {
                self.find(which)?;
            }
            backups.retain(stay);
            (found.backups, found.entries) = (backups.len() as u64, 0);
            found.damage = self.damage_of(&backups, bad, &mut found, cancel)?;
        }
        if level == Level::Data {
            found.taken_back = self.take_back(&backups, &found.damage, &doomed)?;
        }
        Ok(found)
    }

    /// What these backups miss, and which packs of theirs, or of nobody's, are damaged.
    fn damage_of(
        &self,
        backups: &[Backup],
        mut bad: BadPacks,
        found: &mut Found,
        cancel: &Cancel,
    ) -> crate::Result<Vec<Damage>> {
        let mut ledger = Ledger::default();
        let needed = needed_by(backups, &mut ledger, cancel)?;
        bad.retain(|id, _| self.concerns(*id, &needed));
        for (id, bad) in bad.iter().filter(|(_, bad)| !bad.quiet) {
            ledger.note(&pack_key(*id), &bad.reason(), None);
        }
        for backup in backups {
            cancel.check()?;
            check_entries(backup, &bad, &mut ledger, found, cancel)?;
        }
        Ok(ledger.into_damage())
    }

    /// Every damaged pack that some backup refers to, all bytes read: what `repair` begins with.
    pub(super) fn bad_packs(
        &self,
        backups: &[Backup],
        workers: usize,
        monitor: &dyn Monitor,
        cancel: &Cancel,
    ) -> crate::Result<BadPacks> {
        let needed = needed_by(backups, &mut Ledger::default(), cancel)?;
        let doomed = self.doomed()?;
        self.check_packs(
            &needed,
            &doomed,
            Level::Data,
            workers,
            monitor,
            cancel,
            &mut Found::default(),
        )
    }

    /// What one backup misses while these packs are bad.
    pub(super) fn missed_by(&self, backup: &Backup, bad: &BadPacks, cancel: &Cancel) -> crate::Result<Vec<Damage>> {
        let mut ledger = Ledger::default();
        check_entries(backup, bad, &mut ledger, &mut Found::default(), cancel)?;
        Ok(ledger.into_damage())
    }

    fn chosen(&self, which: Option<&str>, ledger: &mut Ledger) -> crate::Result<Vec<Backup>> {
        if let Some(which) = which {
            return Ok(vec![self.find(which)?]);
        }
        let mut backups = Vec::new();
        for listed in self.list()? {
            match listed.manifest {
                Ok(manifest) => backups.push(Backup::new(self, manifest)),
                Err(error) => ledger.note(&listed.key, &describe(&error).1, None),
            }
        }
        Ok(backups)
    }

    /// Every pack once, whoever needs it, on several threads.
    #[allow(clippy::too_many_arguments)]
    fn check_packs(
        &self,
        needed: &Needed,
        doomed: &HashSet<PackName>,
        level: Level,
        workers: usize,
        monitor: &dyn Monitor,
        cancel: &Cancel,
        found: &mut Found,
    ) -> crate::Result<BadPacks> {
        let packs: Vec<(Id, Option<Finished>)> = needed.iter().map(|(id, (finished, _))| (*id, *finished)).collect();
        let size = |(id, finished): &(Id, Option<Finished>)| {
            finished.map_or_else(|| self.store.size(&pack_key(*id)).unwrap_or(0), |pack| pack.size)
        };
        let total = if level == Level::Data {
            packs.iter().map(size).fold(0, u64::saturating_add)
        } else {
            0
        };
        monitor.begin(Work {
            name: "verifying",
            bytes: total,
            items: packs.len() as u64,
        });
        let (next, answers) = (AtomicUsize::new(0), Mutex::new((BTreeMap::new(), 0u64)));
        std::thread::scope(|scope| {
            for _ in 0..workers.max(1) {
                scope.spawn(|| {
                    while let Some((id, expected)) = packs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if cancel.asked().is_some() {
                            break;
                        }
                        let mut advance = |bytes| {
                            monitor.advance(bytes, 0);
                            cancel.asked().is_none()
                        };
                        let (bad, bytes) = self.check_pack(*id, *expected, level, doomed, &mut advance);
                        monitor.advance(0, 1);
                        let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
                        answers.1 += bytes;
                        answers.0.extend(bad.map(|bad| (*id, bad)));
                    }
                });
            }
        });
        monitor.end();
        cancel.check()?;
        let (bad, bytes) = answers.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.packs = packs.len() as u64;
        found.bytes = bytes;
        Ok(bad)
    }
}

fn needed_by(backups: &[Backup], ledger: &mut Ledger, cancel: &Cancel) -> crate::Result<Needed> {
    let mut needed = Needed::new();
    for backup in backups {
        cancel.check()?;
        note_packs(backup, &mut needed, ledger, cancel)?;
    }
    Ok(needed)
}

fn note_packs(backup: &Backup, needed: &mut Needed, ledger: &mut Ledger, cancel: &Cancel) -> crate::Result<()> {
    let mut note = |id: Id, known: Option<Finished>| {
        let (finished, backups) = needed.entry(id).or_default();
        *finished = finished.or(known);
        *backups += 1;
    };
    let root = backup.manifest().root.finished();
    note(root.id, Some(root));
    match backup.packs() {
        Ok(packs) => packs.into_iter().for_each(|pack| note(pack.id, Some(pack))),
        Err(error) => {
            let (object, reason) = describe(&error);
            ledger.note(&object, &reason, None);
            let packs = entries::packs_of(backup, cancel);
            cancel.check()?;
            packs.unwrap_or_default().into_iter().for_each(|id| note(id, None));
        }
    }
    Ok(())
}
