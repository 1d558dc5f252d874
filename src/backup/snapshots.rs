//! The snapshots of a run: planned and written down, settled, prepared, taken under the lock, read, removed.

mod kept;

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::examine::provider_of;
use super::run::Run;
use crate::copy;
use crate::finding::Finding;
use crate::journal::{Journal, Made};
use crate::monitor::Monitor;
use crate::units::micros;
use crate::volume::barrier::{Arrangement, Barrier, Set};
use crate::volume::{Health, Prepared, Provider, Snapshot, Volume};
use crate::{Error, Result};

/// A settle round shorter than this leaves nothing worth another one (docs/benchmarks.md, "settle").
const CLEAN_ENOUGH: Duration = Duration::from_millis(15);
/// The longest that a filesystem is frozen for a snapshot without a lock.
const APART_LIMIT: Duration = Duration::from_secs(5);
/// More rounds than this do not help: the load dirties as fast as the disk writes.
const MOST_ROUNDS: usize = 4;

/// Syncs the filesystems of the volumes until a round is short, at most `rounds` times. Each filesystem once per round.
pub(crate) fn settle(providers: &[Box<dyn Provider>], volumes: &[Volume], rounds: usize) -> Result<()> {
    // To measure what it gives.
    if crate::sys::failpoint::asked("backup.no-settle") {
        return Ok(());
    }
    let mut before = Duration::MAX;
    for _ in 0..rounds.min(MOST_ROUNDS) {
        let begun = Instant::now();
        let mut done: Vec<&str> = Vec::new();
        for volume in volumes
            .iter()
            .filter(|volume| volume.provider != crate::volume::ProviderKind::Fake)
        {
            if !done.contains(&volume.filesystem.as_str()) {
                provider_of(providers, volume)?.settle(volume)?;
                done.push(&volume.filesystem);
            }
        }
        let took = begun.elapsed();
        // Stop when clean, or when a round no longer shortens what is left.
        if took < CLEAN_ENOUGH || took > before.mul_f32(0.8) {
            break;
        }
        before = took;
    }
    Ok(())
}

/// How many rounds suit each point of the lock sequence.
pub(crate) fn rounds(point: crate::database::SettlePoint) -> usize {
    match point {
        crate::database::SettlePoint::Before => MOST_ROUNDS,
        crate::database::SettlePoint::Between => 1,
        crate::database::SettlePoint::Pause => 0,
    }
}

/// Snapshots of one instant that are one short step away. Dropping it undoes it, unseen.
pub(crate) struct Ready<'p> {
    providers: &'p [Box<dyn Provider>],
    prepared: Option<Box<dyn Prepared + 'p>>,
    /// What was prepared, to do it again.
    sets: Vec<Set<'p>>,
    limit: Duration,
    /// As the journal has it.
    planned: Vec<Snapshot>,
    /// Directories of ours in which the snapshots appear.
    places: Vec<PathBuf>,
    /// The filesystems that are frozen by the decisive step, as the journal has them.
    frozen: Vec<PathBuf>,
}

