//! `restore --keep-going`: all that is intact, never a wrong byte, and the losses are told.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use snapback::repository::verify::Level;
use snapback::restore::{DAMAGED, Report};
use snapback::store::Store;
use snapback::store::memory::MemoryStore;

use super::oracle::{Meaning, Part};
use super::scene::{Scene, expected, pack_id};
use super::stored;

/// Restores a backup, with and without going on over damage, and compares what came out with what was backed up: the one and the other
/// backup in turns, since restores take most of the matrix's time.
pub fn nothing_else_is_lost(scene: &Scene, what: &str, meaning: &Meaning) {
    let repository = scene.repository().unwrap();
    let readable = repository
        .list()
        .unwrap()
        .into_iter()
        .filter_map(|listed| listed.manifest.ok());
    let readable: Vec<_> = readable.collect();
    let turn = scene.turn.get();
    scene.turn.set(turn + 1);
    if let Some(manifest) = turn.checked_rem(readable.len()).map(|at| &readable[at]) {
        let id = manifest.id;
        let target = scene.dir.path().join(format!("out-{id}"));
        let original = &scene.originals[&id];
        match stored::try_restore(&repository, &id.to_string(), &scene.tree, &target) {
            Ok(root) => {
                assert_eq!(
                    stored::fingerprint(&root),
                    stored::fingerprint(original),
                    "{what}: a wrong byte"
                );
                assert!(
                    !meaning.backups.contains(&id),
                    "{what}: restored whole what verify takes for lost"
                );
                std::fs::remove_dir_all(&target).unwrap();
            }
            Err(error) => {
                assert!(
                    meaning.backups.contains(&id),
                    "{what}: nothing of {id} is damaged, but: {error}"
                );
                assert!(!target.exists(), "{what}: a failed restore left something");
            }
        }
        match stored::rescue(&repository, &id.to_string(), &scene.tree, &target) {
            Ok((root, report)) => {
                compare(&root, original, &scene.tree, &report, what);
                within(scene, &report, meaning, what);
                std::fs::remove_dir_all(&target).unwrap();
                if let Some(list) = &report.lost.list {
                    std::fs::remove_file(list).unwrap();
                }
            }
            Err(error) => {
                assert!(
                    meaning.unreadable.contains(&id),
                    "{what}: {id} is readable, but: {error}"
                );
                let said = error.to_string();
                assert!(said.contains("nothing of it can be restored"), "{what}: {said}");
                assert!(!target.exists());
            }
        }
    }
}

/// What has its own name is whole; what is left of a damaged file is right outside its lost ranges, and zero in them.
fn compare(root: &Path, original: &Path, tree: &Path, report: &Report, what: &str) {
    let (got, was) = (stored::fingerprint(root), stored::fingerprint(original));
    let lost: BTreeMap<PathBuf, _> = report
        .lost
        .files
        .iter()
        .map(|file| (file.original.strip_prefix(tree).unwrap().to_owned(), file))
        .collect();
    let bare: BTreeSet<PathBuf> = report
        .lost
        .bare_directories
        .iter()
        .map(|directory| directory.strip_prefix(tree).unwrap().to_owned())
        .collect();
    let mut damaged = BTreeSet::new();
    for (path, file) in &lost {
        assert!(
            !got.contains_key(path),
            "{what}: {} is not whole and has its own name",
            path.display()
        );
        let Some(at) = &file.at else { continue };
        assert!(at.to_str().unwrap().ends_with(DAMAGED), "{at:?}");
        damaged.insert(at.strip_prefix(root).unwrap().to_owned());
        let (left, whole) = (std::fs::read(at).unwrap(), std::fs::read(original.join(path)).unwrap());
        assert_eq!(
            (left.len() as u64, left.len()),
            (file.size, whole.len()),
            "{what}: {path:?}"
        );
        let mut expected = whole;
        for range in &file.ranges {
            expected[range.offset as usize..(range.offset + range.length) as usize].fill(0);
        }
        assert!(left == expected, "{what}: {} has wrong bytes", path.display());
    }
    for (path, line) in &got {
        if bare.contains(path) || damaged.contains(path) {
            continue;
        }
        let links = |line: &str| line.split(" links=").next().unwrap().to_owned();
        let before = was
            .get(path)
            .unwrap_or_else(|| panic!("{what}: {} was never there", path.display()));
        // Fewer names may be left of a file, and a directory without its own entry has a time of its own.
        assert_eq!(links(line), links(before), "{what}: {}", path.display());
    }
    let missing: Vec<_> = was
        .keys()
        .filter(|path| !got.contains_key(*path) && !lost.contains_key(*path))
        .collect();
    assert_eq!(
        missing.len() as u64,
        report.lost.entries - report.lost.bare_directories.len() as u64,
        "{what}: {missing:?}"
    );
    if missing.is_empty() && report.lost.is_empty() {
        assert_eq!(got, was, "{what}");
    }
}

