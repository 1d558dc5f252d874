//! A tree, a repository, and a clock that tests set.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use snapback::copy::{CopyOptions, Tree, copy};
use snapback::monitor::Silent;
use snapback::repository::prune::{Options, Report};
use snapback::repository::verify::Level;
use snapback::repository::{Draft, Manifest, Repository, Running, WriterOptions};
use snapback::store::Store;
use snapback::store::memory::MemoryStore;
use snapback::sys::signal::Cancel;
use snapback::units::Id;

use super::stored;

pub const CHUNK: usize = 64 << 10;
pub const GRACE: SignedDuration = SignedDuration::from_hours(24);

pub struct Scene {
    pub dir: tempfile::TempDir,
    pub store: MemoryStore,
    pub repository: Repository,
    pub now: Timestamp,
}

impl Scene {
    pub fn new() -> Scene {
        let store = MemoryStore::default();
        Scene {
            dir: tempfile::tempdir().unwrap(),
            repository: stored::create(store.clone()),
            store,
            now: Timestamp::now(),
        }
    }

    pub fn tree(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    /// A file of so many chunks, each made of its number and a seed.
    pub fn write(&self, name: &str, seeds: &[u64]) {
        let chunk = |seed: &u64| {
            let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            let next = move |_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            };
            (0..CHUNK).map(next).collect::<Vec<u8>>()
        };
        std::fs::create_dir_all(self.tree()).unwrap();
        std::fs::write(
            self.tree().join(name),
            seeds.iter().flat_map(chunk).collect::<Vec<u8>>(),
        )
        .unwrap();
    }

    /// A pack of which few of 20 chunks are still needed: the first backup of two was removed. Returns the second, and its tree.
    pub fn of_twenty_stay(&self, few: u64) -> (Manifest, BTreeMap<PathBuf, String>) {
        self.write("a", &(0..20).collect::<Vec<_>>());
        let first = self.back_up(None);
        let changed: Vec<u64> = (0..20).map(|n| if n < few { n } else { 100 + n }).collect();
        self.write("a", &changed);
        let second = self.back_up(Some(&first));
        let expected = stored::fingerprint(&self.tree());
        self.remove(&first);
        (second, expected)
    }

    pub fn back_up(&self, parent: Option<&Manifest>) -> Manifest {
        stored::back_up(&self.repository, &self.tree(), parent.map(|parent| parent.id))
    }

    /// A backup over another store (one with hooks) of the same repository, announced as real ones are.
    pub fn back_up_over(&self, store: impl Store + 'static, parent: Option<&Manifest>) -> snapback::Result<Manifest> {
        let repository = Repository::open(Arc::new(store)).unwrap();
        let options = WriterOptions {
            id: Id::random(),
            parent: parent.map(|parent| parent.id),
            level: 1,
        };
        let _announced = self.repository.announce(Running {
            run: options.id,
            host: "test".into(),
            parent: None,
            owner: options.id.to_string(),
        });
        let tree = Tree {
            original: self.tree(),
            read_from: self.tree(),
            live: false,
            datadir: false,
            database: false,
            skip: Vec::new(),
        };
        let quiet = CopyOptions {
            workers: 1,
            idle_priority: false,
            ..CopyOptions::default()
        };
        let writer = repository.begin(options)?;
        copy(&[tree], &writer, &quiet, &|| Ok(()), &Silent, &Cancel::new())?;
        Ok(writer.commit(Draft {
            time: Timestamp::now(),
            host: "test".into(),
            tags: BTreeMap::new(),
            record: stored::record(&self.tree()),
        })?)
    }

    pub fn later(&mut self, hours: i64) {
        self.now += SignedDuration::from_hours(hours);
    }

    pub fn options(&self) -> Options {
        Options {
            grace: GRACE,
            max_unused: 50,
            dry_run: false,
            now: self.now,
        }
    }

    pub fn prune(&self) -> Report {
        self.repository.prune(&self.options(), &Silent, &Cancel::new()).unwrap()
    }

    pub fn dry_run(&self) -> Report {
        let options = Options {
            dry_run: true,
            ..self.options()
        };
        self.repository.prune(&options, &Silent, &Cancel::new()).unwrap()
    }

    pub fn remove(&self, manifest: &Manifest) {
        self.repository.remove(manifest).unwrap();
    }

    /// Every byte that a backup needs is there.
    pub fn assert_good(&self, what: &str) {
        assert_good(&self.repository, what);
    }

    /// The backup gives these files.
    pub fn assert_restores(&self, backup: Id, expected: &BTreeMap<PathBuf, String>) {
        let target = tempfile::tempdir().unwrap();
        let at = target.path().join("t");
        let root = stored::try_restore(&self.repository, &backup.to_string(), &self.tree(), &at).unwrap();
        assert_eq!(&stored::fingerprint(&root), expected);
    }

    pub fn keys(&self, prefix: &str) -> Vec<String> {
        self.store.list(prefix).unwrap()
    }

    pub fn bytes(&self) -> u64 {
        let objects = self.store.objects();
        let packs = objects.iter().filter(|(key, _)| key.starts_with("packs/"));
        packs.map(|(_, bytes)| bytes.len() as u64).sum()
    }
}

pub fn assert_good(repository: &Repository, what: &str) {
    let found = repository
        .verify(None, Level::Data, 1, &Silent, &Cancel::new())
        .unwrap();
    assert_eq!(found.damage, [], "{what}");
}
