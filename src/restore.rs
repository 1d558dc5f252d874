//! Restoring: every chunk is verified as it is written, nothing is overwritten, and the result appears only when it is whole.

mod after;
mod lost;
mod pieces;
mod relocate;
mod running;
mod start;
pub mod unfinished;
mod workspace;
mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use crate::copy::notes::Notes;
use crate::database::mysql::place::Place;
use crate::finding::Finding;
use crate::monitor::{Monitor, Work};
use crate::record::{Record, RootRole};
use crate::repository::{Backup, Manifest, Repository};
use crate::sys::signal::Cancel;
use crate::units::{Bytes, Id};
use crate::{Error, Result};

use lost::Losses;
pub use lost::{DAMAGED, LIST, Lost, LostFile, LostRange, LostTable};
use pieces::{Piece, Survey};
use workspace::Workspace;

/// Where a backup is restored to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A directory that a server can start on.
    Datadir(PathBuf),
    /// Every root below a directory, at its original path.
    Target(PathBuf),
    /// Back where everything was.
    InPlace,
}

/// What is restored, and how.
#[derive(Debug, Clone)]
pub struct Request {
    /// Where to.
    pub destination: Destination,
    /// Original paths; everything else stays behind. Empty: all.
    pub include: Vec<PathBuf>,
    /// In place: what is there is moved aside (never deleted).
    pub force: bool,
    /// Threads.
    pub workers: usize,
    /// Keep MySQL's `auto.cnf`: the restored server replaces the old one.
    pub keep_uuid: bool,
    /// In place as well MySQL's `auto.cnf` stays behind: the restored server becomes a replica, maybe of one that has that `server_uuid`.
    pub new_uuid: bool,
    /// Go on over damage: everything that is intact is restored, and what is not is told in [`Report::lost`].
    pub keep_going: bool,
    /// Devices, set-user-ID and set-group-ID bits and privileged attributes come back in trees of `files:`. Whoever can write the
    /// repository chooses them. A database's tree never gets any.
    pub special: bool,
    /// What the trees carry in a file [`unfinished::UNFINISHED`] from before they appear: they are not yet what is wanted.
    pub unfinished: Option<String>,
    /// What stops the server, for the message where it runs on what is restored in place.
    pub stop_with: Option<String>,
    /// What starts it, for the next steps of a restore in place; none: the usual unit's name.
    pub start_with: Option<String>,
}

impl Request {
    /// All of a backup, whole, to a datadir for a server of its own.
    pub fn to_datadir(datadir: PathBuf, workers: usize) -> Request {
        Request {
            destination: Destination::Datadir(datadir),
            include: Vec::new(),
            force: false,
            workers,
            keep_uuid: false,
            new_uuid: false,
            keep_going: false,
            special: false,
            unfinished: None,
            stop_with: None,
            start_with: None,
        }
    }
}

/// A tree that was restored.
#[derive(Debug, Clone, Serialize)]
pub struct Placed {
    /// Its original path.
    pub original: PathBuf,
    /// Where it is now.
    pub at: PathBuf,
    /// Where what was there before is now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moved_aside: Option<PathBuf>,
}

/// What a restore did.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The backup.
    pub id: Id,
    /// Files, directories, links.
    pub files: u64,
    /// Bytes of regular files.
    pub bytes: u64,
    /// Wall time.
    pub seconds: f64,
    /// Where everything is.
    pub placed: Vec<Placed>,
    /// What a person must read.
    pub warnings: Vec<Finding>,
    /// What to do now, in order.
    pub next_steps: Vec<String>,
    /// What has to be done before a server is started on it, if anything.
    #[serde(skip)]
    pub before_start: Option<String>,
    /// What could not be restored; empty unless the restore was asked to go on over damage and met some.
    #[serde(skip_serializing_if = "Lost::is_empty")]
    pub lost: Lost,
}

impl Report {
    /// Where each tree was and is.
    pub fn trees(&self) -> Vec<(PathBuf, PathBuf)> {
        let placed = self.placed.iter();
        placed
            .map(|placed| (placed.original.clone(), placed.at.clone()))
            .collect()
    }
}

