//! Restore drills: a backup is restored to scratch space, a private server boots on it and checks every table, and the verdict is kept in the repository.
//!
//! Reading a backup proves that the bytes are those that were stored. Only a boot proves that they are a database.

mod checks;
mod pick;
pub(crate) mod server_user;
pub(crate) mod space;
mod sums;
mod verdict;

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::config::Config;
use crate::database::mysql::scratch::check::Checked;
use crate::database::mysql::scratch::{self, Binary, Place, Scratch, Wishes};
use crate::database::{Position, ServerFacts, Strategy};
use crate::error::Kind;
use crate::job::Whose;
use crate::monitor::Monitor;
use crate::record::Record;
use crate::repository::{Backup, Drill, Repository};
use crate::restore::{self, Needs, needs, record_of};
use crate::sys::signal::Cancel;
use crate::sys::user::Account;
use crate::units::Id;
use crate::{Error, Result};

pub(crate) use space::Space;

pub use pick::Pick;
pub use space::remove as remove_space;
pub use verdict::{BootedBy, Checksums, Compared, Counts, Named, Outcome, Seconds, Step, Tables, Verdict};

/// Chooses the backup to drill.
///
/// # Errors
/// The repository cannot be listed, it has no backup of a database, or it is not known whose newest is meant.
pub fn choose(repository: &Repository, whose: &Whose, how: Pick) -> Result<Id> {
    let backups: Vec<_> = repository
        .list()?
        .into_iter()
        .filter_map(|listed| listed.manifest.ok())
        .collect();
    let last = repository.last_drills()?;
    let drilled = last
        .into_iter()
        .filter_map(|(backup, drill)| Some((backup, drill.ok()?.time)))
        .collect();
    pick::pick(&backups, &drilled, whose, how)
}

/// A drill that came to a verdict.
#[derive(Debug)]
pub struct Drilled {
    /// The verdict, as it is kept.
    pub drill: Drill,
    /// Why it is not kept: the repository cannot be written. It was found all the same.
    pub unkept: Option<Error>,
}

/// Drills one backup and keeps the verdict. A backup that does not pass is a verdict, not an error.
///
/// # Errors
/// No drill took place: there is no such backup, it holds no database, no fitting server program or too little room was found, or a signal asked to end.
pub fn drill(
    repository: &Repository,
    which: &str,
    config: &Config,
    workers: usize,
    monitor: &dyn Monitor,
    cancel: &Cancel,
) -> Result<Drilled> {
    let backup = repository.find(which)?;
    let record = record_of(backup.manifest())?;
    let Some(facts) = &record.server else {
        return Err(Error::usage(format!(
            "backup {} holds no database: there is nothing to boot",
            backup.manifest().id.short()
        )));
    };
    let (id, time) = (Id::random(), jiff::Timestamp::now());
    let binary = scratch::find(config.scratch.mysqld.as_deref(), facts).map_err(Error::from)?;
    let drill = Running {
        user: server_user::for_copies(config)?,
        repository,
        backup: &backup,
        record: &record,
        facts,
        binary: &binary,
        config,
        workers,
        monitor,
        cancel,
    };
    let verdict = drill.run(id)?;
    let json = serde_json::to_value(&verdict).map_err(|error| Error::failed(format!("cannot write JSON: {error}")))?;
    let drill = repository.drill_of(id, backup.manifest().id, time, json);
    let unkept = repository.keep_drill(&drill).err().map(Error::from);
    Ok(Drilled { drill, unkept })
}

/// What a kept drill says; `None` for what a later program wrote.
pub fn verdict_of(drill: &Drill) -> Option<Verdict> {
    serde_json::from_value(drill.verdict.clone()).ok()
}

