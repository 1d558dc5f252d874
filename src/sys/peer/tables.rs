//! The kernel's tables of TCP connections within this network namespace (proc(5), `net/tcp`).

use std::net::{IpAddr, SocketAddr};

/// The state `ESTABLISHED` in /proc/net/tcp. In others the socket may have no owner any more, which is shown as root.
const ESTABLISHED: &str = "01";
/// /proc/net/tcp of a host with a million connections is larger than what is believed here.
const MOST_BYTES: u64 = 64 << 20;

/// An end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    /// The user whose process accepted the connection.
    pub user: u32,
    /// Its socket's inode.
    pub inode: u64,
}

/// The far end of the connection from `near` to `far`; `None` where the kernel does not know it.
///
/// A connection that is not accepted yet has no owner either: ask only after its server has sent something.
pub(super) fn far_end(near: SocketAddr, far: SocketAddr) -> Option<End> {
    ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"]
        .iter()
        .filter_map(|table| read(&std::fs::File::open(table).ok()?).ok())
        .find_map(|text| find(&text, near, far))
}

fn read(file: &std::fs::File) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    file.take(MOST_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// The fields of a line: number, local address, remote address, state, queues, timers, retransmissions, user, timeout, inode.
fn find(text: &str, near: SocketAddr, far: SocketAddr) -> Option<End> {
    text.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, local, remote, ESTABLISHED, _, _, _, user, _, inode, ..] = fields[..] else {
            return None;
        };
        let same =
            |field: &str, address: SocketAddr| address_of(field).is_some_and(|found| found == canonical(address));
        if same(local, far) && same(remote, near) {
            let inode = inode.parse().ok().filter(|inode| *inode != 0)?;
            Some(End {
                user: user.parse().ok()?,
                inode,
            })
        } else {
            None
        }
    })
}

fn canonical(address: SocketAddr) -> (IpAddr, u16) {
    (address.ip().to_canonical(), address.port())
}

/// An address as /proc/net has it: 32-bit words in the host's order, then the port.
fn address_of(field: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = field.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::new();
    for at in (0..address.len()).step_by(8) {
        let word = u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let address = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(four) => IpAddr::from(four),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?),
    };
    Some((address.to_canonical(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn only_the_established_end_of_the_server_counts() {
        let line = |local: &str, remote: &str, state: &str, user: u32| {
            format!(
                "   0: {local} {remote} {state} 00000000:00000000 00:00000000 00000000  {user}        0 28143 1 0\n"
            )
        };
        let end = |user| End { user, inode: 28_143 };
        let (server, client) = ("0100007F:0CEA", "0100007F:C350");
        let (near, far) = ("127.0.0.1:50000".parse().unwrap(), "127.0.0.1:3306".parse().unwrap());
        let head = "  sl  local_address\n".to_owned();
        let ours = head.clone() + &line(client, server, "01", 0);
        assert_eq!(find(&ours, near, far), None, "our own end says nothing");
        assert_eq!(find(&(ours.clone() + &line(server, client, "04", 0)), near, far), None);
        assert_eq!(
            find(&(ours + &line(server, client, "01", 107)), near, far),
            Some(end(107))
        );
        let mapped = head
            + &line(
                "0000000000000000FFFF00000100007F:0CEA",
                "0000000000000000FFFF00000100007F:C350",
                "01",
                5,
            );
        assert_eq!(find(&mapped, near, far), Some(end(5)));
    }
}
