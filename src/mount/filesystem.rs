//! Answers to the kernel.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crossbeam_channel::Sender;
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyXattr, Request,
};

use super::content::Reads;
use super::node::Node;
use super::tree::{Table, Trees};
use crate::record::Above;
use crate::repository::{Content, Entry, EntryKind, Result};

/// Entries never change; lists of backups do.
const FOREVER: Duration = Duration::from_secs(3600);
const BRIEFLY: Duration = Duration::from_secs(1);
/// What a filesystem calls a block in `stat`.
const BLOCK: u64 = 512;

/// An open file.
struct Opened {
    table: Arc<Table>,
    content: Content,
    /// For messages.
    path: String,
}

/// The filesystem.
pub(super) struct BackupFs {
    trees: Trees,
    reads: Reads,
    allow_other: bool,
    messages: Sender<String>,
    failed: Arc<AtomicU64>,
    opened: Mutex<HashMap<u64, Arc<Opened>>>,
    next: AtomicU64,
    mounted: SystemTime,
}

impl BackupFs {
    pub fn new(trees: Trees, allow_other: bool, messages: Sender<String>, failed: Arc<AtomicU64>) -> BackupFs {
        BackupFs {
            trees,
            reads: Reads::new(),
            allow_other,
            messages,
            failed,
            opened: Mutex::default(),
            next: AtomicU64::new(1),
            mounted: SystemTime::now(),
        }
    }

    fn opened(&self) -> MutexGuard<'_, HashMap<u64, Arc<Opened>>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer, or EIO and a message.
    fn or_eio<T>(&self, what: impl FnOnce() -> String, answer: Result<T>) -> std::result::Result<T, Errno> {
        answer.map_err(|error| {
            self.failed.fetch_add(1, Ordering::Relaxed);
            let _ = self.messages.try_send(format!("cannot read {}: {error}", what()));
            Errno::EIO
        })
    }

    fn node(&self, ino: INodeNo) -> std::result::Result<Node, Errno> {
        self.trees.node(ino.0).ok_or(Errno::ENOENT)
    }

    /// The entry of an inode number; `None` for what is made up.
    fn entry(&self, node: &Node) -> std::result::Result<Option<Entry>, Errno> {
        let Node::Entry(backup, place) = node else {
            return Ok(None);
        };
        let entry = self.or_eio(|| "a file table".to_owned(), self.trees.entry(*backup, *place))?;
        entry.map(Some).ok_or(Errno::ENOENT)
    }

    fn name(&self, node: &Node, entry: &Entry) -> String {
        let Node::Entry(backup, _) = node else {
            return String::new();
        };
        let shown = self.trees.shown(*backup);
        let (host, name) = shown.map(|shown| (shown.host, shown.name)).unwrap_or_default();
        format!("{host}/{name}/{}", self.trees.original(*backup, entry).escape_ascii())
    }

    fn attributes(&self, node: &Node, entry: Option<&Entry>) -> std::result::Result<FileAttr, Errno> {
        let ino = INodeNo(self.trees.number(node));
        let (Some(entry), Node::Entry(backup, place)) = (entry, node) else {
            return Ok(self.made_up(ino, node));
        };
        let names = match entry.kind {
            EntryKind::Directory => 1,
            _ => self
                .or_eio(|| "a file table".to_owned(), self.trees.table(*backup))?
                .lookup()
                .names(*place),
        };
        let (kind, size, rdev) = match &entry.kind {
            EntryKind::File(content) => (FileType::RegularFile, content.size, 0),
            EntryKind::Directory => (FileType::Directory, 0, 0),
            EntryKind::Symlink(target) => (FileType::Symlink, target.len() as u64, 0),
            EntryKind::Fifo => (FileType::NamedPipe, 0, 0),
            EntryKind::CharDevice(major, minor) => (FileType::CharDevice, 0, device(*major, *minor)),
            EntryKind::BlockDevice(major, minor) => (FileType::BlockDevice, 0, device(*major, *minor)),
            // Names were followed to the content.
            EntryKind::HardLink(_) => return Err(Errno::EIO),
        };
        // That a file has holes shows in its blocks; how many, SEEK_DATA says.
        let holes = matches!(&entry.kind, EntryKind::File(content) if content.sparse);
        let modified = time(entry.metadata.mtime_ns);
        Ok(FileAttr {
            ino,
            size,
            blocks: size.div_ceil(BLOCK).saturating_sub(if holes { 8 } else { 0 }),
            atime: modified,
            mtime: modified,
            ctime: modified,
            crtime: modified,
            kind,
            perm: entry.metadata.mode as u16,
            nlink: names,
            uid: entry.metadata.uid,
            gid: entry.metadata.gid,
            rdev,
            blksize: 64 << 10,
            flags: 0,
        })
    }

