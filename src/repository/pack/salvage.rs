//! Reading what is left of a pack whose footer does not verify.
//!
//! The footer is then only a hint about where slots lie. Nothing of it is believed: a slot counts when its plain bytes have the hash
//! that the backup's map gives, and that map was verified by itself.

use std::collections::HashMap;

use super::super::keys::{Hash, Keys, pack_key};
use super::super::sealed::read_exactly;
use super::{Footer, HEADER, Kind, MOST_SLOTS, SLOT, Slot, TRAILER};
use crate::store::Store;
use crate::units::Id;

/// Lengths of packs as a backup's table of packs has them: where a trailer must lie in an object that has grown.
pub(crate) type Sizes = HashMap<Id, u64>;

/// A footer pieced together from what is there; `None` when nothing tells where the slots lie.
pub(super) fn footer(store: &dyn Store, id: Id, sizes: &Sizes) -> Option<Footer> {
    let key = pack_key(id);
    let size = store.size(&key).ok()?;
    let ends = [Some(size), sizes.get(&id).copied().filter(|known| *known < size)];
    ends.into_iter().flatten().find_map(|end| ending_at(store, &key, end))
}

fn ending_at(store: &dyn Store, key: &str, size: u64) -> Option<Footer> {
    let room = size.checked_sub((HEADER + TRAILER) as u64)?;
    let mut trailer = [0; TRAILER];
    read_exactly(store, key, size - TRAILER as u64, &mut trailer).ok()?;
    let count = u32::from_le_bytes([trailer[64], trailer[65], trailer[66], trailer[67]]) as usize;
    let length = (count * SLOT) as u64;
    if count > MOST_SLOTS || length > room {
        return None;
    }
    let end = size - TRAILER as u64 - length;
    let mut table = vec![0; length as usize];
    read_exactly(store, key, end, &mut table).ok()?;
    let slots = lines(&table, end)?;
    Some(Footer {
        // Neither is looked at by a reader that salvages.
        kind: Kind::Data,
        digest: [0; 32],
        body: [0; 32],
        slots,
        end,
    })
}

/// A slot's plain bytes, if its stored bytes give any that have this hash, whatever the slot table says about them.
pub(super) fn plain(
    decompressor: &mut zstd::bulk::Decompressor<'_>,
    keys: &Keys,
    (stored, kind, expected): (&[u8], Kind, &Hash),
    into: &mut Vec<u8>,
) -> bool {
    into.clear();
    into.extend_from_slice(stored);
    if keys.chunk(into) == *expected {
        return true;
    }
    into.clear();
    let most = zstd::zstd_safe::get_frame_content_size(stored).ok().flatten();
    // A length that lies costs no more memory than the largest slot.
    into.reserve_exact(most.unwrap_or(u64::MAX).min(kind.largest() as u64) as usize);
    let fits = decompressor.decompress_to_buffer(stored, into).is_ok() && keys.chunk(into) == *expected;
    if !fits {
        into.clear();
    }
    fits
}

/// The slots of a table, by their stored lengths alone; `None` when those do not add up.
fn lines(table: &[u8], end: u64) -> Option<Vec<Slot>> {
    let mut offset = HEADER as u64;
    let mut slots = Vec::with_capacity(table.len() / SLOT);
    for line in table.chunks_exact(SLOT) {
        let stored = u32::from_le_bytes([line[0], line[1], line[2], line[3]]);
        slots.push(Slot {
            offset,
            stored,
            plain: 0,
            encoding: super::Encoding::Raw,
            hash: [0; 32],
        });
        offset += u64::from(stored);
    }
    (offset == end).then_some(slots)
}
