//! A table of several blocks, compared with a plain list of its entries.

use std::sync::Arc;

use super::*;
use crate::repository::{Draft, Metadata, Repository, WriterOptions};
use crate::store::memory::MemoryStore;
use crate::sys::signal::Cancel;
use crate::units::Id;

fn entry(root: u32, path: &str, kind: EntryKind) -> Entry {
    Entry {
        root,
        path: path.into(),
        kind,
        // Large attributes: blocks fill soon.
        metadata: Metadata {
            xattrs: vec![(b"user.fill".to_vec(), vec![7; 20_000])],
            ..Metadata::default()
        },
        live: false,
        torn: false,
    }
}

/// Names that sort differently by component and by byte, subtrees longer than a block, an empty directory at the end.
fn entries() -> Vec<Entry> {
    let mut entries = vec![entry(0, "", EntryKind::Directory), entry(1, "", EntryKind::Directory)];
    for directory in ["a", "a.b", "a/deep", "a/deep/er", "z"] {
        entries.push(entry(0, directory, EntryKind::Directory));
    }
    for number in 0..60 {
        entries.push(entry(0, &format!("a/deep/er/{number:03}"), EntryKind::Fifo));
        entries.push(entry(0, &format!("a.b/{number}"), EntryKind::Fifo));
    }
    entries.push(entry(0, "a/deep.x", EntryKind::HardLink(b"a/deep/er/007".to_vec())));
    entries.push(entry(1, "only", EntryKind::HardLink(b"none".to_vec())));
    entries.sort_by(|one, two| table_order((one.root, &one.path), (two.root, &two.path)));
    entries
}

fn written(entries: &[Entry]) -> Backup {
    let repository = Repository::create(Arc::new(MemoryStore::default())).unwrap();
    let options = WriterOptions {
        id: Id::random(),
        parent: None,
        level: 1,
    };
    let writer = repository.begin(options).unwrap();
    let mut table = writer.table().unwrap();
    entries.iter().for_each(|entry| table.push(entry).unwrap());
    table.finish().unwrap();
    let draft = Draft {
        time: jiff::Timestamp::now(),
        host: "h".into(),
        tags: Default::default(),
        record: serde_json::Value::Null,
    };
    let manifest = writer.commit(draft).unwrap();
    repository.find(&manifest.id.to_string()).unwrap()
}

#[test]
fn every_path_is_found_and_no_other() {
    let entries = entries();
    let mut lookup = Lookup::open(&written(&entries), &Cancel::new()).unwrap();
    assert!(lookup.blocks.len() > 5, "{} blocks", lookup.blocks.len());
    for entry in &entries {
        let (place, found) = lookup.find(entry.root, &entry.path).unwrap().unwrap();
        assert_eq!(found, *entry);
        assert_eq!(lookup.get(place).unwrap().unwrap(), *entry);
    }
    for (root, path) in [
        (0, "a/deep/er/06"),
        (0, "0"),
        (0, "zz"),
        (1, "a"),
        (2, ""),
        (0, "a/deep/er/0070"),
    ] {
        assert_eq!(lookup.find(root, path.as_bytes()).unwrap(), None, "{root} {path}");
    }
    assert!(lookup.kept.len() <= KEPT);
}

#[test]
fn a_directory_has_its_children_in_order_whatever_lies_below_them() {
    let entries = entries();
    let mut lookup = Lookup::open(&written(&entries), &Cancel::new()).unwrap();
    for directory in entries.iter().filter(|entry| entry.kind == EntryKind::Directory) {
        let parent = |path: &[u8]| {
            path.iter()
                .rposition(|byte| *byte == b'/')
                .map_or(vec![], |at| path[..at].to_vec())
        };
        let expected: Vec<&Entry> = entries
            .iter()
            .filter(|entry| {
                entry.root == directory.root && !entry.path.is_empty() && parent(&entry.path) == directory.path
            })
            .collect();
        let (mut found, mut after) = (Vec::new(), None);
        while let Some((place, child)) = lookup.child(directory.root, &directory.path, after).unwrap() {
            found.push(child);
            after = Some(place);
        }
        assert_eq!(
            found.iter().collect::<Vec<_>>(),
            expected,
            "{}",
            directory.path.escape_ascii()
        );
    }
}

#[test]
fn further_names_are_counted_and_lead_to_the_content() {
    let mut lookup = Lookup::open(&written(&entries()), &Cancel::new()).unwrap();
    let (first, content) = lookup.find(0, b"a/deep/er/007").unwrap().unwrap();
    let (place, link) = lookup.find(0, b"a/deep.x").unwrap().unwrap();
    assert_eq!((lookup.names(first), lookup.names(place)), (2, 1));
    assert_eq!(lookup.content_of(place, link).unwrap(), Some((first, content)));
    let (place, dangling) = lookup.find(1, b"only").unwrap().unwrap();
    assert_eq!(lookup.content_of(place, dangling).unwrap(), None);
}

#[test]
fn a_table_without_entries_has_none() {
    let mut lookup = Lookup::open(&written(&[]), &Cancel::new()).unwrap();
    assert_eq!(lookup.find(0, b"").unwrap(), None);
    assert_eq!(lookup.child(0, b"", None).unwrap(), None);
}
