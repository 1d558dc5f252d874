//! Verdicts of restore drills, kept beside the manifests: write-once sealed objects, `drills/<backup id>/<time>-<id>`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::keys::{DRILLS, drill_key};
use super::manifest::FORMAT;
use super::{Error, Repository, Result, check_version, features, sealed};
use crate::units::Id;

/// A verdict on one backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drill {
    /// Format version: 1.
    pub format: u32,
    /// Features a reader must know.
    pub features: Vec<String>,
    /// The drill.
    pub id: Id,
    /// The repository that it belongs to.
    pub repository: Id,
    /// The backup that was drilled.
    pub backup: Id,
    /// When the drill was begun (wall time, UTC).
    pub time: jiff::Timestamp,
    /// What was found ([`crate::drill::Verdict`] as JSON); the repository does not look inside.
    pub verdict: serde_json::Value,
}

impl Repository {
    /// A verdict as it is kept; [`keep_drill`](Repository::keep_drill) does that.
    pub fn drill_of(&self, id: Id, backup: Id, time: jiff::Timestamp, verdict: serde_json::Value) -> Drill {
        Drill {
            format: FORMAT,
            features: features(),
            id,
            repository: self.id,
            backup,
            time,
            verdict,
        }
    }

    /// Keeps a verdict, durably.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn keep_drill(&self, drill: &Drill) -> Result<()> {
        let bytes = sealed::seal(drill, |json| self.keys.drill(json))?;
        sealed::put(&*self.store, &drill_key(drill.backup, drill.time, drill.id), &bytes)?;
        self.store.sync().map_err(Error::from)
    }

    /// All verdicts on one backup, oldest first; a damaged one is an error in its place.
    ///
    /// # Errors
    /// The store cannot be listed.
    pub fn drills(&self, backup: Id) -> Result<Vec<Result<Drill>>> {
        let keys = self.store.list(&format!("{DRILLS}{backup}/"))?;
        let read = keys.iter().map(|key| self.drill(key));
        // Its backup is forgotten meanwhile.
        Ok(read
            .filter(|drill| !drill.as_ref().is_err_and(Error::is_absent))
            .collect())
    }

    /// The newest verdict on each backup that has one. Reads one object per backup.
    ///
    /// # Errors
    /// The store cannot be listed.
    pub fn last_drills(&self) -> Result<BTreeMap<Id, Result<Drill>>> {
        let mut newest: BTreeMap<Id, String> = BTreeMap::new();
        // Names sort by time, so the last one of each backup stays.
        for key in self.store.list(DRILLS)? {
            if let Some(backup) = key.split('/').nth(1).and_then(|id| id.parse().ok()) {
                newest.insert(backup, key);
            }
        }
        Ok(newest
            .into_iter()
            .map(|(backup, key)| (backup, self.drill(&key)))
            .filter(|(_, drill)| !drill.as_ref().is_err_and(Error::is_absent))
            .collect())
    }

    /// The newest verdict on each backup that is readable and says something by `says`. Reads one object per backup where the newest does.
    ///
    /// # Errors
    /// The store cannot be listed.
    pub fn last_drills_that(&self, says: &dyn Fn(&Drill) -> bool) -> Result<BTreeMap<Id, Drill>> {
        let mut keys: BTreeMap<Id, Vec<String>> = BTreeMap::new();
        for key in self.store.list(DRILLS)? {
            if let Some(backup) = key.split('/').nth(1).and_then(|id| id.parse().ok()) {
                keys.entry(backup).or_default().push(key);
            }
        }
        let newest = |keys: Vec<String>| {
            let mut drills = keys.iter().rev().filter_map(|key| self.drill(key).ok());
            drills.find(says)
        };
        let last = keys
            .into_iter()
            .filter_map(|(backup, keys)| Some((backup, newest(keys)?)));
        Ok(last.collect())
    }

    fn drill(&self, key: &str) -> Result<Drill> {
        let bytes = sealed::read(&*self.store, key)?;
        let json =
            sealed::unseal(&bytes, |json| self.keys.drill(json)).map_err(|reason| Error::damaged(key, reason))?;
        check_version(key, json)?;
        let drill: Drill = sealed::parse(key, json)?;
        if drill.repository != self.id || drill_key(drill.backup, drill.time, drill.id) != key {
            return Err(Error::damaged(key, "it belongs to another repository or another name"));
        }
        Ok(drill)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::store::memory::MemoryStore;
    use crate::store::{Store, Upload};

    fn at(second: i64) -> jiff::Timestamp {
        jiff::Timestamp::from_second(1_790_000_000 + second).unwrap()
    }

    #[test]
    fn a_verdict_that_says_nothing_leaves_the_one_before() {
        let repository = Repository::create(Arc::new(MemoryStore::default())).unwrap();
        let (one, two) = (Id::random(), Id::random());
        for (backup, second, word) in [(one, 0, "failed"), (one, 9, "inconclusive"), (two, 1, "inconclusive")] {
            let verdict = json!({ "result": word });
            let drill = repository.drill_of(Id::random(), backup, at(second), verdict);
            repository.keep_drill(&drill).unwrap();
        }
        let last = repository
            .last_drills_that(&|drill| drill.verdict["result"] != "inconclusive")
            .unwrap();
        assert_eq!(last.keys().collect::<Vec<_>>(), [&one]);
        assert_eq!(last[&one].verdict["result"], "failed");
    }

    #[test]
    fn the_newest_verdict_of_each_backup_is_found() {
        let repository = Repository::create(Arc::new(MemoryStore::default())).unwrap();
        let (one, two, none) = (Id::random(), Id::random(), Id::random());
        for (backup, second, word) in [(one, 0, "old"), (one, 9, "new"), (two, 5, "only"), (one, 4, "middle")] {
            let drill = repository.drill_of(Id::random(), backup, at(second), json!(word));
            repository.keep_drill(&drill).unwrap();
        }
        let last = repository.last_drills().unwrap();
        let word = |id| last.get(&id).map(|drill| drill.as_ref().unwrap().verdict.clone());
        assert_eq!(
            (word(one), word(two), word(none)),
            (Some(json!("new")), Some(json!("only")), None)
        );
        let all = repository.drills(one).unwrap();
        let words: Vec<_> = all.into_iter().map(|drill| drill.unwrap().verdict).collect();
        assert_eq!(words, [json!("old"), json!("middle"), json!("new")]);
    }

    #[test]
    fn a_verdict_that_was_changed_or_moved_is_damage() {
        let store = Arc::new(MemoryStore::default());
        let repository = Repository::create(Arc::clone(&store) as Arc<dyn Store>).unwrap();
        let (backup, other) = (Id::random(), Id::random());
        let drill = repository.drill_of(Id::random(), backup, at(0), json!({"result": "failed"}));
        repository.keep_drill(&drill).unwrap();
        let key = drill_key(backup, drill.time, drill.id);
        let mut bytes = sealed::read(&*store, &key).unwrap();
        let put = |key: &str, bytes: &[u8]| {
            let mut upload = store.put_new(key).unwrap();
            upload.append(bytes).unwrap();
            <dyn Upload>::finish(upload).unwrap();
        };
        // Under another backup's name.
        put(&drill_key(other, drill.time, drill.id), &bytes);
        assert!(repository.drills(other).unwrap()[0].is_err());
        let place = bytes.windows(6).position(|six| six == b"failed").unwrap();
        bytes[place..place + 6].copy_from_slice(b"okay!!");
        store.delete(&key).unwrap();
        put(&key, &bytes);
        assert!(repository.last_drills().unwrap()[&backup].is_err());
    }
}
