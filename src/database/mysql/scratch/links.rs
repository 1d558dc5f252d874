//! Links in a restored datadir that lead to where things were on the live host: symlinks of databases and tables, and MariaDB's `.isl` files. A server that follows one
//! opens the live file; so each is turned to the copy, or the boot is refused.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::super::place::{Place, Turn};
use crate::database::{Error, Result};
use crate::sys;
use crate::sys::fs::{Beneath, TEXT_LIMIT};
use crate::sys::user::{Account, acting};

/// Turns every link that leads out of the copy, with the rights of the server's user: the datadir may be that user's already. What this user cannot enter, its server
/// does not follow either.
///
/// # Errors
/// One leads to something that is not in the backup, or cannot be turned.
pub(super) fn turn(place: &Place<'_>, user: Option<Account>) -> Result<()> {
    let data = Beneath::open(place.datadir)?;
    acting(user, || turn_all(place, &data))?
}

fn turn_all(place: &Place<'_>, data: &Beneath) -> Result<()> {
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        let entries = match data.entries(&directory) {
            Err(error) if error.errno() == Some(libc::EACCES) && !directory.as_os_str().is_empty() => continue,
            entries => entries?,
        };
        for (name, kind) in entries {
            let path = directory.join(name);
            match kind {
                FileType::Symlink => turn_symlink(place, data, &path)?,
                FileType::Directory => directories.push(path),
                _ if path.extension().is_some_and(|extension| extension == "isl") => turn_isl(place, data, &path)?,
                _ => {}
            }
        }
    }
    Ok(())
}

fn turn_symlink(place: &Place<'_>, data: &Beneath, link: &Path) -> Result<()> {
    let target = data.read_link(link)?;
    let Some(new) = turned(place, link, &target)? else {
        return Ok(());
    };
    data.remove_file(link)?;
    Ok(data.make_symlink(new.as_os_str().as_bytes(), link)?)
}

fn turn_isl(place: &Place<'_>, data: &Beneath, link: &Path) -> Result<()> {
    let bytes = data.read_plain(link, TEXT_LIMIT)?;
    let target = Path::new(OsStr::from_bytes(bytes.trim_ascii()));
    let Some(new) = turned(place, link, target)? else {
        return Ok(());
    };
    // A new one: the old may have further names.
    data.remove_file(link)?;
    let fail = |error| sys::Error::path("write", place.datadir.join(link), error);
    let mut file = data.create_file(link, 0o660)?;
    Ok(file.write_all(new.as_os_str().as_bytes()).map_err(fail)?)
}

/// Where it shall lead; `None` when it may stay.
fn turned(place: &Place<'_>, link: &Path, target: &Path) -> Result<Option<PathBuf>> {
    // Relative to where the link was.
    let was = place.facts.datadir.join(link);
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
        turn(&place, None).unwrap();
        let target = |name: &str| std::fs::read_link(datadir.join(name)).unwrap();
        assert_eq!(target("other"), external.join("other"));
        assert_eq!(target("shop/t.MYD"), external.join("t.MYD"));
        assert_eq!(target("shop/b.MYD"), Path::new("a.MYD"));
        let isl = std::fs::read_to_string(datadir.join("shop/x.isl")).unwrap();
        assert_eq!(Path::new(&isl), external.join("shop/x.ibd"));

        // Neither a pipe nor a link is read or written in the place of a file.
        let pipe = Beneath::open(&datadir).unwrap();
        let at = Path::new("shop/z.isl");
        pipe.make_special(crate::sys::fs::Special::Fifo, at, 0o600).unwrap();
        assert!(turn(&place, None).unwrap_err().to_string().contains("named pipe"));
        pipe.remove_file(at).unwrap();

        symlink("/live-elsewhere/y.ibd", datadir.join("shop/y.ibd")).unwrap();
        let error = turn(&place, None).unwrap_err().to_string();
        assert!(
            error.contains("/live/shop/y.ibd") && error.contains("/live-elsewhere"),
            "{error}"
        );
    }
}
