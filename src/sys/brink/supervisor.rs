//! The process that answers for a command at the brink: forked, with nothing else to do, and only system calls in it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::from_mut;

use crate::sys::helper::{Helper, interrupted, lock_memory};

/// Words of the parent: let this call go on and hold the next one as well; let this and all others go on.
pub const ASK_ON: u8 = b'a';
pub const RUN_ON: u8 = b'r';

/// What of the ioctl's argument is reported, in bytes: all of struct dm_ioctl up to its UUID.
const SEEN: usize = 304;

/// linux/seccomp.h, which libc does not have: `_IOWR('!', 0, struct seccomp_notif)`, `_IOWR('!', 1, struct seccomp_notif_resp)`,
/// `_IOW('!', 2, __u64)`.
const NOTIF_RECV: u32 = 0xc050_2100;
const NOTIF_SEND: u32 = 0xc018_2101;
const NOTIF_ID_VALID: u32 = 0x4008_2102;

/// One call at which the command was held.
#[repr(C)]
#[derive(Clone)]
pub struct Report {
    pid: u32,
    /// 0 for the end of a process.
    request: u32,
    /// 1 when the argument could be read.
    readable: u32,
    argument: [u8; SEEN],
}

impl Default for Report {
    fn default() -> Report {
        Report {
            pid: 0,
            request: 0,
            readable: 0,
            argument: [0; SEEN],
        }
    }
}

impl std::fmt::Debug for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Report({:#x} by {})", self.request, self.pid)
    }
}

impl Report {
    /// The process that made it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The ioctl's request number; `None` when a process was seen to end.
    pub fn request(&self) -> Option<u32> {
        (self.request != 0).then_some(self.request)
    }

    /// Whether the ioctl's argument could be read; else it looks like zeros. Yama's ptrace_scope 3 forbids it to root too.
    pub fn is_readable(&self) -> bool {
        self.readable != 0
    }

    /// A number in the ioctl's argument.
    pub fn number_at(&self, offset: usize) -> u32 {
        let bytes = self
            .argument
            .get(offset..offset + 4)
            .and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u32::from_ne_bytes)
    }

    /// A text in the ioctl's argument, up to its zero byte.
    pub fn text_at(&self, offset: usize, length: usize) -> String {
        let bytes = self
            .argument
            .get(offset..(offset + length).min(SEEN))
            .unwrap_or_default();
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    }

    /// As it is sent over the socket.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: plain integers without padding, for which every byte is valid.
        unsafe { std::slice::from_raw_parts_mut(from_mut(self).cast(), size_of::<Report>()) }
    }
}

/// Forks the process that takes the listener from `take`, talks over `talk` until that is closed, and keeps `alive` open. The first that it says are four
/// bytes: 0, or the number of the error why its memory cannot be locked.
pub fn fork(take: &OwnedFd, talk: &OwnedFd, alive: Option<BorrowedFd<'_>>) -> io::Result<Helper> {
    let alive = alive.map_or(-1, |alive| alive.as_raw_fd());
    let given = [take.as_raw_fd(), talk.as_raw_fd(), alive];
    let task = || {
        // SAFETY: system calls on its own stack and on descriptors that it was given.
        unsafe {
            let errno = lock_memory().to_ne_bytes();
            libc::send(4, errno.as_ptr().cast(), errno.len(), libc::MSG_NOSIGNAL);
            if let Some(listener) = receive_descriptor(3) {
                libc::close(3);
                serve(listener, 4);
            }
        }
    };
    // SAFETY: the task makes system calls only.
    unsafe { Helper::fork(c"snapback-brink", given, task) }
}