/// What one drill works with.
struct Running<'d> {
    /// Whom the private server runs as.
    user: Option<Account>,
    repository: &'d Repository,
    backup: &'d Backup,
    record: &'d Record,
    facts: &'d ServerFacts,
    binary: &'d Binary,
    config: &'d Config,
    workers: usize,
    monitor: &'d dyn Monitor,
    cancel: &'d Cancel,
}

impl Running<'_> {
    fn run(&self, id: Id) -> Result<Verdict> {
        let mut verdict = self.blank();
        self.monitor.phase("room");
        // The destination of a survey is never looked at.
        let needs = match needs(
            self.backup,
            &restore::Request::to_datadir(PathBuf::from("/nonexistent"), self.workers),
            self.cancel,
        ) {
            Err(error) if error.kind() == Kind::Damaged => {
                verdict.fail(Step::Restore, error.to_string());
                return Ok(verdict);
            }
            needs => needs?,
        };
        let owner = self.user;
        let space = Space::make(self.config, id, Needs { owner, ..needs })?;
        let done = self.in_space(space.at(), &mut verdict);
        crate::failpoint!("drill.remove");
        // Also after a failure and after a signal; a server is dead by now.
        let removed = space.remove();
        match (done, removed) {
            (Ok(()), Ok(())) => Ok(verdict),
            (Ok(()), Err(error)) => {
                verdict.warn(format!("scratch space is left: {error}; `snapback cleanup` removes it"));
                Ok(verdict)
            }
            (Err(error), removed) => Err(error.and_rollback(removed)),
        }
    }

    fn blank(&self) -> Verdict {
        Verdict {
            result: Outcome::Ok,
            failed_at: None,
            reasons: Vec::new(),
            tool: env!("CARGO_PKG_VERSION").to_owned(),
            host: crate::sys::host::name(),
            server: BootedBy {
                flavour: self.binary.flavour,
                version: self.binary.version_text.clone(),
                program: self.binary.program.path().to_owned(),
            },
            seconds: Seconds::default(),
            bytes: 0,
            recovery: scratch::Recovery::default(),
            position: None,
            checksums: None,
            tables: Tables::default(),
        }
    }

    /// Restore, boot, check, shut down. What the backup is to blame for goes into the verdict.
    fn in_space(&self, at: &Path, verdict: &mut Verdict) -> Result<()> {
        let datadir = at.join("data");
        let begun = Instant::now();
        let id = self.backup.manifest().id.to_string();
        let request = restore::Request::to_datadir(datadir.clone(), self.workers);
        let restored = match restore::restore(self.repository, &id, &request, self.monitor, self.cancel) {
            Err(error) if error.kind() == Kind::Damaged => {
                verdict.fail(Step::Restore, error.to_string());
                return Ok(());
            }
            restored => restored?,
        };
        verdict.seconds.restore = begun.elapsed().as_secs_f64();
        verdict.bytes = restored.bytes;
        crate::failpoint!("drill.restored");
        let trees: Vec<(PathBuf, PathBuf)> = restored
            .placed
            .into_iter()
            .map(|placed| (placed.original, placed.at))
            .collect();
        let place = Place {
            facts: self.facts,
            paths: &self.record.paths,
            datadir: &datadir,
            trees: &trees,
        };
        crate::booted::give(&trees, self.user)?;
        self.boot_and_check(&place, at, verdict)
    }

    fn boot_and_check(&self, place: &Place<'_>, space: &Path, verdict: &mut Verdict) -> Result<()> {
        self.monitor.phase("boot");
        let begun = Instant::now();
        let mut server = match self.boot(place, space) {
            Ok(server) => server,
            Err(error) => return blame(error, Step::Boot, None, verdict),
        };
        verdict.seconds.boot = begun.elapsed().as_secs_f64();
        verdict.recovery = server.recovery().clone();
        crate::failpoint!("drill.booted");
        self.compare_positions(&server, verdict);
        let removed = server.removed_links().to_vec();
        for link in &removed {
            verdict.warn(format!(
                "{} leads to {}, which is not in the backup",
                self.facts.datadir.join(&link.link).display(),
                link.target.display()
            ));
        }

        let begun = Instant::now();
        let until = begun + self.config.scratch.check_limit.unsigned();
        let checked = self.check(&mut server, place, space, until);
        self.monitor.end();
        match checked {
            Ok(mut checked) => {
                checks::excuse(&mut checked, &removed);
                self.judge(checked, &mut server, until, verdict)?;
            }
            Err(error) => blame(error, Step::Check, server.machine_trouble(), verdict)?,
        }
        self.name_what_lacks(&mut server, verdict);
        verdict.seconds.check = begun.elapsed().as_secs_f64();
        crate::failpoint!("drill.checked");

        if server.lives() {
            self.monitor.phase("shutdown");
            let begun = Instant::now();
            if let Err(error) = server.stop(self.cancel) {
                blame(error, Step::Shutdown, None, verdict)?;
            }
            verdict.seconds.shutdown = begun.elapsed().as_secs_f64();
        }
        Ok(())
    }

    /// The tables by their checks and, where the backup has checksums, by those.
    fn judge(
        &self,
        mut checked: Vec<Checked>,
        server: &mut Scratch,
        until: Instant,
        verdict: &mut Verdict,
    ) -> Result<()> {
        if let Some(recorded) = &self.record.checksums {
            let compared = self.compare(recorded, &mut checked, server, until)?;
            verdict.judge(checked);
            verdict.take(compared);
        } else {
            verdict.judge(checked);
        }
        Ok(())
    }

    fn boot(&self, place: &Place<'_>, space: &Path) -> Result<Scratch> {
        let scratch = &self.config.scratch;
        let wishes = Wishes {
            memory: scratch.memory.as_u64(),
            connections: self.connections(),
            boot_limit: scratch.boot_limit.unsigned(),
            options: scratch.options.clone(),
            clean: false,
            throwaway: true,
            user: self.user,
            replication: false,
        };
        scratch::start(self.binary, place, space, &wishes, self.monitor, self.cancel)
    }

    /// Names the libraries that the private server lacks, where some table could not be checked.
    fn name_what_lacks(&self, server: &mut Scratch, verdict: &mut Verdict) {
        let unchecked = verdict.tables.count(|counts| counts.unchecked) > 0;
        if unchecked
            && server.lives()
            && let Some(missing) = server
                .missing_libraries(self.facts)
                .filter(|missing| !missing.is_empty())
        {
            verdict.reasons.push(format!(
                "the private server lacks what the live one had loaded: {}; install it beside {}, or name its directory in \
                 `scratch.options` (plugin-dir)",
                missing.join(", "),
                self.binary.program.path().display()
            ));
        }
    }

    fn connections(&self) -> usize {
        match self.config.scratch.connections {
            0 => crate::sys::host::processors().min(4),
            connections => connections,
        }
    }

    /// An exact backup recovers to the position that was recorded under the lock, and to no other.
    fn compare_positions(&self, server: &Scratch, verdict: &mut Verdict) {
        let Some(recorded) = self.record.position.clone().filter(|_| self.facts.log_bin) else {
            return;
        };
        let files = server.binary_logs().unwrap_or_default();
        let Some((file, position)) = files.last().cloned() else {
            return;
        };
        let found = Position {
            file,
            position,
            gtid: recorded.gtid.as_ref().and_then(|_| server.gtid().ok().flatten()),
        };
        let lockless = self
            .record
            .lock
            .as_ref()
            .is_some_and(|lock| lock.strategy == Strategy::Lockless);
        let agrees = agree(&recorded, &found, lockless);
        if !agrees && self.record.exact {
            let (there, here) = (&recorded, &found);
            verdict.fail(
                Step::Position,
                format!(
                    "the copy recovers to {}:{}{}, and the backup recorded {}:{}{}",
                    here.file,
                    here.position,
                    with_gtid(here),
                    there.file,
                    there.position,
                    with_gtid(there)
                ),
            );
        }
        verdict.position = Some(Compared {
            recorded,
            found,
            agrees,
            promised: self.record.exact,
        });
    }
}

