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
/// does not follow either. A link to something that is not in the backup (on the live server it may have led to nothing) is removed from a copy that is thrown away, and
/// returned, as it was on the live server.
///
/// # Errors
/// One cannot be turned; or the data stay, and one leads to something that is not in the backup.
pub(super) fn turn(place: &Place<'_>, user: Option<Account>, throwaway: bool) -> Result<Vec<Removed>> {
    let data = Beneath::open(place.datadir)?;
    let mut removed = Vec::new();
    let out = &mut |link: &Path, target: &Path| -> Result<()> {
        let (link, target) = (link.to_owned(), target.to_owned());
        if !throwaway {
            return Err(Error::Unsupported(format!(
                "{} leads to {}, which is not in this backup: a server on the copy would open the live one",
                place.facts.datadir.join(&link).display(),
                target.display()
            )));
        }
        data.remove_file(&link)?;
        removed.push(Removed { link, target });
        Ok(())
    };
    acting(user, || turn_all(place, &data, out))??;
    Ok(removed)
}

/// What is done with a link that leads to something that is not in the backup: its path in the datadir, and its target.
type Out<'o> = &'o mut dyn FnMut(&Path, &Path) -> Result<()>;

/// A link that is not in the copy any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// Its path below the datadir.
    pub link: PathBuf,
    /// Where it led.
    pub target: PathBuf,
}

fn turn_all(place: &Place<'_>, data: &Beneath, out: Out<'_>) -> Result<()> {
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        let entries = match data.entries(&directory) {
            Err(error) if error.errno() == Some(libc::EACCES) && !directory.as_os_str().is_empty() => continue,
            entries => entries?,
        };
        for (name, kind) in entries {
            let path = directory.join(name);
            match kind {
                FileType::Symlink => turn_symlink(place, data, &path, out)?,
                FileType::Directory => directories.push(path),
                _ if path.extension().is_some_and(|extension| extension == "isl") => turn_isl(place, data, &path, out)?,
                _ => {}
            }
        }
    }
    Ok(())
}

fn turn_symlink(place: &Place<'_>, data: &Beneath, link: &Path, out: Out<'_>) -> Result<()> {
    let target = data.read_link(link)?;
    let new = match place.turn(&place.facts.datadir.join(link), &target) {
        Turn::Stay => return Ok(()),
        Turn::To(new) => new,
        Turn::Out(_) => return out(link, &target),
    };
    data.remove_file(link)?;
    Ok(data.make_symlink(new.as_os_str().as_bytes(), link)?)
}

fn turn_isl(place: &Place<'_>, data: &Beneath, link: &Path, out: Out<'_>) -> Result<()> {
    let bytes = data.read_plain(link, TEXT_LIMIT)?;
    let target = Path::new(OsStr::from_bytes(bytes.trim_ascii()));
    let new = match place.turn(&place.facts.datadir.join(link), target) {
        Turn::Stay => return Ok(()),
        Turn::To(new) => new,
        Turn::Out(_) => return out(link, target),
    };
    // A new one: the old may have further names.
    data.remove_file(link)?;
    let fail = |error| sys::Error::path("write", place.datadir.join(link), error);
    let mut file = data.create_file(link, 0o660)?;
    Ok(file.write_all(new.as_os_str().as_bytes()).map_err(fail)?)
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
        assert_eq!(turn(&place, None, true).unwrap(), []);
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
        assert!(turn(&place, None, true).unwrap_err().to_string().contains("named pipe"));
        pipe.remove_file(at).unwrap();

        symlink("/live-elsewhere/y.ibd", datadir.join("shop/y.ibd")).unwrap();
        let error = turn(&place, None, false).unwrap_err().to_string();
        assert!(
            error.contains("/live/shop/y.ibd") && error.contains("/live-elsewhere"),
            "{error}"
        );
        // A copy that is thrown away does without it.
        let removed = turn(&place, None, true).unwrap();
        assert_eq!(removed[0].link, Path::new("shop/y.ibd"));
        assert_eq!(removed[0].target, Path::new("/live-elsewhere/y.ibd"));
        assert!(std::fs::symlink_metadata(datadir.join("shop/y.ibd")).is_err());
    }
}
