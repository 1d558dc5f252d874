//! A private server of the live one's own program, on writable clones of the snapshots. It sees the clones under the names of the originals, and can write nowhere else.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::super::examine::Examined;
use super::super::run::Run;
use super::super::snapshots::Taken;
use super::super::trees::PlannedTree;
use crate::config::Config;
use crate::database::ServerFacts;
use crate::database::mysql::connect::{ConnectOptions, Target};
use crate::database::mysql::scratch::{self, Binary, Place, Scratch, Wishes};
use crate::drill::server_user;
use crate::drill::space::Space;
use crate::record::RootRole;
use crate::restore::Needs;
use crate::sys::host;
use crate::sys::peer::listener;
use crate::sys::process::Process;
use crate::sys::signal::Cancel;
use crate::sys::user::Account;
use crate::units::Id;
use crate::{Error, Result};

/// The server before it is started: its program, and where the clones are.
pub(super) struct Private<'p> {
    pub config: &'p Config,
    facts: &'p ServerFacts,
    examined: &'p Examined,
    pub binary: Binary,
    /// Originals, and where their clones are; the datadir first.
    clones: Vec<(PathBuf, PathBuf)>,
    /// The originals under their own names, as the server sees them.
    named: Vec<(PathBuf, PathBuf)>,
}

impl<'p> Private<'p> {
    /// Finds the program and the clones that were made.
    ///
    /// # Errors
    /// There is no such program any more, or something of the server is not on a snapshot.
    pub fn new(
        config: &'p Config,
        facts: &'p ServerFacts,
        examined: &'p Examined,
        planned: &[PlannedTree],
        taken: &Taken<'_>,
    ) -> Result<Private<'p>> {
        let clones = clones(planned, examined, taken)?;
        if clones.is_empty() {
            return Err(Error::failed(
                "the datadir is not on a snapshot: there is nothing to recover",
            ));
        }
        let originals = clones.iter().map(|(original, _)| original);
        let named = originals.map(|original| (original.clone(), original.clone())).collect();
        Ok(Private {
            config,
            facts,
            examined,
            binary: same_binary(config, facts)?,
            clones,
            named,
        })
    }

    /// The clones as a place of their own: where each live path is now.
    pub fn at_clones(&self) -> Place<'_> {
        self.place(&self.clones)
    }

    fn place<'s>(&'s self, trees: &'s [(PathBuf, PathBuf)]) -> Place<'s> {
        Place {
            facts: self.facts,
            paths: &self.examined.paths,
            datadir: &self.named[0].0,
            trees,
        }
    }

    /// Whom it runs as: the live server's own user.
    ///
    /// # Errors
    /// The clones belong to another.
    pub fn user(&self) -> Result<Option<Account>> {
        let top = &self.clones[0].1;
        let owner = std::fs::symlink_metadata(top).map_err(|error| crate::sys::Error::path("look at", top, error))?;
        // A server that was started by root may listen before it changes its user.
        let live = live(self.config).and_then(|peer| host::account_of(peer.pid));
        server_user::for_clones(self.config, live, (owner.uid(), owner.gid()))
    }

    /// Does some work with a directory for the server's own files, which goes whatever came of it.
    pub fn with_space<T>(&self, work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        let needs = Needs {
            bytes: 0,
            owner: self.user()?,
        };
        let space = Space::make(self.config, Id::random(), needs)?;
        let done = work(space.at());
        let removed = space.remove();
        match (done, removed) {
            (Ok(done), removed) => removed.map(|()| done),
            (Err(error), removed) => Err(error.and_rollback(removed)),
        }
    }

    /// Starts it, unless it is asked to `end`; it has recovered when this returns, and the seconds that it took are returned with it. `kept`: its end writes
    /// everything back.
    pub fn start(&self, run: &mut Run<'_>, space: &Path, kept: bool, end: &Cancel) -> Result<(Scratch, f64)> {
        let limits = &self.config.scratch;
        let wishes = Wishes {
            memory: limits.memory.as_u64(),
            connections: self.connections(),
            boot_limit: limits.boot_limit.unsigned(),
            options: limits.options.clone(),
            clean: kept,
            throwaway: false,
            user: self.user()?,
            replication: false,
        };
        let begun = Instant::now();
        let server = run.phase("recover", |run| {
            scratch::start_instead(
                &self.binary,
                &self.place(&self.named),
                &self.clones,
                space,
                &wishes,
                run.monitor,
                end,
            )
        })?;
        crate::failpoint!("clean.booted");
        Ok((server, begun.elapsed().as_secs_f64()))
    }

    /// How many tables are read at the same time.
    pub fn connections(&self) -> usize {
        match self.config.scratch.connections {
            0 => host::processors().min(4),
            connections => connections,
        }
    }
}

/// The live server's own program, else the one that is configured or found; of the very same version, as the data go back to that server.
pub(super) fn same_binary(config: &Config, facts: &ServerFacts) -> Result<Binary> {
    let own = running_program(config, facts).and_then(|program| scratch::find(Some(&program), facts).ok());
    let binary = match (&config.scratch.mysqld, own) {
        (None, Some(own)) => own,
        (named, _) => scratch::find(named.as_deref(), facts)?,
    };
    if binary.version == facts.version_number {
        return Ok(binary);
    }
    Err(Error::failed(format!(
        "the server runs as {}, and {} is {}: name its program as `scratch.mysqld` (a server that was upgraded must be restarted first)",
        facts.version,
        binary.program.path().display(),
        binary.version_text
    )))
}

/// The process that answers at the configured socket. Its word is the kernel's, not the server's.
fn live(config: &Config) -> Option<Process> {
    let options = ConnectOptions::new(config.server.as_ref()?).ok()?;
    match &options.target {
        Target::Socket(path) => listener(path).ok(),
        Target::Tcp(..) => None,
    }
}

/// The program of the process that answers at the server's socket, or has locked its data; it is run only if nobody but root can change it (`Program::trusted`).
fn running_program(config: &Config, facts: &ServerFacts) -> Option<PathBuf> {
    let process = live(config).map(|peer| peer.pid);
    let process = process.or_else(|| crate::restore::lock_holder(&facts.datadir))?;
    let program = std::fs::read_link(format!("/proc/{process}/exe"));
    program.ok().filter(|program| program.is_file())
}

/// The server's trees and where their clones are; the datadir first.
fn clones(planned: &[PlannedTree], examined: &Examined, taken: &Taken<'_>) -> Result<Vec<(PathBuf, PathBuf)>> {
    let mut clones = Vec::new();
    for tree in planned.iter().filter(|tree| tree.record.role != RootRole::Files) {
        // Keys and certificates are read where they are.
        let Some(volume) = tree.volume.and_then(|volume| examined.layout.volumes.get(volume)) else {
            continue;
        };
        let top = taken.top_of(volume).ok_or_else(|| {
            Error::failed(format!(
                "{} is not on a snapshot: there is nothing to recover",
                tree.record.path.display()
            ))
        })?;
        let at = match tree.relative.as_os_str().is_empty() {
            true => top,
            false => top.join(&tree.relative),
        };
        clones.push((tree.record.path.clone(), at));
    }
    Ok(clones)
}
