//! Checksums of tables on a scratch server: what the server reads, row by row, put into one number.
//!
//! `CHECKSUM TABLE ... EXTENDED` adds up a CRC of each row, so it does not depend on the order of rows, on indexes or on where they lie in their files. It has 32 bits:
//! it finds damage and loss, not somebody who wants to deceive.

use std::time::Instant;

use super::check::{ITS_ROWS_ELSEWHERE, Table, answer};
use super::{Scratch, each};
use crate::database::Result;
use crate::database::mysql::session::Session;
use crate::monitor::Monitor;
use crate::sys::signal::Cancel;

/// A checksum, or why there is none.
pub type Sum = std::result::Result<u64, String>;

/// The checksums of some tables.
#[derive(Debug, Default)]
pub struct Sums {
    /// Those that were asked for and came to an end.
    pub sums: Vec<(Table, Sum)>,
    /// Those that were being read when the server ended.
    pub suspects: Vec<Table>,
    /// The others: the server ended, or the time was over, and nothing is known of them.
    pub left: Vec<Table>,
    /// The time was over.
    pub late: bool,
}

/// Reads these tables over so many connections, until all are done, the server ends, or `until` has passed (the server is killed then).
///
/// # Errors
/// A signal asked to end.
pub fn read(
    scratch: &mut Scratch,
    tables: Vec<Table>,
    connections: usize,
    until: Instant,
    monitor: &dyn Monitor,
    cancel: &Cancel,
) -> crate::Result<Sums> {
    let round = each::run(scratch, tables, connections, until, (monitor, cancel), sum)?;
    Ok(Sums {
        sums: round.done,
        suspects: round.suspects,
        left: round.left,
        late: round.late,
    })
}

/// Reads one table. An error here means that the connection broke; what the server says is in the answer.
pub(super) fn sum(session: &mut Session, table: &Table) -> Result<Sum> {
    if table.engine == "VIEW" {
        return Ok(Err("it is a view and has no rows".to_owned()));
    }
    if table.is_in_memory() {
        return Ok(Err("its rows are in memory only, and in no backup".to_owned()));
    }
    if table.is_elsewhere() {
        return Ok(Err(ITS_ROWS_ELSEWHERE.to_owned()));
    }
    let counted = match table.engine.eq_ignore_ascii_case("ARCHIVE") {
        true => match count(session, table)? {
            Ok(rows) => rows,
            Err(said) => return Ok(Err(said)),
        },
        false => 0,
    };
    // EXTENDED: else a table may answer with the number that it keeps, unread.
    let rows = match answer(session.rows(&format!("CHECKSUM TABLE {} EXTENDED", table.quoted())))? {
        Ok(rows) => rows,
        Err(said) => return Ok(Err(said)),
    };
    if let Some(sum) = rows.first().and_then(|row| row.number("Checksum")) {
        return Ok(match sum == 0 && counted > 0 {
            true => Err("the server gives no checksum of it".to_owned()),
            false => Ok(sum),
        });
    }
    // A table that cannot be read is no error of the statement.
    let warnings = session.rows("SHOW WARNINGS")?;
    let said = warnings.first().map(|row| row.text("Message"));
    Ok(Err(said.unwrap_or_else(|| "the server gives no checksum".to_owned())))
}

/// Counts an ARCHIVE table's rows. MySQL (9.7) adds up none of them, and says 0, in a table that this session has not read before.
fn count(session: &mut Session, table: &Table) -> Result<std::result::Result<u64, String>> {
    let rows = answer(session.rows(&format!("SELECT COUNT(*) AS counted FROM {}", table.quoted())))?;
    Ok(rows.map(|rows| rows.first().and_then(|row| row.number("counted")).unwrap_or(0)))
}
