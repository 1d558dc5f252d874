//! A synthetic repository as large as asked for: real maps, tables and manifests on disk, written here by docs/repository-format.md; data packs are
//! made up when they are asked for, so that a million of them take no room. Prints time and peak memory of what docs/scale.md has.
//!
//! `cargo bench --bench scale -- GIB SLOTS BACKUPS`: GiB of data in 64 KiB chunks, slots per data pack, manifests. Each step is a process of
//! its own, so that its memory is its own.
#![allow(clippy::print_stdout, missing_docs)]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use snapback::monitor::Silent;
use snapback::repository::verify::Level;
use snapback::repository::{ChunkClass, EntryKind, Lookup, Repository, WriterOptions};
use snapback::store::{DirectoryStore, Result, Store, Upload};
use snapback::sys::signal::Cancel;
use snapback::units::Id;

const CHUNK: u64 = 64 << 10;
/// Chunks of a section.
const SECTION: u64 = 1024;
/// Sections of a file of 64 GiB.
const SECTIONS: u64 = 1024;
/// Small files beside the large ones.
const SMALL: u64 = 1_000_000;
/// As chunks of half their size are stored.
const STORED: u32 = 32 << 10;
const MARK: &[u8; 8] = b"virtual!";
const STEPS: [&str; 6] = ["list", "latest", "parent", "compare", "verify", "lookup"];

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    if let [step, directory] = &arguments[..]
        && STEPS.contains(&step.as_str())
    {
        return run(step, Path::new(directory));
    }
    let number = |at: usize, otherwise: u64| {
        arguments
            .get(at)
            .and_then(|word| word.parse().ok())
            .unwrap_or(otherwise)
    };
    let (gib, slots, backups) = (number(0, 100), number(1, 2048), number(2, 30));
    let directory = tempfile::tempdir().expect("a directory");
    let chunks = (gib << 30) / CHUNK;
    make(directory.path(), chunks, slots, backups);
    println!(
        "{gib} GiB in {chunks} chunks, {} data packs, {backups} backups, {SMALL} small files; maps and tables {} MiB",
        chunks.div_ceil(slots),
        size_of(&directory.path().join("packs")) >> 20
    );
    println!("| step | seconds | peak MiB | |\n|---|---|---|---|");
    for step in STEPS {
        let own = std::env::current_exe().expect("our path");
        let status = Command::new(own)
            .arg(step)
            .arg(directory.path())
            .status()
            .expect("a step");
        assert!(status.success(), "{step} failed");
    }
}

/// One step, in a process of its own.
fn run(step: &str, directory: &Path) {
    let parameters = std::fs::read_to_string(directory.join(".parameters")).expect("parameters");
    let (chunks, slots) = parameters.split_once(' ').expect("two numbers");
    let store = Virtual::open(
        directory,
        chunks.parse().expect("chunks"),
        slots.parse().expect("slots"),
    );
    let begun = Instant::now();
    let repository = Repository::open(Arc::new(store)).expect("the repository");
    let parent = || WriterOptions {
        id: Id::random(),
        parent: Some(repository.find("latest").expect("a backup").manifest().id),
        level: 1,
    };
    let said = match step {
        "list" => format!("{} manifests", repository.list().expect("a list").len()),
        "latest" => repository.find("latest").expect("a backup").manifest().host.clone(),
        "parent" => {
            let writer = repository.begin(parent()).expect("a writer");
            format!("opened {:?}", writer.parent_id().map(|id| id.short()))
        }
        "compare" => {
            let writer = repository.begin(parent()).expect("a writer");
            let (mut worker, mut sections) = (writer.worker().expect("a worker"), 0);
            for entry in writer.parent_entries().expect("entries").expect("a parent") {
                if let EntryKind::File(content) = entry.expect("an entry").kind {
                    for (index, section) in content.sections.iter().enumerate() {
                        let chunks = content.section_chunks(index);
                        drop(
                            worker
                                .section(ChunkClass::Medium, Some((section, chunks)))
                                .expect("a section"),
                        );
                        sections += 1;
                    }
                }
            }
            format!("{sections} sections decoded, one thread")
        }
        "verify" => {
            let found = repository
                .verify(Some("latest"), Level::Structure, 2, &Silent, &Cancel::new())
                .expect("a check");
            assert!(found.damage.is_empty(), "{:?}", found.damage);
            format!("{} entries, {} packs", found.entries, found.packs)
        }
        _ => {
            let mut lookup =
                Lookup::open(&repository.find("latest").expect("a backup"), &Cancel::new()).expect("a table");
            let found = (0..1000).filter(|number| {
                let path = format!("small/{:07}", number * 997);
                lookup.find(0, path.as_bytes()).expect("a lookup").is_some()
            });
            format!("opened, {} paths found", found.count())
        }
    };
    println!(
        "| {step} | {:.2} | {} | {said} |",
        begun.elapsed().as_secs_f64(),
        peak_mib()
    );
}

fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) >> 10
}

fn size_of(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => size_of(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

// ---------------------------------------------------------------- data packs that are made up

struct Virtual {
    real: DirectoryStore,
    chunks: u64,
    slots: u64,
    key: [u8; 32],
}

thread_local! {
    /// Slot table and trailer of the pack asked for last.
    static LAST: std::cell::RefCell<(u64, Vec<u8>)> = const { std::cell::RefCell::new((u64::MAX, Vec::new())) };
}

fn id_of(pack: u64) -> Id {
    // An odd factor scatters packs over the directories.
    let mut id = [0; 16];
    id[..8].copy_from_slice(&pack.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
    id[8..].copy_from_slice(MARK);
    Id(id)
}

fn pack_of(key: &str) -> Option<u64> {
    let id: Id = key.rsplit('/').next()?.parse().ok()?;
    let (scattered, mark) = id.0.split_first_chunk::<8>()?;
    // The factor's inverse modulo 2^64.
    (mark == MARK).then(|| u64::from_be_bytes(*scattered).wrapping_mul(0xF1DE_83E1_9937_733D))
}

fn hash_of(pack: u64, slot: u64) -> [u8; 32] {
    let mut hash = [0; 32];
    let mut state = pack << 16 | slot;
    for word in hash.chunks_mut(8) {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word.copy_from_slice(&(mixed ^ mixed >> 27).to_le_bytes());
    }
    hash
}

fn header(kind: u8, id: Id) -> Vec<u8> {
    [&b"SNAPPACK\x01\0"[..], &[kind, 0], &[0; 4], &id.0].concat()
}

/// Slot table and trailer; the digest is what a table of packs has.
fn footer(key: &[u8; 32], kind: u8, id: Id, table: Vec<u8>, body: [u8; 32]) -> (Vec<u8>, [u8; 32]) {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(&header(kind, id)).update(&table).update(&body);
    let digest: [u8; 32] = hasher.finalize().into();
    let count = (table.len() / 44) as u32;
    let bytes = [&table[..], &digest, &body, &count.to_le_bytes(), &[0; 20], b"SNAPDONE"].concat();
    (bytes, digest)
}

impl Virtual {
    fn open(directory: &Path, chunks: u64, slots: u64) -> Virtual {
        Virtual {
            real: DirectoryStore::open(directory).expect("a store"),
            chunks,
            slots,
            key: key_for(directory, "pack"),
        }
    }

    fn packs(&self) -> u64 {
        self.chunks.div_ceil(self.slots)
    }

    fn slots_of(&self, pack: u64) -> u64 {
        (self.chunks - pack * self.slots).min(self.slots)
    }

    fn length(&self, pack: u64) -> u64 {
        32 + self.slots_of(pack) * (u64::from(STORED) + 44) + 96
    }

    fn footer(&self, pack: u64) -> (Vec<u8>, [u8; 32]) {
        let mut table = Vec::with_capacity(44 * self.slots as usize);
        for slot in 0..self.slots_of(pack) {
            table.extend_from_slice(&STORED.to_le_bytes());
            table.extend_from_slice(&(CHUNK as u32).to_le_bytes());
            table.extend_from_slice(&[1, 0, 0, 0]);
            table.extend_from_slice(&hash_of(pack, slot));
        }
        footer(&self.key, 1, id_of(pack), table, [0; 32])
    }

    fn made_up(&self, key: &str) -> Option<u64> {
        pack_of(key).filter(|pack| *pack < self.packs())
    }
}

impl Store for Virtual {
    fn name(&self) -> String {
        "synthetic".to_owned()
    }

    fn put_new(&self, key: &str) -> Result<Box<dyn Upload>> {
        self.real.put_new(key)
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn get_range(&self, key: &str, offset: u64, into: &mut [u8]) -> Result<usize> {
        let Some(pack) = self.made_up(key) else {
            return self.real.get_range(key, offset, into);
        };
        if offset == 0 {
            let header = header(1, id_of(pack));
            let length = header.len().min(into.len());
            into[..length].copy_from_slice(&header[..length]);
            return Ok(length);
        }
        LAST.with_borrow_mut(|(last, bytes)| {
            if *last != pack {
                (*last, *bytes) = (pack, self.footer(pack).0);
            }
            let from = (offset + bytes.len() as u64 - self.length(pack)) as usize;
            into.copy_from_slice(&bytes[from..from + into.len()]);
        });
        Ok(into.len())
    }

    fn size(&self, key: &str) -> Result<u64> {
        self.made_up(key)
            .map_or_else(|| self.real.size(key), |pack| Ok(self.length(pack)))
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>> {
        let mut keys = self.real.list(prefix)?;
        if prefix == "packs/" {
            keys.extend((0..self.packs()).map(|pack| pack_key(id_of(pack))));
            keys.sort();
        }
        Ok(keys)
    }

    fn delete(&self, key: &str) -> Result<()> {
        self.real.delete(key)
    }
}

// ---------------------------------------------------------------- the rest, by the document

fn pack_key(id: Id) -> String {
    let id = id.to_string();
    format!("packs/{}/{id}", &id[..2])
}

fn key_for(directory: &Path, what: &str) -> [u8; 32] {
    let config = std::fs::read_to_string(directory.join("config")).expect("config");
    let config: serde_json::Value = serde_json::from_str(&config[..config.len() - 66]).expect("JSON");
    let key = blake3::Hash::from_hex(config["hash_key"].as_str().expect("a key")).expect("digits");
    blake3::derive_key(&format!("snapback 1 {what}"), key.as_bytes())
}

fn varint(mut value: u64, into: &mut Vec<u8>) {
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

fn blob(bytes: &[u8], into: &mut Vec<u8>) {
    varint(bytes.len() as u64, into);
    into.extend_from_slice(bytes);
}

/// Meta packs, filled one after the other.
struct Meta<'d> {
    directory: &'d Path,
    chunk_key: [u8; 32],
    pack_key: [u8; 32],
    id: Id,
    bytes: Vec<u8>,
    table: Vec<u8>,
    /// Id, size, digest of those that are closed.
    closed: Vec<(Id, u64, [u8; 32])>,
}

/// Pack, slot and hash of something in a meta pack.
type At = (Id, u64, [u8; 32]);

impl Meta<'_> {
    fn add(&mut self, plain: &[u8]) -> At {
        if self.bytes.len() > 64 << 20 {
            self.close();
        }
        if self.bytes.is_empty() {
            self.id = Id::random();
            self.bytes = header(2, self.id);
        }
        let (slot, length) = ((self.table.len() / 44) as u64, (plain.len() as u32).to_le_bytes());
        let hash: [u8; 32] = blake3::keyed_hash(&self.chunk_key, plain).into();
        self.bytes.extend_from_slice(plain);
        self.table
            .extend_from_slice(&[&length[..], &length, &[0; 4], &hash].concat());
        (self.id, slot, hash)
    }

    fn close(&mut self) {
        let body = blake3::keyed_hash(&self.pack_key, &self.bytes[32..]).into();
        let (end, digest) = footer(&self.pack_key, 2, self.id, std::mem::take(&mut self.table), body);
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.extend_from_slice(&end);
        let path = self.directory.join(pack_key(self.id));
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::fs::write(path, &bytes).expect("a pack");
        self.closed.push((self.id, bytes.len() as u64, digest));
    }
}

fn refer(at: &At, into: &mut Vec<u8>) {
    into.extend_from_slice(&at.0.0);
    varint(at.1, into);
    into.extend_from_slice(&at.2);
}

fn section(first: u64, count: u64, slots: u64) -> Vec<u8> {
    let (from, upto) = (first / slots, (first + count).div_ceil(slots));
    let mut bytes = Vec::new();
    varint(count, &mut bytes);
    varint(upto - from, &mut bytes);
    (from..upto).for_each(|pack| bytes.extend_from_slice(&id_of(pack).0));
    for pack in from..upto {
        let begin = first.max(pack * slots);
        let end = (first + count).min((pack + 1) * slots);
        varint((end - begin) << 2 | 2, &mut bytes);
        varint(pack - from, &mut bytes);
        varint(begin - pack * slots, &mut bytes);
    }
    (first..first + count).for_each(|chunk| bytes.extend_from_slice(&hash_of(chunk / slots, chunk % slots)));
    bytes
}

/// Root 0, path, no flags, mode, owner, time, no attributes.
fn entry(path: &str, mode: u64) -> Vec<u8> {
    let mut bytes = vec![0];
    blob(path.as_bytes(), &mut bytes);
    bytes.push(0);
    [mode, 999, 999, 2 * 1_790_000_000, 123_456_789, 0]
        .into_iter()
        .for_each(|value| varint(value, &mut bytes));
    bytes
}

fn make(directory: &Path, chunks: u64, slots: u64, backups: u64) {
    let store = Arc::new(DirectoryStore::create(directory).expect("a store"));
    let repository = Repository::create(store).expect("a repository");
    std::fs::write(directory.join(".parameters"), format!("{chunks} {slots}")).expect("parameters");
    let mut meta = Meta {
        directory,
        chunk_key: key_for(directory, "chunk"),
        pack_key: key_for(directory, "pack"),
        id: Id::random(),
        bytes: Vec::new(),
        table: Vec::new(),
        closed: Vec::new(),
    };
    let (mut block, mut blocks, mut entries) = (Vec::new(), Vec::new(), 0);
    let mut push = |bytes: Vec<u8>, meta: &mut Meta<'_>, last: bool| {
        block.extend_from_slice(&bytes);
        entries += u64::from(!bytes.is_empty());
        if block.len() >= 256 << 10 || (last && !block.is_empty()) {
            blocks.push(meta.add(&std::mem::take(&mut block)));
        }
    };
    for path in ["", "large"] {
        push([entry(path, 0o755), vec![1]].concat(), &mut meta, false);
    }
    let per_file = SECTION * SECTIONS;
    for file in 0..chunks.div_ceil(per_file) {
        let (first, end) = (file * per_file, chunks.min((file + 1) * per_file));
        let mut bytes = [entry(&format!("large/{file:06}.ibd"), 0o660), vec![0]].concat();
        varint((end - first) * CHUNK, &mut bytes);
        bytes.push(1);
        for at in (first..end).step_by(SECTION as usize) {
            let stored = meta.add(&section(at, SECTION.min(end - at), slots));
            bytes.push(1);
            refer(&stored, &mut bytes);
        }
        push(bytes, &mut meta, false);
    }
    push([entry("small", 0o755), vec![1]].concat(), &mut meta, false);
    for small in 0..SMALL {
        push(
            [entry(&format!("small/{small:07}"), 0o644), vec![0, 0, 1]].concat(),
            &mut meta,
            false,
        );
    }
    push(Vec::new(), &mut meta, true);
    meta.close();

    let virtual_packs = Virtual::open(directory, chunks, slots);
    let all =
        (0..virtual_packs.packs()).map(|pack| (id_of(pack), virtual_packs.length(pack), virtual_packs.footer(pack).1));
    let mut packs: Vec<(Id, u64, [u8; 32])> = all.chain(meta.closed.drain(..)).collect();
    packs.sort_by_key(|(id, ..)| *id);
    let (mut index, mut table) = (Vec::new(), Vec::new());
    varint(blocks.len() as u64, &mut index);
    blocks.iter().for_each(|at| refer(at, &mut index));
    varint(packs.len() as u64, &mut table);
    for (id, size, digest) in &packs {
        table.extend_from_slice(&id.0);
        varint(*size, &mut table);
        table.extend_from_slice(digest);
    }
    let (table_at, packs_at) = (meta.add(&index), meta.add(&table));
    meta.close();
    let (root, size, digest) = meta.closed[0];
    let hex = |bytes: &[u8; 32]| blake3::Hash::from_bytes(*bytes).to_hex().to_string();

    let key = key_for(directory, "manifest");
    std::fs::create_dir_all(directory.join("manifests/h")).expect("a directory");
    for number in 0..backups {
        let time = jiff::Timestamp::from_second(1_700_000_000 + 3600 * number as i64).expect("a time");
        let id = Id::random();
        // About as much as a run on a host with two volumes and 30 phases says of itself.
        let phases: Vec<_> = (0..120)
            .map(|at| serde_json::json!({"name": "copy", "start_us": at, "us": 123_456}))
            .collect();
        let manifest = serde_json::json!({
            "format": 1, "features": ["zstd"], "id": id, "repository": repository.id(), "time": time, "host": "h", "tags": {"why": "nightly"},
            "sizes": {"entries": entries, "bytes": chunks * CHUNK, "stored": 1},
            "root": {"pack": root, "size": size, "digest": hex(&digest), "table_slot": table_at.1, "table_hash": hex(&table_at.2),
                     "packs_slot": packs_at.1, "packs_hash": hex(&packs_at.2)},
            "record": {"consistency": "application", "exact": true, "phases": phases, "roots": [{"path": "/srv", "role": "files", "source": "snapshot"}]},
        });
        let json = serde_json::to_vec_pretty(&manifest).expect("JSON");
        let digest = blake3::keyed_hash(&key, &json).to_hex();
        let name = format!("manifests/h/{}-{id}", time.strftime("%Y%m%dT%H%M%SZ"));
        std::fs::write(
            directory.join(name),
            [&json[..], b"\n", digest.as_bytes(), b"\n"].concat(),
        )
        .expect("a manifest");
    }
}
