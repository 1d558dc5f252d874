//! Level `clean`: with the lock long gone, a private server opens writable clones of the snapshots, recovers, checks every table and shuts down slowly; what it leaves is
//! what is copied. It sees the clones under the names of the originals, and can write nowhere else.

use std::path::Path;
use std::time::{Duration, Instant};

mod logs;
mod private;
mod sums;
mod watch;

use super::examine::{Examined, provider_of};
use super::run::Run;
use super::snapshots::Taken;
use super::trees::PlannedTree;
use crate::config::{Checksums, Config};
use crate::database::mysql::scratch::Scratch;
use crate::database::mysql::scratch::check::{self, Verdict};
use crate::database::{Consistency, Database};
use crate::finding::Finding;
use crate::monitor::Work;
use crate::record::{ChecksumRecord, CleanRecord};
use crate::sys::signal::Cancel;
use crate::{Error, Result};

use private::Private;

/// How long the server may be silent when it is asked for the list of its tables.
const LISTING: Duration = Duration::from_secs(3600);

/// Tables that an error names at most.
const NAMED: usize = 5;

/// What a private server writes beside what the redo log makes it write: undo, the change buffer, new files. [M: a small MariaDB with a redo log of 64 MiB wrote 86 MiB]
const BESIDE_THE_REDO: u64 = 32 << 20;

/// About how many bytes a private server will write to the clones of the database's volumes; 0 where none is wanted.
pub(super) fn expected_writes(config: &Config, database: Option<&dyn Database>) -> u64 {
    let redo = database.and_then(|database| database.facts().redo_capacity());
    match config.wants_private_server() {
        true => redo.unwrap_or(0).saturating_add(BESIDE_THE_REDO),
        false => 0,
    }
}

/// What stands in the way of a private server on clones; `what` needs one.
pub(super) fn findings(
    config: &Config,
    database: Option<&dyn Database>,
    examined: &Examined,
    what: &str,
) -> Vec<Finding> {
    let remedy = match examined.quiesce.consistency {
        Consistency::Clean => "take level `application`, and prove backups by drills",
        _ => "leave out `checksums`, and prove backups by drills",
    };
    let blocked = |code, said: String| Finding::blocker(code, said).remedy(remedy);
    let Some(database) = database else {
        return vec![blocked("no-server", format!("{what}: no server is configured"))];
    };
    let mut found = Vec::new();
    for volume in examined.layout.instant.volumes() {
        let can = provider_of(&examined.providers, volume).map(|provider| provider.clones(volume));
        match can {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => found.push(blocked("no-clone", format!("{what}: {} {reason}", volume.source))),
            Err(error) => found.push(blocked("no-clone", error.to_string())),
        }
    }
    if let Err(error) = private::same_binary(config, database.facts()) {
        found.push(blocked("no-server-program", format!("{what}: {error}")));
    }
    if !crate::sys::host::is_root() {
        found.push(blocked(
            "not-root",
            format!("{what}: only root can show a private server the clones in place of the live files"),
        ));
    }
    found
}

/// What a private server said of the clones.
#[derive(Default)]
pub(super) struct Made {
    /// Level `clean`.
    pub recovery: Option<CleanRecord>,
    /// Where they were asked for, and could be had.
    pub checksums: Option<ChecksumRecord>,
}

/// Does all of it, if the level or checksums are asked for; but what spoils a snapshot waits until that was copied ([`afterwards`]).
///
/// # Errors
/// Level `clean`: the clones cannot be had, or do not recover, or a table is damaged: there is no backup then. Else only a wish to end, or a clone that is left.
pub(super) fn make(
    run: &mut Run<'_>,
    config: &Config,
    database: Option<&dyn Database>,
    examined: &Examined,
    planned: &[PlannedTree],
    taken: &mut Taken<'_>,
) -> Result<Made> {
    let Some(database) = database else {
        return Ok(Made::default());
    };
    let facts = database.facts();
    if examined.quiesce.consistency == Consistency::Clean {
        run.phase("clone", |run| taken.clone_database(&run.journal))?;
        crate::failpoint!("clean.cloned");
        let private = Private::new(config, facts, examined, planned, taken)?;
        let made =
            private.with_space(|space| watch::watched(run, taken, |run, end| recover(run, &private, space, end)))?;
        crate::failpoint!("clean.done");
        return Ok(made);
    }
    let checksums = match config.checksums {
        Checksums::None => None,
        _ if taken.are_written_to()? => None,
        _ => sums::apart(run, config, facts, examined, planned, taken)?,
    };
    Ok(Made {
        recovery: None,
        checksums,
    })
}

