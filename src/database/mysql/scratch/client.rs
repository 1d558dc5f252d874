//! The server's own client programs: found beside its program, and let in by an option file of ours.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::binary::{Binary, name, version_of};
use super::prepare::write_for;
use crate::database::mysql::connect::{ConnectOptions, Target, TlsMode};
use crate::database::mysql::flavour::Version;
use crate::database::{Error, Flavour, Result};
use crate::sys::command::Program;
use crate::sys::user::Account;

/// Which client program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// `mariadb-dump`, `mysqldump`.
    Dump,
    /// `mariadb`, `mysql`.
    Client,
}

impl Tool {
    fn names(self, flavour: Flavour) -> &'static [&'static str] {
        match (self, flavour) {
            (Tool::Dump, Flavour::MariaDb) => &["mariadb-dump", "mysqldump"],
            (Tool::Dump, Flavour::MySql) => &["mysqldump"],
            (Tool::Client, Flavour::MariaDb) => &["mariadb", "mysql"],
            (Tool::Client, Flavour::MySql) => &["mysql"],
        }
    }
}

/// Finds a client program for a server: the one named, else beside the server's program, else an installed one. One of the same series is preferred; of another
/// flavour none is taken, and none that others than root can change.
///
/// # Errors
/// None is found.
pub fn find_tool(tool: Tool, named: Option<&Path>, server: &Binary) -> Result<Program> {
    if let Some(path) = named {
        // The user's word counts, as long as it is one.
        return ask(path).map(|(program, _)| program).map_err(Error::Unsupported);
    }
    let names = tool.names(server.flavour);
    let mut seen = Vec::new();
    let mut second = None;
    for path in candidates(names, server) {
        match ask(&path) {
            Err(reason) => seen.push(reason),
            Ok((program, (flavour, version))) if flavour == server.flavour => {
                let same = (version.0, version.1) == (server.version.0, server.version.1);
                if same {
                    return Ok(program);
                }
                second.get_or_insert(program);
            }
            Ok((_, (flavour, _))) => seen.push(format!("{} is {}'s", path.display(), name(flavour))),
        }
    }
    second.ok_or_else(|| {
        let seen = if seen.is_empty() {
            String::new()
        } else {
            format!(" ({})", seen.join("; "))
        };
        Error::Unsupported(format!(
            "no {} for {} {}{seen}: install the server's client programs",
            names[0],
            name(server.flavour),
            server.version_text
        ))
    })
}

/// `/opt/x/sbin/mysqld-8.4`: `/opt/x/sbin/mysqldump-8.4`, `/opt/x/sbin/mysqldump`, `/opt/x/bin/mysqldump`; then the system's.
fn candidates(names: &[&str], server: &Binary) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    let program = server.program.path();
    let file = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if let Some(directory) = program.parent() {
        let suffix = ["mariadbd", "mysqld"]
            .iter()
            .find_map(|server| file.strip_prefix(server));
        for name in names {
            paths.extend(suffix.map(|suffix| directory.join(format!("{name}{suffix}"))));
            paths.push(directory.join(name));
            paths.push(directory.join("../bin").join(name));
        }
    }
    paths.retain(|path| path.is_file());
    paths.extend(
        names
            .iter()
            .filter_map(|name| Some(Program::find(name).ok()?.path().to_owned())),
    );
    paths.dedup();
    paths
}

/// What a client program says of its version; `None`: it says none.
pub fn tool_version(program: &Program) -> Option<Version> {
    Some(understand(&version_of(program).ok()?)?.1)
}

fn ask(path: &Path) -> std::result::Result<(Program, (Flavour, Version)), String> {
    let program = Program::trusted(path).map_err(|error| error.to_string())?;
    let said = version_of(&program)?;
    let version = understand(&said).ok_or_else(|| format!("{} tells no version: {}", path.display(), said.trim()))?;
    Ok((program, version))
}

/// `mariadb-dump  Ver 10.19 Distrib 10.11.14-MariaDB, for ...`, `mariadb-dump from 11.8.2-MariaDB, client 10.19 for ...`, `mysqldump  Ver 9.7.4-2 for Linux ...`.
fn understand(said: &str) -> Option<(Flavour, Version)> {
    let after = |word: &str| said.split_once(word).map(|(_, rest)| rest.trim_start());
    let rest = after(" Distrib ")
        .or_else(|| after(" from "))
        .or_else(|| after(" Ver "))?;
    let version = rest.split([' ', ',']).next()?;
    let (flavour, number) = crate::database::mysql::flavour::recognise(version, rest);
    (number.0 > 0).then_some((flavour, number))
}

