//! One file, directory or link of a backup, with all its metadata.

use std::cmp::Ordering;

use super::SectionRef;
use super::section::SECTION_BYTES;
use super::wire::{Decoder, Encoder, Malformed};
use crate::units::Id;

/// The longest path (PATH_MAX) and link target, in bytes.
const LONGEST_PATH: usize = 4096;
/// The largest extended attribute value (XATTR_SIZE_MAX), in bytes.
/// Sections of a file at most: 256 TiB. What is not a hole fits a slot only up to a quarter of that.
const MOST_SECTIONS: u64 = 1 << 22;
/// The largest file that a backup holds, in bytes.
pub const LARGEST_FILE: u64 = MOST_SECTIONS * SECTION_BYTES;
const LARGEST_XATTR: usize = 64 << 10;

/// The fixed chunk size of a file, in the format's three classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChunkClass {
    /// 16 KiB: scattered small writes.
    Small,
    /// 64 KiB: the default.
    #[default]
    Medium,
    /// 1 MiB: logs and other files that are only appended to.
    Large,
}

impl ChunkClass {
    /// The size in bytes.
    pub fn bytes(self) -> usize {
        match self {
            ChunkClass::Small => 16 << 10,
            ChunkClass::Medium => 64 << 10,
            ChunkClass::Large => 1 << 20,
        }
    }

    /// The class of this many bytes, if there is one.
    pub fn of(bytes: u64) -> Option<ChunkClass> {
        [ChunkClass::Small, ChunkClass::Medium, ChunkClass::Large]
            .into_iter()
            .find(|class| class.bytes() as u64 == bytes)
    }
}

/// Owner, mode, times, extended attributes (ACLs are attributes too: system.posix_acl_*).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Permission bits with setuid, setgid and sticky (0o7777).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time in nanoseconds since 1970.
    pub mtime_ns: i128,
    /// Extended attributes by name, sorted.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A regular file's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Length in bytes.
    pub size: u64,
    /// Chunk size.
    pub class: ChunkClass,
    /// Whether the file had holes: a restore leaves zero blocks out.
    pub sparse: bool,
    /// One per 64 MiB of the file, in order; none for an empty file.
    pub sections: Vec<SectionRef>,
}

impl Content {
    /// How many bytes section `index` covers.
    pub fn section_bytes(&self, index: usize) -> u64 {
        self.size
            .saturating_sub(index as u64 * SECTION_BYTES)
            .min(SECTION_BYTES)
    }

    /// How many chunks section `index` must have.
    pub fn section_chunks(&self, index: usize) -> usize {
        (self.section_bytes(index) as usize).div_ceil(self.class.bytes())
    }

    /// Whether nothing was ever written in section `index`. Costs nothing, however long the section is.
    pub fn is_hole(&self, index: usize) -> bool {
        self.sections.get(index) == Some(&SectionRef::hole(self.section_chunks(index)))
    }
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File(Content),
    /// A directory.
    Directory,
    /// A symbolic link and its target, as it is.
    Symlink(Vec<u8>),
    /// A further name of the file at this path (relative to the same root, earlier in the table).
    HardLink(Vec<u8>),
    /// A named pipe.
    Fifo,
    /// A character device: major, minor.
    CharDevice(u32, u32),
    /// A block device: major, minor.
    BlockDevice(u32, u32),
}

/// One entry of a backup's file table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Which of the backup's roots (index into the record's `roots`).
    pub root: u32,
    /// Path relative to the root, raw bytes, no leading slash, no `.` or `..`; empty for the root itself.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Its metadata.
    pub metadata: Metadata,
    /// Copied from the live filesystem, not from a snapshot.
    pub live: bool,
    /// It changed while it was copied live, and went on changing over all retries.
    pub torn: bool,
}

/// Table order: by root, then by path, component by component (so that a directory's content comes before `directory.x`).
pub fn table_order(one: (u32, &[u8]), two: (u32, &[u8])) -> Ordering {
    let separator = |byte: &u8| *byte == b'/';
    one.0
        .cmp(&two.0)
        .then_with(|| match (one.1.is_empty(), two.1.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            (false, false) => one.1.split(separator).cmp(two.1.split(separator)),
        })
}

const LIVE: u8 = 1;
const TORN: u8 = 2;
const SPARSE: u8 = 4;

impl Entry {
    pub(super) fn encode(&self, encoder: &mut Encoder) {
        encoder.varint(u64::from(self.root));
        encoder.blob(&self.path);
        let sparse = matches!(&self.kind, EntryKind::File(content) if content.sparse);
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        encoder.byte(flag(self.live, LIVE) | flag(self.torn, TORN) | flag(sparse, SPARSE));
        encode_metadata(&self.metadata, encoder);
        match &self.kind {
            EntryKind::File(content) => {
                encoder.byte(0);
                encode_content(content, encoder);
            }
            EntryKind::Directory => encoder.byte(1),
            EntryKind::Symlink(target) => {
                encoder.byte(2);
                encoder.blob(target);
            }
            EntryKind::HardLink(first) => {
                encoder.byte(3);
                encoder.blob(first);
            }
            EntryKind::Fifo => encoder.byte(4),
            EntryKind::CharDevice(major, minor) => encode_device(5, *major, *minor, encoder),
            EntryKind::BlockDevice(major, minor) => encode_device(6, *major, *minor, encoder),
        }
    }

