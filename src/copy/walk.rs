//! The walk over the trees, in table order: entries for the collector, jobs for the workers.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::Metadata as Found;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender};

use super::notes::Notes;
use super::parent::Parent;
use super::place::Place;
use super::section::next_section;
use super::size::too_large;
use super::stop::Stop;
use super::unreadable::{self, goes_without, read_error};
use super::{CopyOptions, Error, Result, Tree, leave_out};
use crate::finding::Finding;
use crate::repository::{ChunkClass, Content, Entry, EntryKind, Metadata, SectionRef};
use crate::sys;

/// What the collector gets, in table order.
pub(super) enum Item {
    /// Complete already.
    Entry(Entry),
    /// A file whose content the workers send, section by section.
    File { entry: Entry, replies: Receiver<Reply> },
}

/// What a worker says of a file.
pub(super) enum Reply {
    /// A section of a file in a snapshot.
    Section {
        index: usize,
        section: SectionRef,
        sparse: bool,
    },
    /// Sections `from` to `to` (without) of a file in a snapshot are holes.
    Holes { from: usize, to: usize },
    /// Sections `from` to `to` (without) of a file beside the database could not be read, or, after such a failure, were not tried.
    Unreadable { from: usize, to: usize, reason: String },
    /// A whole live file.
    Live(super::live::Live),
}

/// A file to be read.
pub(super) struct FileJob {
    /// Where to read it: its tree, and its path there.
    pub place: Place,
    pub relative: PathBuf,
    /// Its name in messages.
    pub original: PathBuf,
    pub inode: u64,
    pub size: u64,
    pub class: ChunkClass,
    pub live: bool,
    /// Whether it is the server's: what cannot be read of it ends the copy.
    pub database: bool,
    /// A section could not be read: the file is left out, and its others need not be tried.
    pub failed: AtomicBool,
    /// Whether it has fewer blocks than bytes, so that holes are looked for.
    pub may_have_holes: bool,
    pub parent: Option<Content>,
}

/// One section of a file in a snapshot, or a whole live file.
pub(super) struct Job {
    pub file: Arc<FileJob>,
    pub section: usize,
    pub reply: Sender<Reply>,
}

/// The way to collector and workers.
pub(super) struct Walk<'w, 'n> {
    pub options: &'w CopyOptions,
    pub notes: &'w Notes<'n>,
    pub stop: &'w Stop<'w>,
    pub parent: Parent<'w, 'n>,
    pub items: Sender<Item>,
    pub jobs: Sender<Job>,
    /// First names of files with several, by root, device and inode.
    pub links: HashMap<(u32, u64, u64), Vec<u8>>,
    /// The directories that the walk is in, the top first.
    pub open: Vec<Open>,
}

/// A directory that the walk is in.
pub(super) struct Open {
    path: Vec<u8>,
    /// What is still to be visited.
    names: std::vec::IntoIter<OsString>,
}

impl Open {
    fn below(&self, name: &std::ffi::OsStr) -> Vec<u8> {
        let mut below = self.path.clone();
        if !below.is_empty() {
            below.push(b'/');
        }
        below.extend_from_slice(name.as_bytes());
        below
    }
}

impl Walk<'_, '_> {
    pub fn run(mut self, trees: &[Tree]) -> Result<()> {
        for (root, tree) in trees.iter().enumerate() {
            let place = match Place::of(&tree.read_from, tree.live) {
                Err(error) if tree.live && error.io().is_some_and(is_gone) => {
                    self.vanished(&tree.original)?;
                    continue;
                }
                Err(error) => {
                    self.without((tree, &[]), &tree.original, "open", error.into_io())?;
                    continue;
                }
                Ok(place) => place,
            };
            self.visit(root as u32, (tree, &place), Vec::new())?;
            // No recursion: whoever owns a tree chooses how deep it is.
            while let Some(directory) = self.open.last_mut() {
                match directory.names.next() {
                    Some(name) => {
                        let below = directory.below(&name);
                        self.visit(root as u32, (tree, &place), below)?;
                    }
                    None => drop(self.open.pop()),
                }
            }
        }
        Ok(())
    }

