//! Point in time: a backup, and the archived binary logs replayed over it from its exact position to a point.
//!
//! The replay runs on a private server on the restored datadir (the one that drills use: no network, no events): in parallel by that server's applier, or one transaction
//! after the other through the server's own log printer and client. Either way it is written to the copy's own binary log in the order of the log and under the original
//! GTIDs, so that what comes out can go on as a replica.

mod applier;
mod channel;
mod client;
mod events;
mod half;
mod plan;
mod point;
mod programs;
mod reading;
mod relay;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::binlog_archive::logs::Log;
use crate::binlog_archive::then::{self, Then};
use crate::booted::OnRestored;
use crate::config::Config;
use crate::database::ServerFacts;
use crate::database::mysql::scratch::{self, Binary, Place, Scratch, Wishes};
use crate::drill::{Space, server_user};
use crate::finding::Finding;
use crate::job::{self, Whose};
use crate::monitor::Monitor;
use crate::record::Record;
use crate::repository::{Backup, Manifest, Repository};
use crate::restore::{self, Needs, record_of};
use crate::sys::signal::Cancel;
use crate::units::Id;
use crate::{Error, Result};

use applier::Applier;
use client::Client;
use events::Events;
use half::Half;
pub use plan::plan;
pub use point::{Asked, Until, parse};

/// The largest event that a server takes, in bytes.
const PACKET: &str = "1073741824";

/// What is replayed over which backup.
pub struct Plan {
    /// The backup.
    pub backup: Backup,
    record: Record,
    logs: Vec<Log>,
    from: u64,
    /// The last file.
    pub file: String,
    /// The end in it: nothing behind it is replayed.
    pub position: u64,
    /// The last change that is replayed, as far as the log tells; seconds since 1970.
    pub last: Option<u32>,
    /// How many transactions and single statements that is.
    pub changes: u64,
    /// What a person must read.
    pub warnings: Vec<Finding>,
    /// Where the whole logs are, named as on the server.
    work: PathBuf,
    /// The servers that wrote what is replayed.
    servers: BTreeSet<u32>,
    /// The last GTID of each domain (MariaDB) or source (MySQL) in what is replayed.
    ends: BTreeMap<String, String>,
    /// What the live server was like meanwhile.
    then: Then,
    /// Statements about events of the scheduler, each with the server that it was given on.
    events: Vec<(u32, String)>,
    /// Transactions that may be replayed at the same time.
    workers: usize,
}

/// What a replay did.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// From where: the backup's position.
    pub from_file: String,
    /// Its offset.
    pub from_position: u64,
    /// To where.
    pub file: String,
    /// Its offset.
    pub position: u64,
    /// When the last change that was replayed was committed on its server; `None` when nothing lay between.
    pub last_change: Option<jiff::Timestamp>,
    /// Transactions and single statements that were replayed.
    pub changes: u64,
    /// The GTIDs that the copy has executed now.
    pub gtid: Option<String>,
    /// `parallel`: the server's applier; `serial`: its client, one transaction after the other.
    pub applier: &'static str,
    /// Transactions that could be replayed at the same time.
    pub workers: usize,
    /// Wall time of the replay.
    pub seconds: f64,
    /// What a person must read.
    pub warnings: Vec<Finding>,
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "replay from {} to {}:{}", self.from, self.file, self.position)
    }
}

impl Plan {
    /// Lets the server replay so many transactions at the same time, where it can; 1: one after the other. `None`: as many as processors, at most 8.
    pub fn with_workers(mut self, workers: Option<usize>) -> Plan {
        self.workers = workers.unwrap_or_else(|| crate::sys::host::processors().min(8));
        self
    }

