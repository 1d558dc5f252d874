//! What of a server is dumped.

use super::survey::Survey;
use super::{Request, quoted};
use crate::database::mysql::scratch::check::is_no_schema;
use crate::database::mysql::session::{Row, Session};
use crate::database::{TableName, is_own_schema};
use crate::finding::Finding;
use crate::{Error, Result};

/// One call of the dump tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// Of this schema.
    pub schema: String,
    /// These tables; `None`: everything.
    pub tables: Option<Vec<String>>,
    /// The statement that makes the schema where it is not there.
    pub create: String,
    /// What is dumped otherwise, or not at all.
    pub survey: Survey,
}

/// What the request asks of this server.
///
/// # Errors
/// Something is named that is not there, or belongs to the server itself.
pub(super) fn parts(session: &mut Session, request: &Request) -> Result<Vec<Part>> {
    let there = first_column(session.rows("SELECT schema_name FROM information_schema.schemata ORDER BY schema_name")?);
    let mut parts: Vec<Part> = Vec::new();
    let everything = request.databases.is_empty() && request.tables.is_empty();
    for schema in there
        .iter()
        .filter(|schema| everything && !is_own_schema(schema) && !is_no_schema(schema))
    {
        parts.push(part(session, schema, None)?);
    }
    for schema in &request.databases {
        refuse(schema, is_own_schema(schema), there.contains(schema), &there)?;
        if !parts.iter().any(|part| part.schema == *schema) {
            parts.push(part(session, schema, None)?);
        }
    }
    for TableName { schema, table } in &request.tables {
        refuse(schema, is_own_schema(schema), there.contains(schema), &there)?;
        let tables = first_column(session.rows(&format!("SHOW TABLES FROM {}", quoted(schema)))?);
        if !tables.contains(table) {
            return Err(Error::usage(format!("the backup has no table `{table}` in `{schema}`")));
        }
        match parts.iter_mut().find(|part| part.schema == *schema) {
            Some(Part { tables: None, .. }) => {}
            Some(Part {
                tables: Some(tables), ..
            }) if tables.contains(table) => {}
            Some(Part {
                tables: Some(tables), ..
            }) => tables.push(table.clone()),
            None => parts.push(part(session, schema, Some(vec![table.clone()]))?),
        }
    }
    Ok(parts)
}

/// Directories of the datadir that are no schemas (`.cache`, `shop.bak`): no statement reaches what is in them.
pub(super) fn no_schemas(session: &mut Session) -> Result<Vec<Finding>> {
    let there = first_column(session.rows("SELECT schema_name FROM information_schema.schemata ORDER BY schema_name")?);
    let said = there.iter().filter(|schema| is_no_schema(schema)).map(|schema| {
        let directory = schema.strip_prefix("#mysql50#").unwrap_or(schema);
        let said =
            format!("the directory `{directory}` of the datadir is no schema by its name, and is not in the dump");
        Finding::note("no-schema", said)
    });
    Ok(said.collect())
}

/// One schema.
///
/// # Errors
/// It is not there, or belongs to the server itself.
pub(crate) fn schema(session: &mut Session, schema: &str) -> Result<Part> {
    let request = Request {
        databases: vec![schema.to_owned()],
        ..Request::default()
    };
    only(parts(session, &request)?)
}

/// One table.
///
/// # Errors
/// As [`schema`].
pub(crate) fn table(session: &mut Session, table: &TableName) -> Result<Part> {
    let request = Request {
        tables: vec![table.clone()],
        ..Request::default()
    };
    only(parts(session, &request)?)
}

fn only(mut parts: Vec<Part>) -> Result<Part> {
    parts
        .pop()
        .ok_or_else(|| Error::failed("the backup has nothing of that name"))
}

fn part(session: &mut Session, schema: &str, tables: Option<Vec<String>>) -> Result<Part> {
    let rows = session.rows(&format!("SHOW CREATE DATABASE IF NOT EXISTS {}", quoted(schema)))?;
    let create = rows.first().map(|row| row.text("Create Database")).unwrap_or_default();
    Ok(Part {
        schema: schema.to_owned(),
        tables,
        create: format!("{create};"),
        survey: Survey::default(),
    })
}

fn refuse(schema: &str, is_own: bool, is_there: bool, there: &[String]) -> Result<()> {
    if is_own {
        return Err(Error::usage(format!(
            "`{schema}` is the server's own schema: it does not fit another server; accounts are dumped as statements (--accounts)"
        )));
    }
    if !is_there {
        let others: Vec<&str> = there
            .iter()
            .map(String::as_str)
            .filter(|one| !is_own_schema(one))
            .collect();
        return Err(Error::usage(format!(
            "the backup has no schema `{schema}`; it has {}",
            others.join(", ")
        )));
    }
    Ok(())
}

fn first_column(rows: Vec<Row>) -> Vec<String> {
    rows.iter().filter_map(|row| row.first().map(str::to_owned)).collect()
}
