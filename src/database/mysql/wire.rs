//! The client's side of the MySQL protocol: packets over a [`Line`], let in by [`login`], statements as text.
//!
//! It is our own, since no driver lets its user decide to whom a password goes, and none bounds an answer as a whole.
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/PAGE_PROTOCOL.html>

mod answer;
mod greeting;
mod login;
mod packet;
mod peer;
mod tls;

#[cfg(test)]
mod tests;

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::connect::{ConnectOptions, Target};
use crate::sys::line::{Cutter, Line};

/// The longest packet of an answer, in bytes (`max_allowed_packet` of the account's session does not matter: it is ours).
pub const LONGEST_PACKET: usize = 64 << 20;
/// The longest event of a binary log, in bytes: `max_allowed_packet` is 1 GiB at most, and a header comes with it.
pub const LONGEST_EVENT: usize = (1 << 30) + (1 << 20);

/// What went wrong with a server.
#[derive(Debug)]
pub enum Fault {
    /// It said no.
    Server {
        /// Its error number.
        code: u16,
        /// Its words, of bounded length.
        message: String,
    },
    /// The connection broke, or the time was up.
    Broken(io::Error),
    /// It said what no server says.
    Nonsense(String),
    /// The password would have gone to whoever is there: why, and what to do.
    Unproved(String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        Fault::Broken(error)
    }
}

impl Fault {
    fn nonsense(what: impl Into<String>) -> Fault {
        Fault::Nonsense(what.into())
    }
}

/// One result of a batch, as the server sent it.
#[derive(Debug)]
pub struct TextSet {
    /// Its columns' names; none for a statement without rows.
    pub names: Arc<[String]>,
    /// Its rows; `None` is NULL.
    pub rows: Vec<Vec<Option<String>>>,
    /// When it was complete here.
    pub at: Instant,
}

enum Channel {
    Plain(Line),
    Tls(Box<tls::Stream>),
    /// Only while it changes from one to the other.
    Closed,
}

impl Channel {
    fn line(&self) -> io::Result<&Line> {
        match self {
            Channel::Plain(line) => Ok(line),
            Channel::Tls(stream) => Ok(&stream.sock),
            Channel::Closed => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn line_mut(&mut self) -> io::Result<&mut Line> {
        match self {
            Channel::Plain(line) => Ok(line),
            Channel::Tls(stream) => Ok(&mut stream.sock),
            Channel::Closed => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Channel::Plain(line) => line.read(buffer),
            Channel::Tls(stream) => stream.read(buffer),
            Channel::Closed => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Channel::Plain(line) => line.write_all(bytes),
            Channel::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
            Channel::Closed => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

/// A connection that is let in.
pub struct Wire {
    channel: Channel,
    cutter: Cutter,
    /// Bytes that were read and not used yet, from `start` on.
    buffer: Vec<u8>,
    start: usize,
    sequence: u8,
    let_in: bool,
}

impl Wire {
    /// Connects and is let in, all within the options' connect limit or `limit`, whichever is shorter.
    ///
    /// # Errors
    /// The server cannot be reached, says no, is too slow, or would get a password that it must not see.
    pub fn open(options: &ConnectOptions, limit: Duration) -> Result<Wire, Fault> {
        let line = Wire::reach(options, limit)?;
        let mut wire = Wire {
            cutter: line.cutter(),
            channel: Channel::Plain(line),
            buffer: Vec::new(),
            start: 0,
            sequence: 0,
            let_in: false,
        };
        login::log_in(&mut wire, options)?;
        wire.let_in = true;
        Ok(wire)
    }

    /// Connects, and no more.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub fn reach(options: &ConnectOptions, limit: Duration) -> io::Result<Line> {
        let limit = limit.min(options.connect_timeout);
        match &options.target {
            Target::Socket(path) => Line::unix(path, limit),
            Target::Tcp(host, port) => Line::tcp(host, *port, limit),
        }
    }

    /// Whether the server at the other end is proved to be the right one, so that a secret may be sent: as for the password itself.
    /// `options`: those that it was opened with.
    ///
    /// # Errors
    /// It is not, or nobody knows; in words.
    pub fn prove_peer(&self, options: &ConnectOptions) -> Result<(), String> {
        login::prove(self, options)
    }

    /// Everything until the next call has to be over within `limit`.
    pub fn set_limit(&mut self, limit: Duration) {
        if let Ok(line) = self.channel.line_mut() {
            line.set_limit(limit);
        }
    }

    /// The connection below, as long as there is one.
    pub fn line(&self) -> Option<&Line> {
        self.channel.line().ok()
    }

    /// Ends this connection from another thread.
    pub fn cutter(&self) -> Cutter {
        self.cutter.clone()
    }

    /// Runs statements joined by `;`; one result for each.
    ///
    /// # Errors
    /// Of the first that fails; the ones after it did not run.
    pub fn query(&mut self, statements: &str) -> Result<Vec<TextSet>, Fault> {
        const COM_QUERY: u8 = 3;
        self.command(COM_QUERY, statements.as_bytes())?;
        answer::read(self)
    }

    /// Sends a command.
    ///
    /// # Errors
    /// The connection broke.
    pub fn command(&mut self, command: u8, body: &[u8]) -> Result<(), Fault> {
        self.sequence = 0;
        let mut payload = Vec::with_capacity(body.len() + 1);
        payload.push(command);
        payload.extend_from_slice(body);
        self.send(&payload)
    }

    /// Says goodbye, without waiting for anything.
    fn quit(&mut self) {
        const COM_QUIT: u8 = 1;
        self.set_limit(Duration::from_millis(20));
        drop(self.command(COM_QUIT, &[]));
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.let_in {
            self.quit();
        }
        // A cutter elsewhere may keep the socket open: the server must see the end of it now.
        self.cutter.cut();
    }
}
