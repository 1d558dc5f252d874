//! What a scratch server finds at its start: a directory of its own, and what it reads.
//!
//! The space stays root's for its whole life, and nobody else can enter it before all is in place. Then it can be passed; the server's user has `run` (and the data),
//! and reads what lies in `read`, but cannot exchange it.

use std::fs::{DirBuilder, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown, fchown};
use std::path::{Path, PathBuf};

use super::{ACCOUNT, Place, Wishes, options};
use crate::database::Result;
use crate::sys::user::Account;
use crate::sys::{self, Error};

/// What the server itself writes: socket, pid, error log, temporary files.
pub(super) fn own(space: &Path) -> PathBuf {
    space.join("run")
}

/// What root writes for the server and its client programs.
fn read(space: &Path) -> PathBuf {
    space.join("read")
}

/// A file that root writes, and that `reader` may read: in the space, where no one but root exchanges it.
///
/// # Errors
/// It cannot be written.
pub(super) fn write_for(space: &Path, name: &str, text: &[u8], reader: Option<Account>) -> Result<PathBuf> {
    let directory = read(space);
    match DirBuilder::new().mode(0o711).create(&directory) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(Error::path("make the directory", &directory, error).into());
        }
        // Whatever our umask says.
        _ => set_mode(&directory, 0o711)?,
    }
    let path = directory.join(name);
    let fail = |error| Error::path("write", &path, error);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(fail(error).into()),
        _ => {}
    }
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(fail)?;
    if let Some((_, gid)) = reader {
        fchown(&file, None, Some(gid)).map_err(fail)?;
        file.set_permissions(Permissions::from_mode(0o640)).map_err(fail)?;
    }
    file.write_all(text).map_err(fail)?;
    Ok(path)
}

/// Makes the directory for the server's own files, and what it reads at its start; returns its option file. Then the space can be passed.
pub(super) fn prepare(place: &Place<'_>, space: &Path, wishes: &Wishes, password: &str) -> Result<PathBuf> {
    let statements = format!(
        "SET SESSION sql_log_bin = 0;\n\
         DROP USER IF EXISTS '{ACCOUNT}'@'localhost';\n\
         CREATE USER '{ACCOUNT}'@'localhost' IDENTIFIED BY '{password}';\n\
         GRANT ALL PRIVILEGES ON *.* TO '{ACCOUNT}'@'localhost' WITH GRANT OPTION;\n"
    );
    let init = write_for(space, "init.sql", statements.as_bytes(), wishes.user)?;
    let text = options::text(place, wishes, &own(space), &init)?;
    let options = write_for(space, "my.cnf", text.as_bytes(), wishes.user)?;
    // What a server before this one left may be anything.
    let run = own(space);
    match std::fs::remove_dir_all(&run) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::path("remove", &run, error).into());
        }
        _ => {}
    }
    // The inner first: what is given away is not looked at again.
    for directory in [&run, &run.join("tmp")] {
        DirBuilder::new()
            .mode(0o700)
            .create(directory)
            .map_err(|error| Error::path("make the directory", directory, error))?;
    }
    if let Some((uid, gid)) = wishes.user {
        for directory in [&run.join("tmp"), &run] {
            chown(directory, Some(uid), Some(gid)).map_err(|error| Error::path("give away", directory, error))?;
        }
    }
    set_mode(space, 0o711)?;
    Ok(options)
}

/// The file that takes what the server says before it has its log; root's.
pub(super) fn output(space: &Path) -> PathBuf {
    read(space).join("output.log")
}

fn set_mode(path: &Path, mode: u32) -> sys::Result<()> {
    let set = std::fs::set_permissions(path, Permissions::from_mode(mode));
    set.map_err(|error| Error::path("set the mode of", path, error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::super::tests::facts;
    use super::*;
    use crate::database::Flavour;

    #[test]
    fn the_servers_user_has_one_directory_and_can_exchange_nothing_that_root_writes() {
        if !sys::host::is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        set_mode(dir.path(), 0o700).unwrap();
        let facts = facts(Flavour::MariaDb);
        let trees = [("/live".into(), dir.path().join("data"))];
        let place = Place {
            facts: &facts,
            paths: &[],
            datadir: &dir.path().join("data"),
            trees: &trees,
        };
        let user = (4711, 4712);
        let wishes = Wishes {
            user: Some(user),
            ..Wishes::default()
        };
        // Also for a second server, whatever the first one left in the place of its directory.
        for _ in 0..2 {
            prepare(&place, dir.path(), &wishes, "secret").unwrap();
            let mut of = std::collections::BTreeMap::new();
            for name in ["", "read", "read/my.cnf", "read/init.sql", "run", "run/tmp"] {
                let found = std::fs::symlink_metadata(dir.path().join(name)).unwrap();
                of.insert(name, (found.uid(), found.gid(), found.mode() & 0o7777));
            }
            assert_eq!((of[""], of["read"]), ((0, 0, 0o711), (0, 0, 0o711)));
            assert_eq!(
                (of["read/my.cnf"], of["read/init.sql"]),
                ((0, 4712, 0o640), (0, 4712, 0o640))
            );
            assert_eq!((of["run"], of["run/tmp"]), ((4711, 4712, 0o700), (4711, 4712, 0o700)));
            let victim = dir.path().join("victim");
            std::fs::create_dir_all(&victim).unwrap();
            std::fs::remove_dir_all(own(dir.path())).unwrap();
            std::fs::create_dir(own(dir.path())).unwrap();
            std::os::unix::fs::symlink(&victim, own(dir.path()).join("tmp")).unwrap();
        }
        assert_eq!(std::fs::metadata(dir.path().join("victim")).unwrap().uid(), 0);
    }
}
