//! What the filesystem's trees say, item by item (`BTRFS_IOC_TREE_SEARCH`, which needs CAP_SYS_ADMIN). The keys and items are those of linux/btrfs_tree.h.

use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd};

use linux_raw_sys::{btrfs as raw, ioctl as request};

use super::super::ioctl::call;
use super::zeroed;

/// How many removed subvolumes there are whose room was not given back yet.
///
/// # Errors
/// Not a Btrfs, or not permitted.
pub fn removals_pending(descriptor: impl AsFd) -> io::Result<usize> {
    let objectid = i64::from(raw::BTRFS_ORPHAN_OBJECTID).cast_unsigned();
    let mut pending = 0;
    each(
        descriptor.as_fd(),
        raw::BTRFS_ROOT_TREE_OBJECTID.into(),
        objectid,
        raw::BTRFS_ORPHAN_ITEM_KEY,
        0..=u64::MAX,
        |_| pending += 1,
    )?;
    Ok(pending)
}

/// Bytes that the extents of a subvolume take which no other subvolume refers to, as its quota group counts them; `None` where none are counted, or not by
/// extents, or the counts are said to be wrong. They are as of the last commit.
///
/// # Errors
/// Not a Btrfs, or not permitted.
pub fn exclusive_by_quota(descriptor: impl AsFd, subvolume: u64) -> io::Result<Option<u64>> {
    let descriptor = descriptor.as_fd();
    let mut flags = None;
    let (version, generation) = (size_of::<u64>(), size_of::<u64>());
    let quota = u64::from(raw::BTRFS_QUOTA_TREE_OBJECTID);
    let status = each(descriptor, quota, 0, raw::BTRFS_QGROUP_STATUS_KEY, 0..=0, |item| {
        flags = number(item, version + generation);
    });
    match status {
        // There is no such tree.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        status => status?,
    }
    let counted = flags.is_some_and(|flags| flags & u64::from(raw::BTRFS_QGROUP_STATUS_FLAGS_MASK) == ON);
    let mut exclusive = None;
    if counted {
        let of_it = subvolume..=subvolume;
        each(descriptor, quota, 0, raw::BTRFS_QGROUP_INFO_KEY, of_it, |item| {
            exclusive = number(item, std::mem::offset_of!(raw::btrfs_qgroup_info_item, excl));
        })?;
    }
    Ok(exclusive)
}

/// Quotas are counted, by extents, and right.
const ON: u64 = raw::BTRFS_QGROUP_STATUS_FLAG_ON as u64;

/// A number at this place of an item, as Btrfs keeps them.
fn number(item: &[u8], at: usize) -> Option<u64> {
    let bytes = item.get(at..)?.first_chunk()?;
    Some(u64::from_le_bytes(*bytes))
}

/// Calls `item` with the bytes of every item of one object and type, and of these offsets, in a tree.
fn each(
    descriptor: BorrowedFd<'_>,
    tree: u64,
    object: u64,
    kind: u32,
    offsets: RangeInclusive<u64>,
    mut item: impl FnMut(&[u8]),
) -> io::Result<()> {
    let mut page: raw::btrfs_ioctl_search_args = zeroed();
    page.key.tree_id = tree;
    (page.key.min_objectid, page.key.max_objectid) = (object, object);
    (page.key.min_type, page.key.max_type) = (kind, kind);
    (page.key.min_offset, page.key.max_offset) = (*offsets.start(), *offsets.end());
    page.key.max_transid = u64::MAX;
    loop {
        page.key.nr_items = u32::MAX;
        // SAFETY: btrfs_ioctl_search_args is the documented structure and holds no pointers.
        unsafe { call::<{ request::BTRFS_IOC_TREE_SEARCH }, _>(descriptor, &mut page)? };
        let bytes: Vec<u8> = page.buf.iter().map(|byte| byte.to_ne_bytes()[0]).collect();
        let mut rest = bytes.as_slice();
        let mut last = None;
        for _ in 0..page.key.nr_items {
            let Some((offset, content, behind)) = split(rest) else {
                return Err(io::ErrorKind::InvalidData.into());
            };
            item(content);
            (last, rest) = (Some(offset), behind);
        }
        match last.and_then(|last| last.checked_add(1)) {
            Some(next) if next <= *offsets.end() => page.key.min_offset = next,
            _ => return Ok(()),
        }
    }
}

/// Offset and content of the first item, and what comes behind it: a header (transid, objectid, offset, type, length), then its bytes.
fn split(bytes: &[u8]) -> Option<(u64, &[u8], &[u8])> {
    let (header, rest) = bytes.split_at_checked(size_of::<raw::btrfs_ioctl_search_header>())?;
    let offset = u64::from_ne_bytes(header.get(16..24)?.try_into().ok()?);
    let length = u32::from_ne_bytes(header.get(28..32)?.try_into().ok()?);
    let (content, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    Some((offset, content, rest))
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
        assert_eq!(split(&bytes), Some((300, &b"abc"[..], &b"def"[..])));
        assert_eq!(split(&bytes[..34]), None);
        assert_eq!(split(&bytes[..31]), None);
    }
}
