//! What the filesystem's trees say, item by item (`BTRFS_IOC_TREE_SEARCH`, which needs CAP_SYS_ADMIN). The keys and items are those of linux/btrfs_tree.h.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use linux_raw_sys::{btrfs as raw, ioctl as request};

use super::super::ioctl::call;
use super::super::signal::Cancel;
use super::{Uuid, zeroed};

/// How many removed subvolumes there are whose room was not given back yet.
///
/// # Errors
/// Not a Btrfs, or not permitted.
pub fn removals_pending(descriptor: impl AsFd) -> io::Result<usize> {
    let of = |offset| Key {
        object: i64::from(raw::BTRFS_ORPHAN_OBJECTID).cast_unsigned(),
        kind: raw::BTRFS_ORPHAN_ITEM_KEY,
        offset,
    };
    let tree = raw::BTRFS_ROOT_TREE_OBJECTID.into();
    let mut pending = 0;
    each(descriptor.as_fd(), tree, of(0)..=of(u64::MAX), 0, |_, _| {
        pending += 1;
        true
    })?;
    Ok(pending)
}

/// Whether the filesystem has a subvolume of this UUID, wherever it lies: what is removed is not in this tree any more.
///
/// # Errors
/// Not a Btrfs, or not permitted.
pub fn is_subvolume(descriptor: impl AsFd, uuid: Uuid) -> io::Result<bool> {
    let [object, offset] = [0, 8].map(|at| number(&uuid.0, at).unwrap_or_default());
    let key = Key {
        object,
        kind: raw::BTRFS_UUID_KEY_SUBVOL,
        offset,
    };
    let mut found = false;
    let tree = raw::BTRFS_UUID_TREE_OBJECTID.into();
    each(descriptor.as_fd(), tree, key..=key, 0, |_, _| {
        found = true;
        false
    })?;
    Ok(found)
}

/// Whether the filesystem has a subvolume of this name, in whichever directory.
///
/// # Errors
/// Not a Btrfs, or not permitted.
pub fn is_subvolume_name(descriptor: impl AsFd, name: &OsStr) -> io::Result<bool> {
    let kind = raw::BTRFS_ROOT_BACKREF_KEY;
    let key = |object, offset| Key { object, kind, offset };
    let first = key(raw::BTRFS_FIRST_FREE_OBJECTID.into(), 0);
    let last = key(i64::from(raw::BTRFS_LAST_FREE_OBJECTID).cast_unsigned(), u64::MAX);
    let mut found = false;
    let tree = raw::BTRFS_ROOT_TREE_OBJECTID.into();
    each(descriptor.as_fd(), tree, first..=last, 0, |key, item| {
        // The name is what follows the structure.
        let own = item.get(size_of::<raw::btrfs_root_ref>()..);
        found = key.kind == kind && own == Some(name.as_bytes());
        !found
    })?;
    Ok(found)
}

/// Bytes that the extents of a subvolume take which no other subvolume refers to, as its quota group counts them; `None` where none are counted, or not by
/// extents, or the counts are said to be wrong. They are as of the last commit.
///
/// # Errors
/// Not a Btrfs, or not permitted.
pub fn exclusive_by_quota(descriptor: impl AsFd, subvolume: u64) -> io::Result<Option<u64>> {
    let one = |kind, offset| {
        let key = Key {
            object: 0,
            kind,
            offset,
        };
        let mut found = None;
        let tree = raw::BTRFS_QUOTA_TREE_OBJECTID.into();
        each(descriptor.as_fd(), tree, key..=key, 0, |_, item| {
            found = Some(item.to_vec());
            false
        })
        .map(|()| found)
    };
    let status = match one(raw::BTRFS_QGROUP_STATUS_KEY, 0) {
        // There is no such tree.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        status => status?,
    };
    let at = std::mem::offset_of!(raw::btrfs_qgroup_status_item, flags);
    let flags = status.and_then(|item| number(&item, at));
    if flags.is_none_or(|flags| flags & u64::from(raw::BTRFS_QGROUP_STATUS_FLAGS_MASK) != ON) {
        return Ok(None);
    }
    let at = std::mem::offset_of!(raw::btrfs_qgroup_info_item, excl);
    Ok(one(raw::BTRFS_QGROUP_INFO_KEY, subvolume)?.and_then(|item| number(&item, at)))
}

