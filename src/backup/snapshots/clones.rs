//! Writable clones of the database's snapshots, for what a private server does to them.

use std::path::{Path, PathBuf};

use super::{Readable, Taken};
use crate::Result;
use crate::journal::{Journal, Made};
use crate::volume::Snapshot;

/// A writable clone of a snapshot.
pub(super) struct Cloned {
    pub planned: Snapshot,
    /// Where it is mounted, if its provider mounts.
    at: PathBuf,
}

impl Taken<'_> {
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
        crate::failpoint!("clean.clone", || crate::Error::failed("failpoint"));
        self.top = self.provider.clone_writable(&self.snapshot, &planned, &at)?;
        Ok(())
    }

    pub(super) fn drop_clone(&self) -> Result<()> {
        if let Some(clone) = &self.clone {
            self.provider.unmount(&clone.planned, &clone.at)?;
            self.provider.remove(&clone.planned)?;
        }
        Ok(())
    }

    pub(super) fn note_clone_undone(&self, journal: &Journal) -> Result<()> {
        let Some(clone) = &self.clone else { return Ok(()) };
        if self.provider.mounts() {
            journal.undone(&Made::Mount { at: clone.at.clone() })?;
        }
        Ok(journal.undone(&Made::Snapshot(clone.planned.clone()))?)
    }
}

/// Where its clone is mounted: numbered with a zero before.
fn clone_mount_point(at: &Path) -> PathBuf {
    let name = at.to_string_lossy();
    let (head, number) = name.rsplit_once('-').unwrap_or((&name, ""));
    PathBuf::from(format!("{head}-0{number}"))
}
