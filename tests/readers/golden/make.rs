//! Makes the golden repository and says what is in it, from one description: contents are written through the library's writer, and what a
//! restore must give is worked out from the description alone.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use snapback::repository::{
    ChunkClass, Content, Draft, Entry, EntryKind, Manifest, Metadata, Repository, SECTION_BYTES, SectionRef,
    WriterOptions, table_order,
};
use snapback::store::DirectoryStore;
use snapback::units::Id;

use super::golden;
use crate::tree::{brief, noise};

/// A manifest's line of a listing, as the independent reader prints it.
pub fn line(manifest: &Manifest) -> String {
    let tags: Vec<String> = manifest
        .tags
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let sizes = manifest.sizes;
    let line = format!(
        "{} {} {} {} {} {}",
        manifest.id,
        manifest.time,
        manifest.host,
        sizes.entries,
        sizes.bytes,
        tags.join(" ")
    );
    line.trim_end().to_owned()
}

/// Changes a manifest and gives it a digest that fits.
pub fn reseal_manifest(repository: &Path, manifest: &Path, change: impl Fn(&str) -> String) {
    let config = std::fs::read_to_string(repository.join("config")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config[..config.len() - 66]).unwrap();
    let key = blake3::Hash::from_hex(config["hash_key"].as_str().unwrap()).unwrap();
    let key = blake3::derive_key("snapback 1 manifest", key.as_bytes());
    let text = std::fs::read_to_string(manifest).unwrap();
    let json = change(&text[..text.len() - 66]);
    let digest = blake3::keyed_hash(&key, json.as_bytes()).to_hex();
    std::fs::write(manifest, format!("{json}\n{digest}\n")).unwrap();
}

#[derive(Clone, Copy)]
enum Chunk {
    Noise(u64),
    Text(u64),
    Zero,
    Hole,
}

impl Chunk {
    fn bytes(self, length: usize) -> Vec<u8> {
        match self {
            Chunk::Noise(seed) => noise(seed, length),
            Chunk::Text(seed) => format!("golden {seed}, ")
                .into_bytes()
                .into_iter()
                .cycle()
                .take(length)
                .collect(),
            Chunk::Zero | Chunk::Hole => vec![0; length],
        }
    }
}

enum Made {
    File {
        size: u64,
        class: ChunkClass,
        sparse: bool,
        chunks: Vec<(u64, Chunk)>,
    },
    Other(EntryKind),
}

struct One {
    root: u32,
    path: Vec<u8>,
    metadata: Metadata,
    made: Made,
}

fn metadata(mode: u32, uid: u32, mtime_ns: i128) -> Metadata {
    Metadata {
        mode,
        uid,
        gid: uid + 1,
        mtime_ns,
        xattrs: Vec::new(),
    }
}

/// A file of which every chunk that is not named is `rest`.
fn file(size: u64, class: ChunkClass, sparse: bool, rest: Chunk, named: &[(u64, Chunk)]) -> Made {
    let count = size.div_ceil(class.bytes() as u64);
    let named: HashMap<u64, Chunk> = named.iter().copied().collect();
    let chunks = (0..count).map(|number| (number, named.get(&number).copied().unwrap_or(rest)));
    Made::File {
        size,
        class,
        sparse,
        chunks: chunks.collect(),
    }
}

