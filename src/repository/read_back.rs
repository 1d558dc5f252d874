//! Reading back a sample of the chunks that a new backup shares with its parent.
//!
//! A chunk that did not change keeps its place in an old pack, and nobody would see that the pack has rotted since. So one of every
//! [`Writer::with_read_back`] such chunks is read from the store and verified, others in every run. A pack that does not verify is not
//! referred to any more: what is left of its chunks is stored anew.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::units::Id;

/// What the sample of a run showed; shared by the workers.
#[derive(Debug, Default)]
pub(super) struct ReadBack {
    /// One of so many chunks; 0 for none.
    every: u32,
    /// Makes each run choose others.
    salt: u32,
    chunks: AtomicU64,
    found: AtomicBool,
    damaged: Mutex<BTreeMap<Id, String>>,
}

/// What reading back showed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadBackReport {
    /// Chunks that were read back.
    pub chunks: u64,
    /// Packs that did not verify, and why.
    pub damaged: Vec<(Id, String)>,
}

impl ReadBack {
    pub fn new(every: u32, salt: u32) -> ReadBack {
        ReadBack {
            every,
            salt,
            ..ReadBack::default()
        }
    }

    /// Whether the chunk is in this run's sample. Keyed hashes are as good as chance.
    pub fn chooses(&self, hash: &[u8; 32]) -> bool {
        let [a, b, c, d, e, f, g, h, ..] = *hash;
        // The high half of a product with an odd number: with an exclusive or there would be no more than `every` different samples.
        let factor = u64::from(self.salt) << 1 | 1;
        let mixed = u64::from_le_bytes([a, b, c, d, e, f, g, h]).wrapping_mul(factor) >> 32;
        self.every > 0 && mixed.is_multiple_of(u64::from(self.every))
    }

    /// Keeps how it went with a chunk of the pack.
    pub fn note(&self, pack: Id, answer: &super::Result<()>) {
        self.chunks.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = answer {
            let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
            damaged.entry(pack).or_insert_with(|| error.to_string());
            self.found.store(true, Ordering::Release);
        }
    }

    /// Whether a chunk of the pack did not verify.
    pub fn is_damaged(&self, pack: Id) -> bool {
        self.found.load(Ordering::Acquire)
            && self
                .damaged
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .contains_key(&pack)
    }

    pub fn report(&self) -> ReadBackReport {
        let damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        ReadBackReport {
            chunks: self.chunks.load(Ordering::Relaxed),
            damaged: damaged.iter().map(|(pack, reason)| (*pack, reason.clone())).collect(),
        }
    }
}
