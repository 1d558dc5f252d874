//! The parallel way: the private server's own applier, with several workers. The logs are its relay logs; it knows which transactions may run beside each other, commits
//! them in the order of the log, and writes them to the copy's binary log under the original GTIDs.
//!
//! The last log is cut at the end of the replay, so that the applier simply comes to its end: with `UNTIL` MySQL's goes one transaction at a time. "It has read all" is not
//! "all is applied", as workers may be behind; so each server is asked for what moves with commits only.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Plan;
use super::channel::{CHANNEL, Channel, Status};
use super::relay::{Relay, Shown};
use crate::database::mysql::scratch::Scratch;
use crate::database::{Flavour, ServerFacts};
use crate::monitor::{Monitor, Work};
use crate::sys::failpoint;
use crate::sys::signal::Cancel;
use crate::sys::user::Account;
use crate::{Error, Result};

/// How long the server may be silent within one statement: to stop the applier waits for what its workers have begun.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(50);

/// Looks at a server that is idle and not at the end, before that is an error.
const LOOKS: u32 = 1200;

/// Whether servers of this version can: MySQL with workers that commit in order, MariaDB with optimistic ones.
pub(super) fn can(facts: &ServerFacts) -> bool {
    facts.log_bin
        && facts.version_number
            >= match facts.flavour {
                Flavour::MariaDb => (10, 6, 0),
                Flavour::MySql => (8, 0, 27),
            }
}

/// What the server has to be started with.
pub(super) fn options(flavour: Flavour, workers: usize) -> Vec<(&'static str, String)> {
    match flavour {
        Flavour::MariaDb => vec![
            ("log-slave-updates", "ON".to_owned()),
            ("slave-parallel-mode", "optimistic".to_owned()),
            ("slave-parallel-threads", workers.to_string()),
            // As much as one worker's queue may hold, in bytes.
            ("slave-parallel-max-queued", (4 << 20).to_string()),
        ],
        Flavour::MySql => vec![
            ("log-replica-updates", "ON".to_owned()),
            ("replica-parallel-workers", workers.to_string()),
            ("replica-preserve-commit-order", "ON".to_owned()),
        ],
    }
}

/// A replay by the applier of a server.
pub(super) struct Applier<'a> {
    pub plan: &'a Plan,
    pub server: &'a Scratch,
    pub flavour: Flavour,
    /// Whom the server runs as.
    pub user: Option<Account>,
    pub monitor: &'a dyn Monitor,
    pub cancel: &'a Cancel,
}

