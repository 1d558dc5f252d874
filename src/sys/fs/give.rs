//! Giving a whole tree to another user.

use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::super::Result;
use super::super::user::Account;
use super::Beneath;

/// Gives everything below a directory, and the directory at last, to a user. No link is followed. Devices are removed: whoever owns one is the disk's owner, too.
/// The kernel takes set-user-ID bits and file capabilities away with the old owner.
///
/// # Errors
/// Not permitted, or something cannot be read.
pub fn give_tree(top: &Path, account: Account) -> Result<()> {
    let beneath = Beneath::open(top)?;
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        for (name, kind) in beneath.entries(&directory)? {
            let path = directory.join(name);
            match kind {
                FileType::CharacterDevice | FileType::BlockDevice => beneath.remove_file(&path)?,
                FileType::Directory => directories.push(path),
                _ => beneath.set_owner(&path, account.0, account.1)?,
            }
        }
        beneath.set_owner(&directory, account.0, account.1)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;
    use crate::sys::fs::Special;

    #[test]
    fn all_is_given_and_nothing_that_a_link_leads_to_and_no_device() {
        if !crate::sys::host::is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (top, outside) = (dir.path().join("top"), dir.path().join("outside"));
        std::fs::create_dir_all(top.join("a/b")).unwrap();
        std::fs::write(&outside, "x").unwrap();
        std::fs::write(top.join("a/b/c"), "x").unwrap();
        std::fs::set_permissions(top.join("a/b/c"), std::fs::Permissions::from_mode(0o4755)).unwrap();
        symlink(&outside, top.join("a/link")).unwrap();
        let device = Beneath::open(&top)
            .unwrap()
            .make_special(Special::BlockDevice(7, 0), Path::new("a/disk"), 0o666);
        give_tree(&top, (4711, 4712)).unwrap();
        for name in ["", "a", "a/b", "a/b/c", "a/link"] {
            let found = std::fs::symlink_metadata(top.join(name)).unwrap();
            assert_eq!((found.uid(), found.gid()), (4711, 4712), "{name}");
        }
        assert_eq!(std::fs::metadata(&outside).unwrap().uid(), 0);
        assert_eq!(std::fs::metadata(top.join("a/b/c")).unwrap().mode() & 0o7777, 0o755);
        // A container may forbid to make one.
        assert!(device.is_err() || !top.join("a/disk").exists());
    }
}