/// Writes an option file for client programs that only root, and the group of `reader`, may read, as it may hold a password. It lies in the space, where nobody but root
/// can exchange it. Returns its path.
///
/// # Errors
/// It cannot be written, or holds what an option file cannot.
pub fn write_client_file(
    space: &Path,
    name: &str,
    options: &ConnectOptions,
    reader: Option<Account>,
) -> Result<PathBuf> {
    let mut text = String::from("[client]\n");
    let mut set = |key: &str, value: &str| {
        let _ = writeln!(text, "{key}=\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""));
    };
    set("user", &options.user);
    if let Some(password) = &options.password {
        if password.expose().contains(['\n', '\r']) {
            return Err(Error::Unsupported(
                "a password with line breaks cannot be given to client programs".to_owned(),
            ));
        }
        set("password", password.expose());
    }
    match &options.target {
        Target::Socket(path) => {
            set("protocol", "socket");
            set("socket", &path.to_string_lossy());
        }
        Target::Tcp(host, port) => {
            set("protocol", "tcp");
            set("host", host);
            set("port", &port.to_string());
        }
    }
    if let Some(ca) = options
        .tls
        .ca
        .as_ref()
        .filter(|_| options.tls.mode != TlsMode::Disabled)
    {
        set("ssl-ca", &ca.to_string_lossy());
    }
    // The most that either side takes (manual, "max_allowed_packet"): a row may be as long.
    text.push_str("loose-max-allowed-packet=1073741824\n");
    // No server is handed our files (LOAD DATA LOCAL). Not every program knows the option.
    text.push_str("loose-local-infile=0\n");
    write_for(space, name, text.as_bytes(), reader)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_client_programs_say_is_understood() {
        for (said, wanted) in [
            (
                "mariadb-dump  Ver 10.19 Distrib 10.11.14-MariaDB, for debian-linux-gnu (x86_64)\n",
                (Flavour::MariaDb, (10, 11, 14)),
            ),
            (
                "/usr/bin/mariadb-dump from 11.8.2-MariaDB, client 10.19 for debian-linux-gnu (x86_64)\n",
                (Flavour::MariaDb, (11, 8, 2)),
            ),
            (
                "mysqldump  Ver 9.7.4-2 for Linux on x86_64 ((Debian))\n",
                (Flavour::MySql, (9, 7, 4)),
            ),
        ] {
            assert_eq!(understand(said), Some(wanted), "{said}");
        }
        assert_eq!(understand("hello\n"), None);
    }

    #[test]
    fn programs_are_looked_for_beside_the_server_first_and_another_flavours_are_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        let sbin = dir.path().join("sbin");
        for directory in [&bin, &sbin] {
            std::fs::create_dir(directory).unwrap();
        }
        // They are asked with nobody's rights.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).unwrap();
        let make = |path: &Path, says: &str| {
            use std::os::unix::fs::PermissionsExt;
            std::fs::write(path, format!("#!/bin/sh\necho '{says}'\n")).unwrap();
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        let server = Binary {
            program: Program::at(sbin.join("mysqld-8.4")),
            flavour: Flavour::MySql,
            version: (8, 4, 3),
            version_text: "8.4.3".to_owned(),
        };
        let found = || find_tool(Tool::Dump, None, &server).map(|program| program.path().to_owned());
        make(
            &sbin.join("mysqldump-8.4"),
            "mysqldump  Ver 10.19 Distrib 10.11.14-MariaDB, for x",
        );
        make(&sbin.join("mysqldump"), "mysqldump  Ver 8.0.36 for Linux on x86_64");
        assert_eq!(
            found().unwrap(),
            sbin.join("mysqldump"),
            "another series, when there is none of the same"
        );
        make(&bin.join("mysqldump"), "mysqldump  Ver 8.4.2 for Linux on x86_64");
        assert_eq!(found().unwrap(), sbin.join("../bin/mysqldump"));
    }
}