fn description(changed: bool) -> Vec<One> {
    let mut all = Vec::new();
    let mut add = |root: u32, path: &[u8], metadata: Metadata, made: Made| {
        all.push(One {
            root,
            path: path.to_vec(),
            metadata,
            made,
        });
    };
    let (now, plain) = (1_790_000_000_123_456_789, |mode| {
        metadata(mode, 0, 1_790_000_000_000_000_001)
    });
    let directory = || Made::Other(EntryKind::Directory);
    let small = |bytes: u64, seed| file(bytes, ChunkClass::Medium, false, Chunk::Text(seed), &[]);
    for (root, path) in [(0, ""), (0, "a"), (0, "a.b"), (0, "a/deep"), (0, "links"), (1, "")] {
        add(root, path.as_bytes(), plain(0o755), directory());
    }
    add(
        0,
        b"a/deep/empty",
        metadata(0o000, 1234, 0),
        file(0, ChunkClass::Medium, false, Chunk::Zero, &[]),
    );
    add(0, b"a/before-1970", metadata(0o4751, 0, -1_500_000_000), small(11, 1));
    add(
        0,
        b"a.b/x",
        metadata(0o644, 3_000_000, 4_000_000_000_000_000_007),
        small(12, 2),
    );
    for (name, seed) in [
        (&b"new\nline"[..], 3),
        (b"not\xff\xfeutf8", 4),
        ("größe".as_bytes(), 5),
        (b"-rf", 6),
        (b"back\\slash", 7),
    ] {
        add(0, name, plain(0o640), small(20 + seed, seed));
    }
    let long = "n".repeat(255);
    add(0, long.as_bytes(), plain(0o600), small(9, 8));
    let mut attributes = plain(0o644);
    attributes.xattrs = vec![
        (b"trusted.golden".to_vec(), b"t".to_vec()),
        (b"user.binary".to_vec(), vec![0, 255, 10]),
        (b"user.long".to_vec(), vec![b'v'; 1500]),
    ];
    add(0, b"attributes", attributes, small(5, 9));

    let half = if changed { 900 } else { 100 };
    let scattered: Vec<(u64, Chunk)> = (0..24)
        .map(|number| (number, Chunk::Text(number + if number < 12 { 100 } else { half })))
        .collect();
    add(
        0,
        b"class-16k",
        plain(0o644),
        file(24 * (16 << 10) - 5, ChunkClass::Small, false, Chunk::Zero, &scattered),
    );
    add(
        0,
        b"class-64k",
        metadata(0o644, 0, now),
        file(
            40 * (64 << 10) + 3,
            ChunkClass::Medium,
            false,
            Chunk::Text(11),
            &[(3, Chunk::Noise(12)), (7, Chunk::Zero)],
        ),
    );
    add(
        0,
        b"class-1m.log",
        plain(0o644),
        file(
            (3 << 20) + 100,
            ChunkClass::Large,
            false,
            Chunk::Text(13),
            &[(1, Chunk::Zero)],
        ),
    );
    add(0, b"first-name", metadata(0o600, 55, now), small(30, 14));
    for name in [&b"links/second-name"[..], b"zz-third-name"] {
        add(
            0,
            name,
            metadata(0o600, 55, now),
            Made::Other(EntryKind::HardLink(b"first-name".to_vec())),
        );
    }
    let sections = [
        (0, Chunk::Text(15)),
        (5, Chunk::Zero),
        (6, Chunk::Text(16)),
        (2200, Chunk::Text(17)),
        (2400, Chunk::Noise(18)),
    ];
    add(
        0,
        b"sparse-3-sections",
        plain(0o644),
        file(
            2400 * (64 << 10) + 777,
            ChunkClass::Medium,
            true,
            Chunk::Hole,
            &sections,
        ),
    );
    add(
        0,
        b"sparse-only-hole",
        plain(0o644),
        file(70 << 20, ChunkClass::Medium, true, Chunk::Hole, &[]),
    );
    add(0, b"fifo", plain(0o622), Made::Other(EntryKind::Fifo));
    add(0, b"char", plain(0o666), Made::Other(EntryKind::CharDevice(1, 3)));
    add(
        0,
        b"block",
        plain(0o660),
        Made::Other(EntryKind::BlockDevice(259, 70_000)),
    );
    // Long targets: the table has several blocks.
    for number in 0..100 {
        let target = format!("{number:03}/").repeat(1000).into_bytes();
        add(
            0,
            format!("links/{number:03}").as_bytes(),
            metadata(0o777, 7, now + number),
            Made::Other(EntryKind::Symlink(target)),
        );
    }
    add(1, b"conf.d", plain(0o1777), directory());
    add(1, b"conf.d/my.cnf", plain(0o644), small(44, 19));
    if changed {
        add(1, b"conf.d/new.cnf", plain(0o644), small(45, 20));
    }
    all.sort_by(|one, two| table_order((one.root, &one.path), (two.root, &two.path)));
    all
}

