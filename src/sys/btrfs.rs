//! Btrfs through its ioctls (linux/btrfs.h; btrfs-ioctl(2)). No program is started, no library is linked.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use linux_raw_sys::{btrfs as raw, ioctl};
use rustix::ioctl::{Opcode, Setter, Updater, ioctl as call};

use super::{Error, Result};

/// A subvolume's root directory always has this inode number (BTRFS_FIRST_FREE_OBJECTID).
pub const ROOT_INODE: u64 = 256;
/// f_type of statfs(2) for Btrfs (linux/magic.h).
const MAGIC: i64 = 0x9123_683E;
/// The longest name of a subvolume (BTRFS_SUBVOL_NAME_MAX) is 4039; a directory entry's is 255.
const LONGEST_NAME: usize = 255;

const SNAP_CREATE_V2: Opcode = ioctl::BTRFS_IOC_SNAP_CREATE_V2 as Opcode;
const SNAP_DESTROY: Opcode = ioctl::BTRFS_IOC_SNAP_DESTROY as Opcode;
const GETFLAGS: Opcode = ioctl::BTRFS_IOC_SUBVOL_GETFLAGS as Opcode;
const SUBVOL_INFO: Opcode = ioctl::BTRFS_IOC_GET_SUBVOL_INFO as Opcode;
const ROOTREF: Opcode = ioctl::BTRFS_IOC_GET_SUBVOL_ROOTREF as Opcode;
const LOOKUP_USER: Opcode = ioctl::BTRFS_IOC_INO_LOOKUP_USER as Opcode;
const FS_INFO: Opcode = ioctl::BTRFS_IOC_FS_INFO as Opcode;
const START_SYNC: Opcode = ioctl::BTRFS_IOC_START_SYNC as Opcode;
const WAIT_SYNC: Opcode = ioctl::BTRFS_IOC_WAIT_SYNC as Opcode;

/// What GET_SUBVOL_INFO says of a subvolume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subvolume {
    /// Its tree id (`subvolid`).
    pub id: u64,
    /// Its UUID as text; all zero for the top-level subvolume of old filesystems.
    pub uuid: String,
    /// The UUID of what it is a snapshot of; `None` when it is no snapshot.
    pub parent_uuid: Option<String>,
    /// Whether it is read-only.
    pub read_only: bool,
}

/// Whether `file` lies on Btrfs.
pub fn is_btrfs(file: impl AsFd) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|stat| i64::from(stat.f_type) == MAGIC)
}

/// Whether `path` is the root directory of a subvolume: Btrfs, a directory, inode 256.
pub fn is_subvolume(path: &Path) -> bool {
    let root = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir() && meta.ino() == ROOT_INODE);
    root && File::open(path).is_ok_and(is_btrfs)
}

/// The filesystem's UUID.
///
/// # Errors
/// `path` is not on Btrfs or cannot be opened.
pub fn filesystem_uuid(path: &Path) -> Result<String> {
    let directory = open(path)?;
    // SAFETY: all-zero bytes are a valid value of this plain C structure.
    let mut args: raw::btrfs_ioctl_fs_info_args = unsafe { std::mem::zeroed() };
    // SAFETY: FS_INFO fills exactly this structure (linux/btrfs.h).
    unsafe { call(&directory, Updater::<FS_INFO, _>::new(&mut args)) }
        .map_err(|error| Error::path("read the Btrfs filesystem information of", path, error))?;
    Ok(uuid_text(&args.fsid))
}

/// What the kernel knows of the subvolume that contains `path`.
///
/// # Errors
/// `path` is not on Btrfs or cannot be opened.
pub fn subvolume(path: &Path) -> Result<Subvolume> {
    let directory = open(path)?;
    // SAFETY: all-zero bytes are a valid value of this plain C structure.
    let mut args: raw::btrfs_ioctl_get_subvol_info_args = unsafe { std::mem::zeroed() };
    // SAFETY: GET_SUBVOL_INFO fills exactly this structure (Linux 4.18).
    unsafe { call(&directory, Updater::<SUBVOL_INFO, _>::new(&mut args)) }
        .map_err(|error| Error::path("read the subvolume information of", path, error))?;
    let mut flags: u64 = 0;
    // SAFETY: SUBVOL_GETFLAGS writes one u64; it answers only on a subvolume's root, so a failure means "not known" here.
    let asked = unsafe { call(&directory, Updater::<GETFLAGS, _>::new(&mut flags)) };
    let read_only = asked.is_ok() && flags & u64::from(raw::BTRFS_SUBVOL_RDONLY) != 0;
    let parent_uuid = (args.parent_uuid != [0; 16]).then(|| uuid_text(&args.parent_uuid));
    Ok(Subvolume { id: args.treeid, uuid: uuid_text(&args.uuid), parent_uuid, read_only })
}

/// The subvolumes directly below the one that contains `path`: their ids and their paths relative to that subvolume's root.
///
/// # Errors
/// `path` is not on Btrfs, or a directory on the way cannot be read.
pub fn nested(path: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let directory = open(path)?;
    let mut found = Vec::new();
    let mut from: u64 = 0;
    loop {
        // SAFETY: all-zero bytes are a valid value of this plain C structure.
        let mut args: Box<raw::btrfs_ioctl_get_subvol_rootref_args> = Box::new(unsafe { std::mem::zeroed() });
        args.min_treeid = from;
        // SAFETY: GET_SUBVOL_ROOTREF reads and fills exactly this structure (Linux 4.18).
        let asked = unsafe { call(&directory, Updater::<ROOTREF, _>::new(&mut *args)) };
        let more = matches!(asked, Err(rustix::io::Errno::OVERFLOW));
        if !more {
            asked.map_err(|error| Error::path("list the nested subvolumes of", path, error))?;
        }
        let count = usize::from(args.num_items).min(args.rootref.len());
        for rootref in &args.rootref[..count] {
            found.push((rootref.treeid, path_of(&directory, path, rootref.dirid, rootref.treeid)?));
            from = from.max(rootref.treeid.saturating_add(1));
        }
        if !more || count == 0 {
            return Ok(found);
        }
    }
}

