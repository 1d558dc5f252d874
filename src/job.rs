//! Whose data: the identity of a *job*, to which a backup, its parents, a retention group and an archive of binary logs belong.
//!
//! A name is no identity: two machines may be called `localhost`, two servers of one host may have one `server_id`, and every container has a
//! `/var/lib/mysql`. A job is told by signs that last (docs/operations.md, "What a job is"):
//!
//! - the machine: `/etc/machine-id` and the board's id, both hashed, or a random id in the state directory where there is no machine id;
//! - the server: MySQL's `server_uuid`; MariaDB has none, so the UUID in Aria's control file, which a datadir gets when it is made and keeps;
//! - the place: the datadir (without a server the trees), its path, its inode and the instant of its making;
//! - the installation: a random id in the state directory, which outlives a datadir that was restored.

mod choose;
mod groups;
mod known;
mod places;
mod signs;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::config::Config;
use crate::database::ServerFacts;
use crate::record::{Record, RootRole};
use crate::repository::Manifest;
use crate::sys;

pub use choose::{Chosen, Unfit, Whose, choose, in_place, own};
pub use groups::{Group, Member, groups, is_ahead};
pub use known::{Installation, address, remember, remember_roots, remembered, remembered_roots};
pub use places::own_places;
pub use signs::data_id;

/// What a job is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A server's data, and trees beside them.
    Database,
    /// Trees alone.
    Files,
}

/// The identity of a job. Signs that are not known are absent: records before 0.2 have no more than [`Job::of_record`] finds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The host's name at that time.
    pub host: String,
    /// Whether a person gave that name (`host:`, `--host`): such a name is a part of the identity, the kernel's may change.
    #[serde(default)]
    pub named: bool,
    /// A hash of the machine's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// A hash of the board's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<String>,
    /// The random id of the state directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installation: Option<String>,
    /// What it is about.
    pub kind: Kind,
    /// `mysql:UUID` (`@@server_uuid`) or `mariadb:UUID` (Aria's control file).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// The datadir; without a server the trees, sorted. Empty: not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<PathBuf>,
    /// Inode and instant of making of each path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// What an old record tells instead; never written.
    #[serde(skip)]
    pub old: Old,
}

/// Signs of a record without a job, and of any record the volumes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Old {
    /// `@@hostname` and `@@server_id`.
    pub server: Option<(String, u64)>,
    /// The stable ids of the volumes with the database.
    pub volumes: Vec<String>,
}

/// The answer of a comparison of two jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Likeness {
    /// The same job.
    Same,
    /// Another one, or what says that it is the same is contradicted (a copy of a server, a server on another machine).
    Other,
    /// Nothing contradicts, but too few signs are known.
    CannotTell,
}

impl Job {
    /// The job of a backup that is taken now: of this server, else of the configured trees. A server's data is read for its UUID in `facts.datadir`.
    pub fn here(config: &Config, facts: Option<&ServerFacts>, installation: &Installation) -> Job {
        let (kind, paths) = match facts {
            Some(facts) => (Kind::Database, vec![facts.datadir.clone()]),
            None => (Kind::Files, signs::trees(config)),
        };
        Job {
            host: config.host.clone().unwrap_or_else(sys::host::name),
            named: config.host.is_some(),
            machine: Some(signs::machine(installation)),
            hardware: signs::hardware(),
            installation: Some(installation.id.to_string()),
            kind,
            data: facts.and_then(data_id),
            place: signs::place(&paths),
            paths,
            old: Old::default(),
        }
    }

