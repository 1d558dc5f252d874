//! Every path that the server writes (trap 20): from its variables, from InnoDB's own list, and from the datadir itself.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::datadir::{self, Scan};
use super::engines;
use super::facts::Variables;
use super::flavour::Dialect;
use super::session::Session;
use crate::database::{PathRole, Result, WrittenPath};
use crate::finding::Finding;

/// An InnoDB tablespace file as the server names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tablespace {
    /// `schema/table`, or a general tablespace's name.
    pub name: String,
    /// Relative to the datadir, or absolute.
    pub file: PathBuf,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Footprint {
    /// The paths, each role and path once.
    pub paths: Vec<WrittenPath>,
    /// Oddities.
    pub findings: Vec<Finding>,
    /// Files of tables that are not InnoDB's, outside the system schemas.
    pub other_engines: Vec<PathBuf>,
}

/// Variables that name one path each, their role, and whether the server needs it to start on the copy.
const SINGLE: &[(&str, PathRole, bool)] = &[
    ("innodb_data_home_dir", PathRole::SystemTablespace, true),
    ("innodb_undo_directory", PathRole::Undo, true),
    ("innodb_doublewrite_dir", PathRole::Doublewrite, true),
    ("aria_log_dir_path", PathRole::AriaLog, true),
    ("rocksdb_datadir", PathRole::External, true),
    ("rocksdb_wal_dir", PathRole::External, true),
    ("tokudb_data_dir", PathRole::External, true),
    ("tokudb_log_dir", PathRole::External, true),
    ("tokudb_tmp_dir", PathRole::Temporary, false),
    ("innodb_temp_tablespaces_dir", PathRole::Temporary, false),
    ("innodb_tmpdir", PathRole::Temporary, false),
    ("slave_load_tmpdir", PathRole::Temporary, false),
    ("replica_load_tmpdir", PathRole::Temporary, false),
    ("general_log_file", PathRole::Log, false),
    ("slow_query_log_file", PathRole::Log, false),
    ("log_error", PathRole::Log, false),
    ("ssl_ca", PathRole::Secret, false),
    ("ssl_capath", PathRole::Secret, false),
    ("ssl_cert", PathRole::Secret, false),
    ("ssl_key", PathRole::Secret, false),
    ("admin_ssl_cert", PathRole::Secret, false),
    ("admin_ssl_key", PathRole::Secret, false),
    ("caching_sha2_password_private_key_path", PathRole::Secret, false),
    ("caching_sha2_password_public_key_path", PathRole::Secret, false),
    ("sha256_password_private_key_path", PathRole::Secret, false),
    ("sha256_password_public_key_path", PathRole::Secret, false),
];

/// Variables that name files with encryption keys, without which an encrypted copy is worthless.
const KEYRINGS: &[&str] = &[
    "keyring_file_data",
    "keyring_encrypted_file_data",
    "file_key_management_filename",
    "file_key_management_filekey",
    "keyring_okv_conf_dir",
    "keyring_vault_config",
];

/// Finds all paths.
///
/// # Errors
/// The datadir cannot be read, or the server cannot be asked.
pub fn footprint(session: &mut Session, variables: &Variables, dialect: Dialect, datadir: &Path) -> Result<Footprint> {
    let (spaces, mut findings) = match tablespaces(session, dialect) {
        Ok(spaces) => (spaces, Vec::new()),
        Err(error) => (Vec::new(), vec![unlisted(&error)]),
    };
    let keyring_files = keyring_component(session, dialect);
    let mut scan = datadir::scan(datadir)?;
    let elsewhere = engines::elsewhere(session, datadir)?;
    scan.links.extend(elsewhere.files);
    scan.findings.extend(elsewhere.findings);
    let mut footprint = assemble(variables, datadir, &spaces, &keyring_files, scan);
    footprint.findings.append(&mut findings);
    Ok(footprint)
}

fn unlisted(error: &crate::database::Error) -> Finding {
    Finding::warning(
        "tablespaces-not-listed",
        format!("the server does not list its InnoDB tablespaces ({error}); files outside the datadir may be missed"),
    )
    .remedy("grant PROCESS to the account")
}

