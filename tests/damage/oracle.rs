//! What each backup needs, computed from an undamaged repository by a reader of the tests' own (docs/repository-format.md), so that
//! what `verify` says about a damaged one can be compared with it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use snapback::repository::{EntryKind, Manifest, Piece, Repository, SectionRef};
use snapback::store::memory::MemoryStore;
use snapback::units::Id;

/// A pack's bytes and where its parts lie.
pub struct Pack {
    pub bytes: Vec<u8>,
    /// Per slot: offset, stored length, plain length, one zstd frame or raw.
    pub slots: Vec<(usize, usize, usize, bool)>,
    /// Where the slot table begins.
    pub table: usize,
}

impl Pack {
    pub fn parse(bytes: &[u8]) -> Pack {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        assert_eq!(
            (&bytes[..8], &bytes[bytes.len() - 8..]),
            (&b"SNAPPACK"[..], &b"SNAPDONE"[..])
        );
        let table = bytes.len() - 96 - 44 * word(bytes.len() - 32);
        let (mut slots, mut offset) = (Vec::new(), 32);
        for line in (table..bytes.len() - 96).step_by(44) {
            slots.push((offset, word(line), word(line + 4), bytes[line + 8] == 1));
            offset += word(line);
        }
        assert_eq!(offset, table);
        Pack {
            bytes: bytes.to_vec(),
            slots,
            table,
        }
    }

    pub fn is_meta(&self) -> bool {
        self.bytes[10] == 2
    }

    pub fn plain(&self, slot: u32) -> Vec<u8> {
        let (offset, stored, plain, packed) = self.slots[slot as usize];
        let bytes = &self.bytes[offset..offset + stored];
        match packed {
            true => zstd::bulk::decompress(bytes, plain).unwrap(),
            false => bytes.to_vec(),
        }
    }
}

pub fn key_of(pack: Id) -> String {
    let id = pack.to_string();
    format!("packs/{}/{id}", &id[..2])
}

/// One regular file of a backup.
#[derive(Debug)]
pub struct File {
    pub path: PathBuf,
    /// Offset, length, pack and slot of each chunk of data.
    pub chunks: Vec<(u64, u64, Id, u32)>,
    /// Where its sections lie, with the offset and length that each covers.
    pub sections: Vec<(u64, u64, Id, u32)>,
    /// Further names.
    pub links: Vec<PathBuf>,
}

pub struct Backup {
    pub manifest: Manifest,
    pub key: String,
    pub files: Vec<File>,
    /// All paths in table order.
    pub paths: Vec<PathBuf>,
    /// Slots of the root pack with blocks of the file table, and the range of `paths` in each.
    pub blocks: Vec<(u32, std::ops::Range<usize>)>,
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return value;
        }
    }
}

pub fn look(store: &MemoryStore, root: &std::path::Path) -> Vec<Backup> {
    let repository = Repository::open(Arc::new(store.clone())).unwrap();
    let listed = repository.list().unwrap();
    listed
        .into_iter()
        .map(|one| backup(store, &repository, root, one.key, one.manifest.unwrap()))
        .collect()
}

fn backup(
    store: &MemoryStore,
    repository: &Repository,
    root: &std::path::Path,
    key: String,
    manifest: Manifest,
) -> Backup {
    let opened = repository.find(&manifest.id.to_string()).unwrap();
    let mut fetcher = opened.fetcher().unwrap();
    let (mut files, mut paths): (Vec<File>, Vec<PathBuf>) = (Vec::new(), Vec::new());
    let path_of = |path: &[u8]| root.join(std::str::from_utf8(path).unwrap());
    for entry in opened.entries().unwrap() {
        let entry = entry.unwrap();
        paths.push(path_of(&entry.path));
        match &entry.kind {
            EntryKind::File(content) => {
                let mut file = File {
                    path: path_of(&entry.path),
                    chunks: Vec::new(),
                    sections: Vec::new(),
                    links: Vec::new(),
                };
                for (index, at) in content.sections.iter().enumerate() {
                    let start = index as u64 * (64 << 20);
                    if let SectionRef::Stored { pack, slot, .. } = at {
                        file.sections.push((start, content.section_bytes(index), *pack, *slot));
                    }
                    let section = fetcher.section(at, content.section_chunks(index)).unwrap();
                    for (number, piece) in section.pieces.iter().enumerate() {
                        let offset = start + (number * content.class.bytes()) as u64;
                        let length = (content.class.bytes() as u64).min(content.size - offset);
                        if let Piece::Data { pack, slot, .. } = piece {
                            file.chunks.push((offset, length, *pack, *slot));
                        }
                    }
                }
                files.push(file);
            }
            EntryKind::HardLink(first) => {
                let first = path_of(first);
                let file = files.iter_mut().find(|file| file.path == first).unwrap();
                file.links.push(path_of(&entry.path));
            }
            _ => {}
        }
    }
    let blocks = blocks(store, &manifest, &paths, root);
    Backup {
        manifest,
        key,
        files,
        paths,
        blocks,
    }
}

