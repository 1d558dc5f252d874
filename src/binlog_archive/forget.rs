//! Forgetting logs that no backup needs: those that come behind no kept backup's position, in the order in which logs follow each other.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::lines::History;
use super::{found, name_of, server_name, servers_named};
use crate::record::Record;
use crate::repository::Repository;
use crate::restore::record_of;
use crate::{Error, Result};

/// A log that is not needed.
#[derive(Debug, Clone, Serialize)]
pub struct Forgotten {
    /// Its server, as the archive names it.
    pub server: String,
    /// Its name.
    pub file: String,
    /// Its archived bytes.
    pub bytes: u64,
}

/// Removes a host's logs that no backup needs. Those of servers of which there is no backup stay.
///
/// # Errors
/// A manifest cannot be read: nobody knows what it needs.
pub fn forget(repository: &Repository, host: &str, dry_run: bool) -> Result<Vec<Forgotten>> {
    let mut needed: BTreeMap<String, Vec<(Record, jiff::Timestamp)>> = BTreeMap::new();
    for listed in repository.list()? {
        let manifest = listed.manifest.map_err(Error::from)?;
        let record = record_of(&manifest)?;
        if let (true, Some(server), true) = (manifest.host == host, &record.server, record.position.is_some()) {
            let name = server_name(server);
            needed.entry(name).or_default().push((record, manifest.time));
        }
    }
    let mut forgotten = Vec::new();
    for (name, backups) in needed {
        for server in servers_named(repository, host, &name)? {
            forgotten.extend(forget_of(repository, (host, &server), &backups, dry_run)?);
        }
    }
    Ok(forgotten)
}

/// Of one archive. A log stays when a backup's position is in it, or in one that it comes behind, whatever lies between.
fn forget_of(
    repository: &Repository,
    (host, server): (&str, &str),
    backups: &[(Record, jiff::Timestamp)],
    dry_run: bool,
) -> Result<Vec<Forgotten>> {
    let history = History::read(repository, host, server)?;
    let mut keep = BTreeSet::new();
    let mut own = false;
    for (record, time) in backups {
        let of_job = record.server.as_ref().map(|facts| name_of(facts, record.job.as_ref()));
        match found::log_of(repository, &history, record, *time)? {
            Ok(logs) => {
                own = true;
                keep.extend(logs.into_iter().flat_map(|log| history.after(log)));
            }
            // The archive may be about to get there; with an old record nobody knows whether it is this one.
            Err(_) if record.job.is_none() || of_job.as_deref() == Some(server) => {
                own = true;
                keep.extend(0..history.logs.len());
            }
            Err(_) => {}
        }
    }
    let mut forgotten = Vec::new();
    // Those of servers of which there is no backup stay.
    let all = history.logs.iter().enumerate().filter(|_| own);
    for log in all
        .filter(|(index, _)| !keep.contains(index))
        .map(|(_, placed)| &placed.log)
    {
        forgotten.push(Forgotten {
            server: server.to_owned(),
            file: log.file.clone(),
            bytes: log.end(),
        });
        for segment in log.segments.iter().filter(|_| !dry_run) {
            repository.remove_binlog(segment)?;
        }
    }
    Ok(forgotten)
}
