//! The scratch server's option file. It is the only one that is read: what the data needs comes from the backup's record, every path is below the scratch space, and
//! what could reach out or change the data by itself is off.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::{Place, Wishes};
use crate::database::{Error, Flavour, PathRole, Result, WrittenPath};

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
    ("skip-name-resolve", "ON"),
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
    ("table-open-cache", "400"),
    ("loose-table-definition-cache", "400"),
    ("loose-innodb-log-buffer-size", "16777216"),
    // What it says.
    ("loose-log-error-verbosity", "3"),
    ("general-log", "OFF"),
    ("slow-query-log", "OFF"),
    ("loose-auto-generate-certs", "OFF"),
    ("loose-sha256-password-auto-generate-rsa-keys", "OFF"),
    ("loose-caching-sha2-password-auto-generate-rsa-keys", "OFF"),
];

/// The option file's text.
///
/// # Errors
/// The record names a path that is not in the backup, or something that an option file cannot hold.
pub(super) fn text(place: &Place<'_>, wishes: &Wishes, run: &Path) -> Result<String> {
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
    let libraries = facts
        .variables
        .get("engine_libraries")
        .map(String::as_str)
        .unwrap_or_default();
    let reaches_out = |library: &str| {
        ["federated", "spider", "connect"]
            .iter()
            .any(|word| library.contains(word))
    };
    let plain = |library: &str| !library.is_empty() && !library.contains(['/', '=']);
    for library in libraries
        .split(';')
        .filter(|library| plain(library) && !reaches_out(library))
    {
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
    paths(&mut file, place, run)?;
    Ok(file.0)
}

/// Every path that a server writes.
fn paths(file: &mut File, place: &Place<'_>, run: &Path) -> Result<()> {
    let facts = place.facts;
    file.path("datadir", place.datadir)?;
    file.path("socket", &run.join("s"))?;
    file.path("pid-file", &run.join("pid"))?;
    file.path("log-error", &run.join("error.log"))?;
    file.path("general-log-file", &run.join("general.log"))?;
    file.path("slow-query-log-file", &run.join("slow.log"))?;
    file.path("init-file", &run.join("init.sql"))?;
    let temporary = run.join("tmp");
    file.path("tmpdir", &temporary)?;
    file.path("loose-innodb-tmpdir", &temporary)?;
    file.path("loose-slave-load-tmpdir", &temporary)?;
    file.path("secure-file-priv", &temporary)?;

    let moved = Moved { place };
    if let Some(home) = facts
        .variables
        .get("innodb_data_home_dir")
        .filter(|home| !home.is_empty())
    {
        file.path("innodb-data-home-dir", &moved.of(home, "innodb_data_home_dir")?)?;
    }
    if let Some(specification) = facts.variables.get("innodb_data_file_path") {
        file.set("innodb-data-file-path", &moved.data_files(specification)?)?;
    }
    for (role, option) in [
        (PathRole::Redo, "innodb-log-group-home-dir"),
        (PathRole::Undo, "innodb-undo-directory"),
        (PathRole::Doublewrite, "loose-innodb-doublewrite-dir"),
        (PathRole::AriaLog, "loose-aria-log-dir-path"),
    ] {
        if let Some(written) = place.paths.iter().find(|written| written.role == role) {
            // MySQL's own directory for redo is named below its home.
            let is_inner = written.path.ends_with("#innodb_redo");
            let home = if is_inner {
                written.path.parent().unwrap_or(&written.path)
            } else {
                &written.path
            };
            file.path(option, &moved.path(home, option)?)?;
        }
    }
    let externals = place
        .trees
        .iter()
        .map(|(_, at)| at.as_path())
        .filter(|at| *at != place.datadir);
    let externals: Vec<String> = externals.map(|at| at.display().to_string()).collect();
    if !externals.is_empty() && facts.flavour == Flavour::MySql {
        file.set("loose-innodb-directories", &externals.join(";"))?;
    }
    logs(file, &moved, run)
}

/// The copy keeps its binary log: without it a server may refuse prepared transactions, or lose them (trap 19).
fn logs(file: &mut File, moved: &Moved<'_>, run: &Path) -> Result<()> {
    let facts = moved.place.facts;
    let variable = |name: &str| facts.variables.get(name).filter(|value| !value.is_empty());
    match variable("log_bin_basename").filter(|_| facts.log_bin) {
        Some(basename) => {
            file.path("log-bin", &moved.of(basename, "log_bin_basename")?)?;
            if let Some(index) = variable("log_bin_index") {
                file.path("log-bin-index", &moved.of(index, "log_bin_index")?)?;
            }
            file.set("server-id", &facts.server_id.max(1).to_string())?;
        }
        None => file.0.push_str("skip-log-bin\n"),
    }
    for (name, option) in [
        ("relay_log_basename", "relay-log"),
        ("relay_log_index", "relay-log-index"),
    ] {
        let Some(value) = variable(name) else { continue };
        // Relay logs may be left out of a backup; then the server finds none, which is as good here.
        let at = moved.of(value, name).unwrap_or_else(|_| run.join("tmp").join(option));
        file.path(option, &at)?;
    }
    Ok(())
}

/// Where what the record names is now.
struct Moved<'p> {
    place: &'p Place<'p>,
}

impl Moved<'_> {
    /// A setting's value: relative to the datadir, absolute, or through a symlink that the record resolved.
    fn of(&self, value: &str, setting: &str) -> Result<PathBuf> {
        let named = |written: &&WrittenPath| written.named.as_deref() == Some(value) && !is_log(written.role);
        let absolute = match self.place.paths.iter().find(named) {
            Some(written) => written.path.clone(),
            None => self.place.facts.datadir.join(value),
        };
        // A log's name keeps its last part; its directory is what the record resolved.
        let log = self
            .place
            .paths
            .iter()
            .find(|written| written.named.as_deref() == Some(value) && is_log(written.role));
        let absolute = match (log, absolute.file_name()) {
            (Some(log), Some(name)) => log.path.join(name),
            _ => absolute,
        };
        self.path(&absolute, setting)
    }

    fn path(&self, original: &Path, setting: &str) -> Result<PathBuf> {
        self.place.moved(original).ok_or_else(|| {
            Error::Unsupported(format!(
                "{} ({setting}) is not in this backup: a server cannot start on the copy",
                original.display()
            ))
        })
    }

    /// `file:size[:autoextend[:max]]`, separated by `;`: only absolute files move.
    fn data_files(&self, specification: &str) -> Result<String> {
        let one = |spec: &str| {
            let (name, rest) = spec.split_once(':').unwrap_or((spec, ""));
            match Path::new(name).is_absolute() {
                true => Ok(format!("{}:{rest}", self.of(name, "innodb_data_file_path")?.display())),
                false => Ok(spec.to_owned()),
            }
        };
        Ok(specification.split(';').map(one).collect::<Result<Vec<_>>>()?.join(";"))
    }
}

fn is_log(role: PathRole) -> bool {
    matches!(role, PathRole::BinaryLog | PathRole::RelayLog)
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
