//! How a server is started on restored data.

use std::path::{Path, PathBuf};

use crate::database::mysql::place::{Place, libraries, path_options};
use crate::database::{Flavour, PathRole, Result};
use crate::record::Record;
use crate::sys::host;

/// Settings without which a server cannot read the data, or goes on with it in another way, and what they usually are.
const OF_THE_DATA: [(&str, &str); 5] = [
    ("aria_block_size", "8192"),
    ("gtid_domain_id", "0"),
    ("gtid_mode", "OFF"),
    ("innodb_page_size", "16384"),
    ("lower_case_table_names", "0"),
];

/// The longest name of a Unix socket (sun_path), in bytes.
const LONGEST_SOCKET: usize = 107;

/// For a server that is where it was: by the command that is configured, else by the usual unit.
pub(super) fn in_place(record: &Record, flavour: Flavour, configured: Option<&str>) -> String {
    let command = configured.unwrap_or(match flavour {
        Flavour::MariaDb => "systemctl start mariadb",
        Flavour::MySql => "systemctl start mysql",
    });
    let replica = match skip_replication(record) {
        Some(option) => {
            format!(
                "; it goes on replicating from its source by itself: put `{option}` into its option file if it must not"
            )
        }
        None => String::new(),
    };
    format!("start the server: {command}{replica}")
}

/// For a server on a copy, perhaps beside the one that it was taken from: it shares no option file, no socket, no port and no identity with that.
pub(super) fn elsewhere(record: &Record, copy: &Place<'_>, owner: Option<(u32, u32)>) -> String {
    let mounts = mounts(copy);
    let seen = match mounts.is_empty() {
        true => "",
        false => {
            ". As root, and no other way while the old server's files are there: its redo log names tables outside the datadir by their old \
             paths, so it is shown the copies there"
        }
    };
    match command(record, copy, owner, &mounts) {
        Ok(words) => format!(
            "start a server on it, with its own socket and no network (no option file is read: add what you need of the old one){seen}:\n  {}",
            words.join(" \\\n    ")
        ),
        Err(error) => format!("no command to start a server on it can be given: {error}"),
    }
}

/// Copies of tables outside the datadir, each with the original that MariaDB's recovery would open instead, where it is there.
fn mounts<'p>(copy: &Place<'p>) -> Vec<&'p (PathBuf, PathBuf)> {
    let external = |path: &Path| {
        let mut paths = copy.paths.iter();
        paths.any(|written| written.role == PathRole::External && written.path.starts_with(path))
    };
    let mut mounts: Vec<_> = copy
        .trees
        .iter()
        .filter(|(original, at)| {
            copy.facts.flavour == Flavour::MariaDb && at != copy.datadir && original.exists() && external(original)
        })
        .collect();
    mounts.sort();
    mounts
}

