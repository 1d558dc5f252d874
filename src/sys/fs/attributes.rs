//! Extended attributes, read from open files and, without following them, from names.

use std::ffi::CStr;
use std::fs::File;
use std::path::Path;

use rustix::buffer::spare_capacity;
use rustix::io::Errno;

use super::super::{Error, Result};

/// An extended attribute: name and value, raw bytes. ACLs are attributes too (`system.posix_acl_access`, `..._default`).
pub type Xattr = (Vec<u8>, Vec<u8>);

/// The extended attributes of an open file, sorted by name; none where the filesystem has none. `path` names it in messages.
///
/// # Errors
/// They cannot be read.
pub fn xattrs(file: &File, path: &Path) -> Result<Vec<Xattr>> {
    let names = read_sized(|buffer| rustix::fs::flistxattr(file, spare_capacity(buffer)));
    collect(names, path, |name| {
        read_sized(|buffer| rustix::fs::fgetxattr(file, name, spare_capacity(buffer)))
    })
}

/// The extended attributes of whatever has this name, a symbolic link not being followed; sorted by name.
///
/// # Errors
/// They cannot be read.
pub fn link_xattrs(path: &Path) -> Result<Vec<Xattr>> {
    let names = read_sized(|buffer| rustix::fs::llistxattr(path, spare_capacity(buffer)));
    collect(names, path, |name| {
        read_sized(|buffer| rustix::fs::lgetxattr(path, name, spare_capacity(buffer)))
    })
}

/// Whether an error means that the filesystem keeps no such attributes.
pub fn no_such_attribute(error: &Error) -> bool {
    matches!(error.errno(), Some(libc::EOPNOTSUPP | libc::ENODATA))
}

fn collect(
    names: rustix::io::Result<Vec<u8>>,
    path: &Path,
    value: impl Fn(&CStr) -> rustix::io::Result<Vec<u8>>,
) -> Result<Vec<Xattr>> {
    let names = match names {
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        names => names.map_err(|error| Error::path("list the extended attributes of", path, error))?,
    };
    let mut found = Vec::new();
    for name in names.split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else {
            continue;
        };
        match value(name) {
            Ok(value) => found.push((name.to_bytes().to_vec(), value)),
            // Removed meanwhile, or a name that the kernel lists but keeps from us.
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(Error::path("read an extended attribute of", path, error)),
        }
    }
    found.sort();
    Ok(found)
}

/// Asks with a small buffer, which nearly always does, then with larger ones: the kernel's own limit is 64 KiB.
fn read_sized(ask: impl Fn(&mut Vec<u8>) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = Vec::with_capacity(256);
    loop {
        match ask(&mut buffer) {
            Err(Errno::RANGE) => buffer.reserve_exact(2 * buffer.capacity()),
            answer => return answer.map(|_| buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::XattrFlags;

    #[test]
    fn attributes_are_read_whatever_their_size() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "").unwrap();
        let (small, large) = (vec![1u8; 3], vec![2u8; 2000]);
        match rustix::fs::setxattr(&path, "user.small", &small, XattrFlags::empty()) {
            Err(Errno::OPNOTSUPP) => {
                assert_eq!(link_xattrs(&path).unwrap(), []);
                return;
            }
            answer => answer.unwrap(),
        }
        rustix::fs::setxattr(&path, "user.large", &large, XattrFlags::empty()).unwrap();
        let expected = [(b"user.large".to_vec(), large), (b"user.small".to_vec(), small)];
        assert_eq!(link_xattrs(&path).unwrap(), expected);
        assert_eq!(xattrs(&File::open(&path).unwrap(), &path).unwrap(), expected);
    }
}
