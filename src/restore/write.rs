//! Writing a backup's entries: one thread reads the table and makes names, several fill files.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crossbeam_channel::{Receiver, Sender};

use super::Plan;
use super::lost::{LostRange, Place};
use super::pieces::{Piece, find, in_space, is_dropped};
use super::relocate;
use super::workspace::Workspace;
use crate::copy::notes::Notes;
use crate::copy::stop::Stop;
use crate::copy::{Error, Result};
use crate::finding::Finding;
use crate::monitor::Monitor;
use crate::repository::{Content, Entry, EntryKind, Metadata};
use crate::sys::fs::{Beneath, Special};
use crate::sys::signal::Cancel;
pub(super) use fill::dress;
use fill::{Job, Shared, fill, wrong};
use rights::Rights;

mod fill;
mod rights;

/// Writes everything that was chosen. Nothing is durable yet.
pub(super) fn write(plan: &Plan<'_>, notes: &Notes<'_>, monitor: &dyn Monitor, cancel: &Cancel) -> Result<()> {
    let (stop, workers) = (Stop::new(cancel), plan.request.workers.max(1));
    let shared = Shared {
        notes,
        losses: plan.losses,
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
            stand_ins: HashMap::new(),
            directories: Vec::new(),
            rights: Rights::new(plan.request.special),
        };
        stop.guard(|| names.make());
        names.rights.tell(notes);
        // The sender goes with `names`: the workers end when no more jobs can come.
        names.directories
    });
    stop.guard(|| {
        stop.check()?;
        Ok(plan.losses.settle(plan.spaces)?)
    });
    // Directories get their times when all files are in them.
    stop.guard(|| {
        directories.iter().rev().try_for_each(|(space, relative, metadata)| {
            stop.check()?;
            let space = &plan.spaces[*space];
            // Whoever gets the top could come in.
            match relative.as_os_str().is_empty() {
                true => space.keep_for_top(metadata.clone()),
                false => dress(space.beneath(), relative, metadata, true, notes)?,
            }
            Ok(())
        })
    });
    stop.cause()
}

/// The thread that reads the table and makes names.
struct Names<'s> {
    plan: &'s Plan<'s>,
    shared: &'s Shared<'s>,
    sender: Sender<Job<'s>>,
    /// Contents of files, for further names of theirs in another workspace than their own, by root and path.
    borrowed: HashMap<(u32, Vec<u8>), Content>,
    /// The names, in a workspace, that stand in for first names which are not in it.
    stand_ins: HashMap<(u32, Vec<u8>, usize), PathBuf>,
    /// In order of making; their metadata is set at the end, the last first.
    directories: Vec<(usize, PathBuf, Metadata)>,
    /// What may come back with rights that it gives.
    rights: Rights,
}