fn back_up(repository: &Repository, all: &[One], id: u8, parent: Option<Id>, host: &str, roots: &[&str]) -> Manifest {
    let id = Id([id; 16]);
    let options = WriterOptions { id, parent, level: 1 };
    let writer = repository.begin(options).unwrap();
    let mut before: HashMap<(u32, Vec<u8>), Content> = HashMap::new();
    for entry in writer.parent_entries().unwrap().into_iter().flatten() {
        let entry = entry.unwrap();
        if let EntryKind::File(content) = entry.kind {
            before.insert((entry.root, entry.path), content);
        }
    }
    let (mut table, mut worker) = (writer.table().unwrap(), writer.worker().unwrap());
    for one in all {
        let kind = match &one.made {
            Made::Other(kind) => kind.clone(),
            Made::File {
                size,
                class,
                sparse,
                chunks,
            } => {
                let known = before.get(&(one.root, one.path.clone()));
                let per_section = SECTION_BYTES as usize / class.bytes();
                let mut sections: Vec<SectionRef> = Vec::new();
                for (index, part) in chunks.chunks(per_section).enumerate() {
                    let parent = known.map(|content| (&content.sections[index], content.section_chunks(index)));
                    let mut builder = worker.section(*class, parent).unwrap();
                    for (number, chunk) in part {
                        let length = (size - number * class.bytes() as u64).min(class.bytes() as u64) as usize;
                        match chunk {
                            Chunk::Hole => builder.hole(1).unwrap(),
                            chunk => builder.data(&chunk.bytes(length)).unwrap(),
                        }
                    }
                    sections.push(builder.finish().unwrap());
                }
                EntryKind::File(Content {
                    size: *size,
                    class: *class,
                    sparse: *sparse,
                    sections,
                })
            }
        };
        let entry = Entry {
            root: one.root,
            path: one.path.clone(),
            kind,
            metadata: one.metadata.clone(),
            live: one.root == 1,
            torn: false,
        };
        table.push(&entry).unwrap();
    }
    worker.close().unwrap();
    table.finish().unwrap();
    let roots: Vec<serde_json::Value> = roots
        .iter()
        .map(|root| serde_json::json!({"path": root, "role": "files", "source": "snapshot"}))
        .collect();
    let record = serde_json::json!({
        "tool": "0.1.0", "consistency": "crash", "exact": false, "volumes": [], "phases": [], "roots": roots,
        "copy": {"files": 0, "bytes_total": 0, "bytes_read": 0, "bytes_new": 0, "bytes_stored": 0, "seconds": 0.0},
    });
    let tags = if parent.is_none() {
        vec![("why", "golden"), ("zone", "a b")]
    } else {
        vec![]
    };
    let draft = Draft {
        time: format!("2026-11-24T1{}:00:00.123456789Z", id.0[0] & 7).parse().unwrap(),
        host: host.into(),
        tags: tags
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
        record,
    };
    writer.commit(draft).unwrap()
}

/// What `tree::listing` must say of a restored root.
fn listing(all: &[One], root: u32) -> BTreeMap<String, String> {
    let links = |path: &[u8]| {
        let further = all
            .iter()
            .filter(|one| matches!(&one.made, Made::Other(EntryKind::HardLink(first)) if first == path));
        1 + further.count()
    };
    let own: Vec<&One> = all.iter().filter(|one| one.root == root).collect();
    let find = |path: &[u8]| *own.iter().find(|one| one.path == path).unwrap();
    let mut lines = BTreeMap::new();
    for one in &own {
        let content = match &one.made {
            Made::Other(EntryKind::HardLink(first)) => find(first),
            _ => one,
        };
        let (kind, rest) = match &content.made {
            Made::File {
                size,
                class,
                sparse,
                chunks,
            } => (
                0o100_000,
                format!(
                    " names={}{}",
                    links(&content.path),
                    file_line(*size, *class, *sparse, chunks)
                ),
            ),
            Made::Other(kind) => match kind {
                EntryKind::Directory => (0o40_000, String::new()),
                EntryKind::Symlink(target) => (0o120_000, format!(" names=1 target={}", brief(target))),
                EntryKind::Fifo => (0o10_000, " names=1 device=0".to_owned()),
                EntryKind::CharDevice(major, minor) => (
                    0o20_000,
                    format!(" names=1 device={}", rustix::fs::makedev(*major, *minor)),
                ),
                EntryKind::BlockDevice(major, minor) => (
                    0o60_000,
                    format!(" names=1 device={}", rustix::fs::makedev(*major, *minor)),
                ),
                other => panic!("{other:?}"),
            },
        };
        let metadata = &one.metadata;
        let mut line = format!(
            "mode={:o} owner={}:{} mtime={}.{:09}{rest}",
            kind | metadata.mode,
            metadata.uid,
            metadata.gid,
            metadata.mtime_ns.div_euclid(1_000_000_000),
            metadata.mtime_ns.rem_euclid(1_000_000_000)
        );
        for (name, value) in &metadata.xattrs {
            line += &format!(" {}={}", name.escape_ascii(), brief(value));
        }
        lines.insert(one.path.escape_ascii().to_string(), line);
    }
    lines
}

