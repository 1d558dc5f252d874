//! What the server says about itself, read once in one statement.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::flavour::{Dialect, recognise};
use super::session::Session;
use crate::database::{Error, Result, ServerFacts};

/// The variables that go into [`ServerFacts::variables`]: what a restore, a scratch server and a person need to know.
const KEPT: &[&str] = &[
    "aria_block_size",
    "aria_log_dir_path",
    "basedir",
    "binlog_checksum",
    "binlog_encryption",
    "binlog_format",
    "character_set_server",
    "collation_server",
    "default_storage_engine",
    "encrypt_binlog",
    "ft_max_word_len",
    "ft_min_word_len",
    "gtid_domain_id",
    "gtid_mode",
    "gtid_strict_mode",
    "innodb_checksum_algorithm",
    "innodb_data_file_path",
    "innodb_data_home_dir",
    "innodb_doublewrite",
    "innodb_file_per_table",
    "innodb_flush_method",
    "innodb_log_file_size",
    "innodb_log_files_in_group",
    "innodb_page_size",
    "innodb_redo_log_capacity",
    "innodb_undo_directory",
    "innodb_undo_tablespaces",
    "innodb_version",
    "log_bin_basename",
    "log_bin_index",
    "log_replica_updates",
    "log_slave_updates",
    "lower_case_table_names",
    "pid_file",
    "plugin_dir",
    "port",
    "read_only",
    "relay_log_basename",
    "relay_log_index",
    "socket",
    "sql_mode",
    "time_zone",
    "version_comment",
    "wsrep_cluster_name",
    "wsrep_on",
];

/// The variables of [`settings_of_statements`].
const OF_STATEMENTS: &[&str] = &[
    "character_set_collations",
    "character_set_server",
    "collation_server",
    "default_storage_engine",
    "default_week_format",
    "div_precision_increment",
    "enforce_storage_engine",
    "explicit_defaults_for_timestamp",
    "group_concat_max_len",
    "innodb_compression_algorithm",
    "innodb_default_row_format",
    "innodb_file_per_table",
    "innodb_strict_mode",
    "log_bin_trust_function_creators",
    "old_mode",
    "sql_generate_invisible_primary_key",
    "sql_mode",
    "sql_require_primary_key",
];

impl From<BTreeMap<String, String>> for Variables {
    fn from(settings: BTreeMap<String, String>) -> Variables {
        Variables(settings)
    }
}

/// All global variables, by lower-case name.
#[derive(Debug, Clone, Default)]
pub struct Variables(BTreeMap<String, String>);

impl Variables {
    /// # Errors
    /// The server cannot be asked.
    pub fn read(session: &mut Session) -> Result<Variables> {
        let rows = session.rows("SHOW GLOBAL VARIABLES")?;
        let pairs = rows.iter().map(|row| {
            let mut values = row.values();
            let mut next = || values.next().flatten().unwrap_or_default().to_owned();
            (next().to_ascii_lowercase(), next())
        });
        Ok(Variables(pairs.collect()))
    }

    /// Variables of a test.
    #[cfg(test)]
    pub fn of(pairs: &[(&str, &str)]) -> Variables {
        Variables(
            pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        )
    }

    /// The value; `None` when the server does not know the variable or has it empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Whether it is ON.
    pub fn is_on(&self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|value| value == "1" || value.eq_ignore_ascii_case("on") || value.eq_ignore_ascii_case("yes"))
    }

    /// As a number.
    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.get(name)?.parse().ok()
    }

    /// Whether the server is a node of a Galera cluster.
    pub fn is_galera(&self) -> bool {
        self.is_on("wsrep_on")
    }
}

/// Makes the facts. The datadir is resolved where it can be seen from here; [`super::paths`] insists on it.
///
/// # Errors
/// The server did not say what every server says.
pub fn facts(variables: &Variables, address: &str) -> Result<ServerFacts> {
    let need = |name: &str| {
        variables
            .get(name)
            .ok_or_else(|| Error::Unsupported(format!("the server at {address} does not tell @@{name}")))
    };
    let version = need("version")?;
    let (flavour, version_number) = recognise(version, variables.get("version_comment").unwrap_or_default());
    let datadir = PathBuf::from(need("datadir")?);
    let kept = KEPT
        .iter()
        .chain(OF_STATEMENTS)
        .filter_map(|name| Some(((*name).to_owned(), variables.get(name)?.to_owned())));
    Ok(ServerFacts {
        flavour,
        version: version.to_owned(),
        version_number,
        address: address.to_owned(),
        hostname: variables.get("hostname").unwrap_or_default().to_owned(),
        server_id: variables.number("server_id").unwrap_or(0),
        server_uuid: variables.get("server_uuid").map(str::to_owned),
        datadir: datadir.canonicalize().unwrap_or(datadir),
        log_bin: variables.is_on("log_bin"),
        flush_log_at_trx_commit: variables.number("innodb_flush_log_at_trx_commit").unwrap_or(1),
        sync_binlog: variables.number("sync_binlog").unwrap_or(0),
        variables: kept.collect(),
    })
}

