//! What the filesystem's trees say, item by item (`BTRFS_IOC_TREE_SEARCH`, which needs CAP_SYS_ADMIN). The keys and items are those of linux/btrfs_tree.h.

use std::io;
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
        |_, _| pending += 1,
    )?;
    Ok(pending)
}

/// Calls `item` with offset and bytes of every item of one object and type in a tree.
fn each(
    descriptor: BorrowedFd<'_>,
    tree: u64,
    object: u64,
    kind: u32,
    mut item: impl FnMut(u64, &[u8]),
) -> io::Result<()> {
    let mut page: raw::btrfs_ioctl_search_args = zeroed();
    page.key.tree_id = tree;
    (page.key.min_objectid, page.key.max_objectid) = (object, object);
    (page.key.min_type, page.key.max_type) = (kind, kind);
    (page.key.max_offset, page.key.max_transid) = (u64::MAX, u64::MAX);
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
            item(offset, content);
            (last, rest) = (Some(offset), behind);
        }
        match last.and_then(|last| last.checked_add(1)) {
            Some(next) => page.key.min_offset = next,
            None => return Ok(()),
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
