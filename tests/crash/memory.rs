//! The repository's own order of steps, over a store in memory.

use super::stored;

use std::sync::Arc;

use snapback::monitor::Silent;
use snapback::repository::Repository;
use snapback::repository::verify::Level;
use snapback::store::Store;
use snapback::store::faulty::FaultyStore;
use snapback::store::memory::MemoryStore;
use snapback::sys::signal::Cancel;

fn assert_good(store: &MemoryStore, backups: std::ops::RangeInclusive<usize>) {
    let repository = Repository::open(Arc::new(store.clone())).unwrap();
    let listed = repository.list().unwrap();
    assert!(listed.iter().all(|one| one.manifest.is_ok()), "{listed:?}");
    assert!(backups.contains(&listed.len()), "{} backups", listed.len());
    let found = repository
        .verify(None, Level::Data, 2, &Silent, &Cancel::new())
        .unwrap();
    assert_eq!(found.damage, [], "damage after a crash");
}

#[test]
fn a_store_that_fails_at_any_call_leaves_a_good_repository_and_gives_back_its_room() {
    let dir = tempfile::tempdir().unwrap();
    stored::sample(dir.path());
    let mut calls = 1;
    loop {
        let store = MemoryStore::default();
        let first = stored::back_up(&stored::create(store.clone()), dir.path(), None);
        let before = store.objects().len();
        let faulty = FaultyStore::new(Arc::new(store.clone()), calls);
        let repository = Repository::open(Arc::new(faulty.clone())).unwrap();
        let result = stored::try_back_up(&repository, dir.path(), Some(first.id));
        drop(repository);
        if !faulty.has_failed() {
            result.unwrap();
            assert!(calls > 5, "the failure was never met");
            return;
        }
        let error = result.expect_err("the store failed, but the backup did not");
        assert!(error.to_string().to_lowercase().contains("space"), "{error}");
        // Only the very last step, after the manifest, may leave a backup that is whole but was not promised.
        assert_good(&store, 1..=2);
        if store.list("manifests/").unwrap().len() == 1 {
            assert_eq!(
                store.objects().len(),
                before,
                "a failed backup left objects behind (call {calls})"
            );
        }
        calls += 1;
    }
}

#[test]
fn whatever_of_a_commit_reaches_the_disk_the_repository_is_good() {
    let dir = tempfile::tempdir().unwrap();
    stored::sample(dir.path());
    let store = MemoryStore::default();
    let repository = stored::create(store.clone());
    stored::back_up(&repository, dir.path(), None);
    // Everything unsynced may be lost or kept, whichever: here the manifest's name is lost, then all names but it.
    assert_good(&store.after_crash(|_| false), 1..=1);
    for keep in ["packs/", "manifests/"] {
        assert_good(&store.after_crash(|key| key.starts_with(keep)), 1..=1);
    }
}

/// A store that is cut off right before its n-th sync, or lets the manifest through before the packs are durable.
#[test]
fn a_manifest_is_never_durable_before_its_packs() {
    let dir = tempfile::tempdir().unwrap();
    stored::sample(dir.path());
    let store = MemoryStore::default();
    stored::create(store.clone());
    let watching = Watching {
        below: store.clone(),
        seen: Arc::default(),
    };
    stored::back_up(&Repository::open(Arc::new(watching.clone())).unwrap(), dir.path(), None);
    // At the moment when the manifest appeared, a power cut that kept only it and what was synced before.
    let at_manifest = watching.seen.lock().unwrap().clone().expect("no manifest was written");
    assert_good(&at_manifest, 1..=1);
}

/// Takes a picture of what a power cut would leave when a manifest appears: all that was synced, and the manifest.
#[derive(Clone)]
struct Watching {
    below: MemoryStore,
    seen: Arc<std::sync::Mutex<Option<MemoryStore>>>,
}

struct WatchedUpload {
    below: Box<dyn snapback::store::Upload>,
    store: Watching,
    key: String,
}

