//! The scratch server's option file. It is the only one that is read: what the data needs comes from the backup's record, every path is below the scratch space, and
//! what could reach out or change the data by itself is off.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use super::super::place::{Place, libraries, path_options};
use super::Wishes;
use crate::database::{Error, Flavour, Result, ServerFacts};

/// Settings without which the data cannot be read, or reads as something else: as the record has them, where it has them.
const OF_THE_DATA: &[&str] = &[
    "aria_block_size",
    "character_set_server",
    "collation_server",
    "ft_max_word_len",
    "ft_min_word_len",
    "gtid_domain_id",
    "gtid_mode",
    "gtid_strict_mode",
    "innodb_checksum_algorithm",
    "innodb_log_file_size",
    "innodb_log_files_in_group",
    "innodb_page_size",
    "innodb_redo_log_capacity",
    "innodb_undo_tablespaces",
    "lower_case_table_names",
    "sql_mode",
];

/// Settings that hold in every scratch server. `loose-`: only one of the flavours, or some versions, know it.
const ALWAYS: &[(&str, &str)] = &[
    // Nothing from outside, nothing to outside.
    ("skip-networking", "ON"),
    ("loose-mysqlx", "OFF"),
    ("loose-federated", "OFF"),
    ("loose-spider", "OFF"),
    ("loose-feedback", "OFF"),
    ("loose-wsrep-on", "OFF"),
    // Nothing by itself.
    ("event-scheduler", "OFF"),
    ("loose-skip-replica-start", "ON"),
    ("loose-relay-log-recovery", "OFF"),
    ("loose-group-replication-start-on-boot", "OFF"),
    ("loose-persisted-globals-load", "OFF"),
    ("loose-upgrade", "MINIMAL"),
    ("loose-binlog-expire-logs-seconds", "0"),
    // A repair on opening would hide what the checks look for.
    ("myisam-recover-options", "OFF"),
    ("loose-aria-recover-options", "OFF"),
    // A copy that is thrown away need not survive a power cut.
    ("innodb-flush-log-at-trx-commit", "0"),
    ("sync-binlog", "0"),
    ("loose-innodb-buffer-pool-load-at-startup", "OFF"),
    ("loose-innodb-buffer-pool-dump-at-shutdown", "OFF"),
    // Bounded memory.
    ("performance-schema", "OFF"),
    ("key-buffer-size", "16777216"),
    ("loose-aria-pagecache-buffer-size", "16777216"),
    ("loose-rocksdb-block-cache-size", "16777216"),
    ("table-open-cache", "400"),
    ("loose-table-definition-cache", "400"),
    ("loose-innodb-log-buffer-size", "16777216"),
    // The longest row that there can be, which whoever reads it must be able to ask for.
    ("max-allowed-packet", "1073741824"),
    // What it says.
    ("loose-log-error-verbosity", "3"),
    ("general-log", "OFF"),
    ("slow-query-log", "OFF"),
    ("loose-auto-generate-certs", "OFF"),
    ("loose-sha256-password-auto-generate-rsa-keys", "OFF"),
    ("loose-caching-sha2-password-auto-generate-rsa-keys", "OFF"),
];

