//! The snapshots of a run: made ready before the lock ([`Ready`]), then readable, watched, removed ([`Taken`]).

mod clones;
mod kept;
mod ready;
mod settle;

pub(crate) use ready::{Finished, Ready};
pub(crate) use settle::settle;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clones::Cloned;

use super::examine::provider_of;
use super::run::Run;
use crate::Result;
use crate::copy;
use crate::database::SettlePoint;
use crate::finding::Finding;
use crate::journal::{Journal, Made};
use crate::monitor::Monitor;
use crate::units::micros;
use crate::volume::barrier::Arrangement;
use crate::volume::{Health, Provider, Snapshot, Volume};

/// The longest that a filesystem is frozen for a snapshot without a lock.
const APART_LIMIT: Duration = Duration::from_secs(5);
/// One readable snapshot.
pub(crate) struct Readable<'p> {
    pub provider: &'p dyn Provider,
    pub snapshot: Snapshot,
    /// Where it is mounted, if its provider mounts.
    at: PathBuf,
    /// The top of what is read: the snapshot's own, or its clone's.
    pub top: PathBuf,
    /// The snapshot's own.
    snapshot_top: PathBuf,
    /// The decisive call, in microseconds.
    pub create_us: u64,
    /// Whether it was taken under the lock.
    pub with_database: bool,
    /// Its writable clone; while there is one, that is read.
    clone: Option<Cloned>,
    /// What its health gave to say was said.
    warned: AtomicBool,
    /// A record names it: it is never removed from here.
    kept: bool,
}

/// All snapshots of a run. Dropping it removes them, unseen; the normal path calls [`remove`](Taken::remove).
#[derive(Default)]
pub(crate) struct Taken<'p> {
    pub all: Vec<Readable<'p>>,
    /// Directories of ours, which the copy leaves out and the end of the run removes.
    pub places: Vec<PathBuf>,
    /// What was said of their health, for the record.
    said: Mutex<Vec<Finding>>,
}

impl<'p> Taken<'p> {
    fn tell(&self, monitor: &dyn Monitor, finding: Finding) {
        monitor.finding(&finding);
        self.said.lock().unwrap_or_else(PoisonError::into_inner).push(finding);
    }

    fn tell_once(&self, readable: &Readable<'_>, reason: String, monitor: &dyn Monitor) {
        if !readable.warned.swap(true, Ordering::Relaxed) {
            self.tell(monitor, Finding::warning("storage", reason));
        }
    }

