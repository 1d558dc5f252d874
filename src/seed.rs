//! Seeding replicas: the statements that make a restored server follow another one from exactly where its data ends.
//!
//! They are made from what the backup recorded, before anything is restored, so that a backup that cannot seed is refused early.

mod start;
mod statements;

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::database::mysql::connect::Secret;
use crate::database::{Flavour, Position, ReplicaChannel, ServerFacts};
use crate::finding::Finding;
use crate::record::Record;
use crate::sys::fs::Beneath;
use crate::{Error, Result};

pub use start::{Following, ready};
pub use statements::Statement;

/// Whose coordinates a new replica starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Coordinates {
    /// The backed-up server's own binary log: the new replica follows that server.
    Own,
    /// What the backed-up replica had executed of its source: the new replica follows that source.
    Source,
}

/// How the position is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// By GTIDs.
    Gtid,
    /// By file and offset.
    Position,
}

/// What is wanted of a new replica.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The host that it follows.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Whose coordinates; `None`: told from the host, where that is clear.
    pub coordinates: Option<Coordinates>,
    /// `None`: by GTIDs where the backup has them (for a source: where its channel went by them).
    pub by: Option<By>,
    /// The replication account; `None`: a placeholder.
    pub user: Option<String>,
    /// Its password; only in the file, never in what is printed. `None`: a placeholder.
    pub password: Option<Secret>,
    /// The new server's id; `None`: a random one above 2^24.
    pub server_id: Option<u32>,
}

/// How a restored server becomes a replica.
#[derive(Debug, Clone, Serialize)]
pub struct Seed {
    /// `host:port` that it follows.
    pub source: String,
    /// Whose coordinates.
    pub coordinates: Coordinates,
    /// How they are told.
    pub by: By,
    /// The new server's id.
    pub server_id: u32,
    /// The statements, in order, with a placeholder for the password.
    pub statements: Vec<Statement>,
    /// Where they are, with the password if one was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// What a person must read.
    pub warnings: Vec<Finding>,
    /// Set when it was started as a replica.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub following: Option<Following>,
    /// Whether the server gets (or got) that id from the statements: else its own option file's is another than the backed-up server's.
    #[serde(skip)]
    pub id_is_set: bool,
    #[serde(skip)]
    id_asked: bool,
    #[serde(skip)]
    password: Option<Secret>,
}

/// Makes the statements.
///
/// # Errors
/// The backup has no such position, or it is not clear whose is meant.
pub fn seed(record: &Record, wanted: &Wanted) -> Result<Seed> {
    let facts = record
        .server
        .as_ref()
        .ok_or_else(|| Error::usage("this backup holds no database: it cannot become a replica"))?;
    let coordinates = match wanted.coordinates {
        Some(coordinates) => coordinates,
        None => whose(record, facts, wanted)?,
    };
    let start = match coordinates {
        Coordinates::Own => own(record, facts)?,
        Coordinates::Source => of_source(record, wanted)?,
    };
    let by = wanted
        .by
        .unwrap_or(if start.prefers_gtid { By::Gtid } else { By::Position });
    if by == By::Gtid && start.gtid.is_none() {
        return Err(Error::usage(
            "the backup recorded no GTIDs for this source: leave out `--replica-by gtid`, or say `--replica-by position`",
        ));
    }
    let server_id = wanted.server_id.unwrap_or_else(|| free_server_id(facts.server_id));
    let channels: Vec<&str> = record.replica.iter().map(|channel| channel.channel.as_str()).collect();
    let statements = statements::make(facts, &channels, &start, by, wanted, server_id);
    Ok(Seed {
        source: format!("{}:{}", wanted.host, wanted.port),
        coordinates,
        by,
        server_id,
        statements,
        file: None,
        warnings: warnings(record, coordinates, by),
        following: None,
        id_is_set: true,
        id_asked: wanted.server_id.is_some(),
        password: wanted.password.clone(),
    })
}

impl Seed {
    /// Writes the statements beside a datadir, readable by its owner only: `DATADIR.snapback-replica.sql`. An older one is replaced.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_beside(&mut self, datadir: &Path) -> Result<()> {
        let mut name = datadir.as_os_str().to_owned();
        name.push(".snapback-replica.sql");
        let path = PathBuf::from(name);
        // A line break in a name would end the comment.
        let plain = |text: String| text.replace(char::is_control, " ");
        let mut text = format!(
            "-- Makes the server on {} a replica of {}. Read it, then give it to the client.\n",
            plain(datadir.display().to_string()),
            plain(self.source.to_string())
        );
        for statement in &self.statements {
            text.push_str(&self.whole(statement));
            text.push_str(";\n");
        }
        // The datadir's parent may be the server's user's.
        let (directory, name) = Beneath::open_holder(&path, false)?;
        directory.replace_durably(name, text.as_bytes(), 0o600)?;
        self.file = Some(path);
        Ok(())
    }

    /// A statement with the password in it.
    fn whole(&self, statement: &Statement) -> String {
        let text = &statement.text;
        match &self.password {
            Some(password) => text.replace(statements::PLACEHOLDER, &statements::literal(password.expose())),
            None => text.clone(),
        }
    }

    /// Nothing needs what is in it any more, and it may have the password.
    fn remove_file(&mut self) -> Result<()> {
        match self.file.take() {
            Some(file) => {
                let (directory, name) = Beneath::open_holder(&file, false)?;
                Ok(directory.remove_file(name.as_ref())?)
            }
            None => Ok(()),
        }
    }
}

