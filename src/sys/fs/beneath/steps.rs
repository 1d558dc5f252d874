//! Finding a path without openat2(2), as on kernels before Linux 5.6 and behind seccomp filters that do not know it.

use std::ffi::OsStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

/// What openat2(2) does with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS, one component at a time.
pub(super) fn step_by_step(
    anchor: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: Mode,
) -> rustix::io::Result<OwnedFd> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::CurDir => {}
            _ => return Err(Errno::XDEV),
        }
    }
    let last = names.pop().unwrap_or(OsStr::new("."));
    let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut directory = rustix::fs::openat(anchor, ".", step, Mode::empty())?;
    for name in names {
        directory = match rustix::fs::openat(&directory, name, step, Mode::empty()) {
            // O_DIRECTORY with O_NOFOLLOW says ENOTDIR of a link.
            Err(Errno::NOTDIR) if is_link(&directory, name) => return Err(Errno::LOOP),
            answer => answer?,
        };
    }
    // O_PATH with O_NOFOLLOW would open a link itself.
    if is_link(&directory, last) {
        return Err(Errno::LOOP);
    }
    rustix::fs::openat(&directory, last, flags, mode)
}

fn is_link(directory: &OwnedFd, name: &OsStr) -> bool {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Symlink)
}
