//! Which path lies on which volume, and whether all that the server needs can be taken at one instant.

use std::path::{Path, PathBuf};

use super::{Error, Mounts, Result};
use crate::database::{PathRole, WrittenPath};
use crate::finding::Finding;
use crate::volume::{Provider, Volume};

/// A path of the server, placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The path, absolute, without symlinks.
    pub path: PathBuf,
    /// What it holds.
    pub role: PathRole,
    /// Whether the server needs it to start on the copy.
    pub needed: bool,
    /// Index into [`Layout::volumes`]; `None` when it is on no volume that can be snapshotted.
    pub volume: Option<usize>,
    /// The path below the volume's top.
    pub relative: PathBuf,
}

/// A tree of files beside the database, placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedFile {
    /// The path, absolute, without symlinks.
    pub path: PathBuf,
    /// Index into [`Layout::volumes`]; `None` when it is copied live.
    pub volume: Option<usize>,
    /// Whether its volume has a snapshot of its own, not the one taken with the database.
    pub own: bool,
    /// The path below the volume's top.
    pub relative: PathBuf,
}

/// Everything placed.
#[derive(Debug, Clone, Default)]
pub struct Layout {
    /// The volumes, each once.
    pub volumes: Vec<Volume>,
    /// The server's paths.
    pub placed: Vec<Placed>,
    /// The trees of files.
    pub files: Vec<PlacedFile>,
    /// What was noticed.
    pub findings: Vec<Finding>,
}

impl Layout {
    /// Places the server's paths and the trees of files. Changes nothing.
    ///
    /// # Errors
    /// A path or volume cannot be examined. What forbids a backup is a blocker among the findings.
    pub fn of(paths: &[WrittenPath], files: &[PathBuf], providers: &[Box<dyn Provider>], mounts: &Mounts) -> Result<Layout> {
        let mut builder = Builder { providers, mounts, layout: Layout::default() };
        for written in paths {
            builder.place(written)?;
        }
        builder.agree();
        builder.survey_database()?;
        for file in files {
            builder.place_file(file)?;
        }
        builder.survey_files()?;
        Ok(builder.layout)
    }

    /// The indices of the volumes that hold something the server needs.
    pub fn of_database(&self) -> Vec<usize> {
        let needed = |index: &usize| self.placed.iter().any(|placed| placed.needed && placed.volume == Some(*index));
        (0..self.volumes.len()).filter(needed).collect()
    }
}

struct Builder<'a> {
    providers: &'a [Box<dyn Provider>],
    mounts: &'a Mounts,
    layout: Layout,
}

