//! A backup on scratch space with a private server on it, for whoever wants to take something out of it. Nothing of it is left afterwards.

use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::database::ServerFacts;
use crate::database::mysql::scratch::{self, Binary, Place, Scratch, Wishes};
use crate::drill::server_user;
use crate::drill::space::Space;
use crate::monitor::Monitor;
use crate::record::Record;
use crate::repository::{Backup, Repository};
use crate::restore::{self, Needs, needs, record_of};
use crate::sys::signal::Cancel;
use crate::sys::user::Account;
use crate::units::Id;
use crate::{Error, Result};

/// What is booted, and how.
pub(crate) struct Boot<'b> {
    /// Where the backup is.
    pub repository: &'b Repository,
    /// Which.
    pub backup: &'b Backup,
    /// Scratch space, server program and limits.
    pub config: &'b Config,
    /// Threads of the restore.
    pub workers: usize,
    /// Who hears of it.
    pub monitor: &'b dyn Monitor,
    /// Whether it was asked to end.
    pub cancel: &'b Cancel,
}

/// A server that answers, on the restored backup.
pub(crate) struct Booted<'b> {
    /// The server.
    pub server: &'b mut Scratch,
    /// Its program.
    pub binary: &'b Binary,
    /// What the backup says of itself.
    pub record: &'b Record,
    /// Its scratch space: root's.
    pub space: &'b Path,
    /// Whom the server runs as, and programs that talk to nothing else.
    pub user: Option<Account>,
}

/// A private server on restored data that stay: something is changed in them, and then they are as a server left them in order.
pub(crate) struct OnRestored<'p> {
    /// The data.
    pub place: &'p Place<'p>,
    /// A directory for its own files: root's.
    pub work: &'p Path,
    /// Whom it runs as.
    pub user: Option<Account>,
    /// Who hears of it.
    pub monitor: &'p dyn Monitor,
    /// Whether it was asked to end.
    pub cancel: &'p Cancel,
}

impl OnRestored<'_> {
    /// Starts it.
    ///
    /// # Errors
    /// It does not start on the data.
    pub fn start(&self, binary: &Binary, wishes: &Wishes) -> Result<Scratch> {
        let wishes = Wishes {
            user: self.user,
            ..wishes.clone()
        };
        scratch::start(binary, self.place, self.work, &wishes, self.monitor, self.cancel)
    }

    /// Ends it in order, without an account of ours; what it did is durable.
    ///
    /// # Errors
    /// It did not end in order, or the disk failed.
    pub fn stop(&self, server: Scratch) -> Result<()> {
        // With the server's own account goes the last door of ours; it is asked to end by a signal then.
        server.leave()?;
        self.monitor.phase("shutdown");
        server.stop(self.cancel)?;
        for (_, at) in self.place.trees {
            // A tree is a directory, or one file.
            match crate::sys::fs::open_directory(at) {
                Ok(directory) => crate::sys::fs::syncfs(directory, at)?,
                Err(_) => crate::sys::fs::syncfs(crate::sys::fs::open_plain(at)?, at)?,
            }
        }
        Ok(())
    }
}

impl Boot<'_> {
    /// Restores, boots, does the work and removes everything, whatever came of it.
    ///
    /// # Errors
    /// The backup holds no database, no server program fits, there is no room, it does not boot, or the work failed.
    pub fn with<T>(&self, work: impl FnOnce(Booted<'_>) -> Result<T>) -> Result<T> {
        let record = record_of(self.backup.manifest())?;
        let id = self.backup.manifest().id;
        let facts = record
            .server
            .as_ref()
            .ok_or_else(|| Error::usage(format!("backup {} holds no database", id.short())))?;
        let binary = scratch::find(self.config.scratch.mysqld.as_deref(), facts)?;
        self.monitor.phase("room");
        // The destination of a survey is never looked at.
        let needs = needs(
            self.backup,
            &restore::Request::to_datadir(PathBuf::from("/nonexistent"), self.workers),
            self.cancel,
        )?;
        let user = server_user::for_copies(self.config)?;
        let space = Space::make(self.config, Id::random(), Needs { owner: user, ..needs })?;
        let start = Start {
            record: &record,
            facts,
            binary: &binary,
            user,
        };
        let done = self.in_space(space.at(), &start, work);
        // Also after a failure and after a signal; the server is dead by now.
        let removed = space.remove();
        match (done, removed) {
            (Ok(done), removed) => removed.map(|()| done),
            (Err(error), removed) => Err(error.and_rollback(removed)),
        }
    }

    fn in_space<T>(&self, at: &Path, start: &Start<'_>, work: impl FnOnce(Booted<'_>) -> Result<T>) -> Result<T> {
        let datadir = at.join("data");
        let id = self.backup.manifest().id.to_string();
        let request = restore::Request::to_datadir(datadir.clone(), self.workers);
        let restored = restore::restore(self.repository, &id, &request, self.monitor, self.cancel)?;
        let trees = restored.trees();
        give(&trees, start.user)?;
        let place = Place {
            facts: start.facts,
            paths: &start.record.paths,
            datadir: &datadir,
            trees: &trees,
        };
        self.monitor.phase("boot");
        let scratch = &self.config.scratch;
        let wishes = Wishes {
            memory: scratch.memory.as_u64(),
            connections: 4,
            boot_limit: scratch.boot_limit.unsigned(),
            options: scratch.options.clone(),
            clean: false,
            throwaway: true,
            user: start.user,
            replication: false,
        };
        let mut server = scratch::start(start.binary, &place, at, &wishes, self.monitor, self.cancel)?;
        crate::failpoint!("booted");
        // The copy is thrown away: the server need not end in order.
        work(Booted {
            server: &mut server,
            binary: start.binary,
            record: start.record,
            space: at,
            user: start.user,
        })
    }
}

/// What is started.
struct Start<'s> {
    record: &'s Record,
    facts: &'s ServerFacts,
    binary: &'s Binary,
    user: Option<Account>,
}

/// Gives restored trees, in a space that nobody else can enter yet, to the server's user; the owners that the backup has stay out of it.
///
/// # Errors
/// Something cannot be given away.
pub(crate) fn give(trees: &[(PathBuf, PathBuf)], user: Option<Account>) -> Result<()> {
    let Some(account) = user else { return Ok(()) };
    for (_, at) in trees {
        match std::fs::symlink_metadata(at).is_ok_and(|found| found.is_dir()) {
            true => crate::sys::fs::give_tree(at, account)?,
            false => std::os::unix::fs::lchown(at, Some(account.0), Some(account.1))
                .map_err(|error| crate::sys::Error::path("give away", at, error))?,
        }
    }
    Ok(())
}
