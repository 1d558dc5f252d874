//! Btrfs through its ioctls (linux/btrfs.h): who a subvolume is, what is nested in it, read-only snapshots, removal, commits.
#![allow(unsafe_code)]

use std::ffi::{CStr, OsStr, OsString, c_char};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

mod search;
mod snapshot;

pub use search::{exclusive_by_quota, is_subvolume, is_subvolume_name, removals_pending, written_since};
pub use snapshot::{SnapshotCall, clone_writable};

use linux_raw_sys::{btrfs as raw, ioctl as request};
use rustix::io::Errno;

use super::ioctl::call;

/// The inode number of every subvolume's top directory.
pub const TOP_INODE: u64 = 256;

/// A Btrfs UUID, of a filesystem or a subvolume; all zero stands for none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Uuid(pub [u8; 16]);

impl std::fmt::Display for Uuid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl std::str::FromStr for Uuid {
    type Err = ();

    fn from_str(text: &str) -> Result<Uuid, ()> {
        let digits: String = text.chars().filter(|digit| *digit != '-').collect();
        if digits.len() != 32 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(());
        }
        let number = u128::from_str_radix(&digits, 16).map_err(drop)?;
        Ok(Uuid(number.to_be_bytes()))
    }
}

impl std::fmt::Debug for Uuid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// Who a subvolume is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subvolume {
    /// Its number within the filesystem; 5 is the top-level one.
    pub id: u64,
    /// The subvolume that holds its directory entry; 0 for the top-level one.
    pub parent: u64,
    /// Its own UUID.
    pub uuid: Uuid,
    /// The UUID of the subvolume that it is a snapshot of; zero when it is none.
    pub snapshot_of: Uuid,
    /// Whether it is read-only.
    pub read_only: bool,
    /// The transaction that made it, or the last one that changed a file in it.
    pub changed_in: u64,
    /// Its name in the directory that holds it; empty for the top-level one.
    pub name: OsString,
}

/// A subvolume that lies in another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nested {
    /// Its number within the filesystem.
    pub id: u64,
    /// Where it is, relative to the directory that was asked about.
    pub path: PathBuf,
}

/// Whether this descriptor is on a Btrfs.
///
/// # Errors
/// The filesystem cannot be asked.
pub fn is_btrfs(descriptor: impl AsFd) -> io::Result<bool> {
    let magic = rustix::fs::fstatfs(descriptor)?.f_type;
    Ok(magic as u64 & 0xffff_ffff == u64::from(linux_raw_sys::general::BTRFS_SUPER_MAGIC))
}

/// The filesystem's UUID.
///
/// # Errors
/// Not a Btrfs.
pub fn filesystem_uuid(descriptor: impl AsFd) -> io::Result<Uuid> {
    let mut answer: raw::btrfs_ioctl_fs_info_args = zeroed();
    // SAFETY: btrfs_ioctl_fs_info_args is the documented structure and holds no pointers.
    unsafe { call::<{ request::BTRFS_IOC_FS_INFO }, _>(descriptor.as_fd(), &mut answer)? };
    Ok(Uuid(answer.fsid))
}

/// The subvolume in which this file or directory lies (Linux 4.18).
///
/// # Errors
/// Not a Btrfs, or not permitted.
pub fn subvolume_of(descriptor: impl AsFd) -> io::Result<Subvolume> {
    let mut answer: raw::btrfs_ioctl_get_subvol_info_args = zeroed();
    // SAFETY: btrfs_ioctl_get_subvol_info_args is the documented structure and holds no pointers.
    unsafe { call::<{ request::BTRFS_IOC_GET_SUBVOL_INFO }, _>(descriptor.as_fd(), &mut answer)? };
    Ok(Subvolume {
        id: answer.treeid,
        parent: answer.parent_id,
        uuid: Uuid(answer.uuid),
        snapshot_of: Uuid(answer.parent_uuid),
        changed_in: answer.otransid.max(answer.ctransid),
        read_only: answer.flags & u64::from(raw::BTRFS_ROOT_SUBVOL_RDONLY) != 0,
        name: text(&answer.name),
    })
}

/// The subvolumes directly nested in the subvolume of `directory`, as far as they lie below `directory` itself (Linux 4.18).
/// What is nested in those in turn is not in the list.
///
/// # Errors
/// Not a Btrfs, or not permitted.
pub fn nested_below(directory: impl AsFd) -> io::Result<Vec<Nested>> {
    let directory = directory.as_fd();
    let mut found = Vec::new();
    for (id, holder) in children(directory, 0)? {
        match path_below(directory, id, holder) {
            Ok(path) => found.push(Nested { id, path }),
            // The kernel walks up from the nested one; EACCES means that it met the subvolume's top and not `directory`.
            // ENOENT: removed meanwhile.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::ENOENT)) => {}
            Err(error) => return Err(error),
        }
    }
    found.sort_by(|one, two| one.path.cmp(&two.path));
    Ok(found)
}

