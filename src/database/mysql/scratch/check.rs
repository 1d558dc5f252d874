//! Checks of every table on a scratch server, several at a time. A table whose check ends the server is found out, and the rest is still checked by the next one.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{Scratch, each, machine, sums};
use crate::database::mysql::session::{Row, Session};
use crate::database::{Error, Flavour, Result};
use crate::monitor::Monitor;
use crate::sys::signal::Cancel;

/// Engines whose rows lie on other hosts: the scratch server has no network, and they are not in the backup.
const ELSEWHERE: [&str; 5] = ["FEDERATED", "FEDERATEDX", "SPIDER", "CONNECT", "S3"];

/// What is said of their tables.
pub(super) const ITS_ROWS_ELSEWHERE: &str = "its rows are on another host, not in the backup";

/// What has no rows of its own. When it does not fit its tables, it does not on the live server either.
const WITHOUT_ROWS: [&str; 2] = ["VIEW", "MRG_MYISAM"];

/// Where the server logs to with `log_output=TABLE`. No lock stops it (MariaDB documents so for BACKUP STAGE, measured for FTWRL on MySQL 9.7), so a copy may find the
/// last row cut off. Nobody's data is in them, and a server on the copy repairs or empties them when told to.
const LOGS: [&str; 2] = ["general_log", "slow_log"];

/// What both servers say of a table whose rows were given up (ER_TABLESPACE_DISCARDED).
const DISCARDED: [&str; 2] = [
    "ablespace has been discarded for table",
    "ablespace is discarded for table",
];

/// How MariaDB lists a directory of the datadir whose name is no schema's.
const NO_SCHEMA: &str = "#mysql50#";

/// What is said of what lies in such a directory.
const IN_NO_SCHEMA: &str =
    "the name of its directory is no schema's: no statement can reach it, on the live server neither";

/// The most messages of one table that are kept, and their longest text in characters.
const MESSAGES: usize = 5;
const LONGEST: usize = 300;

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing to say.
    Ok,
    /// The engine has no check, and all rows could be read, or there are none in a backup (MEMORY).
    Unsupported,
    /// It works, but somebody must look: not closed in order, a view without its table.
    Warnings,
    /// Damaged.
    Errors,
    /// Nothing is known of it: the machine failed, a library is missing, the time was over, or the server ended too often.
    Unchecked,
}

/// A table or view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Its engine as the server names it; `VIEW` for a view, `?` when the server cannot tell.
    pub engine: String,
}

/// A table with its verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Which.
    pub table: Table,
    /// What was found.
    pub verdict: Verdict,
    /// In the server's words.
    pub messages: Vec<String>,
}

/// What one server could check before all was done, or it ended.
#[derive(Debug, Default)]
pub struct Round {
    /// Tables with a verdict.
    pub checked: Vec<Checked>,
    /// Tables that were being checked when the server ended.
    pub suspects: Vec<Table>,
    /// Tables that nobody came to.
    pub left: Vec<Table>,
    /// The time was over.
    pub late: bool,
}

/// Whether this is no schema but a directory in the datadir (`.cache`, `shop.bak`), which no statement takes as one.
pub fn is_no_schema(schema: &str) -> bool {
    schema.starts_with(NO_SCHEMA)
}

impl Table {
    /// As people write it.
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// Whether its rows are on another host.
    pub(super) fn is_elsewhere(&self) -> bool {
        ELSEWHERE.contains(&self.engine.to_ascii_uppercase().as_str())
    }

    /// Whether its rows are gone with the live server. Such a table is never opened: the server would write to its binary log, whatever the session says, that it is
    /// empty, and on MySQL count a transaction that the live one never had.
    pub fn is_in_memory(&self) -> bool {
        self.engine.eq_ignore_ascii_case("MEMORY")
    }

    fn is_log(&self) -> bool {
        self.schema == "mysql" && LOGS.contains(&self.name.as_str())
    }

    pub(super) fn quoted(&self) -> String {
        let quote = |name: &str| format!("`{}`", name.replace('`', "``"));
        format!("{}.{}", quote(&self.schema), quote(&self.name))
    }
}

/// Every table and view, the server's own ones too.
///
/// # Errors
/// The server cannot be asked.
pub fn tables(session: &mut Session) -> Result<Vec<Table>> {
    let rows = session.rows(
        "SELECT TABLE_SCHEMA AS s, TABLE_NAME AS n, TABLE_TYPE AS t, ENGINE AS e FROM information_schema.TABLES \
         WHERE TABLE_SCHEMA NOT IN ('information_schema', 'performance_schema') ORDER BY TABLE_SCHEMA, TABLE_NAME",
    )?;
    let table = |row: &Row| Table {
        schema: row.text("s"),
        name: row.text("n"),
        engine: match (row.text("t").as_str(), row.get("e")) {
            ("VIEW", _) => "VIEW".to_owned(),
            (_, engine) => engine.unwrap_or("?").to_owned(),
        },
    };
    Ok(rows.iter().map(table).collect())
}

