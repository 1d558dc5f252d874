//! Mounting a snapshot for one run, and unmounting it.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

use super::command::{Command, Program};
use super::{Error, Result};

/// How often an unmount is tried, and how long it waits in between.
const ATTEMPTS: u32 = 40;
const PAUSE: Duration = Duration::from_millis(100);

/// Mounts a device read-only on a directory that is made for it (0700), without devices, programs and set-user-id files. `data` are options of the filesystem.
///
/// # Errors
/// It cannot be mounted; the directory is gone again.
pub fn mount_read_only(device: &Path, at: &Path, fs_type: &str, data: &str) -> Result<()> {
    mount(device, at, fs_type, data, MountFlags::RDONLY)
}

/// The same, writable.
///
/// # Errors
/// As [`mount_read_only`].
pub fn mount_writable(device: &Path, at: &Path, fs_type: &str, data: &str) -> Result<()> {
    mount(device, at, fs_type, data, MountFlags::empty())
}

fn mount(device: &Path, at: &Path, fs_type: &str, data: &str, access: MountFlags) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(at)
        .map_err(|error| Error::path("make the directory", at, error))?;
    let flags = access | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME;
    let words = CString::new(data).map_err(|error| Error::path("mount at", at, io::Error::from(error)))?;
    let data = (!data.is_empty()).then_some(words.as_c_str());
    rustix::mount::mount(device, at, fs_type, flags, data).map_err(|error| {
        let _ = std::fs::remove_dir(at);
        Error::path("mount the snapshot at", at, error)
    })
}

/// Unmounts what is mounted at a directory of ours, and removes the directory; `Ok(false)` when nothing was mounted there.
///
/// # Errors
/// It is still in use after some seconds.
pub fn unmount(at: &Path) -> Result<bool> {
    let mut attempt = 1;
    let unmounted = loop {
        match rustix::mount::unmount(at, UnmountFlags::NOFOLLOW) {
            Ok(()) => break true,
            // No mount point, or not there at all.
            Err(Errno::INVAL | Errno::NOENT) => break false,
            Err(Errno::BUSY) if attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(Error::path("unmount", at, error)),
        }
        std::thread::sleep(PAUSE);
    };
    match std::fs::remove_dir(at) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::path("remove the directory", at, error)),
        _ => Ok(unmounted),
    }
}

/// How a mount went away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmounted {
    /// Nobody used it.
    Whole,
    /// Somebody still uses it: it is out of sight, and goes when they are done.
    Detached,
}

/// Unmounts what is mounted at a directory, which stays; when it is in use for longer than a second it is detached.
///
/// # Errors
/// The kernel refuses both.
pub fn unmount_or_detach(at: &Path) -> Result<Unmounted> {
    for _ in 0..10 {
        match rustix::mount::unmount(at, UnmountFlags::NOFOLLOW) {
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => return Ok(Unmounted::Whole),
            Err(Errno::BUSY) => std::thread::sleep(PAUSE),
            Err(error) => return Err(Error::path("unmount", at, error)),
        }
    }
    rustix::mount::unmount(at, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
        .map(|()| Unmounted::Detached)
        .map_err(|error| Error::path("detach the mount at", at, error))
}

/// Mounts a filesystem where nobody sees it, and returns its top: it is gone with the descriptor, also when this process dies.
///
/// # Errors
/// It cannot be mounted (Linux 5.2 is needed).
pub fn hidden(source: &Path, fs_type: &str, options: &[(&str, &str)]) -> Result<OwnedFd> {
    let fail = |error: Errno| Error::path("mount for ourselves", source, error);
    let context = fsopen(fs_type, FsOpenFlags::FSOPEN_CLOEXEC).map_err(fail)?;
    fsconfig_set_string(&context, "source", source).map_err(fail)?;
    for (name, value) in options {
        fsconfig_set_string(&context, *name, *value).map_err(fail)?;
    }
    fsconfig_create(&context).map_err(fail)?;
    let attributes =
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(fail)?;
    // That one only names the mount (O_PATH). What is opened in it keeps it.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(&mount, ".", flags, Mode::empty()).map_err(fail)
}

/// Unmounts a filesystem that is not ours from its mount point, which stays; `Ok(false)` when nothing is mounted there.
///
/// # Errors
/// It is in use.
pub fn unmount_live(at: &Path) -> Result<bool> {
    let mut attempt = 1;
    loop {
        match rustix::mount::unmount(at, UnmountFlags::NOFOLLOW) {
            Ok(()) => return Ok(true),
            Err(Errno::INVAL | Errno::NOENT) => return Ok(false),
            // Whoever looks at every mount that comes or goes (udev, a desktop) lets go of it soon.
            Err(Errno::BUSY) if attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(Error::path("unmount", at, error)),
        }
        std::thread::sleep(PAUSE);
    }
}

/// Mounts a filesystem with the options that mount(8) takes.
///
/// # Errors
/// It cannot be mounted.
pub fn mount_live(source: &str, at: &Path, fs_type: &str, options: &str) -> Result<()> {
    Command::new(&Program::find("mount")?)
        .args(["-t", fs_type, "-o", options, source])
        .arg(at)
        .run()?;
    Ok(())
}

/// Whether a device is mounted anywhere in this mount namespace.
pub fn is_mounted(device: &Path) -> bool {
    let Ok(real) = std::fs::canonicalize(device) else {
        return false;
    };
    let Ok(found) = rustix::fs::stat(&real) else {
        return false;
    };
    let number = format!(
        " {}:{} ",
        rustix::fs::major(found.st_rdev),
        rustix::fs::minor(found.st_rdev)
    );
    let table = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let mut lines = table.split(|byte| *byte == b'\n').map(std::ffi::OsStr::from_bytes);
    lines.any(|line| line.to_string_lossy().contains(&number))
}