impl<'p> Ready<'p> {
    /// Plans, writes down, prepares. No filesystem will be frozen for longer than `limit`.
    pub fn new(
        run: &mut Run<'_>,
        providers: &'p [Box<dyn Provider>],
        arrangement: &Arrangement,
        keep_clear: &[PathBuf],
        limit: Duration,
    ) -> Result<Ready<'p>> {
        let mut sets = Vec::new();
        for volumes in &arrangement.sets {
            let first = volumes
                .first()
                .ok_or_else(|| Error::failed("there is no volume to snapshot"))?;
            let provider = provider_of(providers, first)?;
            let planned = provider.plan(run.id, volumes, keep_clear)?;
            sets.push(Set { provider, planned });
        }
        let all_places = sets.iter().flat_map(|set| set.provider.places(&set.planned));
        let places: Vec<PathBuf> = all_places.collect();
        for place in places.iter().filter(|place| !place.exists()) {
            run.journal.record(&Made::Directory { at: place.clone() })?;
        }
        let planned: Vec<Snapshot> = sets.iter().flat_map(|set| set.planned.iter().cloned()).collect();
        for snapshot in &planned {
            run.journal.record(&Made::Snapshot(snapshot.clone()))?;
        }
        for top in &arrangement.frozen {
            run.journal.record(&Made::Frozen { top: top.clone() })?;
        }
        crate::failpoint!("backup.planned");
        let mut ready = Ready {
            providers,
            prepared: None,
            sets,
            limit,
            planned,
            places,
            frozen: arrangement.frozen.clone(),
        };
        match ready.take_up(&run.journal) {
            Ok(()) => run.note(ready.prepared.iter().flat_map(|prepared| prepared.notes())),
            Err(cause) => return Err(ready.after(cause, &run.journal)),
        }
        Ok(ready)
    }

    /// Prepares, unless that is done.
    pub fn take_up(&mut self, journal: &Journal) -> Result<()> {
        if self.prepared.is_none() {
            self.prepared = Some(prepare(journal, self.sets.clone(), &self.frozen, self.limit)?);
        }
        Ok(())
    }

    /// Gives up what would keep others waiting (LVM's lock on a volume group) while the server is busy; [`take_up`](Ready::take_up) does it again.
    pub fn put_down(&mut self) -> Result<()> {
        let keeps = |set: &Set<'_>| {
            set.planned
                .iter()
                .any(|one| set.provider.exclusive(&one.volume).is_some())
        };
        if !self.sets.iter().any(keeps) {
            return Ok(());
        }
        self.prepared.take().map_or(Ok(()), |prepared| Ok(prepared.abandon()?))
    }

    /// The decisive step.
    pub fn fix(&mut self) -> Result<(Instant, Instant)> {
        match &mut self.prepared {
            Some(prepared) => Ok(prepared.fix()?),
            None => Err(Error::failed("the snapshot set was given up already")),
        }
    }

    /// The rest, with the lock gone.
    pub fn finish(mut self, journal: &Journal) -> Result<Finished<'p>> {
        // The decisive step thawed them.
        if let Err(cause) = note_thawed(&self.frozen, journal) {
            return Err(cause.and_rollback(self.abandon(journal)));
        }
        self.frozen.clear();
        let finished = match self.prepared.take() {
            Some(prepared) => prepared.finish().map_err(Error::from),
            None => Err(Error::failed("the snapshot set was given up already")),
        };
        match finished {
            Ok(snapshots) => Ok(Finished {
                providers: self.providers,
                snapshots,
                places: std::mem::take(&mut self.places),
            }),
            Err(cause) => Err(self.after(cause, journal)),
        }
    }

    /// After a provider failed, which then has removed what it made: looks once more, and tells the journal. Where a vendor's command runs on it may make its snapshot
    /// yet: that one stays in the journal, for `cleanup`.
    fn after(mut self, cause: Error, journal: &Journal) -> Error {
        if runs_on(&cause) {
            self.planned.clear();
        }
        let providers = self.providers;
        let gone = |snapshot: &Snapshot| Ok(provider_of(providers, &snapshot.volume)?.remove(snapshot).map(drop)?);
        let removed = self.planned.iter().try_for_each(gone);
        match removed {
            Ok(()) => cause.and_rollback(self.abandon(journal)),
            left => cause.and_rollback(left),
        }
    }

    /// Undoes everything, and tells the journal.
    pub fn abandon(mut self, journal: &Journal) -> Result<()> {
        if let Some(prepared) = self.prepared.take() {
            prepared.abandon()?;
        }
        for snapshot in std::mem::take(&mut self.planned) {
            journal.undone(&Made::Snapshot(snapshot))?;
        }
        note_thawed(&self.frozen, journal)?;
        leave_places(&self.places, journal)
    }
}

/// Whether it failed because a vendor's command did not end.
fn runs_on(error: &Error) -> bool {
    use crate::{sys, volume};
    matches!(
        error,
        Error::Volume(volume::Error::Sys(sys::Error::StillRunning { .. }))
    )
}

/// Nothing is frozen any more: the journal is told so.
fn note_thawed(frozen: &[PathBuf], journal: &Journal) -> Result<()> {
    frozen
        .iter()
        .try_for_each(|top| Ok(journal.undone(&Made::Frozen { top: top.clone() })?))
}

impl Drop for Ready<'_> {
    fn drop(&mut self) {
        if let Some(prepared) = self.prepared.take() {
            let _ = prepared.abandon();
        }
    }
}

