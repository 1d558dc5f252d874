//! Event groups: which events make one transaction, and where the last complete one ends.

use std::path::Path;

use super::event::{Event, Log};
use super::gtid::Gtids;
use super::wrong;
use crate::database::{Flavour, Result};

/// Event types, by their numbers in both servers' sources.
pub(super) mod kind {
    pub const QUERY: u8 = 2;
    pub const STOP: u8 = 3;
    pub const ROTATE: u8 = 4;
    pub const FORMAT_DESCRIPTION: u8 = 15;
    pub const XID: u8 = 16;
    pub const EXECUTE_LOAD_QUERY: u8 = 18;
    pub const INCIDENT: u8 = 26;
    pub const HEARTBEAT: u8 = 27;
    pub const GTID: u8 = 33;
    pub const ANONYMOUS_GTID: u8 = 34;
    pub const PREVIOUS_GTIDS: u8 = 35;
    pub const XA_PREPARE: u8 = 38;
    pub const TRANSACTION_PAYLOAD: u8 = 40;
    pub const HEARTBEAT_V2: u8 = 41;
    pub const GTID_TAGGED: u8 = 42;
    pub const MARIADB_ANNOTATE: u8 = 160;
    pub const MARIADB_CHECKPOINT: u8 = 161;
    pub const MARIADB_GTID: u8 = 162;
    pub const MARIADB_GTID_LIST: u8 = 163;
    pub const MARIADB_START_ENCRYPTION: u8 = 164;
    pub const MARIADB_QUERY_COMPRESSED: u8 = 165;
}

/// Where in a group the reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Between groups.
    Outside,
    /// In a group that one statement makes: it ends with that.
    Statement,
    /// In a group that a commit ends.
    Transaction,
}

/// What a whole log says.
#[derive(Debug)]
pub struct Scan {
    /// The end of the last complete group.
    pub end: u64,
    /// All GTIDs up to there.
    pub gtids: Gtids,
    /// How many complete groups end after the position that was asked about.
    pub after: u64,
}

impl Scan {
    /// Reads a log; `None` when not even its header is complete.
    ///
    /// # Errors
    /// It cannot be read or understood.
    pub fn of(path: &Path, flavour: Flavour) -> Result<Option<Scan>> {
        Log::open(path)?
            .map(|log| Scan::read(path, log, flavour, u64::MAX))
            .transpose()
    }

    /// As [`of`](Scan::of), and counts the groups that end after `from`; proves no checksums of rows.
    ///
    /// # Errors
    /// As [`of`](Scan::of).
    pub fn counting(path: &Path, flavour: Flavour, from: u64) -> Result<Option<Scan>> {
        let log = Log::open(path)?.map(Log::passing_over_rows);
        log.map(|log| Scan::read(path, log, flavour, from)).transpose()
    }

    fn read(path: &Path, mut log: Log, flavour: Flavour, from: u64) -> Result<Scan> {
        let mut reader = Groups {
            from,
            ..Groups::new(flavour, log.at())
        };
        while let Some(event) = log.next()? {
            reader
                .take(&event)
                .map_err(|reason| wrong(path, format!("event at {}: {reason}", event.at)))?;
        }
        Ok(Scan {
            end: reader.end,
            gtids: reader.gtids,
            after: reader.after,
        })
    }
}

/// Finds the ends of groups.
pub(super) struct Groups {
    place: Place,
    /// The end of the last complete group, or of what stands between groups.
    pub end: u64,
    gtids: Gtids,
    /// The GTID event of the group that is being read.
    pending: Option<Event>,
    /// Groups that end after it are counted.
    from: u64,
    after: u64,
}

type Answer = std::result::Result<(), String>;

impl Groups {
    /// Before the first event, which begins at `at`.
    pub fn new(flavour: Flavour, at: u64) -> Groups {
        Groups {
            place: Place::Outside,
            end: at,
            gtids: Gtids::new(flavour),
            pending: None,
            from: u64::MAX,
            after: 0,
        }
    }

