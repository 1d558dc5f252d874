//! What of a server is dumped.

use super::{Request, quoted};
use crate::database::mysql::session::{Row, Session};
use crate::{Error, Result};

/// Schemas that belong to the server itself.
pub(crate) const SYSTEM: [&str; 5] = ["mysql", "information_schema", "performance_schema", "sys", "ndbinfo"];

/// A schema and a table in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableName {
    /// The schema.
    pub schema: String,
    /// The table.
    pub table: String,
}

/// `db.table`; names that have dots in backticks.
pub fn table_name(text: &str) -> std::result::Result<TableName, String> {
    let wrong = || format!("`{text}` is no table: write SCHEMA.TABLE, with backticks around a name that has a dot");
    let (schema, rest) = one_name(text).ok_or_else(wrong)?;
    let (table, rest) = rest.strip_prefix('.').and_then(one_name).ok_or_else(wrong)?;
    match rest {
        "" => Ok(TableName { schema, table }),
        _ => Err(wrong()),
    }
}

fn one_name(text: &str) -> Option<(String, &str)> {
    let Some(inner) = text.strip_prefix('`') else {
        let end = text.find('.').unwrap_or(text.len());
        return (end > 0).then(|| (text[..end].to_owned(), &text[end..]));
    };
    let mut name = String::new();
    let mut rest = inner;
    loop {
        let end = rest.find('`')?;
        name.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        // Doubled, it is a part of the name.
        match rest.strip_prefix('`') {
            Some(more) => {
                name.push('`');
                rest = more;
            }
            None => return (!name.is_empty()).then_some((name, rest)),
        }
    }
}

/// One call of the dump tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// Of this schema.
    pub schema: String,
    /// These tables; `None`: everything.
    pub tables: Option<Vec<String>>,
    /// The statement that makes the schema where it is not there.
    pub create: String,
}

/// What the request asks of this server.
///
/// # Errors
/// Something is named that is not there, or belongs to the server itself.
pub(super) fn parts(session: &mut Session, request: &Request) -> Result<Vec<Part>> {
    let there = first_column(session.rows("SELECT schema_name FROM information_schema.schemata ORDER BY schema_name")?);
    let is_own = |schema: &str| SYSTEM.iter().any(|own| own.eq_ignore_ascii_case(schema));
    let mut parts: Vec<Part> = Vec::new();
    let everything = request.databases.is_empty() && request.tables.is_empty();
    for schema in there.iter().filter(|schema| everything && !is_own(schema)) {
        parts.push(part(session, schema, None)?);
    }
    for schema in &request.databases {
        refuse(schema, is_own(schema), there.contains(schema), &there)?;
        if !parts.iter().any(|part| part.schema == *schema) {
            parts.push(part(session, schema, None)?);
        }
    }
    for TableName { schema, table } in &request.tables {
        refuse(schema, is_own(schema), there.contains(schema), &there)?;
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
            .filter(|one| !SYSTEM.contains(one))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tables_are_read_as_sql_does() {
        let of = |text: &str| table_name(text).map(|name| (name.schema, name.table));
        let is = |schema: &str, table: &str| Ok((schema.to_owned(), table.to_owned()));
        assert_eq!(of("shop.orders"), is("shop", "orders"));
        assert_eq!(of("`a.b`.`c``d`"), is("a.b", "c`d"));
        assert_eq!(of("shop.`x y`"), is("shop", "x y"));
        for wrong in ["shop", "shop.", ".orders", "a.b.c", "`a.b", "`a`b.c", ""] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }
}
