//! Backups that run say so. Nothing depends on it: a prune that knows of a run leaves its packs alone, and `forget` its parent, so that
//! the run need not be repeated.

use serde::{Deserialize, Serialize};

use super::keys::RUNNING;
use super::{Repository, Result};
use crate::units::Id;

/// An announcement that is older is taken for one of a dead run.
pub const RUNNING_STALE: jiff::SignedDuration = jiff::SignedDuration::from_hours(7 * 24);

/// A backup that runs, or died.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The run, which is the backup's id.
    pub run: Id,
    /// Under which name it will be kept.
    pub host: String,
    /// What it compares with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Id>,
    /// Machine and state directory: no two runs with the same owner are alive.
    pub owner: String,
}

/// Removed when it is dropped.
pub struct Announcement {
    repository: Repository,
    key: String,
}

impl Drop for Announcement {
    fn drop(&mut self) {
        // What stays is stale after a while.
        let _ = self.repository.store.delete(&self.key);
    }
}

impl Repository {
    /// Announces a run, before it looks at its parent. Earlier announcements of the same owner go: the caller has the owner's lock.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn announce(&self, running: Running) -> Result<Announcement> {
        for (key, note) in self.notes::<Running>(RUNNING)? {
            if note.is_ok_and(|note| note.body.owner == running.owner) {
                self.store.delete(&key)?;
            }
        }
        let key = format!("{RUNNING}{}-{}", running.host, running.run);
        self.put_note(&key, jiff::Timestamp::now(), &running)?;
        self.store.sync()?;
        Ok(Announcement {
            repository: self.clone(),
            key,
        })
    }

    /// The runs that may be alive at `now`. A damaged announcement counts as one, as far as its key tells.
    ///
    /// # Errors
    /// The store cannot be listed.
    pub fn running(&self, now: jiff::Timestamp) -> Result<Vec<Running>> {
        let alive = self
            .notes::<Running>(RUNNING)?
            .into_iter()
            .filter_map(|(key, note)| match note {
                Ok(note) if now.duration_since(note.time) > RUNNING_STALE => None,
                Ok(note) => Some(note.body),
                Err(_) => {
                    let (host, run) = key.strip_prefix(RUNNING)?.rsplit_once('-')?;
                    Some(Running {
                        run: run.parse().ok()?,
                        host: host.to_owned(),
                        parent: None,
                        owner: String::new(),
                    })
                }
            });
        Ok(alive.collect())
    }

    /// Removes announcements that are stale at `now`.
    pub(super) fn remove_stale_announcements(&self, now: jiff::Timestamp) -> Result<()> {
        for (key, note) in self.notes::<Running>(RUNNING)? {
            if note.is_ok_and(|note| now.duration_since(note.time) > RUNNING_STALE) {
                self.store.delete(&key)?;
            }
        }
        Ok(())
    }
}

/// What the ids of all packs of a run end with, so that packs without a manifest can be told apart: those of a run that is alive, and others.
pub(super) fn run_mark(run: Id) -> [u8; 8] {
    let mut mark = [0; 8];
    mark.copy_from_slice(&run.0[..8]);
    mark
}

/// A new pack's id: eight random bytes, and the run's mark.
pub(super) fn pack_id(run: Id) -> Id {
    let mut id = Id::random();
    id.0[8..].copy_from_slice(&run_mark(run));
    id
}

/// Whether a pack was written by this run.
pub(super) fn is_of_run(pack: Id, run: Id) -> bool {
    pack.0[8..] == run_mark(run)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;
    use crate::store::memory::MemoryStore;
    use std::sync::Arc;

    fn of(owner: &str) -> Running {
        Running {
            run: Id::random(),
            host: "a-b".to_owned(),
            parent: Some(Id::random()),
            owner: owner.to_owned(),
        }
    }

    #[test]
    fn a_run_is_known_while_it_lives_and_the_owners_next_run_takes_its_place() {
        let store = MemoryStore::default();
        let repository = Repository::create(Arc::new(store.clone())).unwrap();
        let (now, first) = (jiff::Timestamp::now(), of("x"));
        let alive = repository.announce(first.clone()).unwrap();
        assert_eq!(repository.running(now).unwrap(), std::slice::from_ref(&first));
        std::mem::forget(alive);
        let other = repository.announce(of("y")).unwrap();
        let second = repository.announce(of("x")).unwrap();
        assert_eq!(
            repository.running(now).unwrap().len(),
            2,
            "the dead run of the same owner stayed"
        );
        drop((second, other));
        assert_eq!(repository.running(now).unwrap(), []);
    }

    #[test]
    fn an_announcement_is_stale_after_a_week_and_a_damaged_one_still_names_its_run() {
        let store = MemoryStore::default();
        let repository = Repository::create(Arc::new(store.clone())).unwrap();
        let (now, run) = (jiff::Timestamp::now(), of("x"));
        let alive = repository.announce(run.clone()).unwrap();
        let later = now + RUNNING_STALE + jiff::SignedDuration::from_hours(1);
        assert_eq!(repository.running(later).unwrap(), []);
        let key = alive.key.clone();
        store.tamper(&key, vec![1, 2, 3]);
        assert_eq!(repository.running(later).unwrap()[0].run, run.run);
        drop(alive);
        let alive = repository.announce(run).unwrap();
        repository.remove_stale_announcements(now).unwrap();
        assert_eq!(store.list(RUNNING).unwrap().len(), 1);
        repository.remove_stale_announcements(later).unwrap();
        assert!(store.list(RUNNING).unwrap().is_empty());
        drop(alive);
    }

    #[test]
    fn a_runs_packs_are_told_by_their_ids() {
        let (run, other) = (Id::random(), Id::random());
        assert!(is_of_run(pack_id(run), run) && !is_of_run(pack_id(run), other));
        assert_ne!(pack_id(run), pack_id(run));
    }
}
