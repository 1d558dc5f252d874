//! Snapshots of one instant before they are taken: planned, written down, prepared.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::leave_places;
use crate::backup::examine::provider_of;
use crate::backup::run::Run;
use crate::journal::{Journal, Made};
use crate::volume::barrier::{Arrangement, Barrier, Set};
use crate::volume::{Prepared, Provider, Snapshot};
use crate::{Error, Result};

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
    pub(super) providers: &'p [Box<dyn Provider>],
    pub(super) snapshots: Vec<Snapshot>,
    pub(super) places: Vec<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::detect::Mounts;
    use crate::monitor::Silent;
    use crate::sys::signal::Cancel;
    use crate::volume::fake::Fake;

    /// What the journal has after `finish` has failed as `fails` says.
    fn left_after(fails: impl FnOnce(&Fake)) -> (Vec<Made>, String) {
        let dir = tempfile::tempdir().unwrap();
        let (volume, copies) = (dir.path().join("volume"), dir.path().join("copies"));
        std::fs::create_dir(&volume).unwrap();
        std::fs::create_dir(&copies).unwrap();
        let config = Config {
            state_dir: dir.path().join("state"),
            ..Config::default()
        };
        let cancel = Cancel::new();
        let mut run = Run::begin(&config, &Silent, &cancel).unwrap();
        let fake = Fake::new(std::slice::from_ref(&volume), &copies);
        let located = fake.locate(&volume, &Mounts::read().unwrap()).unwrap().unwrap();
        let providers: Vec<Box<dyn Provider>> = vec![Box::new(fake.clone())];
        let arrangement = Arrangement::of(&providers, &located.volume);
        let mut ready = Ready::new(&mut run, &providers, &arrangement, &[], Duration::from_secs(1)).unwrap();
        ready.fix().unwrap();
        fails(&fake);
        let error = ready.finish(&run.journal).err().unwrap().to_string();
        (run.journal.left(), error)
    }

    #[test]
    fn a_snapshot_whose_command_runs_on_stays_in_the_journal() {
        let (left, error) = left_after(|fake| fake.run_on("finish"));
        assert!(matches!(left.as_slice(), [Made::Snapshot(_)]), "{left:?}");
        assert!(error.contains("left running"), "{error}");
        let (left, _) = left_after(|fake| fake.fail("finish", "the device is gone"));
        assert!(left.is_empty(), "{left:?}");
    }
}