/// Restores a backup.
///
/// # Errors
/// What trap 34 lists: a running server, something in the way, a backup that does not verify (unless the request says to go on over
/// damage), a path that leads out. Nothing appears at the destination then, and nothing that was there is touched.
pub fn restore(
    repository: &Repository,
    which: &str,
    request: &Request,
    monitor: &dyn Monitor,
    cancel: &Cancel,
) -> Result<Report> {
    let begun = Instant::now();
    let backup = repository.find(which)?;
    if !request.keep_going && request.include.is_empty() {
        refuse_known_loss(repository, backup.manifest().id)?;
    }
    let backup = if request.keep_going { backup.salvaging() } else { backup };
    let losses = Losses::new(request.keep_going);
    let record = record_of(backup.manifest())?;
    let pieces = pieces::choose(&record, request)?;
    monitor.phase("survey");
    let survey = pieces::survey(&backup, &record, &pieces, request, &losses, cancel)?;
    refuse_running(&record, &pieces, request)?;
    let mut spaces = workspace::open(&pieces, &survey, request, backup.manifest().id)?;
    refuse_too_little_room(&spaces, &survey)?;

    let notes = Notes::new(monitor);
    let trees = relocate::trees(&pieces);
    let copy = relocate::copy(&record, &request.destination, &pieces, &trees);
    let plan = Plan {
        backup: &backup,
        pieces: &pieces,
        survey: &survey,
        spaces: &spaces,
        losses: &losses,
        copy: copy.as_ref(),
        request,
    };
    let written = write_all(&plan, &notes, monitor, cancel)
        .and_then(|()| lost(repository, losses, &survey, &pieces))
        .and_then(|lost| {
            let rewrite = |copy| relocate::rewrite(copy, &record, &pieces, &survey, &spaces, &notes);
            copy.as_ref().map_or(Ok(()), rewrite).map(|()| lost)
        })
        .and_then(|lost| {
            let mark = |text: &String| spaces.iter().try_for_each(|space| space.mark(text));
            request.unfinished.iter().try_for_each(mark).map(|()| lost)
        })
        .and_then(|lost| make_durable(lost, &backup, &spaces, monitor));
    let lost = match written {
        Ok(lost) => lost,
        Err(error) => {
            // The workspaces are ours alone; dropping them removes them.
            drop(spaces);
            return Err(error);
        }
    };
    monitor.phase("publish");
    let placed = workspace::publish(&mut spaces, &pieces, &notes)?;
    let (_, findings) = notes.into_lists();
    Ok(Report {
        id: backup.manifest().id,
        files: survey.entries,
        bytes: survey.bytes,
        seconds: begun.elapsed().as_secs_f64(),
        before_start: placed.iter().find_map(|placed| after::in_the_way(&record, placed)),
        next_steps: after::next_steps(&record, &placed, request, copy.as_ref(), survey.owner, &lost),
        placed,
        warnings: findings,
        lost,
    })
}

/// What a restore of the server's part would take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// Bytes on the destination's filesystem, at most.
    pub bytes: u64,
    /// User and group of the datadir.
    pub owner: Option<(u32, u32)>,
}

/// Looks at a backup as a restore does, and writes nothing.
///
/// # Errors
/// The request does not fit the backup, or its file table is damaged.
pub fn needs(backup: &Backup, request: &Request, cancel: &Cancel) -> Result<Needs> {
    let record = record_of(backup.manifest())?;
    let pieces = pieces::choose(&record, request)?;
    let losses = Losses::new(request.keep_going);
    let survey = pieces::survey(backup, &record, &pieces, request, &losses, cancel)?;
    Ok(Needs {
        bytes: survey.allocated,
        owner: survey.owner,
    })
}

/// How a server is seen to run on this datadir; `None` when none is seen.
pub fn server_on(datadir: &Path) -> Option<String> {
    running::server_on(datadir)
}

/// Waits for the end of a server that was killed.
///
/// # Errors
/// One still runs.
pub fn wait_for_end(datadir: &Path) -> Result<()> {
    running::wait_for_end(datadir)
}

/// The process that has locked a server's files in this directory.
pub fn lock_holder(directory: &Path) -> Option<i32> {
    running::lock_holder(directory).map(|(process, _)| process)
}

/// Whether a process of this name is a server.
pub fn is_server(name: &str) -> bool {
    running::is_server(name)
}

/// What a manifest's record says.
///
/// # Errors
/// It is not a record that this program knows.
pub fn record_of(manifest: &Manifest) -> Result<Record> {
    manifest.record.parse().map_err(|error| {
        crate::repository::Error::damaged(
            format!("the record of backup {}", manifest.id.short()),
            error.to_string(),
        )
        .into()
    })
}

/// What is restored and where to; everything was looked at before anything is written.
struct Plan<'p> {
    backup: &'p Backup,
    pieces: &'p [Piece],
    survey: &'p Survey,
    spaces: &'p [Workspace],
    losses: &'p Losses,
    /// Where a server is to start on a copy.
    copy: Option<&'p Place<'p>>,
    request: &'p Request,
}

