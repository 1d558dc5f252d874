//! What all backups together refer to. The bitmaps are the only thing that grows, and they are also what tells which shared sections were
//! read already: the maps of many backups of one host are read once.

use super::used::Used;
use super::verify::describe;
use super::{Backup, EntryKind, Error, Repository, Result, SectionRef};
use crate::monitor::{Monitor, Work};
use crate::sys::signal::Cancel;
use crate::units::Id;

/// What is referred to.
pub(super) struct Live {
    pub used: Used,
    /// Backups whose maps do not read well, and why: their packs count as referred to as a whole.
    pub uncertain: Vec<(Id, String)>,
}

impl Repository {
    /// Every backup; a manifest that cannot be read is an error, because nobody knows what it needs.
    pub(super) fn backups_for_prune(&self) -> Result<Vec<Backup>> {
        let mut backups = Vec::new();
        for listed in self.list()? {
            match listed.manifest {
                Ok(manifest) => backups.push(Backup::new(self, manifest)),
                Err(error) => return Err(blocked(&listed.key, &error)),
            }
        }
        Ok(backups)
    }

    /// Reads the maps of these backups.
    ///
    /// # Errors
    /// A backup's table of packs cannot be read, or a signal asked to end.
    pub(super) fn live(&self, backups: &[Backup], monitor: &dyn Monitor, cancel: &Cancel) -> crate::Result<Live> {
        monitor.begin(Work {
            name: "reading maps",
            bytes: 0,
            items: backups.len() as u64,
        });
        let mut live = Live {
            used: Used::default(),
            uncertain: Vec::new(),
        };
        for backup in backups {
            let manifest = backup.manifest();
            let packs = match backup.packs() {
                Ok(packs) => packs,
                // It may have been forgotten since, and what it needed pruned.
                Err(_) if self.is_gone(manifest)? => continue,
                Err(error) => {
                    let key = super::keys::manifest_key(&manifest.host, manifest.time, manifest.id);
                    return Err(blocked(&key, &error).into());
                }
            };
            let root = &manifest.root;
            live.used.insert(root.pack, root.table_slot);
            live.used.insert(root.pack, root.packs_slot);
            if let Err(error) = read_maps(backup, &mut live.used, cancel)? {
                let (object, reason) = describe(&error);
                live.uncertain.push((manifest.id, format!("{object}: {reason}")));
                packs.iter().for_each(|pack| live.used.insert_whole(pack.id));
                live.used.insert_whole(root.pack);
            }
            monitor.advance(0, 1);
        }
        monitor.end();
        Ok(live)
    }

    fn is_gone(&self, manifest: &super::Manifest) -> Result<bool> {
        let key = super::keys::manifest_key(&manifest.host, manifest.time, manifest.id);
        match self.store.size(&key) {
            Ok(_) => Ok(false),
            Err(crate::store::Error::Absent { .. }) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

/// Everything that a backup's tables and sections refer to. The inner error is damage.
fn read_maps(backup: &Backup, used: &mut Used, cancel: &Cancel) -> crate::Result<Result<()>> {
    let mut walk = || -> crate::Result<()> {
        for block in backup.blocks()? {
            used.insert(block.pack, block.slot);
        }
        let mut fetcher = backup.fetcher()?;
        for entry in backup.entries()? {
            cancel.check()?;
            let entry = entry?;
            let EntryKind::File(content) = &entry.kind else {
                continue;
            };
            for (index, at) in content.sections.iter().enumerate() {
                cancel.check()?;
                // Shared with a backup that was read before: its chunks are known. A section that did not read well is not.
                if matches!(at, SectionRef::Stored { pack, slot, .. } if used.has(*pack, *slot)) {
                    continue;
                }
                let section = fetcher.section(at, content.section_chunks(index))?;
                used.insert_section(&section);
                used.insert_reference(at);
            }
        }
        Ok(())
    };
    match walk() {
        Err(crate::Error::Repository(error)) => Ok(Err(error)),
        Err(other) => Err(other),
        Ok(()) => Ok(Ok(())),
    }
}

fn blocked(key: &str, error: &Error) -> Error {
    let (object, reason) = describe(error);
    let about = if object == key {
        reason
    } else {
        format!("{object}: {reason}")
    };
    Error::damaged(
        key,
        format!(
            "{about}; nothing is pruned while nobody knows which packs it needs. Put the object back from a copy of the repository, or give \
             the backup up with `snapback forget --damaged ID`"
        ),
    )
}
