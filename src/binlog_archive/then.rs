//! What the server was like while a part of its log was archived: what a replay of that part needs, and what the log does not have.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::database::mysql::facts::{self, Variables};
use crate::database::mysql::flavour::Dialect;
use crate::database::mysql::session::Session;
use crate::database::mysql::whole_log;

/// A server at the time of a round. It goes into the header of each segment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Then {
    /// What changes the data and is not in the log.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unlogged: Vec<String>,
    /// Libraries of plugins that statements may need.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub libraries: BTreeSet<String>,
    /// Settings that decide what a statement makes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
}

impl Then {
    /// As it is now.
    ///
    /// # Errors
    /// The server cannot be asked.
    pub fn read(session: &mut Session, dialect: Dialect) -> Result<Then> {
        let variables = Variables::read(session)?;
        let libraries = facts::plugin_libraries(session).map(|(_, libraries)| libraries);
        Ok(Then {
            unlogged: whole_log::unlogged(session, dialect, &variables)?,
            libraries: split(libraries.as_deref().unwrap_or_default()),
            settings: facts::settings_of_statements(&variables),
        })
    }

    /// Takes what a later part of the log needs besides. Settings of the later part win; those that differ are given back.
    pub fn add(&mut self, later: Then) -> BTreeSet<String> {
        let mut changed = BTreeSet::new();
        for (name, value) in later.settings {
            match self.settings.insert(name.clone(), value.clone()) {
                Some(before) if before != value => drop(changed.insert(name)),
                _ => {}
            }
        }
        self.libraries.extend(later.libraries);
        for reason in later.unlogged {
            if !self.unlogged.contains(&reason) {
                self.unlogged.push(reason);
            }
        }
        changed
    }
}

/// Libraries as variables have them. A name with a path in it is none of the server's own plugins.
pub fn split(libraries: &str) -> BTreeSet<String> {
    let plain = |library: &&str| !library.is_empty() && !library.contains(['/', '\\']) && !library.starts_with('.');
    libraries.split(';').filter(plain).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_gets_what_any_part_needs_and_says_what_changed() {
        let then = |engine: &str, library: &str, unlogged: &[&str]| Then {
            unlogged: unlogged.iter().map(|text| (*text).to_owned()).collect(),
            libraries: split(library),
            settings: [("default_storage_engine".to_owned(), engine.to_owned())].into(),
        };
        let mut all = then("InnoDB", "a.so;../evil.so;/x/y.so", &[]);
        assert_eq!(all.libraries, split("a.so"));
        assert!(all.add(then("InnoDB", "b.so", &["x"])).is_empty());
        assert_eq!(all.add(then("Aria", "", &["x"])).len(), 1);
        assert_eq!(all.libraries, split("a.so;b.so"));
        assert_eq!(
            (all.settings["default_storage_engine"].as_str(), all.unlogged.len()),
            ("Aria", 1)
        );
    }
}
