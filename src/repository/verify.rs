//! Checking what is stored: that everything is there and fits together, or that every byte reads well.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::keys::pack_key;
use super::pack::{Finished, read_footer, sweep};
use super::{Backup, EntryKind, Error, Fetcher, Piece, Repository, Result, SectionRef};
use crate::monitor::{Monitor, Work};
use crate::sys::signal::Cancel;
use crate::units::Id;

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

/// Paths that are named per damaged object; more are counted.
const NAMED: usize = 20;

/// A damaged object, and what it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Its key in the store.
    pub object: String,
    /// What does not fit.
    pub reason: String,
    /// The backups that need it.
    pub backups: Vec<Id>,
    /// Files that cannot be restored whole: backup, root, path relative to the root.
    pub paths: Vec<(Id, u32, Vec<u8>)>,
    /// Further files that are not named.
    pub more_paths: u64,
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
    whole: Option<String>,
    slots: HashMap<u32, String>,
}

/// Damage by object.
#[derive(Default)]
struct Ledger(BTreeMap<String, Damage>);

impl Ledger {
    fn at(&mut self, object: &str, reason: &str) -> &mut Damage {
        self.0.entry(object.to_owned()).or_insert_with(|| Damage {
            object: object.to_owned(),
            reason: reason.to_owned(),
            backups: Vec::new(),
            paths: Vec::new(),
            more_paths: 0,
        })
    }

    fn note(&mut self, object: &str, reason: &str, backup: Option<Id>) {
        let damage = self.at(object, reason);
        if let Some(id) = backup.filter(|id| !damage.backups.contains(id)) {
            damage.backups.push(id);
        }
    }

    fn error(&mut self, error: &Error, backup: Option<Id>) {
        let (object, reason) = describe(error);
        self.note(&object, &reason, backup);
    }

    fn path(&mut self, object: &str, reason: &str, backup: Id, root: u32, path: &[u8]) {
        self.note(object, reason, Some(backup));
        let damage = self.at(object, reason);
        if damage.paths.len() < NAMED {
            damage.paths.push((backup, root, path.to_vec()));
        } else {
            damage.more_paths += 1;
        }
    }
}

fn describe(error: &Error) -> (String, String) {
    match error {
        Error::Damaged { object, reason } => (object.clone(), reason.clone()),
        Error::Store(crate::store::Error::Absent { key, .. }) => (key.clone(), "it is missing".to_owned()),
        Error::Store(crate::store::Error::Io { key, source, .. }) => (key.clone(), source.to_string()),
        other => ("the repository".to_owned(), other.to_string()),
    }
}

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

        let mut needed: BTreeMap<Id, (Option<Finished>, Vec<Id>)> = BTreeMap::new();
        for backup in &backups {
            note_packs(backup, &mut needed, &mut ledger);
        }
        if which.is_none() {
            for id in self.packs_in_store()? {
                needed.entry(id).or_default();
            }
            found.unreferenced = needed.values().filter(|(_, backups)| backups.is_empty()).count() as u64;
        }
        let bad = self.check_packs(&needed, level, workers, monitor, cancel, &mut found)?;
        for (id, bad) in &bad {
            let users = &needed.get(id).map(|(_, users)| users.clone()).unwrap_or_default();
            let first = || {
                bad.slots
                    .iter()
                    .min()
                    .map(|(slot, reason)| format!("slot {slot}: {reason}"))
            };
            let reason = bad.whole.clone().or_else(first).unwrap_or_default();
            ledger.note(&pack_key(*id), &reason, None);
            users
                .iter()
                .for_each(|user| ledger.note(&pack_key(*id), &reason, Some(*user)));
        }
        for backup in &backups {
            cancel.check()?;
            self.check_entries(backup, &bad, &mut ledger, &mut found, cancel)?;
        }
        found.damage = ledger.0.into_values().collect();
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
        needed: &BTreeMap<Id, (Option<Finished>, Vec<Id>)>,
        level: Level,
        workers: usize,
        monitor: &dyn Monitor,
        cancel: &Cancel,
        found: &mut Found,
    ) -> crate::Result<BTreeMap<Id, BadPack>> {
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
        let whole = |reason: String| {
            Some(BadPack {
                whole: Some(reason),
                ..BadPack::default()
            })
        };
        match read_footer(&*self.store, &self.keys, id) {
            Err(error) => return (whole(describe(&error).1), 0),
            Ok((footer, size)) if expected.is_some_and(|pack| pack.digest != footer.digest || pack.size != size) => {
                return (whole("it is not the pack that the backup refers to".to_owned()), 0);
            }
            Ok(_) => {}
        }
        if level == Level::Structure {
            return (None, 0);
        }
        match sweep(&*self.store, &self.keys, id, advance) {
            Err(error) => (whole(describe(&error).1), 0),
            Ok(sweep) if sweep.body => (
                whole("its slots' bytes do not fit their digest".to_owned()),
                sweep.bytes,
            ),
            Ok(sweep) if sweep.slots.is_empty() => (None, sweep.bytes),
            Ok(sweep) => (
                Some(BadPack {
                    whole: None,
                    slots: sweep.slots.into_iter().collect(),
                }),
                sweep.bytes,
            ),
        }
    }

    /// Every entry, section and reference of one backup.
    fn check_entries(
        &self,
        backup: &Backup,
        bad: &BTreeMap<Id, BadPack>,
        ledger: &mut Ledger,
        found: &mut Found,
        cancel: &Cancel,
    ) -> crate::Result<()> {
        let id = backup.manifest().id;
        let known: BTreeSet<Id> = match backup.packs() {
            Ok(packs) => packs
                .iter()
                .map(|pack| pack.id)
                .chain([backup.manifest().root.pack])
                .collect(),
            // Noted already.
            Err(_) => return Ok(()),
        };
        let entries = match backup.entries() {
            Ok(entries) => entries,
            Err(error) => {
                ledger.error(&error, Some(id));
                return Ok(());
            }
        };
        let mut check = Check {
            fetcher: backup.fetcher()?,
            bad,
            known,
            id,
            ledger,
        };
        for entry in entries {
            cancel.check()?;
            match entry {
                Err(error) => check.ledger.error(&error, Some(id)),
                Ok(entry) => {
                    found.entries += 1;
                    if let EntryKind::File(content) = &entry.kind {
                        let sections = content.sections.iter().enumerate();
                        sections.for_each(|(index, at)| {
                            check.section(at, content.section_chunks(index), entry.root, &entry.path)
                        });
                    }
                }
            }
        }
        Ok(())
    }
}