/// The option file's text; `run` is the server's own directory, `init` the file with its first statements.
///
/// # Errors
/// The record names a path that is not in the backup, or something that an option file cannot hold.
pub(super) fn text(place: &Place<'_>, wishes: &Wishes, run: &Path, init: &Path) -> Result<String> {
    let mut file = File("# Written by snapback for a scratch server.\n[mysqld]\n".to_owned());
    let facts = place.facts;
    // The user's first: ours win.
    for (key, value) in &wishes.options {
        file.set(key, value)?;
    }
    for name in OF_THE_DATA {
        if let Some(value) = facts.variables.get(*name) {
            file.set(&format!("loose-{}", name.replace('_', "-")), value)?;
        }
    }
    if facts
        .variables
        .get("gtid_mode")
        .is_some_and(|mode| mode.starts_with("ON"))
    {
        file.set("loose-enforce-gtid-consistency", "ON")?;
    }
    if let Some(zone) = facts.variables.get("time_zone").filter(|zone| *zone != "SYSTEM") {
        file.set("default-time-zone", zone)?;
    }
    for library in libraries(place) {
        file.set("plugin-load-add", library)?;
    }
    for (key, value) in ALWAYS {
        file.set(key, value)?;
    }
    if facts.flavour == Flavour::MariaDb {
        file.set("skip-slave-start", "ON")?;
    }
    let memory = wishes.memory.max(32 << 20).to_string();
    file.set("innodb-buffer-pool-size", &memory)?;
    file.set("loose-innodb-buffer-pool-size-max", &memory)?;
    file.set("max-connections", &(wishes.connections + 8).to_string())?;
    paths(&mut file, place, wishes, run)?;
    file.path("init-file", init)?;
    if wishes.clean {
        // Everything is purged, merged and written back: nothing is left to recover.
        file.set("innodb-fast-shutdown", "0")?;
    }
    Ok(file.0)
}

/// Every path that a server writes.
fn paths(file: &mut File, place: &Place<'_>, wishes: &Wishes, run: &Path) -> Result<()> {
    let facts = place.facts;
    file.path("socket", &run.join("s"))?;
    file.path("pid-file", &run.join("pid"))?;
    file.path("log-error", &run.join("error.log"))?;
    file.path("general-log-file", &run.join("general.log"))?;
    file.path("slow-query-log-file", &run.join("slow.log"))?;
    let temporary = run.join("tmp");
    file.path("tmpdir", &temporary)?;
    file.path("loose-innodb-tmpdir", &temporary)?;
    file.path("loose-slave-load-tmpdir", &temporary)?;
    file.path("secure-file-priv", &temporary)?;
    let mariadb = facts.flavour == Flavour::MariaDb;
    if mariadb && !wishes.replication {
        // What the data know of their replication is neither read nor written: relay logs have other names here, and MariaDB does not start when it misses those of a named
        // connection ("Failed to initialize multi master structures").
        file.path("master-info-file", &temporary.join("master.info"))?;
        file.path("relay-log-info-file", &temporary.join("relay-log.info"))?;
    }
    // Where the backup has relay logs, the options of its paths say so after this.
    if mariadb && wishes.replication {
        file.set("relay-log", &usual_relay_log(facts))?;
    } else {
        file.path("relay-log", &temporary.join("relay-log"))?;
        file.path("relay-log-index", &temporary.join("relay-log-index"))?;
    }
    for (option, value) in path_options(place)? {
        file.set(option, &value)?;
    }
    if !facts.log_bin {
        file.0.push_str("skip-log-bin\n");
    }
    Ok(())
}

/// MariaDB names relay logs by its pid file, unless told otherwise (manual, "relay_log").
fn usual_relay_log(facts: &ServerFacts) -> String {
    let pid_file = facts.variables.get("pid_file").map(Path::new);
    let stem = pid_file.and_then(Path::file_stem).and_then(std::ffi::OsStr::to_str);
    format!("{}-relay-bin", stem.unwrap_or("mysqld"))
}

/// The text while it grows.
struct File(String);

impl File {
    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if key.is_empty() || !key.chars().all(plain) || value.contains(['\n', '\r', '"', '\'']) {
            return Err(Error::Unsupported(format!(
                "the option `{key}` cannot be written into an option file: its value is `{value}`"
            )));
        }
        let _ = writeln!(self.0, "{key}=\"{}\"", value.replace('\\', "\\\\"));
        Ok(())
    }

    fn path(&mut self, key: &str, path: &Path) -> Result<()> {
        let text = path.to_str().ok_or_else(|| {
            Error::Unsupported(format!(
                "the path {} is no UTF-8: choose another --scratch",
                path.display()
            ))
        })?;
        self.set(key, text)
    }
}

/// A setting's name that the user may give.
pub fn is_valid(options: &BTreeMap<String, String>) -> bool {
    let mut file = File(String::new());
    options.iter().all(|(key, value)| file.set(key, value).is_ok())
}

#[cfg(test)]
mod tests;
