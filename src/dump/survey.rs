//! What a schema has that the dump tool cannot take, or not wholly: it ends at the first such object. They are found before, left out by name and said.

use super::{Part, quoted};
use crate::database::Flavour;
use crate::database::mysql::flavour::Version;
use crate::database::mysql::scratch::machine;
use crate::database::mysql::session::Session;
use crate::finding::Finding;
use crate::{Error, Result};

/// MariaDB, server and tool, dumps and takes the history of system-versioned tables from this version on (`--dump-history`,
/// `system_versioning_insert_history`; MDEV-16355, MDEV-29732).
const HISTORY: Version = (10, 11, 1);

/// How the rows of a part's versioned tables are dumped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    /// Not dumped at all.
    pub left_out: Vec<String>,
    /// With all versions of their rows.
    pub with_history: bool,
    /// Versioned by transaction: the tool takes their present rows only, and ends where it is asked for more.
    pub by_transaction: Vec<String>,
}

/// What is asked of the survey.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    /// The booted server's flavour.
    pub flavour: Flavour,
    /// The lowest version of those that take part in it.
    pub version: Version,
    /// The tool is one that dumps history.
    pub can_history: bool,
    /// Tables of this schema that the user leaves out.
    pub ignored: &'a [String],
}

/// Looks at every object of the part. Those that the server cannot read go out of it, unless they were named: then that is an error.
///
/// # Errors
/// A named table cannot be read, the machine failed, or the connection broke.
pub(crate) fn survey(session: &mut Session, part: &mut Part, asked: &Asked<'_>) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let rows = session.rows(&format!(
        "SELECT TABLE_NAME AS n, TABLE_TYPE AS t, ENGINE AS e FROM information_schema.TABLES WHERE TABLE_SCHEMA = {} ORDER BY TABLE_NAME",
        literal(&part.schema)
    ))?;
    let mut versioned = Vec::new();
    for row in rows {
        let (name, kind, engine) = (row.text("n"), row.text("t"), row.text("e"));
        if part.tables.as_ref().is_some_and(|tables| !tables.contains(&name)) {
            continue;
        }
        if asked.ignored.contains(&name) {
            part.survey.left_out.push(name);
            continue;
        }
        match unreadable(session, &part.schema, &name, kind == "VIEW" || engine == "MEMORY")? {
            Some(reason) if part.tables.is_some() => {
                return Err(Error::failed(format!(
                    "{}.{name} cannot be dumped: {reason}",
                    part.schema
                )));
            }
            Some(reason) => {
                let said = format!("{}.{name} is not in the dump: {reason}", part.schema);
                findings.push(Finding::warning("not-dumped", said));
                part.survey.left_out.push(name);
            }
            None if kind == "SYSTEM VERSIONED" => versioned.push(name),
            None => {}
        }
    }
    findings.extend(history(session, part, versioned, asked)?);
    if let Some(tables) = &mut part.tables {
        tables.retain(|table| !part.survey.left_out.contains(table));
    }
    Ok(findings)
}

/// Which of the versioned tables are dumped with their history; what loses it is said.
fn history(session: &mut Session, part: &mut Part, versioned: Vec<String>, asked: &Asked<'_>) -> Result<Vec<Finding>> {
    if asked.flavour != Flavour::MariaDb || versioned.is_empty() {
        return Ok(Vec::new());
    }
    part.survey.with_history = asked.can_history && asked.version >= HISTORY;
    let by_transaction = session.rows(&format!(
        "SELECT DISTINCT TABLE_NAME AS n FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = {} \
         AND GENERATION_EXPRESSION = 'ROW START' AND DATA_TYPE = 'bigint'",
        literal(&part.schema)
    ))?;
    let by_transaction: Vec<String> = by_transaction.iter().map(|row| row.text("n")).collect();
    let (mut losing, mut findings) = (Vec::new(), Vec::new());
    for name in versioned {
        let transaction = by_transaction.contains(&name);
        if transaction {
            part.survey.by_transaction.push(name.clone());
        }
        if transaction || !part.survey.with_history {
            losing.push(format!("{}.{name}", part.schema));
        }
    }
    if !losing.is_empty() {
        let said = format!(
            "the dump has the present rows of {} alone, not their history",
            losing.join(", ")
        );
        findings.push(
            Finding::warning("no-history", said)
                .remedy("restore the whole backup where the history counts; MariaDB 10.11 dumps it of tables that are versioned by time"),
        );
    }
    Ok(findings)
}

/// Why the tool would end at this object; `None` where it would not. Asks what the tool asks, and for one row.
fn unreadable(session: &mut Session, schema: &str, name: &str, without_rows: bool) -> Result<Option<String>> {
    let full = format!("{}.{}", quoted(schema), quoted(name));
    let mut statements = vec![format!("SHOW CREATE TABLE {full}"), format!("SHOW FIELDS FROM {full}")];
    if !without_rows {
        statements.push(format!("SELECT 1 FROM {full} LIMIT 1"));
    }
    for statement in statements {
        match session.rows(&statement) {
            Ok(_) => {}
            Err(crate::database::Error::Statement { code, reason, .. }) if code != 0 && !is_machines(&reason) => {
                return Ok(Some(reason));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// A library that is missing is missing for this table alone; what else the machine lacks, it lacks for all.
fn is_machines(reason: &str) -> bool {
    machine::trouble(reason).is_some_and(|trouble| !trouble.contains("library"))
}

/// A text as SQL has it.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}
