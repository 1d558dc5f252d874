//! Forgetting logs that no backup needs: those before the oldest position that a kept backup of their server has.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{logs, server_name};
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
            needed
                .entry(server_name(server))
                .or_default()
                .push((record, manifest.time));
        }
    }
    let mut forgotten = Vec::new();
    for (server, backups) in needed {
        let all = logs::of_server(repository, host, &server)?;
        // A position whose log is not archived needs all: the archive may be about to get there.
        let first = |(record, time): &(Record, jiff::Timestamp)| logs::of_position(&all, record, *time).unwrap_or(0);
        let keep = backups.iter().map(first).min().unwrap_or(0);
        for log in &all[..keep] {
            forgotten.push(Forgotten {
                server: server.clone(),
                file: log.file.clone(),
                bytes: log.end(),
            });
            for segment in log.segments.iter().filter(|_| !dry_run) {
                repository.remove_binlog(segment)?;
            }
        }
    }
    Ok(forgotten)
}
