//! Giving back what no backup needs, beside running backups and other prunes: mark, grace, list anew, delete. No lock is taken.
//!
//! Why it is safe is in docs/architecture.md ("Prune"); `scripts/model/prune.py` goes through every interleaving.

mod pack;
mod report;

use std::collections::BTreeMap;

use super::commit::COMMIT_WINDOW;
use super::doomed::{Marked, Why};
use super::keys::PackName;
use super::live::Live;
use super::running::{Running, is_of_run};
use super::{Error, Repository};
use crate::monitor::{Monitor, Work};
use crate::store;
use crate::sys::signal::Cancel;

use pack::Decision;
pub use report::{Amount, Report, Uncertain};

/// The least grace: the time in which a manifest may follow its check, and as much again for clocks that differ.
pub const LEAST_GRACE: jiff::SignedDuration = jiff::SignedDuration::from_secs(2 * COMMIT_WINDOW.as_secs() as i64);

/// How to prune.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long a mark must have been there before its object is deleted. Clocks of the hosts that prune one repository may differ by
    /// this less the commit window (an hour).
    pub grace: jiff::SignedDuration,
    /// A pack of which more than this percentage of the stored bytes is unused is copied without them.
    pub max_unused: u8,
    /// Only say what would be done.
    pub dry_run: bool,
    /// The time.
    pub now: jiff::Timestamp,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            grace: jiff::SignedDuration::from_hours(24),
            max_unused: 50,
            dry_run: false,
            now: jiff::Timestamp::now(),
        }
    }
}

/// What is known before anything is decided.
struct View<'v> {
    options: &'v Options,
    marks: BTreeMap<PackName, Marked>,
    running: Vec<Running>,
    live: Live,
}

impl View<'_> {
    fn is_aged(&self, object: &PackName) -> bool {
        let age = self.marks.get(object).and_then(|marked| marked.age(self.options.now));
        age.is_some_and(|age| age >= self.options.grace)
    }

    fn is_of_a_running_backup(&self, object: &PackName) -> bool {
        self.running.iter().any(|running| is_of_run(object.id, running.run))
    }
}

impl Repository {
    /// Deletes what was marked long enough ago, copies packs that are mostly unused, and marks what is not needed any more.
    ///
    /// # Errors
    /// A manifest cannot be read (nothing is touched then), the store failed, or a signal asked to end: what was done until then stays
    /// good, and the next prune goes on.
    pub fn prune(&self, options: &Options, monitor: &dyn Monitor, cancel: &Cancel) -> crate::Result<Report> {
        if options.grace < LEAST_GRACE {
            return Err(crate::Error::usage(format!(
                "a grace of less than {} h is not safe: a backup may be about to refer to what would be deleted",
                LEAST_GRACE.as_hours()
            )));
        }
        // The order matters. A pack that is listed was announced before; a run that is not announced any more has its manifest; a mark
        // that is old enough is older than any manifest that may refer to its object and is not listed.
        monitor.phase("list");
        let names = self.packs_in_store()?;
        let running = self.running(options.now)?;
        let marks = self.marks(options.now)?;
        let backups = self.backups_for_prune()?;
        monitor.phase("read");
        let live = self.live(&backups, monitor, cancel)?;
        crate::failpoint!("prune.listed");
        let view = View {
            options,
            marks,
            running,
            live,
        };
        let mut report = Report::new(options, backups.len() as u64, &view.live);

        monitor.phase("decide");
        let decisions = self.decide(&names, &view, &mut report, monitor, cancel)?;
        if !options.dry_run {
            self.carry_out(&decisions, &view, monitor, cancel)?;
            self.forget_marks_of_the_gone(&names, &view)?;
            self.remove_stale_announcements(options.now)?;
        }
        report.notes_removed = self.remove_notes_of_the_gone(options.dry_run)?;
        if !options.dry_run {
            self.store.sync().map_err(Error::from)?;
        }
        Ok(report)
    }

    /// Looks at one pack after the other. Copies are written here; nothing relies on them before they are durable.
    fn decide(
        &self,
        names: &[PackName],
        view: &View<'_>,
        report: &mut Report,
        monitor: &dyn Monitor,
        cancel: &Cancel,
    ) -> crate::Result<Vec<Decision>> {
        let packs = names.chunk_by(|one, other| one.id == other.id);
        monitor.begin(Work {
            name: "pruning",
            bytes: 0,
            items: names.len() as u64,
        });
        let mut decisions = Vec::new();
        for objects in packs {
            cancel.check()?;
            let decision = match self.decide_pack(objects, view) {
                // Another prune deleted it meanwhile: it has decided, and the next one looks again.
                Err(Error::Store(store::Error::Absent { .. })) => Decision::default(),
                decision => decision?,
            };
            report.add(&decision, view);
            monitor.advance(0, objects.len() as u64);
            if decision.changes_something() {
                decisions.push(decision);
            }
        }
        monitor.end();
        Ok(decisions)
    }

    fn carry_out(
        &self,
        decisions: &[Decision],
        view: &View<'_>,
        monitor: &dyn Monitor,
        cancel: &Cancel,
    ) -> crate::Result<()> {
        // Copies are durable before what they were made of is marked or deleted. Deletions come before marks, since these need room.
        self.store.sync().map_err(Error::from)?;
        crate::failpoint!("prune.copied");
        monitor.phase("delete");
        let delete: Vec<&PackName> = decisions
            .iter()
            .flat_map(|decision| decision.delete.iter().map(|(object, _)| object))
            .collect();
        for object in &delete {
            cancel.check()?;
            self.store.delete(&object.key()).map_err(Error::from)?;
        }
        // The mark stays longer than its object: an object that comes back in a power cut is still marked.
        self.store.sync().map_err(Error::from)?;
        crate::failpoint!("prune.deleted");
        for key in delete
            .iter()
            .filter_map(|object| view.marks.get(object))
            .flat_map(|marked| &marked.keys)
        {
            self.store.delete(key).map_err(Error::from)?;
        }
        monitor.phase("mark");
        for (object, _, why) in decisions.iter().flat_map(|decision| &decision.mark) {
            cancel.check()?;
            self.doom(*object, *why, view.options.now)?;
        }
        for object in decisions.iter().flat_map(|decision| &decision.mark_again) {
            self.doom_again(*object, view.options.now)?;
        }
        self.store.sync().map_err(Error::from)?;
        crate::failpoint!("prune.marked");
        Ok(())
    }

    /// Marks that a prune left which died after it had deleted their objects.
    fn forget_marks_of_the_gone(&self, names: &[PackName], view: &View<'_>) -> crate::Result<()> {
        for (object, marked) in &view.marks {
            if names.binary_search(object).is_ok() {
                continue;
            }
            // No name is used twice, so what is gone stays gone.
            if let Err(store::Error::Absent { .. }) = self.store.size(&object.key()) {
                for key in &marked.keys {
                    self.store.delete(key).map_err(Error::from)?;
                }
            }
        }
        Ok(())
    }
}

fn replaced(object: PackName, size: u64) -> (PackName, u64, Why) {
    (object, size, Why::Replaced)
}
