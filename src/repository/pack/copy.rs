//! A later generation of a pack: the same slots under the same numbers, without those that nobody needs or that are lost.

use std::sync::Arc;

use super::super::Result;
use super::super::keys::{Keys, PackName};
use super::footers::Located;
use super::{PackReader, PackWriter, read_footer};
use crate::store::Store;

/// A generation that was written.
pub(crate) struct Copied {
    /// The new object and its length in bytes; `None` when none appeared.
    pub object: Option<(PackName, u64)>,
    /// Wanted slots that no source could give.
    pub missing: Vec<u32>,
}

/// Writes the next generation from `sources`, objects of one pack: the slots that are `wanted` and read well from one of them. With more
/// than `allowed` slots missing nothing appears. The new object is durable once [`Store::sync`] has returned as well.
///
/// # Errors
/// No source's footer can be read, or the store cannot be written.
pub(crate) fn copy_slots(
    store: &Arc<dyn Store>,
    keys: &Keys,
    sources: &[PackName],
    wanted: &dyn Fn(u32) -> bool,
    allowed: usize,
) -> Result<Copied> {
    let mut reader = PackReader::new(Arc::clone(store), keys.clone(), None)?;
    let (mut objects, mut failed) = (Vec::new(), None);
    for name in sources {
        match read_footer(&**store, keys, *name) {
            Ok((footer, _)) => objects.push(Arc::new(Located { name: *name, footer })),
            Err(error) => failed = Some(error),
        }
    }
    let mut copied = Copied {
        object: None,
        missing: Vec::new(),
    };
    let Some(table) = objects.first().cloned() else {
        return failed.map_or(Ok(copied), Err);
    };
    let generation = sources.iter().map(|name| name.generation).max().unwrap_or(0) + 1;
    let name = PackName::later(table.name.id, generation);
    let mut writer = PackWriter::begin(&**store, keys, table.footer.kind, name)?;
    let (mut plain, mut any) = (Vec::new(), false);
    for (number, line) in table.footer.slots.iter().enumerate() {
        let number = number as u32;
        if !wanted(number) {
            writer.add_dropped(line);
            continue;
        }
        // The same slot has the same hash in every generation; a source with another one is none of it.
        let same = |located: &&Arc<Located>| {
            let slot = located.footer.slots.get(number as usize);
            slot.is_some_and(|slot| slot.is_there() && slot.hash == line.hash)
        };
        let mut found = false;
        for located in objects.iter().filter(same) {
            if let Ok(stored) = reader.stored(located, number, &mut plain) {
                writer.add_stored(&located.footer.slots[number as usize], stored)?;
                found = true;
                break;
            }
        }
        if !found {
            writer.add_dropped(line);
            copied.missing.push(number);
        }
        any |= found;
    }
    if any && copied.missing.len() <= allowed {
        let (upload, finished) = writer.close()?;
        upload.finish()?;
        copied.object = Some((name, finished.size));
    }
    Ok(copied)
}

/// Whether a slot of an object reads well.
pub(crate) fn is_readable(store: &Arc<dyn Store>, keys: &Keys, name: PackName, slot: u32) -> bool {
    let Ok((footer, _)) = read_footer(&**store, keys, name) else {
        return false;
    };
    let located = Arc::new(Located { name, footer });
    let reader = PackReader::new(Arc::clone(store), keys.clone(), None);
    reader.is_ok_and(|mut reader| reader.stored(&located, slot, &mut Vec::new()).is_ok())
}