/// The checksums that had to wait: where the snapshot itself is written to (thick logical volumes), it is copied first.
///
/// # Errors
/// As [`make`].
pub(super) fn afterwards(
    run: &mut Run<'_>,
    config: &Config,
    database: Option<&dyn Database>,
    examined: &Examined,
    planned: &[PlannedTree],
    taken: &mut Taken<'_>,
) -> Result<Option<ChecksumRecord>> {
    let asked = config.checksums != Checksums::None && examined.quiesce.consistency != Consistency::Clean;
    match database.filter(|_| asked) {
        Some(database) if taken.are_written_to()? => {
            let sums = sums::apart(run, config, database.facts(), examined, planned, taken);
            run.findings.extend(taken.said());
            sums
        }
        _ => Ok(None),
    }
}

fn recover(run: &mut Run<'_>, private: &Private<'_>, space: &Path, end: &Cancel) -> Result<Made> {
    let logs = logs::Logs::look(&private.at_clones(), private.user()?)?;
    let what = |error: Error| match error {
        Error::Database(error) => Error::failed(format!("level `clean`: the snapshot was not made clean: {error}")),
        other => other,
    };
    let (mut server, boot_seconds) = private.start(run, space, true, end).map_err(what)?;
    let gtid = server.gtid()?;
    let begun = Instant::now();
    let (tables, remarks) = run
        .phase("check", |run| check(run, private, &mut server, end))
        .map_err(what)?;
    let check_seconds = begun.elapsed().as_secs_f64();
    let checksums = match private.config.checksums {
        Checksums::None => None,
        _ => Some(sums::take(run, private, &mut server, end).map_err(what)?),
    };
    // A transaction that the live server never had would be skipped on a replica when the live one comes to that number.
    if server.gtid()? != gtid {
        return Err(Error::failed(
            "level `clean`: the private server made a transaction of its own. Level `application` still backs this server up",
        ));
    }
    let begun = Instant::now();
    let recovery = server.recovery().clone();
    run.phase("shutdown", |_| {
        server.leave()?;
        server.stop_within(private.config.scratch.boot_limit.unsigned(), end)
    })
    .map_err(what)?;
    logs.put_back()?;
    let recovery = CleanRecord {
        program: private.binary.program.path().to_owned(),
        version: private.binary.version_text.clone(),
        recovery,
        tables,
        remarks,
        boot_seconds,
        check_seconds,
        shutdown_seconds: begun.elapsed().as_secs_f64(),
    };
    Ok(Made {
        recovery: Some(recovery),
        checksums,
    })
}

/// Every table. One that is damaged fails the run: a level that promises a proof does not keep what it disproved.
fn check(run: &Run<'_>, private: &Private<'_>, server: &mut Scratch, end: &Cancel) -> Result<(u64, Vec<String>)> {
    let mut all = check::tables(&mut server.session(LISTING)?)?;
    // The check of a view opens its tables; those in memory must not be (see `is_in_memory`).
    if all.iter().any(check::Table::is_in_memory) {
        all.retain(|table| table.engine != "VIEW");
    }
    run.monitor.begin(Work {
        name: "checking tables",
        bytes: 0,
        items: all.len() as u64,
    });
    let until = Instant::now() + private.config.scratch.check_limit.unsigned();
    let round = check::run(server, all, private.connections(), until, run.monitor, end);
    run.monitor.end();
    let round = round?;
    if round.late {
        return Err(Error::failed(
            "level `clean`: the time for all checks was over (scratch.check_limit)",
        ));
    }
    let said = |checked: &check::Checked| format!("{}: {}", checked.table.full_name(), checked.messages.join("; "));
    let of = |verdict| round.checked.iter().filter(move |one| one.verdict == verdict).map(said);
    let trouble = server.machine_trouble();
    let ended = round.suspects.iter().filter(|_| trouble.is_none());
    let ended = ended.map(|table| format!("{}: the server ended while it was checked", table.full_name()));
    let damaged: Vec<String> = of(Verdict::Errors).chain(ended).take(NAMED).collect();
    if !damaged.is_empty() {
        return Err(Error::failed(format!(
            "level `clean`: there are damaged tables, on the live server as well: {}. Level `application` still backs them up",
            damaged.join(", ")
        )));
    }
    // What this machine lacks is no damage, and no proof either.
    let unknown = of(Verdict::Unchecked).chain(trouble.map(|trouble| format!("the private server ended: {trouble}")));
    let unknown: Vec<String> = unknown.take(NAMED).collect();
    if !unknown.is_empty() {
        return Err(Error::failed(format!(
            "level `clean`: not all tables could be checked here, which says nothing of their data: {}. Level `application` still backs them up",
            unknown.join(", ")
        )));
    }
    let remarks = round
        .checked
        .iter()
        .filter(|one| one.verdict == Verdict::Warnings)
        .map(said);
    Ok((round.checked.len() as u64, remarks.collect()))
}
