//! Filling packs: one open pack per worker and kind; full ones are made durable by a thread of their own.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::super::keys::{Hash, Keys, PackName};
use super::super::{Error, Result};
use super::{Encoding, HEADER, Kind, MOST_SLOTS, SLOT, Slot, TARGET, TRAILER};
use crate::store::{Store, Upload};
use crate::units::Id;

/// Full packs that may wait to be made durable; more would only take memory.
const WAITING: usize = 4;

/// A pack that is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Finished {
    pub id: Id,
    /// Its object's length in bytes.
    pub size: u64,
    /// Its footer's digest.
    pub digest: Hash,
}

/// One pack that is being filled.
pub(crate) struct PackWriter {
    pub id: Id,
    name: PackName,
    kind: Kind,
    upload: Box<dyn Upload>,
    slots: Vec<Slot>,
    offset: u64,
    body: blake3::Hasher,
    keys: Keys,
}

impl PackWriter {
    pub fn begin(store: &dyn Store, keys: &Keys, kind: Kind, name: PackName) -> Result<PackWriter> {
        let mut upload = store.put_new(&name.key())?;
        upload.append(&super::header(kind, name))?;
        Ok(PackWriter {
            id: name.id,
            name,
            kind,
            upload,
            slots: Vec::new(),
            offset: HEADER as u64,
            body: keys.pack(),
            keys: keys.clone(),
        })
    }

    /// Whether it should be closed before more is added.
    pub fn is_full(&self) -> bool {
        self.offset >= TARGET || self.slots.len() >= MOST_SLOTS
    }

    /// Adds a slot and returns its number. `compressed` is used when it is shorter.
    pub fn add(&mut self, plain: &[u8], compressed: Option<&[u8]>, hash: Hash) -> Result<u32> {
        let (encoding, bytes) = match compressed {
            Some(compressed) if compressed.len() < plain.len() => (Encoding::Zstd, compressed),
            _ => (Encoding::Raw, plain),
        };
        if plain.is_empty() || plain.len() > self.kind.largest() {
            return Err(Error::Unusable(format!("a slot cannot hold {} bytes", plain.len())));
        }
        self.upload.append(bytes)?;
        self.body.update(bytes);
        let number = self.slots.len() as u32;
        self.slots.push(Slot {
            offset: self.offset,
            stored: bytes.len() as u32,
            plain: plain.len() as u32,
            encoding,
            hash,
        });
        self.offset += bytes.len() as u64;
        Ok(number)
    }

    /// Adds a slot of another generation as it is stored there.
    pub(super) fn add_stored(&mut self, slot: &Slot, stored: &[u8]) -> Result<()> {
        self.upload.append(stored)?;
        self.body.update(stored);
        self.slots.push(Slot {
            offset: self.offset,
            ..*slot
        });
        self.offset += stored.len() as u64;
        Ok(())
    }

    /// Leaves out a slot of another generation; its number, hash and plain length stay.
    pub(super) fn add_dropped(&mut self, slot: &Slot) {
        self.slots.push(Slot {
            offset: self.offset,
            stored: 0,
            encoding: Encoding::Dropped,
            ..*slot
        });
    }

    /// Writes the slot table; the object appears when the finisher has published it.
    pub(super) fn close(mut self) -> Result<(Box<dyn Upload>, Finished)> {
        let (table, body) = (super::table(&self.slots), self.body.finalize().into());
        let digest = super::digest(&self.keys, &super::header(self.kind, self.name), &table, &body);
        self.upload.append(&table)?;
        self.upload.append(&super::trailer(self.slots.len(), &digest, &body))?;
        let size = self.offset + (self.slots.len() * SLOT + TRAILER) as u64;
        Ok((
            self.upload,
            Finished {
                id: self.id,
                size,
                digest,
            },
        ))
    }
}

/// A pack that waits to be published.
type Closed = (Box<dyn Upload>, Finished);

/// Publishes full packs on a thread of its own: an fsync must not stop a worker that could compress.
pub(crate) struct Finisher {
    sender: Mutex<Option<crossbeam_channel::Sender<Closed>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Handed over, published or not yet.
    closed: Mutex<Vec<Finished>>,
    /// Published.
    finished: Mutex<Vec<Finished>>,
    failed: Mutex<Option<crate::store::Error>>,
}

impl Finisher {
    pub fn start() -> Finisher {
        let (sender, receiver) = crossbeam_channel::bounded::<(Box<dyn Upload>, Finished)>(WAITING);
        let shared = Arc::new(Shared::default());
        let seen = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            // After a failure the rest is only drained: dropping an upload discards it.
            for (upload, finished) in receiver {
                if lock(&seen.failed).is_some() {
                    continue;
                }
                match upload.finish() {
                    Ok(()) => lock(&seen.finished).push(finished),
                    Err(error) => *lock(&seen.failed) = Some(error),
                }
            }
        });
        Finisher {
            sender: Mutex::new(Some(sender)),
            thread: Mutex::new(Some(thread)),
            shared,
        }
    }

    /// Closes a pack and hands it over.
    ///
    /// # Errors
    /// The store failed, now or with an earlier pack.
    pub fn finish(&self, pack: PackWriter) -> Result<Finished> {
        self.check()?;
        let (upload, finished) = pack.close()?;
        let sender = lock(&self.sender).clone();
        lock(&self.shared.closed).push(finished);
        let sent = sender.is_some_and(|sender| sender.send((upload, finished)).is_ok());
        if sent {
            Ok(finished)
        } else {
            Err(Error::Unusable("the backup's writer is closed".to_owned()))
        }
    }

    /// All packs that were handed over so far.
    ///
    /// # Errors
    /// One of them could not be published.
    pub fn closed(&self) -> Result<Vec<Finished>> {
        self.check()?;
        Ok(lock(&self.shared.closed).clone())
    }

    /// # Errors
    /// An earlier pack could not be published.
    pub fn check(&self) -> Result<()> {
        let mut failed = lock(&self.shared.failed);
        let Some(error) = failed.take() else { return Ok(()) };
        // Kept in words for whoever asks next.
        *failed = Some(crate::store::Error::Io {
            operation: "publish",
            key: "an earlier pack".to_owned(),
            store: "repository".to_owned(),
            source: std::io::Error::other(error.to_string()),
        });
        Err(Error::Store(error))
    }

    /// Waits for all packs; returns what was published.
    ///
    /// # Errors
    /// One could not be published.
    pub fn wait(&self) -> Result<Vec<Finished>> {
        self.join();
        self.check()?;
        Ok(lock(&self.shared.finished).clone())
    }

    /// Ends the thread; returns what was published, whether or not all went well.
    pub fn join(&self) -> Vec<Finished> {
        *lock(&self.sender) = None;
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
        lock(&self.shared.finished).clone()
    }
}

impl Drop for Finisher {
    fn drop(&mut self) {
        self.join();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