fn command(
    record: &Record,
    copy: &Place<'_>,
    owner: Option<(u32, u32)>,
    mounts: &[&(PathBuf, PathBuf)],
) -> Result<Vec<String>> {
    let flavour = copy.facts.flavour;
    let program = match flavour {
        Flavour::MariaDb => "mariadbd",
        Flavour::MySql => "mysqld",
    };
    let mut words = Vec::new();
    if !mounts.is_empty() {
        let mount = |(original, at): &&(PathBuf, PathBuf)| {
            let (at, original) = (at.display().to_string(), original.display().to_string());
            format!("mount --bind {} {} && ", quoted(&at), quoted(&original))
        };
        let script: String = mounts.iter().map(mount).collect();
        words.push(format!(
            "unshare --mount sh -c {} sh",
            quoted(&format!("{script}exec \"$@\""))
        ));
    }
    let owner = owner.filter(|_| host::is_root() || !mounts.is_empty());
    // Servers take no number without an account.
    if let Some((uid, gid)) = owner.filter(|(uid, _)| !host::has_account(*uid)) {
        words.push(format!("setpriv --reuid={uid} --regid={gid} --clear-groups"));
    }
    words.push(format!("{program} --no-defaults"));
    let mut add = |name: &str, value: &str| words.push(quoted(&format!("--{name}={value}")));
    if let Some((uid, _)) = owner.filter(|(uid, _)| host::has_account(*uid)) {
        add("user", &host::user_name(uid));
    }
    for (name, value) in path_options(copy)? {
        add(name, &value);
    }
    add("socket", &beside(copy, "mysqld.sock"));
    // MariaDB names its relay logs by this file, unless told otherwise.
    let pid_file = copy
        .facts
        .variables
        .get("pid_file")
        .map(Path::new)
        .and_then(Path::file_name);
    let pid_file = pid_file.and_then(std::ffi::OsStr::to_str).unwrap_or("mysqld.pid");
    add("pid-file", &beside(copy, pid_file));
    for (name, usual) in OF_THE_DATA {
        if let Some(value) = copy.facts.variables.get(name).filter(|value| *value != usual) {
            add(&name.replace('_', "-"), value);
        }
    }
    for library in libraries(copy) {
        add("plugin-load-add", library);
    }
    let gtids = copy.facts.variables.get("gtid_mode");
    if gtids.is_some_and(|mode| mode.starts_with("ON")) {
        add("enforce-gtid-consistency", "ON");
    }
    if flavour == Flavour::MySql {
        add("mysqlx", "OFF");
        // Its default directory may not be there.
        add("secure-file-priv", "NULL");
    }
    words.push("--skip-networking".to_owned());
    if !copy.facts.log_bin {
        words.push("--skip-log-bin".to_owned());
    }
    if let Some(option) = skip_replication(record) {
        words.push(format!("--{option}"));
    }
    Ok(words)
}

/// A name in the datadir. Servers run there, so that a short one does where the whole is too long for a socket.
fn beside(copy: &Place<'_>, name: &str) -> String {
    let whole = copy.datadir.join(name);
    if whole.as_os_str().len() > LONGEST_SOCKET {
        return name.to_owned();
    }
    whole.display().to_string()
}

/// A restored replica has its source's address and password, and would go on under the old server's identity.
fn skip_replication(record: &Record) -> Option<&'static str> {
    let server = record.server.as_ref().filter(|_| !record.replica.is_empty())?;
    let new = server.flavour == Flavour::MySql && server.version_number >= (8, 0, 26);
    Some(if new { "skip-replica-start" } else { "skip-slave-start" })
}

/// As a shell takes it for one word, on one line.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    if word.chars().any(char::is_control) {
        // As bash, ksh and zsh have it, and POSIX since 2024.
        let escaped = |c: char| match c {
            '\\' | '\'' => format!("\\{c}"),
            c if c.is_control() => c.to_string().bytes().map(|byte| format!("\\{byte:03o}")).collect(),
            c => c.to_string(),
        };
        format!("$'{}'", word.chars().map(escaped).collect::<String>())
    } else if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Whether a restored tree is where it was.
pub(super) fn is_same(at: &Path, original: &Path) -> bool {
    at == original || at.canonicalize().is_ok_and(|at| at == original)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_takes_every_word_for_one() {
        assert_eq!(quoted("--datadir=/srv/my.copy"), "--datadir=/srv/my.copy");
        assert_eq!(quoted("--innodb-directories=/a;/b"), "'--innodb-directories=/a;/b'");
        assert_eq!(quoted("--datadir=/it's"), r"'--datadir=/it'\''s'");
        assert_eq!(quoted(""), "''");
        let bad = "--datadir=/a\nrm -rf /\x1b\u{9b}'\\é";
        let said = quoted(bad);
        assert_eq!(said, r"$'--datadir=/a\012rm -rf /\033\302\233\'\\é'");
        let script = format!("printf %s {said}");
        let output = std::process::Command::new("bash")
            .args(["-c", &script])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), bad);
    }
}