impl Applier<'_> {
    /// Applies all. `Err` in the answer: this server cannot, and why; nothing is applied then.
    ///
    /// # Errors
    /// A transaction does not fit the data, or it cannot be told that all are applied.
    pub fn run(&self) -> Result<std::result::Result<(), String>> {
        let mut channel = Channel::new(self.server.session(PATIENCE)?, self.flavour);
        let path = |channel: &mut Channel, name: &str| -> Result<Option<PathBuf>> {
            Ok(channel
                .session()
                .value(&format!("SELECT @@GLOBAL.{name}"))?
                .map(PathBuf::from))
        };
        let (Some(basename), Some(index)) = (
            path(&mut channel, "relay_log_basename")?,
            path(&mut channel, "relay_log_index")?,
        ) else {
            return Ok(Err("it has no relay logs".to_owned()));
        };
        let logs = self.cut()?;
        let lengths: Vec<u64> = logs
            .iter()
            .map(|log| std::fs::metadata(log).map_or(0, |found| found.len()))
            .collect();
        let shown = match self.flavour {
            // It looks at the offset when the channel is made, and leaves the logs as they are.
            Flavour::MariaDb => Shown::Logs,
            Flavour::MySql => Shown::Heads,
        };
        let relay = Relay::lay(&basename, &index, logs, shown, self.user)?;
        // Else it would take its own transactions for what came back to it, and pass over them.
        let own = channel
            .session()
            .value("SELECT @@GLOBAL.server_id")?
            .unwrap_or_default();
        self.set(&mut channel, "server_id", &self.other_server_id().to_string())?;
        let before = match self.flavour {
            Flavour::MariaDb => channel.session().value("SELECT @@GLOBAL.gtid_slave_pos")?,
            Flavour::MySql => None,
        };
        let made = match failpoint::asked("replay.no-channel") {
            true => Err(crate::database::Error::Unsupported("failpoint".to_owned())),
            false => channel.create(&relay.first(), &self.plan.logs[0].file, self.plan.from),
        };
        if let Err(error) = made {
            let _ = channel.remove();
            self.set(&mut channel, "server_id", &own)?;
            relay.remove()?;
            return Ok(Err(error.to_string()));
        }
        if shown == Shown::Heads {
            relay.show_logs()?;
        }
        channel.start()?;
        crate::failpoint!("replay.applying");
        self.wait(&mut channel, &relay, &lengths)?;
        channel.stop()?;
        let status = channel.status()?;
        if !status.error.is_empty() || !self.is_done(&mut channel, &relay, &status)? {
            return Err(self.failed(&status));
        }
        channel.remove()?;
        relay.remove()?;
        if let Some(before) = before {
            // How far the copy is as a replica of others is not ours to change. Strict, a server does not go back.
            self.set(&mut channel, "gtid_strict_mode", "OFF")?;
            self.set(&mut channel, "gtid_slave_pos", &format!("'{before}'"))?;
        }
        self.set(&mut channel, "server_id", &own)?;
        Ok(Ok(()))
    }

    fn set(&self, channel: &mut Channel, name: &str, value: &str) -> Result<()> {
        Ok(channel.session().run(&format!("SET GLOBAL {name} = {value}"))?)
    }

    /// The logs, the last one without what is not replayed.
    fn cut(&self) -> Result<Vec<PathBuf>> {
        let path = |log: &crate::binlog_archive::logs::Log| self.plan.work.join(&log.file);
        let logs: Vec<PathBuf> = self.plan.logs.iter().map(path).collect();
        let last = logs.last().map_or(Path::new(""), PathBuf::as_path);
        let cut = File::options()
            .write(true)
            .open(last)
            .and_then(|file| file.set_len(self.plan.position));
        cut.map_err(|error| crate::sys::Error::path("cut", last, error))?;
        Ok(logs)
    }

    /// One that nothing in the logs has.
    fn other_server_id(&self) -> u32 {
        let free = |id: &u32| !self.plan.servers.contains(id);
        (1..=u32::MAX).rev().find(free).unwrap_or(u32::MAX)
    }

    /// Waits until all is applied.
    fn wait(&self, channel: &mut Channel, relay: &Relay, lengths: &[u64]) -> Result<()> {
        let all: u64 = lengths.iter().sum();
        self.monitor.begin(Work {
            name: "replaying",
            bytes: all - self.plan.from,
            items: lengths.len() as u64,
        });
        let (mut told, mut idle) = ((self.plan.from, 0), 0);
        loop {
            let status = channel.status()?;
            let now = match relay.number(&status.file) {
                Some(number) => (lengths[..number].iter().sum::<u64>() + status.position, number as u64),
                None => (all, lengths.len() as u64),
            };
            let more = (now.0.saturating_sub(told.0), now.1.saturating_sub(told.1));
            self.monitor.advance(more.0, more.1);
            told = (told.0 + more.0, told.1 + more.1);
            if !status.runs {
                return Err(self.failed(&status));
            }
            if status.read_all && self.is_done(channel, relay, &status)? {
                self.monitor.end();
                return Ok(());
            }
            idle = match status.read_all && channel.is_idle()? {
                true => idle + 1,
                false => 0,
            };
            if idle > LOOKS {
                return Err(self.failed(&status));
            }
            self.cancel.sleep(LOOK)?;
        }
    }

    /// Everything is committed. MySQL's position moves over what all workers have done, and only then; MariaDB's may be ahead of a worker, but its GTIDs are taken down
    /// with each commit, in the order of the log.
    fn is_done(&self, channel: &mut Channel, relay: &Relay, status: &Status) -> Result<bool> {
        let ends: Vec<&str> = self.plan.ends.values().map(String::as_str).collect();
        match self.flavour {
            Flavour::MariaDb => {
                let there = channel.session().value("SELECT @@GLOBAL.gtid_slave_pos")?;
                let there = there.unwrap_or_default();
                let there: BTreeSet<&str> = there.split(',').map(str::trim).collect();
                Ok(!ends.is_empty() && ends.iter().all(|gtid| there.contains(gtid)))
            }
            Flavour::MySql => {
                let last = relay
                    .number(&status.file)
                    .map(|number| number + 1 == self.plan.logs.len());
                if last == Some(false) || (last == Some(true) && status.position != self.plan.position) {
                    return Ok(false);
                }
                let subset = format!("SELECT GTID_SUBSET('{}', @@GLOBAL.gtid_executed)", ends.join(","));
                Ok(channel.session().value(&subset)?.as_deref() == Some("1"))
            }
        }
    }

    fn failed(&self, status: &Status) -> Error {
        let mut said = status.error.clone();
        for line in self.server.errors_of(CHANNEL) {
            said.push_str("\n  ");
            said.push_str(&line);
        }
        if said.is_empty() {
            said = format!(
                "the server's applier came to an end at {}:{}, and not all is applied",
                status.file, status.position
            );
        }
        Error::failed(format!(
            "the logs do not fit the backup, or the server's applier cannot take them (`--replay-workers 1` replays without it): {said}"
        ))
    }
}