/// Checks these tables over so many connections, until all are done, the server ends, or `until` has passed (the server is killed then).
///
/// # Errors
/// A signal asked to end.
pub fn run(
    scratch: &mut Scratch,
    tables: Vec<Table>,
    connections: usize,
    until: Instant,
    monitor: &dyn Monitor,
    cancel: &Cancel,
) -> crate::Result<Round> {
    let flavour = scratch.flavour;
    let work = |session: &mut Session, table: &Table| check(session, table, flavour);
    let round = each::run(scratch, tables, connections, until, (monitor, cancel), work)?;
    let checked = |(table, (verdict, messages))| Checked {
        table,
        verdict,
        messages,
    };
    Ok(Round {
        checked: round.done.into_iter().map(checked).collect(),
        suspects: round.suspects,
        left: round.left,
        late: round.late,
    })
}

/// Checks one table. An error here means that the connection broke; what the server says is in the verdict.
fn check(session: &mut Session, table: &Table, flavour: Flavour) -> Result<(Verdict, Vec<String>)> {
    let engine = table.engine.to_ascii_uppercase();
    if table.is_in_memory() {
        return Ok((Verdict::Unsupported, Vec::new()));
    }
    if table.is_elsewhere() {
        return Ok((Verdict::Unsupported, vec![ITS_ROWS_ELSEWHERE.to_owned()]));
    }
    if is_no_schema(&table.schema) {
        return Ok((Verdict::Warnings, vec![IN_NO_SCHEMA.to_owned()]));
    }
    // MariaDB's InnoDB compares every secondary index with the rows only when asked; MySQL's does what it can anyway. The others check rows, links and keys by default;
    // EXTENDED looks every row up in every index, which takes days on large tables.
    let how = if flavour == Flavour::MariaDb && engine == "INNODB" {
        " EXTENDED"
    } else {
        ""
    };
    let rows = match answer(session.rows(&format!("CHECK TABLE {}{how}", table.quoted())))? {
        Ok(rows) => rows,
        Err(said) => return Ok((weigh(&said), vec![said])),
    };
    let said: Vec<(String, String)> = rows
        .iter()
        .map(|row| (row.text("Msg_type"), row.text("Msg_text")))
        .collect();
    let (verdict, mut messages) = judge(&engine, &said);
    if verdict == Verdict::Errors && table.is_log() {
        messages.push("no lock stops the server's log tables: REPAIR or TRUNCATE it on the copy".to_owned());
        return Ok((Verdict::Warnings, messages));
    }
    if verdict == Verdict::Unsupported {
        return Ok(match sums::sum(session, table)? {
            Ok(_) => (verdict, messages),
            Err(said) => (weigh(&said), vec![said]),
        });
    }
    if verdict == Verdict::Errors && stands_alone(session, table, &said)? {
        messages.push("its definition stands alone: InnoDB has no such table, on the live server neither".to_owned());
        return Ok((Verdict::Warnings, messages));
    }
    Ok((verdict, messages))
}

/// An error of the server about a table: the data's, or the machine's.
fn weigh(said: &str) -> Verdict {
    match machine::trouble(said) {
        Some(_) => Verdict::Unchecked,
        None => Verdict::Errors,
    }
}

/// Whether this is a stray definition (`.frm`) that InnoDB's dictionary does not know, as a server that was killed within DDL leaves it. A table whose file is
/// missing is in the dictionary.
fn stands_alone(session: &mut Session, table: &Table, said: &[(String, String)]) -> Result<bool> {
    if !["?", "INNODB"].contains(&table.engine.to_ascii_uppercase().as_str())
        || !said.iter().any(|(_, text)| text.contains("doesn't exist in engine"))
    {
        return Ok(false);
    }
    // InnoDB has the names as its files have them, and partitions behind a `#`.
    let literal = |name: &str| {
        format!(
            "CONVERT('{}' USING filename)",
            name.replace('\\', "\\\\").replace('\'', "''")
        )
    };
    let binary = |name: &str| format!("CAST({} AS BINARY)", literal(name));
    let known = answer(session.value(&format!(
        "SELECT COUNT(*) FROM information_schema.INNODB_SYS_TABLES \
         WHERE SUBSTRING_INDEX(CAST(NAME AS BINARY), '#', 1) = CONCAT({}, '/', {})",
        binary(&table.schema),
        binary(&table.name)
    )))?;
    // A server that does not tell (MySQL, which has no such definitions) has none.
    Ok(known.is_ok_and(|count| count.as_deref() == Some("0")))
}

