//! Level `clean`: with the lock long gone, a private server opens writable clones of the snapshots, recovers, checks every table and shuts down slowly; what it leaves is
//! what is copied. It sees the clones under the names of the originals, and can write nowhere else.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

mod logs;

use super::examine::{Examined, provider_of};
use super::run::Run;
use super::snapshots::Taken;
use super::trees::PlannedTree;
use crate::config::Config;
use crate::database::mysql::scratch::check::{self, Verdict};
use crate::database::mysql::scratch::{self, Binary, Place, Scratch, Wishes};
use crate::database::{Consistency, Database, QuiescePlan, ServerFacts};
use crate::detect::Layout;
use crate::drill::space::Space;
use crate::finding::Finding;
use crate::monitor::Work;
use crate::record::{CleanRecord, RootRole};
use crate::restore::Needs;
use crate::units::Id;
use crate::volume::Provider;
use crate::{Error, Result};

/// How long the server may be silent when it is asked for the list of its tables.
const LISTING: Duration = Duration::from_secs(3600);

/// Tables that an error names at most.
const NAMED: usize = 5;

/// What stands in the way of the level, if it is asked for.
pub(super) fn findings(
    config: &Config,
    database: Option<&dyn Database>,
    layout: &Layout,
    providers: &[Box<dyn Provider>],
    quiesce: &QuiescePlan,
) -> Vec<Finding> {
    let Some(database) = database.filter(|_| quiesce.consistency == Consistency::Clean) else {
        return Vec::new();
    };
    let blocked = |code, said: String| {
        Finding::blocker(code, said).remedy("take level `application`, and prove backups by drills")
    };
    let mut found = Vec::new();
    for volume in layout.instant.volumes() {
        let can = provider_of(providers, volume).map(|provider| provider.clones(volume));
        match can {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => found.push(blocked(
                "no-clone",
                format!("level `clean`: {} {reason}", volume.source),
            )),
            Err(error) => found.push(blocked("no-clone", error.to_string())),
        }
    }
    if let Err(error) = same_binary(config, database.facts()) {
        found.push(blocked("no-server-program", format!("level `clean`: {error}")));
    }
    if !crate::sys::host::is_root() {
        found.push(blocked(
            "not-root",
            "level `clean`: only root can show a private server the clones in place of the live files".to_owned(),
        ));
    }
    found
}

/// The live server's own program, else the one that is configured or found; of the very same version, as the data go back to that server.
fn same_binary(config: &Config, facts: &ServerFacts) -> Result<Binary> {
    let own = running_program(facts).and_then(|program| scratch::find(Some(&program), facts).ok());
    let binary = match (&config.scratch.mysqld, own) {
        (None, Some(own)) => own,
        (named, _) => scratch::find(named.as_deref(), facts)?,
    };
    if binary.version == facts.version_number {
        return Ok(binary);
    }
    Err(Error::failed(format!(
        "the server runs as {}, and {} is {}: name its program as `scratch.mysqld` (a server that was upgraded must be restarted first)",
        facts.version,
        binary.program.path().display(),
        binary.version_text
    )))
}

fn running_program(facts: &ServerFacts) -> Option<PathBuf> {
    let pid = std::fs::read_to_string(facts.datadir.join(facts.variables.get("pid_file")?)).ok()?;
    let pid: u32 = pid.trim().parse().ok()?;
    std::fs::read_link(format!("/proc/{pid}/exe"))
        .ok()
        .filter(|program| program.is_file())
}

/// Does all of it, if the level is asked for.
///
/// # Errors
/// The clones cannot be had, or do not recover, or a table is damaged: there is no backup then.
pub(super) fn make(
    run: &mut Run<'_>,
    config: &Config,
    database: Option<&dyn Database>,
    examined: &Examined,
    planned: &[PlannedTree],
    taken: &mut Taken<'_>,
) -> Result<Option<CleanRecord>> {
    let Some(database) = database.filter(|_| examined.quiesce.consistency == Consistency::Clean) else {
        return Ok(None);
    };
    run.phase("clone", |run| taken.clone_database(&run.journal))?;
    crate::failpoint!("clean.cloned");
    let facts = database.facts();
    let clones = clones(planned, examined, taken)?;
    let datadir = clones.first().map(|(original, _)| original.clone());
    let datadir =
        datadir.ok_or_else(|| Error::failed("the datadir is not on a snapshot: there is nothing to recover"))?;
    let binary = same_binary(config, facts)?;
    let owner =
        std::fs::metadata(&clones[0].1).map_err(|error| crate::sys::Error::path("look at", &clones[0].1, error))?;
    let needs = Needs {
        bytes: 0,
        owner: Some((owner.uid(), owner.gid())),
    };
    let space = Space::make(config, Id::random(), needs)?;
    let done = recover(run, config, facts, examined, (&datadir, &clones), &binary, space.at());
    let removed = space.remove();
    match (done, removed) {
        (Ok(record), removed) => removed.map(|()| Some(record)),
        (Err(error), removed) => Err(error.and_rollback(removed)),
    }
}

