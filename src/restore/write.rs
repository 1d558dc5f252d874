//! Writing a backup's entries: one thread reads the table and makes names, several fill files.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender};

use super::Plan;
use super::pieces::{Borrowed, Piece, find, in_space, is_dropped};
use crate::copy::notes::Notes;
use crate::copy::stop::Stop;
use crate::copy::{Error, Result};
use crate::finding::Finding;
use crate::monitor::Monitor;
use crate::repository::{Backup, Content, Entry, EntryKind, Fetcher, Metadata, Piece as Chunk, SECTION_BYTES};
use crate::sys::fs::{Beneath, Special, no_such_attribute, start_writing};
use crate::sys::signal::Cancel;

/// A file that is being filled.
struct Filling<'s> {
    beneath: &'s Beneath,
    relative: PathBuf,
    original: PathBuf,
    file: File,
    content: Content,
    metadata: Metadata,
    /// Sections that are not written yet; whoever writes the last one sets the metadata.
    left: AtomicUsize,
}

struct Job<'s> {
    filling: Arc<Filling<'s>>,
    section: usize,
}

/// Writes everything that was chosen. Nothing is durable yet.
pub(super) fn write(plan: &Plan<'_>, notes: &Notes<'_>, monitor: &dyn Monitor, cancel: &Cancel) -> Result<()> {
    let (stop, workers) = (Stop::new(cancel), plan.request.workers.max(1));
    let shared = Shared {
        notes,
        monitor,
        stop: &stop,
    };
    let directories = std::thread::scope(|scope| {
        let (sender, jobs) = crossbeam_channel::bounded(2 * workers);
        let (stop, shared) = (&stop, &shared);
        for _ in 0..workers {
            let jobs: Receiver<Job<'_>> = jobs.clone();
            scope.spawn(move || stop.guard(|| fill(&jobs, plan.backup, shared)));
        }
        drop(jobs);
        let mut names = Names {
            plan,
            shared,
            sender,
            borrowed: HashMap::new(),
            directories: Vec::new(),
        };
        stop.guard(|| names.make());
        // The sender goes with `names`: the workers end when no more jobs can come.
        names.directories
    });
    // Directories get their times when all files are in them.
    stop.guard(|| {
        directories.iter().rev().try_for_each(|(space, relative, metadata)| {
            stop.check()?;
            dress(plan.spaces[*space].beneath(), relative, metadata, true, notes)
        })
    });
    stop.cause()
}

struct Shared<'s> {
    notes: &'s Notes<'s>,
    monitor: &'s dyn Monitor,
    stop: &'s Stop<'s>,
}

/// The thread that reads the table and makes names.
struct Names<'s> {
    plan: &'s Plan<'s>,
    shared: &'s Shared<'s>,
    sender: Sender<Job<'s>>,
    borrowed: Borrowed,
    /// In order of making; their metadata is set at the end, the last first.
    directories: Vec<(usize, PathBuf, Metadata)>,
}

impl<'s> Names<'s> {
    fn make(&mut self) -> Result<()> {
        for entry in self.plan.backup.entries()? {
            self.shared.stop.check()?;
            let entry = entry?;
            if self.plan.survey.borrowed.contains(&(entry.root, entry.path.clone())) {
                self.borrowed.insert((entry.root, entry.path.clone()), entry.clone());
            }
            let Some((index, rest)) = find(self.plan.pieces, &entry) else {
                continue;
            };
            let piece = &self.plan.pieces[index];
            if is_dropped(piece, rest, self.plan.request) {
                continue;
            }
            let Some(space) = self
                .plan
                .spaces
                .iter()
                .position(|space| space.destination() == piece.space)
            else {
                continue;
            };
            let relative = self.plan.spaces[space].inside(&in_space(piece, rest));
            let original = original(piece, rest);
            self.entry(entry, space, relative, original)?;
            self.shared.monitor.advance(0, 1);
        }
        Ok(())
    }

