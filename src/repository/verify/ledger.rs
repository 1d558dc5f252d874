//! Damage by object: what is wrong with it, and who misses what.

use std::collections::BTreeMap;

use super::super::Error;
use crate::units::Id;

/// Paths that are named per damaged object; more are counted.
const NAMED: usize = 20;

/// A place in a backup's file table: root, path relative to it.
pub type Place = (u32, Vec<u8>);

/// A damaged object, and what it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Its key in the store.
    pub object: String,
    /// What does not fit.
    pub reason: String,
    /// The backups that miss something for it. One that refers to the object and needs only what is intact of it is not among them.
    pub backups: Vec<Id>,
    /// Files that cannot be restored whole: backup, root, path relative to the root.
    pub paths: Vec<(Id, u32, Vec<u8>)>,
    /// Further files that are not named.
    pub more_paths: u64,
    /// Parts of file tables that are lost: nobody knows what was in them.
    pub tables: Vec<LostTable>,
    /// Backups of which nothing at all can be restored.
    pub unreadable: Vec<Id>,
}

/// A lost part of a backup's file table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostTable {
    /// The backup.
    pub backup: Id,
    /// The last entry before it that is known; `None` at the table's beginning.
    pub after: Option<Place>,
    /// The first entry behind it that is known; `None` at the table's end.
    pub before: Option<Place>,
}

/// Damage by object.
#[derive(Default)]
pub(super) struct Ledger {
    objects: BTreeMap<String, Damage>,
    /// The path counted last for an object: a file with many damaged sections is one file.
    last: BTreeMap<String, (Id, Place)>,
}

impl Ledger {
    fn at(&mut self, object: &str, reason: &str) -> &mut Damage {
        self.objects.entry(object.to_owned()).or_insert_with(|| Damage {
            object: object.to_owned(),
            reason: reason.to_owned(),
            backups: Vec::new(),
            paths: Vec::new(),
            more_paths: 0,
            tables: Vec::new(),
            unreadable: Vec::new(),
        })
    }

    /// The object is damaged; perhaps a backup misses something for it.
    pub fn note(&mut self, object: &str, reason: &str, backup: Option<Id>) {
        let damage = self.at(object, reason);
        if let Some(id) = backup.filter(|id| !damage.backups.contains(id)) {
            damage.backups.push(id);
        }
    }

    /// Nothing of the backup can be restored.
    pub fn unreadable(&mut self, error: &Error, backup: Id) {
        let (object, reason) = describe(error);
        self.note(&object, &reason, Some(backup));
        self.at(&object, &reason).unreadable.push(backup);
    }

    /// A part of the backup's file table is lost.
    pub fn table(&mut self, error: &Error, lost: LostTable) {
        let (object, reason) = describe(error);
        self.note(&object, &reason, Some(lost.backup));
        self.at(&object, &reason).tables.push(lost);
    }

    /// A file cannot be restored whole.
    pub fn path(&mut self, object: &str, reason: &str, backup: Id, root: u32, path: &[u8]) {
        self.note(object, reason, Some(backup));
        let this = (backup, (root, path.to_vec()));
        if self.last.get(object) == Some(&this) {
            return;
        }
        self.last.insert(object.to_owned(), this);
        let damage = self.at(object, reason);
        if damage.paths.len() < NAMED {
            damage.paths.push((backup, root, path.to_vec()));
        } else {
            damage.more_paths += 1;
        }
    }

    pub fn into_damage(self) -> Vec<Damage> {
        self.objects.into_values().collect()
    }
}

/// The object that an error is about, and why.
pub(in super::super) fn describe(error: &Error) -> (String, String) {
    match error {
        Error::Damaged { object, reason } => (object.clone(), reason.clone()),
        Error::Store(crate::store::Error::Absent { key, .. }) => (key.clone(), "it is missing".to_owned()),
        Error::Store(crate::store::Error::Io { key, source, .. }) => (key.clone(), source.to_string()),
        other => ("the repository".to_owned(), other.to_string()),
    }
}
