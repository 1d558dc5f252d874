//! Held sets: snapshots that a run took and kept, for maintenance. This is the record of one; [`keep`] says where records are.
//!
//! A set is taken on the path of a backup, without the copy. The record's appearance is the commit point: the run's journal has the
//! snapshots before they are made, the record is written when they are there, and the journal goes after it. So a snapshot of ours is
//! always named by a journal or by a record.

mod keep;

pub use keep::{Kept, Use, choose, latest_first, list, remove, replace, take_for, write};

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::detect::Placed;
use crate::finding::Finding;
use crate::record::{Record, RootRecord};
use crate::units::Id;
use crate::volume::{self, Health, Provider, Snapshot};

/// The form of the records that this version writes.
pub const FORMAT: u32 = 1;

/// A held set. It has all that a rollback, a mount or a copy needs while no server answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// [`FORMAT`] of the version that wrote it.
    pub format: u32,
    /// The run that took it; a backup made of it has an id of its own.
    pub id: Id,
    /// The instant of the snapshots, UTC.
    pub time: jiff::Timestamp,
    /// The name of the host, as its backups have it.
    pub host: String,
    /// What a person called it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// From then on `snapshot expire` and `cleanup` remove it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<jiff::Timestamp>,
    /// How the server was at the instant.
    pub server: ServerState,
    /// One snapshot for each volume; the other fields' `volume` is an index into this.
    pub volumes: Vec<HeldVolume>,
    /// Every path that the server needs, on its volume. None when there was no database.
    pub placed: Vec<Placed>,
    /// The trees that a backup of the set consists of; the datadir's first.
    pub trees: Vec<HeldTree>,
    /// Directories of ours in which the snapshots appear on the live host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub places: Vec<PathBuf>,
    /// What a backup's record has: promise, exactness, server, paths, lock, position, replica, phases. Nothing was copied yet.
    pub record: Record,
    /// Its removal began: nothing may use it any more, and `cleanup` goes on with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleting: bool,
}

/// How the server was when a set was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerState {
    /// It answered.
    Running,
    /// It answered, and was read-only (paused for maintenance).
    ReadOnly,
    /// It was stopped, and its files need no recovery.
    Stopped,
    /// It was not running, and its files need recovery: it had been killed.
    Killed,
    /// There is none: files only.
    None,
}

/// One snapshot of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldVolume {
    /// It, with its volume.
    pub snapshot: Snapshot,
    /// Whether it was taken at the database's instant, or by itself afterwards (files only).
    pub with_database: bool,
}

/// One tree of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldTree {
    /// Its original path, and what it is for.
    pub root: RootRecord,
    /// Index into [`Held::volumes`].
    pub volume: usize,
    /// The path relative to the volume's top, and so to a mounted snapshot's.
    pub relative: PathBuf,
    /// Absolute paths below it that are not to be copied from here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skip: Vec<PathBuf>,
}

impl Held {
    /// The promise in a person's word: a server that was stopped well gives `clean`.
    pub fn level(&self) -> &'static str {
        use crate::database::Consistency;
        match (self.server, self.record.consistency) {
            (ServerState::Stopped, _) => "clean",
            (_, Consistency::Crash) => "crash",
            (_, Consistency::Application | Consistency::Clean) => "application",
        }
    }

    /// Its snapshots.
    pub fn snapshots(&self) -> impl Iterator<Item = &Snapshot> {
        self.volumes.iter().map(|volume| &volume.snapshot)
    }

    /// Whether it holds a snapshot of this name and run.
    pub fn holds(&self, snapshot: &Snapshot) -> bool {
        self.snapshots()
            .any(|own| (own.run, &own.name) == (snapshot.run, &snapshot.name))
    }

    /// Whether its time is over.
    pub fn expired(&self, now: jiff::Timestamp) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }
}

/// The code of a snapshot that is gone or invalid.
pub const LOST: &str = "held-lost";
/// The code of one that may be whole, and cannot be reached.
pub const UNREACHABLE: &str = "held-unreachable";

/// The snapshots of a set that are out of reach, and why: they may be whole. Changes nothing.
pub fn out_of_reach<'h>(held: &'h Held, config: &Config) -> Vec<(&'h Snapshot, String)> {
    let providers = looking(config);
    let found = held
        .snapshots()
        .filter_map(|snapshot| match trouble(snapshot, &providers) {
            Some((UNREACHABLE, reason)) => Some((snapshot, reason)),
            _ => None,
        });
    found.collect()
}

/// Providers that extend nothing.
fn looking(config: &Config) -> Vec<Box<dyn Provider>> {
    let mut config = config.clone();
    config.lvm.cow_limit = None;
    volume::providers(&config)
}

/// A warning for each snapshot of the sets that is gone, or cannot be trusted any more, or soon may not be. Changes nothing.
pub fn findings(sets: &[Held], config: &Config) -> Vec<Finding> {
    let providers = looking(config);
    let mut findings = Vec::new();
    for held in sets.iter().filter(|held| !held.deleting) {
        for snapshot in held.snapshots() {
            let Some((code, reason)) = trouble(snapshot, &providers) else {
                continue;
            };
            let id = held.id.short();
            let finding = Finding::warning(code, format!("held set {id}: {reason}"));
            findings.push(match code {
                LOST => finding.remedy(format!("`snapback snapshot delete {id}` forgets it")),
                _ => finding,
            });
        }
    }
    findings
}

fn trouble(snapshot: &Snapshot, providers: &[Box<dyn Provider>]) -> Option<(&'static str, String)> {
    let unreachable = |reason: String| Some((UNREACHABLE, reason));
    let Some(provider) = volume::of_kind(providers, snapshot.volume.provider) else {
        return unreachable(format!("no provider is built in for {}", snapshot.name));
    };
    match provider.health(snapshot) {
        Ok(Health::Good) => None,
        Ok(Health::Warned(reason) | Health::Straining(reason) | Health::Full(reason)) => {
            Some(("held-strained", reason))
        }
        Ok(Health::Lost(reason)) => Some((LOST, format!("its snapshot is lost: {reason}"))),
        Ok(Health::OutOfReach(reason)) => {
            unreachable(format!("its snapshot is out of reach, and may be whole: {reason}"))
        }
        Err(error) => unreachable(format!("its snapshot cannot be looked at, and may be whole: {error}")),
    }
}