    /// The job that a command asks about, as far as it is known without a backup: the server as the state directory knows it from its last backup, else as it
    /// answers now, else the configured trees.
    pub fn asking(config: &Config) -> Result<Job> {
        let installation = Installation::look(&config.state_dir)?;
        let now = Job {
            host: config.host.clone().unwrap_or_else(sys::host::name),
            named: config.host.is_some(),
            machine: signs::machine_of(installation.as_ref()),
            hardware: signs::hardware(),
            // Where nothing was backed up yet there is none, and so it is no other's.
            installation: Some(installation.map_or_else(|| "none".to_owned(), |one| one.id.to_string())),
            ..Job::unknown("")
        };
        let Some(server) = &config.server else {
            let paths = signs::trees(config);
            return Ok(Job {
                place: signs::place(&paths),
                paths,
                ..now
            });
        };
        let known = match remembered(&config.state_dir, &address(server))? {
            Some(known) => Some(known),
            None => live(server).map(|facts| Job {
                kind: Kind::Database,
                data: data_id(&facts),
                paths: vec![facts.datadir],
                ..now.clone()
            }),
        };
        Ok(match known {
            // Today's machine: the state directory may have come from another one.
            Some(known) => Job {
                kind: known.kind,
                place: signs::place(&known.paths).or(known.place),
                data: known.data,
                paths: known.paths,
                ..now
            },
            None => Job {
                kind: Kind::Database,
                ..now
            },
        })
    }

    /// The job that a manifest belongs to, as far as its record tells.
    pub fn of(manifest: &Manifest) -> Job {
        match manifest.record.parse::<Record>() {
            Ok(record) => Job::of_record(&manifest.host, &record),
            Err(_) => Job::unknown(&manifest.host),
        }
    }

    /// The job of a record; `host` is the manifest's.
    pub fn of_record(host: &str, record: &Record) -> Job {
        let facts = record.server.as_ref();
        let with_database = record.volumes.iter().filter(|volume| volume.with_database);
        let old = Old {
            server: facts.map(|facts| (facts.hostname.clone(), facts.server_id)),
            volumes: with_database.map(|volume| volume.id.clone()).collect(),
        };
        if let Some(job) = &record.job {
            return Job { old, ..job.clone() };
        }
        let of_role = |role: RootRole| -> Vec<PathBuf> {
            let roots = record.roots.iter().filter(|root| root.role == role);
            signs::sorted(&roots.map(|root| root.path.clone()).collect::<Vec<_>>())
        };
        let datadir = facts.map(|facts| vec![facts.datadir.clone()]);
        let datadir = datadir.or_else(|| Some(of_role(RootRole::Datadir)).filter(|found| !found.is_empty()));
        let uuid = facts.and_then(|facts| facts.server_uuid.clone());
        Job {
            kind: if datadir.is_some() { Kind::Database } else { Kind::Files },
            data: uuid.map(|uuid| signs::mysql(&uuid)),
            paths: datadir.unwrap_or_else(|| of_role(RootRole::Files)),
            old,
            ..Job::unknown(host)
        }
    }

    /// Nothing is known but the host's name.
    pub fn unknown(host: &str) -> Job {
        Job {
            host: host.to_owned(),
            named: false,
            machine: None,
            hardware: None,
            installation: None,
            kind: Kind::Files,
            data: None,
            paths: Vec::new(),
            place: None,
            old: Old::default(),
        }
    }

    /// Whether the record that it comes from names a machine (0.2 and later).
    pub fn is_recorded(&self) -> bool {
        self.machine.is_some()
    }

    /// Eight digits that name the job for a person: what is lasting in it, hashed.
    pub fn short(&self) -> String {
        let named = self.named || self.machine.is_none();
        let parts = [
            self.machine.clone().unwrap_or_default(),
            self.data.clone().unwrap_or_default(),
            if named { self.host.clone() } else { String::new() },
            self.places(),
            // Where only the place tells two apart. A database's data do.
            match self.kind {
                Kind::Database => String::new(),
                Kind::Files => self.installation.clone().unwrap_or_default(),
            },
        ];
        signs::hash(&parts.join("\0"))[..8].to_owned()
    }

