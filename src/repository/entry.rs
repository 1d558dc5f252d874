//! One file, directory or link of a backup, with all its metadata.

use super::SectionRef;

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

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File(Content),
    /// A directory.
    Directory,
    /// A symbolic link and its target, as it is.
    Symlink(Vec<u8>),
    /// A further name of the file at this path (absolute, in the same backup, earlier in the table).
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
