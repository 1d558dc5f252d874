//! A connection to a server, on which no wait is longer than was said before.
//!
//! The socket never blocks. Each question has one limit for all of its reads and writes together, so a server that
//! sends a byte a second gets no more time than one that is silent. A wish of the process to end shortens every limit.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType, connect, recv, send,
    shutdown, socket_with, sockopt,
};

use super::{peer, signal};

/// How often a wish to end is looked for in a wait.
const TICK: Duration = Duration::from_millis(20);
/// What a question that was asked before the wish to end gets from then on.
const GRACE_BEFORE: Duration = Duration::from_millis(300);
/// When, after the wish to end, the last question must be answered: letting go of a lock is one.
const GRACE_AFTER: Duration = Duration::from_millis(1500);
/// How long what was sent may stay unacknowledged before the kernel gives the connection up, in milliseconds.
const UNACKNOWLEDGED_MS: u32 = 30_000;

/// One connection. Reads and writes fail with `TimedOut` at the limit, with `ConnectionAborted` after a wish to end.
#[derive(Debug)]
pub struct Line {
    socket: Arc<OwnedFd>,
    begun: Instant,
    limit: Duration,
}

/// Ends a connection from another thread: whoever waits for an answer on it gets an error at once.
#[derive(Debug, Clone)]
pub struct Cutter(Arc<OwnedFd>);

impl Cutter {
    /// Shuts the connection down in both directions; one that is closed already stays so.
    pub fn cut(&self) {
        let _ = shutdown(&self.0, Shutdown::Both);
    }
}

