//! The steps of a rollback, forward and back. Each asks the storage first, so that it can be made again after any death.

use std::path::Path;
use std::time::{Duration, Instant};

use super::plan::binary_log;
use super::record::{Phase, Record};
use super::{past_return, server_of};
use crate::backup::examine::provider_of;
use crate::config::Config;
use crate::database::mysql::binlog;
use crate::finding::Finding;
use crate::held::{self, Held, HeldVolume, ServerState};
use crate::monitor::Monitor;
use crate::restore::is_server;
use crate::volume::Provider;
use crate::volume::rollback::{GoBack, Stand, Swap};
use crate::{Error, Result, service, sys};

/// So many users of a volume are named.
const SHOWN: usize = 5;
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A rollback on its way.
pub struct Steps<'c> {
    config: &'c Config,
    providers: &'c [Box<dyn Provider>],
    record: Record,
    monitor: &'c dyn Monitor,
    /// Servers (process numbers) on the volumes when the server was told to stop: one that has given up its locks may not have ended.
    ending: Vec<i32>,
    /// Whether every volume is back and mounted, and what was live is kept.
    back: bool,
    /// What a person must read.
    pub findings: Vec<Finding>,
}

impl<'c> Steps<'c> {
    pub fn new(
        config: &'c Config,
        providers: &'c [Box<dyn Provider>],
        record: Record,
        monitor: &'c dyn Monitor,
    ) -> Steps<'c> {
        Steps {
            config,
            providers,
            record,
            monitor,
            ending: Vec::new(),
            back: false,
            findings: Vec::new(),
        }
    }

    fn way(&self, swap: &Swap) -> Result<&'c dyn GoBack> {
        provider_of(self.providers, &swap.held.volume)?
            .go_back()
            .ok_or_else(|| Error::failed(format!("{} cannot be rolled back", swap.held.volume.source)))
    }

    /// The next phase, durable before anything of it is done.
    fn enter(&mut self, phase: Phase) -> Result<()> {
        self.record.phase = phase;
        self.record.write(&self.config.state_dir)
    }

    /// Whether there is no way back any more.
    pub fn is_past_return(&self) -> bool {
        past_return(self.record.phase)
    }

    /// What follows is the server's start only.
    pub fn data_is_back(&mut self) {
        self.back = true;
    }

    /// What is done and what is not, after a failure from which only forward is a way.
    pub fn left_to_do(&self, cause: Error) -> Error {
        let set = self.record.set.id.short();
        let kept = self.record.swaps.iter().any(|swap| swap.keep);
        let kept = match kept {
            true => format!(", and what was live before is held set {}", self.record.id.short()),
            false => String::new(),
        };
        Error::failed(match self.back {
            true => format!(
                "the data is back as held set {set} has it{kept}; only the server is not up: {cause}. Start it, and `snapback cleanup` ends the rollback"
            ),
            false => format!(
                "the volumes go back to held set {set}, and not all is done yet: {cause}. Do not start the server; `snapback cleanup` finishes the rollback"
            ),
        })
    }

    /// Copies of the held snapshots, beside what is live.
    pub fn make(&self) -> Result<()> {
        self.record
            .swaps
            .iter()
            .try_for_each(|swap| Ok(self.way(swap)?.make(swap)?))
    }

    /// Stops the server, if it runs and may be stopped; it must not run afterwards.
    pub fn stop(&mut self, may: bool) -> Result<()> {
        let set = self.record.set.clone();
        match server_of(&set) {
            Some(_) if may => {
                self.record.server_stopped = true;
                self.record.write(&self.config.state_dir)?;
                self.ending = self.servers()?;
                self.monitor.message("stopping the server");
                service::stop(&self.config.service, || server_of(&set))?;
            }
            Some(how) => return Err(Error::failed(format!("the server runs: {how}; nothing was touched"))),
            None => {}
        }
        self.record.position = position_of(&set);
        Ok(())
    }

    /// Takes the volumes out of everybody's sight, the deepest mounts first.
    pub fn unmount(&self) -> Result<()> {
        let until = Instant::now() + self.config.service.limit.unsigned();
        for swap in &self.record.swaps {
            let ending = |busy: &[(i32, String)]| busy.iter().any(|(number, _)| self.ending.contains(number));
            while ending(&self.users(swap)?) && Instant::now() < until {
                std::thread::sleep(LOOK_EVERY);
            }
            self.unused(swap)?;
        }
        let mut mounts: Vec<&Path> = self
            .record
            .swaps
            .iter()
            .flat_map(|swap| swap.mounts.iter().map(|mount| mount.at.as_path()))
            .collect();
        mounts.sort_by_key(|at| std::cmp::Reverse(at.components().count()));
        for at in mounts {
            sys::mount::unmount_live(at)?;
        }
        Ok(())
    }

    /// Whoever uses what is live, or was.
    fn users(&self, swap: &Swap) -> Result<Vec<(i32, String)>> {
        let device = self.way(swap)?.seen_as(swap)?;
        Ok(device.map(sys::host::users_of).unwrap_or_default())
    }

    /// Servers that run on what is live, by their names or by their locks.
    fn servers(&self) -> Result<Vec<i32>> {
        let set = &self.record.set;
        let server = set.record.server.as_ref();
        let mut found = server.map_or(Vec::new(), |server| {
            service::lock_holders(&server.datadir, &set.record.paths)
        });
        for swap in &self.record.swaps {
            let servers = self.users(swap)?.into_iter().filter(|(_, name)| is_server(name));
            found.extend(servers.map(|(number, _)| number));
        }
        Ok(found)
    }

    fn unused(&self, swap: &Swap) -> Result<()> {
        let busy = self.users(swap)?;
        match busy.is_empty() {
            true => Ok(()),
            false => Err(in_use(swap, &busy)),
        }
    }

    /// The volume gives up its name. Whoever came since it was looked at, where no unmounting would have failed, came by that name, and is seen now;
    /// nobody comes any more.
    fn away(&self, swap: &Swap) -> Result<()> {
        self.way(swap)?.away(swap)?;
        self.unused(swap)
    }

    /// The datadir's volume leaves first, and its copy enters in [`settle`](Steps::settle), last: in between no server finds its data.
    pub fn exchange(&mut self) -> Result<()> {
        self.enter(Phase::Exchanging)?;
        let Some((first, rest)) = self.record.swaps.split_first() else {
            return Ok(());
        };
        self.away(first)?;
        crate::failpoint!("rollback.away", || Error::failed("failpoint"));
        for swap in rest {
            self.away(swap)?;
            crate::failpoint!("rollback.other-away", || Error::failed("failpoint"));
            self.way(swap)?.enter(swap)?;
            crate::failpoint!("rollback.other-entered", || Error::failed("failpoint"));
        }
        Ok(())
    }

    /// From here on only forward: what cannot be taken back is done while the datadir has no name, which it gets when all others are whole.
    fn enter_last(&self) -> Result<()> {
        let Some((first, rest)) = self.record.swaps.split_first() else {
            return Ok(());
        };
        for swap in rest {
            self.way(swap)?.commit(swap)?;
            crate::failpoint!("rollback.other-committed");
        }
        self.way(first)?.enter(first)?;
        crate::failpoint!("rollback.entered");
        Ok(self.way(first)?.commit(first)?)
    }

    /// Mounts all again, and makes a held set of what was live.
    pub fn settle(&mut self) -> Result<()> {
        self.enter(Phase::Settling)?;
        crate::failpoint!("rollback.settling", || Error::failed("failpoint"));
        self.enter_last()?;
        self.mount_again()?;
        crate::failpoint!("rollback.mounted");
        let mut kept = Vec::new();
        for swap in &self.record.swaps {
            let Some(snapshot) = self.way(swap)?.settle(swap)? else {
                continue;
            };
            let known = self
                .record
                .set
                .volumes
                .iter()
                .find(|volume| volume.snapshot.name == swap.held.name);
            kept.push(HeldVolume {
                snapshot,
                with_database: known.is_none_or(|volume| volume.with_database),
            });
            crate::failpoint!("rollback.settled");
        }
        let already = held::list(&self.config.state_dir)?.of(self.record.id).is_some();
        if !already && !kept.is_empty() {
            held::write(&self.config.state_dir, &self.kept_set(kept))?;
        }
        self.rename_held()?;
        self.give_up_what_is_used_up()?;
        crate::failpoint!("rollback.kept");
        Ok(())
    }

    /// A set of which a snapshot became what is live is none any more: the rollback removes it at its end, else `cleanup` does.
    fn give_up_what_is_used_up(&self) -> Result<()> {
        if !self.uses_up()? {
            return Ok(());
        }
        match held::list(&self.config.state_dir)?.of(self.record.set.id) {
            Some(set) if !set.deleting => {
                let doomed = Held {
                    deleting: true,
                    ..set.clone()
                };
                held::replace(&self.config.state_dir, &doomed)
            }
            _ => Ok(()),
        }
    }

    fn uses_up(&self) -> Result<bool> {
        self.record
            .swaps
            .iter()
            .try_fold(false, |any, swap| Ok(any || self.way(swap)?.uses_up()))
    }

    /// On ZFS, snapshots that are newer than the set went along with what was live: their records get the names that they have now.
    fn rename_held(&self) -> Result<()> {
        let mut names = std::collections::BTreeMap::new();
        for swap in &self.record.swaps {
            names.extend(self.way(swap)?.names_now()?);
        }
        for mut held in held::list(&self.config.state_dir)?.sets {
            let before = held.clone();
            for volume in &mut held.volumes {
                let now = volume
                    .snapshot
                    .identity
                    .as_ref()
                    .and_then(|identity| names.get(identity));
                volume.snapshot.name = now.unwrap_or(&volume.snapshot.name).clone();
            }
            if held != before {
                held::replace(&self.config.state_dir, &held)?;
            }
        }
        Ok(())
    }

    /// Lower mount points first: others may lie in them.
    fn mount_again(&self) -> Result<()> {
        let mut swaps: Vec<&Swap> = self.record.swaps.iter().collect();
        let depth = |swap: &Swap| swap.mounts.iter().map(|mount| mount.at.components().count()).min();
        swaps.sort_by_key(|swap| depth(swap));
        swaps
            .into_iter()
            .try_for_each(|swap| Ok(self.way(swap)?.mount_again(swap)?))
    }

    /// What was live, as a held set. It lies on the same volumes, so its paths are those of the set that came back.
    fn kept_set(&self, volumes: Vec<HeldVolume>) -> Held {
        let set = &self.record.set;
        let mut record = set.record.clone();
        record.exact = self.record.position.is_some();
        record.position.clone_from(&self.record.position);
        record.lock = None;
        record.phases = Vec::new();
        record.warnings = Vec::new();
        // Volumes that did not go back are not in it; those that did have new numbers.
        let number = |old: usize| {
            let name = &set.volumes.get(old)?.snapshot.name;
            self.record.swaps.iter().position(|swap| swap.held.name == *name)
        };
        let mut placed = set.placed.clone();
        placed.retain_mut(|one| number(one.volume).map(|new| one.volume = new).is_some());
        let mut trees = set.trees.clone();
        trees.retain_mut(|one| number(one.volume).map(|new| one.volume = new).is_some());
        let server = match set.server {
            ServerState::None => ServerState::None,
            _ => ServerState::Stopped,
        };
        Held {
            format: held::FORMAT,
            id: self.record.id,
            time: jiff::Timestamp::now(),
            host: set.host.clone(),
            label: Some(format!(
                "before the rollback to {}",
                set.label.clone().unwrap_or_else(|| set.id.short())
            )),
            expires: None,
            server,
            volumes,
            placed,
            trees,
            places: set.places.clone(),
            record,
            deleting: false,
        }
    }

    /// Starts the server, if the rollback stopped it, and checks where its data ends before.
    pub fn start(&mut self, config: &Config) -> Result<Option<String>> {
        self.findings.extend(self.wrong_position());
        if !self.record.server_stopped {
            return Ok(None);
        }
        self.monitor.message("starting the server");
        let version = service::start(config)?;
        crate::failpoint!("rollback.started");
        Ok(Some(version))
    }

    /// The binary log that came back must end where the set says.
    fn wrong_position(&self) -> Option<Finding> {
        let set = &self.record.set;
        let wanted = set.record.position.as_ref().filter(|_| set.record.exact)?;
        // A server that was started meanwhile writes on.
        let there = position_of(set).filter(|_| server_of(set).is_none())?;
        if (&there.file, there.position) == (&wanted.file, wanted.position) {
            return None;
        }
        let said = format!(
            "the binary log ends at {}:{}, and the set was recorded at {}:{}",
            there.file, there.position, wanted.file, wanted.position
        );
        Some(
            Finding::warning("position", said)
                .remedy("the server's data and its binary log may differ: check before writing to it"),
        )
    }

    /// All is done.
    pub fn finish(&self) -> Result<()> {
        self.record.remove(&self.config.state_dir)
    }

    /// Puts everything back as it was, and starts the server if it was stopped. The datadir's volume gets its name last.
    pub fn undo(&mut self) -> Result<()> {
        self.enter(Phase::Undoing)?;
        for swap in self.record.swaps.iter().rev() {
            let way = self.way(swap)?;
            way.leave(swap)?;
            way.back(swap)?;
            crate::failpoint!("rollback.undone-one");
        }
        self.mount_again()?;
        for swap in &self.record.swaps {
            self.way(swap)?.discard(swap)?;
        }
        if self.record.server_stopped && server_of(&self.record.set).is_none() {
            self.monitor.message("starting the server");
            service::start(self.config)?;
        }
        self.finish()
    }

    /// Whether it is finished after a death, and not undone. As long as the datadir's volume, which leaves first, has its name, a reboot may have started a server on it,
    /// and what that has written since is kept nowhere else.
    ///
    /// # Errors
    /// The storage cannot be looked at.
    pub fn goes_forward(&self) -> Result<bool> {
        match (self.record.phase, self.record.swaps.first()) {
            (Phase::Preparing | Phase::Undoing, _) => Ok(false),
            (Phase::Settling, _) | (Phase::Exchanging, None) => Ok(true),
            (Phase::Exchanging, Some(first)) => Ok(self.way(first)?.stand(first)? != Stand::Old),
        }
    }

    /// Goes on after a death: forward when the names were being exchanged or are, else back. Returns whether forward.
    pub fn resume(&mut self) -> Result<bool> {
        if !self.goes_forward()? {
            return self.undo().map(|()| false);
        }
        if self.record.phase == Phase::Exchanging {
            self.unmount_what_came_up()?;
            self.exchange()?;
        }
        self.settle()?;
        let runs = server_of(&self.record.set).is_some();
        if !runs {
            self.start(self.config)?;
        }
        self.finish()?;
        Ok(true)
    }

    /// After a reboot, volumes whose names were right are mounted.
    fn unmount_what_came_up(&self) -> Result<()> {
        let set = &self.record.set;
        match server_of(set) {
            Some(how) => Err(Error::failed(format!(
                "the server runs, though its set is half rolled back: {how}; stop it"
            ))),
            None => self.unmount(),
        }
    }
}

fn in_use(swap: &Swap, busy: &[(i32, String)]) -> Error {
    let who: Vec<String> = busy
        .iter()
        .take(SHOWN)
        .map(|(number, name)| format!("{name} ({number})"))
        .collect();
    Error::failed(format!(
        "{} is in use by {}: end that first",
        swap.held.volume.source,
        who.join(", ")
    ))
}

/// Where the binary log on disk ends; `None` where there is none, or it cannot be read.
fn position_of(set: &Held) -> Option<crate::database::Position> {
    let (index, directory) = binary_log(set)?;
    let server = set.record.server.as_ref()?;
    let found = binlog::position(server.flavour, &index, &directory);
    found
        .inspect_err(|error| tracing::warn!(%error, "cannot read the binary log's end"))
        .ok()
}
