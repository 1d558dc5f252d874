//! Rot in a pack that a new backup would share: reading back finds it, and the new backup does not inherit it.

use std::collections::BTreeSet;
use std::path::Path;

use snapback::monitor::Silent;
use snapback::repository::verify::Level;
use snapback::repository::{ChunkClass, Repository};
use snapback::store::memory::MemoryStore;
use snapback::sys::signal::Cancel;

use super::stored;

/// A backup of 32 chunks in one data pack, of which one has rotted.
fn rotten(tree: &Path) -> (Repository, snapback::units::Id) {
    std::fs::create_dir(tree).unwrap();
    std::fs::write(tree.join("table.ibd"), stored::noise(7, 2 << 20)).unwrap();
    let store = MemoryStore::default();
    let repository = stored::create(store.clone());
    let first = stored::back_up(&repository, tree, None);
    let (key, bytes) = store
        .objects()
        .into_iter()
        .filter(|(key, _)| key.starts_with("packs/"))
        .max_by_key(|(_, bytes)| bytes.len())
        .unwrap();
    let mut damaged = bytes.to_vec();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    store.tamper(&key, damaged);
    (repository, first.id)
}

/// Backs up again; the chunks read back, the packs found damaged, and whether the new backup is whole.
fn again(repository: &Repository, tree: &Path, parent: snapback::units::Id, every: u32) -> (u64, usize, bool) {
    let (next, seen) =
        stored::back_up_reading_back(repository, tree, Some(parent), ChunkClass::default(), every).unwrap();
    let found = repository
        .verify(Some(&next.id.to_string()), Level::Data, 1, &Silent, &Cancel::new())
        .unwrap();
    // The pack itself stays damaged; what matters is whether the new backup needs the part.
    let whole = !found.damage.iter().any(|damage| damage.backups.contains(&next.id));
    (seen.chunks, seen.damaged.len(), whole)
}

#[test]
fn a_rotten_chunk_that_is_read_back_is_stored_anew() {
    let dir = stored::scratch();
    let tree = dir.path().join("tree");
    let (repository, first) = rotten(&tree);
    // Without reading back the rot is inherited, unseen.
    assert_eq!(again(&repository, &tree, first, 0), (0, 0, false));
    let (chunks, damaged, whole) = again(&repository, &tree, first, 1);
    // After the damaged one no chunk of the pack is trusted, so none is read back.
    assert!((1..=32).contains(&chunks), "{chunks}");
    assert_eq!((damaged, whole), (1, true));
}

#[test]
fn each_run_reads_back_another_sample() {
    let dir = stored::scratch();
    let tree = dir.path().join("tree");
    let (repository, first) = rotten(&tree);
    let runs: Vec<_> = (0..60).map(|_| again(&repository, &tree, first, 4)).collect();
    let all: u64 = runs.iter().map(|(chunks, ..)| chunks).sum();
    // 60 runs of 32 chunks, of which each reads one in 4, or fewer when it meets the rot.
    assert!((60..=700).contains(&all), "{all} chunks of 1920 were read back");
    assert!(runs.iter().map(|(chunks, ..)| chunks).collect::<BTreeSet<_>>().len() > 2);
    // The rotten one is in the sample of some runs, and not of every one.
    let found = runs.iter().filter(|(_, damaged, _)| *damaged > 0).count();
    assert!((1..60).contains(&found), "found in {found} of 60 runs");
}
