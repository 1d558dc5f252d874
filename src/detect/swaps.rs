//! Files that the kernel swaps to: they pin the blocks that they lie in, so that Btrfs makes no snapshot of their subvolume.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The files that are in use for swap (proc(5), `/proc/swaps`).
pub fn active_files() -> Vec<PathBuf> {
    let table = std::fs::read(Path::new("/proc/swaps")).unwrap_or_default();
    files_of(&table)
}

/// Those of them that lie on the same subvolume (or filesystem) as `top`.
pub fn active_beside(top: &Path) -> Vec<PathBuf> {
    let device = |path: &Path| std::fs::metadata(path).ok().map(|found| found.dev());
    let Some(wanted) = device(top) else { return Vec::new() };
    let files = active_files().into_iter();
    files.filter(|file| device(file) == Some(wanted)).collect()
}

/// `/swap/file                              file\t\t65532\t\t0\t\t-2`
fn files_of(table: &[u8]) -> Vec<PathBuf> {
    let lines = table.split(|byte| *byte == b'\n').skip(1);
    let file = |line: &[u8]| {
        let mut fields = line
            .split(|byte| byte.is_ascii_whitespace())
            .filter(|field| !field.is_empty());
        let name = fields.next()?;
        (fields.next()? == b"file").then(|| PathBuf::from(super::mountinfo::unescape(name)))
    };
    lines.filter_map(file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_from_partitions() {
        let table = b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
            /dev/dm-1                               partition\t4194300\t\t0\t\t-2\n\
            /srv/my\\040swap                         file\t\t65532\t\t0\t\t-3\n";
        assert_eq!(files_of(table), [PathBuf::from("/srv/my swap")]);
        assert!(files_of(b"").is_empty());
    }
}
