//! The server program that fits a backup: the same flavour and the same series. A copy is never upgraded to find out what it holds.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::database::mysql::flavour::{Version, recognise};
use crate::database::{Error, Flavour, Result, ServerFacts};
use crate::sys::command::{Command, Program};
use crate::sys::user::unprivileged;

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

/// Where packages and archives put servers beside the system's directories; a `*` is any rest of a name.
const ELSEWHERE: [&str; 8] = [
    "/usr/libexec",
    "/usr/local/mysql*/bin",
    "/usr/local/mariadb*/bin",
    "/usr/local/libexec",
    "/opt/mysql*/bin",
    "/opt/mariadb*/bin",
    "/opt/mysql/mysql*/bin",
    "/opt/mariadb/mariadb*/bin",
];

/// Finds the program for a server's copy: the one named, else the first that fits of those in the system's directories and where others usually are. Nobody but root
/// can change it. What a backup or a server says of its own program is not asked for.
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
    for path in candidates(facts.flavour) {
        match ask(&path) {
            Ok(binary) => match mismatch(facts, &binary) {
                None => return Ok(binary),
                Some(reason) => seen.push(format!("{}: {reason}", path.display())),
            },
            Err(reason) => seen.push(reason),
        }
    }
    let seen = if seen.is_empty() {
        format!("found none in the system's directories, PATH, {}", ELSEWHERE.join(", "))
    } else {
        seen.join("; ")
    };
    Err(Error::Unsupported(format!(
        "no server program for this backup of {wanted} ({seen}): install that version, or name its program with --mysqld or `scratch.mysqld`"
    )))
}

fn candidates(flavour: Flavour) -> Vec<PathBuf> {
    let names: &[&str] = match flavour {
        Flavour::MariaDb => &["mariadbd", "mysqld"],
        Flavour::MySql => &["mysqld"],
    };
    let installed = names
        .iter()
        .filter_map(|name| Some(Program::find(name).ok()?.path().to_owned()));
    let mut paths: Vec<PathBuf> = installed.collect();
    for directory in ELSEWHERE.iter().flat_map(|pattern| matching(Path::new(pattern))) {
        paths.extend(
            names
                .iter()
                .map(|name| directory.join(name))
                .filter(|path| path.is_file()),
        );
    }
    let mut once = std::collections::BTreeSet::new();
    paths.retain(|path| once.insert(path.canonicalize().unwrap_or_else(|_| path.clone())));
    paths
}

/// The paths that a pattern means, the highest versions first.
fn matching(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for part in pattern {
        let part = part.to_string_lossy();
        found = match part.strip_suffix('*') {
            None => found.iter().map(|path| path.join(&*part)).collect(),
            Some(begin) => found.iter().flat_map(|path| beginning(path, begin)).collect(),
        };
    }
    found
}

fn beginning(directory: &Path, begin: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(begin));
    let mut paths: Vec<PathBuf> = named.map(|entry| entry.path()).collect();
    paths.sort_unstable_by(|a, b| b.cmp(a));
    paths
}

/// Asks a program that nobody but root can change; with nobody's rights, since this takes none.
fn ask(path: &Path) -> std::result::Result<Binary, String> {
    let program = Program::trusted(path).map_err(|error| error.to_string())?;
    let said = version_of(&program)?;
    let (flavour, version, version_text) =
        understand(&said).ok_or_else(|| format!("{} tells no version: {}", path.display(), said.trim()))?;
    Ok(Binary {
        program,
        flavour,
        version,
        version_text,
    })
}

/// What a program says to `--version`.
pub(super) fn version_of(program: &Program) -> std::result::Result<String, String> {
    let said = Command::new(program)
        .args(["--no-defaults", "--version"])
        .user(unprivileged())
        .limit(VERSION_LIMIT)
        .run()
        .map_err(|error| match (error.is(std::io::ErrorKind::PermissionDenied), unprivileged()) {
            (true, Some((nobody, _))) => format!(
                "{error}; it is asked for its version as {}, who must be able to execute it: `chmod 755 {}`, and x for all on the directories above",
                crate::sys::host::user_name(nobody),
                program.path().display()
            ),
            _ => error.to_string(),
        })?;
    Ok(String::from_utf8_lossy(&said).into_owned())
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
    fn a_pattern_finds_the_highest_version_first() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["mysql-8.0/bin", "mysql-8.4/bin", "other/bin"] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        let found = matching(&dir.path().join("mysql*/bin"));
        assert_eq!(
            found,
            [dir.path().join("mysql-8.4/bin"), dir.path().join("mysql-8.0/bin")]
        );
    }

    #[test]
    fn a_program_that_others_can_change_is_not_run_and_the_basedir_of_a_record_is_not_looked_at() {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let dir = tempfile::tempdir().unwrap();
        let (bin, ran) = (dir.path().join("bin"), dir.path().join("ran"));
        let program = bin.join("mariadbd");
        std::fs::create_dir(&bin).unwrap();
        let text = format!(
            "#!/bin/sh\nid -u >{}\necho 'mariadbd  Ver 10.11.14-MariaDB for x'\n",
            ran.display()
        );
        std::fs::write(&program, text).unwrap();
        let mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(&program, 0o755);
        mode(dir.path(), 0o1777);
        mode(&bin, 0o777);
        let mut facts = super::super::tests::facts(Flavour::MariaDb);
        facts
            .variables
            .insert("basedir".to_owned(), dir.path().display().to_string());
        assert!(!candidates(Flavour::MariaDb).contains(&program));
        let _ = find(None, &facts);
        assert!(!ran.exists());
        if !crate::sys::host::is_root() {
            return;
        }
        let error = find(Some(&program), &facts).unwrap_err().to_string();
        assert!(error.contains("chmod go-w") && !ran.exists(), "{error}");
        mode(&bin, 0o755);
        find(Some(&program), &facts).unwrap();
        assert_ne!(std::fs::metadata(&ran).unwrap().uid(), 0, "asked as root");
    }

    #[test]
    fn a_program_that_is_no_server_is_refused_by_name() {
        let facts = super::super::tests::facts(Flavour::MariaDb);
        let error = find(Some(Path::new("/bin/true")), &facts).unwrap_err().to_string();
        assert!(error.contains("/bin/true"), "{error}");
    }
}
