//! Record locks of other processes (fcntl(2)): how a server marks its files as in use.
#![allow(unsafe_code)]

use std::os::fd::AsRawFd;
use std::path::Path;

/// The process that holds a lock on any part of a file; `None` when nobody does or the file cannot be asked.
pub fn locked_by(path: &Path) -> Option<i32> {
    // Never a device or a pipe that somebody put there. To ask, reading is enough.
    let file = super::open_plain(path).ok()?;
    // SAFETY: all-zero is a valid `flock`: a request about the whole file (start 0, length 0).
    let mut request: libc::flock = unsafe { std::mem::zeroed() };
    request.l_type = libc::F_WRLCK as libc::c_short;
    request.l_whence = libc::SEEK_SET as libc::c_short;
    // SAFETY: the descriptor is open, and `request` is valid for reads and writes during the call.
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &raw mut request) };
    (answer == 0 && request.l_type != libc::F_UNLCK as libc::c_short).then_some(request.l_pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unlocked_file_is_nobodys() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(locked_by(file.path()), None);
        assert_eq!(locked_by(Path::new("/nonexistent")), None);
    }
}