/// InnoDB's own list. MariaDB has file names in INNODB_SYS_TABLESPACES since 10.6, before in INNODB_SYS_DATAFILES;
/// MySQL 8 in INNODB_DATAFILES. Not in FILES: that waits for whoever holds LOCK TABLES ... WRITE (measured on 9.7). What it has more,
/// undo tablespaces, can only lie in directories that the server names (InnoDB: "known directories").
fn tablespaces(session: &mut Session, dialect: Dialect) -> Result<Vec<Tablespace>> {
    let statement = match dialect.is_mariadb() {
        true if dialect.version >= (10, 6, 0) => "SELECT NAME, FILENAME FROM information_schema.INNODB_SYS_TABLESPACES",
        false if dialect.version >= (8, 0, 0) => {
            "SELECT t.NAME, d.PATH FROM information_schema.INNODB_DATAFILES d \
             JOIN information_schema.INNODB_TABLESPACES t USING (SPACE)"
        }
        _ => {
            "SELECT t.NAME, d.PATH FROM information_schema.INNODB_SYS_DATAFILES d \
             JOIN information_schema.INNODB_SYS_TABLESPACES t USING (SPACE)"
        }
    };
    let rows = session.rows(statement)?;
    let space = |row: &super::session::Row| {
        let mut values = row.values();
        let name = values.next().flatten().unwrap_or_default().to_owned();
        let file = PathBuf::from(values.next().flatten()?);
        Some(Tablespace { name, file })
    };
    Ok(rows.iter().filter_map(space).collect())
}

/// The file of MySQL's keyring component, where one is loaded.
fn keyring_component(session: &mut Session, dialect: Dialect) -> Vec<String> {
    if dialect.is_mariadb() || dialect.version < (8, 0, 24) {
        return Vec::new();
    }
    let statement = "SELECT STATUS_VALUE FROM performance_schema.keyring_component_status \
                     WHERE STATUS_KEY IN ('Data_file', 'Config_file')";
    // Without the privilege, or without a component, there is nothing to tell.
    let rows = session.rows(statement).unwrap_or_default();
    let files = rows.iter().filter_map(|row| row.first().map(str::to_owned));
    files.filter(|file| file.starts_with('/')).collect()
}

/// Puts everything together; touches nothing but symlinks.
pub(super) fn assemble(
    variables: &Variables,
    datadir: &Path,
    spaces: &[Tablespace],
    keyring_files: &[String],
    scan: Scan,
) -> Footprint {
    let mut list = List::new(datadir);
    list.add(PathRole::Datadir, &datadir.to_string_lossy(), true);
    for (variable, role, needed) in SINGLE {
        if let Some(value) = variables.get(variable).filter(|value| *value != "stderr") {
            list.add(*role, value, *needed);
        }
    }
    redo(&mut list, variables);
    system_tablespace(&mut list, variables);
    logs(&mut list, variables);
    separated(&mut list, variables, "tmpdir", ':', PathRole::Temporary);
    separated(
        &mut list,
        variables,
        "innodb_directories",
        ';',
        PathRole::InnodbDirectory,
    );
    external(&mut list, spaces);
    for (named, target) in &scan.links {
        list.push(
            PathRole::External,
            target.clone(),
            true,
            Some(named.to_string_lossy().into_owned()),
        );
    }
    let mut findings = scan.findings;
    keyrings(&mut list, variables, keyring_files, &mut findings);
    findings.append(&mut list.findings);
    Footprint {
        paths: without_nested(list.paths),
        findings,
        other_engines: scan.other_engines,
    }
}

/// An external file below an external directory is there already.
fn without_nested(mut paths: Vec<WrittenPath>) -> Vec<WrittenPath> {
    let external = |path: &&WrittenPath| path.role == PathRole::External;
    let tops: Vec<PathBuf> = paths.iter().filter(external).map(|path| path.path.clone()).collect();
    let nested = |path: &WrittenPath| tops.iter().any(|top| path.path != *top && path.path.starts_with(top));
    paths.retain(|path| path.role != PathRole::External || !nested(path));
    paths
}

fn redo(list: &mut List, variables: &Variables) {
    let home = variables.get("innodb_log_group_home_dir").unwrap_or("./");
    let own = list.resolve(home).join("#innodb_redo");
    if own.is_dir() {
        list.add(PathRole::Redo, &own.to_string_lossy(), true);
    } else {
        list.add(PathRole::Redo, home, true);
    }
}

