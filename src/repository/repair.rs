//! After damage: what reads well is saved into a new generation of its pack, what is lost is written down, and the next backup stores it
//! again because the damaged object counts as absent. No backup is removed, and no object is deleted: that is left to a prune.

use serde::Serialize;

use super::doomed::Why;
use super::keys::pack_key;
use super::pack::{copy_slots, objects_of};
use super::verify::{BadPack, BadPacks};
use super::{Backup, Error, Loss, LostObject, Repository, Result};
use crate::monitor::Monitor;
use crate::sys::signal::Cancel;
use crate::units::Id;

/// What a repair did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Nothing was done.
    pub dry_run: bool,
    /// Damaged packs.
    pub packs: Vec<RepairedPack>,
    /// Backups that lost something, those that were known included.
    pub backups: Vec<DamagedBackup>,
    /// Manifests that cannot be read; left as they are.
    pub manifests: Vec<String>,
}

/// A damaged pack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RepairedPack {
    /// The pack's id.
    pub pack: Id,
    /// What was found.
    pub reason: String,
    /// The object that has what could be saved, if anything.
    pub saved_to: Option<String>,
    /// Slots that are lost; `None`: all of them.
    pub lost_slots: Option<u64>,
}

/// A backup that lost something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DamagedBackup {
    /// The backup.
    pub backup: Id,
    /// Whether that was known before.
    pub known: bool,
    /// What it misses.
    pub objects: Vec<LostObject>,
}

impl Repository {
    /// Reads every pack that a backup refers to, saves what reads well of damaged ones, and writes down what is lost.
    ///
    /// # Errors
    /// The store failed, or a signal asked to end: the next repair goes on.
    pub fn repair(
        &self,
        dry_run: bool,
        workers: usize,
        monitor: &dyn Monitor,
        cancel: &Cancel,
    ) -> crate::Result<Report> {
        let mut report = Report {
            dry_run,
            ..Report::default()
        };
        let mut backups = Vec::new();
        for listed in self.list()? {
            match listed.manifest {
                Ok(manifest) => backups.push(Backup::new(self, manifest)),
                Err(_) => report.manifests.push(listed.key),
            }
        }
        monitor.phase("verify");
        let bad = self.bad_packs(&backups, workers, monitor, cancel)?;
        monitor.phase("repair");
        // Quiet ones were repaired before: what stays of them is sound.
        for (id, bad) in bad.iter().filter(|(_, bad)| !bad.quiet) {
            cancel.check()?;
            let repaired = self.repair_pack(*id, bad, dry_run)?;
            report.packs.push(repaired);
        }
        self.store.sync().map_err(Error::from)?;
        report.backups = self.note_losses(&backups, &bad, dry_run, cancel)?;
        Ok(report)
    }

    fn repair_pack(&self, id: Id, bad: &BadPack, dry_run: bool) -> Result<RepairedPack> {
        let mut repaired = RepairedPack {
            pack: id,
            reason: bad.reason(),
            saved_to: None,
            lost_slots: bad.whole.is_none().then_some(bad.slots.len() as u64),
        };
        // What cannot be read may be read tomorrow: it is noted, and nothing of it is given up.
        if dry_run || bad.unread {
            return Ok(repaired);
        }
        let (objects, doomed) = (objects_of(&*self.store, id)?, self.doomed()?);
        if bad.whole.is_none() {
            let copied = copy_slots(&self.store, &self.keys, &objects, &|_| true, usize::MAX)?;
            repaired.saved_to = copied.object.map(|(name, _)| name.key());
        }
        // What was saved is durable before a backup stops to look at the damaged object.
        self.store.sync()?;
        crate::failpoint!("repair.saved");
        for object in objects.into_iter().filter(|object| !doomed.contains(object)) {
            self.doom(object, Why::Damaged, jiff::Timestamp::now())?;
        }
        Ok(repaired)
    }

    fn note_losses(
        &self,
        backups: &[Backup],
        bad: &BadPacks,
        dry_run: bool,
        cancel: &Cancel,
    ) -> crate::Result<Vec<DamagedBackup>> {
        let known = self.losses()?;
        let mut damaged = Vec::new();
        for backup in backups {
            cancel.check()?;
            let id = backup.manifest().id;
            let missed = self.missed_by(backup, bad, cancel)?.into_iter();
            let missed = missed.filter(|damage| damage.backups.contains(&id));
            let objects: Vec<LostObject> = missed
                .map(|damage| LostObject {
                    unread: bad.iter().any(|(id, bad)| bad.unread && pack_key(*id) == damage.object),
                    files: damage.paths.len() as u64 + damage.more_paths,
                    object: damage.object,
                    reason: damage.reason,
                })
                .collect();
            if objects.is_empty() {
                continue;
            }
            let names = |objects: &[LostObject]| objects.iter().map(|lost| lost.object.clone()).collect::<Vec<_>>();
            let before: Vec<String> = known
                .iter()
                .filter(|loss| loss.backup == id)
                .flat_map(|loss| names(&loss.objects))
                .collect();
            let is_known = names(&objects).iter().all(|name| before.contains(name));
            if !dry_run && !is_known {
                self.note_loss(Loss {
                    backup: id,
                    objects: objects.clone(),
                })?;
            }
            damaged.push(DamagedBackup {
                backup: id,
                known: is_known,
                objects,
            });
        }
        self.store.sync().map_err(Error::from)?;
        Ok(damaged)
    }
}