impl<'s> Names<'s> {
    fn make(&mut self) -> Result<()> {
        let mut lost_tables = 0;
        for entry in self.plan.backup.entries()? {
            self.shared.stop.check()?;
            let entry = match entry {
                Ok(entry) => entry,
                // The survey has listed it; a store that answers otherwise now is not to be gone on with.
                Err(error)
                    if lost_tables < self.plan.survey.tables.len() && self.shared.losses.passes(&error).is_some() =>
                {
                    lost_tables += 1;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let key = (entry.root, entry.path.clone());
            if let EntryKind::File(content) = &entry.kind
                && self.plan.survey.borrowed.contains(&key)
            {
                self.borrowed.insert(key, content.clone());
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
            let place = Place {
                space,
                relative: self.plan.spaces[space].inside(&in_space(piece, rest)),
                original: original(piece, rest),
            };
            self.make_way(&place, rest)?;
            if let Some(entry) = self.rights.take(entry, piece, &place.original) {
                self.entry(entry, place)?;
            }
            self.shared.monitor.advance(0, 1);
        }
        Ok(())
    }

    /// Above a piece's top, and above a part that was chosen, directories may be missing. Inside a piece one is missing only when its
    /// own entry is lost: then nobody but its maker may look into it.
    fn make_way(&self, place: &Place, rest: &[u8]) -> Result<()> {
        let beneath = self.plan.spaces[place.space].beneath();
        let Some(parent) = place.relative.parent().filter(|parent| !parent.as_os_str().is_empty()) else {
            return Ok(());
        };
        if matches!(beneath.exists(parent), Ok(true)) {
            return Ok(());
        }
        // How many of the parent's last components lie in the piece, its top among them.
        let inside = if rest.is_empty() {
            0
        } else {
            rest.split(|byte| *byte == b'/').count()
        };
        let missing = |beneath: &Beneath, above: &Path| Ok::<bool, Error>(!beneath.exists(above)?);
        let mut bare = Vec::new();
        for (above, at) in parent.ancestors().zip(place.original.ancestors().skip(1)).take(inside) {
            if !above.as_os_str().is_empty() && missing(beneath, above)? {
                bare.push((above, at));
            }
        }
        let outer = bare
            .last()
            .map_or(parent, |(above, _)| above.parent().unwrap_or(Path::new("")));
        if !outer.as_os_str().is_empty() {
            beneath.make_directories(outer, 0o755)?;
        }
        for (above, at) in bare.into_iter().rev() {
            beneath.make_directory(above, 0o700)?;
            self.shared.losses.bare(at.to_owned());
        }
        Ok(())
    }

    /// Restores an entry that [`Rights::take`] has let through.
    fn entry(&mut self, entry: Entry, place: Place) -> Result<()> {
        let beneath = self.plan.spaces[place.space].beneath();
        if entry.torn {
            let message = format!(
                "{} was changing while it was backed up: its content may be of several moments",
                place.original.display()
            );
            self.shared.notes.find(Finding::warning("torn", message));
        }
        let relative = &place.relative;
        match entry.kind {
            EntryKind::Directory => {
                if !relative.as_os_str().is_empty() {
                    beneath.make_directory(relative, 0o700)?;
                }
                self.directories.push((place.space, place.relative, entry.metadata));
                Ok(())
            }
            EntryKind::File(content) => self.file(content, entry.metadata, place),
            EntryKind::HardLink(first) => self.hard_link(entry.root, first, entry.metadata, place),
            EntryKind::Symlink(target) => {
                let target = relocate::target(self.plan.copy, &place.original, target, self.shared.notes);
                beneath.make_symlink(&target, relative)?;
                dress(beneath, relative, &entry.metadata, false, self.shared.notes)
            }
            EntryKind::Fifo => self.special(Special::Fifo, &entry.metadata, beneath, relative),
            EntryKind::CharDevice(major, minor) => {
                self.special(Special::CharDevice(major, minor), &entry.metadata, beneath, relative)
            }
            EntryKind::BlockDevice(major, minor) => {
                self.special(Special::BlockDevice(major, minor), &entry.metadata, beneath, relative)
            }
        }
    }

    fn file(&mut self, content: Content, metadata: Metadata, place: Place) -> Result<()> {
        let beneath = self.plan.spaces[place.space].beneath();
        let file = beneath.create_file(&place.relative, 0o600)?;
        if content.sections.is_empty() {
            return dress(beneath, &place.relative, &metadata, true, self.shared.notes);
        }
        file.set_len(content.size)
            .map_err(|error| wrong(&place.original, error))?;
        let holes: u64 = (0..content.sections.len())
            .filter(|index| content.is_hole(*index))
            .map(|index| content.section_bytes(index))
            .sum();
        self.shared.monitor.advance(holes, 0);
        let relative = place.relative.clone();
        let Some(jobs) = Job::all(beneath, place, file, content, metadata.clone()) else {
            return dress(beneath, &relative, &metadata, true, self.shared.notes);
        };
        for job in jobs {
            self.sender.send(job).map_err(|_| Error::Interrupted(0))?;
        }
        Ok(())
    }

    fn hard_link(&mut self, root: u32, first: Vec<u8>, metadata: Metadata, place: Place) -> Result<()> {
        if self.rights.has_left_out(root, &first) {
            self.rights.leave_out_name(&place.original);
            return Ok(());
        }
        let space = &self.plan.spaces[place.space];
        let stand_in = (root, first.clone(), place.space);
        let near = match self.stand_ins.get(&stand_in) {
            Some(at) => Some(at.clone()),
            None => self.first_name(root, &first, space)?,
        };
        if let Some(at) = near {
            space.beneath().make_hard_link(&at, &place.relative)?;
            self.shared.losses.link(&at, &place);
            return Ok(());
        }
        // The first name is not in this workspace: this one becomes a file, and the first for those that follow here.
        match self.borrowed.get(&(root, first)).cloned() {
            Some(content) => {
                self.stand_ins.insert(stand_in, place.relative.clone());
                self.file(content, metadata, place)
            }
            None => self.nameless(&place),
        }
    }

    /// Where a first name is in a workspace.
    fn first_name(&self, root: u32, first: &[u8], space: &Workspace) -> Result<Option<PathBuf>> {
        let probe = Entry::probe(root, first.to_vec());
        let Some((index, rest)) = find(self.plan.pieces, &probe) else {
            return Ok(None);
        };
        let piece = &self.plan.pieces[index];
        if piece.space != space.destination() {
            return Ok(None);
        }
        let at = space.inside(&in_space(piece, rest));
        Ok(space.beneath().exists(&at)?.then_some(at))
    }

    /// A further name of a file whose first name, with the content, is not there: a loss where a part of the table is lost.
    fn nameless(&self, place: &Place) -> Result<()> {
        let Some(table) = self.plan.survey.tables.first() else {
            return Err(wrong(&place.original, "its first name is not in the backup"));
        };
        let range = LostRange {
            offset: 0,
            length: 0,
            object: table.object.clone(),
            reason: "its content is listed under another name of it, in a lost part of the file table".to_owned(),
        };
        self.shared.losses.file(place.clone(), 0, vec![range], false);
        Ok(())
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

fn original(piece: &Piece, rest: &[u8]) -> PathBuf {
    if rest.is_empty() {
        piece.original.clone()
    } else {
        piece.original.join(std::ffi::OsStr::from_bytes(rest))
    }
}