    fn made_up(&self, ino: INodeNo, node: &Node) -> FileAttr {
        let link = matches!(node, Node::Latest(..));
        let target = match node {
            Node::Latest(host, link) => self.trees.latest(host, link).unwrap_or_default().len() as u64,
            _ => 0,
        };
        // Whom a directory above a tree keeps out, it keeps out here.
        let above = match node {
            Node::Above(backup, path) if self.allow_other => {
                let shown = self.trees.shown(*backup);
                shown.map_or(Above::CLOSED, |shown| shown.above(path))
            }
            _ => Above {
                mode: 0o555,
                ..Above::CLOSED
            },
        };
        FileAttr {
            ino,
            size: target,
            blocks: 0,
            atime: self.mounted,
            mtime: self.mounted,
            ctime: self.mounted,
            crtime: self.mounted,
            kind: if link { FileType::Symlink } else { FileType::Directory },
            perm: match (link, self.allow_other) {
                (true, _) => 0o777,
                (false, true) => (above.mode & 0o555) as u16,
                (false, false) => 0o500,
            },
            nlink: 1,
            uid: above.uid,
            gid: above.gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    fn look_up(&self, parent: INodeNo, name: &OsStr) -> std::result::Result<(FileAttr, Duration), Errno> {
        let parent = self.node(parent)?;
        let found = self.or_eio(
            || format!("the directory of {}", name.display()),
            self.trees.find(&parent, name.as_bytes()),
        )?;
        let (node, entry) = found.ok_or(Errno::ENOENT)?;
        Ok((self.attributes(&node, entry.as_ref())?, lifetime(&node)))
    }

    fn open_file(&self, ino: INodeNo) -> std::result::Result<u64, Errno> {
        let node = self.node(ino)?;
        let (Some(entry), Node::Entry(backup, _)) = (self.entry(&node)?, &node) else {
            return Err(Errno::EISDIR);
        };
        let path = self.name(&node, &entry);
        let EntryKind::File(content) = entry.kind else {
            return Err(Errno::EINVAL);
        };
        let table = self.or_eio(|| path.clone(), self.trees.table(*backup))?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.opened().insert(number, Arc::new(Opened { table, content, path }));
        Ok(number)
    }

    fn handle(&self, fh: FileHandle) -> std::result::Result<Arc<Opened>, Errno> {
        self.opened().get(&fh.0).cloned().ok_or(Errno::EBADF)
    }

    fn seek(&self, fh: FileHandle, offset: i64, whence: i32) -> std::result::Result<i64, Errno> {
        let file = self.handle(fh)?;
        let from = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
        if from >= file.content.size {
            return Err(Errno::ENXIO);
        }
        let data = match whence {
            libc::SEEK_DATA => true,
            libc::SEEK_HOLE => false,
            _ => return Err(Errno::EINVAL),
        };
        let found = self.reads.seek(&file.table.backup, &file.content, from, data);
        let found = self.or_eio(|| file.path.clone(), found)?;
        found.map(|at| at as i64).ok_or(Errno::ENXIO)
    }

    fn attribute(&self, ino: INodeNo, name: &OsStr) -> std::result::Result<Vec<u8>, Errno> {
        let node = self.node(ino)?;
        let entry = self.entry(&node)?.ok_or(Errno::ENODATA)?;
        let mut xattrs = entry.metadata.xattrs.into_iter();
        let found = xattrs.find(|(known, _)| known.as_slice() == name.as_bytes());
        found.map(|(_, value)| value).ok_or(Errno::ENODATA)
    }

    fn attribute_names(&self, ino: INodeNo) -> std::result::Result<Vec<u8>, Errno> {
        let node = self.node(ino)?;
        let xattrs = self
            .entry(&node)?
            .map(|entry| entry.metadata.xattrs)
            .unwrap_or_default();
        Ok(xattrs
            .into_iter()
            .flat_map(|(name, _)| [name, vec![0]].concat())
            .collect())
    }

    fn link_target(&self, ino: INodeNo) -> std::result::Result<Vec<u8>, Errno> {
        let node = self.node(ino)?;
        if let Node::Latest(host, link) = &node {
            return self
                .trees
                .latest(host, link)
                .map(String::into_bytes)
                .ok_or(Errno::ENOENT);
        }
        match self.entry(&node)?.map(|entry| entry.kind) {
            Some(EntryKind::Symlink(target)) => Ok(target),
            _ => Err(Errno::EINVAL),
        }
    }

    fn list(&self, ino: INodeNo, offset: u64, reply: &mut ReplyDirectory) -> std::result::Result<(), Errno> {
        let node = self.node(ino)?;
        // Offsets 1 and 2 are `.` and `..`; the tree's own begin behind them.
        for (own, name) in [(1, "."), (2, "..")] {
            if offset < own && reply.add(ino, own, FileType::Directory, name) {
                return Ok(());
            }
        }
        let mut take = |child: super::tree::Child| {
            let number = INodeNo(self.trees.number(&child.node));
            let kind = child
                .entry
                .as_ref()
                .map_or(made_up_kind(&child.node), |entry| file_type(&entry.kind));
            reply.add(number, child.offset + 2, kind, OsStr::from_bytes(&child.name))
        };
        let answer = self.trees.children(&node, offset.saturating_sub(2), &mut take);
        self.or_eio(|| "a directory".to_owned(), answer)
    }
}

impl Filesystem for BackupFs {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Without it the kernel would judge by the mode alone, whose group bits an ACL uses as its mask.
        let _ = config.add_capabilities(InitFlags::FUSE_POSIX_ACL);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.look_up(parent, name) {
            Ok((attributes, lifetime)) => reply.entry(&lifetime, &attributes, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let answer = self.node(ino).and_then(|node| {
            let entry = self.entry(&node)?;
            Ok((self.attributes(&node, entry.as_ref())?, lifetime(&node)))
        });
        match answer {
            Ok((attributes, lifetime)) => reply.attr(&lifetime, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.link_target(ino) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.open_file(ino) {
            // What the kernel has in its cache was verified when it was read.
            Ok(number) => reply.opened(FileHandle(number), FopenFlags::FOPEN_KEEP_CACHE),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let answer = self.handle(fh).and_then(|file| {
            let range = offset..offset.saturating_add(u64::from(size));
            let read = self.reads.read(&file.table.backup, &file.content, range);
            self.or_eio(|| file.path.clone(), read)
        });
        match answer {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.opened().remove(&fh.0);
        reply.ok();
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        match self.list(ino, offset, &mut reply) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(0, 0, 0, 0, 0, 4096, 255, 4096);
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        sized(self.attribute(ino, name), size, reply);
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        sized(self.attribute_names(ino), size, reply);
    }

    fn lseek(&self, _: &Request, _: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        match self.seek(fh, offset, whence) {
            Ok(at) => reply.offset(at),
            Err(error) => reply.error(error),
        }
    }
}

/// Attributes are asked for twice: how long, then what.
fn sized(answer: std::result::Result<Vec<u8>, Errno>, size: u32, reply: ReplyXattr) {
    match answer {
        Err(error) => reply.error(error),
        Ok(bytes) if size == 0 => reply.size(bytes.len() as u32),
        Ok(bytes) if bytes.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(bytes) => reply.data(&bytes),
    }
}

fn lifetime(node: &Node) -> Duration {
    match node {
        Node::Entry(..) | Node::Above(..) => FOREVER,
        _ => BRIEFLY,
    }
}

fn made_up_kind(node: &Node) -> FileType {
    match node {
        Node::Latest(..) => FileType::Symlink,
        _ => FileType::Directory,
    }
}

fn file_type(kind: &EntryKind) -> FileType {
    match kind {
        EntryKind::File(_) | EntryKind::HardLink(_) => FileType::RegularFile,
        EntryKind::Directory => FileType::Directory,
        EntryKind::Symlink(_) => FileType::Symlink,
        EntryKind::Fifo => FileType::NamedPipe,
        EntryKind::CharDevice(..) => FileType::CharDevice,
        EntryKind::BlockDevice(..) => FileType::BlockDevice,
    }
}

/// As the kernel packs a device's numbers for FUSE: 12 bits of major, 20 of minor.
fn device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & !0xff) << 12
}

fn time(nanoseconds: i128) -> SystemTime {
    let span = |ns: u128| Duration::new((ns / 1_000_000_000) as u64, (ns % 1_000_000_000) as u32);
    let far = SystemTime::UNIX_EPOCH;
    match u128::try_from(nanoseconds) {
        Ok(after) => far.checked_add(span(after)).unwrap_or(far),
        Err(_) => far.checked_sub(span(nanoseconds.unsigned_abs())).unwrap_or(far),
    }
}