/// Reads the index of the file table, and the first path of each block.
fn blocks(
    store: &MemoryStore,
    manifest: &Manifest,
    paths: &[PathBuf],
    root: &std::path::Path,
) -> Vec<(u32, std::ops::Range<usize>)> {
    let pack = Pack::parse(&store.objects()[&key_of(manifest.root.pack)]);
    let index = pack.plain(manifest.root.table_slot);
    let mut rest = &index[..];
    let mut begins = Vec::new();
    for _ in 0..varint(&mut rest) {
        assert_eq!(
            rest[..16],
            manifest.root.pack.0,
            "small tables lie in the root's own pack"
        );
        rest = &rest[16..];
        let slot = varint(&mut rest) as u32;
        rest = &rest[32..];
        let block = pack.plain(slot);
        let mut entry = &block[..];
        varint(&mut entry);
        let length = varint(&mut entry) as usize;
        let first = root.join(std::str::from_utf8(&entry[..length]).unwrap());
        begins.push((slot, paths.iter().position(|path| *path == first).unwrap()));
    }
    let ends = begins.iter().skip(1).map(|(_, at)| *at).chain([paths.len()]);
    let ranges: Vec<usize> = ends.collect();
    begins
        .iter()
        .zip(ranges)
        .map(|((slot, from), to)| (*slot, *from..to))
        .collect()
}

/// Which part of an object is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Whole,
    Slot(u32),
}

/// What damage to packs means: per backup, the paths that cannot be restored whole, the lost parts of the table, or that it is unreadable.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Meaning {
    pub backups: BTreeSet<Id>,
    pub paths: BTreeSet<(Id, PathBuf)>,
    pub tables: BTreeSet<(Id, Option<PathBuf>, Option<PathBuf>)>,
    pub unreadable: BTreeSet<Id>,
}

impl Backup {
    pub fn id(&self) -> Id {
        self.manifest.id
    }

    /// What a backup misses when these parts of packs are damaged.
    pub fn misses(&self, damage: &BTreeMap<Id, Part>) -> Meaning {
        let hits = |pack: Id, slot: u32| {
            matches!(damage.get(&pack), Some(Part::Whole)) || damage.get(&pack) == Some(&Part::Slot(slot))
        };
        let (mut meaning, root) = (Meaning::default(), &self.manifest.root);
        if hits(root.pack, root.table_slot) {
            meaning.unreadable.insert(self.id());
            meaning.backups.insert(self.id());
            return meaning;
        }
        let mut gone = BTreeSet::new();
        for (slot, range) in &self.blocks {
            if hits(root.pack, *slot) {
                gone.extend(&self.paths[range.clone()]);
                let after = range.start.checked_sub(1).map(|at| self.paths[at].clone());
                meaning
                    .tables
                    .insert((self.id(), after, self.paths.get(range.end).cloned()));
            }
        }
        for file in &self.files {
            let mut all = file.chunks.iter().chain(&file.sections);
            if !gone.contains(&file.path) && all.any(|(_, _, pack, slot)| hits(*pack, *slot)) {
                let names = [&file.path].into_iter().chain(&file.links);
                let known = names.filter(|name| !gone.contains(name));
                meaning.paths.extend(known.map(|name| (self.id(), name.clone())));
            }
        }
        if !meaning.paths.is_empty() || !meaning.tables.is_empty() {
            meaning.backups.insert(self.id());
        }
        meaning
    }
}
