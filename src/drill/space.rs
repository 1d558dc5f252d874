//! The scratch space of one drill or dump: a directory that is ours alone, written down in a journal before it is made, and removed whatever happens.
//!
//! It is root's for its whole life, below directories where nobody else can exchange it, and closed until a private server starts (`scratch::prepare`). So root works in
//! it by path; what is the server's user's own lies one level deeper.

use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::journal::{Journal, Made};
use crate::restore::Needs;
use crate::units::{Bytes, Id};
use crate::{Error, Result};

/// What a server needs beside its data: temporary tables, new logs, in bytes.
const BESIDE: u64 = 256 << 20;

/// A directory for a restored server.
#[derive(Debug)]
pub(crate) struct Space {
    at: PathBuf,
    journal: Journal,
}

impl Space {
    /// Makes the directory of a run, if there is room for the restored data. `needs.owner` is whom the private server runs as.
    ///
    /// # Errors
    /// There is too little room, others could exchange the directory, or the server's user cannot come to it: nothing was written then.
    pub fn make(config: &Config, run: Id, needs: Needs) -> Result<Space> {
        let parent = parent(&config.scratch.dir)?;
        let at = parent.join(name(run));
        if !crate::database::mysql::scratch::socket_fits(&at) {
            return Err(Error::usage(format!(
                "{} is too long for a server's socket: choose a shorter --scratch",
                at.display()
            )));
        }
        let room = crate::sys::fs::room(&parent)?;
        let needed = needs.bytes + BESIDE;
        if room.available < needed {
            return Err(Error::failed(format!(
                "{} has {} free, and the restored data needs {} for a while ({} of data): choose another --scratch or `scratch.dir`",
                parent.display(),
                Bytes::b(room.available),
                Bytes::b(needed),
                Bytes::b(needs.bytes),
            )));
        }
        let user = needs.owner.filter(|_| crate::sys::host::is_root());
        if let Some(owner) = user {
            refuse_closed(&parent, owner)?;
        }
        let journal = Journal::create(&config.state_dir, run)?;
        journal.record(&Made::Scratch { at: at.clone() })?;
        let space = Space { at, journal };
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&space.at)
            .map_err(|error| crate::sys::Error::path("make the directory", &space.at, error))?;
        Ok(space)
    }

    /// Its path.
    pub fn at(&self) -> &Path {
        &self.at
    }

    /// The journal that it is in.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Removes it, and the journal with it.
    ///
    /// # Errors
    /// Something is left; the journal keeps it for `cleanup`.
    pub fn remove(self) -> Result<()> {
        remove(self.journal.run(), &self.at)?;
        self.journal.undone(&Made::Scratch { at: self.at.clone() })?;
        Ok(self.journal.done()?)
    }
}

/// Removes the scratch space of a run that is over; `Ok(false)` when it was gone already.
///
/// # Errors
/// It is not one of this run, a server runs on it, or it cannot be removed.
pub fn remove(run: Id, at: &Path) -> Result<bool> {
    if at.file_name().is_none_or(|found| found.to_str() != Some(&name(run))) {
        return Err(Error::failed(format!(
            "{} does not carry the name of run {}: it is left alone",
            at.display(),
            run.short()
        )));
    }
    crate::restore::wait_for_end(&at.join("data"))?;
    // Nobody comes in any more. The removal follows no link, whatever was made inside.
    let _ = std::fs::set_permissions(at, std::fs::Permissions::from_mode(0o700));
    match std::fs::remove_dir_all(at) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(crate::sys::Error::path("remove", at, error).into()),
    }
}

fn name(run: Id) -> String {
    format!("snapback-drill-{run}")
}

/// Whether drills, dumps and replays can work below `scratch.dir`, as far as can be said without making anything there.
///
/// # Errors
/// It is not there, others could exchange it, or the server's user cannot come to it.
pub fn usable(config: &Config) -> Result<()> {
    let parent = parent(&config.scratch.dir)?;
    match super::server_user::for_copies(config)? {
        Some(user) if crate::sys::host::is_root() => refuse_closed(&parent, user),
        _ => Ok(()),
    }
}

