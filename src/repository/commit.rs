//! The commit: packs durable, references checked once more, then the manifest.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::keys::{manifest_key, pack_key};
use super::manifest::{FORMAT, MOST_TAGS, Root};
use super::pack::{Finished, PackWriter};
use super::sealed;
use super::stored_record::StoredRecord;
use super::table::{BlockRef, encode_index, encode_packs};
use super::writer::{Writer, compress, compressor};
use super::{Digest, Draft, Error, Manifest, Result, is_valid_host};
use crate::units::Id;

/// How long after the check of its references a manifest may appear. A prune's grace is longer.
pub(super) const COMMIT_WINDOW: Duration = Duration::from_secs(3600);

/// Time that has passed, by the clock that says more: the monotonic one stands still while a machine sleeps, the other may be set.
struct Stopwatch {
    monotonic: Instant,
    wall: jiff::Timestamp,
}

impl Stopwatch {
    fn start() -> Stopwatch {
        Stopwatch {
            monotonic: Instant::now(),
            wall: jiff::Timestamp::now(),
        }
    }

    fn elapsed(&self) -> Duration {
        let wall = jiff::Timestamp::now().duration_since(self.wall);
        self.monotonic.elapsed().max(wall.try_into().unwrap_or_default())
    }
}

impl Writer {
    /// Makes everything durable, checks once more that what it refers to is there, and publishes the manifest.
    /// All workers were closed and the table finished before.
    ///
    /// # Errors
    /// Nothing was published; or, when only the last sync failed, it is not certain to be on disk.
    pub fn commit(self, draft: Draft) -> Result<Manifest> {
        self.commit_within(draft, COMMIT_WINDOW)
    }

