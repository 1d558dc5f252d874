//! What a log says was done: its groups of events (transactions, statements) with their places, times, GTIDs and tables.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;

use super::event::{Event, Log};
use super::group::{Groups, kind, query_text, start_of_query};
use super::gtid::Gtids;
use super::wrong;
use crate::database::{Flavour, Result};

/// As much of a statement as is shown, in bytes.
const SHOWN: usize = 200;

/// One transaction, or one statement that stands alone.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Change {
    /// The log's name.
    pub file: String,
    /// Where its first event begins.
    pub start: u64,
    /// Where its last event ends.
    pub end: u64,
    /// When it was committed, in seconds since 1970 by the server's clock.
    pub time: u32,
    /// When it was done at the earliest, by the same clock: a statement that takes long has the time of its begin.
    #[serde(skip)]
    pub done: u32,
    /// Its GTID, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gtid: Option<String>,
    /// The server that made it.
    #[serde(skip)]
    pub server_id: u32,
    /// `insert`, `update`, `delete`, `statement`, `compressed` (its content is not looked into), `incident` (the server says that it could not log something).
    pub kinds: BTreeSet<&'static str>,
    /// Tables whose rows it changes, as `database.table`.
    pub tables: BTreeSet<String>,
    /// The beginning of each statement that is in it as text.
    pub statements: Vec<String>,
}

/// Tells of each complete group of a log, in order, until `each` says no more. Gives the end of the last complete group, or of what stands between groups, that was read.
///
/// # Errors
/// The log cannot be read or understood.
pub fn read(path: &Path, flavour: Flavour, each: &mut dyn FnMut(Change) -> bool) -> Result<u64> {
    let Some(mut log) = Log::open(path)? else { return Ok(0) };
    let mut groups = Groups::new(flavour, log.at());
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut open: Option<Change> = None;
    while let Some(event) = log.next()? {
        let before = groups.end;
        groups
            .take(&event)
            .map_err(|reason| wrong(path, format!("event at {}: {reason}", event.at)))?;
        // What opens a group, or stands between groups, ends the one before it.
        let earlier = groups.end > before && groups.end <= event.at || is_between(&event);
        if earlier
            && let Some(change) = open.take()
            && !each(change)
        {
            return Ok(groups.end);
        }
        if is_between(&event) {
            continue;
        }
        let change = open.get_or_insert_with(|| Change {
            file: file.clone(),
            start: event.at,
            server_id: event.server_id,
            ..Change::default()
        });
        add(change, &event, flavour);
        if groups.end == event.end
            && let Some(change) = open.take()
            && !each(change)
        {
            return Ok(groups.end);
        }
    }
    Ok(groups.end)
}

fn is_between(event: &Event) -> bool {
    use kind::*;
    matches!(
        event.kind,
        FORMAT_DESCRIPTION
            | STOP
            | ROTATE
            | HEARTBEAT
            | HEARTBEAT_V2
            | MARIADB_CHECKPOINT
            | PREVIOUS_GTIDS
            | MARIADB_GTID_LIST
    )
}

fn add(change: &mut Change, event: &Event, flavour: Flavour) {
    change.end = event.end;
    change.time = event.time;
    let body = &event.body;
    change.done = change.done.max(event.time).max(done(event).unwrap_or(0));
    match event.kind {
        kind::MARIADB_GTID | kind::GTID | kind::GTID_TAGGED => change.gtid = gtid(flavour, event),
        kind::TRANSACTION_PAYLOAD | kind::MARIADB_QUERY_COMPRESSED => drop(change.kinds.insert("compressed")),
        // Table_map: table id (6 bytes), flags (2), then both names with their lengths before and a zero behind.
        19 => drop(table(body).map(|name| change.tables.insert(name))),
        kind::INCIDENT => drop(change.kinds.insert("incident")),
        23 | 30 | 166 | 169 => drop(change.kinds.insert("insert")),
        24 | 31 | 39 | 167 | 170 => drop(change.kinds.insert("update")),
        25 | 32 | 168 | 171 => drop(change.kinds.insert("delete")),
        kind::QUERY => {
            let first = query_text(body).unwrap_or_default();
            let word = first.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
            if !["BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT"].contains(&word.as_str()) {
                change.kinds.insert("statement");
                change.statements.extend(start_of_query(body, SHOWN).map(str::to_owned));
            }
        }
        _ => {}
    }
}

/// When an event says that something was done: a statement's begin and how long it took (bytes 4 to 8 of a query event), MySQL's time of the commit.
fn done(event: &Event) -> Option<u32> {
    let body = &event.body;
    match event.kind {
        kind::QUERY => {
            let took = u32::from_le_bytes(body.get(4..8)?.try_into().ok()?);
            // Servers whose clock was put back meanwhile write nonsense.
            (took < 30 * 86_400).then(|| event.time.saturating_add(took))
        }
        // Behind flags (1), source (16), number (8) and logical clock (1 + 8 + 8) come 55 bits of microseconds.
        kind::GTID => {
            let mut wide = [0; 8];
            wide[..7].copy_from_slice(body.get(42..49)?);
            u32::try_from((u64::from_le_bytes(wide) & ((1 << 55) - 1)) / 1_000_000).ok()
        }
        _ => None,
    }
}

fn table(body: &[u8]) -> Option<String> {
    let rest = body.get(8..)?;
    let (length, rest) = rest.split_first()?;
    let database = rest.get(..usize::from(*length))?;
    let rest = rest.get(usize::from(*length) + 1..)?;
    let (length, rest) = rest.split_first()?;
    let name = rest.get(..usize::from(*length))?;
    Some(format!(
        "{}.{}",
        String::from_utf8_lossy(database),
        String::from_utf8_lossy(name)
    ))
}

/// The GTID of an event that has one: `domain-server-sequence`, `uuid:number`, or `uuid:tag:number`.
fn gtid(flavour: Flavour, event: &Event) -> Option<String> {
    let mut one = Gtids::new(flavour);
    one.take_event(event).ok()?;
    one.to_text()
}