    /// What it is about, for a person: the datadir, or the trees.
    pub fn about(&self) -> String {
        match (self.paths.is_empty(), self.kind) {
            (true, _) => "unknown data".to_owned(),
            (_, Kind::Database) => format!("datadir {}", self.places()),
            (_, Kind::Files) => format!("files {}", self.places()),
        }
    }

    /// The datadir, or the trees.
    pub fn places(&self) -> String {
        let paths: Vec<String> = self.paths.iter().map(|path| path.display().to_string()).collect();
        paths.join(" ")
    }

    /// Whether both are one job. Symmetric. Transitive but for what nobody can tell.
    pub fn compare(&self, other: &Job) -> Likeness {
        let signs = [
            self.same_host(other),
            self.same_machine(other),
            self.same_paths(other),
            equal(&self.data, &other.data),
        ];
        if signs.contains(&Some(false)) {
            return Likeness::Other;
        }
        let both_empty = self.paths.is_empty() && other.paths.is_empty();
        if both_empty && !self.is_recorded() && !other.is_recorded() {
            // Records that cannot be read, or tell nothing.
            return Likeness::Same;
        }
        if self.same_paths(other).is_none() {
            return Likeness::CannotTell;
        }
        if self.same_machine(other).is_none() {
            return self.compare_old(other);
        }
        match self.same_anchor(other) {
            Some(true) => Likeness::Same,
            Some(false) => Likeness::Other,
            None => Likeness::CannotTell,
        }
    }

    /// At least one record is from before 0.2, nothing contradicts, and the paths are the same.
    fn compare_old(&self, other: &Job) -> Likeness {
        let (mine, theirs) = (&self.old, &other.old);
        let both_known = !mine.volumes.is_empty() && !theirs.volumes.is_empty();
        let shared = mine.volumes.iter().any(|volume| theirs.volumes.contains(volume));
        if equal(&mine.server, &theirs.server) == Some(false) || (both_known && !shared) {
            return Likeness::CannotTell;
        }
        let both_old = !self.is_recorded() && !other.is_recorded();
        match shared || both_old || equal(&self.data, &other.data) == Some(true) {
            true => Likeness::Same,
            false => Likeness::CannotTell,
        }
    }

    /// A kernel's host name may be changed on one machine; one that a person gave separates.
    fn same_host(&self, other: &Job) -> Option<bool> {
        match self.host == other.host {
            true => Some(true),
            false if self.named || other.named || !self.is_recorded() || !other.is_recorded() => Some(false),
            false => None,
        }
    }

    fn same_machine(&self, other: &Job) -> Option<bool> {
        if equal(&self.hardware, &other.hardware) == Some(false) {
            return Some(false);
        }
        equal(&self.machine, &other.machine)
    }

    fn same_paths(&self, other: &Job) -> Option<bool> {
        if self.paths.is_empty() || other.paths.is_empty() {
            return None;
        }
        Some(self.kind == other.kind && self.paths == other.paths)
    }

    /// What lasts on this machine: the place outlives a lost state directory, the installation a restored datadir.
    fn same_anchor(&self, other: &Job) -> Option<bool> {
        let signs = [
            equal(&self.installation, &other.installation),
            equal(&self.place, &other.place),
        ];
        match signs {
            [Some(true), _] | [_, Some(true)] => Some(true),
            [Some(false), Some(false)] => Some(false),
            _ => None,
        }
    }
}

/// What the configured server says of itself now, where it answers and the kernel proves that its datadir is the one seen here.
fn live(server: &crate::config::Server) -> Option<ServerFacts> {
    use crate::database::{Database, mysql};
    let live = mysql::Server::connect(server).ok()?;
    live.is_proved().then(|| live.facts().clone())
}

/// `None`: one of them is not known.
fn equal<T: PartialEq>(one: &Option<T>, other: &Option<T>) -> Option<bool> {
    Some(one.as_ref()? == other.as_ref()?)
}

#[cfg(test)]
mod tests;
