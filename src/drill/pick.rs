//! Which backup is drilled when nobody names one.

use std::collections::BTreeMap;

use crate::job::{self, Whose};
use crate::repository::Manifest;
use crate::units::Id;
use crate::{Error, Result};

/// How to choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick {
    /// The newest.
    Newest,
    /// Any.
    Random,
    /// The oldest without a verdict; when all have one, the one whose verdict is the oldest.
    OldestUndrilled,
}

/// Chooses among backups of databases; `drilled` has the time of the last verdict. Where this host's job has backups of its own, others' are left to their hosts;
/// a host that has none may drill any, but whose newest is meant must be clear.
///
/// # Errors
/// There is no backup of a database, or it is not known whose newest is meant.
pub(super) fn pick(
    backups: &[Manifest],
    drilled: &BTreeMap<Id, jiff::Timestamp>,
    whose: &Whose,
    how: Pick,
) -> Result<Id> {
    let databases = || backups.iter().filter(|manifest| manifest.record.has_server());
    let none = || Error::usage("the repository holds no backup of a database");
    if databases().next().is_none() {
        return Err(none());
    }
    let said = whose.named || whose.wanted.is_some();
    let all: Vec<&Manifest> = match job::own(databases(), whose) {
        Ok(own) if how == Pick::Newest => {
            let newest = own.newest(jiff::Timestamp::now()).ok_or_else(none)?;
            vec![newest.manifest]
        }
        Ok(own) => own.members.iter().map(|one| one.manifest).collect(),
        Err(error) if how == Pick::Newest || said => return Err(error),
        Err(_) => databases().collect(),
    };
    let chosen = match how {
        Pick::Newest => all.last().copied(),
        Pick::Random => {
            let bytes = Id::random().0;
            let number = u64::from_le_bytes(std::array::from_fn(|at| bytes[at]));
            all.get((number % all.len() as u64) as usize).copied()
        }
        // None sorts before every time, and of equals the first, which is the oldest, is taken.
        Pick::OldestUndrilled => all.into_iter().min_by_key(|manifest| drilled.get(&manifest.id)),
    };
    chosen.map(|manifest| manifest.id).ok_or_else(none)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::repository::{Digest, Root, SizeFigures, StoredRecord};

    fn backup(host: &str, second: i64, server: bool) -> Manifest {
        let digest = Digest([0; 32]);
        Manifest {
            format: 1,
            features: Vec::new(),
            id: Id::random(),
            repository: Id::random(),
            time: jiff::Timestamp::from_second(second).unwrap(),
            host: host.to_owned(),
            tags: BTreeMap::new(),
            parent: None,
            sizes: SizeFigures::default(),
            root: Root {
                pack: Id::random(),
                size: 0,
                digest,
                table_slot: 0,
                table_hash: digest,
                packs_slot: 0,
                packs_hash: digest,
            },
            // Of a database, but of too little for a whole record: then the host's name is all there is.
            record: StoredRecord::new(&if server { json!({"server": {}}) } else { json!({}) }).unwrap(),
        }
    }

    fn whose(host: &str) -> Whose {
        Whose {
            host: host.to_owned(),
            named: false,
            wanted: None,
            asking: crate::job::Job::unknown(host),
        }
    }

    #[test]
    fn each_way_chooses_what_it_says() {
        let backups = [
            backup("db", 1, true),
            backup("db", 2, true),
            backup("db", 3, true),
            backup("db", 4, false),
            backup("other", 5, true),
        ];
        let at = |second| jiff::Timestamp::from_second(second).unwrap();
        let mut drilled = BTreeMap::from([(backups[0].id, at(90))]);
        let which = |drilled: &BTreeMap<_, _>, host: &str, how| {
            let picked = pick(&backups, drilled, &whose(host), how).unwrap();
            backups.iter().position(|backup| backup.id == picked).unwrap()
        };
        assert_eq!(which(&drilled, "db", Pick::Newest), 2);
        // Whose newest is not known, and that is said; any may be drilled.
        let refused = pick(&backups, &drilled, &whose("elsewhere"), Pick::Newest).unwrap_err();
        assert!(refused.to_string().contains("db, other"), "{refused}");
        assert_eq!(which(&drilled, "elsewhere", Pick::OldestUndrilled), 1);
        assert_eq!(which(&drilled, "db", Pick::OldestUndrilled), 1);
        drilled.extend([(backups[1].id, at(70)), (backups[2].id, at(80))]);
        assert_eq!(which(&drilled, "db", Pick::OldestUndrilled), 1);
        let seen: std::collections::BTreeSet<usize> = (0..200).map(|_| which(&drilled, "db", Pick::Random)).collect();
        assert_eq!(seen, [0, 1, 2].into());
        assert!(pick(&[], &drilled, &whose("db"), Pick::Random).is_err());
    }
}