    fn visit(&mut self, root: u32, (tree, place): (&Tree, &Place), path: Vec<u8>) -> Result<()> {
        self.stop.check()?;
        let relative = PathBuf::from(OsString::from_vec(path.clone()));
        let original = if path.is_empty() {
            tree.original.clone()
        } else {
            tree.original.join(&relative)
        };
        if let Some(error) = unreadable::too_long(&original) {
            return self.without((tree, &path), &original, "read", error);
        }
        let found = match place.look(&relative) {
            Ok(found) => found,
            Err(error) => return self.without((tree, &path), &original, "read", error),
        };
        if let Some(reason) = left_out(tree, &path, &original, found.file_type().is_socket()) {
            if !reason.is_empty() {
                self.notes.leave_out(original, &reason);
            }
            return Ok(());
        }
        let metadata = match place.at(&relative, |from| metadata(from, &found).map_err(sys::Error::into_io)) {
            Ok(metadata) => metadata,
            Err(error) => {
                return self.without((tree, &path), &original, "read the extended attributes of", error);
            }
        };
        let mut entry = Entry {
            root,
            path,
            kind: EntryKind::Directory,
            metadata,
            live: tree.live,
            torn: false,
        };
        let kind = found.file_type();
        if kind.is_dir() {
            let path = entry.path.clone();
            self.send(Item::Entry(entry))?;
            return self.descend((tree, place), &original, path);
        }
        if kind.is_file()
            && let Some(reason) = too_large(found.len(), found.blocks())
        {
            return self.refuse(tree, original, &reason);
        }
        if found.nlink() > 1 {
            if let Some(first) = self.links.get(&(root, found.dev(), found.ino())) {
                entry.kind = EntryKind::HardLink(first.clone());
                return self.send(Item::Entry(entry));
            }
            self.links.insert((root, found.dev(), found.ino()), entry.path.clone());
        }
        if kind.is_file() {
            return self.file((tree, place), entry, original, &found);
        }
        entry.kind = match place.at(&relative, |from| special(from, &found)) {
            Ok(kind) => kind,
            Err(error) => return self.without((tree, &entry.path), &original, "read the target of", error),
        };
        self.send(Item::Entry(entry))
    }

    fn descend(&mut self, (tree, place): (&Tree, &Place), original: &Path, path: Vec<u8>) -> Result<()> {
        let mut names = match place.names(Path::new(std::ffi::OsStr::from_bytes(&path))) {
            Ok(names) => names,
            Err(error) => return self.without((tree, &path), original, "list", error),
        };
        names.sort();
        self.open.push(Open {
            path,
            names: names.into_iter(),
        });
        Ok(())
    }

    fn file(
        &mut self,
        (tree, place): (&Tree, &Place),
        mut entry: Entry,
        original: PathBuf,
        found: &Found,
    ) -> Result<()> {
        let size = found.len();
        let class = class_of(&original, self.options.class);
        let parent = self
            .parent
            .content(entry.root, &entry.path)
            .filter(|content| content.class == class);
        let content = Content {
            size,
            class,
            sparse: false,
            sections: Vec::new(),
        };
        let count = if tree.live {
            1
        } else {
            size.div_ceil(crate::repository::SECTION_BYTES) as usize
        };
        entry.kind = EntryKind::File(content);
        if count == 0 {
            return self.send(Item::Entry(entry));
        }
        // One answer for each section at most, and none is kept room for: the size is somebody else's word.
        let (reply, replies) = crossbeam_channel::unbounded();
        let may_have_holes = found.blocks() * 512 < size;
        let file = FileJob {
            place: place.clone(),
            relative: PathBuf::from(OsString::from_vec(entry.path.clone())),
            original,
            inode: found.ino(),
            size,
            class,
            live: tree.live,
            database: tree.database,
            failed: AtomicBool::new(false),
            may_have_holes,
            parent,
        };
        let file = Arc::new(file);
        // The item first: whoever waits for it then knows that its jobs come.
        self.send(Item::File { entry, replies })?;
        let reply = Replies { file: &file, reply };
        let mut section = 0;
        match self.sections(&reply, count, &mut section) {
            // The rest of it: the sections before are with the workers.
            Err(error) => reply.unreadable(section, count, error),
            done => done,
        }
    }

    /// Cuts a file into jobs; `section` tells how far that came.
    fn sections(&self, reply: &Replies<'_>, count: usize, section: &mut usize) -> Result<()> {
        let file = reply.file;
        let holes = match file.may_have_holes && !file.live {
            true => Some(open_seen(file)?),
            false => None,
        };
        while *section < count {
            self.stop.check()?;
            let data = match &holes {
                Some(opened) => next_section(opened, *section, count)
                    .map_err(|error| read_error(&file.original, offset_of(*section), error))?,
                None => *section,
            };
            // A hole is one step, however long it is.
            if data > *section {
                let hole = Reply::Holes {
                    from: *section,
                    to: data,
                };
                reply.reply.send(hole).map_err(|_| Error::Interrupted(0))?;
                *section = data;
                continue;
            }
            let job = Job {
                file: Arc::clone(file),
                section: *section,
                reply: reply.reply.clone(),
            };
            self.jobs.send(job).map_err(|_| Error::Interrupted(0))?;
            *section += 1;
        }
        Ok(())
    }

    /// A file that no backup holds.
    fn refuse(&self, tree: &Tree, original: PathBuf, reason: &str) -> Result<()> {
        if tree.database {
            return Err(Error::Read {
                path: original,
                offset: 0,
                reason: format!("{reason}: remove the file; no server writes such a one"),
            });
        }
        self.notes.find(too_large_finding(&original, reason));
        self.notes.leave_out(original, "too large");
        Ok(())
    }

