//! Which files are too large to be copied: whoever owns a file names its size, and a size costs the owner nothing.

use crate::repository::LARGEST_FILE;

/// Bytes up to which a file may be one hole: the largest file of ext4, and 262,144 sections.
const ANY: u64 = 16 << 40;
/// Of a larger one this part at least is on the disk.
const THINNEST: u64 = 1024;

/// Why a file of `size` bytes, of which `blocks` times 512 bytes are on the disk, is not copied.
pub(super) fn too_large(size: u64, blocks: u64) -> Option<String> {
    if size > LARGEST_FILE {
        return Some(format!(
            "it has {size} bytes, and a backup holds files of up to 256 TiB"
        ));
    }
    (size > ANY && blocks.saturating_mul(512) < size / THINNEST)
        .then(|| format!("it has {size} bytes, and nearly all of them are holes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_that_only_a_hole_makes_is_too_large_and_a_large_database_is_not() {
        let dense = |size: u64| too_large(size, size / 512);
        for size in [0, ANY, 64 << 40, LARGEST_FILE] {
            assert_eq!(dense(size), None, "{size}");
        }
        assert!(dense(LARGEST_FILE + 1).is_some() && too_large(8191 << 50, u64::MAX).is_some());
        assert_eq!(too_large(ANY, 0), None);
        assert!(too_large(ANY + 1, 8).is_some() && too_large(255 << 40, 8).is_some());
    }
}
