//! A set of a server that is stopped: nothing is locked, so it must be seen before and after that nobody runs on its files.

use crate::backup::examine::{self, Examined};
use crate::config::{Config, Server};
use crate::database::mysql::stopped::{self, Stopped};
use crate::database::{self, Consistency};
use crate::finding::Finding;
use crate::restore::server_on;
use crate::sys::signal::Cancel;
use crate::{Error, Result};

/// Examines the host; where the server does not answer because it is stopped, by its option files.
pub fn examine_any(config: &Config, cancel: &Cancel) -> Result<(Examined, Option<Stopped>)> {
    match (examine::examine(config, cancel), &config.server) {
        (Err(Error::Database(unreachable @ database::Error::Connect { .. })), Some(server)) => {
            let (examined, stopped) = examine_stopped(config, server, &unreachable)?;
            Ok((examined, Some(stopped)))
        }
        (examined, _) => Ok((examined?, None)),
    }
}

fn examine_stopped(config: &Config, server: &Server, unreachable: &database::Error) -> Result<(Examined, Stopped)> {
    let mut stopped = stopped::look(server).map_err(|error| Error::failed(format!("{unreachable}; {error}")))?;
    let datadir = stopped.facts.datadir.clone();
    if let Some(seen) = server_on(&datadir) {
        let said = format!("{unreachable}; but it is not stopped: {seen} ({})", datadir.display());
        return Err(Error::failed(said));
    }
    let mut findings = std::mem::take(&mut stopped.findings);
    if !stopped.clean {
        let said =
            "the server is not running, and was not shut down well: its files need recovery, as after a power cut";
        findings
            .push(Finding::warning("was-killed", said).remedy("start it and stop it well for a set that needs none"));
    }
    let reason = "the server is stopped: there is nobody to lock".to_owned();
    let consistency = match stopped.clean {
        true => Consistency::Application,
        false => Consistency::Crash,
    };
    let examined = examine::of_stopped(config, consistency, stopped.paths.clone(), reason, findings)?;
    Ok((examined, stopped))
}

/// Asked when the snapshots are there: whether the server was stopped all the while.
///
/// # Errors
/// It was started, or its files changed: the snapshots prove nothing.
pub fn still_stopped(config: &Config, before: &Stopped) -> Result<()> {
    let started = |seen: String| {
        Error::failed(format!(
            "the server was started while its snapshots were taken ({seen}): take the set again"
        ))
    };
    if let Some(seen) = server_on(&before.facts.datadir) {
        return Err(started(seen));
    }
    let Some(server) = &config.server else { return Ok(()) };
    let now = stopped::look(server)?;
    if (now.clean, &now.position) != (before.clean, &before.position) {
        return Err(started("its files changed".to_owned()));
    }
    Ok(())
}
