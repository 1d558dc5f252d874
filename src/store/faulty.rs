//! A store that fails at the n-th call, for tests of every failure path.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Error, Result, Store, Upload};

/// Passes calls on until the n-th one that changes something; that one and all later ones fail as a full disk does.
#[derive(Clone)]
pub struct FaultyStore {
    below: Arc<dyn Store>,
    left: Arc<AtomicU64>,
}

impl FaultyStore {
    /// Fails after `calls` calls that change something.
    pub fn new(below: Arc<dyn Store>, calls: u64) -> FaultyStore {
        FaultyStore {
            below,
            left: Arc::new(AtomicU64::new(calls)),
        }
    }

    /// Whether the failure has come.
    pub fn has_failed(&self) -> bool {
        self.left.load(Ordering::SeqCst) == 0
    }

    fn step(&self, operation: &'static str, key: &str) -> Result<()> {
        let spent = self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if matches!(spent, Ok(2..)) {
            return Ok(());
        }
        let source = io::Error::from(io::ErrorKind::StorageFull);
        Err(Error::Io {
            operation,
            key: key.to_owned(),
            store: self.below.name(),
            source,
        })
    }
}

impl Store for FaultyStore {
    fn name(&self) -> String {
        self.below.name()
    }

    fn put_new(&self, key: &str) -> Result<Box<dyn Upload>> {
        self.step("write", key)?;
        let below = self.below.put_new(key)?;
        Ok(Box::new(FaultyUpload {
            store: self.clone(),
            key: key.to_owned(),
            below,
        }))
    }

    fn sync(&self) -> Result<()> {
        self.step("sync", "the directories")?;
        self.below.sync()
    }

    fn get_range(&self, key: &str, offset: u64, into: &mut [u8]) -> Result<usize> {
        self.below.get_range(key, offset, into)
    }

    fn size(&self, key: &str) -> Result<u64> {
        self.below.size(key)
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>> {
        self.below.list(prefix)
    }

    fn delete(&self, key: &str) -> Result<()> {
        // A full disk lets files be deleted.
        self.below.delete(key)
    }
}

struct FaultyUpload {
    store: FaultyStore,
    key: String,
    below: Box<dyn Upload>,
}

impl Upload for FaultyUpload {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.store.step("write", &self.key)?;
        self.below.append(bytes)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.store.step("write", &self.key)?;
        self.below.finish()
    }
}
