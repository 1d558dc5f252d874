//! Keeping a program's writes below a few paths, and its network empty: Landlock (Linux 5.13) and a network namespace of its own. Both are asked of the kernel, so
//! that no setting of the program, and no path or address in its data, can lead out.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// linux/landlock.h, of which libc has the call numbers only.
const CREATE_RULESET_VERSION: u32 = 1;
const RULE_PATH_BENEATH: i32 = 1;
const WRITE_FILE: u64 = 1 << 1;
/// From REMOVE_DIR to MAKE_SYM: everything that changes a directory.
const CHANGE_DIRECTORY: u64 = 0x1ff0;
/// Since the second version: renames into other directories. Since the third: truncation.
const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;

#[repr(C)]
struct RulesetAttribute {
    handled_access_fs: u64,
}

#[repr(C, packed)]
struct PathBeneath {
    allowed_access: u64,
    parent_fd: i32,
}

/// What a process that is about to become another program may still write to. Made before the fork; it only needs system calls after it.
#[derive(Debug)]
pub(super) struct Confinement {
    /// `None` where the kernel has no Landlock.
    pub(super) rules: Option<OwnedFd>,
}

impl Confinement {
    /// Writes stay below these directories, and go to `/dev/null`.
    ///
    /// # Errors
    /// A directory cannot be opened, or the kernel refuses a rule.
    pub fn to(directories: &[&Path]) -> io::Result<Confinement> {
        // SAFETY: with this flag and no attribute the call only tells the version.
        let version = unsafe {
            libc::syscall(
                libc::SYS_landlock_create_ruleset,
                std::ptr::null::<RulesetAttribute>(),
                0usize,
                CREATE_RULESET_VERSION,
            )
        };
        if version < 1 {
            return Ok(Confinement { rules: None });
        }
        let mut access = WRITE_FILE | CHANGE_DIRECTORY;
        access |= if version >= 2 { REFER } else { 0 };
        access |= if version >= 3 { TRUNCATE } else { 0 };
        let attribute = RulesetAttribute {
            handled_access_fs: access,
        };
        // SAFETY: the attribute lives here and is as long as is said.
        let made = unsafe {
            libc::syscall(
                libc::SYS_landlock_create_ruleset,
                &raw const attribute,
                size_of::<RulesetAttribute>(),
                0u32,
            )
        };
        let made = i32::try_from(made).ok().filter(|made| *made >= 0);
        let made = made.ok_or_else(io::Error::last_os_error)?;
        // SAFETY: the kernel just gave us this descriptor.
        let rules = unsafe { OwnedFd::from_raw_fd(made) };
        for directory in directories {
            allow(&rules, directory, access)?;
        }
        allow(&rules, Path::new("/dev/null"), access & (WRITE_FILE | TRUNCATE))?;
        Ok(Confinement { rules: Some(rules) })
    }

    /// Applies to this process and all that it starts, for ever. System calls only: it runs between fork and exec, before the user is changed.
    pub fn enter(&self) -> io::Result<()> {
        // SAFETY: no pointers. Only root may; others have `skip-networking` and the like alone.
        unsafe { libc::unshare(libc::CLONE_NEWNET) };
        let Some(rules) = &self.rules else { return Ok(()) };
        // SAFETY: no pointers; the descriptor is open.
        let entered = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0u32) == 0
        };
        if entered {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

fn allow(rules: &OwnedFd, path: &Path, access: u64) -> io::Result<()> {
    let bytes = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: a terminated path; the answer is checked.
    let opened = unsafe { libc::open(bytes.as_ptr(), libc::O_PATH | libc::O_CLOEXEC) };
    if opened < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor.
    let opened = unsafe { OwnedFd::from_raw_fd(opened) };
    let rule = PathBeneath {
        allowed_access: access,
        parent_fd: opened.as_raw_fd(),
    };
    // SAFETY: the rule lives here and has the layout of `struct landlock_path_beneath_attr`.
    let added = unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            rules.as_raw_fd(),
            RULE_PATH_BENEATH,
            &raw const rule,
            0u32,
        )
    };
    if added == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
