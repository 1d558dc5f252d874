//! Names of schemas and tables as people write them.

use std::fmt;

/// Schemas that belong to the server itself.
const OWN: [&str; 5] = ["mysql", "information_schema", "performance_schema", "sys", "ndbinfo"];

/// Whether a schema belongs to the server itself.
pub fn is_own_schema(schema: &str) -> bool {
    OWN.iter().any(|own| own.eq_ignore_ascii_case(schema))
}

/// A schema and a table in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableName {
    /// The schema.
    pub schema: String,
    /// The table.
    pub table: String,
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |name: &str| !name.contains(['.', ',', '`', ' ']);
        let quoted = |name: &str| match plain(name) {
            true => name.to_owned(),
            false => format!("`{}`", name.replace('`', "``")),
        };
        write!(f, "{}.{}", quoted(&self.schema), quoted(&self.table))
    }
}

/// `db.table`; names that have dots or commas in backticks.
///
/// # Errors
/// It is none, in words for people.
pub fn table_name(text: &str) -> std::result::Result<TableName, String> {
    match one_table(text) {
        Some((name, "")) => Ok(name),
        _ => Err(wrong(text)),
    }
}

/// `db.table,db.table`.
///
/// # Errors
/// As [`table_name`].
pub fn table_names(text: &str) -> std::result::Result<Vec<TableName>, String> {
    let (mut names, mut rest) = (Vec::new(), text);
    loop {
        let (name, after) = one_table(rest).ok_or_else(|| wrong(rest))?;
        names.push(name);
        match after.strip_prefix(',') {
            Some(more) => rest = more.trim_start(),
            None if after.is_empty() => return Ok(names),
            None => return Err(wrong(rest)),
        }
    }
}

fn wrong(text: &str) -> String {
    format!("`{text}` is no table: write SCHEMA.TABLE, with backticks around a name that has a dot")
}

fn one_table(text: &str) -> Option<(TableName, &str)> {
    let (schema, rest) = one_name(text)?;
    let (table, rest) = one_name(rest.strip_prefix('.')?)?;
    Some((TableName { schema, table }, rest))
}

fn one_name(text: &str) -> Option<(String, &str)> {
    let Some(inner) = text.strip_prefix('`') else {
        let end = text.find(['.', ',']).unwrap_or(text.len());
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

    #[test]
    fn lists_of_tables_are_read_and_written() {
        let read =
            |text: &str| table_names(text).map(|names| names.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(read("a.b"), Ok(vec!["a.b".to_owned()]));
        assert_eq!(
            read("a.b, `c,d`.`e.f`,g.`h``i`"),
            Ok(vec!["a.b".to_owned(), "`c,d`.`e.f`".to_owned(), "g.`h``i`".to_owned()])
        );
        for wrong in ["", "a.b,", "a,b.c", "a.b;c.d", ",a.b"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn own_schemas_are_known_in_any_case() {
        assert!(is_own_schema("mysql") && is_own_schema("SYS") && !is_own_schema("shop"));
    }
}
