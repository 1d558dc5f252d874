//! A backup on scratch space with a private server on it, for whoever wants to take something out of it. Nothing of it is left afterwards.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::database::ServerFacts;
use crate::database::mysql::scratch::{self, Binary, Place, Scratch, Wishes};
use crate::drill::space::Space;
use crate::monitor::Monitor;
use crate::record::Record;
use crate::repository::{Backup, Repository};
use crate::restore::{self, needs, record_of};
use crate::sys::signal::Cancel;
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
    /// A private directory, beside the data, that goes with it.
    pub run: &'b Path,
}

/// A private server on restored data that stay: something is changed in them, and then they are as a server left them in order.
pub(crate) struct OnRestored<'p> {
    /// The data.
    pub place: &'p Place<'p>,
    /// A directory for its own files; it is given to the owner of the datadir.
    pub work: &'p Path,
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
        if let Some((uid, gid)) = self.owner()? {
            std::os::unix::fs::chown(self.work, Some(uid), Some(gid))
                .map_err(|error| crate::sys::Error::path("give away", self.work, error))?;
        }
        scratch::start(
            binary,
            self.place,
            &self.work.join("run"),
            wishes,
            self.monitor,
            self.cancel,
        )
    }

    /// Whom the server runs as, when it is not us.
    ///
    /// # Errors
    /// The datadir cannot be looked at.
    pub fn owner(&self) -> Result<Option<(u32, u32)>> {
        let datadir = self.place.datadir;
        let found = std::fs::metadata(datadir).map_err(|error| crate::sys::Error::path("look at", datadir, error))?;
        Ok(crate::sys::host::is_root().then_some((found.uid(), found.gid())))
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
            let failed = |error| crate::sys::Error::path("open", at, error);
            crate::sys::fs::syncfs(&std::fs::File::open(at).map_err(failed)?, at)?;
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
        let space = Space::make(self.config, Id::random(), needs)?;
        let done = self.in_space(space.at(), &record, facts, &binary, work);
        // Also after a failure and after a signal; the server is dead by now.
        let removed = space.remove();
        match (done, removed) {
            (Ok(done), removed) => removed.map(|()| done),
            (Err(error), removed) => Err(error.and_rollback(removed)),
        }
    }

    fn in_space<T>(
        &self,
        at: &Path,
        record: &Record,
        facts: &ServerFacts,
        binary: &Binary,
        work: impl FnOnce(Booted<'_>) -> Result<T>,
    ) -> Result<T> {
        let (datadir, run) = (at.join("data"), at.join("run"));
        let id = self.backup.manifest().id.to_string();
        let request = restore::Request::to_datadir(datadir.clone(), self.workers);
        let restored = restore::restore(self.repository, &id, &request, self.monitor, self.cancel)?;
        let trees = restored.trees();
        let place = Place {
            facts,
            paths: &record.paths,
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
            replication: false,
        };
        let mut server = scratch::start(binary, &place, &run, &wishes, self.monitor, self.cancel)?;
        crate::failpoint!("booted");
        // The copy is thrown away: the server need not end in order.
        work(Booted {
            server: &mut server,
            binary,
            record,
            run: &run,
        })
    }
}
