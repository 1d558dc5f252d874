//! Two backups of one tree that share packs, and an unreferenced pack.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use snapback::monitor::Silent;
use snapback::repository::Repository;
use snapback::repository::verify::Level;
use snapback::store::Store;
use snapback::store::memory::MemoryStore;
use snapback::sys::signal::Cancel;
use snapback::units::Id;
use snapback::verify::{Damage, Report, Which, verify};

use super::oracle::{self, Backup, Part};
use super::stored;

pub struct Scene {
    pub dir: tempfile::TempDir,
    pub tree: PathBuf,
    pub store: MemoryStore,
    pub backups: Vec<Backup>,
    /// Each backup's tree as it was.
    pub originals: BTreeMap<Id, PathBuf>,
    /// A pack that no backup needs.
    pub stray: String,
}

impl Scene {
    pub fn new() -> Scene {
        let dir = stored::scratch();
        let tree = dir.path().join("tree");
        make(&tree);
        let store = MemoryStore::default();
        let repository = stored::create(store.clone());
        let first = stored::back_up(&repository, &tree, None);
        change(&tree);
        stored::back_up(&repository, &tree, Some(first.id));
        let stray = stray(&store, &tree);
        let backups = oracle::look(&store, &tree);
        let mut originals = BTreeMap::new();
        for backup in &backups {
            let target = dir.path().join(format!("original-{}", backup.id()));
            let root = stored::try_restore(&repository, &backup.id().to_string(), &tree, &target).unwrap();
            originals.insert(backup.id(), root);
        }
        Scene {
            dir,
            tree,
            store,
            backups,
            originals,
            stray,
        }
    }

    pub fn repository(&self) -> snapback::repository::Result<Repository> {
        Repository::open(Arc::new(self.store.clone()))
    }

    pub fn verify(&self, level: Level) -> Report {
        let repository = self.repository().unwrap();
        verify(&repository, &Which::All, level, 2, &Silent, &Cancel::new()).unwrap()
    }

    /// Packs by key, with their parts.
    pub fn packs(&self) -> BTreeMap<String, oracle::Pack> {
        let objects = self.store.objects().into_iter();
        objects
            .filter(|(key, _)| key.starts_with("packs/"))
            .map(|(key, bytes)| (key, oracle::Pack::parse(&bytes)))
            .collect()
    }

    /// Does something to the repository, looks, and takes it back.
    pub fn with<T>(&self, damage: &BTreeMap<String, Option<Vec<u8>>>, look: impl FnOnce() -> T) -> T {
        let before = self.store.objects();
        for (key, bytes) in damage {
            match bytes {
                Some(bytes) => self.store.tamper(key, bytes.clone()),
                None => self.store.delete(key).unwrap(),
            }
        }
        let seen = look();
        for key in damage.keys() {
            self.store.tamper(key, before[key].to_vec());
        }
        seen
    }
}

pub fn pack_id(key: &str) -> Id {
    key.rsplit('/').next().unwrap().parse().unwrap()
}

/// What `verify` says, as the oracle would.
pub fn said(damage: &[Damage]) -> oracle::Meaning {
    let mut meaning = oracle::Meaning::default();
    for one in damage {
        assert_eq!(one.more_files, 0, "too many paths for a test: {one:?}");
        meaning.backups.extend(&one.backups);
        meaning.unreadable.extend(&one.unreadable);
        meaning
            .paths
            .extend(one.files.iter().map(|file| (file.backup, file.path.clone())));
        let tables = one.tables.iter();
        meaning
            .tables
            .extend(tables.map(|lost| (lost.backup, lost.after.clone(), lost.before.clone())));
    }
    meaning
}

pub fn expected(scene: &Scene, damage: &BTreeMap<Id, Part>) -> oracle::Meaning {
    let mut all = oracle::Meaning::default();
    for backup in &scene.backups {
        let mut one = backup.misses(damage);
        all.backups.append(&mut one.backups);
        all.paths.append(&mut one.paths);
        all.tables.append(&mut one.tables);
        all.unreadable.append(&mut one.unreadable);
    }
    all
}

/// Files with maps in packs and in the table, chunks of several kinds, a table of several blocks.
fn make(tree: &Path) {
    std::fs::create_dir_all(tree.join("deep/er")).unwrap();
    std::fs::write(tree.join("small"), "hello").unwrap();
    std::fs::write(tree.join("empty"), "").unwrap();
    std::fs::write(tree.join("one.ibd"), stored::noise(1, 1_200_000)).unwrap();
    std::fs::write(tree.join("deep/two.ibd"), stored::noise(2, 1_100_000)).unwrap();
    std::fs::write(tree.join("text"), "the same again, ".repeat(20_000)).unwrap();
    std::fs::hard_link(tree.join("deep/two.ibd"), tree.join("two-again.ibd")).unwrap();
    let sparse = std::fs::File::create(tree.join("sparse")).unwrap();
    sparse.set_len(4 << 20).unwrap();
    sparse.write_all_at(&stored::noise(3, 70_000), 2 << 20).unwrap();
    // Entries of 4 KiB: the table has several blocks.
    for number in 0..150 {
        symlink("x/".repeat(2000), tree.join(format!("deep/er/link-{number:03}"))).unwrap();
    }
}

/// What the second backup has anew: a chunk in the middle of a large file, a small one.
fn change(tree: &Path) {
    let file = std::fs::File::options().write(true).open(tree.join("one.ibd")).unwrap();
    file.write_all_at(b"changed", 500_000).unwrap();
    std::fs::write(tree.join("small"), "hello again").unwrap();
    std::fs::write(tree.join("new"), stored::noise(4, 30_000)).unwrap();
}

/// A pack of the same repository that no manifest leads to: a backup that died before its commit.
fn stray(store: &MemoryStore, tree: &Path) -> String {
    let before = store.objects();
    let repository = Repository::open(Arc::new(store.clone())).unwrap();
    let lost = stored::back_up(&repository, tree, None);
    let new: Vec<String> = store
        .objects()
        .into_keys()
        .filter(|key| !before.contains_key(key))
        .collect();
    let root = oracle::key_of(lost.root.pack);
    let keep = new
        .iter()
        .find(|key| key.starts_with("packs/") && **key != root)
        .unwrap()
        .clone();
    for key in new.iter().filter(|key| **key != keep) {
        store.delete(key).unwrap();
    }
    keep
}
