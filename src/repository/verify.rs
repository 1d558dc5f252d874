//! Checking what is stored: that everything is there and fits together, or that every byte reads well.

mod entries;
mod ledger;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::keys::pack_key;
use super::pack::{Finished, read_footer, sweep};
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
}

/// What is known of one damaged pack.
#[derive(Debug, Default)]
struct BadPack {
    /// It does not fit as a whole; whether that costs anything its slots tell.
    object: Option<String>,
    /// Nothing of it can be read.
    whole: Option<String>,
    slots: HashMap<u32, String>,
}

impl BadPack {
    fn whole(reason: String) -> BadPack {
        BadPack {
            whole: Some(reason),
            ..BadPack::default()
        }
    }

    /// Why a slot cannot be read; `None` when it can.
    fn of(&self, slot: u32) -> Option<&str> {
        let own = || self.slots.get(&slot).map(String::as_str);
        self.whole.as_deref().or_else(own)
    }

    /// The reason that stands for all.
    fn reason(&self) -> String {
        let first = || Some(self.slots.iter().min()?).map(|(slot, reason)| format!("slot {slot}: {reason}"));
        let whole = self.whole.clone().or_else(|| self.object.clone());
        whole.or_else(first).unwrap_or_default()
    }
}

type BadPacks = BTreeMap<Id, BadPack>;

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
        let backups = self.chosen(which, &mut ledger)?;
        let mut found = Found {
            backups: backups.len() as u64,
            ..Found::default()
        };

        let mut needed = Needed::new();
        for backup in &backups {
            note_packs(backup, &mut needed, &mut ledger);
        }
        if which.is_none() {
            for id in self.packs_in_store()? {
                needed.entry(id).or_default();
            }
            found.unreferenced = needed.values().filter(|(_, backups)| *backups == 0).count() as u64;
        }
        let bad = self.check_packs(&needed, level, workers, monitor, cancel, &mut found)?;
        // Who misses what for it the entries tell: a backup may refer to a damaged pack and need only what is intact.
        for (id, bad) in &bad {
            ledger.note(&pack_key(*id), &bad.reason(), None);
        }
        for backup in &backups {
            cancel.check()?;
            check_entries(backup, &bad, &mut ledger, &mut found, cancel)?;
        }
        found.damage = ledger.into_damage();
        Ok(found)
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
    fn check_packs(
        &self,
        needed: &Needed,
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
            packs.iter().map(size).sum()
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
                        let (bad, bytes) = self.check_pack(*id, *expected, level, &mut advance);
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

    fn check_pack(
        &self,
        id: Id,
        expected: Option<Finished>,
        level: Level,
        advance: &mut dyn FnMut(u64) -> bool,
    ) -> (Option<BadPack>, u64) {
        let object = match read_footer(&*self.store, &self.keys, id) {
            Err(error) => return (Some(BadPack::whole(describe(&error).1)), 0),
            Ok((footer, size)) => expected
                .filter(|pack| pack.digest != footer.digest || pack.size != size)
                .map(|_| "it is not the pack that the backup refers to".to_owned()),
        };
        let mut bad = BadPack {
            object,
            ..BadPack::default()
        };
        let mut bytes = 0;
        if level == Level::Data {
            match sweep(&*self.store, &self.keys, id, advance) {
                Err(error) => bad.whole = Some(describe(&error).1),
                Ok(sweep) => {
                    bytes = sweep.bytes;
                    bad.slots = sweep.slots.into_iter().collect();
                    let body = || "its slots' bytes do not fit their digest, although each slot reads well".to_owned();
                    bad.object = bad.object.or_else(|| sweep.body.then(body));
                }
            }
        }
        let is_bad = bad.object.is_some() || bad.whole.is_some() || !bad.slots.is_empty();
        (is_bad.then_some(bad), bytes)
    }
}

fn note_packs(backup: &Backup, needed: &mut Needed, ledger: &mut Ledger) {
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
            let packs = entries::packs_of(backup).unwrap_or_default();
            packs.into_iter().for_each(|id| note(id, None));
        }
    }
}
