//! Links in a restored datadir that lead to where things were on the live host: symlinks of databases and tables, and MariaDB's `.isl` files. A server that follows one
//! opens the live file; so each is turned to the copy, or the boot is refused.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::super::place::{Place, Turn};
use crate::database::{Error, Result};
use crate::sys;

/// Turns every link that leads out of the copy.
///
/// # Errors
/// One leads to something that is not in the backup.
pub(super) fn turn(place: &Place<'_>) -> Result<()> {
    let mut directories = vec![place.datadir.to_owned()];
    while let Some(directory) = directories.pop() {
        for path in children(&directory)? {
            let found = std::fs::symlink_metadata(&path).map_err(|error| sys::Error::path("look at", &path, error))?;
            if found.is_symlink() {
                turn_symlink(place, &path, found.uid(), found.gid())?;
            } else if found.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "isl") {
                turn_isl(place, &path)?;
            }
        }
    }
    Ok(())
}

fn children(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(directory).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    Ok(entries.map_err(|error| sys::Error::path("read", directory, error))?)
}

fn turn_symlink(place: &Place<'_>, link: &Path, uid: u32, gid: u32) -> Result<()> {
    let target = std::fs::read_link(link).map_err(|error| sys::Error::path("read the link", link, error))?;
    let Some(new) = turned(place, link, &target)? else {
        return Ok(());
    };
    std::fs::remove_file(link)
        .and_then(|()| std::os::unix::fs::symlink(&new, link))
        .map_err(|error| sys::Error::path("turn the link", link, error))?;
    // The server refuses some strangers' links; where we are not root they are ours anyway.
    let _ = std::os::unix::fs::lchown(link, Some(uid), Some(gid));
    Ok(())
}

fn turn_isl(place: &Place<'_>, link: &Path) -> Result<()> {
    let text = std::fs::read_to_string(link).map_err(|error| sys::Error::path("read", link, error))?;
    match turned(place, link, Path::new(text.trim()))? {
        Some(new) => {
            Ok(std::fs::write(link, new.display().to_string())
                .map_err(|error| sys::Error::path("write", link, error))?)
        }
        None => Ok(()),
    }
}

/// Where it shall lead; `None` when it may stay.
fn turned(place: &Place<'_>, link: &Path, target: &Path) -> Result<Option<PathBuf>> {
    // Relative to where the link was.
    let was = place
        .facts
        .datadir
        .join(link.strip_prefix(place.datadir).unwrap_or(link));
    match place.turn(&was, target) {
        Turn::Stay => Ok(None),
        Turn::To(new) => Ok(Some(new)),
        Turn::Out(_) => Err(Error::Unsupported(format!(
            "{} leads to {}, which is not in this backup: a server on the copy would open the live one",
            was.display(),
            target.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::tests::facts;
    use super::*;
    use crate::database::Flavour;

    #[test]
    fn links_are_turned_to_the_copy_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let datadir = dir.path().join("data");
        std::fs::create_dir_all(datadir.join("shop")).unwrap();
        symlink("/ext/other", datadir.join("other")).unwrap();
        symlink("../../ext/t.MYD", datadir.join("shop/t.MYD")).unwrap();
        symlink("a.MYD", datadir.join("shop/b.MYD")).unwrap();
        std::fs::write(datadir.join("shop/x.isl"), "/ext/shop/x.ibd\n").unwrap();
        let facts = facts(Flavour::MariaDb);
        let external = dir.path().join("data.external/ext");
        let trees = [("/live".into(), datadir.clone()), ("/ext".into(), external.clone())];
        let place = Place {
            facts: &facts,
            paths: &[],
            datadir: &datadir,
            trees: &trees,
        };
        turn(&place).unwrap();
        let target = |name: &str| std::fs::read_link(datadir.join(name)).unwrap();
        assert_eq!(target("other"), external.join("other"));
        assert_eq!(target("shop/t.MYD"), external.join("t.MYD"));
        assert_eq!(target("shop/b.MYD"), Path::new("a.MYD"));
        let isl = std::fs::read_to_string(datadir.join("shop/x.isl")).unwrap();
        assert_eq!(Path::new(&isl), external.join("shop/x.ibd"));

        symlink("/live-elsewhere/y.ibd", datadir.join("shop/y.ibd")).unwrap();
        let error = turn(&place).unwrap_err().to_string();
        assert!(
            error.contains("/live/shop/y.ibd") && error.contains("/live-elsewhere"),
            "{error}"
        );
    }
}