    fn entry(&mut self, entry: Entry, space: usize, relative: PathBuf, original: PathBuf) -> Result<()> {
        let beneath = self.plan.spaces[space].beneath();
        // Above a piece's top, and above a part that was chosen, directories may be missing.
        if let Some(parent) = relative
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty() && !matches!(beneath.exists(parent), Ok(true)))
        {
            beneath.make_directories(parent, 0o755)?;
        }
        if entry.torn {
            let message = format!(
                "{} was changing while it was backed up: its content may be of several moments",
                original.display()
            );
            self.shared.notes.find(Finding::warning("torn", message));
        }
        match entry.kind {
            EntryKind::Directory => {
                if !relative.as_os_str().is_empty() {
                    beneath.make_directory(&relative, 0o700)?;
                }
                self.directories.push((space, relative, entry.metadata));
                Ok(())
            }
            EntryKind::File(content) => self.file(content, entry.metadata, beneath, relative, original),
            EntryKind::HardLink(first) => self.hard_link(entry.root, first, entry.metadata, space, relative, original),
            EntryKind::Symlink(target) => {
                beneath.make_symlink(&target, &relative)?;
                dress(beneath, &relative, &entry.metadata, false, self.shared.notes)
            }
            EntryKind::Fifo => self.special(Special::Fifo, &entry.metadata, beneath, &relative),
            EntryKind::CharDevice(major, minor) => {
                self.special(Special::CharDevice(major, minor), &entry.metadata, beneath, &relative)
            }
            EntryKind::BlockDevice(major, minor) => {
                self.special(Special::BlockDevice(major, minor), &entry.metadata, beneath, &relative)
            }
        }
    }

    fn file(
        &mut self,
        content: Content,
        metadata: Metadata,
        beneath: &'s Beneath,
        relative: PathBuf,
        original: PathBuf,
    ) -> Result<()> {
        let file = beneath.create_file(&relative, 0o600)?;
        let sections = content.sections.len();
        if sections == 0 {
            return dress(beneath, &relative, &metadata, true, self.shared.notes);
        }
        file.set_len(content.size).map_err(|error| wrong(&original, error))?;
        let filling = Filling {
            beneath,
            relative,
            original,
            file,
            content,
            metadata,
            left: AtomicUsize::new(sections),
        };
        let filling = Arc::new(filling);
        for section in 0..sections {
            let job = Job {
                filling: Arc::clone(&filling),
                section,
            };
            self.sender.send(job).map_err(|_| Error::Interrupted(0))?;
        }
        Ok(())
    }

    fn hard_link(
        &mut self,
        root: u32,
        first: Vec<u8>,
        metadata: Metadata,
        space: usize,
        relative: PathBuf,
        original: PathBuf,
    ) -> Result<()> {
        let beneath = self.plan.spaces[space].beneath();
        let key = (root, first);
        let borrowed = self.borrowed.get_mut(&key).map(|entry| entry.kind.clone());
        let first_at = match borrowed {
            // The first name stays behind: this one becomes the file, and the first for those that follow.
            Some(EntryKind::File(content)) => {
                let at = EntryKind::HardLink(relative.as_os_str().as_bytes().to_vec());
                if let Some(entry) = self.borrowed.get_mut(&key) {
                    entry.kind = at;
                }
                return self.file(content, metadata, beneath, relative, original);
            }
            Some(EntryKind::HardLink(at)) => PathBuf::from(std::ffi::OsStr::from_bytes(&at)),
            _ => {
                let probe = Entry {
                    root: key.0,
                    path: key.1,
                    kind: EntryKind::Directory,
                    metadata: Metadata::default(),
                    live: false,
                    torn: false,
                };
                let Some((index, rest)) = find(self.plan.pieces, &probe) else {
                    return Err(wrong(&original, "its first name is not in the backup"));
                };
                self.plan.spaces[space].inside(&in_space(&self.plan.pieces[index], rest))
            }
        };
        Ok(beneath.make_hard_link(&first_at, &relative)?)
    }

    /// Who may not make devices restores the rest.
    fn special(&self, special: Special, metadata: &Metadata, beneath: &Beneath, relative: &Path) -> Result<()> {
        match beneath.make_special(special, relative, 0o600) {
            Err(error) if error.errno() == Some(libc::EPERM) => {
                let said = format!("{error}: it was left out");
                self.shared
                    .notes
                    .find(Finding::warning("special-file", said).remedy("restore as root"));
                Ok(())
            }
            Err(error) => Err(error.into()),
            Ok(()) => dress(beneath, relative, metadata, true, self.shared.notes),
        }
    }
}

