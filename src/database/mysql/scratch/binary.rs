//! The server program that fits a backup: the same flavour and the same series. A copy is never upgraded to find out what it holds.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::database::mysql::flavour::{Version, recognise};
use crate::database::{Error, Flavour, Result, ServerFacts};
use crate::sys::command::{Command, Program};

/// How long a server program may take to tell its version; a wrapper on slow storage is slow.
const VERSION_LIMIT: Duration = Duration::from_secs(20);

/// A server program and what it says of itself.
#[derive(Debug, Clone)]
pub struct Binary {
    /// The program, or a wrapper that becomes it or starts it.
    pub program: Program,
    /// MariaDB or MySQL.
    pub flavour: Flavour,
    /// Major, minor, patch.
    pub version: Version,
    /// As it says it.
    pub version_text: String,
}

/// Finds the program for a server's copy: the one named, else the first that fits of the server's own (below its basedir) and those in the system's directories.
///
/// # Errors
/// None fits; the message has what was found.
pub fn find(named: Option<&Path>, facts: &ServerFacts) -> Result<Binary> {
    let wanted = format!("{} {}", name(facts.flavour), facts.version);
    if let Some(path) = named {
        let binary = ask(path).map_err(Error::Unsupported)?;
        return match mismatch(facts, &binary) {
            None => Ok(binary),
            Some(reason) => Err(Error::Unsupported(format!(
                "{} does not fit this backup of {wanted}: {reason}",
                path.display()
            ))),
        };
    }
    let mut seen = Vec::new();
    for path in candidates(facts) {
        match ask(&path) {
            Ok(binary) => match mismatch(facts, &binary) {
                None => return Ok(binary),
                Some(reason) => seen.push(format!("{}: {reason}", path.display())),
            },
            Err(reason) => seen.push(reason),
        }
    }
    let seen = if seen.is_empty() {
        "found none".to_owned()
    } else {
        seen.join("; ")
    };
    Err(Error::Unsupported(format!(
        "no server program for this backup of {wanted} ({seen}): install that version, or name its program with --mysqld or `scratch.mysqld`"
    )))
}

fn candidates(facts: &ServerFacts) -> Vec<PathBuf> {
    let names: &[&str] = match facts.flavour {
        Flavour::MariaDb => &["mariadbd", "mysqld"],
        Flavour::MySql => &["mysqld"],
    };
    let mut paths = Vec::new();
    if let Some(basedir) = facts.variables.get("basedir").filter(|basedir| !basedir.is_empty()) {
        for directory in ["sbin", "libexec", "bin"] {
            paths.extend(names.iter().map(|name| Path::new(basedir).join(directory).join(name)));
        }
        paths.retain(|path| path.is_file());
    }
    paths.extend(
        names
            .iter()
            .filter_map(|name| Some(Program::find(name).ok()?.path().to_owned())),
    );
    let mut once = std::collections::BTreeSet::new();
    paths.retain(|path| once.insert(path.canonicalize().unwrap_or_else(|_| path.clone())));
    paths
}

fn ask(path: &Path) -> std::result::Result<Binary, String> {
    let program = Program::at(path);
    let said = Command::new(&program)
        .args(["--no-defaults", "--version"])
        .limit(VERSION_LIMIT)
        .run()
        .map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&said);
    let (flavour, version, version_text) =
        understand(&said).ok_or_else(|| format!("{} tells no version: {}", path.display(), said.trim()))?;
    Ok(Binary {
        program,
        flavour,
        version,
        version_text,
    })
}

/// `mariadbd  Ver 10.11.14-MariaDB-0+deb12u2 for debian-linux-gnu on x86_64 (Debian 12)`.
fn understand(said: &str) -> Option<(Flavour, Version, String)> {
    let line = said.lines().find(|line| line.contains(" Ver "))?;
    let version = line.split(" Ver ").nth(1)?.split_whitespace().next()?;
    let (flavour, number) = recognise(version, line.split(" Ver ").nth(1)?);
    (number.0 > 0).then(|| (flavour, number, version.to_owned()))
}

fn mismatch(facts: &ServerFacts, binary: &Binary) -> Option<String> {
    let (wanted, found) = (facts.version_number, binary.version);
    let it_is = format!("it is {} {}", name(binary.flavour), binary.version_text);
    if facts.flavour != binary.flavour {
        return Some(it_is);
    }
    if (wanted.0, wanted.1) != (found.0, found.1) {
        return Some(format!(
            "{it_is}, and only the same series ({}.{}) leaves the copy as it was",
            wanted.0, wanted.1
        ));
    }
    // MySQL's data dictionary does not go back.
    let older = facts.flavour == Flavour::MySql && found.2 < wanted.2;
    older.then(|| format!("{it_is}, older than the data"))
}

/// The flavour as people write it.
pub(super) fn name(flavour: Flavour) -> &'static str {
    match flavour {
        Flavour::MariaDb => "MariaDB",
        Flavour::MySql => "MySQL",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_servers_say_is_understood() {
        let of = |said: &str| understand(said).map(|(flavour, version, _)| (flavour, version));
        assert_eq!(
            of("mariadbd  Ver 10.11.14-MariaDB-0+deb12u2 for debian-linux-gnu on x86_64 (Debian 12)\n"),
            Some((Flavour::MariaDb, (10, 11, 14)))
        );
        assert_eq!(
            of("/cache/usr/sbin/mysqld  Ver 9.7.4-2 for Linux on x86_64 ((Debian))\n"),
            Some((Flavour::MySql, (9, 7, 4)))
        );
        assert_eq!(of("hello\n"), None);
        assert_eq!(of("x Ver nothing\n"), None);
    }

    #[test]
    fn only_the_same_series_fits() {
        let facts = |flavour, version_number| ServerFacts {
            version_number,
            ..super::super::tests::facts(flavour)
        };
        let binary = |flavour, version| Binary {
            program: Program::at("/x"),
            flavour,
            version,
            version_text: "v".to_owned(),
        };
        let fits = |wanted: (Flavour, Version), found: (Flavour, Version)| {
            mismatch(&facts(wanted.0, wanted.1), &binary(found.0, found.1)).is_none()
        };
        let (maria, mysql) = (Flavour::MariaDb, Flavour::MySql);
        assert!(fits((maria, (10, 11, 14)), (maria, (10, 11, 3))));
        assert!(!fits((maria, (10, 11, 14)), (maria, (11, 8, 14))));
        assert!(!fits((maria, (10, 11, 14)), (mysql, (10, 11, 14))));
        assert!(fits((mysql, (8, 0, 36)), (mysql, (8, 0, 40))));
        assert!(!fits((mysql, (8, 0, 36)), (mysql, (8, 0, 35))));
        assert!(!fits((mysql, (8, 0, 36)), (mysql, (8, 4, 36))));
    }

    #[test]
    fn a_program_that_is_no_server_is_refused_by_name() {
        let facts = super::super::tests::facts(Flavour::MariaDb);
        let error = find(Some(Path::new("/bin/true")), &facts).unwrap_err().to_string();
        assert!(error.contains("/bin/true"), "{error}");
    }
}
