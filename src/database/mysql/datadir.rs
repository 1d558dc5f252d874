//! The datadir as it lies on disk: symlinks that lead out of it, files of other engines, and whether it is the server's at all.

use std::fs::{self, DirEntry};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::facts::Variables;
use crate::database::{Consistency, Error, Result};
use crate::finding::Finding;
use crate::sys;

/// Schemas whose tables change with DDL and GRANT only, or are no user's.
const SYSTEM_SCHEMAS: [&str; 4] = ["mysql", "performance_schema", "sys", "information_schema"];

/// Data files of engines that do not recover by themselves: MyISAM, Aria, CSV, Archive, MERGE.
const OTHER_ENGINES: [&str; 7] = ["MYD", "MYI", "MAD", "MAI", "CSV", "ARZ", "MRG"];

/// What the datadir holds.
#[derive(Debug, Default)]
pub struct Scan {
    /// Symlinks that lead out of the datadir, and to where.
    pub links: Vec<(PathBuf, PathBuf)>,
    /// Data files of other engines, outside the system schemas.
    pub other_engines: Vec<PathBuf>,
    /// Dangling links.
    pub findings: Vec<Finding>,
}

/// Looks at the datadir's entries and at those of its schemas.
///
/// # Errors
/// The datadir cannot be read.
pub fn scan(datadir: &Path) -> Result<Scan> {
    let mut scan = Scan::default();
    for entry in entries(datadir)? {
        let name = entry.file_name();
        let target = scan.follow(&entry, datadir)?;
        let is_schema = target.is_dir() && !name.to_string_lossy().starts_with('#');
        if !is_schema {
            continue;
        }
        let system = SYSTEM_SCHEMAS.iter().any(|schema| name == *schema);
        for entry in entries(&target)? {
            let file = scan.follow(&entry, datadir)?;
            let extension = file.extension().and_then(|extension| extension.to_str());
            if extension == Some("isl") {
                scan.tablespace_link(&file, datadir)?;
            }
            if !system && extension.is_some_and(|extension| OTHER_ENGINES.contains(&extension)) {
                scan.other_engines.push(file);
            }
        }
    }
    Ok(scan)
}

/// What a snapshot without a lock is not for.
pub fn unflushed(consistency: Consistency, other_engines: &[PathBuf]) -> Option<Finding> {
    let file = other_engines.first().filter(|_| consistency == Consistency::Crash)?;
    let message = format!(
        "{} table files are of engines that write back late and do not recover by themselves (MyISAM, Aria without transactions, CSV, ARCHIVE), such as {}: what is written \
         to at the instant of the snapshot may need REPAIR TABLE after a restore, and lack rows",
        other_engines.len(),
        file.display()
    );
    Some(
        Finding::warning("crash-unsafe-tables", message)
            .remedy("use level `application`, or ALTER TABLE ... ENGINE = InnoDB"),
    )
}

/// Sorted, so that what is found comes in the same order every time. A directory that vanished (DROP DATABASE) is empty.
fn entries(dir: &Path) -> Result<Vec<DirEntry>> {
    let failed = |error| Error::Sys(sys::Error::path("read the directory", dir, error));
    let listing = match fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing.map_err(failed)?,
    };
    let mut entries = listing.collect::<std::io::Result<Vec<_>>>().map_err(failed)?;
    entries.sort_by_key(DirEntry::file_name);
    Ok(entries)
}

impl Scan {
    /// The entry's path, or its target if it is a symlink, which is noted when it leads out.
    fn follow(&mut self, entry: &DirEntry, datadir: &Path) -> Result<PathBuf> {
        let path = entry.path();
        let kind = entry
            .file_type()
            .map_err(|error| sys::Error::path("stat", &path, error))?;
        if !kind.is_symlink() {
            return Ok(path);
        }
        match path.canonicalize() {
            Ok(target) => {
                if !target.starts_with(datadir) {
                    self.links.push((path, target.clone()));
                }
                Ok(target)
            }
            Err(error) => {
                self.findings.push(Finding::warning(
                    "dangling-link",
                    format!("the symlink {} leads nowhere: {error}", path.display()),
                ));
                Ok(path)
            }
        }
    }

    /// An `.isl` file holds the path of an InnoDB file that lies elsewhere.
    fn tablespace_link(&mut self, link: &Path, datadir: &Path) -> Result<()> {
        let text = match read_text(link) {
            Ok(text) => text,
            Err(error) if error.is(std::io::ErrorKind::NotFound) => return Ok(()),
            // The kernel's own word; all else says that the server did not make it.
            Err(error) if error.errno().is_some() => return Err(error.into()),
            Err(error) => {
                self.findings.push(Finding::warning(
                    "tablespace-link",
                    format!("{error}: no server made it"),
                ));
                return Ok(());
            }
        };
        let target = PathBuf::from(text.trim());
        if let Ok(target) = target.canonicalize()
            && !target.starts_with(datadir)
        {
            self.links.push((link.to_owned(), target));
        }
        Ok(())
    }
}

