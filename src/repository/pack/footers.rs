//! The footers of packs: the objects that hold a pack, and where in them each slot lies.

use std::collections::VecDeque;
use std::sync::Arc;

use super::super::keys::{Keys, PackName, pack_prefix};
use super::super::sealed::read_exactly;
use super::super::{Error, Result};
use super::salvage::{self, Sizes};
use super::{END, Footer, HEADER, Kind, MAGIC, MOST_SLOTS, SLOT, Slot, TRAILER, VERSION};
use crate::store::Store;
use crate::units::Id;

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
    pub(super) store: Arc<dyn Store>,
    pub(super) keys: Keys,
    /// Read what is left of packs whose footer does not verify.
    pub(super) salvage: Option<Arc<Sizes>>,
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

    pub(super) fn keep(&mut self, located: Arc<Located>) {
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
    pub(super) fn elsewhere<T>(
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

impl Located {
    pub(super) fn slot(&self, number: u32, kind: Kind, expected: &[u8; 32]) -> Result<Slot> {
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
