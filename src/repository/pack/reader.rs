//! Reading packs. Nothing is believed before its digest fits, and no length is believed before it fits the object's.

use std::sync::Arc;

use super::super::keys::{Keys, PackName};
use super::super::sealed::read_exactly;
use super::super::{Error, Result};
use super::footers::{Footers, Located, read_footer};
use super::salvage::{self, Sizes};
use super::window::{WINDOW, Window};
use super::{Encoding, Kind, Slot};
use crate::store::Store;
use crate::units::Id;

/// Reads slots; one per thread.
pub(crate) struct PackReader {
    pub footers: Footers,
    decompressor: zstd::bulk::Decompressor<'static>,
    window: Window,
}

impl PackReader {
    /// With `salvage`, what is left of packs whose footer does not verify is read as well; every slot is verified all the same.
    pub fn new(store: Arc<dyn Store>, keys: Keys, salvage: Option<Arc<Sizes>>) -> Result<PackReader> {
        let decompressor = decompressor()?;
        Ok(PackReader {
            footers: Footers::new(store, keys, salvage),
            decompressor,
            window: Window {
                bytes: Vec::new(),
                least: WINDOW,
                held: None,
            },
        })
    }

    /// For slots that are not read in their order: nothing is read ahead.
    pub fn scattered(mut self) -> PackReader {
        self.window.least = 0;
        self
    }

    /// Reads one slot into `into` (cleared first) and verifies it against the hash that the referrer expects. Any object of the pack
    /// that has the slot will do.
    ///
    /// # Errors
    /// The pack or the slot is missing or damaged.
    pub fn read(&mut self, id: Id, number: u32, kind: Kind, expected: &[u8; 32], into: &mut Vec<u8>) -> Result<()> {
        let PackReader {
            footers,
            decompressor,
            window,
        } = self;
        let (store, keys, salvage) = (
            Arc::clone(&footers.store),
            footers.keys.clone(),
            footers.salvage.is_some(),
        );
        let mut read = |located: &Arc<Located>| {
            let source = Source {
                store: &*store,
                keys: &keys,
                salvage,
                located,
            };
            source.read(decompressor, window, number, kind, expected, into)
        };
        let found = footers.get(id);
        let tried = found.as_ref().map_or(PackName::first(id), |located| located.name);
        let first = match found.and_then(|located| read(&located)) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let (located, ()) = footers.elsewhere(tried, read).ok_or(first)?;
        footers.keep(located);
        Ok(())
    }

    /// Whether some object of the pack has the slot with that hash, without reading its bytes.
    ///
    /// # Errors
    /// None has.
    pub fn look_up(&mut self, id: Id, number: u32, kind: Kind, expected: &[u8; 32]) -> Result<()> {
        let look = |located: &Arc<Located>| located.slot(number, kind, expected).map(|_| ());
        let found = self.footers.get(id);
        let tried = found.as_ref().map_or(PackName::first(id), |located| located.name);
        let first = match found.and_then(|located| look(&located)) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let (located, ()) = self.footers.elsewhere(tried, look).ok_or(first)?;
        self.footers.keep(located);
        Ok(())
    }

    /// The bytes of a slot as they are stored, verified: what a copy of the pack takes over.
    pub(super) fn stored(&mut self, located: &Arc<Located>, number: u32, plain: &mut Vec<u8>) -> Result<&[u8]> {
        let damaged = |reason: String| Error::damaged(located.name.key(), reason);
        let slot = *located
            .footer
            .slots
            .get(number as usize)
            .filter(|slot| slot.is_there())
            .ok_or_else(|| damaged(format!("it has no slot {number}")))?;
        let (kind, hash) = (located.footer.kind, slot.hash);
        let source = Source {
            store: &*self.footers.store,
            keys: &self.footers.keys,
            salvage: false,
            located,
        };
        source.read(&mut self.decompressor, &mut self.window, number, kind, &hash, plain)?;
        let start = self
            .window
            .fill(&*self.footers.store, located.name, &slot, located.footer.end)?;
        Ok(&self.window.bytes[start..start + slot.stored as usize])
    }
}

/// One object that a slot is read from.
struct Source<'s> {
    store: &'s dyn Store,
    keys: &'s Keys,
    salvage: bool,
    located: &'s Located,
}