/// The server's own errors are answers; a broken connection is an error.
pub(super) fn answer<T>(result: Result<T>) -> Result<std::result::Result<T, String>> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(Error::Statement { code, reason, .. }) if code != 0 => Ok(Err(reason)),
        Err(error) => Err(error),
    }
}

/// The verdict of `CHECK TABLE`'s messages: type and text.
fn judge(engine: &str, said: &[(String, String)]) -> (Verdict, Vec<String>) {
    let (mut verdict, mut messages) = (Verdict::Ok, Vec::new());
    let discarded = said
        .iter()
        .any(|(_, text)| DISCARDED.iter().any(|words| text.contains(words)));
    for (kind, text) in said {
        let weight = match kind.to_ascii_lowercase().as_str() {
            "status" if matches!(text.as_str(), "OK" | "Table is already up to date") => continue,
            "note" if text.contains("doesn't support check") => Verdict::Unsupported,
            "note" | "info" => Verdict::Ok,
            "warning" => Verdict::Warnings,
            // Somebody gave the rows up (ALTER TABLE ... DISCARD TABLESPACE); a file that is missing is said otherwise.
            _ if discarded => Verdict::Warnings,
            // An old format works until somebody upgrades it.
            _ if text.to_ascii_lowercase().contains("upgrade required") => Verdict::Warnings,
            _ if WITHOUT_ROWS.contains(&engine) => Verdict::Warnings,
            _ if machine::trouble(text).is_some() => Verdict::Unchecked,
            _ => Verdict::Errors,
        };
        verdict = verdict.max(weight);
        if messages.len() < MESSAGES && weight != Verdict::Unsupported {
            messages.push(text.chars().take(LONGEST).collect());
        }
    }
    (verdict, messages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_make_the_verdict() {
        let judged = |engine: &str, said: &[(&str, &str)]| {
            let own = |(kind, text): &(&str, &str)| ((*kind).to_owned(), (*text).to_owned());
            judge(engine, &said.iter().map(own).collect::<Vec<_>>()).0
        };
        let unclosed = ("warning", "1 client is using or hasn't closed the table properly");
        assert_eq!(judged("INNODB", &[("status", "OK")]), Verdict::Ok);
        assert_eq!(judged("MYISAM", &[unclosed, ("status", "OK")]), Verdict::Warnings);
        assert_eq!(judged("MYISAM", &[unclosed, ("error", "Corrupt")]), Verdict::Errors);
        assert_eq!(judged("INNODB", &[("status", "Operation failed")]), Verdict::Errors);
        assert_eq!(
            judged(
                "MEMORY",
                &[("note", "The storage engine for the table doesn't support check")]
            ),
            Verdict::Unsupported
        );
        assert_eq!(
            judged(
                "VIEW",
                &[("Error", "Table 't.gone' doesn't exist"), ("error", "Corrupt")]
            ),
            Verdict::Warnings
        );
        assert_eq!(judged("CSV", &[("error", "Corrupt")]), Verdict::Errors);
        // Somebody gave it up, the machine failed, or a library is missing: its data are not to blame.
        let discarded = ("Error", "Tablespace has been discarded for table `dis`");
        assert_eq!(judged("INNODB", &[discarded, ("error", "Corrupt")]), Verdict::Warnings);
        let of_mysql = ("Warning", "InnoDB: Tablespace is discarded for table, 'given_up'");
        assert_eq!(judged("INNODB", &[of_mysql, ("error", "Corrupt")]), Verdict::Warnings);
        let missing = (
            "Error",
            "Got error 194 \"Tablespace is missing for a table\" from storage engine InnoDB",
        );
        assert_eq!(judged("INNODB", &[missing, ("error", "Corrupt")]), Verdict::Errors);
        let library = (
            "Error",
            "Table `s`.`z` is compressed with lz4, which is not currently loaded.",
        );
        assert_eq!(judged("INNODB", &[library, ("error", "Corrupt")]), Verdict::Unchecked);
        let descriptors = (
            "Error",
            "Can't open file: './s/t.MYI' (errno: 24 \"Too many open files\")",
        );
        assert_eq!(
            judged("MYISAM", &[descriptors, ("status", "Operation failed")]),
            Verdict::Unchecked
        );
        assert_eq!(judged("?", &[]), Verdict::Ok);
    }

    #[test]
    fn names_are_quoted() {
        let table = Table {
            schema: "a`b".to_owned(),
            name: "c d".to_owned(),
            engine: "InnoDB".to_owned(),
        };
        assert_eq!(table.quoted(), "`a``b`.`c d`");
    }
}