/// A worker: fetches, verifies, writes.
fn fill(jobs: &Receiver<Job<'_>>, backup: &Backup, shared: &Shared<'_>) -> Result<()> {
    let mut fetcher = backup.fetcher()?;
    let mut chunk = Vec::new();
    for job in jobs {
        section(&job.filling, job.section, &mut fetcher, &mut chunk, shared)?;
        if job.filling.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            let Filling {
                beneath,
                relative,
                metadata,
                ..
            } = &*job.filling;
            dress(beneath, relative, metadata, true, shared.notes)?;
        }
    }
    Ok(())
}

fn section(
    filling: &Filling<'_>,
    index: usize,
    fetcher: &mut Fetcher,
    buffer: &mut Vec<u8>,
    shared: &Shared<'_>,
) -> Result<()> {
    let Filling {
        content,
        file,
        original,
        ..
    } = filling;
    let named = |error: crate::repository::Error| match error {
        crate::repository::Error::Damaged { object, reason } => {
            crate::repository::Error::damaged(object, format!("{reason}; needed for {}", original.display()))
        }
        other => other,
    };
    let section = fetcher
        .section(&content.sections[index], content.section_chunks(index))
        .map_err(named)?;
    let (start, bytes) = (index as u64 * SECTION_BYTES, content.section_bytes(index));
    let mut at = 0;
    for piece in &section.pieces {
        shared.stop.check()?;
        let length = (bytes - at).min(content.class.bytes() as u64);
        let skipped = match piece {
            Chunk::Hole => true,
            // The file is new and as long as it will be: it reads as zeros there. Written all the same where blocks were had.
            Chunk::Zero => content.sparse,
            Chunk::Data { .. } => false,
        };
        if !skipped {
            fetcher.chunk(piece, length as usize, buffer).map_err(named)?;
            file.write_all_at(buffer, start + at)
                .map_err(|error| wrong(original, error))?;
        }
        shared.monitor.advance(length, 0);
        at += length;
    }
    // So that the sync at the end is short.
    start_writing(file, start, bytes);
    Ok(())
}

/// Sets owner, mode, attributes and time; what this user may not set is said once and does not end the restore.
fn dress(beneath: &Beneath, relative: &Path, metadata: &Metadata, has_mode: bool, notes: &Notes<'_>) -> Result<()> {
    if let Err(error) = beneath.set_owner(relative, metadata.uid, metadata.gid) {
        if error.errno() != Some(libc::EPERM) {
            return Err(error.into());
        }
        let said = "owners could not be restored: only root may give files away";
        notes.once("owner", || {
            Finding::warning("owner", said).remedy("restore as root, or `chown -R` afterwards")
        });
    }
    for (name, value) in &metadata.xattrs {
        match beneath.set_xattr(relative, name, value) {
            Err(error) if no_such_attribute(&error) || error.errno() == Some(libc::EPERM) => {
                notes.find(Finding::warning(
                    "xattr",
                    format!("{error} (`{}`)", name.escape_ascii()),
                ));
            }
            answer => answer?,
        }
    }
    // After the attributes: an ACL would change the mode's group bits.
    if has_mode {
        beneath.set_mode(relative, metadata.mode)?;
    }
    Ok(beneath.set_modified(relative, metadata.mtime_ns)?)
}

fn original(piece: &Piece, rest: &[u8]) -> PathBuf {
    if rest.is_empty() {
        piece.original.clone()
    } else {
        piece.original.join(std::ffi::OsStr::from_bytes(rest))
    }
}

fn wrong(path: &Path, reason: impl ToString) -> Error {
    Error::Write {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}
