//! What happens beside a check, and after a repair: backups that were forgotten while it read are no damage, and a note of damage that came of a read error alone is
//! taken back where all reads well.

use std::collections::HashSet;

use super::super::keys::{DAMAGED, PackName, manifest_key};
use super::super::pack::objects_of;
use super::super::{Backup, Loss, LostObject, Note, Repository, Result};
use super::{Damage, Id, Needed};

impl Repository {
    /// Whether a backup that was there has been forgotten since.
    pub(super) fn is_forgotten(&self, backup: &Backup) -> bool {
        let manifest = backup.manifest();
        let key = manifest_key(&manifest.host, manifest.time, manifest.id);
        matches!(self.store.size(&key), Err(crate::store::Error::Absent { .. }))
    }

    /// Whether a damaged pack concerns anybody: a backup that stays needs it, or it is there.
    pub(super) fn concerns(&self, pack: Id, needed: &Needed) -> bool {
        needed.get(&pack).is_some_and(|(_, backups)| *backups > 0)
            || !objects_of(&*self.store, pack).unwrap_or_default().is_empty()
    }

    /// Removes the notes of what could not be read once, where every byte of it reads well now. A note of bytes that are wrong stays, and one of an object that a prune
    /// deletes.
    ///
    /// # Errors
    /// The notes cannot be listed. Where one cannot be deleted, it stays.
    pub(super) fn take_back(
        &self,
        backups: &[Backup],
        damage: &[Damage],
        doomed: &HashSet<PackName>,
    ) -> Result<Vec<Id>> {
        let mut taken = Vec::new();
        for (key, note) in self.notes::<Loss>(DAMAGED)? {
            let Ok(Note { body: loss, .. }) = note else { continue };
            let looked_at = backups.iter().any(|backup| backup.manifest().id == loss.backup);
            let is_damaged = damage.iter().any(|damage| damage.backups.contains(&loss.backup));
            let goes = |lost: &LostObject| doomed.iter().any(|name| name.key() == lost.object);
            let may_pass = |lost: &LostObject| lost.may_pass() && !goes(lost);
            if looked_at && !is_damaged && loss.objects.iter().all(may_pass) && self.store.delete(&key).is_ok() {
                taken.push(loss.backup);
            }
        }
        Ok(taken)
    }
}