/// Where the subvolume `id`, whose entry is in the directory with inode `holder`, lies below `directory`.
fn path_below(directory: BorrowedFd<'_>, id: u64, holder: u64) -> io::Result<PathBuf> {
    let mut question: raw::btrfs_ioctl_ino_lookup_user_args = zeroed();
    (question.treeid, question.dirid) = (id, holder);
    // SAFETY: btrfs_ioctl_ino_lookup_user_args is the documented structure and holds no pointers.
    unsafe { call::<{ request::BTRFS_IOC_INO_LOOKUP_USER }, _>(directory, &mut question)? };
    Ok(Path::new(&text(&question.path)).join(text(&question.name)))
}

/// The numbers, from `least` on, of the subvolumes nested directly in this one, each with the inode of the directory that holds it.
fn children(directory: BorrowedFd<'_>, least: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut found = Vec::new();
    let mut page: raw::btrfs_ioctl_get_subvol_rootref_args = zeroed();
    page.min_treeid = least;
    loop {
        page.num_items = 0;
        // SAFETY: btrfs_ioctl_get_subvol_rootref_args is the documented structure and holds no pointers.
        let answer = unsafe { call::<{ request::BTRFS_IOC_GET_SUBVOL_ROOTREF }, _>(directory, &mut page) };
        let more = match answer {
            Ok(_) => false,
            // A page is full; `min_treeid` points to the next one already.
            Err(error) if error.raw_os_error() == Some(libc::EOVERFLOW) => true,
            Err(error) => return Err(error),
        };
        let items = &page.rootref[..usize::from(page.num_items).min(page.rootref.len())];
        found.extend(items.iter().map(|item| (item.treeid, item.dirid)));
        if !more || items.is_empty() {
            return Ok(found);
        }
    }
}

/// Removes the subvolume or snapshot `name` from `directory`, in memory: see [`commit`]. Its space is given back later.
///
/// # Errors
/// `NotFound`; busy (mounted, has nested subvolumes); not permitted.
pub fn destroy(directory: impl AsFd, name: &OsStr) -> io::Result<()> {
    let mut arguments: raw::btrfs_ioctl_vol_args_v2 = zeroed();
    // SAFETY: every member of this union is plain integers; all of it was initialised to zero.
    put_name(unsafe { &mut arguments.__bindgen_anon_2.name }, name)?;
    // SAFETY: btrfs_ioctl_vol_args_v2 is the documented structure; without BTRFS_SUBVOL_SPEC_BY_ID it is the name that counts.
    let answer = unsafe { call::<{ request::BTRFS_IOC_SNAP_DESTROY_V2 }, _>(directory.as_fd(), &mut arguments) };
    match answer {
        // Before Linux 5.7.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTTY | libc::EOPNOTSUPP)) => {
            let mut arguments: raw::btrfs_ioctl_vol_args = zeroed();
            put_name(&mut arguments.name, name)?;
            // SAFETY: btrfs_ioctl_vol_args is the documented structure; the name ends with a zero byte.
            unsafe { call::<{ request::BTRFS_IOC_SNAP_DESTROY }, _>(directory.as_fd(), &mut arguments)? };
            Ok(())
        }
        answer => answer.map(drop),
    }
}

/// Makes a subvolume read-only, or writable again. `subvolume` is its top.
///
/// # Errors
/// Not a subvolume's top, or not ours to change.
pub fn set_read_only(subvolume: impl AsFd, read_only: bool) -> io::Result<()> {
    let flag = u64::from(raw::BTRFS_SUBVOL_RDONLY);
    let mut flags: u64 = 0;
    // SAFETY: the argument is the 64-bit number that linux/btrfs.h says; the kernel writes it.
    unsafe { call::<{ request::BTRFS_IOC_SUBVOL_GETFLAGS }, _>(subvolume.as_fd(), &mut flags)? };
    flags = if read_only { flags | flag } else { flags & !flag };
    // SAFETY: as above; the kernel only reads it.
    unsafe { call::<{ request::BTRFS_IOC_SUBVOL_SETFLAGS }, _>(subvolume.as_fd(), &mut flags)? };
    Ok(())
}

/// Makes what was done to subvolumes durable: waits for a commit, but not longer than `limit`. `Ok(false)` when it still went
/// on then (it ends by itself).
///
/// By syncfs(2): it writes out dirty data before it asks for the commit, which is short then. BTRFS_IOC_START_SYNC with
/// WAIT_SYNC commits at once and makes writers wait for all of it: under a write load, the longest commit of a writer was 29 ms
/// with the former (25 ms with no commit at all) and 120 ms with the latter (medians of 6 rounds).
///
/// # Errors
/// The filesystem could not commit.
pub fn commit(directory: BorrowedFd<'_>, limit: Duration) -> io::Result<bool> {
    let descriptor = directory.try_clone_to_owned()?;
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = sender.send(rustix::fs::syncfs(descriptor));
    });
    match receiver.recv_timeout(limit) {
        Ok(answer) => Ok(answer.map(|()| true)?),
        Err(_) => Ok(false),
    }
}