/// Puts an error of a private server into the verdict. `trouble` is what of the machine ended it.
///
/// # Errors
/// No server said or did it: the drill itself failed.
fn blame(error: Error, step: Step, trouble: Option<&str>, verdict: &mut Verdict) -> Result<()> {
    use crate::database::Error as Of;
    let Error::Database(of) = &error else { return Err(error) };
    let of_the_data = match of {
        Of::Sys(_) => return Err(error),
        Of::UnfitData(_) => true,
        Of::Statement { code, reason, .. } if *code != 0 => scratch::machine::trouble(reason).is_none(),
        // The connection broke: the server ended.
        Of::Statement { .. } | Of::Connect { .. } => trouble.is_none(),
        _ => false,
    };
    match (of_the_data, trouble) {
        (true, _) => verdict.fail(step, error.to_string()),
        (false, Some(trouble)) => verdict.doubt(step, format!("{error}; {trouble}")),
        (false, None) => verdict.doubt(step, error.to_string()),
    }
    Ok(())
}

/// Without a lock the snapshot may have caught the beginning of one more group of events behind the recorded position. It is not in the data, and not every server cuts it off
/// its log, or out of its GTIDs.
fn agree(recorded: &Position, found: &Position, lockless: bool) -> bool {
    found == recorded || (lockless && found.file == recorded.file && found.position > recorded.position)
}

