//! Reading packs. Nothing is believed before its digest fits, and no length is believed before it fits the object's.

use std::collections::VecDeque;
use std::sync::Arc;

use super::super::keys::{Keys, pack_key};
use super::super::sealed::read_exactly;
use super::super::{Error, Result};
use super::salvage::{self, Sizes};
use super::{END, Encoding, Footer, HEADER, Kind, MAGIC, MOST_SLOTS, SLOT, Slot, TRAILER, VERSION};
use crate::store::Store;
use crate::units::Id;

/// What is read at once around a slot: its neighbours are likely to be wanted next.
const WINDOW: usize = 1 << 20;
/// Footers that a reader keeps. Data of one file lies in few packs; 64 KiB chunks give 60 KiB per footer.
const KEPT: usize = 16;

/// Reads and verifies header, slot table and trailer.
pub(crate) fn read_footer(store: &dyn Store, keys: &Keys, id: Id) -> Result<(Footer, u64)> {
    let key = pack_key(id);
    let damaged = |reason: String| Error::damaged(&key, reason);
    let size = store.size(&key)?;
    let least = (HEADER + TRAILER) as u64;
    if size < least {
        return Err(damaged(format!("it has {size} bytes: too short for a pack")));
    }
    let (mut header, mut trailer) = ([0; HEADER], [0; TRAILER]);
    read_exactly(store, &key, 0, &mut header)?;
    read_exactly(store, &key, size - TRAILER as u64, &mut trailer)?;
    let kind = match header[10] {
        1 => Kind::Data,
        2 => Kind::Meta,
        other => return Err(damaged(format!("its header says the unknown kind {other}"))),
    };
    if header != super::header(kind, id) {
        let newer = header[..8] == MAGIC[..] && header[8..10] != VERSION.to_le_bytes();
        return Err(damaged(
            if newer {
                "it is of another format version"
            } else {
                "its header does not fit"
            }
            .to_owned(),
        ));
    }
    let count = u32::from_le_bytes([trailer[64], trailer[65], trailer[66], trailer[67]]) as usize;
    let length = (count * SLOT) as u64;
    if trailer[88..] != END[..] || trailer[68..88] != [0; 20] || count > MOST_SLOTS || length > size - least {
        return Err(damaged("its trailer does not fit".to_owned()));
    }
    let end = size - TRAILER as u64 - length;
    let mut table = vec![0; length as usize];
    read_exactly(store, &key, end, &mut table)?;
    let (mut digest, mut body) = ([0; 32], [0; 32]);
    digest.copy_from_slice(&trailer[..32]);
    body.copy_from_slice(&trailer[32..64]);
    if super::digest(keys, &header, &table, &body) != digest {
        return Err(damaged("the digest of its slot table does not fit".to_owned()));
    }
    let slots = super::parse_table(&table, kind, end).map_err(damaged)?;
    Ok((
        Footer {
            kind,
            slots,
            digest,
            body,
            end,
        },
        size,
    ))
}

/// The footers read last.
pub(crate) struct Footers {
    store: Arc<dyn Store>,
    keys: Keys,
    /// Read what is left of packs whose footer does not verify.
    salvage: Option<Arc<Sizes>>,
    /// The one used last comes first.
    kept: VecDeque<(Id, Arc<Footer>)>,
}

impl Footers {
    pub fn new(store: Arc<dyn Store>, keys: Keys, salvage: Option<Arc<Sizes>>) -> Footers {
        Footers {
            store,
            keys,
            salvage,
            kept: VecDeque::with_capacity(KEPT),
        }
    }

    pub fn get(&mut self, id: Id) -> Result<Arc<Footer>> {
        if let Some(at) = self.kept.iter().position(|(known, _)| *known == id) {
            if let Some(found) = self.kept.remove(at) {
                self.kept.push_front(found);
            }
        } else {
            let footer = Arc::new(self.read(id)?);
            self.kept.truncate(KEPT - 1);
            self.kept.push_front((id, footer));
        }
        Ok(Arc::clone(&self.kept[0].1))
    }