    /// Something cannot be looked at. On a snapshot nothing of a database may be missing; a live tree goes on changing.
    fn without(
        &self,
        (tree, path): (&Tree, &[u8]),
        original: &Path,
        operation: &'static str,
        error: std::io::Error,
    ) -> Result<()> {
        if tree.live && is_gone(&error) {
            return self.vanished(original);
        }
        if !goes_without(tree, path, &error) {
            return Err(sys::Error::path(operation, original, error).into());
        }
        let reason = format!("cannot {operation} it: {error}");
        self.notes.find(unreadable::left_out(original, &reason));
        self.notes.leave_out(original.to_owned(), &reason);
        Ok(())
    }

    fn vanished(&self, original: &Path) -> Result<()> {
        self.notes.find(vanished(original));
        Ok(())
    }

    fn send(&self, item: Item) -> Result<()> {
        self.items.send(item).map_err(|_| Error::Interrupted(0))
    }
}

/// A file of a snapshot, for its holes; it has to be what the walk saw.
fn open_seen(file: &FileJob) -> Result<std::fs::File> {
    let opened = file.place.open(&file.relative);
    let opened = opened.and_then(|opened| Ok((opened.metadata()?, opened)));
    let (found, opened) = opened.map_err(|error| read_error(&file.original, 0, error))?;
    if found.ino() != file.inode || found.len() != file.size {
        return Err(Error::Read {
            path: file.original.clone(),
            offset: 0,
            reason: "the snapshot is changing under us".to_owned(),
        });
    }
    Ok(opened)
}

/// Where the answers for a file go.
struct Replies<'f> {
    file: &'f Arc<FileJob>,
    reply: Sender<Reply>,
}

impl Replies<'_> {
    fn unreadable(&self, from: usize, to: usize, error: Error) -> Result<()> {
        let reply = self.file.leave_out(from, to, error)?;
        self.reply.send(reply).map_err(|_| Error::Interrupted(0))
    }
}

impl FileJob {
    /// What is answered for sections `from` to `to` (without) that could not be read.
    ///
    /// # Errors
    /// The copy cannot go on without the file: it is the server's, or it was not the file's fault.
    pub fn leave_out(&self, from: usize, to: usize, error: Error) -> Result<Reply> {
        if self.database || !matches!(error, Error::Read { .. }) {
            return Err(error);
        }
        self.failed.store(true, Ordering::Release);
        let Error::Read { offset, reason, .. } = error else {
            return Err(error);
        };
        let reason = format!("cannot read it at offset {offset}: {reason}");
        Ok(Reply::Unreadable { from, to, reason })
    }
}

/// Where a section begins, in bytes.
fn offset_of(section: usize) -> u64 {
    section as u64 * crate::repository::SECTION_BYTES
}

/// A file beside the database was left out since no backup holds it.
pub(super) fn too_large_finding(original: &Path, reason: &str) -> Finding {
    Finding::warning("too-large", format!("{} is left out: {reason}", original.display()))
        .remedy("remove it, or `exclude` it")
}

/// Whether the thing that had a name in a live tree has it no more: nothing has it, or a file has a directory's name, or (not the kernel's
/// word) it is no plain file, or lies behind a link.
pub(super) fn is_gone(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory) || error.raw_os_error().is_none()
}

/// A file of a live tree was gone when it was its turn.
pub(super) fn vanished(original: &Path) -> Finding {
    Finding::note(
        "vanished",
        format!("{} vanished while its live tree was copied", original.display()),
    )
}

/// Why something is not copied; an empty reason is not worth listing.
pub(super) fn left_out(tree: &Tree, path: &[u8], original: &Path, is_socket: bool) -> Option<String> {
    if let Some((_, reason)) = tree.skip.iter().find(|(skipped, _)| skipped == original) {
        return Some(reason.clone());
    }
    if path.is_empty() {
        return None;
    }
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let reason = leave_out::anywhere(name, is_socket);
    let reason = reason.or_else(|| {
        if tree.datadir {
            leave_out::in_datadir(path)
        } else {
            None
        }
    });
    reason.map(str::to_owned)
}

fn metadata(from: &Path, found: &Found) -> sys::Result<Metadata> {
    Ok(Metadata {
        mode: found.mode() & 0o7777,
        uid: found.uid(),
        gid: found.gid(),
        mtime_ns: i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec()),
        xattrs: sys::fs::link_xattrs(from)?,
    })
}

fn special(from: &Path, found: &Found) -> std::io::Result<EntryKind> {
    let kind = found.file_type();
    let (major, minor) = (rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()));
    Ok(match () {
        () if kind.is_symlink() => EntryKind::Symlink(std::fs::read_link(from)?.into_os_string().into_vec()),
        () if kind.is_fifo() => EntryKind::Fifo,
        () if kind.is_char_device() => EntryKind::CharDevice(major, minor),
        () => EntryKind::BlockDevice(major, minor),
    })
}

/// Binary, relay and Aria logs (`name.000123`) grow at their end only: large chunks take less room for them.
fn class_of(original: &Path, ordinary: ChunkClass) -> ChunkClass {
    let number = original.extension().map(OsStrExt::as_bytes).unwrap_or_default();
    if number.len() >= 6 && number.iter().all(u8::is_ascii_digit) {
        ChunkClass::Large
    } else {
        ordinary
    }
}