/// Makes sure that the datadir seen here is the one of the server that was asked, which may be on another host
/// or in a container.
///
/// # Errors
/// The datadir is not visible here, or certainly belongs to another server.
pub fn check_identity(
    variables: &Variables,
    datadir: &Path,
    address: &str,
    local_socket: bool,
) -> Result<Vec<Finding>> {
    if !datadir.is_dir() {
        return Err(Error::Unsupported(format!(
            "the server at {address} says that its datadir is {}, which is not visible here; \
             snapback runs on the database host itself, and sees the datadir at the path that the server uses",
            datadir.display()
        )));
    }
    if runs_in(variables, datadir) || uuid_matches(variables, datadir) == Some(true) {
        return Ok(Vec::new());
    }
    let stranger = format!(
        "the datadir {} does not belong to the server at {address}",
        datadir.display()
    );
    if uuid_matches(variables, datadir) == Some(false) {
        return Err(Error::Unsupported(format!(
            "{stranger}: its auto.cnf has another server_uuid"
        )));
    }
    let message = format!(
        "nothing proves that the datadir {} is that of the server at {address}",
        datadir.display()
    );
    let remedy = "run snapback on the database host, in the server's own mount namespace";
    Ok(vec![match local_socket {
        true => Finding::warning("datadir-unproved", message).remedy(remedy),
        false => Finding::blocker("datadir-unproved", message).remedy(remedy),
    }])
}

/// Servers run with their datadir as working directory; the pid file says which process it is.
fn runs_in(variables: &Variables, datadir: &Path) -> bool {
    let Some(pid_file) = variables.get("pid_file") else {
        return false;
    };
    let pid = read_text(&datadir.join(pid_file)).ok();
    let Some(pid) = pid.and_then(|text| text.trim().parse::<u32>().ok()) else {
        return false;
    };
    let identity = |path: &Path| fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    let cwd = identity(Path::new(&format!("/proc/{pid}/cwd")));
    cwd.is_some() && cwd == identity(datadir)
}

/// A small text of the server's: whoever is its user may have put anything there.
fn read_text(path: &Path) -> sys::Result<String> {
    let bytes = sys::fs::read_plain(path, sys::fs::TEXT_LIMIT)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether MySQL's auto.cnf holds the server's uuid; `None` where there is no such file or uuid.
fn uuid_matches(variables: &Variables, datadir: &Path) -> Option<bool> {
    let text = read_text(&datadir.join("auto.cnf")).ok()?;
    Some(text.contains(variables.get("server_uuid")?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_and_other_engines_are_found() {
        let top = tempfile::tempdir().unwrap();
        let top = top.path().canonicalize().unwrap();
        for dir in ["data/shop", "data/mysql", "data/#innodb_temp", "elsewhere/other", "ext"] {
            fs::create_dir_all(top.join(dir)).unwrap();
        }
        for file in [
            "data/shop/a.ibd",
            "data/shop/m.MYD",
            "data/mysql/x.MYD",
            "elsewhere/other/b.MAD",
            "ext/c.MYI",
            "ext/d.ibd",
        ] {
            fs::write(top.join(file), "").unwrap();
        }
        fs::write(top.join("data/shop/d.isl"), top.join("ext/d.ibd").to_str().unwrap()).unwrap();
        symlink(top.join("elsewhere/other"), top.join("data/other")).unwrap();
        symlink(top.join("ext/c.MYI"), top.join("data/shop/c.MYI")).unwrap();
        symlink("/nonexistent/x", top.join("data/shop/gone.MYD")).unwrap();
        symlink("a.ibd", top.join("data/shop/inside.ibd")).unwrap();
        let scan = scan(&top.join("data")).unwrap();
        let targets: Vec<_> = scan
            .links
            .iter()
            .map(|(_, target)| target.strip_prefix(&top).unwrap())
            .collect();
        assert_eq!(
            targets,
            [
                Path::new("elsewhere/other"),
                Path::new("ext/c.MYI"),
                Path::new("ext/d.ibd")
            ]
        );
        assert_eq!(scan.other_engines.len(), 4, "{:?}", scan.other_engines);
        assert!(unflushed(Consistency::Application, &scan.other_engines).is_none());
        assert!(unflushed(Consistency::Crash, &[]).is_none());
        let said = unflushed(Consistency::Crash, &scan.other_engines).unwrap();
        assert!(said.message.starts_with("4 table files"), "{}", said.message);
        assert_eq!(scan.findings.len(), 1);
        assert!(scan.findings[0].message.contains("gone.MYD"));
    }

    #[test]
    fn a_datadir_that_is_not_here_is_refused() {
        let error = check_identity(&Variables::default(), Path::new("/nonexistent/d"), "h:1", false).unwrap_err();
        assert!(error.to_string().contains("not visible here"), "{error}");
    }

    #[test]
    fn a_datadir_is_proved_by_the_process_or_by_the_uuid() {
        let dir = tempfile::tempdir().unwrap();
        let variables = Variables::of(&[("pid_file", "x.pid"), ("server_uuid", "u-1")]);
        let check = |local| check_identity(&variables, dir.path(), "a", local);
        assert_eq!(check(true).unwrap()[0].severity, crate::finding::Severity::Warning);
        assert_eq!(check(false).unwrap()[0].severity, crate::finding::Severity::Blocker);
        fs::write(dir.path().join("auto.cnf"), "[auto]\nserver-uuid=u-2\n").unwrap();
        assert!(check(true).is_err());
        fs::write(dir.path().join("auto.cnf"), "[auto]\nserver-uuid=u-1\n").unwrap();
        assert!(check(false).unwrap().is_empty());

        let here = std::env::current_dir().unwrap();
        let pid = dir.path().join("x.pid");
        fs::write(&pid, std::process::id().to_string()).unwrap();
        let variables = Variables::of(&[("pid_file", pid.to_str().unwrap())]);
        assert!(check_identity(&variables, &here, "a", false).unwrap().is_empty());
    }
}
