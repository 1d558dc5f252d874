//! Who would make a lock wait: found by state, age and lock tables, never by statement text (trap 7).

mod seen;
mod source;

use std::time::Duration;

use super::flavour::Dialect;
use super::session::Session;
use crate::database::{Result, Strategy};

use seen::Seen;
pub use source::Source;

/// What a session in the way is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// Reads only.
    Read,
    /// Writes, or locks rows to write.
    Write,
    /// Changes a table's or the server's structure.
    Ddl,
    /// Idle, with tables locked (LOCK TABLES) or handlers open.
    TableLock,
    /// Another backup holds its lock.
    Backup,
}

/// A session that a lock would have to wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocker {
    /// Connection id.
    pub id: u64,
    /// Account name.
    pub user: String,
    /// How long it has been at it.
    pub age: Duration,
    /// The server's word for what it does now; never the statement, which may hold secrets.
    pub state: String,
    /// What it does.
    pub doing: Doing,
    /// Replication, events and other threads of the server's own, which are never killed.
    pub system: bool,
    /// The server's number of its current, or last, statement.
    pub statement: u64,
}

impl Blocker {
    /// Whether this is the same session at the same statement.
    fn same(&self, other: &Blocker) -> bool {
        (self.id, self.statement, self.doing) == (other.id, other.statement, other.doing)
    }
}

impl std::fmt::Display for Blocker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let doing = match self.doing {
            Doing::Read => "reads",
            Doing::Write => "writes",
            Doing::Ddl => "runs DDL",
            Doing::TableLock => "holds LOCK TABLES or a HANDLER",
            Doing::Backup => "holds another backup's lock",
        };
        write!(f, "connection {} of `{}` {doing}", self.id, self.user)?;
        // An idle session's time is known in whole seconds only.
        if !self.age.is_zero() {
            write!(f, " for {:.1} s", self.age.as_secs_f64())?;
        }
        if !self.state.is_empty() {
            write!(f, " ({})", self.state)?;
        }
        Ok(())
    }
}

/// What is looked for.
#[derive(Debug, Clone, Copy)]
pub struct Search<'a> {
    /// The server's kind.
    pub dialect: Dialect,
    /// Where locks can be seen.
    pub source: Source,
    /// Whose way matters.
    pub strategy: Strategy,
    /// A running statement counts from this age on; idle lock holders count at any age.
    pub age: Duration,
    /// Connections of our own.
    pub own: &'a [u64],
}

/// How long after the first look the second one comes.
const SECOND_LOOK: Duration = Duration::from_millis(3);

/// Looks for blockers.
///
/// The servers' tables of locks and of sessions are not read at one instant: a session that has just ended its statement
/// can seem to hold its locks idle. So what is found is looked at again, and counts only if it is still at the same statement.
///
/// # Errors
/// The server cannot be asked.
pub fn find(session: &mut Session, search: Search<'_>) -> Result<Vec<Blocker>> {
    let first = look(session, search)?;
    if first.is_empty() {
        return Ok(first);
    }
    std::thread::sleep(SECOND_LOOK);
    let mut second = look(session, search)?;
    second.retain(|blocker| first.iter().any(|seen| seen.same(blocker)));
    Ok(second)
}

/// Whoever has been at a statement for long, when nobody could be seen in the way: the lock tables do not show everybody.
///
/// # Errors
/// The server cannot be asked.
pub fn suspects(session: &mut Session, search: Search<'_>) -> Result<Vec<String>> {
    let mut all = see(session, search)?;
    all.retain(|seen| !seen.idle() && !seen.waits_only() && seen.age >= search.age);
    all.sort_by_key(|seen| std::cmp::Reverse(seen.age));
    let text = |seen: &Seen| {
        format!(
            "connection {} of `{}` for {:.1} s ({})",
            seen.id,
            seen.user,
            seen.age.as_secs_f64(),
            seen.state
        )
    };
    Ok(all.iter().take(3).map(text).collect())
}

fn look(session: &mut Session, search: Search<'_>) -> Result<Vec<Blocker>> {
    let seen = see(session, search)?.into_iter();
    let blockers = seen.filter_map(|seen| seen.blocks(search.dialect, search.strategy, search.age));
    let mut blockers: Vec<Blocker> = blockers.collect();
    blockers.sort_by_key(|blocker| std::cmp::Reverse(blocker.age));
    Ok(blockers)
}

fn see(session: &mut Session, search: Search<'_>) -> Result<Vec<Seen>> {
    let rows = session.rows(&source::statement(search.dialect, search.source))?;
    let seen = rows.iter().filter_map(Seen::of);
    Ok(seen.filter(|seen| !search.own.contains(&seen.id)).collect())
}
