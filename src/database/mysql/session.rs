//! One pinned connection: no pool, no reconnect, every error with its statement (trap 2).

pub(super) mod settings;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::connect::{ConnectOptions, unreachable};
use super::wire::{Fault, TextSet, Wire};
use crate::database::{Error, Result};
use crate::sys::line::Cutter;
use crate::sys::peer::Unknown;
use crate::sys::process::Process;

/// `ER_LOCK_WAIT_TIMEOUT`.
pub const LOCK_WAIT_TIMEOUT: u16 = 1205;
/// `ER_QUERY_INTERRUPTED`.
pub const QUERY_INTERRUPTED: u16 = 1317;
/// MariaDB's `ER_CONNECTION_KILLED`.
pub const CONNECTION_KILLED: u16 = 1927;

/// How long one statement may take, its whole answer included, that is asked outside of any lock; listing the tablespaces
/// of a server with hundreds of thousands of tables takes minutes.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// A row as text, by column name. The rows of one answer share their names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Row {
    names: Arc<[String]>,
    values: Vec<Option<String>>,
}

impl Row {
    /// A row from names and values, for tests.
    #[cfg(test)]
    pub fn of(cells: &[(&str, Option<&str>)]) -> Row {
        Row {
            names: cells.iter().map(|(name, _)| (*name).to_owned()).collect(),
            values: cells.iter().map(|(_, value)| value.map(str::to_owned)).collect(),
        }
    }

    /// The value of a column (names compare without case); `None` for NULL and for no such column.
    pub fn get(&self, column: &str) -> Option<&str> {
        let at = self.names.iter().position(|name| name.eq_ignore_ascii_case(column))?;
        self.values.get(at)?.as_deref()
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
        self.values.iter().map(Option::as_deref)
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
    wire: Wire,
    options: ConnectOptions,
    id: u64,
    address: String,
    limit: Duration,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "session {} at {}", self.id, self.address)
    }
}

impl Session {
    /// Connects, and sets what every session stands on ([`settings`]). `limit` bounds how long one statement may take, with its whole answer; a wish of the
    /// process to end shortens it ([`crate::sys::line`]).
    ///
    /// # Errors
    /// [`Error::Connect`] when the server cannot be reached, does not let us in, takes longer than the connect limit, or does not keep the settings.
    pub fn open(options: &ConnectOptions, limit: Duration) -> Result<Session> {
        let wire = Wire::open(options, limit)
            .map_err(|fault| unreachable(options, code(&fault), reason(&fault, &options.address())))?;
        let mut session = Session {
            wire,
            options: options.clone(),
            id: 0,
            address: options.address(),
            limit: limit.min(options.connect_timeout),
        };
        // The handshake carries only 32 bits of the id.
        let answers = session.batch(&settings::statements())?;
        session.limit = limit;
        session.id = settings::check(&answers).map_err(|reason| unreachable(options, 0, reason))?;
        Ok(session)
    }

    /// Connects for everything that is asked outside of a lock. Such a session may be idle for as long as the run takes.
    ///
    /// # Errors
    /// As [`open`](Session::open).
    pub fn admin(options: &ConnectOptions) -> Result<Session> {
        Session::patient(options, PATIENCE)
    }

    /// The same, with a bound of the caller's on each statement.
    ///
    /// # Errors
    /// As [`open`](Session::open).
    pub fn patient(options: &ConnectOptions, limit: Duration) -> Result<Session> {
        let mut session = Session::open(options, limit)?;
        session.run("SET SESSION wait_timeout = 86400")?;
        Ok(session)
    }

    /// The connection itself, for the replication protocol.
    pub(super) fn into_wire(self) -> Wire {
        self.wire
    }

    /// From now on a statement may take this long, with its whole answer.
    pub fn set_limit(&mut self, limit: Duration) {
        self.limit = limit;
    }

    /// Ends this connection from another thread, whatever it is waiting for.
    pub fn cutter(&self) -> Cutter {
        self.wire.cutter()
    }

    /// The process that answers.
    ///
    /// # Errors
    /// It cannot be told, and why.
    pub fn peer(&self) -> std::result::Result<Process, Unknown> {
        crate::sys::peer::peer(self.wire.line().ok_or(Unknown::Elsewhere)?)
    }

    /// Whether the process that answered before answers here, too; `None` where it is no Unix socket. Cheap.
    pub fn is_local_peer(&self, before: Process) -> Option<bool> {
        crate::sys::peer::is_local_peer(self.wire.line()?, before)
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

    /// Makes sure that a server is proved, as for the password of our own account, before `what` goes to it.
    ///
    /// # Errors
    /// [`Error::Connect`]: nothing proves the server.
    pub fn prove_peer(&self, what: &str) -> Result<()> {
        self.wire.prove_peer(&self.options).map_err(|why| {
            let said = format!(
                "{what} would go to it, and nothing proves that it is the right server: {why}; it was not sent. Connect over its socket, or \
                 with ssl-ca (ssl-mode=VERIFY_CA)"
            );
            unreachable(&self.options, 0, said)
        })
    }

    /// Runs a statement with a secret in it. It is sent only to a server that is proved, as the password of our own account is. Errors
    /// show `shown`.
    ///
    /// # Errors
    /// [`Error::Connect`]: nothing proves the server; nothing was sent. [`Error::Statement`].
    pub fn run_secret(&mut self, statement: &str, shown: &str) -> Result<()> {
        self.prove_peer("a statement with a password")?;
        self.run(statement).map_err(|error| match error {
            Error::Statement { code, reason, .. } => Error::Statement {
                statement: shown.to_owned(),
                code,
                reason,
            },
            other => other,
        })
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
        self.wire.set_limit(self.limit);
        let sets = self
            .wire
            .query(statements)
            .map_err(|fault| failure(statements, &fault, &self.address))?;
        Ok(sets.into_iter().map(answer_of).collect())
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

/// Whether the host of a server is there, and says that nobody listens at its address.
pub fn nobody_listens(options: &ConnectOptions, limit: Duration) -> bool {
    Wire::reach(options, limit).is_err_and(|error| is_absence(&error))
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
}

fn answer_of(set: TextSet) -> Answer {
    let TextSet { names, rows, at } = set;
    let row = |values| Row {
        names: Arc::clone(&names),
        values,
    };
    Answer {
        rows: rows.into_iter().map(row).collect(),
        at,
    }
}

pub(super) fn failure(statement: &str, fault: &Fault, address: &str) -> Error {
    Error::Statement {
        statement: shortened(statement),
        code: code(fault),
        reason: reason(fault, address),
    }
}

/// The server's error number; 0 when it was not the server that said no.
fn code(fault: &Fault) -> u16 {
    match fault {
        Fault::Server { code, .. } => *code,
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

/// What happened, in words; none of them holds a password.
fn reason(fault: &Fault, address: &str) -> String {
    match fault {
        Fault::Server { code, message } => format!("{message} (error {code})"),
        Fault::Broken(error) if error.kind() == io::ErrorKind::TimedOut => format!("{error} ({address})"),
        Fault::Broken(error) if is_absence(error) => error.to_string(),
        Fault::Broken(error) => format!("the connection broke: {error}"),
        Fault::Nonsense(what) => format!("what is at {address} does not behave as a server: {what}"),
        Fault::Unproved(why) => why.clone(),
    }
}
