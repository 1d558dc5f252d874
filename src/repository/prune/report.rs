//! What a prune did, or would do.

use serde::Serialize;

use super::pack::Decision;
use super::{Options, View};
use crate::repository::live::Live;
use crate::units::Id;

/// Objects and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// How many.
    pub objects: u64,
    /// Their bytes in the store.
    pub bytes: u64,
}

impl Amount {
    pub(super) fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes += bytes;
    }
}

/// A backup whose maps do not read well, so that its packs are kept as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Uncertain {
    /// The backup.
    pub backup: Id,
    /// Object and reason.
    pub reason: String,
}

/// What a prune did, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Nothing was done.
    pub dry_run: bool,
    /// Backups whose maps were read.
    pub backups: u64,
    /// All objects of packs.
    pub stored: Amount,
    /// Marked long enough ago: deleted.
    pub deleted: Amount,
    /// Marked now, because no backup needs them.
    pub unreferenced: Amount,
    /// Marked now, because a copy has what is needed of them.
    pub replaced: Amount,
    /// Copies that were written.
    pub copied: Amount,
    /// Marked earlier; their grace is not over.
    pub waiting: Amount,
    /// Packs of backups that run.
    pub running: Amount,
    /// Bytes in packs that stay that no backup needs.
    pub unused_bytes: u64,
    /// Damaged objects that stay, because something in them is needed and cannot be copied.
    pub damaged: Vec<String>,
    /// Copies that could not be written, and why (no room): the packs stay as they are.
    pub failed: Vec<String>,
    /// Backups whose packs are kept as a whole.
    pub uncertain: Vec<Uncertain>,
    /// Notes (drills, holds, damage) about backups that are gone.
    pub notes_removed: u64,
    /// When a prune can delete what waits now.
    pub next: Option<jiff::Timestamp>,
}

impl Report {
    pub(super) fn new(options: &Options, backups: u64, live: &Live) -> Report {
        let uncertain = live.uncertain.iter().map(|(backup, reason)| Uncertain {
            backup: *backup,
            reason: reason.clone(),
        });
        Report {
            dry_run: options.dry_run,
            backups,
            stored: Amount::default(),
            deleted: Amount::default(),
            unreferenced: Amount::default(),
            replaced: Amount::default(),
            copied: Amount::default(),
            waiting: Amount::default(),
            running: Amount::default(),
            unused_bytes: 0,
            damaged: Vec::new(),
            failed: Vec::new(),
            uncertain: uncertain.collect(),
            notes_removed: 0,
            next: None,
        }
    }

    pub(super) fn add(&mut self, decision: &Decision, view: &View<'_>) {
        use crate::repository::doomed::Why;
        decision.sizes.iter().for_each(|size| self.stored.add(*size));
        decision.delete.iter().for_each(|(_, size)| self.deleted.add(*size));
        decision.running.iter().for_each(|size| self.running.add(*size));
        decision.copied.iter().for_each(|size| self.copied.add(*size));
        self.unused_bytes += decision.unused;
        self.damaged.extend(decision.damaged.iter().cloned());
        self.failed.extend(decision.failed.iter().cloned());
        let options = view.options;
        let mut next = |since: jiff::Timestamp| {
            let end = since.checked_add(options.grace).unwrap_or(jiff::Timestamp::MAX);
            self.next = Some(self.next.map_or(end, |next| next.min(end)));
        };
        for (object, size) in &decision.waiting {
            self.waiting.add(*size);
            next(
                view.marks
                    .get(object)
                    .and_then(|marked| marked.since())
                    .unwrap_or(options.now),
            );
        }
        for (_, size, why) in &decision.mark {
            next(options.now);
            match why {
                Why::Unreferenced => self.unreferenced.add(*size),
                Why::Replaced | Why::Damaged => self.replaced.add(*size),
            }
        }
    }
}