/// Where replication begins.
struct Start {
    file: String,
    position: u64,
    gtid: Option<String>,
    prefers_gtid: bool,
}

fn whose(record: &Record, facts: &ServerFacts, wanted: &Wanted) -> Result<Coordinates> {
    if record.replica.is_empty() {
        return Ok(Coordinates::Own);
    }
    if channel_of(record, wanted).is_some() {
        return Ok(Coordinates::Source);
    }
    if wanted.host == facts.hostname {
        return Ok(Coordinates::Own);
    }
    let sources: Vec<String> = record.replica.iter().map(address).collect();
    Err(Error::usage(format!(
        "the backup was taken on {}, a replica of {}, and {}:{} is neither by name: say with --replica-coordinates whether it is the \
         backed-up server itself (own) or its source (source)",
        facts.hostname,
        sources.join(", "),
        wanted.host,
        wanted.port
    )))
}

fn address(channel: &ReplicaChannel) -> String {
    format!("{}:{}", channel.source_host, channel.source_port)
}

fn channel_of<'r>(record: &'r Record, wanted: &Wanted) -> Option<&'r ReplicaChannel> {
    let is = |channel: &&ReplicaChannel| channel.source_host == wanted.host && channel.source_port == wanted.port;
    record.replica.iter().find(is)
}

fn own(record: &Record, facts: &ServerFacts) -> Result<Start> {
    let position: &Position = record.position.as_ref().ok_or_else(|| {
        Error::usage(format!(
            "the backup has no binary log position ({}): a replica of {} cannot start from it",
            if facts.log_bin {
                "level `crash`"
            } else {
                "the server wrote no binary log"
            },
            facts.hostname
        ))
    })?;
    let gtid = position.gtid.clone().filter(|gtid| !gtid.is_empty());
    Ok(Start {
        file: position.file.clone(),
        position: position.position,
        prefers_gtid: gtid.is_some(),
        gtid,
    })
}

fn of_source(record: &Record, wanted: &Wanted) -> Result<Start> {
    let channel = match (channel_of(record, wanted), record.replica.as_slice()) {
        (Some(channel), _) | (None, [channel]) => channel,
        (None, []) => {
            return Err(Error::usage(
                "the backup was taken on a server that was no replica: it knows no source's position",
            ));
        }
        (None, several) => {
            let known: Vec<String> = several.iter().map(address).collect();
            return Err(Error::usage(format!(
                "the backed-up replica had several sources ({}): name one of them as it was named there",
                known.join(", ")
            )));
        }
    };
    Ok(Start {
        file: channel.file.clone(),
        position: channel.position,
        gtid: channel.gtid.clone().filter(|gtid| !gtid.is_empty()),
        prefers_gtid: channel.uses_gtid && channel.gtid.is_some(),
    })
}

fn warnings(record: &Record, coordinates: Coordinates, by: By) -> Vec<Finding> {
    let mut warnings = Vec::new();
    if !record.exact {
        warnings.push(
            Finding::warning(
                "seed-not-exact",
                "the backup's position is not exact: the new replica may miss transactions or meet some twice",
            )
            .remedy("seed from a backup of level `application` that says `exact`"),
        );
    }
    if coordinates == Coordinates::Source && by == By::Position {
        let parallel = record
            .warnings
            .iter()
            .filter(|finding| finding.code == "parallel-applier");
        warnings.extend(parallel.cloned());
    }
    warnings
}

/// Ids that administrators give are small, so a random large one is free; never the backed-up server's.
fn free_server_id(taken: u64) -> u32 {
    loop {
        let id = crate::units::Id::random().to_string();
        let number = u32::from_str_radix(&id[..8], 16).unwrap_or_default();
        if number > 1 << 24 && u64::from(number) != taken {
            return number;
        }
    }
}

/// Whether this server's series has the words `REPLICA` and `SOURCE`.
fn has_new_words(facts: &ServerFacts) -> bool {
    facts.flavour == Flavour::MySql && facts.version_number >= (8, 0, 23)
}

#[cfg(test)]
mod tests;
