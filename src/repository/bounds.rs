//! What a manifest may take: a repository's writer decides what is in it, and every command reads all of them.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::{
    Draft, LARGE, LARGE_TOGETHER, Manifest, Repository, Result, WriterOptions, manifest, manifest_key, sealed,
};
use crate::store::memory::MemoryStore;
use crate::units::Id;

fn commit(repository: &Repository, tags: usize, text: usize) -> Result<Manifest> {
    let options = WriterOptions {
        id: Id::random(),
        parent: None,
        level: 1,
    };
    let writer = repository.begin(options)?;
    writer.table()?.finish()?;
    writer.commit(Draft {
        time: jiff::Timestamp::now(),
        host: "h".to_owned(),
        tags: (0..tags).map(|tag| (tag.to_string(), String::new())).collect(),
        record: serde_json::json!({ "text": "x".repeat(text) }),
    })
}

#[test]
fn large_manifests_are_read_one_by_one_but_not_all_at_once() {
    let repository = Repository::create(Arc::new(MemoryStore::default())).unwrap();
    let large = commit(&repository, 0, LARGE as usize).unwrap();
    let small = commit(&repository, 0, 10).unwrap();
    assert!(repository.list().unwrap().iter().all(|one| one.manifest.is_ok()));
    // As after others that were as large.
    let read = |of: &Manifest, before: u64| {
        repository.one_of_many(&manifest_key(&of.host, of.time, of.id), &AtomicU64::new(before))
    };
    let over = read(&large, LARGE_TOGETHER - 10).unwrap_err().to_string();
    assert!(over.contains("all large manifests together"), "{over}");
    assert_eq!(read(&small, LARGE_TOGETHER).unwrap(), small);
    assert_eq!(repository.find(&large.id.to_string()).unwrap().manifest(), &large);
}

#[test]
fn what_nobody_would_read_is_not_committed() {
    let repository = Repository::create(Arc::new(MemoryStore::default())).unwrap();
    for (tags, text, said) in [
        (manifest::MOST_TAGS + 1, 0, "tags"),
        (0, sealed::LARGEST as usize, "at most"),
    ] {
        let refused = commit(&repository, tags, text).unwrap_err().to_string();
        assert!(refused.contains(said), "{refused}");
    }
    assert!(repository.list().unwrap().is_empty());
    assert!(commit(&repository, manifest::MOST_TAGS, 0).is_ok());
}

#[test]
fn more_tags_than_a_backup_can_have_are_damage() {
    let repository = Repository::create(Arc::new(MemoryStore::default())).unwrap();
    let mut crafted = commit(&repository, 0, 0).unwrap();
    let key = manifest_key(&crafted.host, crafted.time, crafted.id);
    crafted.tags = (0..=manifest::MOST_TAGS)
        .map(|tag| (tag.to_string(), String::new()))
        .collect();
    let bytes = sealed::seal(&crafted, |json| repository.keys.manifest(json)).unwrap();
    repository.store.delete(&key).unwrap();
    sealed::put(&*repository.store, &key, &bytes).unwrap();
    let listed = repository.list().unwrap();
    let said = listed[0].manifest.as_ref().unwrap_err().to_string();
    assert!(said.contains("more tags"), "{said}");
}
