//! A run: its id, its clock, its journal, and the lock that keeps two backups of one host apart.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Instant;

use crate::config::Config;
use crate::finding::Finding;
use crate::journal::Journal;
use crate::monitor::Monitor;
use crate::sys::signal::Cancel;
use crate::sys::{host, trust};
use crate::timeline::Timeline;
use crate::units::Id;
use crate::volume::Owner;
use crate::{Error, Result};

/// A run that has begun.
pub(crate) struct Run<'m> {
    /// Names the run, its snapshots and its backup.
    pub id: Id,
    /// The one clock.
    pub timeline: Timeline,
    /// What the run made on the host.
    pub journal: Journal,
    /// Who hears of it.
    pub monitor: &'m dyn Monitor,
    /// Whether it was asked to end.
    pub cancel: &'m Cancel,
    /// What a person must read.
    pub findings: Vec<Finding>,
    /// Held while the run lives; the kernel frees it with the process.
    _alone: File,
}

impl<'m> Run<'m> {
    /// Begins a run.
    ///
    /// # Errors
    /// Somebody else could change what root would use; another backup runs with this state directory; the journal cannot be written.
    pub fn begin(config: &Config, monitor: &'m dyn Monitor, cancel: &'m Cancel) -> Result<Run<'m>> {
        let distrusted = config.distrusted();
        if !distrusted.is_empty() {
            return Err(Error::Refused(distrusted));
        }
        let id = Owner::of(&config.state_dir).new_run();
        let alone = lock_out_others(&config.state_dir, id)?;
        let journal = Journal::create(&config.state_dir, id)?;
        Ok(Run {
            id,
            timeline: Timeline::start(),
            journal,
            monitor,
            cancel,
            findings: Vec::new(),
            _alone: alone,
        })
    }

    /// Runs one phase: the monitor hears its name, the clock its length, and a wish to end is heeded first.
    pub fn phase<T>(&mut self, name: &'static str, work: impl FnOnce(&mut Run<'m>) -> Result<T>) -> Result<T> {
        self.cancel.check()?;
        self.closing_phase(name, work)
    }

    /// As [`phase`](Run::phase), for steps that must be done although the run was asked to end.
    pub fn closing_phase<T>(&mut self, name: &'static str, work: impl FnOnce(&mut Run<'m>) -> Result<T>) -> Result<T> {
        self.monitor.phase(name);
        tracing::debug!(phase = name, "begin");
        let begun = Instant::now();
        let result = work(self);
        self.timeline.record(name, begun, Instant::now());
        result
    }

    /// Ends the run: the journal goes, unless something in it was not undone.
    pub fn end(&self) -> Result<()> {
        Ok(self.journal.done()?)
    }

    /// Keeps findings for the record and tells the monitor.
    pub fn note(&mut self, findings: impl IntoIterator<Item = Finding>) {
        for finding in findings {
            self.monitor.finding(&finding);
            self.findings.push(finding);
        }
    }
}

/// Locks the state directory: one backup or rollback at a time.
///
/// # Errors
/// Another one runs.
pub(crate) fn lock_out_others(state_dir: &Path, id: Id) -> Result<File> {
    let at = |operation: &'static str, path: &Path, source: std::io::Error| {
        Error::Sys(crate::sys::Error::path(operation, path, source))
    };
    let mut private = std::fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(private.recursive(true), 0o700);
    trust::require(state_dir)?;
    private
        .create(state_dir)
        .map_err(|source| at("make the state directory", state_dir, source))?;
    // Once more: in a directory like /tmp somebody else may have been quicker.
    trust::require(state_dir)?;
    let path = state_dir.join("backup.lock");
    let mut file = open_lock(&path)?;
    if file.try_lock().is_err() {
        let mut holder = String::new();
        let _ = file.read_to_string(&mut holder);
        return Err(Error::failed(format!(
            "another backup is running ({}); wait for it, or end that process: its lock goes with it",
            holder.trim()
        )));
    }
    let holder = format!("run {} as process {}\n", id.short(), std::process::id());
    let written = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(holder.as_bytes()));
    written.map_err(|source| at("write", &path, source))?;
    Ok(file)
}

/// Whoever can open a file can lock it, so only we can.
fn open_lock(path: &Path) -> Result<File> {
    let at =
        |operation: &'static str, source: std::io::Error| Error::Sys(crate::sys::Error::path(operation, path, source));
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .map_err(|source| at("open", source))?;
    let found = file.metadata().map_err(|source| at("look at", source))?;
    if !found.is_file() || found.uid() != host::user_id() {
        return Err(Error::failed(format!(
            "{} is not a file of ours: remove it when no backup runs",
            path.display()
        )));
    }
    if found.mode() & 0o077 != 0 {
        let private = std::fs::Permissions::from_mode(0o600);
        file.set_permissions(private).map_err(|source| at("chmod", source))?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::Silent;

    #[test]
    fn two_runs_do_not_share_a_state_directory() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            state_dir: dir.path().to_owned(),
            ..Config::default()
        };
        let cancel = Cancel::new();
        let first = Run::begin(&config, &Silent, &cancel).unwrap();
        let refused = Run::begin(&config, &Silent, &cancel).err().unwrap().to_string();
        assert!(refused.contains(&first.id.short()), "{refused}");
        drop(first);
        Run::begin(&config, &Silent, &cancel).unwrap();
    }

    #[test]
    fn nobody_else_can_lock_the_state_directory() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let everybody =
            |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        std::fs::create_dir(&state).unwrap();
        // Others may pass, and an older version left a lock that they can open.
        everybody(&state, 0o755);
        std::fs::write(state.join("backup.lock"), "").unwrap();
        everybody(&state.join("backup.lock"), 0o644);
        let config = Config {
            state_dir: state.clone(),
            ..Config::default()
        };
        let cancel = Cancel::new();
        let run = Run::begin(&config, &Silent, &cancel).unwrap();
        let mut left = vec![state.clone()];
        while let Some(at) = left.pop() {
            let found = std::fs::metadata(&at).unwrap();
            assert!(
                at == state || found.mode() & 0o077 == 0,
                "{}: {:o}",
                at.display(),
                found.mode()
            );
            if found.is_dir() {
                left.extend(std::fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
        drop(run);
        std::fs::remove_file(state.join("backup.lock")).unwrap();
        std::os::unix::fs::symlink("/dev/null", state.join("backup.lock")).unwrap();
        assert!(Run::begin(&config, &Silent, &cancel).is_err());
        std::fs::remove_file(state.join("backup.lock")).unwrap();
        if host::is_root() {
            everybody(&state, 0o777);
            let refused = Run::begin(&config, &Silent, &cancel).err().unwrap().to_string();
            assert!(refused.contains("chmod go-w"), "{refused}");
        }
    }

    #[test]
    fn a_phase_is_not_begun_once_the_run_was_asked_to_end() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            state_dir: dir.path().to_owned(),
            ..Config::default()
        };
        let cancel = Cancel::new();
        let mut run = Run::begin(&config, &Silent, &cancel).unwrap();
        cancel.cancel(15);
        assert!(matches!(run.phase("copy", |_| Ok(())), Err(Error::Interrupted(15))));
        assert!(run.closing_phase("drop", |_| Ok(())).is_ok());
    }
}