    fn read(&self, id: Id) -> Result<Footer> {
        let read = read_footer(&*self.store, &self.keys, id).map(|(footer, _)| footer);
        let sizes = self.salvage.as_ref().filter(|_| read.is_err());
        sizes
            .and_then(|sizes| salvage::footer(&*self.store, id, sizes))
            .map_or(read, Ok)
    }
}

/// Reads slots; one per thread.
pub(crate) struct PackReader {
    pub footers: Footers,
    decompressor: zstd::bulk::Decompressor<'static>,
    window: Vec<u8>,
    /// Which part of which pack the window holds.
    held: Option<(Id, u64)>,
}

impl PackReader {
    /// With `salvage`, what is left of packs whose footer does not verify is read as well; every slot is verified all the same.
    pub fn new(store: Arc<dyn Store>, keys: Keys, salvage: Option<Arc<Sizes>>) -> Result<PackReader> {
        let decompressor = decompressor()?;
        Ok(PackReader {
            footers: Footers::new(store, keys, salvage),
            decompressor,
            window: Vec::new(),
            held: None,
        })
    }

    /// Reads one slot into `into` (cleared first) and verifies it against the hash that the referrer expects.
    ///
    /// # Errors
    /// The pack or the slot is missing or damaged.
    pub fn read(&mut self, id: Id, number: u32, kind: Kind, expected: &[u8; 32], into: &mut Vec<u8>) -> Result<()> {
        let footer = self.footers.get(id)?;
        let damaged = |reason: String| Error::damaged(pack_key(id), reason);
        let slot = *footer
            .slots
            .get(number as usize)
            .ok_or_else(|| damaged(format!("it has no slot {number}")))?;
        if self.footers.salvage.is_some() {
            let start = self.fill(id, &slot, footer.end)?;
            let stored = &self.window[start..start + slot.stored as usize];
            return match salvage::plain(
                &mut self.decompressor,
                &self.footers.keys,
                (stored, kind, expected),
                into,
            ) {
                true => Ok(()),
                false => Err(damaged(format!("slot {number}: its content does not fit its hash"))),
            };
        }
        if footer.kind != kind {
            return Err(damaged(format!(
                "it is a {:?} pack where a {kind:?} pack is expected",
                footer.kind
            )));
        }
        if slot.hash != *expected {
            return Err(damaged(format!("slot {number} is not the one that is referred to")));
        }
        let start = self.fill(id, &slot, footer.end)?;
        let stored = &self.window[start..start + slot.stored as usize];
        unpack(&mut self.decompressor, &slot, stored, into)
            .map_err(|reason| damaged(format!("slot {number}: {reason}")))?;
        if self.footers.keys.chunk(into) != slot.hash {
            into.clear();
            return Err(damaged(format!("slot {number}: its content does not fit its hash")));
        }
        Ok(())
    }

    /// Makes the window hold the slot; returns where in the window it begins.
    fn fill(&mut self, id: Id, slot: &Slot, end: u64) -> Result<usize> {
        if let Some((held, from)) = self.held {
            let inside = slot.offset.checked_sub(from).filter(|_| held == id);
            if let Some(start) = inside.filter(|start| start + u64::from(slot.stored) <= self.window.len() as u64) {
                return Ok(start as usize);
            }
        }
        let length = (end - slot.offset).min((slot.stored as usize).max(WINDOW) as u64);
        self.held = None;
        self.window.clear();
        self.window.resize(length as usize, 0);
        let key = pack_key(id);
        if let Err(error) = read_exactly(&*self.footers.store, &key, slot.offset, &mut self.window) {
            if self.window.len() <= slot.stored as usize {
                return Err(error);
            }
            // Neighbours on a bad sector must not cost the slot itself.
            self.window.truncate(slot.stored as usize);
            read_exactly(&*self.footers.store, &key, slot.offset, &mut self.window)?;
        }
        self.held = Some((id, slot.offset));
        Ok(0)
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
pub(crate) fn sweep(store: &dyn Store, keys: &Keys, id: Id, advance: &mut dyn FnMut(u64) -> bool) -> Result<Sweep> {
    let (footer, _) = read_footer(store, keys, id)?;
    let (key, mut decompressor) = (pack_key(id), decompressor()?);
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
        for (further, slot) in group.iter().enumerate() {
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
