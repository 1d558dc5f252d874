//! Every entry, section and reference of one backup.

use std::collections::{BTreeSet, HashMap};

use super::super::keys::pack_key;
use super::super::{Backup, Entry, EntryKind, Fetcher, Piece, SectionRef};
use super::ledger::{Ledger, LostTable, Place, describe};
use super::{BadPacks, Found};
use crate::sys::signal::Cancel;
use crate::units::Id;

/// Checks one backup's entries. What is damaged goes to the ledger.
///
/// # Errors
/// A signal asked to end, or the decompressor cannot be made.
pub(super) fn check_entries(
    backup: &Backup,
    bad: &BadPacks,
    ledger: &mut Ledger,
    found: &mut Found,
    cancel: &Cancel,
) -> crate::Result<()> {
    let id = backup.manifest().id;
    // Without its table of packs (noted already) a backup restores all the same.
    let known = backup.packs().ok().map(|packs| {
        let ids = packs.iter().map(|pack| pack.id);
        ids.chain([backup.manifest().root.pack]).collect()
    });
    let entries = match backup.entries() {
        Ok(entries) => entries,
        Err(error) => {
            ledger.unreadable(&error, id);
            return Ok(());
        }
    };
    let mut check = Check {
        fetcher: backup.fetcher()?,
        bad,
        known,
        id,
        broken: HashMap::new(),
        ledger,
    };
    let (mut last, mut lost) = (None, Vec::new());
    for entry in entries {
        cancel.check()?;
        match entry {
            Err(error) => lost.push(error),
            Ok(entry) => {
                found.entries += 1;
                let place = Some((entry.root, entry.path.clone()));
                check.lost_tables(&mut lost, &last, &place);
                check.entry(&entry, cancel)?;
                last = place;
            }
        }
    }
    check.lost_tables(&mut lost, &last, &None);
    Ok(())
}

struct Check<'c> {
    fetcher: Fetcher,
    bad: &'c BadPacks,
    /// The packs that the backup says it refers to; `None` when that table is lost.
    known: Option<BTreeSet<Id>>,
    id: Id,
    /// Files that cannot be restored whole, with the objects and reasons: further names of theirs cannot either.
    broken: HashMap<Place, Vec<(String, String)>>,
    ledger: &'c mut Ledger,
}

impl Check<'_> {
    fn lost_tables(&mut self, lost: &mut Vec<super::super::Error>, after: &Option<Place>, before: &Option<Place>) {
        for error in lost.drain(..) {
            let lost = LostTable {
                backup: self.id,
                after: after.clone(),
                before: before.clone(),
            };
            self.ledger.table(&error, lost);
        }
    }

    fn entry(&mut self, entry: &Entry, cancel: &Cancel) -> crate::Result<()> {
        match &entry.kind {
            EntryKind::File(content) => {
                for (index, at) in content.sections.iter().enumerate() {
                    self.section(at, content.section_chunks(index), entry, cancel)?;
                }
            }
            EntryKind::HardLink(first) => {
                let broken = self.broken.get(&(entry.root, first.clone()));
                for (object, reason) in broken.into_iter().flatten() {
                    self.ledger.path(object, reason, self.id, entry.root, &entry.path);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn section(&mut self, at: &SectionRef, chunks: usize, entry: &Entry, cancel: &Cancel) -> crate::Result<()> {
        let pieces = match self.fetcher.section(at, chunks) {
            Ok(section) => section.pieces,
            Err(error) => {
                let (object, reason) = describe(&error);
                self.lost(object, reason, entry);
                return cancel.check();
            }
        };
        let mut named: BTreeSet<Id> = BTreeSet::new();
        for piece in &pieces {
            cancel.check()?;
            let Piece::Data { pack, slot, .. } = piece else {
                continue;
            };
            // Once per file section and pack is enough.
            if named.contains(pack) {
                continue;
            }
            if let Err(reason) = self.piece(piece, *pack, *slot) {
                self.lost(pack_key(*pack), reason, entry);
                named.insert(*pack);
            }
        }
        cancel.check()
    }

    fn lost(&mut self, object: String, reason: String, entry: &Entry) {
        self.ledger.path(&object, &reason, self.id, entry.root, &entry.path);
        let place = (entry.root, entry.path.clone());
        self.broken.entry(place).or_default().push((object, reason));
    }

    fn piece(&mut self, piece: &Piece, pack: Id, slot: u32) -> Result<(), String> {
        let bad = self.bad.get(&pack);
        if let Some(reason) = bad.and_then(|bad| bad.of(slot)) {
            return Err(reason.to_owned());
        }
        if self.known.as_ref().is_some_and(|known| !known.contains(&pack)) {
            return Err("a file refers to it, but the backup's table of packs does not name it".to_owned());
        }
        self.fetcher.look_up(piece).map_err(|error| describe(&error).1)
    }
}

/// The packs that a backup's files refer to, read from its maps: for a backup whose table of packs is lost.
pub(super) fn packs_of(backup: &Backup, cancel: &Cancel) -> crate::Result<BTreeSet<Id>> {
    let (mut packs, mut fetcher) = (BTreeSet::new(), backup.fetcher()?);
    for entry in backup.entries()?.flatten() {
        let EntryKind::File(content) = &entry.kind else {
            continue;
        };
        for (index, at) in content.sections.iter().enumerate() {
            cancel.check()?;
            if let SectionRef::Stored { pack, .. } = at {
                packs.insert(*pack);
            }
            if let Ok(section) = fetcher.section(at, content.section_chunks(index)) {
                packs.extend(section.packs());
            }
        }
    }
    Ok(packs)
}
