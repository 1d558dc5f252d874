//! Every door, with seeds made from real objects, inputs that found something once, and mutations of both: the same ones in every run.
//!
//! `SNAPBACK_FUZZ_SECONDS` makes each door's share of time longer (2 by default). Seeds for `fuzz/` are written by
//! `SNAPBACK_FUZZ_SEEDS=DIR cargo test --lib fuzzing`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{DOORS, Door};
use crate::copy::{CopyOptions, Tree, copy};
use crate::monitor::Silent;
use crate::repository::{Draft, Repository, WriterOptions};
use crate::store::memory::MemoryStore;
use crate::sys::signal::Cancel;
use crate::units::Id;

type Seeds = BTreeMap<&'static str, Vec<Vec<u8>>>;

/// A generator that gives the same numbers on every machine (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// A few changes of the kinds that decoders fall over.
fn mutate(bytes: &mut Vec<u8>, other: &[u8], numbers: &mut Numbers) {
    const ODD: [u64; 8] = [0, 1, 0x7f, 0x80, 0xff, 0xffff, 0x7fff_ffff, u64::MAX];
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(bytes.len());
        match numbers.below(8) {
            0 => bytes.truncate(at),
            1 | 2 if !bytes.is_empty() => bytes[at] ^= 1 << numbers.below(8),
            3 if !bytes.is_empty() => bytes[at] = numbers.next() as u8,
            4 => {
                let odd = ODD[numbers.below(ODD.len())].to_le_bytes();
                let width = [1, 2, 4, 8][numbers.below(4)];
                let end = (at + width).min(bytes.len());
                bytes[at..end].copy_from_slice(&odd[..end - at]);
            }
            5 => {
                let piece: Vec<u8> = bytes[at..(at + numbers.below(64)).min(bytes.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            6 => {
                let end = (at + numbers.below(32)).min(bytes.len());
                bytes.drain(at..end);
            }
            _ => {
                let from = numbers.below(other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
        }
    }
}

fn drive((name, door): Door, seeds: &[Vec<u8>], share: Duration) -> u64 {
    assert!(!seeds.is_empty(), "{name} has no seeds");
    let (mut numbers, mut tried) = (Numbers(name.len() as u64), 0);
    let seen = |bytes: &[u8]| {
        let answer = std::panic::catch_unwind(|| door(bytes));
        if answer.is_err() {
            let kept = std::env::temp_dir().join(format!("snapback-fuzz-{name}-{}", blake3::hash(bytes).to_hex()));
            std::fs::write(&kept, bytes).unwrap();
            panic!(
                "{name} panics on {}: put it into fuzz/regressions/{name}/",
                kept.display()
            );
        }
    };
    seeds.iter().for_each(|seed| seen(seed));
    let begun = Instant::now();
    while begun.elapsed() < share {
        for _ in 0..50 {
            let mut bytes = seeds[numbers.below(seeds.len())].clone();
            let other = &seeds[numbers.below(seeds.len())];
            mutate(&mut bytes, other, &mut numbers);
            let before = Instant::now();
            seen(&bytes);
            assert!(
                before.elapsed() < Duration::from_secs(10),
                "{name} is slow on {} bytes",
                bytes.len()
            );
            tried += 1;
        }
    }
    tried
}

/// Inputs that found something once.
fn regressions(name: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/regressions")
        .join(name);
    let files = std::fs::read_dir(directory).into_iter().flatten();
    files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
}

/// Two small backups of a real tree, and texts as this host has them.
fn seeds() -> Seeds {
    let mut seeds = Seeds::new();
    let store = backups();
    for (key, bytes) in store.objects() {
        if key.starts_with("packs/") {
            seeds.entry("footer").or_default().push(bytes.to_vec());
            plain_slots(&bytes, &mut seeds);
        } else {
            let json = bytes[..bytes.len() - 66].to_vec();
            seeds.entry("manifest").or_default().extend([json, bytes.to_vec()]);
        }
    }
    let text = |text: &str| text.as_bytes().to_vec();
    let starter = crate::config::starter(Path::new("/srv/backup"));
    let full = "repository: /r\nhost: h\nserver:\n  socket: /s\nlock:\n  acquire_timeout: 2s\n  hold_limit: 10s\n  attempts: 3\ncopy:\n  \
                chunk_size: 16KiB\n  level: 3\n  workers: 2\n  bandwidth: 10MiB\ntags: {a: b}\nfiles: [/etc, /srv/www]\n";
    seeds.insert("config", vec![text(&starter), text(full), text("server: none\n")]);
    let table = "36 35 98:0 /root /point rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n22 1 0:20 / / rw - btrfs /dev/sda1 rw,subvol=/\n\
                 40 22 0:30 /a\\040b /mnt/a\\040b ro shared:5 - tmpfs  rw\n";
    let mut tables = vec![text(table)];
    tables.extend(std::fs::read("/proc/self/mountinfo").ok());
    seeds.insert("mountinfo", tables);
    let options = "[client]\nuser = root\npassword=\"a#b\" # c\n[mysqld]\nskip-name-resolve\ninnodb_buffer-pool_size=1G ; x\n!includedir /etc/x\n";
    seeds.insert("option_file", vec![text(options)]);
    seeds.insert("binlog", [false, true].map(binlog).to_vec());
    for (name, _) in DOORS {
        seeds.entry(name).or_default().extend(regressions(name));
    }
    seeds
}

fn backups() -> MemoryStore {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("d")).unwrap();
    std::fs::write(dir.path().join("small"), "hello").unwrap();
    std::fs::write(dir.path().join("text"), "again and again ".repeat(20_000)).unwrap();
    let noise: Vec<u8> = (0..5_000u32)
        .flat_map(|number| *blake3::hash(&number.to_le_bytes()).as_bytes())
        .collect();
    std::fs::write(dir.path().join("d/noise"), &noise).unwrap();
    std::fs::hard_link(dir.path().join("d/noise"), dir.path().join("e")).unwrap();
    std::os::unix::fs::symlink("d/noise", dir.path().join("link")).unwrap();
    std::fs::File::create(dir.path().join("hole"))
        .unwrap()
        .set_len(70 << 20)
        .unwrap();
    let store = MemoryStore::default();
    let repository = Repository::create(Arc::new(store.clone())).unwrap();
    let mut parent = None;
    for round in 0..2 {
        std::fs::write(dir.path().join("small"), format!("hello {round}")).unwrap();
        let options = WriterOptions {
            id: Id([round; 16]),
            parent,
            level: 1,
        };
        let writer = repository.begin(options).unwrap();
        let tree = Tree {
            original: dir.path().into(),
            read_from: dir.path().into(),
            live: false,
            datadir: false,
            database: false,
            skip: Vec::new(),
        };
        let options = CopyOptions {
            workers: 1,
            idle_priority: false,
            class: crate::repository::ChunkClass::Small,
            ..CopyOptions::default()
        };
        copy(&[tree], &writer, &options, &|| Ok(()), &Silent, &Cancel::new()).unwrap();
        let draft = Draft {
            time: jiff::Timestamp::UNIX_EPOCH,
            host: "fuzz".into(),
            tags: [("a".to_owned(), "b".to_owned())].into(),
            record: serde_json::json!({
                "tool": "t", "consistency": "crash", "exact": false, "volumes": [], "phases": [],
                "roots": [{"path": "/r", "role": "files", "source": "snapshot"}],
                "copy": {"files": 0, "bytes_total": 0, "bytes_read": 0, "bytes_new": 0, "bytes_stored": 0, "seconds": 0.0},
            }),
        };
        parent = Some(writer.commit(draft).unwrap().id);
    }
    store
}

/// What is in a meta pack's slots: tables, indexes, sections. Each is a seed for all of their readers.
fn plain_slots(pack: &[u8], seeds: &mut Seeds) {
    if pack[10] != 2 {
        return;
    }
    let word = |at: usize| u32::from_le_bytes([pack[at], pack[at + 1], pack[at + 2], pack[at + 3]]) as usize;
    let (end, mut offset) = (pack.len() - 96, 32);
    for line in (end - 44 * word(pack.len() - 32)..end).step_by(44) {
        let stored = &pack[offset..offset + word(line)];
        let plain = match pack[line + 8] {
            1 => zstd::bulk::decompress(stored, word(line + 4)).unwrap(),
            _ => stored.to_vec(),
        };
        for name in ["section", "table", "index"] {
            seeds.entry(name).or_default().push(plain.clone());
        }
        offset += word(line);
    }
    // Small maps are kept in the table itself: two of every kind of run.
    seeds.entry("section").or_default().push(vec![4, 0, 2 << 2, 2 << 2 | 1]);
}

/// A short log: format description, a set of GTIDs, a transaction.
fn binlog(checksums: bool) -> Vec<u8> {
    let mut log = b"\xfebin".to_vec();
    let mut event = |kind: u8, body: &[u8]| {
        let trailer = if checksums || kind == 15 { 4 } else { 0 };
        let size = 19 + body.len() + trailer;
        let end = log.len() + size;
        let mut event = vec![0, 0, 0, 0, kind, 7, 0, 0, 0];
        event.extend((size as u32).to_le_bytes());
        event.extend((end as u32).to_le_bytes());
        event.extend([0, 0]);
        event.extend(body);
        event.extend(&crate::database::mysql::binlog::checksum(&event).to_le_bytes()[..trailer]);
        log.extend(event);
    };
    let mut format = vec![0; 57 + 40];
    format.push(u8::from(checksums));
    event(15, &format);
    event(163, &[1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
    event(162, &[6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0]);
    let mut query = vec![0; 13];
    (query[8], query[11]) = (1, 2);
    query.extend(b"\x09\x09d\0BEGIN");
    event(2, &query);
    event(16, &[1, 0, 0, 0, 0, 0, 0, 0]);
    log
}

fn share() -> Duration {
    let seconds = std::env::var("SNAPBACK_FUZZ_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(2))
}

#[test]
fn every_door_stands_against_mutations_of_real_objects() {
    let seeds = seeds();
    if let Some(directory) = std::env::var_os("SNAPBACK_FUZZ_SEEDS") {
        return write(&seeds, &PathBuf::from(directory));
    }
    for door in DOORS {
        let tried = drive(door, &seeds[door.0], share());
        assert!(tried > 50, "{}: only {tried} inputs", door.0);
    }
}

fn write(seeds: &Seeds, directory: &Path) {
    for (name, all) in seeds {
        std::fs::create_dir_all(directory.join(name)).unwrap();
        for bytes in all {
            let file = blake3::hash(bytes).to_hex();
            std::fs::write(directory.join(name).join(&file[..16]), bytes).unwrap();
        }
    }
}

/// The seeds are good ones: each reader takes some of them whole.
#[test]
fn seeds_get_past_the_first_check() {
    let seeds = seeds();
    let packs = seeds["footer"].len();
    assert!(packs >= 4, "{packs}");
    let json = |bytes: &Vec<u8>| serde_json::from_slice::<crate::repository::Manifest>(bytes).is_ok();
    assert!(seeds["manifest"].iter().any(json));
    for log in &seeds["binlog"] {
        let end = crate::database::mysql::binlog::end_of(Path::new("seed"), log, crate::database::Flavour::MariaDb);
        assert_eq!(end.unwrap(), Some(log.len() as u64));
    }
}