impl snapback::store::Upload for WatchedUpload {
    fn append(&mut self, bytes: &[u8]) -> snapback::store::Result<()> {
        self.below.append(bytes)
    }

    fn finish(self: Box<Self>) -> snapback::store::Result<()> {
        self.below.finish()?;
        if self.key.starts_with("manifests/") {
            *self.store.seen.lock().unwrap() = Some(self.store.below.after_crash(|key| key == self.key));
        }
        Ok(())
    }
}

impl Store for Watching {
    fn name(&self) -> String {
        self.below.name()
    }

    fn put_new(&self, key: &str) -> snapback::store::Result<Box<dyn snapback::store::Upload>> {
        Ok(Box::new(WatchedUpload {
            below: self.below.put_new(key)?,
            store: self.clone(),
            key: key.to_owned(),
        }))
    }

    fn sync(&self) -> snapback::store::Result<()> {
        self.below.sync()
    }

    fn get_range(&self, key: &str, offset: u64, into: &mut [u8]) -> snapback::store::Result<usize> {
        self.below.get_range(key, offset, into)
    }

    fn size(&self, key: &str) -> snapback::store::Result<u64> {
        self.below.size(key)
    }

    fn list(&self, prefix: &str) -> snapback::store::Result<Vec<String>> {
        self.below.list(prefix)
    }

    fn delete(&self, key: &str) -> snapback::store::Result<()> {
        self.below.delete(key)
    }
}

#[test]
fn a_pack_that_a_prune_has_marked_is_not_referred_to_again() {
    let dir = tempfile::tempdir().unwrap();
    stored::sample(dir.path());
    let store = MemoryStore::default();
    let repository = stored::create(store.clone());
    let first = stored::back_up(&repository, dir.path(), None);
    let before = store.list("packs/").unwrap();
    for pack in &before {
        store.tamper(&format!("doomed/{}", pack.rsplit('/').next().unwrap()), Vec::new());
    }
    stored::back_up(&repository, dir.path(), Some(first.id));
    // The prune comes: the second backup must not miss what it deletes.
    for pack in &before {
        store.delete(pack).unwrap();
    }
    let found = repository
        .verify(Some("latest"), Level::Data, 2, &Silent, &Cancel::new())
        .unwrap();
    assert_eq!(found.damage, []);
}

#[test]
fn a_backup_whose_parent_is_damaged_stores_everything_anew() {
    let dir = tempfile::tempdir().unwrap();
    stored::sample(dir.path());
    let store = MemoryStore::default();
    let repository = stored::create(store.clone());
    let first = stored::back_up(&repository, dir.path(), None);
    let pack = store
        .objects()
        .into_iter()
        .filter(|(key, _)| key.starts_with("packs/"))
        .max_by_key(|(_, bytes)| bytes.len())
        .unwrap();
    store.delete(&pack.0).unwrap();
    stored::back_up(&repository, dir.path(), Some(first.id));
    let found = repository
        .verify(Some("latest"), Level::Data, 2, &Silent, &Cancel::new())
        .unwrap();
    assert_eq!(found.damage, []);
}

#[test]
fn an_unchanged_tree_stores_next_to_nothing_and_a_changed_chunk_one_chunk() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir().unwrap();
    stored::sample(dir.path());
    let repository = stored::create(MemoryStore::default());
    let first = stored::back_up(&repository, dir.path(), None);
    let second = stored::back_up(&repository, dir.path(), Some(first.id));
    assert!(
        second.sizes.stored < 4096,
        "an unchanged tree stored {} bytes",
        second.sizes.stored
    );
    let file = std::fs::File::options()
        .write(true)
        .open(dir.path().join("noise"))
        .unwrap();
    file.write_all_at(b"x", 100_000).unwrap();
    let third = stored::back_up(&repository, dir.path(), Some(second.id));
    assert!(
        (64 << 10..80 << 10).contains(&third.sizes.stored),
        "one changed byte stored {} bytes",
        third.sizes.stored
    );
}
