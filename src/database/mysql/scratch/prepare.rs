//! What a scratch server finds at its start: its directory, its option file, its init-file.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use super::{ACCOUNT, Place, Wishes, options};
use crate::database::Result;
use crate::sys;

/// Makes the directory for the server's own files, and what it reads at its start.
pub(super) fn prepare(
    place: &Place<'_>,
    run: &Path,
    wishes: &Wishes,
    user: Option<(u32, u32)>,
    password: &str,
) -> Result<()> {
    let statements = format!(
        "SET SESSION sql_log_bin = 0;\n\
         DROP USER IF EXISTS '{ACCOUNT}'@'localhost';\n\
         CREATE USER '{ACCOUNT}'@'localhost' IDENTIFIED BY '{password}';\n\
         GRANT ALL PRIVILEGES ON *.* TO '{ACCOUNT}'@'localhost' WITH GRANT OPTION;\n"
    );
    let text = options::text(place, wishes, run)?;
    let temporary = run.join("tmp");
    for directory in [run, &temporary] {
        if !directory.is_dir() {
            std::fs::create_dir(directory).map_err(|error| sys::Error::path("make the directory", directory, error))?;
        }
        set_access(directory, 0o700, user)?;
    }
    for (name, text) in [("my.cnf", &text), ("init.sql", &statements)] {
        let path = run.join(name);
        std::fs::write(&path, text).map_err(|error| sys::Error::path("write", &path, error))?;
        set_access(&path, 0o600, user)?;
    }
    Ok(())
}

fn set_access(path: &Path, mode: u32, user: Option<(u32, u32)>) -> Result<()> {
    let fail = |error| sys::Error::path("set owner and mode of", path, error);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(fail)?;
    if let Some((uid, gid)) = user {
        chown(path, Some(uid), Some(gid)).map_err(fail)?;
    }
    Ok(())
}
