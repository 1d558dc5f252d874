//! One pinned connection: no pool, no reconnect, every error with its statement (trap 2).

use std::fmt;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use mysql::{Conn, DriverError, OptsBuilder, SslOpts, Value};

use super::connect::{ConnectOptions, Target, TlsMode, unreachable};
use crate::database::{Error, Result};

/// `ER_LOCK_WAIT_TIMEOUT`.
pub const LOCK_WAIT_TIMEOUT: u16 = 1205;
/// `ER_QUERY_INTERRUPTED`.
pub const QUERY_INTERRUPTED: u16 = 1317;
/// MariaDB's `ER_CONNECTION_KILLED`.
pub const CONNECTION_KILLED: u16 = 1927;

/// How long the server may be silent within one statement that is asked outside of any lock; listing the tablespaces of a
/// server with hundreds of thousands of tables takes minutes.
const PATIENCE: Duration = Duration::from_secs(300);

/// No answer to a statement is larger, in bytes.
const LARGEST_PACKET: usize = 64 << 20;

/// No event of a binary log is larger, in bytes: max_allowed_packet is at most 1 GiB on both servers, and an event has a little around it.
const LARGEST_EVENT: usize = (1 << 30) + (1 << 20);

/// A row as text, by column name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Row(Vec<(String, Option<String>)>);

impl Row {
    /// A row from names and values, for tests.
    #[cfg(test)]
    pub fn of(cells: &[(&str, Option<&str>)]) -> Row {
        Row(cells
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned)))
            .collect())
    }

    /// The value of a column (names compare without case); `None` for NULL and for no such column.
    pub fn get(&self, column: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(column))
            .and_then(|(_, value)| value.as_deref())
    }

    /// The value of a column as text, empty for NULL and for no such column.
    pub fn text(&self, column: &str) -> String {
        self.get(column).unwrap_or_default().to_owned()
    }

    /// The value of a column as a number.
    pub fn number<T: std::str::FromStr>(&self, column: &str) -> Option<T> {
        self.get(column)?.trim().parse().ok()
    }

    /// The values in order.
    pub fn values(&self) -> impl Iterator<Item = Option<&str>> {
        self.0.iter().map(|(_, value)| value.as_deref())
    }

    /// The first value.
    pub fn first(&self) -> Option<&str> {
        self.values().next().flatten()
    }
}

/// One result of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its rows.
    pub rows: Vec<Row>,
    /// When the server's answer to this statement was complete here.
    pub at: Instant,
}

/// A connection that is never replaced behind the caller's back.
pub struct Session {
    conn: Conn,
    id: u64,
    address: String,
}

impl fmt::Debug for Session {
    // The driver's own Debug shows the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "session {} at {}", self.id, self.address)
    }
}

impl Session {
    /// Connects. `read_limit` bounds how long the server may stay silent within one statement.
    ///
    /// # Errors
    /// [`Error::Connect`] when the server cannot be reached, does not let us in, or takes longer than the connect limit.
    pub fn open(options: &ConnectOptions, read_limit: Duration) -> Result<Session> {
        Session::with(options, read_limit, LARGEST_PACKET)
    }

    /// `largest`: what the server may send at once, in bytes.
    fn with(options: &ConnectOptions, read_limit: Duration, largest: usize) -> Result<Session> {
        let (send, receive) = mpsc::sync_channel(1);
        let builder = opts(options, read_limit).max_allowed_packet(Some(largest));
        let attempt = options.clone();
        // The driver bounds the TCP connect but not the handshake: a thread of its own lets us stop waiting for either.
        thread::Builder::new()
            .name("connect".into())
            .spawn(move || drop(send.send(connect(&attempt, builder))))
            .map_err(|error| unreachable(options, 0, error))?;
        let conn = receive
            .recv_timeout(options.connect_timeout)
            .map_err(|_| unreachable(options, 0, format!("no answer within {:?}", options.connect_timeout)))?
            .map_err(|error| unreachable(options, code(&error), reason(&error)))?;
        let mut session = Session {
            conn,
            id: 0,
            address: options.address(),
        };
        // The handshake carries only 32 bits of the id.
        let id = session.value("SELECT CONNECTION_ID()")?;
        session.id = id
            .and_then(|id| id.parse().ok())
            .ok_or_else(|| unreachable(options, 0, "the server gave no connection id"))?;
        Ok(session)
    }

