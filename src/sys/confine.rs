//! Keeping a program's writes below a few paths, its network empty, and copies where it looks for the originals: Landlock (Linux 5.13), and namespaces of its own. All
//! of it is asked of the kernel, so that no setting of the program, and no path or address in its data, can lead out.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::ptr::null;

use super::user::Account;

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

/// A copy to be seen where its original is.
#[derive(Debug)]
struct Bind {
    copy: CString,
    original: CString,
    /// The copy's device and inode: what is mounted must be what was looked at, whatever was exchanged in between.
    identity: (u64, u64),
}

impl Bind {
    /// # Errors
    /// It is neither the user's own nor what only root could have put there: mounted, it would show that user what lies behind closed directories.
    fn of(copy: &Path, original: &Path, user: Option<Account>) -> io::Result<Bind> {
        let found = std::fs::symlink_metadata(copy)?;
        let own = user.is_none_or(|(uid, _)| uid == 0 || uid == found.uid());
        let trusted = || super::trust::check(copy).is_ok_and(|answer| answer.is_ok());
        if !own && !trusted() {
            return Err(io::Error::other(format!(
                "{} is neither the server's user's nor root's alone",
                copy.display()
            )));
        }
        Ok(Bind {
            copy: CString::new(copy.as_os_str().as_bytes())?,
            original: CString::new(original.as_os_str().as_bytes())?,
            identity: (found.dev(), found.ino()),
        })
    }

    /// System calls only.
    fn mount(&self) -> io::Result<()> {
        mount(&self.copy, &self.original, libc::MS_BIND)?;
        // SAFETY: all-zero is a valid `stat`, which lives here; the path is terminated.
        let (answer, found) = unsafe {
            let mut found: libc::stat = std::mem::zeroed();
            (libc::stat(self.original.as_ptr(), &raw mut found), found)
        };
        match answer == 0 && (found.st_dev, found.st_ino) == self.identity {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(libc::ESTALE)),
        }
    }
}

/// What a process that is about to become another program may still write to. Made before the fork; it only needs system calls after it.
#[derive(Debug)]
pub(super) struct Confinement {
    /// `None` where the kernel has no Landlock.
    pub(super) rules: Option<OwnedFd>,
    /// What is mounted over what, for this process alone; the outer first.
    binds: Vec<Bind>,
    /// Without them it is not to be started.
    must_bind: bool,
}

impl Confinement {
    /// Writes stay below these directories, in these files, and go to `/dev/null`.
    ///
    /// # Errors
    /// A path cannot be opened, or the kernel refuses a rule.
    pub fn to(paths: &[&Path]) -> io::Result<Confinement> {
        let rules = rules(paths)?;
        Ok(Confinement {
            rules,
            binds: Vec::new(),
            must_bind: false,
        })
    }

    /// The program sees each copy in the place of its original, or is not started: it would work on the originals.
    ///
    /// # Errors
    /// We are not root, or a copy is not of its original's kind.
    pub fn instead(mut self, trees: &[(PathBuf, PathBuf)], user: Option<Account>) -> io::Result<Confinement> {
        let mut trees: Vec<_> = trees.iter().collect();
        trees.sort_by_key(|(original, _)| original.as_os_str().len());
        for (original, copy) in trees {
            let same_kind = copy.exists() && original.exists() && original.is_dir() == copy.is_dir();
            if !same_kind || original == copy || !super::host::is_root() {
                return Err(io::Error::other(format!(
                    "{} cannot be put in the place of {}",
                    copy.display(),
                    original.display()
                )));
            }
            self.binds.push(Bind::of(copy, original, user)?);
        }
        self.must_bind = true;
        Ok(self)
    }

    /// Lets the program see each copy where its original was as well, where there is something of the same kind now; needs root.
    ///
    /// # Errors
    /// A copy could have been put there by somebody else than root and `user`.
    pub fn with_copies(mut self, trees: &[(PathBuf, PathBuf)], user: Option<Account>) -> io::Result<Confinement> {
        let mut trees: Vec<_> = trees.iter().filter(|_| super::host::is_root()).collect();
        trees.sort_by_key(|(original, _)| original.as_os_str().len());
        for (original, copy) in trees {
            let same_kind = original.exists() && original.is_dir() == copy.is_dir();
            if same_kind && original != copy {
                self.binds.push(Bind::of(copy, original, user)?);
            }
        }
        Ok(self)
    }

    /// Applies to this process and all that it starts, for ever. System calls only: it runs between fork and exec, before the user is changed.
    pub fn enter(&self) -> io::Result<()> {
        // SAFETY: no pointers. Only root may; others have `skip-networking` and the like alone.
        unsafe { libc::unshare(libc::CLONE_NEWNET) };
        if !self.binds.is_empty() {
            self.bind()?;
        }
        // No set-user-ID program gives it more, whether or not there are rules.
        // SAFETY: no pointers.
        if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let Some(rules) = &self.rules else { return Ok(()) };
        // SAFETY: no pointers; the descriptor is open.
        let entered = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0u32) == 0 };
        if entered {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    fn bind(&self) -> io::Result<()> {
        // SAFETY: no pointers.
        if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
            // In a container even root may not. One tree, the program's own, is not looked for where it was; and where Landlock holds, an original can at worst be read.
            let error = io::Error::last_os_error();
            let harmless = !self.must_bind && (self.rules.is_some() || self.binds.len() <= 1);
            return if harmless { Ok(()) } else { Err(error) };
        }
        // Nothing of it is seen outside.
        mount(c"none", c"/", libc::MS_REC | libc::MS_PRIVATE)?;
        self.binds.iter().try_for_each(Bind::mount)
    }
}

/// A system call only.
fn mount(source: &CStr, target: &CStr, flags: libc::c_ulong) -> io::Result<()> {
    // SAFETY: terminated texts that live here; null is allowed for type and data with these flags.
    match unsafe { libc::mount(source.as_ptr(), target.as_ptr(), null(), flags, null()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `None` where the kernel has no Landlock.
fn rules(paths: &[&Path]) -> io::Result<Option<OwnedFd>> {
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
        return Ok(None);
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
    for path in paths.iter().chain(&[Path::new("/dev/null")]) {
        // A rule about a file may name only what can be done to one.
        let access = if path.is_dir() {
            access
        } else {
            access & (WRITE_FILE | TRUNCATE)
        };
        allow(&rules, path, access)?;
    }
    Ok(Some(rules))
}

fn allow(rules: &OwnedFd, path: &Path, access: u64) -> io::Result<()> {
    let bytes = CString::new(path.as_os_str().as_bytes())?;
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
