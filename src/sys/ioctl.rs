//! Typed ioctl calls: the size that the request number carries is checked against the argument's type when compiled.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Calls the ioctl `REQUEST` with a pointer to `argument`.
///
/// # Safety
/// `T` must be the structure that the kernel documents for `REQUEST`; if it holds pointers or descriptors, they must be valid.
pub unsafe fn call<const REQUEST: u32, T>(descriptor: BorrowedFd<'_>, argument: &mut T) -> io::Result<i32> {
    const {
        assert!(
            ((REQUEST >> 16) & 0x3fff) as usize == size_of::<T>(),
            "wrong argument type"
        )
    };
    // SAFETY: the kernel reads and writes at most the encoded size, which is the size of T; the rest is the caller's promise.
    let answer = unsafe { libc::ioctl(descriptor.as_raw_fd(), REQUEST as _, std::ptr::from_mut(argument)) };
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(answer)
    }
}