fn parent(directory: &Path) -> Result<PathBuf> {
    let unusable = |why: &dyn std::fmt::Display| {
        Error::usage(format!(
            "the scratch directory {}: {why}; --scratch or `scratch.dir` names another",
            directory.display()
        ))
    };
    let real = directory.canonicalize().map_err(|error| unusable(&error))?;
    if !crate::sys::host::is_root() {
        return Ok(real);
    }
    // As it was named: a link on the way may be somebody's, too.
    let named = std::path::absolute(directory).map_err(|error| unusable(&error))?;
    match crate::sys::trust::check_place(&named)? {
        Ok(_) => Ok(real),
        Err(distrust) => Err(unusable(&format!("root does not work there: {distrust}"))),
    }
}

/// A server that runs as its own user must be able to come to its directory.
fn refuse_closed(parent: &Path, (uid, gid): (u32, u32)) -> Result<()> {
    for directory in parent.ancestors() {
        let found =
            std::fs::metadata(directory).map_err(|error| crate::sys::Error::path("look at", directory, error))?;
        let open = match found.mode() {
            _ if uid == 0 => true,
            mode if found.uid() == uid => mode & 0o100 != 0,
            mode if found.gid() == gid => mode & 0o010 != 0,
            mode => mode & 0o001 != 0,
        };
        if !open {
            let mode = found.mode() & 0o7777 | 0o755;
            return Err(Error::failed(format!(
                "the server runs as {}, who may not pass through {at}: `chmod {mode:o} {at}`, or choose another --scratch or `scratch.dir`",
                crate::sys::host::user_name(uid),
                at = directory.display()
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(dir: &Path) -> Config {
        let mut config = Config {
            state_dir: dir.join("state"),
            ..Config::default()
        };
        config.scratch.dir = dir.to_owned();
        config
    }

    fn needs(bytes: u64) -> Needs {
        Needs { bytes, owner: None }
    }

    #[test]
    fn a_space_is_in_the_journal_until_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let space = Space::make(&config, Id::random(), needs(1)).unwrap();
        let at = space.at().to_owned();
        std::fs::create_dir(at.join("data")).unwrap();
        let left = |config: &Config| crate::journal::list(&config.state_dir).unwrap().runs.len();
        assert_eq!((left(&config), at.exists()), (1, true));
        space.remove().unwrap();
        assert_eq!((left(&config), at.exists()), (0, false));
    }

    #[test]
    fn without_room_nothing_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let error = Space::make(&config(dir.path()), Id::random(), needs(1 << 60))
            .unwrap_err()
            .to_string();
        assert!(error.contains("--scratch") && error.contains("free"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_that_the_servers_user_cannot_enter_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        let parent = dir.path().canonicalize().unwrap();
        assert!(
            refuse_closed(&parent, (4_000_000, 4_000_000))
                .unwrap_err()
                .to_string()
                .contains("may not pass")
        );
        assert!(refuse_closed(&parent, (0, 0)).is_ok());
    }

    #[test]
    fn where_others_could_exchange_it_nothing_is_made() {
        if !crate::sys::host::is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let open = dir.path().join("open");
        std::fs::create_dir(&open).unwrap();
        let make = |mode| {
            std::fs::set_permissions(&open, std::fs::Permissions::from_mode(mode)).unwrap();
            let mut config = config(dir.path());
            config.scratch.dir.clone_from(&open);
            Space::make(&config, Id::random(), needs(1))
        };
        let error = make(0o777).unwrap_err().to_string();
        assert!(error.contains("chmod go-w") && error.contains("--scratch"), "{error}");
        assert_eq!(std::fs::read_dir(&open).unwrap().count(), 0);
        let space = make(0o1777).unwrap();
        let found = std::fs::metadata(space.at()).unwrap();
        assert_eq!((found.uid(), found.mode() & 0o7777), (0, 0o700), "as /var/tmp");
        space.remove().unwrap();
        std::os::unix::fs::chown(&open, Some(4711), None).unwrap();
        let error = make(0o1777).unwrap_err().to_string();
        assert!(error.contains("4711") && error.contains("--scratch"), "{error}");
    }

    #[test]
    fn only_a_space_of_that_run_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (run, precious) = (Id::random(), dir.path().join("precious"));
        std::fs::create_dir(&precious).unwrap();
        assert!(remove(run, &precious).is_err());
        assert!(remove(run, &dir.path().join(name(Id::random()))).is_err());
        assert!(precious.exists());
        assert!(!remove(run, &dir.path().join(name(run))).unwrap());
    }
}