impl Builder<'_> {
    fn place(&mut self, written: &WrittenPath) -> Result<()> {
        let volume = if written.needed { self.locate(&written.path)? } else { None };
        if written.needed && volume.is_none() {
            self.unsupported(&written.path);
        }
        let relative = self.relative(volume, &written.path);
        let placed = Placed { path: written.path.clone(), role: written.role, needed: written.needed, volume, relative };
        self.layout.placed.push(placed);
        Ok(())
    }

    fn place_file(&mut self, file: &Path) -> Result<()> {
        let Ok(path) = file.canonicalize() else {
            let said = format!("{} does not exist and is not in the backup", file.display());
            self.layout.findings.push(Finding::warning("files-missing", said).remedy("take it out of `files:`, or make it"));
            return Ok(());
        };
        let volume = self.locate(&path)?;
        if volume.is_none() {
            let fs = self.mounts.of(&path).map_or("an unknown filesystem", |mount| &mount.fs_type);
            let said = format!("{} is on {fs}, which cannot be snapshotted: it is copied live", path.display());
            self.layout.findings.push(Finding::note("files-live", said));
        }
        let own = volume.is_some_and(|volume| !self.layout.of_database().contains(&volume));
        let relative = self.relative(volume, &path);
        self.layout.files.push(PlacedFile { path, volume, own, relative });
        Ok(())
    }

    /// The volume of a path, entered into the layout once.
    fn locate(&mut self, path: &Path) -> Result<Option<usize>> {
        for provider in self.providers {
            if let Some(volume) = provider.locate(path, self.mounts)? {
                return Ok(Some(self.enter(volume)));
            }
        }
        Ok(None)
    }

    fn enter(&mut self, volume: Volume) -> usize {
        let known = self.layout.volumes.iter().position(|one| one.id == volume.id);
        known.unwrap_or_else(|| {
            self.layout.volumes.push(volume);
            self.layout.volumes.len() - 1
        })
    }

    fn relative(&self, volume: Option<usize>, path: &Path) -> PathBuf {
        let top = volume.and_then(|index| self.layout.volumes.get(index)).map(|volume| volume.top.as_path());
        top.and_then(|top| path.strip_prefix(top).ok()).map(Path::to_owned).unwrap_or_default()
    }

    fn unsupported(&mut self, path: &Path) {
        let mount = self.mounts.of(path);
        let error = Error::Unsupported {
            path: path.to_owned(),
            fs_type: mount.map_or_else(|| "an unknown filesystem".to_owned(), |mount| mount.fs_type.clone()),
            source_name: mount.map_or_else(|| "no mount".to_owned(), |mount| mount.source.clone()),
        };
        self.layout.findings.push(Finding::blocker("unsupported-storage", error.to_string()));
    }

    /// Invariant 5: all that the server needs is taken at one instant, or the run is refused (trap 21).
    fn agree(&mut self) {
        let needed = self.layout.of_database();
        let volumes: Vec<Volume> = needed.iter().map(|index| self.layout.volumes[*index].clone()).collect();
        let Some(first) = volumes.first() else { return };
        let provider = self.providers.iter().find(|provider| provider.kind() == first.provider);
        let same = volumes.iter().all(|volume| volume.provider == first.provider);
        if same && provider.is_some_and(|provider| provider.one_instant(&volumes)) {
            return;
        }
        let mut said = "the server's files lie on volumes that cannot be taken at one instant, and a lock does not stop its background writes:".to_owned();
        for placed in self.layout.placed.iter().filter(|placed| placed.needed) {
            let source = placed.volume.map_or("no volume", |index| &self.layout.volumes[index].source);
            said.push_str(&format!(" {} on {source};", placed.path.display()));
        }
        let blocker = Finding::blocker("several-volumes", said.trim_end_matches(';'))
            .remedy("move them into one subvolume (stop the server, move, start), or back up at another level from one volume");
        self.layout.findings.push(blocker);
    }

    fn survey_database(&mut self) -> Result<()> {
        for index in self.layout.of_database() {
            let volume = self.layout.volumes[index].clone();
            let on_it = |placed: &&Placed| placed.needed && placed.volume == Some(index);
            let paths: Vec<PathBuf> = self.layout.placed.iter().filter(on_it).map(|placed| placed.path.clone()).collect();
            let survey = self.provider(&volume).map(|provider| provider.survey(&volume, &paths)).transpose()?.unwrap_or_default();
            self.layout.findings.extend(survey.findings);
            for nested in survey.nested {
                let said = format!(
                    "the subvolume {} lies inside the server's files: its snapshot would be taken at another instant, and a lock does not stop background writes",
                    nested.top.display()
                );
                let remedy = format!(
                    "make it a plain directory: stop the server, `mv {0} {0}.old && mkdir {0} && cp -a --reflink=always {0}.old/. {0}/ && btrfs subvolume delete {0}.old`",
                    nested.top.display()
                );
                self.layout.findings.push(Finding::blocker("nested-subvolume", said).remedy(remedy));
            }
        }
        Ok(())
    }

    /// Nested subvolumes with files have snapshots of their own, and people are told so.
    fn survey_files(&mut self) -> Result<()> {
        let mut at = 0;
        while let Some(file) = self.layout.files.get(at).cloned() {
            at += 1;
            let Some(index) = file.volume else { continue };
            let volume = self.layout.volumes[index].clone();
            let survey = self.provider(&volume).map(|provider| provider.survey(&volume, std::slice::from_ref(&file.path)));
            for nested in survey.transpose()?.unwrap_or_default().nested {
                let path = nested.top.clone();
                if self.layout.files.iter().any(|one| one.path == path) {
                    continue;
                }
                let said = format!("the subvolume {} is taken with a snapshot of its own, at another instant than {}", path.display(), file.path.display());
                self.layout.findings.push(Finding::note("own-snapshot", said));
                let volume = self.enter(nested);
                let own = !self.layout.of_database().contains(&volume);
                self.layout.files.push(PlacedFile { path, volume: Some(volume), own, relative: PathBuf::new() });
            }
        }
        Ok(())
    }

    fn provider(&self, volume: &Volume) -> Option<&dyn Provider> {
        self.providers.iter().find(|provider| provider.kind() == volume.provider).map(|provider| &**provider)
    }
}