/// The path of the subvolume `treeid`, whose directory entry lies in directory `dirid` of the subvolume of `directory`.
fn path_of(directory: &File, path: &Path, dirid: u64, treeid: u64) -> Result<PathBuf> {
    // SAFETY: all-zero bytes are a valid value of this plain C structure.
    let mut args: Box<raw::btrfs_ioctl_ino_lookup_user_args> = Box::new(unsafe { std::mem::zeroed() });
    args.dirid = dirid;
    args.treeid = treeid;
    // SAFETY: INO_LOOKUP_USER reads and fills exactly this structure (Linux 4.18).
    unsafe { call(directory, Updater::<LOOKUP_USER, _>::new(&mut *args)) }
        .map_err(|error| Error::path("find the path of a nested subvolume of", path, error))?;
    let text = |chars: &[std::ffi::c_char]| -> Vec<u8> { chars.iter().take_while(|&&c| c != 0).map(|&c| c as u8).collect() };
    let mut bytes = text(&args.path);
    bytes.extend(text(&args.name));
    Ok(PathBuf::from(std::ffi::OsStr::from_bytes(&bytes)))
}

/// Everything that one snapshot needs, prepared so that [`take`](PreparedSnapshot::take) is a single ioctl.
pub struct PreparedSnapshot {
    _origin: File,
    directory: File,
    at: PathBuf,
    args: Box<raw::btrfs_ioctl_vol_args_v2>,
}

// SAFETY: the raw pointer inside the C structure's union is never set nor followed: no qgroup inheritance is passed.
unsafe impl Send for PreparedSnapshot {}

impl PreparedSnapshot {
    /// Opens the origin's root and the directory for the snapshot, and fills the argument block.
    ///
    /// # Errors
    /// One of them cannot be opened, or the name is too long.
    pub fn new(origin: &Path, directory: &Path, name: &str) -> Result<PreparedSnapshot> {
        let at = directory.join(name);
        let origin = open(origin)?;
        let into = open(directory)?;
        let bytes = CString::new(name).map_err(|error| Error::path("name the snapshot", &at, std::io::Error::other(error)))?;
        if bytes.as_bytes().len() > LONGEST_NAME {
            return Err(Error::path("name the snapshot", &at, rustix::io::Errno::NAMETOOLONG));
        }
        // SAFETY: all-zero bytes are a valid value of this plain C structure; zero means no qgroup inheritance.
        let mut args: Box<raw::btrfs_ioctl_vol_args_v2> = Box::new(unsafe { std::mem::zeroed() });
        args.fd = i64::from(origin.as_raw_fd());
        args.flags = u64::from(raw::BTRFS_SUBVOL_RDONLY);
        // SAFETY: `name` is the union's member that SNAP_CREATE_V2 reads; the length was checked above.
        let field = unsafe { &mut args.__bindgen_anon_2.name };
        for (to, from) in field.iter_mut().zip(bytes.as_bytes()) {
            *to = *from as std::ffi::c_char;
        }
        Ok(PreparedSnapshot { _origin: origin, directory: into, at, args })
    }

    /// Makes the read-only snapshot: one ioctl, which commits a transaction.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn take(&mut self) -> Result<()> {
        // SAFETY: SNAP_CREATE_V2 reads exactly this structure; both descriptors are open while `self` lives.
        unsafe { call(&self.directory, Setter::<SNAP_CREATE_V2, _>::new(*self.args)) }
            .map_err(|error| Error::path("make the Btrfs snapshot", &self.at, error))
    }
}

/// Deletes the subvolume `name` in `directory` and waits until the filesystem has committed that.
///
/// # Errors
/// The kernel's answer; ENOENT when it is gone.
pub fn destroy(directory: &Path, name: &str) -> Result<()> {
    let at = directory.join(name);
    let into = open(directory)?;
    // SAFETY: all-zero bytes are a valid value of this plain C structure.
    let mut args: raw::btrfs_ioctl_vol_args = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() > LONGEST_NAME || name.contains(['/', '\0']) {
        return Err(Error::path("delete the subvolume", &at, rustix::io::Errno::INVAL));
    }
    for (to, from) in args.name.iter_mut().zip(name.as_bytes()) {
        *to = *from as std::ffi::c_char;
    }
    // SAFETY: SNAP_DESTROY reads exactly this structure.
    unsafe { call(&into, Setter::<SNAP_DESTROY, _>::new(args)) }
        .map_err(|error| Error::path("delete the subvolume", &at, error))?;
    commit(&into, directory)
}

/// Starts a transaction commit and waits for it.
fn commit(directory: &File, path: &Path) -> Result<()> {
    let mut transaction: u64 = 0;
    // SAFETY: START_SYNC writes one u64.
    unsafe { call(directory, Updater::<START_SYNC, _>::new(&mut transaction)) }
        .map_err(|error| Error::path("commit", path, error))?;
    // SAFETY: WAIT_SYNC reads one u64.
    unsafe { call(directory, Setter::<WAIT_SYNC, _>::new(transaction)) }.map_err(|error| Error::path("wait for the commit of", path, error))
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| Error::path("open", path, error))
}

fn uuid_text(bytes: &[u8; 16]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}
