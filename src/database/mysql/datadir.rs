//! The datadir as it lies on disk: symlinks that lead out of it, and files of other engines.

use std::fs::{self, DirEntry};
use std::path::{Component, Path, PathBuf};

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
                    let text = fs::read_link(&path).map_err(|error| sys::Error::path("read the link", &path, error))?;
                    self.findings.extend(through_another(&path, &text, &target));
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
        let named = PathBuf::from(text.trim());
        if let Ok(target) = named.canonicalize()
            && !target.starts_with(datadir)
        {
            self.findings.extend(through_another(link, &named, &target));
            self.links.push((link.to_owned(), target));
        }
        Ok(())
    }
}

/// A backup keeps what a link leads to under its real path, and a restore turns links by that. One that gets there by a second link is not turned: a copy's would
/// lead to the live files.
fn through_another(link: &Path, text: &Path, target: &Path) -> Option<Finding> {
    let mut named = match text.is_absolute() {
        true => PathBuf::from("/"),
        false => link.parent()?.canonicalize().ok()?,
    };
    for part in text.components() {
        match part {
            Component::ParentDir => drop(named.pop()),
            Component::Normal(name) => named.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    let remedy = match link.extension().is_some_and(|extension| extension == "isl") {
        true => format!(
            "make the table anew with DATA DIRECTORY below {}",
            target.parent()?.display()
        ),
        false => format!("stop the server, and `ln -sfn {} {}`", target.display(), link.display()),
    };
    (named != target).then(|| {
        let said = format!(
            "{} names {}, which leads to {} through a second link: copies of this cannot be booted (drill, dump, `restore --datadir`), and theirs leads to the live files",
            link.display(),
            named.display(),
            target.display()
        );
        Finding::warning("link-through-link", said).remedy(remedy)
    })
}

/// A small text of the server's: whoever is its user may have put anything there.
fn read_text(path: &Path) -> sys::Result<String> {
    let bytes = sys::fs::read_plain(path, sys::fs::TEXT_LIMIT)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
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
    fn what_is_reached_through_a_second_link_is_named() {
        let top = tempfile::tempdir().unwrap();
        let top = top.path().canonicalize().unwrap();
        for dir in ["data/shop", "disk1/far", "disk1/near"] {
            fs::create_dir_all(top.join(dir)).unwrap();
        }
        fs::write(top.join("disk1/t.ibd"), "").unwrap();
        symlink("disk1", top.join("d")).unwrap();
        symlink("../disk1/near", top.join("data/near")).unwrap();
        let codes = || {
            let found = scan(&top.join("data")).unwrap().findings;
            found.into_iter().map(|finding| finding.code).collect::<Vec<_>>()
        };
        assert_eq!(codes(), [""; 0], "straight there");
        symlink(top.join("d/far"), top.join("data/far")).unwrap();
        assert_eq!(codes(), ["link-through-link"]);
        fs::write(top.join("data/shop/t.isl"), top.join("d/t.ibd").to_str().unwrap()).unwrap();
        assert_eq!(codes(), ["link-through-link"; 2]);
    }
}