/// Nothing is called lost that verify does not take for lost.
fn within(scene: &Scene, report: &Report, meaning: &Meaning, what: &str) {
    for file in &report.lost.files {
        assert!(
            meaning.paths.contains(&(report.id, file.original.clone())),
            "{what}: {file:?} is not damaged"
        );
    }
    for lost in &report.lost.tables {
        let table = (report.id, lost.after.clone(), lost.before.clone());
        assert!(meaning.tables.contains(&table), "{what}: {table:?}");
    }
    let list = report.lost.list.as_ref();
    assert_eq!(list.is_some(), !report.lost.is_empty());
    if let Some(list) = list {
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(list).unwrap()).unwrap();
        assert_eq!(json["backup"], serde_json::json!(report.id));
        assert_eq!(json["files"], serde_json::to_value(&report.lost.files).unwrap());
        assert_eq!(list.parent(), Some(scene.dir.path()), "it lies beside the destination");
    }
}

fn rescue(scene: &Scene, backup: usize) -> (PathBuf, Report) {
    let target = scene.dir.path().join("rescued");
    let id = scene.backups[backup].id().to_string();
    stored::rescue(&scene.repository().unwrap(), &id, &scene.tree, &target).unwrap()
}

/// The file of many chunks, in the second backup.
fn table(scene: &Scene) -> &super::oracle::File {
    let files = &scene.backups[1].files;
    files.iter().find(|file| file.path.ends_with("two.ibd")).unwrap()
}

#[test]
fn a_damaged_chunk_costs_its_range_and_nothing_else() {
    let scene = Scene::new();
    let (offset, length, pack, slot) = table(&scene).chunks[5];
    let key = super::oracle::key_of(pack);
    let parsed = &scene.packs()[&key];
    let mut bytes = parsed.bytes.clone();
    bytes[parsed.slots[slot as usize].0 + 9] ^= 1;
    scene.store.tamper(&key, bytes);
    let (root, report) = rescue(&scene, 1);
    // The file and its further name.
    assert_eq!(report.lost.files.len(), 2, "{:?}", report.lost);
    for lost in &report.lost.files {
        let ranges: Vec<_> = lost.ranges.iter().map(|range| (range.offset, range.length)).collect();
        assert_eq!(ranges, [(offset, length)]);
        assert_eq!(lost.ranges[0].object, key);
    }
    let left = root.join("deep/two.ibd.snapback-damaged");
    let metadata = std::fs::metadata(&left).unwrap();
    assert_eq!(metadata.len(), 1_100_000);
    assert_eq!(
        std::os::unix::fs::MetadataExt::nlink(&metadata),
        2,
        "its names stay one file"
    );
    assert!(root.join("two-again.ibd.snapback-damaged").exists());
    assert!(
        report.next_steps[0].contains("snapback-lost.json"),
        "{:?}",
        report.next_steps
    );
}

/// A disk of which some bytes cannot be read.
struct BadSector {
    below: MemoryStore,
    key: String,
    at: std::ops::Range<u64>,
}

impl Store for BadSector {
    fn get_range(&self, key: &str, offset: u64, into: &mut [u8]) -> snapback::store::Result<usize> {
        if key == self.key && offset < self.at.end && self.at.start < offset + into.len() as u64 {
            return Err(snapback::store::Error::Io {
                operation: "read",
                key: key.to_owned(),
                store: self.name(),
                source: std::io::Error::from_raw_os_error(5),
            });
        }
        self.below.get_range(key, offset, into)
    }