    /// An entry that only has a place: for looking one up.
    pub fn probe(root: u32, path: Vec<u8>) -> Entry {
        Entry {
            root,
            path,
            kind: EntryKind::Directory,
            metadata: Metadata::default(),
            live: false,
            torn: false,
        }
    }

    pub(super) fn decode(decoder: &mut Decoder<'_>) -> Result<Entry, Malformed> {
        let root = decoder.number()?;
        let path = decoder.blob(LONGEST_PATH)?;
        let flags = decoder.byte()?;
        if flags & !(LIVE | TORN | SPARSE) != 0 {
            return Err(format!("unknown flags {flags:#x}"));
        }
        let metadata = decode_metadata(decoder)?;
        let kind = match decoder.byte()? {
            0 => EntryKind::File(decode_content(flags & SPARSE != 0, decoder)?),
            1 => EntryKind::Directory,
            2 => EntryKind::Symlink(link_target(decoder.blob(LONGEST_PATH)?)?),
            3 => {
                let first = decoder.blob(LONGEST_PATH)?;
                safe_path(first)?;
                EntryKind::HardLink(first.to_vec())
            }
            4 => EntryKind::Fifo,
            5 => EntryKind::CharDevice(decoder.number()?, decoder.number()?),
            6 => EntryKind::BlockDevice(decoder.number()?, decoder.number()?),
            other => return Err(format!("unknown entry kind {other}")),
        };
        if !path.is_empty() {
            safe_path(path)?;
        }
        if flags & SPARSE != 0 && !matches!(kind, EntryKind::File(_)) {
            return Err("only a file can be sparse".to_owned());
        }
        Ok(Entry {
            root,
            path: path.to_vec(),
            kind,
            metadata,
            live: flags & LIVE != 0,
            torn: flags & TORN != 0,
        })
    }
}

/// No way out of the root: no empty component, `.`, `..`, or NUL.
fn safe_path(path: &[u8]) -> Result<(), Malformed> {
    let bad = |part: &[u8]| part.is_empty() || part == b"." || part == b".." || part.len() > 255;
    if path.contains(&0) || path.split(|byte| *byte == b'/').any(bad) {
        return Err(format!(
            "the path `{}` is not one that a backup holds",
            path.escape_ascii()
        ));
    }
    Ok(())
}

fn link_target(target: &[u8]) -> Result<Vec<u8>, Malformed> {
    if target.is_empty() || target.contains(&0) {
        return Err("a symbolic link without a valid target".to_owned());
    }
    Ok(target.to_vec())
}

fn encode_device(kind: u8, major: u32, minor: u32, encoder: &mut Encoder) {
    encoder.byte(kind);
    encoder.varint(u64::from(major));
    encoder.varint(u64::from(minor));
}

fn encode_metadata(metadata: &Metadata, encoder: &mut Encoder) {
    encoder.varint(u64::from(metadata.mode & 0o7777));
    encoder.varint(u64::from(metadata.uid));
    encoder.varint(u64::from(metadata.gid));
    let (seconds, nanoseconds) = (
        metadata.mtime_ns.div_euclid(1_000_000_000),
        metadata.mtime_ns.rem_euclid(1_000_000_000),
    );
    // Kernels keep 64 bits of seconds.
    let seconds = i64::try_from(seconds).unwrap_or(if seconds < 0 { i64::MIN } else { i64::MAX });
    encoder.varint((seconds << 1 ^ seconds >> 63) as u64);
    encoder.varint(nanoseconds as u64);
    encoder.varint(metadata.xattrs.len() as u64);
    for (name, value) in &metadata.xattrs {
        encoder.blob(name);
        encoder.blob(value);
    }
}

fn decode_metadata(decoder: &mut Decoder<'_>) -> Result<Metadata, Malformed> {
    let mode: u32 = decoder.number()?;
    if mode > 0o7777 {
        return Err(format!("the mode {mode:o} is none"));
    }
    let (uid, gid) = (decoder.number()?, decoder.number()?);
    let word = decoder.varint()?;
    let seconds = (word >> 1) as i64 ^ -((word & 1) as i64);
    let nanoseconds = decoder.varint()?;
    if nanoseconds > 999_999_999 {
        return Err(format!("{nanoseconds} nanoseconds"));
    }
    let mut xattrs = Vec::new();
    for _ in 0..decoder.count(2)? {
        let (name, value) = (decoder.blob(255)?, decoder.blob(LARGEST_XATTR)?);
        if name.is_empty() || name.contains(&0) {
            return Err("an extended attribute without a valid name".to_owned());
        }
        xattrs.push((name.to_vec(), value.to_vec()));
    }
    let mtime_ns = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    Ok(Metadata {
        mode,
        uid,
        gid,
        mtime_ns,
        xattrs,
    })
}