struct Check<'c> {
    fetcher: Fetcher,
    bad: &'c BTreeMap<Id, BadPack>,
    known: BTreeSet<Id>,
    id: Id,
    ledger: &'c mut Ledger,
}

impl Check<'_> {
    fn section(&mut self, at: &SectionRef, chunks: usize, root: u32, path: &[u8]) {
        let pieces = match self.fetcher.section(at, chunks) {
            Ok(section) => section.pieces,
            Err(error) => {
                let (object, reason) = describe(&error);
                return self.ledger.path(&object, &reason, self.id, root, path);
            }
        };
        let mut named: BTreeSet<Id> = BTreeSet::new();
        for piece in &pieces {
            let Piece::Data { pack, slot, .. } = piece else {
                continue;
            };
            // Once per file section and pack is enough.
            if named.contains(pack) {
                continue;
            }
            if let Err(reason) = self.piece(piece, *pack, *slot) {
                self.ledger.path(&pack_key(*pack), &reason, self.id, root, path);
                named.insert(*pack);
            }
        }
    }

    fn piece(&mut self, piece: &Piece, pack: Id, slot: u32) -> std::result::Result<(), String> {
        let bad = self.bad.get(&pack);
        if let Some(reason) = bad.and_then(|bad| bad.whole.clone().or_else(|| bad.slots.get(&slot).cloned())) {
            return Err(reason);
        }
        if !self.known.contains(&pack) {
            return Err("a file refers to it, but the backup's table of packs does not name it".to_owned());
        }
        self.fetcher.look_up(piece).map_err(|error| describe(&error).1)
    }
}

fn note_packs(backup: &Backup, needed: &mut BTreeMap<Id, (Option<Finished>, Vec<Id>)>, ledger: &mut Ledger) {
    let id = backup.manifest().id;
    let packs: Result<Vec<Finished>> = backup.packs();
    if let Err(error) = &packs {
        ledger.error(error, Some(id));
    }
    let root = backup.manifest().root.finished();
    for pack in packs.unwrap_or_default().into_iter().chain([root]) {
        let (finished, users) = needed.entry(pack.id).or_default();
        finished.get_or_insert(pack);
        users.push(id);
    }
}