/// `innodb_data_file_path`: `file:size[:autoextend[:max]]`, separated by `;`, relative to `innodb_data_home_dir`.
fn system_tablespace(list: &mut List, variables: &Variables) {
    let home = list.resolve(variables.get("innodb_data_home_dir").unwrap_or("./"));
    for spec in variables.get("innodb_data_file_path").unwrap_or_default().split(';') {
        let file = spec.split(':').next().unwrap_or_default().trim();
        if file.is_empty() {
            continue;
        }
        if spec.ends_with("raw") {
            list.findings.push(Finding::blocker(
                "raw-device",
                format!(
                    "the system tablespace lies on a raw device ({spec}), which cannot be snapshotted with the datadir"
                ),
            ));
        }
        list.add(PathRole::SystemTablespace, &home.join(file).to_string_lossy(), true);
    }
}

/// Binary and relay logs: the directories of their files and of their indexes.
fn logs(list: &mut List, variables: &Variables) {
    let sets = [
        // Without its binary log a copy can lose transactions that are prepared only, or refuse to start (trap 19).
        (
            PathRole::BinaryLog,
            variables.is_on("log_bin"),
            ["log_bin_basename", "log_bin_index"],
        ),
        (PathRole::RelayLog, false, ["relay_log_basename", "relay_log_index"]),
    ];
    for (role, needed, names) in sets {
        for value in names.into_iter().filter_map(|name| variables.get(name)) {
            let Some(dir) = list.resolve(value).parent().map(Path::to_path_buf) else {
                continue;
            };
            list.push(role, dir, needed, Some(value.to_owned()));
        }
    }
}

fn separated(list: &mut List, variables: &Variables, name: &str, separator: char, role: PathRole) {
    for value in variables.get(name).unwrap_or_default().split(separator) {
        if !value.trim().is_empty() {
            list.add(role, value.trim(), false);
        }
    }
}

/// Tablespaces outside the datadir: the schema's directory for file-per-table ones, which is the server's own;
/// the file alone for general ones, beside which anything may lie.
fn external(list: &mut List, spaces: &[Tablespace]) {
    for space in spaces {
        let file = &space.file;
        if file.is_relative() && !file.components().any(|part| part.as_os_str() == "..") {
            continue;
        }
        let path = list.resolve(&file.to_string_lossy());
        if path.starts_with(&list.datadir) {
            continue;
        }
        let schema = space.name.split_once('/').map(|(schema, _)| schema);
        let own_dir = path
            .parent()
            .filter(|dir| schema.is_some_and(|schema| dir.ends_with(schema)));
        let path = own_dir.unwrap_or(&path).to_path_buf();
        list.push(PathRole::External, path, true, None);
    }
}

fn keyrings(list: &mut List, variables: &Variables, component: &[String], findings: &mut Vec<Finding>) {
    let named = KEYRINGS
        .iter()
        .filter_map(|name| variables.get(name))
        .map(|value| value.trim_start_matches("FILE:"));
    for value in named.chain(component.iter().map(String::as_str)) {
        list.add(PathRole::Secret, value, false);
        findings.push(
            Finding::warning(
                "keyring",
                format!("encryption keys lie at {value}; an encrypted copy is worthless without them"),
            )
            .remedy("keep them elsewhere, or copy them with `include_secrets: true`"),
        );
    }
}

/// Collects paths, each role and path once.
struct List {
    datadir: PathBuf,
    seen: BTreeSet<(PathRole, PathBuf)>,
    paths: Vec<WrittenPath>,
    findings: Vec<Finding>,
}

impl List {
    fn new(datadir: &Path) -> List {
        List {
            datadir: datadir.to_owned(),
            seen: BTreeSet::new(),
            paths: Vec::new(),
            findings: Vec::new(),
        }
    }

    /// Absolute and without symlinks, as far as it exists.
    fn resolve(&self, value: &str) -> PathBuf {
        resolve(&self.datadir.join(value))
    }

    fn add(&mut self, role: PathRole, value: &str, needed: bool) {
        let path = self.resolve(value);
        let named = (path != Path::new(value)).then(|| value.to_owned());
        self.push(role, path, needed, named);
    }

    fn push(&mut self, role: PathRole, path: PathBuf, needed: bool, named: Option<String>) {
        if needed && !path.exists() {
            self.findings.push(Finding::blocker(
                "path-not-visible",
                format!("the server writes to {}, which is not visible here", path.display()),
            ));
        }
        if self.seen.insert((role, path.clone())) {
            self.paths.push(WrittenPath {
                role,
                path,
                needed,
                named,
            });
        }
    }
}