    /// Replays over what was restored to a datadir; what there is then is durable.
    ///
    /// # Errors
    /// The private server does not start, or a statement does not fit the data: half a replay is there, or none.
    fn replay(
        &self,
        restored: &restore::Report,
        config: &Config,
        monitor: &dyn Monitor,
        cancel: &Cancel,
    ) -> Result<Report> {
        let begun = std::time::Instant::now();
        let facts = self
            .record
            .server
            .as_ref()
            .ok_or_else(|| Error::usage("the backup holds no database"))?;
        let facts = &self.facts_then(facts);
        let trees = restored.trees();
        let datadir = trees.iter().find(|(original, _)| *original == facts.datadir);
        let datadir = datadir
            .ok_or_else(|| Error::failed("the datadir was not restored"))?
            .1
            .clone();
        crate::failpoint!("replay.restored");
        let binary = scratch::find(config.scratch.mysqld.as_deref(), facts).map_err(Error::from)?;
        let place = Place {
            facts,
            paths: &self.record.paths,
            datadir: &datadir,
            trees: &trees,
        };
        let mut options = config.scratch.options.clone();
        options.insert("max-allowed-packet".to_owned(), PACKET.to_owned());
        for (name, value) in &self.then.settings {
            let plain = !value.contains(['\n', '\r', '"', '\'']);
            let option = format!("loose-{}", name.replace('_', "-"));
            if plain && !options.contains_key(&name.replace('_', "-")) {
                options.entry(option).or_insert_with(|| value.clone());
            }
        }
        let workers = match applier::can(facts) {
            true => self.workers.max(1),
            false => 1,
        };
        if workers > 1 {
            let more = applier::options(facts.flavour, workers);
            options.extend(more.into_iter().map(|(key, value)| (key.to_owned(), value)));
        }
        let wishes = Wishes {
            memory: config.scratch.memory.as_u64(),
            connections: 2,
            boot_limit: config.scratch.boot_limit.unsigned(),
            options,
            clean: false,
            throwaway: false,
            user: None,
            replication: false,
        };
        monitor.phase("boot");
        let on = OnRestored {
            place: &place,
            work: &self.work,
            user: server_user::on_restored(config, &datadir)?,
            monitor,
            cancel,
        };
        let server = on.start(&binary, &wishes)?;
        monitor.phase("replay");
        let (workers, said) = self.apply(&server, &binary, &on, workers)?;
        let gtid = server.gtid()?;
        on.stop(server)?;
        crate::failpoint!("replay.applied", || Error::failed("failpoint"));
        Ok(Report {
            from_file: self.logs[0].file.clone(),
            from_position: self.from,
            file: self.file.clone(),
            position: self.position,
            last_change: self
                .last
                .and_then(|time| jiff::Timestamp::from_second(i64::from(time)).ok()),
            changes: self.changes,
            gtid,
            applier: if workers > 1 { "parallel" } else { "serial" },
            workers,
            seconds: begun.elapsed().as_secs_f64(),
            warnings: [self.warnings.clone(), said].concat(),
        })
    }

    /// The programs that the replay will start.
    fn require_programs(&self, config: &Config) -> Result<()> {
        let Some(facts) = &self.record.server else {
            return Err(Error::usage("the backup holds no database"));
        };
        let facts = &self.facts_then(facts);
        let binary = scratch::find(config.scratch.mysqld.as_deref(), facts).map_err(Error::from)?;
        if self.changes > 0 && (self.workers <= 1 || !applier::can(facts)) {
            programs::find(&binary, programs::Kind::Printer)?;
            programs::find(&binary, programs::Kind::Client)?;
        }
        Ok(())
    }

    /// The server as the replay needs it: as it was when the logs were written.
    fn facts_then(&self, facts: &ServerFacts) -> ServerFacts {
        let mut facts = facts.clone();
        for (name, value) in &self.then.settings {
            facts.variables.insert(name.clone(), value.clone());
        }
        let engines = facts.variables.get("engine_libraries").cloned().unwrap_or_default();
        let mut libraries = then::split(&engines);
        libraries.extend(self.then.libraries.iter().cloned());
        let libraries: Vec<String> = libraries.into_iter().collect();
        if !libraries.is_empty() {
            facts
                .variables
                .insert("engine_libraries".to_owned(), libraries.join(";"));
        }
        facts
    }

