//! What SHOW GRANTS says.

use std::collections::{BTreeMap, BTreeSet};

use super::flavour::Dialect;
use super::privileges::{Need, Scope};
use super::session::Session;
use crate::database::Result;

/// What an account may do, as far as it matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants {
    account: String,
    global: BTreeSet<String>,
    schemas: BTreeMap<String, BTreeSet<String>>,
}

impl Grants {
    /// Asks the server, active roles included.
    ///
    /// # Errors
    /// The server cannot be asked.
    pub fn read(session: &mut Session, dialect: Dialect) -> Result<Grants> {
        let account = session.value("SELECT CURRENT_USER()")?.unwrap_or_default();
        let mut rows = session.rows("SHOW GRANTS")?;
        if !dialect.is_mariadb() && dialect.version >= (8, 0, 0) {
            let roles = session.value("SELECT CURRENT_ROLE()")?.unwrap_or_default();
            if roles != "NONE" && !roles.is_empty() {
                rows.extend(session.rows(&format!("SHOW GRANTS FOR CURRENT_USER() USING {roles}"))?);
            }
        }
        let lines: Vec<&str> = rows.iter().filter_map(|row| row.first()).collect();
        Ok(Grants::parse(&account, &lines))
    }

    /// Reads the lines of SHOW GRANTS.
    pub(super) fn parse(account: &str, lines: &[&str]) -> Grants {
        let mut grants = Grants {
            account: account.to_owned(),
            ..Grants::default()
        };
        for line in lines {
            let Some((privileges, object)) = split_grant(line) else {
                continue;
            };
            let into = if object == "*.*" {
                &mut grants.global
            } else if let Some(schema) = object.strip_suffix(".*") {
                grants
                    .schemas
                    .entry(schema.trim_matches('`').replace('\\', "").to_ascii_lowercase())
                    .or_default()
            } else {
                continue;
            };
            into.extend(split_privileges(privileges));
        }
        grants
    }

    /// The account that the server took us for.
    pub fn account(&self) -> &str {
        &self.account
    }

    /// Whether a need is met.
    pub fn meet(&self, need: &Need) -> bool {
        let holds = |set: &BTreeSet<String>| {
            ["ALL PRIVILEGES", "ALL", need.name]
                .iter()
                .chain(need.also)
                .any(|name| set.contains(*name))
        };
        holds(&self.global)
            || need.scope == Scope::PerformanceSchema && self.schemas.get("performance_schema").is_some_and(holds)
    }
}

/// `GRANT a, b (c) ON object TO ...` as privileges and object; `None` for lines that grant roles.
fn split_grant(line: &str) -> Option<(&str, &str)> {
    let rest = line.strip_prefix("GRANT ")?;
    let on = unquoted(rest, " ON ")?;
    let object = &rest[on + 4..];
    let to = unquoted(object, " TO ")?;
    Some((&rest[..on], &object[..to]))
}

/// Where `needle` stands outside of quotes.
fn unquoted(text: &str, needle: &str) -> Option<usize> {
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if matches!(c, '`' | '\'' | '"') => quote = Some(c),
            None if text[at..].starts_with(needle) => return Some(at),
            None => {}
        }
    }
    None
}

/// Privilege names; those with a column list do not count.
fn split_privileges(text: &str) -> impl Iterator<Item = String> {
    let mut depth = 0;
    text.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    })
    .filter(|name| !name.contains('('))
    .map(|name| name.trim().to_ascii_uppercase())
}