fn file_line(size: u64, class: ChunkClass, sparse: bool, chunks: &[(u64, Chunk)]) -> String {
    let (mut hasher, mut regions): (_, Vec<std::ops::Range<u64>>) = (blake3::Hasher::new(), Vec::new());
    for (number, chunk) in chunks {
        let start = number * class.bytes() as u64;
        let end = size.min(start + class.bytes() as u64);
        hasher.update(&chunk.bytes((end - start) as usize));
        // A file with holes gets no zeros written either.
        if matches!(chunk, Chunk::Noise(_) | Chunk::Text(_)) || !sparse {
            match regions.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => regions.push(start..end),
            }
        }
    }
    format!(" size={size} blake3={} data={regions:?}", hasher.finalize())
}

#[test]
#[ignore = "makes tests/formats/v1 anew: only for a format that was never released"]
fn make() {
    let at = golden("repository");
    let _ = std::fs::remove_dir_all(golden(""));
    let repository = Repository::create(Arc::new(DirectoryStore::create(&at).unwrap())).unwrap();
    let (roots, changed) = (["/srv/golden", "/etc/golden"], description(true));
    let first = description(false);
    let other: Vec<One> = description(false)
        .into_iter()
        .filter(|one| one.root == 1)
        .map(|one| One { root: 0, ..one })
        .collect();
    let mut text = String::new();
    let mut note = |manifest: &Manifest, all: &[One], roots: &[&str]| {
        text += &format!("backup {}\n", line(manifest));
        for (index, root) in roots.iter().enumerate() {
            text += &format!("root {} {root}\n", manifest.id);
            for (name, line) in listing(all, index as u32) {
                text += &format!("entry {name}\t{line}\n");
            }
        }
    };
    let one = back_up(&repository, &first, 0xa1, None, "alpha", &roots);
    note(&one, &first, &roots);
    let two = back_up(&repository, &changed, 0xb2, Some(one.id), "alpha", &roots);
    note(&two, &changed, &roots);
    let three = back_up(&repository, &other, 0xc3, None, "beta-2.example", &roots[1..]);
    note(&three, &other, &roots[1..]);
    std::fs::write(golden("expected.txt"), text).unwrap();

    let config = std::fs::read_to_string(at.join("config")).unwrap();
    let config = &config[..config.len() - 66];
    for (name, from, to) in [
        ("newer-format", "\"format\": 1", "\"format\": 2"),
        ("unknown-feature", "\"zstd\"", "\"zstd\", \"encryption\""),
    ] {
        std::fs::create_dir(golden(name)).unwrap();
        let json = config.replace(from, to);
        assert_ne!(json, config);
        std::fs::write(
            golden(name).join("config"),
            format!("{json}\n{}\n", blake3::hash(json.as_bytes()).to_hex()),
        )
        .unwrap();
    }
}

/// A pack's later generation, by docs/repository-format.md: the slots of one parity are dropped.
pub fn later_generation(repository: &Path, pack: &Path, generation: u32, parity: usize) -> Vec<u8> {
    let config = std::fs::read_to_string(repository.join("config")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config[..config.len() - 66]).unwrap();
    let key = blake3::Hash::from_hex(config["hash_key"].as_str().unwrap()).unwrap();
    let key = blake3::derive_key("snapback 1 pack", key.as_bytes());
    let old = std::fs::read(pack).unwrap();
    let word = |at: usize| u32::from_le_bytes(old[at..at + 4].try_into().unwrap()) as usize;
    let count = word(old.len() - 32);
    let table = old.len() - 96 - 44 * count;
    let mut header = old[..32].to_vec();
    header[12..16].copy_from_slice(&generation.to_le_bytes());
    let (mut body, mut lines, mut at) = (Vec::new(), Vec::new(), 32);
    for slot in 0..count {
        let (begin, stored) = (table + 44 * slot, word(table + 44 * slot));
        let mut line = old[begin..begin + 44].to_vec();
        if slot % 2 == parity {
            line[..4].fill(0);
            line[8] = 2;
        } else {
            body.extend_from_slice(&old[at..at + stored]);
        }
        lines.extend(line);
        at += stored;
    }
    let body_digest = *blake3::keyed_hash(&key, &body).as_bytes();
    let digest = *blake3::keyed_hash(&key, &[&header[..], &lines, &body_digest].concat()).as_bytes();
    let tail = &old[old.len() - 32..];
    [&header[..], &body, &lines, &digest, &body_digest, tail].concat()
}