/// Resolves symlinks of the longest part that exists and keeps the rest.
pub(super) fn resolve(path: &Path) -> PathBuf {
    if let Ok(path) = path.canonicalize() {
        return path;
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => resolve(parent).join(name),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn found(paths: &[WrittenPath], role: PathRole) -> Vec<&Path> {
        paths
            .iter()
            .filter(|path| path.role == role)
            .map(|path| path.path.as_path())
            .collect()
    }

    #[test]
    fn settings_relative_absolute_and_linked_are_resolved() {
        let top = tempfile::tempdir().unwrap();
        let top = top.path().canonicalize().unwrap();
        for dir in ["data/#innodb_redo", "data/undo", "logs", "ibdata", "ext/shop", "tmp1"] {
            fs::create_dir_all(top.join(dir)).unwrap();
        }
        for file in ["ibdata/ibdata1", "data/ibdata2", "ext/ts1.ibd", "ext/shop/t.ibd"] {
            fs::write(top.join(file), "").unwrap();
        }
        std::os::unix::fs::symlink(top.join("logs"), top.join("link")).unwrap();
        let datadir = top.join("data");
        let at = |rest: &str| top.join(rest).to_string_lossy().into_owned();
        let (ibdata, binlog, tmp) = (
            at("ibdata/ibdata1"),
            at("link/binlog"),
            format!("{}:{}", at("tmp1"), at("tmp2")),
        );
        let file_path = format!("{ibdata}:12M;ibdata2:10M:autoextend");
        let variables = Variables::of(&[
            ("innodb_data_file_path", &file_path),
            ("innodb_undo_directory", "./undo"),
            ("innodb_log_group_home_dir", "./"),
            ("log_bin", "ON"),
            ("log_bin_basename", &binlog),
            ("tmpdir", &tmp),
            ("ssl_key", "server-key.pem"),
        ]);
        let space = |name: &str, file: String| Tablespace {
            name: name.into(),
            file: file.into(),
        };
        let spaces = [
            space("shop/inside", "./shop/inside.ibd".into()),
            space("shop/t", at("ext/shop/t.ibd")),
            space("ts1", at("ext/ts1.ibd")),
            space("ts2", "../ext/ts1.ibd".into()),
        ];
        let footprint = assemble(&variables, &datadir, &spaces, &[], Scan::default());
        let paths = &footprint.paths;
        assert_eq!(found(paths, PathRole::Redo), [datadir.join("#innodb_redo")]);
        assert_eq!(found(paths, PathRole::Undo), [datadir.join("undo")]);
        assert_eq!(
            found(paths, PathRole::SystemTablespace),
            [top.join("ibdata/ibdata1"), datadir.join("ibdata2")]
        );
        assert_eq!(found(paths, PathRole::BinaryLog), [top.join("logs")]);
        assert_eq!(
            found(paths, PathRole::External),
            [top.join("ext/shop"), top.join("ext/ts1.ibd")]
        );
        assert_eq!(found(paths, PathRole::Temporary), [top.join("tmp1"), top.join("tmp2")]);
        assert_eq!(found(paths, PathRole::Secret), [datadir.join("server-key.pem")]);
        assert!(footprint.findings.is_empty(), "{:?}", footprint.findings);
        let log = paths.iter().find(|path| path.role == PathRole::BinaryLog).unwrap();
        assert!(log.needed);
        assert_eq!(log.named.as_deref(), Some(binlog.as_str()));
    }

    #[test]
    fn raw_devices_and_missing_paths_block() {
        let datadir = tempfile::tempdir().unwrap();
        let variables = Variables::of(&[
            ("innodb_data_file_path", "/dev/null:3Graw"),
            ("innodb_undo_directory", "/nonexistent/undo"),
        ]);
        let footprint = assemble(&variables, datadir.path(), &[], &[], Scan::default());
        let codes: Vec<_> = footprint.findings.iter().map(|finding| finding.code.as_str()).collect();
        assert_eq!(codes, ["path-not-visible", "raw-device"]);
    }

    #[test]
    fn keys_are_warned_of() {
        let datadir = tempfile::tempdir().unwrap();
        let variables = Variables::of(&[("file_key_management_filename", "/etc/mysql/keys.enc")]);
        let footprint = assemble(&variables, datadir.path(), &[], &[], Scan::default());
        assert_eq!(footprint.findings[0].code, "keyring");
        assert_eq!(
            found(&footprint.paths, PathRole::Secret),
            [Path::new("/etc/mysql/keys.enc")]
        );
    }
}