    /// Connects for everything that is asked outside of a lock. Such a session may be idle for as long as the run takes.
    ///
    /// # Errors
    /// As [`open`](Session::open).
    pub fn admin(options: &ConnectOptions) -> Result<Session> {
        Session::patient(options, PATIENCE)
    }

    /// The same, with a bound of the caller's on the server's silence.
    ///
    /// # Errors
    /// As [`open`](Session::open).
    pub fn patient(options: &ConnectOptions, read_limit: Duration) -> Result<Session> {
        let mut session = Session::open(options, read_limit)?;
        // A list of locks may be long; MySQL cuts it at 1024 bytes by default.
        session.run("SET SESSION wait_timeout = 86400, group_concat_max_len = 1048576, autocommit = 1")?;
        Ok(session)
    }

    /// Connects for the replication protocol: an event may have as many bytes as a server sends at all.
    ///
    /// # Errors
    /// As [`open`](Session::open).
    pub fn for_stream(options: &ConnectOptions) -> Result<Session> {
        Session::with(options, PATIENCE, LARGEST_EVENT)
    }

    /// The connection itself, for the replication protocol.
    pub(super) fn into_conn(self) -> Conn {
        self.conn
    }

    /// The process that answers, where the kernel can tell.
    pub fn peer(&self) -> Option<crate::sys::process::Process> {
        crate::sys::process::peer(&self.conn)
    }

    /// The same of a Unix socket only, which costs nothing.
    pub fn local_peer(&self) -> Option<crate::sys::process::Process> {
        crate::sys::process::local_peer(&self.conn)
    }

    /// The server's id of this connection.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Runs a statement and forgets its rows.
    ///
    /// # Errors
    /// [`Error::Statement`].
    pub fn run(&mut self, statement: &str) -> Result<()> {
        self.batch(statement).map(drop)
    }

    /// Runs a statement for its rows.
    ///
    /// # Errors
    /// [`Error::Statement`].
    pub fn rows(&mut self, statement: &str) -> Result<Vec<Row>> {
        let answers = self.batch(statement)?;
        Ok(answers.into_iter().flat_map(|answer| answer.rows).collect())
    }

    /// The first column of the first row.
    ///
    /// # Errors
    /// [`Error::Statement`].
    pub fn value(&mut self, statement: &str) -> Result<Option<String>> {
        let rows = self.rows(statement)?;
        Ok(rows.first().and_then(Row::first).map(str::to_owned))
    }

    /// Runs statements joined by `;` in one round trip; one answer for each, in order.
    ///
    /// # Errors
    /// [`Error::Statement`] of the first that fails; the ones after it did not run.
    pub fn batch(&mut self, statements: &str) -> Result<Vec<Answer>> {
        let failed = |error: mysql::Error| failure(statements, &error);
        let mut answers = Vec::new();
        let mut result = self.conn.query_iter(statements).map_err(failed)?;
        while let Some(set) = result.iter() {
            let mut rows = Vec::new();
            for row in set {
                rows.push(text_row(row.map_err(failed)?));
            }
            answers.push(Answer {
                rows,
                at: Instant::now(),
            });
        }
        Ok(answers)
    }

    /// Ends another connection of this server; an id that is gone already is no error.
    ///
    /// # Errors
    /// [`Error::Statement`].
    pub fn kill(&mut self, id: u64) -> Result<()> {
        self.kill_with(&format!("KILL {id}"))
    }

    /// Ends the statement that another connection runs; an id that is gone already is no error.
    ///
    /// # Errors
    /// [`Error::Statement`].
    pub fn kill_query(&mut self, id: u64) -> Result<()> {
        self.kill_with(&format!("KILL QUERY {id}"))
    }

