//! A repository that somebody made on purpose: crafted paths, sizes and counts are refused, nothing outside is written, nothing hangs.
#![allow(missing_docs)]

#[path = "common/stored.rs"]
mod stored;

use std::collections::BTreeMap;
use std::path::Path;

use snapback::repository::{Content, Draft, Entry, EntryKind, Metadata, Repository, SectionRef, WriterOptions};
use snapback::store::memory::MemoryStore;
use snapback::units::Id;

fn entry(path: &str, kind: EntryKind) -> Entry {
    Entry {
        root: 0,
        path: path.as_bytes().to_vec(),
        kind,
        metadata: Metadata {
            mode: 0o755,
            ..Metadata::default()
        },
        live: false,
        torn: false,
    }
}

/// A committed backup with these entries and this root path, written through the real writer.
fn crafted(entries: &[Entry], root: &Path) -> Repository {
    let repository = stored::create(MemoryStore::default());
    let writer = repository
        .begin(WriterOptions {
            id: Id::random(),
            parent: None,
            level: 1,
        })
        .unwrap();
    let mut table = writer.table().unwrap();
    entries.iter().for_each(|entry| table.push(entry).unwrap());
    table.finish().unwrap();
    let draft = Draft {
        time: jiff::Timestamp::now(),
        host: "evil".into(),
        tags: BTreeMap::new(),
        record: stored::record(root),
    };
    writer.commit(draft).unwrap();
    repository
}

fn refused(entries: &[Entry], root: &Path) -> String {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("target");
    let error = stored::try_restore(&crafted(entries, root), "latest", root, &target)
        .unwrap_err()
        .to_string();
    let left: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(left.is_empty(), "{left:?} was left after: {error}");
    error
}

#[test]
fn paths_that_lead_out_are_refused() {
    for path in ["../escaped", "a/../../escaped", "/etc/escaped", "a//b", "."] {
        let error = refused(
            &[entry("", EntryKind::Directory), entry(path, EntryKind::Fifo)],
            Path::new("/r"),
        );
        assert!(error.contains("damaged"), "{path}: {error}");
    }
}

#[test]
fn a_file_below_a_symbolic_link_is_refused() {
    let outside = tempfile::tempdir().unwrap();
    let link = EntryKind::Symlink(outside.path().as_os_str().as_encoded_bytes().to_vec());
    let entries = [
        entry("", EntryKind::Directory),
        entry("door", link),
        entry("door/file", EntryKind::Fifo),
    ];
    let error = refused(&entries, Path::new("/r"));
    assert!(error.contains("link") || error.contains("Not a directory"), "{error}");
    assert_eq!(
        std::fs::read_dir(outside.path()).unwrap().count(),
        0,
        "something was written through the link"
    );
}

#[test]
fn a_hard_link_to_elsewhere_is_refused() {
    let entries = [
        entry("", EntryKind::Directory),
        entry("x", EntryKind::HardLink(b"../../etc/passwd".to_vec())),
    ];
    refused(&entries, Path::new("/r"));
    let entries = [
        entry("", EntryKind::Directory),
        entry("x", EntryKind::HardLink(b"missing".to_vec())),
    ];
    refused(&entries, Path::new("/r"));
}

#[test]
fn a_root_that_is_no_plain_path_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for root in ["../up", "relative", "/a/../../b"] {
        let repository = crafted(&[entry("", EntryKind::Directory)], Path::new(root));
        let request = snapback::restore::Request {
            destination: snapback::restore::Destination::Target(dir.path().join("t")),
            include: Vec::new(),
            force: false,
            workers: 1,
            keep_uuid: false,
            new_uuid: false,
            keep_going: false,
            special: false,
            unfinished: None,
            stop_with: None,
            start_with: None,
        };
        let answer = snapback::restore::restore(
            &repository,
            "latest",
            &request,
            &snapback::monitor::Silent,
            &snapback::sys::signal::Cancel::new(),
        );
        assert!(answer.is_err(), "{root}");
    }
}

#[test]
fn sizes_that_lie_are_refused() {
    let section = |bytes: &[u8]| SectionRef::Inline(bytes.to_vec());
    let content = |size, sections: Vec<SectionRef>| {
        EntryKind::File(Content {
            size,
            class: snapback::repository::ChunkClass::Medium,
            sparse: false,
            sections,
        })
    };
    // One zero chunk (count 1, no packs, one run of one zero), where the size asks for two.
    let one_zero = [1, 0, 1 << 2 | 1];
    let entries = [
        entry("", EntryKind::Directory),
        entry("f", content(100_000, vec![section(&one_zero)])),
    ];
    let error = refused(&entries, Path::new("/r"));
    assert!(error.contains("chunks"), "{error}");
    // A run that is longer than the section, and a count that is larger than any.
    for bytes in [
        &[2u8, 0, (200 << 2) | 1][..],
        &[0xff, 0xff, 0xff, 0x7f, 0][..],
        &[1, 1][..],
        &[][..],
    ] {
        let entries = [
            entry("", EntryKind::Directory),
            entry("f", content(100_000, vec![section(bytes)])),
        ];
        refused(&entries, Path::new("/r"));
    }
    // A pack that is not there.
    let missing = SectionRef::Stored {
        pack: Id::random(),
        slot: 0,
        hash: [0; 32],
    };
    refused(
        &[
            entry("", EntryKind::Directory),
            entry("f", content(100_000, vec![missing])),
        ],
        Path::new("/r"),
    );
    // More than any disk has.
    let huge = vec![section(&[0]); 10];
    refused(
        &[entry("", EntryKind::Directory), entry("f", content(640 << 20, huge))],
        Path::new("/r"),
    );
}

#[test]
fn a_newer_format_is_refused_with_advice() {
    let store = MemoryStore::default();
    stored::create(store.clone());
    let config = store.objects()["config"].to_vec();
    let text = String::from_utf8(config).unwrap();
    let json = text[..text.len() - 66].replace("\"format\": 1", "\"format\": 2");
    let sealed = format!("{json}\n{}\n", blake3::hash(json.as_bytes()).to_hex());
    store.tamper("config", sealed.into_bytes());
    let error = Repository::open(std::sync::Arc::new(store)).err().unwrap().to_string();
    assert!(error.contains("newer"), "{error}");
}

/// A file that is said to have very many parts keeps nobody from ending.
#[test]
fn a_reader_of_a_crafted_file_ends_when_asked() {
    use snapback::monitor::Silent;
    use snapback::repository::ChunkClass;
    use snapback::repository::verify::Level;
    use snapback::sys::signal::Cancel;
    use std::time::{Duration, Instant};

    // 1,024 chunks, no packs, one run of a hole.
    let hole = SectionRef::Inline(vec![0x80, 0x08, 0, 0x80, 0x20]);
    let content = Content {
        size: 1_000_000 << 26,
        class: ChunkClass::Medium,
        sparse: true,
        sections: vec![hole; 1_000_000],
    };
    let repository = crafted(
        &[entry("", EntryKind::Directory), entry("x", EntryKind::File(content))],
        Path::new("/r"),
    );
    let cancel = Cancel::new();
    let later = cancel.clone();
    let ender = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        later.cancel(15);
    });
    let begun = Instant::now();
    let answer = repository.verify(Some("latest"), Level::Structure, 1, &Silent, &cancel);
    assert!(
        matches!(answer, Err(snapback::Error::Interrupted(15))),
        "it was over before it was asked to end"
    );
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    ender.join().unwrap();
}
