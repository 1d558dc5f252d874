//! Which backup is drilled when nobody names one.

use std::collections::BTreeMap;

use crate::repository::Manifest;
use crate::units::Id;

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

/// Chooses among backups of databases, oldest first; `drilled` has the time of the last verdict. Where the host has backups of its own, others' are left to their hosts.
pub(super) fn pick<'m>(
    backups: &'m [Manifest],
    drilled: &BTreeMap<Id, jiff::Timestamp>,
    host: &str,
    how: Pick,
) -> Option<&'m Manifest> {
    let databases = || backups.iter().filter(|manifest| !manifest.record["server"].is_null());
    let own: Vec<&Manifest> = databases().filter(|manifest| manifest.host == host).collect();
    let all = if own.is_empty() { databases().collect() } else { own };
    match how {
        Pick::Newest => all.last().copied(),
        Pick::Random => {
            let bytes = Id::random().0;
            let number = u64::from_le_bytes(std::array::from_fn(|at| bytes[at]));
            let count = u64::try_from(all.len()).ok().filter(|count| *count > 0)?;
            all.get(usize::try_from(number % count).ok()?).copied()
        }
        // None sorts before every time, and of equals the first, which is the oldest, is taken.
        Pick::OldestUndrilled => all.into_iter().min_by_key(|manifest| drilled.get(&manifest.id)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::repository::{Digest, Root, SizeFigures};

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
            record: if server { json!({"server": {}}) } else { json!({}) },
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
            let picked = pick(&backups, drilled, host, how).unwrap().id;
            backups.iter().position(|backup| backup.id == picked).unwrap()
        };
        assert_eq!(which(&drilled, "db", Pick::Newest), 2);
        assert_eq!(which(&drilled, "elsewhere", Pick::Newest), 4);
        assert_eq!(which(&drilled, "db", Pick::OldestUndrilled), 1);
        drilled.extend([(backups[1].id, at(70)), (backups[2].id, at(80))]);
        assert_eq!(which(&drilled, "db", Pick::OldestUndrilled), 1);
        let seen: std::collections::BTreeSet<usize> = (0..200).map(|_| which(&drilled, "db", Pick::Random)).collect();
        assert_eq!(seen, [0, 1, 2].into());
        assert!(pick(&[], &drilled, "db", Pick::Random).is_none());
    }
}