    fn kill_with(&mut self, statement: &str) -> Result<()> {
        const NO_SUCH_THREAD: u16 = 1094;
        match self.run(statement) {
            Err(Error::Statement {
                code: NO_SUCH_THREAD, ..
            }) => Ok(()),
            answer => answer,
        }
    }
}

fn opts(options: &ConnectOptions, read_limit: Duration) -> OptsBuilder {
    let builder = OptsBuilder::new()
        // Otherwise the driver moves from TCP to the socket on its own.
        .prefer_socket(false)
        .user(Some(&options.user))
        .pass(options.password.as_ref().map(|password| password.expose()))
        .read_timeout(Some(read_limit))
        .write_timeout(Some(read_limit))
        .stmt_cache_size(0);
    match &options.target {
        // A path that is no UTF-8 must fail as a socket, not fall back to TCP.
        Target::Socket(path) => builder.socket(Some(path.to_string_lossy())),
        Target::Tcp(host, port) => builder
            .ip_or_hostname(Some(host))
            .tcp_port(*port)
            .tcp_connect_timeout(Some(options.connect_timeout))
            .ssl_opts(ssl_opts(options)),
    }
}

fn ssl_opts(options: &ConnectOptions) -> Option<SslOpts> {
    let tls = &options.tls;
    if tls.mode == TlsMode::Disabled {
        return None;
    }
    let identity = tls
        .identity
        .clone()
        .map(|(cert, key)| mysql::ClientIdentity::new(cert, key));
    let ssl = SslOpts::default()
        .with_client_identity(identity)
        .with_danger_accept_invalid_certs(tls.mode < TlsMode::VerifyCa)
        .with_danger_skip_domain_validation(tls.mode < TlsMode::VerifyIdentity);
    Some(match &tls.ca {
        Some(ca) => ssl.with_root_cert_path(Some(ca.clone())),
        None => ssl,
    })
}

fn connect(options: &ConnectOptions, builder: OptsBuilder) -> mysql::Result<Conn> {
    match Conn::new(builder.clone()) {
        Err(mysql::Error::DriverError(DriverError::TlsNotSupported)) if options.tls.mode == TlsMode::Preferred => {
            Conn::new(builder.ssl_opts(None::<SslOpts>))
        }
        answer => answer,
    }
}

pub(super) fn failure(statement: &str, error: &mysql::Error) -> Error {
    Error::Statement {
        statement: shortened(statement),
        code: code(error),
        reason: reason(error),
    }
}

/// The server's error number; 0 when it was not the server that said no.
fn code(error: &mysql::Error) -> u16 {
    match error {
        mysql::Error::MySqlError(error) => error.code,
        _ => 0,
    }
}

/// Enough of a statement to know it again.
fn shortened(statement: &str) -> String {
    const KEPT: usize = 80;
    match statement.char_indices().nth(KEPT) {
        None => statement.to_owned(),
        Some((at, _)) => format!("{} ...", statement[..at].trim_end()),
    }
}

/// What happened, in words; none of the driver's errors holds a password.
fn reason(error: &mysql::Error) -> String {
    match error {
        mysql::Error::MySqlError(error) => format!("{} (error {})", error.message, error.code),
        mysql::Error::IoError(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            "the server did not answer in time".to_owned()
        }
        mysql::Error::IoError(error) => format!("the connection broke: {error}"),
        mysql::Error::CodecError(error) => format!("the connection broke: {error}"),
        mysql::Error::DriverError(error) => error.to_string(),
        other => other.to_string(),
    }
}

fn text_row(row: mysql::Row) -> Row {
    let names: Vec<String> = row
        .columns_ref()
        .iter()
        .map(|column| column.name_str().into_owned())
        .collect();
    let values = row.unwrap().into_iter().map(|value| match value {
        Value::NULL => None,
        Value::Bytes(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        other => Some(other.as_sql(true).trim_matches('\'').to_owned()),
    });
    Row(names.into_iter().zip(values).collect())
}
