//! The commit: packs durable, references checked once more, then the manifest.

use std::collections::HashMap;

use super::keys::{manifest_key, pack_key};
use super::manifest::{FORMAT, Root};
use super::pack::{Finished, PackWriter};
use super::sealed;
use super::table::{BlockRef, encode_index, encode_packs};
use super::writer::{Writer, compress, compressor};
use super::{Digest, Draft, Error, Manifest, Result, is_valid_host};
use crate::units::Id;

impl Writer {
    /// Makes everything durable, checks once more that what it refers to is there, and publishes the manifest.
    /// All workers were closed and the table finished before.
    ///
    /// # Errors
    /// Nothing was published; or, when only the last sync failed, it is not certain to be on disk.
    pub fn commit(self, draft: Draft) -> Result<Manifest> {
        if !is_valid_host(&draft.host) {
            return Err(Error::Unusable(format!(
                "`{}` cannot be a host's name in a repository: letters, digits, `.`, `_`, `-`",
                draft.host
            )));
        }
        let (blocks, open) = self
            .state()
            .table
            .take()
            .ok_or_else(|| Error::Unusable("the file table was not finished".to_owned()))?;
        let own = self.finisher_so_far()?;
        let referenced = self.referenced(&own)?;
        let root = self.write_root(&blocks, open, &referenced)?;
        let all_own = self.finisher.wait()?;

        // Everything that the manifest will refer to is durable from here.
        self.repository.store.sync()?;
        crate::failpoint!("repository.packs-durable");
        self.check_references(referenced.iter().chain([&root.finished()]))?;

        let manifest = self.manifest(draft, root, &all_own);
        let key = manifest_key(&manifest.host, manifest.time, manifest.id);
        let sealed = sealed::seal(&manifest, |json| self.repository.keys.manifest(json))?;
        crate::failpoint!("repository.before-manifest");
        // The manifest is the commit point. Once it may exist, nothing of this backup may be removed.
        self.state().published = true;
        if let Err(error) = sealed::put(&*self.repository.store, &key, &sealed) {
            let absent = matches!(
                self.repository.store.size(&key),
                Err(crate::store::Error::Absent { .. })
            );
            self.state().published = !absent;
            return Err(error.into());
        }
        crate::failpoint!("repository.after-manifest");
        self.repository.store.sync()?;
        Ok(manifest)
    }

    /// The packs that workers and table have closed, by id.
    fn finisher_so_far(&self) -> Result<HashMap<Id, Finished>> {
        Ok(self
            .finisher
            .closed()?
            .into_iter()
            .map(|pack| (pack.id, pack))
            .collect())
    }

    /// Size and digest of each pack that is referred to, sorted by id.
    fn referenced(&self, own: &HashMap<Id, Finished>) -> Result<Vec<Finished>> {
        let usable = self.parent.as_ref().map(|parent| &parent.usable);
        let known = |id: &Id| own.get(id).or_else(|| usable?.get(id)).copied();
        let state = self.state();
        let mut packs = Vec::with_capacity(state.referenced.len());
        for id in &state.referenced {
            let missing = || Error::Unusable(format!("the pack {id} was referred to and never closed"));
            packs.push(known(id).ok_or_else(missing)?);
        }
        packs.sort_by_key(|pack| pack.id);
        Ok(packs)
    }

    fn write_root(&self, blocks: &[BlockRef], mut open: PackWriter, packs: &[Finished]) -> Result<Root> {
        // Blocks in the root's own pack need no line in the table of packs: the manifest names that pack.
        let (table, table_hash) = self.add(&mut open, &encode_index(blocks))?;
        let (packs, packs_hash) = self.add(&mut open, &encode_packs(packs))?;
        let finished = self.finisher.finish(open)?;
        Ok(Root {
            pack: finished.id,
            size: finished.size,
            digest: Digest(finished.digest),
            table_slot: table,
            table_hash: Digest(table_hash),
            packs_slot: packs,
            packs_hash: Digest(packs_hash),
        })
    }

    fn add(&self, pack: &mut PackWriter, plain: &[u8]) -> Result<(u32, [u8; 32])> {
        let (mut compressor, mut compressed) = (compressor(self.options.level)?, Vec::new());
        compress(&mut compressor, plain, &mut compressed)?;
        let hash = self.repository.keys.chunk(plain);
        Ok((pack.add(plain, Some(&compressed), hash)?, hash))
    }

    /// A prune may have marked packs since the backup began; a backup that refers to one of them must not appear.
    fn check_references<'p>(&self, packs: impl Iterator<Item = &'p Finished>) -> Result<()> {
        let doomed = self.repository.doomed()?;
        for pack in packs {
            if doomed.contains(&pack.id) || !self.repository.is_there(pack)? {
                let reason = "it is gone, or about to be pruned, since this backup began: run the backup again";
                return Err(Error::damaged(pack_key(pack.id), reason));
            }
        }
        Ok(())
    }

    fn manifest(&self, draft: Draft, root: Root, own: &[Finished]) -> Manifest {
        let mut sizes = self.state().sizes;
        sizes.stored = own.iter().map(|pack| pack.size).sum();
        Manifest {
            format: FORMAT,
            features: super::features(),
            id: self.options.id,
            repository: self.repository.id,
            time: draft.time,
            host: draft.host,
            tags: draft.tags,
            parent: self.parent_id(),
            sizes,
            root,
            record: draft.record,
        }
    }
}
