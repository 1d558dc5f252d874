//! The other end of a Unix connection, by sock_diag(7).

use std::os::fd::BorrowedFd;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};

/// linux/sock_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// linux/netlink.h.
const NLM_F_REQUEST: u16 = 1;
const HEADER: usize = 16;
/// linux/unix_diag.h: the answer's fixed part, and which attribute and wish name the peer.
const MESSAGE: usize = 16;
const UDIAG_SHOW_PEER: u32 = 4;
const UNIX_DIAG_PEER: u16 = 2;

/// The inode of the socket at the other end. `None`: nobody has accepted the connection, the other end is closed, or the kernel has no unix_diag.
pub(super) fn far_end(socket: BorrowedFd<'_>) -> Option<u64> {
    let own = rustix::fs::fstat(socket).ok()?.st_ino;
    let own = u32::try_from(own).ok()?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let kernel = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::SOCK_DIAG)).ok()?;
    send(&kernel, &request(own), SendFlags::empty()).ok()?;
    // The kernel has answered when the question was sent.
    let mut answer = [0; 4096];
    let (length, _) = recv(&kernel, &mut answer[..], RecvFlags::empty()).ok()?;
    peer_in(answer.get(..length)?, own)
}

fn request(inode: u32) -> Vec<u8> {
    let mut body = vec![libc::AF_UNIX as u8, 0, 0, 0];
    // All states; the socket; what to tell; no cookie.
    for word in [u32::MAX, inode, UDIAG_SHOW_PEER, u32::MAX, u32::MAX] {
        body.extend(word.to_ne_bytes());
    }
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// Behind the header and the fixed part (whose second word is the socket's inode) are attributes: length, type, value, to words of 32 bits.
fn peer_in(answer: &[u8], own: u32) -> Option<u64> {
    let short = |at: usize| Some(u16::from_ne_bytes(answer.get(at..at + 2)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_ne_bytes(answer.get(at..at + 4)?.try_into().ok()?));
    if short(4)? != SOCK_DIAG_BY_FAMILY || word(HEADER + 4)? != own {
        return None;
    }
    let mut at = HEADER + MESSAGE;
    loop {
        let length = usize::from(short(at)?);
        if short(at + 2)? == UNIX_DIAG_PEER && length == 8 {
            return word(at + 4).filter(|inode| *inode != 0).map(u64::from);
        }
        if length < 4 {
            return None;
        }
        at += length.next_multiple_of(4);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn each_end_tells_the_other() {
        let (one, other) = UnixStream::pair().unwrap();
        let inode = |end: &UnixStream| rustix::fs::fstat(end).unwrap().st_ino;
        assert_eq!(far_end(one.as_fd()), Some(inode(&other)));
        assert_eq!(far_end(other.as_fd()), Some(inode(&one)));
        drop(other);
        assert_eq!(far_end(one.as_fd()), None);
    }

    #[test]
    fn what_is_cut_short_or_an_error_tells_nothing() {
        let mut answer = request(7);
        answer.truncate(HEADER);
        answer.extend([1, 1, 1, 0]);
        answer.extend(7u32.to_ne_bytes());
        answer.extend([0; 8]);
        answer.extend(8u16.to_ne_bytes());
        answer.extend(UNIX_DIAG_PEER.to_ne_bytes());
        answer.extend(9u32.to_ne_bytes());
        assert_eq!(peer_in(&answer, 7), Some(9));
        assert_eq!(peer_in(&answer, 8), None, "another socket's");
        for end in 0..answer.len() {
            assert_eq!(peer_in(&answer[..end], 7), None, "{end}");
        }
        answer[4] = 2;
        assert_eq!(peer_in(&answer, 7), None, "NLMSG_ERROR");
    }
}