    fn commit_within(self, draft: Draft, window: Duration) -> Result<Manifest> {
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
        let mut packs = self.referenced(&own)?;
        let root = self.write_root(&blocks, open, &packs)?;
        let all_own = self.finisher.wait()?;
        packs.push(root.finished());

        // Everything that the manifest will refer to is durable from here.
        self.repository.store.sync()?;
        crate::failpoint!("repository.packs-durable");
        let manifest = self.manifest(draft, root, &all_own)?;
        let key = manifest_key(&manifest.host, manifest.time, manifest.id);
        let sealed = sealed::seal(&manifest, |json| self.repository.keys.manifest(json))?;

        // A prune relies on it: a manifest appears at most so long after its references were checked.
        let checked = Stopwatch::start();
        self.check_references(&packs)?;
        if checked.elapsed() > window {
            let took = format!(
                "it took {} s, longer than a manifest may wait after it: run the backup again",
                checked.elapsed().as_secs()
            );
            return Err(Error::Store(crate::store::Error::Io {
                operation: "look at all packs for",
                key,
                store: self.repository.store.name(),
                source: std::io::Error::new(std::io::ErrorKind::TimedOut, took),
            }));
        }
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
        if checked.elapsed() > window
            && let Err(error) = self.check_references(&packs)
        {
            // The store was slower than any prune waits: what a prune did meanwhile did not count with this backup. Its packs stay,
            // since another backup may have compared with it already; they are unreferenced now.
            self.repository.store.delete(&key)?;
            self.repository.store.sync()?;
            return Err(error);
        }
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
        let known = |id: &Id| own.get(id).or_else(|| Some(&usable?.get(id)?.pack)).copied();
        let state = self.state();
        let mut packs = Vec::new();
        for (id, _) in state.referenced.packs() {
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
    fn check_references(&self, packs: &[Finished]) -> Result<()> {
        // Marks first: a mark goes after its object, so an object that has none now and is there afterwards was not about to go.
        let doomed = self.repository.doomed()?;
        let state = self.state();
        for pack in packs {
            let known = self.parent.as_ref().and_then(|parent| parent.usable.get(&pack.id));
            let known = known.map(|usable| usable.object);
            let slots = state.referenced.of(pack.id);
            if !self.repository.still_has(pack, slots, known, &doomed)? {
                let reason = "it is gone, or about to be pruned, since this backup began: run the backup again";
                return Err(Error::damaged(pack_key(pack.id), reason));
            }
        }
        Ok(())
    }

    fn manifest(&self, draft: Draft, root: Root, own: &[Finished]) -> Result<Manifest> {
        let mut sizes = self.state().sizes;
        sizes.stored = own.iter().map(|pack| pack.size).sum();
        if draft.tags.len() > MOST_TAGS {
            return Err(Error::Unusable(format!("a backup may have {MOST_TAGS} tags")));
        }
        let record = StoredRecord::new(&draft.record)
            .map_err(|error| Error::Unusable(format!("cannot write the record: {error}")))?;
        Ok(Manifest {
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
            record,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::{Repository, WriterOptions};
    use crate::store::memory::MemoryStore;
    use crate::store::{Store, Upload};
    use std::sync::Arc;

    /// A store in which a manifest takes long to appear, while somebody marks every pack.
    struct Slow {
        below: MemoryStore,
        takes: Duration,
    }

    struct SlowUpload {
        upload: Box<dyn Upload>,
        below: MemoryStore,
        takes: Duration,
    }

    impl Upload for SlowUpload {
        fn append(&mut self, bytes: &[u8]) -> crate::store::Result<()> {
            self.upload.append(bytes)
        }

        fn finish(self: Box<Self>) -> crate::store::Result<()> {
            for pack in self.below.list("packs/")? {
                let name = pack.rsplit('/').next().unwrap_or_default();
                self.below.tamper(&format!("doomed/{name}"), Vec::new());
            }
            std::thread::sleep(self.takes);
            self.upload.finish()
        }
    }

    impl Store for Slow {
        fn name(&self) -> String {
            self.below.name()
        }

        fn put_new(&self, key: &str) -> crate::store::Result<Box<dyn Upload>> {
            let upload = self.below.put_new(key)?;
            if !key.starts_with("manifests/") {
                return Ok(upload);
            }
            Ok(Box::new(SlowUpload {
                upload,
                below: self.below.clone(),
                takes: self.takes,
            }))
        }

        fn sync(&self) -> crate::store::Result<()> {
            self.below.sync()
        }

        fn get_range(&self, key: &str, offset: u64, into: &mut [u8]) -> crate::store::Result<usize> {
            self.below.get_range(key, offset, into)
        }

        fn size(&self, key: &str) -> crate::store::Result<u64> {
            self.below.size(key)
        }

        fn list(&self, prefix: &str) -> crate::store::Result<Vec<String>> {
            self.below.list(prefix)
        }

        fn delete(&self, key: &str) -> crate::store::Result<()> {
            self.below.delete(key)
        }
    }

    fn commit(window: Duration, takes: Duration) -> (MemoryStore, Result<Manifest>) {
        let below = MemoryStore::default();
        Repository::create(Arc::new(below.clone())).unwrap();
        let slow = Slow {
            below: below.clone(),
            takes,
        };
        let repository = Repository::open(Arc::new(slow)).unwrap();
        let options = WriterOptions {
            id: Id::random(),
            parent: None,
            level: 1,
        };
        let writer = repository.begin(options).unwrap();
        writer.table().unwrap().finish().unwrap();
        let draft = Draft {
            time: jiff::Timestamp::now(),
            host: "h".to_owned(),
            tags: Default::default(),
            record: serde_json::Value::Null,
        };
        (below, writer.commit_within(draft, window))
    }

    #[test]
    fn a_manifest_that_comes_later_than_a_prune_waits_for_is_checked_again_and_taken_back() {
        let (below, late) = commit(Duration::from_millis(500), Duration::from_millis(800));
        let late = late.unwrap_err().to_string();
        assert!(late.contains("run the backup again"), "{late}");
        assert!(below.list("manifests/").unwrap().is_empty(), "the manifest stayed");
        assert!(
            !below.list("packs/").unwrap().is_empty(),
            "packs went that another backup may refer to"
        );
        // In time, a mark that came after the check is the prune's affair: it copies.
        let (below, in_time) = commit(Duration::from_secs(60), Duration::ZERO);
        in_time.unwrap();
        assert_eq!(below.list("manifests/").unwrap().len(), 1);
    }

    #[test]
    fn a_check_that_takes_too_long_publishes_nothing() {
        let (below, refused) = commit(Duration::ZERO, Duration::ZERO);
        assert!(
            refused
                .unwrap_err()
                .to_string()
                .contains("longer than a manifest may wait")
        );
        assert!(below.list("manifests/").unwrap().is_empty() && below.list("packs/").unwrap().is_empty());
    }
}