/// Quotas are counted, by extents, and right.
const ON: u64 = raw::BTRFS_QGROUP_STATUS_FLAG_ON as u64;

/// Bytes that were written to each file of a subvolume since a transaction, by inode; those of a file that only got holes count 0. What the
/// filesystem itself moves (balance) does not count. It is as of what is written out by now; `None` when the run was asked to end.
///
/// Every extent has the number of the transaction in which it was put into its file, and subtrees in which nothing is newer are passed over: so it takes as long
/// as much was written.
///
/// # Errors
/// Not a Btrfs, or not permitted.
pub fn written_since(
    subvolume: impl AsFd,
    transaction: u64,
    cancel: &Cancel,
) -> io::Result<Option<BTreeMap<u64, u64>>> {
    let kind = raw::BTRFS_EXTENT_DATA_KEY;
    let first = Key {
        object: raw::BTRFS_FIRST_FREE_OBJECTID.into(),
        kind,
        offset: 0,
    };
    let last = Key {
        object: i64::from(raw::BTRFS_LAST_FREE_OBJECTID).cast_unsigned(),
        kind,
        offset: u64::MAX,
    };
    let mut written = BTreeMap::new();
    let mut goes_on = true;
    // The tree of the subvolume itself.
    each(subvolume.as_fd(), 0, first..=last, transaction + 1, |key, item| {
        if key.kind == kind
            && let Some(bytes) = bytes_after(item, transaction)
        {
            *written.entry(key.object).or_default() += bytes;
        }
        goes_on = cancel.asked().is_none();
        goes_on
    })?;
    Ok(goes_on.then_some(written))
}

/// The length of an extent that is newer than a transaction, and has content or is a hole.
fn bytes_after(extent: &[u8], transaction: u64) -> Option<u64> {
    use raw::_bindgen_ty_1 as types;
    use raw::btrfs_file_extent_item as item;
    const INLINE: u8 = types::BTRFS_FILE_EXTENT_INLINE as u8;
    const REGULAR: u8 = types::BTRFS_FILE_EXTENT_REG as u8;
    let newer = number(extent, std::mem::offset_of!(item, generation))? > transaction;
    let length = match *extent.get(std::mem::offset_of!(item, type_))? {
        INLINE => number(extent, std::mem::offset_of!(item, ram_bytes))?,
        REGULAR if number(extent, std::mem::offset_of!(item, disk_bytenr))? == 0 => 0,
        REGULAR => number(extent, std::mem::offset_of!(item, num_bytes))?,
        // Room that was only reserved reads as the zeros that were there before.
        _ => return None,
    };
    newer.then_some(length)
}

/// A number at this place of an item, as Btrfs keeps them.
fn number(item: &[u8], at: usize) -> Option<u64> {
    let bytes = item.get(at..)?.first_chunk()?;
    Some(u64::from_le_bytes(*bytes))
}

/// Where an item is in its tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    object: u64,
    kind: u32,
    offset: u64,
}

impl Key {
    /// The one after it; `None` after the last one.
    fn next(self) -> Option<Key> {
        let Key { object, kind, offset } = self;
        if let Some(offset) = offset.checked_add(1) {
            return Some(Key { object, kind, offset });
        }
        let (object, kind) = match kind {
            0..LAST_KIND => (object, kind + 1),
            _ => (object.checked_add(1)?, 0),
        };
        Some(Key {
            object,
            kind,
            offset: 0,
        })
    }
}

/// Kinds are bytes.
const LAST_KIND: u32 = u8::MAX as u32;