fn encode_content(content: &Content, encoder: &mut Encoder) {
    encoder.varint(content.size);
    encoder.byte(match content.class {
        ChunkClass::Small => 0,
        ChunkClass::Medium => 1,
        ChunkClass::Large => 2,
    });
    for section in &content.sections {
        match section {
            SectionRef::Inline(bytes) => {
                encoder.byte(0);
                encoder.blob(bytes);
            }
            SectionRef::Stored { pack, slot, hash } => {
                encoder.byte(1);
                encoder.raw(&pack.0);
                encoder.varint(u64::from(*slot));
                encoder.raw(hash);
            }
        }
    }
}

fn decode_content(sparse: bool, decoder: &mut Decoder<'_>) -> Result<Content, Malformed> {
    let size = decoder.varint()?;
    if size > i64::MAX as u64 {
        return Err(format!("a file of {size} bytes"));
    }
    let class = match decoder.byte()? {
        0 => ChunkClass::Small,
        1 => ChunkClass::Medium,
        2 => ChunkClass::Large,
        other => return Err(format!("unknown chunk class {other}")),
    };
    let count = size.div_ceil(SECTION_BYTES);
    if count > MOST_SECTIONS {
        return Err(format!("a file of {size} bytes, larger than any that a backup holds"));
    }
    let mut sections = Vec::new();
    for _ in 0..count {
        // Each one takes bytes of the block, so a lie about the size ends here soon.
        sections.push(match decoder.byte()? {
            0 => SectionRef::Inline(decoder.blob(super::section::INLINE)?.to_vec()),
            1 => SectionRef::Stored {
                pack: Id(decoder.array()?),
                slot: decoder.number()?,
                hash: decoder.array()?,
            },
            other => return Err(format!("unknown section form {other}")),
        });
    }
    Ok(Content {
        size,
        class,
        sparse,
        sections,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(path: &[u8]) -> Entry {
        Entry {
            root: 0,
            path: path.to_vec(),
            kind: EntryKind::Directory,
            metadata: Metadata::default(),
            live: false,
            torn: false,
        }
    }

    fn round_trip(entry: &Entry) -> Result<Entry, Malformed> {
        let mut encoder = Encoder::default();
        entry.encode(&mut encoder);
        let mut decoder = Decoder::new(&encoder.bytes);
        let back = Entry::decode(&mut decoder)?;
        decoder.end()?;
        Ok(back)
    }

    proptest! {
        #[test]
        fn metadata_comes_back(mode in 0u32..0o10000, uid: u32, gid: u32, mtime in any::<i64>(), nanos in 0i128..1_000_000_000, value: Vec<u8>) {
            let mtime_ns = i128::from(mtime) * 1_000_000_000 + nanos;
            let metadata = Metadata { mode, uid, gid, mtime_ns, xattrs: vec![(b"user.x".to_vec(), value)] };
            let entry = Entry { metadata, ..entry(b"a") };
            prop_assert_eq!(round_trip(&entry), Ok(entry));
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes: Vec<u8>) {
            let _ = Entry::decode(&mut Decoder::new(&bytes));
        }
    }

    #[test]
    fn every_kind_comes_back() {
        let stored = SectionRef::Stored {
            pack: Id([3; 16]),
            slot: 9,
            hash: [4; 32],
        };
        let content = Content {
            size: SECTION_BYTES + 1,
            class: ChunkClass::Small,
            sparse: true,
            sections: vec![stored, SectionRef::Inline(vec![1, 2])],
        };
        let kinds = [
            EntryKind::File(content),
            EntryKind::Directory,
            EntryKind::Symlink(b"../anywhere".to_vec()),
            EntryKind::HardLink(b"a/b".to_vec()),
            EntryKind::Fifo,
            EntryKind::CharDevice(1, 3),
            EntryKind::BlockDevice(8, 0),
        ];
        for kind in kinds {
            let entry = Entry {
                kind,
                live: true,
                torn: true,
                ..entry(b"dir/file")
            };
            assert_eq!(round_trip(&entry), Ok(entry));
        }
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        for path in ["/etc/passwd", "..", "a/../../b", "a//b", "a/.", "./a", "a/", "a\0b"] {
            assert!(round_trip(&entry(path.as_bytes())).is_err(), "{path:?}");
            let link = Entry {
                kind: EntryKind::HardLink(path.as_bytes().to_vec()),
                ..entry(b"x")
            };
            assert!(round_trip(&link).is_err(), "link to {path:?}");
        }
    }

    #[test]
    fn a_directory_comes_before_its_content_and_that_before_its_longer_neighbour() {
        let sorted: [(u32, &[u8]); 6] = [(0, b""), (0, b"a"), (0, b"a/b"), (0, b"a.txt"), (0, b"b"), (1, b"")];
        for (at, one) in sorted.iter().enumerate() {
            for (other, two) in sorted.iter().enumerate() {
                assert_eq!(table_order(*one, *two), at.cmp(&other), "{one:?} {two:?}");
            }
        }
    }
}