    /// Applies the logs, in parallel where the server can; by so many workers it was, with what a person must read.
    fn apply(
        &self,
        server: &Scratch,
        binary: &Binary,
        on: &OnRestored<'_>,
        workers: usize,
    ) -> Result<(usize, Vec<Finding>)> {
        if self.changes == 0 {
            return Ok((workers, Vec::new()));
        }
        if workers > 1 {
            let applier = Applier {
                plan: self,
                server,
                flavour: binary.flavour,
                user: on.user,
                monitor: on.monitor,
                cancel: on.cancel,
            };
            let events = Events::before(self, server, binary.flavour)?;
            match applier.run()? {
                Ok(()) => return Ok((workers, events.settle()?.into_iter().collect())),
                Err(reason) => on
                    .monitor
                    .message(&format!("one transaction after the other: {reason}")),
            }
        }
        let client = Client {
            plan: self,
            server,
            binary,
            user: on.user,
            cancel: on.cancel,
        };
        client.run()?;
        Ok((1, Vec::new()))
    }
}

/// Restores a backup to a datadir and replays over it as `plan`, which gets a directory for the logs, says. On failure nothing is there: half a replay is no state that
/// ever was.
///
/// # Errors
/// The plan's and the restore's; the private server does not start, or a statement does not fit the data.
pub fn restore_and_replay(
    config: &Config,
    repository: &Repository,
    datadir: &Path,
    request: restore::Request,
    plan: impl FnOnce(&Path) -> Result<Plan>,
    monitor: &dyn Monitor,
    cancel: &Cancel,
) -> Result<(restore::Report, Report)> {
    within(config, 0, |space| {
        // Before hours of work: is there an account, and the server's program, and would it start on it?
        server_user::for_copies(config)?;
        let plan = plan(space.at())?;
        plan.require_programs(config)?;
        if let Some(owner) = restore::needs(&plan.backup, &request, cancel)?.owner {
            server_user::for_restored(config, datadir, owner)?;
        }
        let half = Half::begin(space, datadir)?;
        let request = restore::Request {
            unfinished: Some(half.mark()),
            stop_with: None,
            start_with: None,
            ..request
        };
        let backup = plan.backup.manifest().id.to_string();
        let done = restore::restore(repository, &backup, &request, monitor, cancel).and_then(|restored| {
            let replayed = plan.replay(&restored, config, monitor, cancel)?;
            Ok((restored, replayed))
        });
        match done {
            Ok(done) => half.whole().map(|()| done),
            Err(error) => Err(error.and_rollback(half.remove())),
        }
    })
}

/// Runs `work` with a directory for logs and the private server's own files, which is gone afterwards, whatever happens.
///
/// # Errors
/// The directory cannot be made or removed; or those of `work`.
pub fn in_space<T>(config: &Config, bytes: u64, work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    within(config, bytes, |space| work(space.at()))
}

fn within<T>(config: &Config, bytes: u64, work: impl FnOnce(&Space) -> Result<T>) -> Result<T> {
    let space = Space::make(config, Id::random(), Needs { bytes, owner: None })?;
    let done = work(&space);
    match (done, space.remove()) {
        (Ok(done), removed) => removed.map(|()| done),
        (Err(error), removed) => Err(error.and_rollback(removed)),
    }
}

/// What a plan asks to restore.
pub fn request(datadir: PathBuf, workers: usize, keep_uuid: bool) -> restore::Request {
    restore::Request {
        keep_uuid,
        ..restore::Request::to_datadir(datadir, workers)
    }
}

/// The records of a job's backups of a server, newest first, with an exact position; or of one.
fn candidates(repository: &Repository, whose: &Whose, id: Option<&str>) -> Result<Vec<(Backup, Record)>> {
    let ids: Vec<String> = match id {
        Some(id) => vec![id.to_owned()],
        None => {
            let listed: Vec<Manifest> = repository
                .list()?
                .into_iter()
                .filter_map(|listed| listed.manifest.ok())
                .collect();
            match listed.is_empty() {
                true => Vec::new(),
                false => {
                    let own = job::own(&listed, whose)?;
                    let members = own.members.iter().rev();
                    members.map(|member| member.manifest.id.to_string()).collect()
                }
            }
        }
    };
    let mut found = Vec::new();
    for id in ids {
        let backup = repository.find(&id)?;
        let record = record_of(backup.manifest())?;
        if record.server.is_some() && record.exact && record.position.is_some() {
            found.push((backup, record));
        }
    }
    Ok(found)
}