/// The libraries of storage engines that are not built in, separated by `;`. It stands among the variables as `engine_libraries`: without them tables of such engines
/// cannot be opened elsewhere, and only those that were installed by statement are known to the data itself.
pub fn engine_libraries(session: &mut Session) -> Option<(String, String)> {
    // A server that does not tell has none that matter.
    let rows = session.rows(
        "SELECT DISTINCT PLUGIN_LIBRARY FROM information_schema.PLUGINS \
         WHERE PLUGIN_TYPE = 'STORAGE ENGINE' AND PLUGIN_STATUS = 'ACTIVE' AND PLUGIN_LIBRARY IS NOT NULL",
    );
    let libraries: Vec<String> = rows
        .ok()?
        .iter()
        .filter_map(|row| row.first().map(str::to_owned))
        .collect();
    (!libraries.is_empty()).then(|| ("engine_libraries".to_owned(), libraries.join(";")))
}

/// The libraries of all plugins that statements of a log may need, separated by `;`, as `plugin_libraries`: engines, authentication, parsers, types, functions.
pub fn plugin_libraries(session: &mut Session) -> Option<(String, String)> {
    libraries_where(
        session,
        "plugin_libraries",
        "PLUGIN_TYPE IN ('STORAGE ENGINE', 'AUTHENTICATION', 'FTPARSER', 'DATA TYPE', 'FUNCTION')",
    )
}

/// The libraries that the data may need and that are no storage engines, separated by `;`: providers of page compression (`provider_lz4`), parsers of full-text
/// indexes, types and functions of columns, and what accounts log in by. They stand among the variables as `data_libraries`. What watches, replicates or listens is not
/// among them. Encryption is not either: it takes options and keys as well.
pub fn data_libraries(session: &mut Session) -> Option<(String, String)> {
    libraries_where(
        session,
        "data_libraries",
        "(PLUGIN_TYPE IN ('FTPARSER', 'DATA TYPE', 'FUNCTION', 'AUTHENTICATION') OR PLUGIN_NAME LIKE 'provider\\_%')",
    )
}

/// The libraries of active plugins, under a name of ours among the variables.
fn libraries_where(session: &mut Session, name: &str, which: &str) -> Option<(String, String)> {
    let rows = session.rows(&format!(
        "SELECT DISTINCT PLUGIN_LIBRARY FROM information_schema.PLUGINS \
         WHERE PLUGIN_STATUS = 'ACTIVE' AND PLUGIN_LIBRARY IS NOT NULL AND {which} ORDER BY 1"
    ));
    let libraries: Vec<String> = rows
        .ok()?
        .iter()
        .filter_map(|row| row.first().map(str::to_owned))
        .collect();
    (!libraries.is_empty()).then(|| (name.to_owned(), libraries.join(";")))
}

/// The settings that decide what a statement of a log makes, and that it does not carry with it, as they are now.
pub fn settings_of_statements(variables: &Variables) -> BTreeMap<String, String> {
    let of = |name: &&str| Some(((**name).to_owned(), variables.get(name)?.to_owned()));
    OF_STATEMENTS.iter().filter_map(of).collect()
}

/// The dialect of a server.
pub fn dialect(facts: &ServerFacts) -> Dialect {
    Dialect {
        flavour: facts.flavour,
        version: facts.version_number,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::Flavour;

    #[test]
    fn facts_come_from_the_variables() {
        let variables = Variables::of(&[
            ("version", "10.11.19-MariaDB-log"),
            ("datadir", "/nonexistent/data/"),
            ("log_bin", "ON"),
            ("innodb_flush_log_at_trx_commit", "2"),
            ("sync_binlog", "7"),
            ("server_id", "4294967295"),
            ("gtid_strict_mode", "OFF"),
            ("init_connect", "set @secret='x'"),
        ]);
        let facts = facts(&variables, "socket /x").unwrap();
        assert_eq!((facts.flavour, facts.version_number), (Flavour::MariaDb, (10, 11, 19)));
        assert_eq!((facts.flush_log_at_trx_commit, facts.sync_binlog), (2, 7));
        assert!(facts.log_bin);
        assert_eq!(facts.server_id, u64::from(u32::MAX));
        assert_eq!(facts.variables.keys().collect::<Vec<_>>(), ["gtid_strict_mode"]);
    }

    #[test]
    fn the_redo_log_has_a_size_by_either_servers_variables() {
        let capacity = |more: &[(&str, &str)]| {
            let base = [("version", "9.7.4"), ("datadir", "/nonexistent/data/")];
            let all = [base.as_slice(), more].concat();
            facts(&Variables::of(&all), "h:1").unwrap().redo_capacity()
        };
        assert_eq!(capacity(&[]), None);
        assert_eq!(capacity(&[("innodb_log_file_size", "100")]), Some(100));
        let (size, files) = (("innodb_log_file_size", "100"), ("innodb_log_files_in_group", "2"));
        assert_eq!(capacity(&[size, files]), Some(200));
        assert_eq!(capacity(&[size, ("innodb_redo_log_capacity", "700")]), Some(700));
    }

    #[test]
    fn a_server_without_a_datadir_is_an_error() {
        let error = facts(&Variables::of(&[("version", "9.7.4")]), "h:1").unwrap_err();
        assert!(error.to_string().contains("@@datadir"), "{error}");
    }
}