/// One set by itself, or several behind a barrier.
fn prepare<'p>(
    journal: &Journal,
    mut sets: Vec<Set<'p>>,
    frozen: &[PathBuf],
    limit: Duration,
) -> Result<Box<dyn Prepared + 'p>> {
    let alive = journal.descriptor()?;
    let alive = Some(alive.as_fd());
    match sets.pop() {
        Some(only) if sets.is_empty() && frozen.is_empty() => Ok(only.provider.prepare(&only.planned, alive)?),
        last => {
            sets.extend(last);
            Ok(Box::new(Barrier::prepare(sets, frozen, limit, alive)?))
        }
    }
}

/// Snapshots that are there.
pub(crate) struct Finished<'p> {
    providers: &'p [Box<dyn Provider>],
    snapshots: Vec<Snapshot>,
    places: Vec<PathBuf>,
}

/// Removes our directories where nothing of anybody is in them.
fn leave_places(places: &[PathBuf], journal: &Journal) -> Result<()> {
    for place in places {
        crate::volume::remove_place(place)?;
        journal.undone(&Made::Directory { at: place.clone() })?;
    }
    Ok(())
}

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

/// A writable clone of a snapshot.
struct Cloned {
    planned: Snapshot,
    /// Where it is mounted, if its provider mounts.
    at: PathBuf,
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
            crate::failpoint!("backup.mount", || Error::failed("failpoint"));
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
        settle(providers, std::slice::from_ref(volume), MOST_ROUNDS)?;
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

    /// Whether a snapshot of the database has no clone, and is written to itself.
    pub fn are_written_to(&self) -> Result<bool> {
        for readable in self.all.iter().filter(|readable| readable.with_database) {
            if readable.provider.plan_clone(&readable.snapshot)?.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Makes writable clones of the database's snapshots. From then on the clones are what is read.
    pub fn clone_database(&mut self, journal: &Journal) -> Result<()> {
        for readable in self.all.iter_mut().filter(|readable| readable.with_database) {
            readable.make_clone(journal)?;
        }
        Ok(())
    }

    /// Removes the clones; from then on the snapshots are what is read, where they are not [written to](Taken::are_written_to) themselves.
    ///
    /// # Errors
    /// One is left; the journal has it.
    pub fn drop_clones(&mut self, journal: &Journal) -> Result<()> {
        for readable in &mut self.all {
            readable.drop_clone()?;
            readable.note_clone_undone(journal)?;
            readable.clone = None;
            readable.top.clone_from(&readable.snapshot_top);
        }
        Ok(())
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
                Ok(Health::Lost(reason)) => return lost(reason),
                Err(error) => return lost(error.to_string()),
            }
        }
        Ok(())
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
    /// Written down before it is made. Where there is none the snapshot itself becomes writable, which the journal has already.
    fn make_clone(&mut self, journal: &Journal) -> Result<()> {
        let (planned, at) = match self.provider.plan_clone(&self.snapshot)? {
            Some(planned) => {
                let at = clone_mount_point(&self.at);
                journal.record(&Made::Snapshot(planned.clone()))?;
                self.clone = Some(Cloned {
                    planned: planned.clone(),
                    at: at.clone(),
                });
                if self.provider.mounts() {
                    journal.record(&Made::Mount { at: at.clone() })?;
                }
                (planned, at)
            }
            None => (self.snapshot.clone(), self.at.clone()),
        };
        crate::failpoint!("clean.clone", || Error::failed("failpoint"));
        self.top = self.provider.clone_writable(&self.snapshot, &planned, &at)?;
        Ok(())
    }

    fn drop_clone(&self) -> Result<()> {
        if let Some(clone) = &self.clone {
            self.provider.unmount(&clone.planned, &clone.at)?;
            self.provider.remove(&clone.planned)?;
        }
        Ok(())
    }

    fn note_clone_undone(&self, journal: &Journal) -> Result<()> {
        let Some(clone) = &self.clone else { return Ok(()) };
        if self.provider.mounts() {
            journal.undone(&Made::Mount { at: clone.at.clone() })?;
        }
        Ok(journal.undone(&Made::Snapshot(clone.planned.clone()))?)
    }

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

/// Where its clone is mounted: numbered with a zero before.
fn clone_mount_point(at: &Path) -> PathBuf {
    let name = at.to_string_lossy();
    let (head, number) = name.rsplit_once('-').unwrap_or((&name, ""));
    PathBuf::from(format!("{head}-0{number}"))
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
