//! `checksums`: the tables whose checksums go with a backup.

use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::database::{TableName, is_own_schema, table_name, table_names};

/// The tables whose checksums go with a backup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Checksums {
    /// No checksums.
    #[default]
    None,
    /// Of every table outside of the server's own schemas.
    All,
    /// Of these tables.
    Tables(Vec<TableName>),
}

impl Checksums {
    /// Whether a table is among them.
    pub fn has(&self, schema: &str, table: &str) -> bool {
        match self {
            Checksums::None => false,
            Checksums::All => !is_own_schema(schema),
            Checksums::Tables(names) => names.iter().any(|name| name.schema == schema && name.table == table),
        }
    }

    fn of(names: Vec<TableName>) -> Result<Checksums, String> {
        match names.iter().find(|name| is_own_schema(&name.schema)) {
            Some(own) => Err(format!(
                "{own} is the server's own table, in which every start changes something: its checksum would prove nothing"
            )),
            None => Ok(Checksums::Tables(names)),
        }
    }
}

impl FromStr for Checksums {
    type Err = String;

    fn from_str(text: &str) -> Result<Checksums, String> {
        match text {
            "none" => Ok(Checksums::None),
            "all" => Ok(Checksums::All),
            names => Checksums::of(table_names(names)?),
        }
    }
}

impl Serialize for Checksums {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Checksums::None => "none".serialize(serializer),
            Checksums::All => "all".serialize(serializer),
            Checksums::Tables(names) => serializer.collect_seq(names.iter().map(ToString::to_string)),
        }
    }
}

/// As the file has it: a word, names in one text, or a list.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "`checksums` is `all`, `none` or a list of tables (SCHEMA.TABLE)"
)]
enum Written {
    One(String),
    List(Vec<String>),
}

impl<'de> Deserialize<'de> for Checksums {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Checksums, D::Error> {
        let read = match Written::deserialize(deserializer)? {
            Written::One(text) => text.parse(),
            Written::List(names) => {
                let names: Result<Vec<TableName>, String> = names.iter().map(|name| table_name(name)).collect();
                names.and_then(Checksums::of)
            }
        };
        read.map_err(|reason| serde::de::Error::custom(format!("`checksums`: {reason}")))
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    use super::*;

    #[test]
    fn words_and_lists_are_read_and_the_servers_own_tables_are_refused() {
        let read = |yaml: &str| Config::parse(yaml).map(|config| config.checksums);
        assert_eq!(read("checksums: all").unwrap(), Checksums::All);
        assert_eq!(read("checksums: none").unwrap(), Checksums::None);
        let two = read("checksums: [shop.orders, '`a.b`.c']").unwrap();
        assert_eq!(two, read("checksums: 'shop.orders,`a.b`.c'").unwrap());
        assert!(two.has("shop", "orders") && two.has("a.b", "c") && !two.has("shop", "c"));
        assert!(Checksums::All.has("shop", "orders") && !Checksums::All.has("mysql", "user"));
        let again: Checksums = serde_json::from_value(serde_json::to_value(&two).unwrap()).unwrap();
        assert_eq!(again, two);
        for (yaml, word) in [
            ("checksums: [mysql.user]", "own table"),
            ("checksums: [orders]", "SCHEMA.TABLE"),
            ("checksums: {a: b}", "checksums"),
        ] {
            let error = read(yaml).unwrap_err().to_string();
            assert!(error.contains(word), "{yaml}: {error}");
        }
    }
}