impl Source<'_> {
    fn read(
        &self,
        decompressor: &mut zstd::bulk::Decompressor<'_>,
        window: &mut Window,
        number: u32,
        kind: Kind,
        expected: &[u8; 32],
        into: &mut Vec<u8>,
    ) -> Result<()> {
        let Located { name, footer } = self.located;
        let damaged = |reason: String| Error::damaged(name.key(), reason);
        if self.salvage {
            let slot = *footer
                .slots
                .get(number as usize)
                .ok_or_else(|| damaged(format!("it has no slot {number}")))?;
            let start = window.fill(self.store, *name, &slot, footer.end)?;
            let stored = &window.bytes[start..start + slot.stored as usize];
            return match salvage::plain(decompressor, self.keys, (stored, kind, expected), into) {
                true => Ok(()),
                false => Err(damaged(format!("slot {number}: its content does not fit its hash"))),
            };
        }
        let slot = self.located.slot(number, kind, expected)?;
        let start = window.fill(self.store, *name, &slot, footer.end)?;
        let stored = &window.bytes[start..start + slot.stored as usize];
        unpack(decompressor, &slot, stored, into).map_err(|reason| damaged(format!("slot {number}: {reason}")))?;
        if self.keys.chunk(into) != slot.hash {
            into.clear();
            return Err(damaged(format!("slot {number}: its content does not fit its hash")));
        }
        Ok(())
    }
}

fn decompressor() -> Result<zstd::bulk::Decompressor<'static>> {
    zstd::bulk::Decompressor::new().map_err(|error| Error::Unusable(format!("zstd: {error}")))
}

fn unpack(
    decompressor: &mut zstd::bulk::Decompressor<'_>,
    slot: &Slot,
    stored: &[u8],
    into: &mut Vec<u8>,
) -> std::result::Result<(), String> {
    into.clear();
    match slot.encoding {
        Encoding::Raw => into.extend_from_slice(stored),
        Encoding::Dropped => return Err("it was left out".to_owned()),
        Encoding::Zstd => {
            // The capacity bounds what a hostile frame can blow up to.
            into.reserve_exact(slot.plain as usize);
            decompressor
                .decompress_to_buffer(stored, into)
                .map_err(|error| error.to_string())?;
        }
    }
    if into.len() == slot.plain as usize {
        Ok(())
    } else {
        Err(format!("{} bytes where {} are expected", into.len(), slot.plain))
    }
}

/// What reading a whole pack found.
pub(crate) struct Sweep {
    /// Slots that do not verify, and why.
    pub slots: Vec<(u32, String)>,
    /// The pack as a whole does not fit its digest although every slot reads well.
    pub body: bool,
    /// Bytes read.
    pub bytes: u64,
}

/// Reads every byte of a pack once and checks all of it. `advance` hears of bytes read; false ends the sweep early.
pub(crate) fn sweep(
    store: &dyn Store,
    keys: &Keys,
    name: PackName,
    advance: &mut dyn FnMut(u64) -> bool,
) -> Result<Sweep> {
    let (footer, _) = read_footer(store, keys, name)?;
    let (key, mut decompressor) = (name.key(), decompressor()?);
    let (mut hasher, mut stored, mut plain) = (keys.pack(), Vec::new(), Vec::new());
    let mut sweep = Sweep {
        slots: Vec::new(),
        body: false,
        bytes: 0,
    };
    let mut at = 0;
    while at < footer.slots.len() {
        // As many whole slots as fit a window.
        let first = footer.slots[at];
        let last = footer.slots[at..]
            .iter()
            .take_while(|slot| slot.offset + u64::from(slot.stored) - first.offset <= WINDOW as u64)
            .count();
        let group = &footer.slots[at..at + last.max(1)];
        let length: u64 = group.iter().map(|slot| u64::from(slot.stored)).sum();
        stored.resize(length as usize, 0);
        read_exactly(store, &key, first.offset, &mut stored)?;
        hasher.update(&stored);
        for (further, slot) in group.iter().enumerate().filter(|(_, slot)| slot.is_there()) {
            let start = (slot.offset - first.offset) as usize;
            let answer = unpack(
                &mut decompressor,
                slot,
                &stored[start..start + slot.stored as usize],
                &mut plain,
            );
            let answer = answer.and_then(|()| match keys.chunk(&plain) == slot.hash {
                true => Ok(()),
                false => Err("its content does not fit its hash".to_owned()),
            });
            if let Err(reason) = answer {
                sweep.slots.push(((at + further) as u32, reason));
            }
        }
        at += group.len();
        sweep.bytes += length;
        if !advance(length) {
            return Ok(sweep);
        }
    }
    sweep.body = sweep.slots.is_empty() && *hasher.finalize().as_bytes() != footer.body;
    Ok(sweep)
}