fn write_all(plan: &Plan<'_>, notes: &Notes<'_>, monitor: &dyn Monitor, cancel: &Cancel) -> Result<()> {
    monitor.phase("restore");
    monitor.begin(Work {
        name: "restoring",
        bytes: plan.survey.bytes,
        items: plan.survey.entries,
    });
    let written = write::write(plan, notes, monitor, cancel);
    monitor.end();
    Ok(written?)
}

/// What could not be brought back.
fn lost(repository: &Repository, losses: Losses, survey: &Survey, pieces: &[Piece]) -> Result<Lost> {
    let (files, mut bare_directories) = losses.into_lists();
    let topless = survey.topless.iter().map(|index| pieces[*index].original.clone());
    bare_directories.extend(topless);
    bare_directories.sort();
    bare_directories.dedup();
    let lost = Lost {
        files,
        tables: survey.tables.clone(),
        entries: survey.lost,
        bare_directories,
        list: None,
    };
    if !lost.is_empty() {
        // Everything is missing in a repository that went away: that is no damage to go on over.
        Repository::open(repository.store().clone())?;
    }
    Ok(lost)
}

/// The list of losses first: it must not be missing beside what it tells of.
fn make_durable(mut lost: Lost, backup: &Backup, spaces: &[Workspace], monitor: &dyn Monitor) -> Result<Lost> {
    monitor.phase("sync");
    spaces.iter().try_for_each(Workspace::sync)?;
    if let Some(first) = spaces.first().filter(|_| !lost.is_empty()) {
        lost::write_list(&mut lost, backup.manifest().id, first)?;
    }
    Ok(lost)
}

/// What a repair wrote down: no need to find it out halfway.
fn refuse_known_loss(repository: &Repository, id: Id) -> Result<()> {
    let lost = repository
        .losses_of(id)?
        .into_iter()
        .flat_map(|loss| loss.objects)
        .next();
    match lost {
        Some(lost) => Err(crate::repository::Error::damaged(
            format!("backup {}", id.short()),
            format!(
                "{}: {}; --keep-going restores what is left of it",
                lost.object, lost.reason
            ),
        )
        .into()),
        None => Ok(()),
    }
}

/// A server that runs on what would be replaced, or on the directory named, must be stopped first. What a part of a database would replace is
/// older than the redo log beside it: a server takes that for corruption, or makes it one.
fn refuse_running(record: &Record, pieces: &[Piece], request: &Request) -> Result<()> {
    let roots = || record.roots.iter().filter(|root| root.role != RootRole::Files);
    let directories: Vec<&Path> = match &request.destination {
        Destination::Datadir(directory) => vec![directory],
        Destination::Target(_) => Vec::new(),
        Destination::InPlace if !pieces.iter().any(|piece| piece.database) => Vec::new(),
        Destination::InPlace => {
            let whole = |path: &Path| pieces.iter().any(|piece| piece.database && piece.original == path);
            if let Some(part) = roots().find(|root| !whole(&root.path)) {
                return Err(Error::usage(format!(
                    "--in-place restores a database as a whole or not at all, and {} was not wholly chosen: older files beside a newer redo log \
                     are corruption. Restore the part with --target, start a server on a --datadir, and take over what you need",
                    part.path.display()
                )));
            }
            let datadir = record.server.iter().map(|server| server.datadir.as_path());
            datadir.chain(roots().map(|root| root.path.as_path())).collect()
        }
    };
    for directory in directories {
        if let Some(how) = running::server_on(directory) {
            let with = request.stop_with.as_ref().map(|command| format!(" (`{command}`)"));
            return Err(Error::failed(format!(
                "a server is running on {} ({how}): stop it first{}",
                directory.display(),
                with.unwrap_or_default()
            )));
        }
    }
    Ok(())
}

/// Each filesystem needs room for all the trees that go there.
fn refuse_too_little_room(spaces: &[Workspace], survey: &Survey) -> Result<()> {
    let mut needed: BTreeMap<u64, (&Workspace, u64)> = BTreeMap::new();
    for space in spaces {
        let device = space.beneath().itself()?.device();
        let bytes = survey.allocated_in.get(space.destination()).copied().unwrap_or(0);
        let sum = &mut needed.entry(device).or_insert((space, 0)).1;
        *sum = sum.saturating_add(bytes);
    }
    for (space, bytes) in needed.into_values() {
        let room = space.beneath().room()?;
        if room.available < bytes {
            return Err(Error::failed(format!(
                "{} has {} free, the backup needs {}: make room, or restore elsewhere",
                space.destination().display(),
                Bytes::b(room.available),
                Bytes::b(bytes)
            )));
        }
    }
    Ok(())
}
