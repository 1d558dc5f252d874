//! A provider over plain directories, for tests of control flow: a snapshot is a copy of the directory. Every method can be told to
//! fail, and every call is written down. It promises nothing about instants; nothing outside tests makes one.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::{Error, Health, Located, Prepared, Provider, ProviderKind, Result, Snapshot, Survey, Volume, mark};
use crate::detect::Mounts;
use crate::finding::Finding;
use crate::units::Id;

/// The fake. Clones share their state, so that a test keeps one while the run owns another.
#[derive(Debug, Clone)]
pub struct Fake(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    volumes: Vec<PathBuf>,
    snapshots: PathBuf,
    one_instant: bool,
    freezes: bool,
    exclusive: Option<String>,
    failures: BTreeMap<&'static str, String>,
    runs_on: Option<&'static str>,
    survey: Survey,
    room: Vec<Finding>,
    health: Health,
    calls: Vec<&'static str>,
}

impl Fake {
    /// These directories are volumes (also nested in one another); copies are made below `snapshots`.
    pub fn new(volumes: &[PathBuf], snapshots: &Path) -> Fake {
        Fake(Arc::new(Mutex::new(State {
            volumes: volumes.to_vec(),
            snapshots: snapshots.to_owned(),
            one_instant: false,
            freezes: false,
            exclusive: None,
            failures: BTreeMap::new(),
            runs_on: None,
            survey: Survey::default(),
            room: Vec::new(),
            health: Health::Good,
            calls: Vec::new(),
        })))
    }

    /// Lets several volumes be taken at one instant, as ZFS can.
    pub fn with_one_instant(self) -> Fake {
        self.state().one_instant = true;
        self
    }

    /// Its volumes say that they can be frozen.
    pub fn with_freezing(self) -> Fake {
        self.state().freezes = true;
        self
    }

    /// Its commands hold this lock.
    pub fn with_exclusive(self, lock: &str) -> Fake {
        self.state().exclusive = Some(lock.to_owned());
        self
    }

    /// From now on this method (or prepared step: `fix`, `finish`, `abandon`) fails with this reason.
    pub fn fail(&self, method: &'static str, reason: &str) {
        self.state().failures.insert(method, reason.to_owned());
    }

    /// From now on this method says of the vendor's command that it has not ended.
    pub fn run_on(&self, method: &'static str) {
        self.state().runs_on = Some(method);
    }

    /// This method works again.
    pub fn mend(&self, method: &'static str) {
        self.state().failures.remove(method);
    }

    /// What `health` says from now on.
    pub fn set_health(&self, health: Health) {
        self.state().health = health;
    }

    /// What `survey` says besides the nested volumes that it finds itself.
    pub fn set_survey(&self, findings: Vec<Finding>) {
        self.state().survey.findings = findings;
    }

    /// What `room` says from now on.
    pub fn set_room(&self, findings: Vec<Finding>) {
        self.state().room = findings;
    }

    /// Every call so far, in order.
    pub fn calls(&self) -> Vec<&'static str> {
        self.state().calls.clone()
    }

    /// The copies that are there now.
    pub fn left(&self) -> Vec<PathBuf> {
        let directory = self.state().snapshots.clone();
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        found.sort();
        found
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call(&self, method: &'static str) -> Result<()> {
        let mut state = self.state();
        state.calls.push(method);
        if state.runs_on == Some(method) {
            return Err(Error::Sys(crate::sys::Error::StillRunning {
                program: method.to_owned(),
                seconds: 0.0,
            }));
        }
        match state.failures.get(method) {
            Some(reason) => Err(Error::failed(method, "the fake volume", reason.clone())),
            None => Ok(()),
        }
    }

    /// The volume at this directory.
    pub fn volume(&self, top: &Path) -> Volume {
        Volume {
            provider: ProviderKind::Fake,
            id: top.display().to_string(),
            source: top.display().to_string(),
            fs_type: "fake".to_owned(),
            top: top.to_owned(),
            filesystem: "fake".to_owned(),
        }
    }
}