    /// What was said of the snapshots' health since this was asked last.
    pub fn said(&self) -> Vec<Finding> {
        std::mem::take(&mut self.said.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds a finished set and makes it readable.
    pub fn add(
        &mut self,
        run: &Run<'_>,
        finished: Finished<'p>,
        fixed: (Instant, Instant),
        with_database: bool,
    ) -> Result<()> {
        let Finished {
            providers,
            snapshots,
            places,
        } = finished;
        self.places.extend(places);
        let create_us = micros(fixed.1.saturating_duration_since(fixed.0));
        let before = self.all.len();
        // All of them in the list before one is mounted, so that they are removed even when a mount fails.
        for snapshot in snapshots {
            self.all.push(Readable {
                provider: provider_of(providers, &snapshot.volume)?,
                snapshot,
                at: mount_point(run, self.all.len()),
                top: PathBuf::new(),
                snapshot_top: PathBuf::new(),
                create_us,
                with_database,
                clone: None,
                warned: AtomicBool::new(false),
                kept: false,
            });
        }
        for readable in self.all.iter_mut().skip(before) {
            if readable.provider.mounts() {
                run.journal.record(&Made::Mount {
                    at: readable.at.clone(),
                })?;
            }
            crate::failpoint!("backup.mount", || crate::Error::failed("failpoint"));
            readable.top = readable.provider.mount(&readable.snapshot, &readable.at)?;
            readable.snapshot_top.clone_from(&readable.top);
        }
        Ok(())
    }

    /// Takes one more volume's snapshot by itself, with no lock.
    pub fn take_own(
        &mut self,
        run: &mut Run<'_>,
        providers: &'p [Box<dyn Provider>],
        volume: &Volume,
        keep_clear: &[PathBuf],
    ) -> Result<()> {
        // A filesystem that is frozen with much unwritten keeps its writers waiting, until the limit.
        settle(providers, std::slice::from_ref(volume), SettlePoint::Before)?;
        let mut ready = Ready::new(
            run,
            providers,
            &Arrangement::of(providers, volume),
            keep_clear,
            APART_LIMIT,
        )?;
        let fixed = match ready.fix() {
            Ok(fixed) => fixed,
            Err(cause) => return Err(cause.and_rollback(ready.abandon(&run.journal))),
        };
        let set = ready.finish(&run.journal)?;
        self.add(run, set, fixed, false)
    }

    /// The top of a volume's snapshot.
    pub fn top_of(&self, volume: &Volume) -> Option<PathBuf> {
        self.all
            .iter()
            .find(|readable| {
                let of = &readable.snapshot.volume;
                // An id is the provider's own: `data/db` may be a logical volume or a dataset.
                (of.provider, &of.id) == (volume.provider, &volume.id)
            })
            .map(|readable| readable.top.clone())
    }

    /// Whether all that is being read can still be trusted. Where one is near its limits the copy, if there is one, is told to hurry: no bandwidth limit any more.
    ///
    /// # Errors
    /// One was lost: the copy is worth nothing.
    pub fn health(&self, hurry: Option<&AtomicBool>, monitor: &dyn Monitor) -> copy::Result<()> {
        for readable in &self.all {
            let lost = |reason: String| {
                Err(copy::Error::SnapshotLost(format!(
                    "{}: {reason}",
                    readable.snapshot.name
                )))
            };
            // A question that failed (the vendor was busy for long) is asked once more: its answer counts, not that it took two.
            let read = readable
                .clone
                .as_ref()
                .map_or(&readable.snapshot, |clone| &clone.planned);
            let ask = || readable.provider.health(read);
            match ask().or_else(|_| ask()) {
                Ok(Health::Good) => {}
                Ok(Health::Warned(reason)) => self.tell_once(readable, reason, monitor),
                Ok(Health::Straining(reason)) => match hurry {
                    None => self.tell_once(readable, reason, monitor),
                    Some(hurry) if hurry.swap(true, Ordering::Relaxed) => {}
                    Some(_) => {
                        let said = format!("{reason}: the copy hurries");
                        self.tell(monitor, Finding::warning("straining", said));
                    }
                },
                Ok(Health::Full(reason)) => {
                    return lost(format!(
                        "{reason}: the snapshot is given up, so that production can go on"
                    ));
                }
                Ok(Health::Lost(reason) | Health::OutOfReach(reason)) => return lost(reason),
                Err(error) => return lost(error.to_string()),
            }
        }
        Ok(())
    }

    /// Why it failed: an error on a snapshot that is lost says less than its loss. A wish to end stays one.
    pub fn explain(&self, cause: crate::Error, monitor: &dyn Monitor) -> crate::Error {
        let said = matches!(cause, crate::Error::Copy(copy::Error::SnapshotLost(_)));
        if said || matches!(cause.kind(), crate::error::Kind::Interrupted(_)) {
            return cause;
        }
        self.health(None, monitor).map_or_else(crate::Error::from, |()| cause)
    }

    /// Removes every snapshot; goes on after a failure and returns the first.
    pub fn remove(mut self, journal: &Journal) -> Result<()> {
        let mut first = Ok(());
        for readable in std::mem::take(&mut self.all) {
            let removed = readable.let_go();
            let noted = removed.and_then(|()| readable.note_undone(journal));
            first = first.and(noted);
        }
        let places = std::mem::take(&mut self.places);
        first.and_then(|()| leave_places(&places, journal))
    }
}

impl Readable<'_> {
    fn note_undone(&self, journal: &Journal) -> Result<()> {
        self.note_clone_undone(journal)?;
        if self.provider.mounts() {
            journal.undone(&Made::Mount { at: self.at.clone() })?;
        }
        Ok(journal.undone(&Made::Snapshot(self.snapshot.clone()))?)
    }

    fn let_go(&self) -> Result<()> {
        self.drop_clone()?;
        self.provider.unmount(&self.snapshot, &self.at)?;
        if !self.kept {
            self.provider.remove(&self.snapshot)?;
        }
        Ok(())
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        for readable in &self.all {
            let _ = readable.let_go();
        }
    }
}

/// Where a provider that must mount its snapshot does so.
fn mount_point(run: &Run<'_>, number: usize) -> PathBuf {
    PathBuf::from(format!("/run/snapback/{}-{number}", run.id))
}

/// What people are told of snapshots taken apart from the database.
pub(crate) fn own_snapshot_note(volume: &Volume) -> Finding {
    Finding::note(
        "own-snapshot",
        format!(
            "{} has a snapshot of its own, taken after the database's",
            volume.top.display()
        ),
    )
}

/// Removes our directories where nothing of anybody is in them.
fn leave_places(places: &[PathBuf], journal: &Journal) -> Result<()> {
    for place in places {
        crate::volume::remove_place(place)?;
        journal.undone(&Made::Directory { at: place.clone() })?;
    }
    Ok(())
}
