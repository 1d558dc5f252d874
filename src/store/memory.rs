//! A store in memory, for tests: what is not synced is lost in a crash.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Error, Result, Store, Upload, key};

/// Objects in memory. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    objects: BTreeMap<String, Arc<Vec<u8>>>,
    /// What a crash would leave.
    durable: BTreeMap<String, Arc<Vec<u8>>>,
}

impl MemoryStore {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is left after a power cut now: objects that were synced, and of the others those for which `survives` says so
    /// (a directory may reach the disk by itself at any time).
    pub fn after_crash(&self, survives: impl Fn(&str) -> bool) -> MemoryStore {
        let inner = self.inner();
        let mut objects = inner.durable.clone();
        objects.extend(
            inner
                .objects
                .iter()
                .filter(|(key, _)| survives(key))
                .map(|(key, bytes)| (key.clone(), Arc::clone(bytes))),
        );
        MemoryStore {
            inner: Arc::new(Mutex::new(Inner {
                durable: objects.clone(),
                objects,
            })),
        }
    }

    /// All objects.
    pub fn objects(&self) -> BTreeMap<String, Arc<Vec<u8>>> {
        self.inner().objects.clone()
    }

    /// Puts an object, or replaces one: damage done on purpose.
    pub fn tamper(&self, key: &str, bytes: Vec<u8>) {
        self.inner().objects.insert(key.to_owned(), Arc::new(bytes));
    }

    fn get(&self, key: &str) -> Result<Arc<Vec<u8>>> {
        key::check(key)?;
        self.inner().objects.get(key).cloned().ok_or_else(|| Error::Absent {
            key: key.to_owned(),
            store: self.name(),
        })
    }
}

impl Store for MemoryStore {
    fn name(&self) -> String {
        "memory".to_owned()
    }

    fn put_new(&self, key: &str) -> Result<Box<dyn Upload>> {
        key::check(key)?;
        Ok(Box::new(MemoryUpload {
            store: self.clone(),
            key: key.to_owned(),
            bytes: Vec::new(),
        }))
    }

    fn sync(&self) -> Result<()> {
        let mut inner = self.inner();
        inner.durable = inner.objects.clone();
        Ok(())
    }

    fn get_range(&self, key: &str, offset: u64, into: &mut [u8]) -> Result<usize> {
        let object = self.get(key)?;
        let rest = object
            .get(usize::try_from(offset).unwrap_or(usize::MAX)..)
            .unwrap_or_default();
        let length = rest.len().min(into.len());
        into[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn size(&self, key: &str) -> Result<u64> {
        Ok(self.get(key)?.len() as u64)
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>> {
        key::check_prefix(prefix)?;
        Ok(self
            .inner()
            .objects
            .keys()
            .filter(|key| key.starts_with(prefix))
            .cloned()
            .collect())
    }

    fn delete(&self, key: &str) -> Result<()> {
        self.inner().objects.remove(key);
        Ok(())
    }
}

struct MemoryUpload {
    store: MemoryStore,
    key: String,
    bytes: Vec<u8>,
}

impl Upload for MemoryUpload {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let mut inner = self.store.inner();
        if inner.objects.contains_key(&self.key) {
            return Err(Error::Present {
                key: self.key.clone(),
                store: self.store.name(),
            });
        }
        inner.objects.insert(self.key.clone(), Arc::new(self.bytes));
        Ok(())
    }
}