impl Provider for Fake {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Fake
    }

    fn locate(&self, path: &Path, _mounts: &Mounts) -> Result<Option<Located>> {
        self.call("locate")?;
        let state = self.state();
        let around = state.volumes.iter().filter(|top| path.starts_with(top));
        let top = around.max_by_key(|top| top.components().count()).cloned();
        drop(state);
        Ok(top.map(|top| Located {
            volume: self.volume(&top),
            inside: path.strip_prefix(&top).unwrap_or(Path::new("")).to_owned(),
        }))
    }

    fn survey(&self, volume: &Volume, paths: &[PathBuf]) -> Result<Survey> {
        self.call("survey")?;
        let state = self.state();
        let mut survey = state.survey.clone();
        let below = |top: &&PathBuf| **top != volume.top && paths.iter().any(|path| top.starts_with(path));
        survey.nested = state.volumes.iter().filter(below).map(|top| self.volume(top)).collect();
        Ok(survey)
    }

    fn one_instant(&self, volumes: &[Volume]) -> bool {
        volumes.len() == 1 || self.state().one_instant
    }

    fn freezes(&self, _volume: &Volume) -> std::result::Result<(), String> {
        let freezes = self.state().freezes;
        freezes.then_some(()).ok_or_else(|| "is a fake".to_owned())
    }

    fn exclusive(&self, _volume: &Volume) -> Option<String> {
        self.state().exclusive.clone()
    }

    fn room(&self, _volumes: &[Volume], _beside: u64) -> Result<Vec<Finding>> {
        self.call("room")?;
        Ok(self.state().room.clone())
    }

    fn settle(&self, _volume: &Volume) -> Result<()> {
        self.call("settle")
    }

    fn plan(&self, run: Id, volumes: &[Volume], _keep_clear: &[PathBuf]) -> Result<Vec<Snapshot>> {
        self.call("plan")?;
        let state = self.state();
        let snapshot = |volume: &Volume| {
            let number = state.volumes.iter().take_while(|top| **top != volume.top).count();
            let name = state.snapshots.join(mark::name(run, number as u64));
            Snapshot {
                run,
                volume: volume.clone(),
                name: name.display().to_string(),
                identity: None,
            }
        };
        Ok(volumes.iter().map(snapshot).collect())
    }

    fn places(&self, _planned: &[Snapshot]) -> Vec<PathBuf> {
        vec![self.state().snapshots.clone()]
    }

    fn prepare(&self, planned: &[Snapshot], _alive: Option<BorrowedFd<'_>>) -> Result<Box<dyn Prepared>> {
        self.call("prepare")?;
        let directory = self.state().snapshots.clone();
        std::fs::create_dir_all(&directory)
            .map_err(|error| crate::sys::Error::path("make the directory", directory, error))?;
        Ok(Box::new(PreparedFake {
            fake: self.clone(),
            planned: planned.to_vec(),
        }))
    }

    fn mount(&self, snapshot: &Snapshot, _at: &Path) -> Result<PathBuf> {
        self.call("mount")?;
        Ok(PathBuf::from(&snapshot.name))
    }

    fn unmount(&self, _snapshot: &Snapshot, _at: &Path) -> Result<()> {
        self.call("unmount")
    }

    fn health(&self, snapshot: &Snapshot) -> Result<Health> {
        self.call("health")?;
        if !Path::new(&snapshot.name).exists() {
            return Ok(Health::Lost(format!("{} is gone", snapshot.name)));
        }
        Ok(self.state().health.clone())
    }

    fn remove(&self, snapshot: &Snapshot) -> Result<bool> {
        self.call("remove")?;
        let path = Path::new(&snapshot.name);
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if mark::run_of(name) != Some(snapshot.run) {
            return Err(Error::failed(
                "remove",
                snapshot.name.clone(),
                "it does not carry our mark",
            ));
        }
        match std::fs::remove_dir_all(path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(crate::sys::Error::path("remove", path, error).into()),
        }
    }

    fn list_own(&self, _mounts: &Mounts) -> Result<Vec<Snapshot>> {
        self.call("list_own")?;
        let own = |path: PathBuf| {
            let run = mark::run_of(path.file_name()?.to_str()?)?;
            Some(Snapshot {
                run,
                volume: self.volume(Path::new("unknown")),
                name: path.display().to_string(),
                identity: None,
            })
        };
        Ok(self.left().into_iter().filter_map(own).collect())
    }
}