    fn name(&self) -> String {
        self.below.name()
    }

    fn put_new(&self, key: &str) -> snapback::store::Result<Box<dyn snapback::store::Upload>> {
        self.below.put_new(key)
    }

    fn sync(&self) -> snapback::store::Result<()> {
        self.below.sync()
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
fn a_bad_sector_costs_the_slot_that_it_lies_in() {
    let scene = Scene::new();
    let (offset, length, pack, slot) = table(&scene).chunks[3];
    let key = super::oracle::key_of(pack);
    let begin = scene.packs()[&key].slots[slot as usize].0 as u64 + 5000;
    let bad = BadSector {
        below: scene.store.clone(),
        key,
        at: begin..begin + 512,
    };
    let repository = snapback::repository::Repository::open(std::sync::Arc::new(bad)).unwrap();
    let target = scene.dir.path().join("rescued");
    let (_, report) = stored::rescue(&repository, "latest", &scene.tree, &target).unwrap();
    let ranges = report.lost.files.iter().flat_map(|lost| &lost.ranges);
    let ranges: Vec<_> = ranges.map(|range| (range.offset, range.length)).collect();
    assert_eq!(
        ranges,
        [(offset, length); 2],
        "the file and its further name: {:?}",
        report.lost
    );
}

#[test]
fn a_damaged_footer_costs_nothing_where_the_slots_are_intact() {
    let scene = Scene::new();
    for (key, pack) in scene.packs() {
        let end = pack.bytes.len();
        for at in [
            3,
            8,
            10,
            20,
            pack.table + 5,
            pack.table + 8,
            pack.table + 30,
            end - 90,
            end - 50,
            end - 1,
        ] {
            let mut bytes = pack.bytes.clone();
            bytes[at] ^= 2;
            scene.with(&[(key.clone(), Some(bytes))].into(), || {
                for backup in 0..2 {
                    let (root, report) = rescue(&scene, backup);
                    assert!(report.lost.is_empty(), "{key} at {at}: {:?}", report.lost);
                    let id = scene.backups[backup].id();
                    assert_eq!(stored::fingerprint(&root), stored::fingerprint(&scene.originals[&id]));
                    std::fs::remove_dir_all(scene.dir.path().join("rescued")).unwrap();
                }
            });
        }
        // What was appended to it hides nothing either.
        let longer = [&pack.bytes[..], &stored::noise(5, 333)].concat();
        scene.with(&[(key.clone(), Some(longer))].into(), || {
            let (_, report) = rescue(&scene, 1);
            assert!(report.lost.is_empty() || super::scene::pack_id(&key) == scene.backups[0].manifest.root.pack);
            std::fs::remove_dir_all(scene.dir.path().join("rescued")).unwrap();
        });
    }
}

#[test]
fn a_lost_block_of_the_table_costs_its_entries() {
    let scene = Scene::new();
    let backup = &scene.backups[1];
    let key = super::oracle::key_of(backup.manifest.root.pack);
    let parsed = &scene.packs()[&key];
    for (number, (slot, range)) in backup.blocks.iter().enumerate() {
        let mut bytes = parsed.bytes.clone();
        bytes[parsed.slots[*slot as usize].0 + 9] ^= 1;
        scene.with(&[(key.clone(), Some(bytes))].into(), || {
            let (root, report) = rescue(&scene, 1);
            assert_eq!(report.lost.tables.len(), 1);
            assert_eq!(report.lost.entries, range.len() as u64);
            let table = &report.lost.tables[0];
            assert_eq!((&table.object, table.after.is_none()), (&key, number == 0));
            assert_eq!(table.before, backup.paths.get(range.end).cloned());
            if number == 0 {
                // The directories' own entries were in it: nobody else may look into them.
                assert!(!report.lost.bare_directories.is_empty());
                for bare in &report.lost.bare_directories {
                    let at = root.join(bare.strip_prefix(&scene.tree).unwrap());
                    assert_eq!(std::fs::metadata(at).unwrap().permissions().mode() & 0o777, 0o700);
                }
            }
            std::fs::remove_dir_all(scene.dir.path().join("rescued")).unwrap();
            std::fs::remove_file(report.lost.list.unwrap()).unwrap();
        });
    }
}

#[test]
fn a_file_of_which_nothing_is_left_is_not_made_up() {
    let scene = Scene::new();
    let file = scene.backups[1]
        .files
        .iter()
        .find(|file| file.path.ends_with("small"))
        .unwrap();
    let key = super::oracle::key_of(file.chunks[0].2);
    let damage = [(pack_id(&key), Part::Whole)].into();
    scene.store.tamper(&key, b"not a pack".to_vec());
    let (root, report) = rescue(&scene, 1);
    let small = report
        .lost
        .files
        .iter()
        .find(|lost| lost.original == file.path)
        .unwrap();
    assert_eq!((small.at.as_ref(), small.ranges.len()), (None, 1));
    assert!(!root.join("small").exists() && !root.join("small.snapback-damaged").exists());
    let named: BTreeSet<_> = report
        .lost
        .files
        .iter()
        .map(|lost| (report.id, lost.original.clone()))
        .collect();
    let mine = expected(&scene, &damage)
        .paths
        .into_iter()
        .filter(|(id, _)| *id == report.id);
    assert_eq!(named, mine.collect());
    assert!(root.join("empty").exists());
}

#[test]
fn a_list_of_losses_is_not_overwritten_and_a_repository_that_goes_away_is_no_damage() {
    let scene = Scene::new();
    let list = scene.dir.path().join("rescued.snapback-lost.json");
    std::fs::write(&list, "mine").unwrap();
    let repository = scene.repository().unwrap();
    let target = scene.dir.path().join("rescued");
    let error = stored::rescue(&repository, "latest", &scene.tree, &target)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("snapback-lost.json") && error.contains("move it away"),
        "{error}"
    );
    assert!(!target.exists());
    std::fs::remove_file(&list).unwrap();
    let data: Vec<String> = scene
        .packs()
        .into_iter()
        .filter(|(_, pack)| !pack.is_meta())
        .map(|(key, _)| key)
        .collect();
    let gone = data
        .into_iter()
        .chain(["config".to_owned()])
        .map(|key| (key, None))
        .collect();
    scene.with(&gone, || {
        let error = stored::rescue(&repository, "latest", &scene.tree, &target)
            .unwrap_err()
            .to_string();
        assert!(error.contains("no repository"), "{error}");
        assert!(!target.exists() && !list.exists());
    });
}

#[test]
fn a_name_that_looks_damaged_already_is_kept() {
    let dir = stored::scratch();
    let tree = dir.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("f"), stored::noise(1, 200_000)).unwrap();
    std::fs::write(tree.join("f.snapback-damaged"), "an older rescue").unwrap();
    let store = MemoryStore::default();
    let repository = stored::create(store.clone());
    stored::back_up(&repository, &tree, None);
    let backup = super::oracle::look(&store, &tree).remove(0);
    let file = backup.files.iter().find(|file| file.path.ends_with("f")).unwrap();
    let (_, _, pack, slot) = file.chunks[1];
    let key = super::oracle::key_of(pack);
    let mut bytes = store.objects()[&key].to_vec();
    let at = super::oracle::Pack::parse(&bytes).slots[slot as usize].0;
    bytes[at] ^= 1;
    store.tamper(&key, bytes);
    let target = dir.path().join("out");
    let (root, report) = stored::rescue(&repository, "latest", &tree, &target).unwrap();
    assert_eq!(
        std::fs::read(root.join("f.snapback-damaged")).unwrap(),
        b"an older rescue"
    );
    assert_eq!(report.lost.files[0].at, Some(root.join("f.snapback-damaged-2")));
    let left = std::fs::File::open(root.join("f.snapback-damaged-2")).unwrap();
    let mut buffer = [1; 100];
    left.read_exact_at(&mut buffer, 70_000).unwrap();
    assert_eq!(buffer, [0; 100]);
    assert!(!scene_verifies(&repository));
}

fn scene_verifies(repository: &snapback::repository::Repository) -> bool {
    let found = repository.verify(
        None,
        Level::Data,
        1,
        &snapback::monitor::Silent,
        &snapback::sys::signal::Cancel::new(),
    );
    found.unwrap().damage.is_empty()
}