/// The server's trees and where their clones are; the datadir first.
fn clones(planned: &[PlannedTree], examined: &Examined, taken: &Taken<'_>) -> Result<Vec<(PathBuf, PathBuf)>> {
    let mut clones = Vec::new();
    for tree in planned.iter().filter(|tree| tree.record.role != RootRole::Files) {
        // Keys and certificates are read where they are.
        let Some(volume) = tree.volume.and_then(|volume| examined.layout.volumes.get(volume)) else {
            continue;
        };
        let top = taken.top_of(volume).ok_or_else(|| {
            Error::failed(format!(
                "{} is not on a snapshot: there is nothing to recover",
                tree.record.path.display()
            ))
        })?;
        let at = match tree.relative.as_os_str().is_empty() {
            true => top,
            false => top.join(&tree.relative),
        };
        clones.push((tree.record.path.clone(), at));
    }
    Ok(clones)
}

fn recover(
    run: &mut Run<'_>,
    config: &Config,
    facts: &ServerFacts,
    examined: &Examined,
    (datadir, clones): (&Path, &[(PathBuf, PathBuf)]),
    binary: &Binary,
    space: &Path,
) -> Result<CleanRecord> {
    let named: Vec<(PathBuf, PathBuf)> = clones
        .iter()
        .map(|(original, _)| (original.clone(), original.clone()))
        .collect();
    let at_clones = Place {
        facts,
        paths: &examined.paths,
        datadir,
        trees: clones,
    };
    let logs = logs::Logs::look(&at_clones)?;
    let place = Place {
        facts,
        paths: &examined.paths,
        datadir,
        trees: &named,
    };
    let limits = &config.scratch;
    let wishes = Wishes {
        memory: limits.memory.as_u64(),
        connections: connections(config),
        boot_limit: limits.boot_limit.unsigned(),
        options: limits.options.clone(),
        clean: true,
    };
    let what = |error: Error| match error {
        Error::Database(error) => Error::failed(format!("level `clean`: the snapshot was not made clean: {error}")),
        other => other,
    };
    let begun = Instant::now();
    let started = run.phase("recover", |run| {
        scratch::start_instead(
            binary,
            &place,
            clones,
            &space.join("run"),
            &wishes,
            run.monitor,
            run.cancel,
        )
    });
    let mut server = started.map_err(what)?;
    let boot_seconds = begun.elapsed().as_secs_f64();
    crate::failpoint!("clean.booted");
    let begun = Instant::now();
    let (tables, remarks) = run
        .phase("check", |run| check(run, config, &mut server))
        .map_err(what)?;
    let check_seconds = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let recovery = server.recovery().clone();
    run.phase("shutdown", |run| {
        server.leave()?;
        server.stop_within(limits.boot_limit.unsigned(), run.cancel)
    })
    .map_err(what)?;
    logs.put_back()?;
    Ok(CleanRecord {
        program: binary.program.path().to_owned(),
        version: binary.version_text.clone(),
        recovery,
        tables,
        remarks,
        boot_seconds,
        check_seconds,
        shutdown_seconds: begun.elapsed().as_secs_f64(),
    })
}

fn connections(config: &Config) -> usize {
    match config.scratch.connections {
        0 => crate::sys::host::processors().min(4),
        connections => connections,
    }
}

/// Every table. One that is damaged fails the run: a level that promises a proof does not keep what it disproved.
fn check(run: &Run<'_>, config: &Config, server: &mut Scratch) -> Result<(u64, Vec<String>)> {
    let all = check::tables(&mut server.session(LISTING)?)?;
    run.monitor.begin(Work {
        name: "checking tables",
        bytes: 0,
        items: all.len() as u64,
    });
    let until = Instant::now() + config.scratch.check_limit.unsigned();
    let round = check::run(server, all, connections(config), until, run.monitor, run.cancel);
    run.monitor.end();
    let round = round?;
    if round.late {
        return Err(Error::failed(
            "level `clean`: the time for all checks was over (scratch.check_limit)",
        ));
    }
    let said = |checked: &check::Checked| format!("{}: {}", checked.table.full_name(), checked.messages.join("; "));
    let damaged = round
        .checked
        .iter()
        .filter(|one| one.verdict >= Verdict::Errors)
        .map(said);
    let ended = round
        .suspects
        .iter()
        .map(|table| format!("{}: the server ended while it was checked", table.full_name()));
    let damaged: Vec<String> = damaged.chain(ended).take(NAMED).collect();
    if !damaged.is_empty() {
        return Err(Error::failed(format!(
            "level `clean`: there are damaged tables, on the live server as well: {}. Level `application` still backs them up",
            damaged.join(", ")
        )));
    }
    let remarks = round
        .checked
        .iter()
        .filter(|one| one.verdict == Verdict::Warnings)
        .map(said);
    Ok((round.checked.len() as u64, remarks.collect()))
}