struct PreparedFake {
    fake: Fake,
    planned: Vec<Snapshot>,
}

impl Prepared for PreparedFake {
    fn fix(&mut self) -> Result<(Instant, Instant)> {
        let begun = Instant::now();
        self.fake.call("fix")?;
        for snapshot in &self.planned {
            copy(
                &snapshot.volume.top,
                Path::new(&snapshot.name),
                &self.fake.state().snapshots,
            )
            .map_err(|error| crate::sys::Error::path("copy to", &snapshot.name, error))?;
        }
        Ok((begun, Instant::now()))
    }

    fn let_end(&mut self) -> Result<()> {
        self.fake.call("let_end")
    }

    fn finish(self: Box<Self>) -> Result<Vec<Snapshot>> {
        if let Err(error) = self.fake.call("finish") {
            for snapshot in &self.planned {
                let _ = std::fs::remove_dir_all(&snapshot.name);
            }
            return Err(error);
        }
        let known = |snapshot: &Snapshot| Snapshot {
            identity: Some(format!("copy of {}", snapshot.volume.id)),
            ..snapshot.clone()
        };
        Ok(self.planned.iter().map(known).collect())
    }

    fn abandon(self: Box<Self>) -> Result<()> {
        self.fake.call("abandon")?;
        for snapshot in &self.planned {
            let _ = std::fs::remove_dir_all(&snapshot.name);
        }
        Ok(())
    }
}

/// Copies a directory with what is in it, but not the place of the copies itself.
fn copy(from: &Path, to: &Path, place: &Path) -> std::io::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if path == place {
            std::fs::create_dir(&target)?;
        } else if kind.is_dir() {
            copy(&path, &target, place)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(&path)?, &target)?;
        } else if kind.is_file() {
            std::fs::copy(&path, &target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_keeps_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir_all(data.join("db")).unwrap();
        std::fs::write(data.join("db/t"), "old").unwrap();
        let fake = Fake::new(std::slice::from_ref(&data), &data.join(".snapback"));
        let located = fake.locate(&data.join("db"), &Mounts::default()).unwrap().unwrap();
        assert_eq!(located.inside, Path::new("db"));
        let planned = fake.plan(Id::random(), &[located.volume], &[]).unwrap();
        let mut prepared = fake.prepare(&planned, None).unwrap();
        prepared.fix().unwrap();
        let taken = prepared.finish().unwrap();
        std::fs::write(data.join("db/t"), "new").unwrap();
        let top = fake.mount(&taken[0], Path::new("/")).unwrap();
        assert_eq!(std::fs::read_to_string(top.join("db/t")).unwrap(), "old");
        assert!(fake.remove(&taken[0]).unwrap());
        assert!(!fake.remove(&taken[0]).unwrap());
        assert_eq!(
            fake.health(&taken[0]).unwrap(),
            Health::Lost(format!("{} is gone", taken[0].name))
        );
    }

    #[test]
    fn it_fails_where_it_is_told_to() {
        let fake = Fake::new(&[], Path::new("/nowhere"));
        fake.fail("plan", "for the test");
        let error = fake.plan(Id::random(), &[], &[]).unwrap_err().to_string();
        assert!(error.contains("for the test"), "{error}");
        fake.mend("plan");
        fake.plan(Id::random(), &[], &[]).unwrap();
        assert_eq!(fake.calls(), ["plan", "plan"]);
    }
}
