//! Reading packs. Nothing is believed before its digest fits, and no length is believed before it fits the object's.

use std::collections::VecDeque;
use std::sync::Arc;

use super::super::keys::{Keys, PackName, pack_prefix};
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

/// How often a slot is looked for anew when the object that had it is gone: a prune may be copying packs.
const ROUNDS: usize = 5;

/// The objects that hold a pack, the newest generation first. Generation 0, where it still is, comes last.
pub(crate) fn objects_of(store: &dyn Store, id: Id) -> Result<Vec<PackName>> {
    let keys = store.list(&pack_prefix(id))?;
    let names = keys.iter().filter_map(|key| PackName::of_key(key));
    let mut names: Vec<PackName> = names.filter(|name| name.id == id).collect();
    names.sort_by(|a, b| b.cmp(a));
    Ok(names)
}

/// Reads and verifies header, slot table and trailer.
pub(crate) fn read_footer(store: &dyn Store, keys: &Keys, name: PackName) -> Result<(Footer, u64)> {
    let key = name.key();
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
    if header != super::header(kind, name) {
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
    let slots = super::parse_table(&table, kind, name.generation, end).map_err(damaged)?;
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

/// An object of a pack, and what its footer says.
pub(crate) struct Located {
    pub name: PackName,
    pub footer: Footer,
}

/// The footers read last: of each pack the object that serves.
pub(crate) struct Footers {
    store: Arc<dyn Store>,
    keys: Keys,
    /// Read what is left of packs whose footer does not verify.
    salvage: Option<Arc<Sizes>>,
    /// The one used last comes first.
    kept: VecDeque<Arc<Located>>,
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

    /// Generation 0 while it is there: it has every slot, and is found without a listing. Else the newest.
    pub fn get(&mut self, id: Id) -> Result<Arc<Located>> {
        if let Some(at) = self.kept.iter().position(|known| known.name.id == id) {
            if let Some(found) = self.kept.remove(at) {
                self.kept.push_front(found);
            }
            return Ok(Arc::clone(&self.kept[0]));
        }
        let located = self.read(PackName::first(id)).or_else(|first| {
            let later = objects_of(&*self.store, id).unwrap_or_default();
            let later = later.into_iter().filter(|name| name.generation > 0);
            later
                .map(|name| self.read(name))
                .find(Result::is_ok)
                .unwrap_or(Err(first))
        });
        self.keep(Arc::new(located.or_else(|error| self.salvaged(id).ok_or(error))?));
        Ok(Arc::clone(&self.kept[0]))
    }

    fn keep(&mut self, located: Arc<Located>) {
        self.kept.retain(|known| known.name.id != located.name.id);
        self.kept.truncate(KEPT - 1);
        self.kept.push_front(located);
    }

    fn read(&self, name: PackName) -> Result<Located> {
        let (footer, _) = read_footer(&*self.store, &self.keys, name)?;
        Ok(Located { name, footer })
    }

    fn salvaged(&self, id: Id) -> Option<Located> {
        let footer = salvage::footer(&*self.store, id, self.salvage.as_ref()?)?;
        Some(Located {
            name: PackName::first(id),
            footer,
        })
    }

    /// Asks every other object of a pack, the newest first, until one answers; the store is listed anew.
    fn elsewhere<T>(
        &self,
        tried: PackName,
        mut ask: impl FnMut(&Arc<Located>) -> Result<T>,
    ) -> Option<(Arc<Located>, T)> {
        for _ in 0..ROUNDS {
            let mut vanished = false;
            let objects = objects_of(&*self.store, tried.id).ok()?;
            for name in objects.into_iter().filter(|name| *name != tried) {
                let answer = self.read(name).and_then(|located| {
                    let located = Arc::new(located);
                    ask(&located).map(|answer| (located, answer))
                });
                match answer {
                    Ok(answer) => return Some(answer),
                    // Deleted since it was listed: what it held was copied before.
                    Err(Error::Store(crate::store::Error::Absent { .. })) => vanished = true,
                    Err(_) => {}
                }
            }
            if !vanished {
                break;
            }
        }
        None
    }
}

/// Reads slots; one per thread.
pub(crate) struct PackReader {
    pub footers: Footers,
    decompressor: zstd::bulk::Decompressor<'static>,
    window: Window,
}

/// A part of an object that was read at once.
struct Window {
    bytes: Vec<u8>,
    /// So much is read at least.
    least: usize,
    /// Which part of which object it holds.
    held: Option<(PackName, u64)>,
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

impl Located {
    fn slot(&self, number: u32, kind: Kind, expected: &[u8; 32]) -> Result<Slot> {
        let damaged = |reason: String| Error::damaged(self.name.key(), reason);
        let footer = &self.footer;
        let slot = *footer
            .slots
            .get(number as usize)
            .ok_or_else(|| damaged(format!("it has no slot {number}")))?;
        if footer.kind != kind {
            return Err(damaged(format!(
                "it is a {:?} pack where a {kind:?} pack is expected",
                footer.kind
            )));
        }
        if slot.hash != *expected {
            return Err(damaged(format!("slot {number} is not the one that is referred to")));
        }
        if !slot.is_there() {
            return Err(damaged(format!(
                "slot {number} was lost: a repair or a prune left it out"
            )));
        }
        Ok(slot)
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

impl Window {
    /// Makes the window hold the slot; returns where in it the slot begins.
    fn fill(&mut self, store: &dyn Store, name: PackName, slot: &Slot, end: u64) -> Result<usize> {
        if let Some((held, from)) = self.held {
            let inside = slot.offset.checked_sub(from).filter(|_| held == name);
            if let Some(start) = inside.filter(|start| start + u64::from(slot.stored) <= self.bytes.len() as u64) {
                return Ok(start as usize);
            }
        }
        let length = (end - slot.offset).min((slot.stored as usize).max(self.least) as u64);
        self.held = None;
        self.bytes.clear();
        self.bytes.resize(length as usize, 0);
        let key = name.key();
        if let Err(error) = read_exactly(store, &key, slot.offset, &mut self.bytes) {
            if self.bytes.len() <= slot.stored as usize {
                return Err(error);
            }
            // Neighbours on a bad sector must not cost the slot itself.
            self.bytes.truncate(slot.stored as usize);
            read_exactly(store, &key, slot.offset, &mut self.bytes)?;
        }
        self.held = Some((name, slot.offset));
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
