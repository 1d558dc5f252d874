//! A store that calls somebody right before each step, so that others can act at exactly that point.

use std::sync::{Arc, Mutex};

use snapback::store::memory::MemoryStore;
use snapback::store::{Error, Result, Store, Upload};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Put,
    Sync,
    Get,
    List,
    Delete,
}

type Hook = Box<dyn FnMut(Step, &str) -> Result<()> + Send>;

#[derive(Clone)]
pub struct Hooked {
    below: MemoryStore,
    hook: Arc<Mutex<Hook>>,
}

impl Hooked {
    pub fn new(below: &MemoryStore, hook: impl FnMut(Step, &str) -> Result<()> + Send + 'static) -> Hooked {
        Hooked {
            below: below.clone(),
            hook: Arc::new(Mutex::new(Box::new(hook))),
        }
    }

    /// Calls `act` once, right before the first step of this kind on a key that begins so.
    pub fn once(below: &MemoryStore, step: Step, prefix: &'static str, act: impl FnOnce() + Send + 'static) -> Hooked {
        let mut act = Some(act);
        Hooked::new(below, move |at, key| {
            if at == step && key.starts_with(prefix) {
                act.take().into_iter().for_each(|act| act());
            }
            Ok(())
        })
    }

    /// Everything that changes something fails from the n-th such step on: the process has died.
    pub fn dying(below: &MemoryStore, steps: u64) -> (Hooked, Arc<Mutex<u64>>) {
        let left = Arc::new(Mutex::new(steps));
        let count = Arc::clone(&left);
        let hooked = Hooked::new(below, move |step, key| {
            if matches!(step, Step::Get | Step::List) {
                return Ok(());
            }
            let mut left = count.lock().unwrap();
            if *left > 0 {
                *left -= 1;
                return Ok(());
            }
            Err(Error::Io {
                operation: "reach",
                key: key.to_owned(),
                store: "dead".to_owned(),
                source: std::io::Error::other("the process has died"),
            })
        });
        (hooked, left)
    }

    fn call(&self, step: Step, key: &str) -> Result<()> {
        (self.hook.lock().unwrap())(step, key)
    }
}

impl Store for Hooked {
    fn name(&self) -> String {
        self.below.name()
    }

    fn put_new(&self, key: &str) -> Result<Box<dyn Upload>> {
        Ok(Box::new(HookedUpload {
            below: self.below.put_new(key)?,
            store: self.clone(),
            key: key.to_owned(),
        }))
    }

    fn sync(&self) -> Result<()> {
        self.call(Step::Sync, "")?;
        self.below.sync()
    }

    fn get_range(&self, key: &str, offset: u64, into: &mut [u8]) -> Result<usize> {
        self.call(Step::Get, key)?;
        self.below.get_range(key, offset, into)
    }

    fn size(&self, key: &str) -> Result<u64> {
        self.call(Step::Get, key)?;
        self.below.size(key)
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>> {
        self.call(Step::List, prefix)?;
        self.below.list(prefix)
    }

    fn delete(&self, key: &str) -> Result<()> {
        self.call(Step::Delete, key)?;
        self.below.delete(key)
    }
}

struct HookedUpload {
    below: Box<dyn Upload>,
    store: Hooked,
    key: String,
}

impl Upload for HookedUpload {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.below.append(bytes)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.store.call(Step::Put, &self.key)?;
        self.below.finish()
    }
}