impl Line {
    /// Connects to a Unix socket within `limit`, which is also the first question's.
    ///
    /// # Errors
    /// There is no such socket, nobody listens, or the limit has passed.
    pub fn unix(path: &Path, limit: Duration) -> io::Result<Line> {
        let socket = new_socket(AddressFamily::UNIX)?;
        let address = SocketAddrUnix::new(path)?;
        let line = Line::of(socket, Instant::now(), limit);
        loop {
            match connect(&line.socket, &address) {
                Ok(()) | Err(Errno::ISCONN) => return Ok(line),
                // More wait to be let in than the server keeps in line.
                Err(Errno::AGAIN | Errno::INTR) => {
                    let left = line.left()?;
                    std::thread::sleep(left.min(TICK));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Connects to a host's port within `limit` (finding its addresses included), which is also the first question's.
    ///
    /// # Errors
    /// The host is not known, nobody listens, or the limit has passed.
    pub fn tcp(host: &str, port: u16, limit: Duration) -> io::Result<Line> {
        let begun = Instant::now();
        let mut last = io::Error::new(io::ErrorKind::NotFound, format!("the host {host} has no address"));
        for far in resolve(host, port, begun, limit)? {
            match Line::tcp_to(far, begun, limit) {
                Ok(line) => return Ok(line),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn tcp_to(far: SocketAddr, begun: Instant, limit: Duration) -> io::Result<Line> {
        let family = if far.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let socket = new_socket(family)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        sockopt::set_socket_keepalive(&socket, true)?;
        sockopt::set_tcp_keepidle(&socket, Duration::from_secs(30))?;
        sockopt::set_tcp_keepintvl(&socket, Duration::from_secs(10))?;
        sockopt::set_tcp_keepcnt(&socket, 3)?;
        sockopt::set_tcp_user_timeout(&socket, UNACKNOWLEDGED_MS)?;
        let line = Line::of(socket, begun, limit);
        match connect(&line.socket, &far) {
            Ok(()) => {}
            Err(Errno::INPROGRESS | Errno::INTR) => line.wait(PollFlags::OUT)?,
            Err(error) => return Err(error.into()),
        }
        sockopt::socket_error(&line.socket)??;
        Ok(line)
    }

    fn of(socket: OwnedFd, begun: Instant, limit: Duration) -> Line {
        Line {
            socket: Arc::new(socket),
            begun,
            limit,
        }
    }

    /// From now on, everything until the next call has to be over within `limit`.
    pub fn set_limit(&mut self, limit: Duration) {
        self.begun = Instant::now();
        self.limit = limit;
    }

    /// Ends this connection from elsewhere.
    pub fn cutter(&self) -> Cutter {
        Cutter(Arc::clone(&self.socket))
    }

    /// Whose process is at the other end, by the kernel's word and not by the server's. Of a TCP connection it is only
    /// known on this host, and only after the server has sent something.
    ///
    /// # Errors
    /// The kernel does not say; in words.
    pub fn peer_user(&self) -> Result<u32, String> {
        peer::user(&self.socket)
    }

    fn wait(&self, events: PollFlags) -> io::Result<()> {
        loop {
            let left = self.left()?.min(TICK);
            let span = Timespec {
                tv_sec: 0,
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            match poll(
                &mut [PollFd::from_borrowed_fd(self.socket.as_fd(), events)],
                Some(&span),
            ) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What is left for the question that is asked now.
    fn left(&self) -> io::Result<Duration> {
        let spent = self.begun.elapsed();
        let left = self.limit.checked_sub(spent).ok_or_else(|| silent(self.limit))?;
        let left = signal::within_wish(left, spent, GRACE_BEFORE, GRACE_AFTER);
        if left.is_zero() && signal::asked_for().is_some() {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "a signal asked to end before the server had answered",
            ));
        }
        Ok(left)
    }
}

impl AsRawFd for Line {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Read for Line {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            // Before each read, not only before each wait: an endless answer never makes us wait.
            self.left()?;
            match recv(&self.socket, &mut *buffer, RecvFlags::empty()) {
                Ok((read, _)) => return Ok(read),
                Err(Errno::AGAIN) => self.wait(PollFlags::IN)?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            self.left()?;
            match send(&self.socket, bytes, SendFlags::NOSIGNAL) {
                Ok(sent) => return Ok(sent),
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT)?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn new_socket(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(family, SocketType::STREAM, flags, None)?)
}

fn silent(limit: Duration) -> io::Error {
    io::Error::new(
        io::ErrorKind::TimedOut,
        format!("the server did not answer completely within {limit:?}"),
    )
}

/// The addresses of a host. The C library's resolver knows neither limit nor signal: a thread of its own waits for it.
fn resolve(host: &str, port: u16, begun: Instant, limit: Duration) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let (answer, found) = mpsc::sync_channel(1);
    let name = host.to_owned();
    std::thread::Builder::new().name("resolver".into()).spawn(move || {
        let addresses = (name.as_str(), port).to_socket_addrs();
        drop(answer.send(addresses.map(Iterator::collect)));
    })?;
    loop {
        match found.recv_timeout(TICK) {
            Ok(addresses) => return addresses,
            Err(_) if signal::asked_for().is_none() && begun.elapsed() < limit => {}
            Err(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("the name {host} was not resolved within {:?}", begun.elapsed()),
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_byte_now_and_then_buys_no_time() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let trickle = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            while client.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let mut line = Line::tcp("localhost", port, Duration::from_secs(5)).unwrap();
        line.set_limit(Duration::from_millis(300));
        let begun = Instant::now();
        let error = line.read_exact(&mut [0; 4096]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        assert!(begun.elapsed() < Duration::from_secs(5));
        drop(line);
        trickle.join().unwrap();
    }

    #[test]
    fn who_waits_is_cut_off() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut line = Line::tcp("127.0.0.1", port, Duration::from_secs(60)).unwrap();
        let cutter = line.cutter();
        let cut = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            cutter.cut();
        });
        let begun = Instant::now();
        assert_eq!(line.read(&mut [0; 16]).unwrap(), 0);
        assert!(begun.elapsed() < Duration::from_secs(10));
        cut.join().unwrap();
    }

    #[test]
    fn the_kernel_says_who_is_at_the_other_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let line = Line::unix(&path, Duration::from_secs(5)).unwrap();
        assert_eq!(line.peer_user(), Ok(super::super::host::user_id()));
        drop(listener);
        for address in ["127.0.0.1", "::1"] {
            let Ok(listener) = TcpListener::bind((address, 0)) else {
                continue;
            };
            let port = listener.local_addr().unwrap().port();
            let line = Line::tcp(address, port, Duration::from_secs(5)).unwrap();
            let accepted = listener.accept().unwrap();
            assert_eq!(line.peer_user(), Ok(super::super::host::user_id()), "{address}");
            drop(accepted);
            assert!(line.peer_user().is_err(), "nobody is there any more");
        }
    }
}