fn with_gtid(position: &Position) -> String {
    position
        .gtid
        .as_ref()
        .map(|gtid| format!(" (gtid {gtid})"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_blames_the_data_or_the_machine_and_the_rest_is_no_verdict() {
        use crate::database::Error as Of;
        let statement = |code, reason: &str| Of::Statement {
            statement: "SELECT 1".to_owned(),
            code,
            reason: reason.to_owned(),
        };
        let of = |error: Of, trouble| {
            let mut verdict = verdict::tests::blank();
            blame(error.into(), Step::Check, trouble, &mut verdict)
                .map(|()| verdict.result)
                .ok()
        };
        let (data, machine) = (Some(Outcome::Failed), Some(Outcome::Inconclusive));
        assert_eq!(of(Of::UnfitData("corrupt".to_owned()), None), data);
        assert_eq!(of(Of::Unsupported("too late".to_owned()), None), machine);
        assert_eq!(of(statement(126, "Incorrect key file"), None), data);
        assert_eq!(
            of(statement(1021, "Disk full (/tmp); waiting for someone"), None),
            machine
        );
        assert_eq!(of(statement(0, "broken pipe"), None), data);
        assert_eq!(of(statement(0, "broken pipe"), Some("it was killed")), machine);
        let host = crate::sys::Error::path("start", "/x", std::io::Error::from_raw_os_error(2));
        assert_eq!(of(Of::Sys(host), None), None);
    }

    #[test]
    fn positions_agree_to_the_byte_unless_nothing_was_locked() {
        let at = |file: &str, position, gtid: &str| Position {
            file: file.to_owned(),
            position,
            gtid: Some(gtid.to_owned()),
        };
        let recorded = at("b.2", 100, "0-1-7");
        for (found, locked, lockless) in [
            (at("b.2", 100, "0-1-7"), true, true),
            (at("b.2", 140, "0-1-8"), false, true),
            (at("b.2", 100, "0-1-8"), false, false),
            (at("b.2", 90, "0-1-7"), false, false),
            (at("b.3", 140, "0-1-7"), false, false),
        ] {
            assert_eq!(agree(&recorded, &found, false), locked, "{found:?}");
            assert_eq!(agree(&recorded, &found, true), lockless, "{found:?}");
        }
    }
}
