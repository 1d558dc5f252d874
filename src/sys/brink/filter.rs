//! The filter that holds a command at some ioctls, put in place between fork and exec.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;

use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter, sock_fprog};

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Offsets in struct seccomp_data (linux/seccomp.h), on little-endian machines.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const SECOND_ARGUMENT: u32 = 24;

/// A classic BPF program that reports some ioctls, and the end of a process, to a listener.
pub struct Filter {
    program: Vec<sock_filter>,
}

impl Filter {
    /// Everything but these requests, and exit_group(2), is allowed at once.
    pub fn stopping_at(requests: &[u32]) -> Filter {
        let load = |offset| statement(BPF_LD | BPF_W | BPF_ABS, offset);
        let returns = |value| statement(BPF_RET | BPF_K, value);
        let mut program = vec![
            load(ARCH),
            unless(ARCHITECTURE, 1),
            returns(libc::SECCOMP_RET_ALLOW),
            load(NUMBER),
            // A call with another number skips the return below.
            jump(libc::SYS_exit_group as u32, 0, 1),
            returns(libc::SECCOMP_RET_USER_NOTIF),
            unless(libc::SYS_ioctl as u32, 1),
            returns(libc::SECCOMP_RET_ALLOW),
            load(SECOND_ARGUMENT),
        ];
        for request in requests {
            program.push(jump(*request, 0, 1));
            program.push(returns(libc::SECCOMP_RET_USER_NOTIF));
        }
        program.push(returns(libc::SECCOMP_RET_ALLOW));
        Filter { program }
    }

    /// Lets a child put the filter in place before it becomes the command, and hand its listener over.
    pub fn install_in(self, child: &mut std::process::Command, give: OwnedFd) {
        // SAFETY: between fork and exec only system calls are made; what they use was allocated before the fork.
        unsafe { child.pre_exec(move || self.install(give.as_raw_fd())) };
    }

    fn install(&self, give: i32) -> io::Result<()> {
        let program = sock_fprog {
            len: self.program.len() as u16,
            filter: self.program.as_ptr().cast_mut(),
        };
        // SAFETY: `program` and what it points to outlive the call; the kernel copies it.
        let listener = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
                std::ptr::from_ref(&program),
            )
        };
        if listener < 0 {
            return Err(io::Error::last_os_error());
        }
        let sent = super::supervisor::send_descriptor(give, listener as i32);
        // SAFETY: the descriptor is ours. A listener that stayed open here would outlive the supervisor's.
        unsafe { libc::close(listener as i32) };
        sent
    }
}

fn statement(code: u32, k: u32) -> sock_filter {
    jump_with(code, k, 0, 0)
}

/// Goes `when_not` instructions further unless the value is `k`.
fn jump(k: u32, when: u8, when_not: u8) -> sock_filter {
    jump_with(BPF_JMP | BPF_JEQ | BPF_K, k, when, when_not)
}

/// Skips the next instruction when the value is `k`.
fn unless(k: u32, skip: u8) -> sock_filter {
    jump(k, skip, 0)
}

fn jump_with(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    }
}
