//! A view of trees under one directory, by bind mounts, for this process alone or for all; and a command that runs in it.
#![allow(unsafe_code)]

use std::ffi::{CStr, OsString};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use super::signal::Cancel;
use super::{Error, Result};

/// How often the command's end is looked for.
const PAUSE: Duration = Duration::from_millis(20);

/// Gives the calling thread, and what it starts, mounts of its own: what it mounts is seen by nobody else, and goes with the last of them. What others
/// unmount goes here too.
///
/// # Errors
/// Not root, or in a container that forbids it.
pub fn private_mounts() -> Result<()> {
    // SAFETY: no pointers; the thread gets a file system context of its own (implied by CLONE_NEWNS), which is what is wanted.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return Err(Error::kernel("have mounts of our own", io::Error::last_os_error()));
    }
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", flags).map_err(|error| Error::kernel("keep our mounts to ourselves", error))
}

/// Trees that are shown below a directory.
#[derive(Debug)]
pub struct View {
    at: PathBuf,
    /// Users besides root come in, as far as the directories above the trees let them.
    for_all: bool,
}

/// Mode, owner and group of a directory.
pub type Rights = (u32, u32, u32);

impl View {
    /// Begins an empty view at a directory, which it covers. It has only names: at most a mebibyte.
    ///
    /// # Errors
    /// Nothing can be mounted there.
    pub fn begin(at: &Path, for_all: bool) -> Result<View> {
        rustix::mount::mount("snapback", at, "tmpfs", quiet(), Some(options(for_all)))
            .map_err(|error| Error::path("mount a view at", at, error))?;
        Ok(View {
            at: at.to_owned(),
            for_all,
        })
    }

    /// Where `original` (absolute) is shown.
    pub fn place_of(&self, original: &Path) -> PathBuf {
        self.at.join(original.strip_prefix("/").unwrap_or(original))
    }

    /// Shows a directory or a file, read-only, where `original` is below the view. The directories above it are made as `above` says for their
    /// original paths: whoever these keep out does not come to the tree here either. `Ok(false)` when a tree that is shown already has nothing at that place.
    ///
    /// # Errors
    /// It cannot be mounted.
    pub fn show(&self, from: &Path, original: &Path, above: &dyn Fn(&Path) -> Rights) -> Result<bool> {
        let place = self.place_of(original);
        let is_directory = from.is_dir();
        if !place.exists() {
            let made = self.make_way(original, above).and_then(|()| match is_directory {
                true => std::fs::create_dir(&place),
                false => std::fs::File::create(&place).map(drop),
            });
            match made {
                Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => return Ok(false),
                made => made.map_err(|error| Error::path("show a tree at", &place, error))?,
            }
        }
        let failed = |error| Error::path("show a tree at", &place, error);
        rustix::mount::mount_bind(from, &place).map_err(failed)?;
        let flags = MountFlags::BIND | MountFlags::RDONLY | quiet();
        rustix::mount::mount_remount(&place, flags, "").map_err(failed)?;
        Ok(true)
    }

    /// Makes the directories above a tree that are missing.
    fn make_way(&self, original: &Path, above: &dyn Fn(&Path) -> Rights) -> io::Result<()> {
        let mut way: Vec<&Path> = original.ancestors().skip(1).collect();
        // `/` is the view itself.
        way.pop();
        for directory in way.into_iter().rev() {
            let place = self.place_of(directory);
            if place.exists() {
                continue;
            }
            let (mode, uid, gid) = above(directory);
            std::fs::DirBuilder::new().mode(0o700).create(&place)?;
            std::os::unix::fs::chown(&place, Some(uid), Some(gid))?;
            std::fs::set_permissions(&place, std::fs::Permissions::from_mode(mode & 0o7777))?;
        }
        Ok(())
    }

    /// All is shown: the names above the trees cannot be changed any more either.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn seal(&self) -> Result<()> {
        rustix::mount::mount_remount(&self.at, MountFlags::RDONLY | quiet(), options(self.for_all))
            .map_err(|error| Error::path("make read-only", &self.at, error))
    }

    /// Takes it away with all trees in it, also when somebody still looks at them.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn end(self) -> Result<()> {
        rustix::mount::unmount(&self.at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            .map_err(|error| Error::path("unmount", &self.at, error))
    }
}

/// Who comes into a view, and its size.
fn options(for_all: bool) -> &'static CStr {
    match for_all {
        true => c"mode=0755,size=1m",
        false => c"mode=0700,size=1m",
    }
}

/// No devices, programs and set-user-id files.
fn quiet() -> MountFlags {
    MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC
}

/// Runs a command with our input and output in a directory, and waits for its end. A wish that we end is handed on to it; it dies with us.
///
/// # Errors
/// It could not be started.
pub fn run_in(directory: &Path, variable: &str, command: &[OsString], cancel: &Cancel) -> Result<ExitStatus> {
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| Error::kernel("start nothing", io::Error::from(io::ErrorKind::InvalidInput)))?;
    let start = |source| Error::Start {
        program: program.display().to_string(),
        source,
    };
    let mut command = std::process::Command::new(program);
    command.args(arguments).current_dir(directory).env(variable, directory);
    super::environment::without_secrets(&mut command);
    let us = std::process::id();
    // SAFETY: two system calls, no allocation.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // We died before it could be told.
            if u32::try_from(libc::getppid()) != Ok(us) {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        });
    }
    let mut child = command.spawn().map_err(start)?;
    let mut told = false;
    loop {
        if let Some(status) = child.try_wait().map_err(start)? {
            return Ok(status);
        }
        if let Some(signal) = cancel.asked().filter(|_| !told) {
            told = true;
            let number = libc::pid_t::try_from(child.id()).unwrap_or_default();
            if number > 0 {
                // SAFETY: no pointers; our own child, not waited for yet.
                unsafe { libc::kill(number, signal) };
            }
        }
        std::thread::sleep(PAUSE);
    }
}