    /// # Errors
    /// The event cannot be understood.
    pub fn take(&mut self, event: &Event) -> Answer {
        use kind::*;
        match event.kind {
            GTID | ANONYMOUS_GTID | GTID_TAGGED | MARIADB_GTID => return self.begin(event),
            FORMAT_DESCRIPTION | STOP | ROTATE | HEARTBEAT | HEARTBEAT_V2 | MARIADB_CHECKPOINT => {
                return self.between(event);
            }
            PREVIOUS_GTIDS | MARIADB_GTID_LIST => {
                self.between(event)?;
                return self.gtids.take_list(&event.body);
            }
            MARIADB_START_ENCRYPTION => return Err("the log is encrypted from here on; use a locking strategy".into()),
            XID | XA_PREPARE | TRANSACTION_PAYLOAD => return self.complete(event.end),
            _ => {}
        }
        match (self.place, event.kind) {
            (_, QUERY) => self.query(event),
            (Place::Statement, EXECUTE_LOAD_QUERY | INCIDENT | MARIADB_QUERY_COMPRESSED)
            | (Place::Outside, INCIDENT | MARIADB_QUERY_COMPRESSED) => self.complete(event.end),
            // Without GTIDs, what a statement needs (Intvar, Rand, User_var) comes before it.
            (Place::Outside, _) => {
                self.place = Place::Statement;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A GTID event opens a group. Servers never interleave groups, so one that was open is complete.
    fn begin(&mut self, event: &Event) -> Answer {
        self.between_groups(event.at)?;
        // MariaDB says in its flags whether a commit will end the group (FL_STANDALONE = 1); MySQL says it with BEGIN.
        let standalone = event.kind != kind::MARIADB_GTID || event.body.get(12).is_some_and(|flags| flags & 1 == 1);
        self.place = if standalone {
            Place::Statement
        } else {
            Place::Transaction
        };
        self.pending = Some(event.clone());
        Ok(())
    }

    fn query(&mut self, event: &Event) -> Answer {
        let text = query_text(&event.body).ok_or("a query event is too short")?;
        let is = |word: &str| text.eq_ignore_ascii_case(word);
        let starts = |words: &str| {
            text.get(..words.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(words))
        };
        if is("BEGIN") || starts("XA START") {
            self.place = Place::Transaction;
            return Ok(());
        }
        let ends = is("COMMIT") || is("ROLLBACK") || starts("XA COMMIT") || starts("XA ROLLBACK");
        if ends || self.place != Place::Transaction {
            self.complete(event.end)
        } else {
            Ok(())
        }
    }

    /// All GTIDs of complete groups; and, if asked, that of the one that is being read.
    pub fn gtids_text(&self, begun: bool) -> String {
        let mut gtids = self.gtids.clone();
        if let (true, Some(event)) = (begun, &self.pending) {
            let _ = gtids.take_event(event);
        }
        gtids.to_text().unwrap_or_default()
    }

    /// An event that stands between groups.
    fn between(&mut self, event: &Event) -> Answer {
        self.between_groups(event.at)?;
        self.end = event.end;
        Ok(())
    }

    fn between_groups(&mut self, at: u64) -> Answer {
        if self.place == Place::Outside {
            Ok(())
        } else {
            self.complete(at)
        }
    }

    fn complete(&mut self, end: u64) -> Answer {
        self.place = Place::Outside;
        self.end = end;
        self.after += u64::from(end > self.from);
        match self.pending.take() {
            Some(event) => self.gtids.take_event(&event),
            None => Ok(()),
        }
    }
}

/// A query event: 13 bytes of fixed header, status variables, database name with its zero byte, text.
pub(super) fn query_text(body: &[u8]) -> Option<&str> {
    // Only the first words matter; a longer text in any character set stays unread.
    start_of_query(body, 32)
}

/// The first bytes of its text, as far as they are UTF-8.
pub(super) fn start_of_query(body: &[u8], bytes: usize) -> Option<&str> {
    let database = usize::from(*body.get(8)?);
    let status = usize::from(u16::from_le_bytes([*body.get(11)?, *body.get(12)?]));
    let text = body.get(13 + status + database + 1..)?;
    let text = &text[..text.len().min(bytes)];
    let valid = match std::str::from_utf8(text) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&text[..error.valid_up_to()]).ok()?,
    };
    Some(valid.trim())
}
