//! One input/output error is no verdict, and a backup that is forgotten while `verify` reads is no damage.

use std::io;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use snapback::monitor::Silent;
use snapback::repository::Repository;
use snapback::repository::verify::Level;
use snapback::store::memory::MemoryStore;
use snapback::store::{Error, Result, Store, Upload};
use snapback::sys::signal::Cancel;
use snapback::verify::{Report, Which, verify};

use super::stored;

type Act = Box<dyn FnOnce() + Send>;

/// A store on a disk that fails to read one object so often, and on which something happens at the first read of a pack.
#[derive(Clone)]
struct Moody {
    below: MemoryStore,
    fails: Arc<AtomicI64>,
    object: Arc<Mutex<String>>,
    act: Arc<Mutex<Option<Act>>>,
}

impl Moody {
    fn new() -> Moody {
        Moody {
            below: MemoryStore::default(),
            fails: Arc::default(),
            object: Arc::default(),
            act: Arc::default(),
        }
    }

    fn fail(&self, object: &str, times: i64) {
        object.clone_into(&mut self.object.lock().unwrap());
        self.fails.store(times, Ordering::SeqCst);
    }
}

impl Store for Moody {
    fn name(&self) -> String {
        self.below.name()
    }

    fn put_new(&self, key: &str) -> Result<Box<dyn Upload>> {
        self.below.put_new(key)
    }

    fn sync(&self) -> Result<()> {
        self.below.sync()
    }

    fn get_range(&self, key: &str, offset: u64, into: &mut [u8]) -> Result<usize> {
        if key.starts_with("packs/")
            && let Some(act) = self.act.lock().unwrap().take()
        {
            act();
        }
        if *self.object.lock().unwrap() == key && self.fails.fetch_sub(1, Ordering::SeqCst) > 0 {
            return Err(Error::Io {
                operation: "read",
                key: key.to_owned(),
                store: self.name(),
                source: io::Error::from_raw_os_error(5),
            });
        }
        self.below.get_range(key, offset, into)
    }

    fn size(&self, key: &str) -> Result<u64> {
        self.below.size(key)
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>> {
        self.below.list(prefix)
    }

    fn delete(&self, key: &str) -> Result<()> {
        self.below.delete(key)
    }
}

fn check(repository: &Repository, level: Level) -> Report {
    verify(repository, &Which::All, level, 1, &Silent, &Cancel::new()).unwrap()
}

#[test]
fn one_read_error_is_no_damage() {
    let (dir, store) = (stored::scratch(), Moody::new());
    stored::sample(dir.path());
    let repository = stored::create(store.clone());
    stored::back_up(&repository, dir.path(), None);
    for key in store.list("packs/").unwrap() {
        for level in [Level::Structure, Level::Data] {
            store.fail(&key, 1);
            assert!(check(&repository, level).good, "{key}");
        }
        store.fail(&key, 2);
        let repaired = repository.repair(false, 1, &Silent, &Cancel::new()).unwrap();
        assert!(repaired.packs.is_empty() && repaired.backups.is_empty(), "{key}");
    }
}

#[test]
fn what_could_not_be_read_is_looked_at_again_and_nothing_of_it_is_given_up() {
    let (dir, store) = (stored::scratch(), Moody::new());
    stored::sample(dir.path());
    let repository = stored::create(store.clone());
    let id = stored::back_up(&repository, dir.path(), None).id;
    let objects = store.list("packs/").unwrap();
    for key in &objects {
        store.fail(key, i64::MAX);
        let repaired = repository.repair(false, 1, &Silent, &Cancel::new()).unwrap();
        assert_eq!(repaired.packs.len(), 1, "{key}");
        assert_eq!(store.list("packs/").unwrap(), objects);
        assert!(store.list("doomed/").unwrap().is_empty(), "given up: {key}");
        assert_eq!(repository.losses_of(id).unwrap().len(), 1, "{key}");
        // It reads well again; only a check of every byte tells.
        store.fail(key, 0);
        check(&repository, Level::Structure);
        assert_eq!(repository.losses_of(id).unwrap().len(), 1, "{key}");
        let report = check(&repository, Level::Data);
        assert!(report.good && report.taken_back == [id], "{key}");
        assert!(repository.losses_of(id).unwrap().is_empty(), "{key}");
    }
    // Bytes that are wrong are no such thing.
    let key = &objects[0];
    let mut bytes = store.below.objects()[key].to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    store.below.tamper(key, bytes);
    repository.repair(false, 1, &Silent, &Cancel::new()).unwrap();
    assert!(!repository.losses_of(id).unwrap().is_empty());
    check(&repository, Level::Data);
    assert!(!repository.losses_of(id).unwrap().is_empty());
}

#[test]
fn a_backup_that_is_forgotten_beside_a_check_is_no_damage() {
    for level in [Level::Structure, Level::Data] {
        let (dir, store) = (stored::scratch(), Moody::new());
        stored::sample(dir.path());
        let repository = stored::create(store.clone());
        let first = stored::back_up(&repository, dir.path(), None);
        let packs = store.list("packs/").unwrap();
        stored::back_up(&repository, dir.path(), None);
        let (below, other) = (
            store.below.clone(),
            Repository::open(Arc::new(store.below.clone())).unwrap(),
        );
        *store.act.lock().unwrap() = Some(Box::new(move || {
            other.remove(&first).unwrap();
            packs.iter().for_each(|key| below.delete(key).unwrap());
        }));
        let report = check(&repository, level);
        assert!(report.good, "{:?}", report.damage);
        assert_eq!(report.backups, 1);
    }
}