/// Calls `item` with every item of a tree between two keys, also of other kinds than theirs, as long as it says so. Leaves that are older than the transaction
/// `since` are passed over.
fn each(
    descriptor: BorrowedFd<'_>,
    tree: u64,
    keys: RangeInclusive<Key>,
    since: u64,
    mut item: impl FnMut(Key, &[u8]) -> bool,
) -> io::Result<()> {
    let mut page: raw::btrfs_ioctl_search_args = zeroed();
    page.key.tree_id = tree;
    let last = *keys.end();
    (page.key.max_objectid, page.key.max_type, page.key.max_offset) = (last.object, last.kind, last.offset);
    (page.key.min_transid, page.key.max_transid) = (since, u64::MAX);
    let mut from = Some(*keys.start());
    while let Some(first) = from.filter(|first| *first <= last) {
        (page.key.min_objectid, page.key.min_type, page.key.min_offset) = (first.object, first.kind, first.offset);
        page.key.nr_items = u32::MAX;
        // SAFETY: btrfs_ioctl_search_args is the documented structure and holds no pointers.
        unsafe { call::<{ request::BTRFS_IOC_TREE_SEARCH }, _>(descriptor, &mut page)? };
        let bytes = page.buf.map(|byte| byte.to_ne_bytes()[0]);
        let mut rest = bytes.as_slice();
        from = None;
        for _ in 0..page.key.nr_items {
            let Some((key, content, behind)) = split(rest) else {
                return Err(io::ErrorKind::InvalidData.into());
            };
            if !item(key, content) {
                return Ok(());
            }
            (from, rest) = (key.next(), behind);
        }
    }
    Ok(())
}

/// Key and content of the first item, and what comes behind it: a header (transid, objectid, offset, type, length), then its bytes.
fn split(bytes: &[u8]) -> Option<(Key, &[u8], &[u8])> {
    let (header, rest) = bytes.split_at_checked(size_of::<raw::btrfs_ioctl_search_header>())?;
    let long = |at: usize| Some(u64::from_ne_bytes(*header.get(at..)?.first_chunk()?));
    let short = |at: usize| Some(u32::from_ne_bytes(*header.get(at..)?.first_chunk()?));
    let key = Key {
        object: long(8)?,
        kind: short(24)?,
        offset: long(16)?,
    };
    let (content, rest) = rest.split_at_checked(usize::try_from(short(28)?).ok()?)?;
    Some((key, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_split_and_a_cut_one_is_not_read() {
        let mut bytes = Vec::new();
        for word in [7_u64, 5, 300] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(48_u32.to_ne_bytes());
        bytes.extend(3_u32.to_ne_bytes());
        bytes.extend(b"abcdef");
        let key = Key {
            object: 5,
            kind: 48,
            offset: 300,
        };
        assert_eq!(split(&bytes), Some((key, &b"abc"[..], &b"def"[..])));
        assert_eq!(split(&bytes[..34]), None);
        assert_eq!(split(&bytes[..31]), None);
    }

    #[test]
    fn keys_are_counted_on_over_offset_kind_and_object() {
        let key = |object, kind, offset| Key { object, kind, offset };
        assert_eq!(key(1, 2, 3).next(), Some(key(1, 2, 4)));
        assert_eq!(key(1, 2, u64::MAX).next(), Some(key(1, 3, 0)));
        assert_eq!(key(1, 255, u64::MAX).next(), Some(key(2, 0, 0)));
        assert_eq!(key(u64::MAX, 255, u64::MAX).next(), None);
    }

    #[test]
    fn only_newer_extents_with_content_count() {
        let extent = |generation: u64, kind: u8, at: u64| {
            let mut item = Vec::new();
            for word in [generation, 100] {
                item.extend(word.to_le_bytes());
            }
            item.extend([0, 0, 0, 0, kind]);
            for word in [at, 4096, 0, 8192] {
                item.extend(word.to_le_bytes());
            }
            item
        };
        assert_eq!(bytes_after(&extent(7, 1, 1 << 20), 6), Some(8192));
        assert_eq!(bytes_after(&extent(7, 1, 1 << 20), 7), None);
        assert_eq!(bytes_after(&extent(7, 1, 0), 6), Some(0), "a hole");
        assert_eq!(bytes_after(&extent(7, 0, 1 << 20), 6), Some(100), "inline");
        assert_eq!(bytes_after(&extent(7, 2, 1 << 20), 6), None, "reserved");
        assert_eq!(bytes_after(&extent(7, 1, 1 << 20)[..40], 6), None);
    }
}
