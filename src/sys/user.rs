//! Another user's rights instead of root's: for work in directories that are that user's, and for programs that need no more.
#![allow(unsafe_code)]

use std::io;

use super::{Error, Result, host};

/// User and group of a process or file.
pub type Account = (u32, u32);

/// The account of nobody where the host has none of that name (Linux, `overflowuid`).
const OVERFLOW: Account = (65_534, 65_534);

/// Whose rights are enough to ask a program for its version; `None`: we are not root, and have no other.
pub fn unprivileged() -> Option<Account> {
    host::is_root().then(|| host::account("nobody").unwrap_or(OVERFLOW))
}

/// Does some work on files with the rights of `user`, on a thread of its own: what that user exchanges meanwhile leads nowhere that the user could not go alone.
/// `None`, root itself, or where we are not root: as we are. Descriptors that are open stay usable.
///
/// # Errors
/// The kernel refuses the change.
pub fn acting<T: Send>(user: Option<Account>, work: impl FnOnce() -> T + Send) -> Result<T> {
    let Some((uid, gid)) = user.filter(|(uid, _)| *uid != 0 && host::is_root()) else {
        return Ok(work());
    };
    std::thread::scope(|scope| {
        let worker = scope.spawn(move || {
            take_rights(uid, gid).map_err(|error| Error::kernel("act as the server's user", error))?;
            Ok(work())
        });
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// This thread's rights on files (setfsuid(2)); signals and other threads are not concerned. With the user id the kernel takes root's capabilities on files away.
fn take_rights(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: no pointers but a null one for no groups. Raw calls change this thread only. setfsuid(2) tells no error: an impossible id asks what is set.
    let set = unsafe {
        let grouped = libc::syscall(libc::SYS_setgroups, 0usize, std::ptr::null::<libc::gid_t>()) == 0;
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsuid, uid);
        grouped
            && libc::syscall(libc::SYS_setfsgid, u32::MAX) == i64::from(gid)
            && libc::syscall(libc::SYS_setfsuid, u32::MAX) == i64::from(uid)
    };
    match set {
        true => Ok(()),
        false => Err(io::Error::from_raw_os_error(libc::EPERM)),
    }
}

/// Between fork and exec: the process is this user's for good, without other groups, and no program that it starts gets more. System calls only.
pub(super) fn become_user(user: Option<Account>) -> io::Result<()> {
    let Some((uid, gid)) = user else { return Ok(()) };
    // SAFETY: no pointers but a null one for no groups. The raw calls would change one thread only, and there is only one after a fork.
    let changed = unsafe {
        libc::syscall(libc::SYS_setgroups, 0usize, std::ptr::null::<libc::gid_t>()) == 0
            && libc::syscall(libc::SYS_setgid, gid) == 0
            && libc::syscall(libc::SYS_setuid, uid) == 0
            && libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    };
    match changed {
        true => Ok(()),
        false => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn who_acts_as_a_user_can_do_what_that_user_can_and_the_rest_of_us_is_root_still() {
        if !host::is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let (secret, own) = (dir.path().join("secret"), dir.path().join("own"));
        std::fs::write(&secret, "x").unwrap();
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::create_dir(&own).unwrap();
        std::os::unix::fs::chown(&own, Some(4711), Some(4712)).unwrap();
        let user = Some((4711, 4712));
        let denied = |error: io::Error| error.kind() == io::ErrorKind::PermissionDenied;
        acting(user, || {
            assert!(denied(std::fs::read(&secret).unwrap_err()));
            assert!(denied(std::os::unix::fs::chown(&own, Some(0), None).unwrap_err()));
            std::fs::write(own.join("made"), "y").unwrap();
            // What is opened by its descriptor's entry in /proc is still reached.
            assert_eq!(crate::sys::fs::read_plain(&own.join("made"), 9).unwrap(), b"y");
        })
        .unwrap();
        let made = std::fs::metadata(own.join("made")).unwrap();
        assert_eq!((made.uid(), made.gid()), (4711, 4712));
        assert_eq!(std::fs::read(&secret).unwrap(), b"x");
        assert!(acting(None, || std::fs::read(&secret).is_ok()).unwrap());
        assert!(acting(Some((0, 0)), || std::fs::read(&secret).is_ok()).unwrap());
    }
}