/// Writes out what is dirty, commits, and wakes the threads that do what is left over: among it, giving back the room of removed subvolumes.
///
/// # Errors
/// The filesystem could not commit.
pub fn sync(descriptor: impl AsFd) -> io::Result<()> {
    // SAFETY: this request takes no argument.
    unsafe { call::<{ request::BTRFS_IOC_SYNC }, _>(descriptor.as_fd(), &mut ())? };
    Ok(())
}

/// Whether new data of this file or directory is written in place, without checksums (`chattr +C`).
///
/// # Errors
/// The flags cannot be read.
pub fn is_nodatacow(descriptor: impl AsFd) -> io::Result<bool> {
    match rustix::fs::ioctl_getflags(descriptor) {
        Ok(flags) => Ok(flags.contains(rustix::fs::IFlags::NOCOW)),
        Err(Errno::NOTTY | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Gives a new, empty directory the `chattr +C` of another one, if that has it: what is made in it has it from then on. Where the filesystem knows no such thing,
/// nothing is done.
///
/// # Errors
/// The flags cannot be read or set.
pub fn keep_nodatacow(from: impl AsFd, to: impl AsFd) -> io::Result<()> {
    if !is_nodatacow(from)? {
        return Ok(());
    }
    let flags = rustix::fs::ioctl_getflags(&to)?;
    Ok(rustix::fs::ioctl_setflags(&to, flags | rustix::fs::IFlags::NOCOW)?)
}

/// Whether quota groups are counted on this filesystem (from sysfs; false when that cannot be known, before Linux 5.9).
pub fn quotas_enabled(filesystem: Uuid) -> bool {
    std::fs::read_to_string(format!("/sys/fs/btrfs/{filesystem}/qgroups/enabled")).is_ok_and(|text| text.trim() != "0")
}

/// A name in the fixed space of an argument, ending with a zero byte.
fn put_name(space: &mut [c_char], name: &OsStr) -> io::Result<()> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.len() >= space.len() || bytes.iter().any(|byte| matches!(byte, 0 | b'/')) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in space.iter_mut().zip(bytes) {
        *to = c_char::from_ne_bytes([*from]);
    }
    Ok(())
}

/// The text up to the first zero byte.
fn text(space: &[c_char]) -> OsString {
    let bytes: Vec<u8> = space.iter().map(|byte| byte.to_ne_bytes()[0]).collect();
    let end = CStr::from_bytes_until_nul(&bytes).map_or(bytes.len(), |text| text.to_bytes().len());
    OsString::from_vec(bytes[..end].to_vec())
}

/// An ioctl argument of integers, arrays of integers and null pointers, for which all zero bytes are a valid value.
///
/// # Safety
/// Only for such types.
unsafe trait AllZero {}

// SAFETY (all): bindgen's plain structures and unions of integers, integer arrays and one raw pointer.
unsafe impl AllZero for raw::btrfs_ioctl_fs_info_args {}
// SAFETY: see above.
unsafe impl AllZero for raw::btrfs_ioctl_get_subvol_info_args {}
// SAFETY: see above.
unsafe impl AllZero for raw::btrfs_ioctl_ino_lookup_user_args {}
// SAFETY: see above.
unsafe impl AllZero for raw::btrfs_ioctl_get_subvol_rootref_args {}
// SAFETY: see above.
unsafe impl AllZero for raw::btrfs_ioctl_vol_args_v2 {}
// SAFETY: see above.
unsafe impl AllZero for raw::btrfs_ioctl_vol_args {}
// SAFETY: see above.
unsafe impl AllZero for raw::btrfs_ioctl_search_args {}

fn zeroed<T: AllZero>() -> T {
    // SAFETY: the trait promises that all zero bytes are a valid value.
    unsafe { std::mem::zeroed() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_prints_as_everywhere() {
        let uuid = Uuid([0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(uuid.to_string().parse(), Ok(uuid));
        assert!("of:12345678".parse::<Uuid>().is_err() && "".parse::<Uuid>().is_err());
        assert_eq!(uuid.to_string(), "12345678-9abc-def0-0102-030405060708");
    }

    #[test]
    fn names_that_do_not_fit_are_refused() {
        let mut space = [0; 8];
        for name in ["", "a/b", "12345678", "a\0b"] {
            assert!(put_name(&mut space, OsStr::new(name)).is_err(), "{name:?}");
        }
        put_name(&mut space, OsStr::new("1234567")).unwrap();
        assert_eq!(text(&space), "1234567");
    }

    #[test]
    fn what_is_not_btrfs_says_so() {
        let proc = super::super::fs::open_directory(Path::new("/proc")).unwrap();
        assert!(!is_btrfs(&proc).unwrap());
        assert!(filesystem_uuid(&proc).is_err());
    }
}