/// Answers until everything under the filter has ended.
unsafe fn serve(listener: i32, talk: i32) {
    let mut asking = true;
    loop {
        let mut event = libc::pollfd {
            fd: listener,
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one pollfd on the stack.
        let polled = unsafe { libc::poll(&mut event, 1, -1) };
        if polled < 0 && interrupted() {
            continue;
        }
        if polled < 0 || event.revents & libc::POLLIN == 0 {
            return;
        }
        // SAFETY: plain integers; the kernel wants it zeroed.
        let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the structure that the request is defined with.
        if unsafe { libc::ioctl(listener, NOTIF_RECV as _, from_mut(&mut call)) } != 0 {
            continue;
        }
        let is_ioctl = i64::from(call.data.nr) == libc::SYS_ioctl;
        let mut report = Report {
            pid: call.pid,
            request: if is_ioctl { call.data.args[1] as u32 } else { 0 },
            readable: 0,
            argument: [0; SEEN],
        };
        if is_ioctl {
            // SAFETY: `report` lives here; a bad address of the other process is an error, not a fault.
            report.readable = unsafe { peek(call.pid, call.data.args[2], &mut report.argument) }.into();
            // SAFETY: an integer on the stack. A process that died meanwhile may have lent its number to another.
            if unsafe { libc::ioctl(listener, NOTIF_ID_VALID as _, from_mut(&mut call.id)) } != 0 {
                continue;
            }
        }
        // The end of a process is never held.
        asking = unsafe { tell(talk, &mut report, asking && is_ioctl) } && asking;
        let mut answer = libc::seccomp_notif_resp {
            id: call.id,
            val: 0,
            error: 0,
            flags: libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
        };
        // SAFETY: the structure that the request is defined with. ENOENT: the process was killed meanwhile.
        while unsafe { libc::ioctl(listener, NOTIF_SEND as _, from_mut(&mut answer)) } != 0 {
            match io::Error::last_os_error().raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::ENOENT) => break,
                // Nobody can answer: without a listener the call fails, which is better than to hang for ever.
                _ => return,
            }
        }
    }
}

/// Reports, and where `asking` waits for the answer. False once there is nobody to ask, or no need.
unsafe fn tell(talk: i32, report: &mut Report, asking: bool) -> bool {
    let bytes = report.bytes_mut();
    let flags = libc::MSG_NOSIGNAL | if asking { 0 } else { libc::MSG_DONTWAIT };
    // SAFETY: the bytes live here.
    let sent = unsafe { libc::send(talk, bytes.as_ptr().cast(), bytes.len(), flags) };
    if !asking {
        return true;
    }
    if sent < 0 {
        return false;
    }
    let mut word = 0u8;
    loop {
        // SAFETY: one byte on the stack.
        match unsafe { libc::recv(talk, from_mut(&mut word).cast(), 1, 0) } {
            1 => return word == ASK_ON,
            -1 if interrupted() => {}
            _ => return false,
        }
    }
}

/// Reads what the ioctl points to; whether it could be read.
unsafe fn peek(pid: u32, address: u64, into: &mut [u8; SEEN]) -> bool {
    let local = libc::iovec {
        iov_base: into.as_mut_ptr().cast(),
        iov_len: SEEN,
    };
    let remote = libc::iovec {
        iov_base: address as *mut libc::c_void,
        iov_len: SEEN,
    };
    // SAFETY: `local` is ours and as long as it says; `remote` is only the other process's address.
    let read = unsafe { libc::process_vm_readv(pid as i32, &local, 1, &remote, 1, 0) };
    usize::try_from(read) == Ok(SEEN)
}

/// Room for one descriptor in a control message, aligned as the kernel wants.
#[repr(C, align(8))]
struct Control([u8; 24]);

/// Sends a descriptor. Only system calls: it runs between fork and exec.
pub fn send_descriptor(socket: i32, descriptor: i32) -> io::Result<()> {
    let mut byte = [0u8];
    let mut control = Control([0; 24]);
    // SAFETY: every pointer in the message is to the stack; the control message has room for one descriptor (CMSG_SPACE(4) = 24).
    unsafe {
        let mut part = libc::iovec {
            iov_base: byte.as_mut_ptr().cast(),
            iov_len: 1,
        };
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = control.0.len() as _;
        let header = libc::CMSG_FIRSTHDR(&message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(4) as _;
        libc::CMSG_DATA(header).cast::<i32>().write_unaligned(descriptor);
        if libc::sendmsg(socket, &message, libc::MSG_NOSIGNAL) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// `None` when the other end was closed: the command did not come to be.
unsafe fn receive_descriptor(socket: i32) -> Option<i32> {
    let mut byte = [0u8];
    let mut control = Control([0; 24]);
    // SAFETY: as in send_descriptor.
    unsafe {
        let mut part = libc::iovec {
            iov_base: byte.as_mut_ptr().cast(),
            iov_len: 1,
        };
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = control.0.len() as _;
        while libc::recvmsg(socket, &mut message, libc::MSG_CMSG_CLOEXEC) < 0 {
            if !interrupted() {
                return None;
            }
        }
        let header = libc::CMSG_FIRSTHDR(&message);
        let whole = !header.is_null() && (*header).cmsg_type == libc::SCM_RIGHTS;
        whole.then(|| libc::CMSG_DATA(header).cast::<i32>().read_unaligned())
    }
}
