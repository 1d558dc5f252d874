//! Which path lives on which volume, and whether all that the server needs can be taken at one instant (trap 21).

mod database;
mod files;

use std::path::{Path, PathBuf};

use super::{Error, Mounts};
use crate::database::{PathRole, WrittenPath};
use crate::finding::Finding;
use crate::volume::barrier::Arrangement;
use crate::volume::{Located, Provider, Volume};

/// Where everything lives.
#[derive(Debug, Default)]
pub struct Layout {
    /// Every volume that matters, the server's first.
    pub volumes: Vec<Volume>,
    /// Every path that the server needs and that is on a volume (what is not, is a blocker in `findings`).
    pub placed: Vec<Placed>,
    /// The trees beside the database, with what is nested in them; none that the database's trees contain.
    pub files: Vec<PlacedFile>,
    /// How the server's volumes are taken at one instant; empty where they cannot be (a blocker says why).
    pub instant: Arrangement,
    /// Facts, warnings, blockers.
    pub findings: Vec<Finding>,
}

/// A path of the server on its volume.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Placed {
    /// Absolute, without symlinks.
    pub path: PathBuf,
    /// What it holds.
    pub role: PathRole,
    /// Index into [`Layout::volumes`].
    pub volume: usize,
    /// The path relative to the volume's top, and so to a mounted snapshot's.
    pub relative: PathBuf,
}

/// A tree beside the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedFile {
    /// As the configuration names it; for a tree nested in such a one, the same as `path`.
    pub named: PathBuf,
    /// Absolute, without symlinks.
    pub path: PathBuf,
    /// Index into [`Layout::volumes`]; `None`: copied from the live filesystem.
    pub volume: Option<usize>,
    /// The path relative to the volume's top, and so to a mounted snapshot's; empty when live.
    pub relative: PathBuf,
    /// Its volume is not taken at the server's instant, but with a snapshot of its own.
    pub own: bool,
    /// Absolute paths below it that are not to be copied from here: trees of their own, or left out.
    pub skip: Vec<PathBuf>,
}

impl Layout {
    /// The volumes that the server's paths lie on: these are taken at one instant, under the lock.
    pub fn database_volumes(&self) -> Vec<usize> {
        let mut found: Vec<usize> = self.placed.iter().map(|placed| placed.volume).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The volumes that only files beside the database lie on, and that are taken by themselves.
    pub fn own_volumes(&self) -> Vec<usize> {
        let database = self.database_volumes();
        let with_it = |index: &usize| {
            let volume = self.volumes.get(*index);
            self.instant.volumes().any(|joined| Some(joined) == volume)
        };
        (0..self.volumes.len())
            .filter(|index| !database.contains(index) && !with_it(index))
            .collect()
    }

    /// The server's paths that no other one of them contains, also in the snapshot: the trees to copy. One may still lie below
    /// another by its name (a bind mount in the datadir): the outer one then shows an empty directory there, not to be copied.
    pub fn database_trees(&self) -> Vec<&Placed> {
        let within = |inner: &Placed, outer: &Placed| {
            let below = inner.path.strip_prefix(&outer.path);
            inner.volume == outer.volume && below.is_ok_and(|below| inner.relative == outer.relative.join(below))
        };
        let covered = |at: usize, inner: &Placed| {
            let mut others = self.placed.iter().enumerate();
            // Of two equal paths the first one counts.
            others.any(|(other, outer)| within(inner, outer) && (inner.path != outer.path || other < at))
        };
        let trees = self
            .placed
            .iter()
            .enumerate()
            .filter(|(at, placed)| !covered(*at, placed));
        trees.map(|(_, placed)| placed).collect()
    }

    fn volume_index(&mut self, volume: Volume) -> usize {
        let same = |known: &Volume| (known.provider, &known.id) == (volume.provider, &volume.id);
        self.volumes.iter().position(same).unwrap_or_else(|| {
            self.volumes.push(volume);
            self.volumes.len() - 1
        })
    }
}

/// Finds the volume of every path that the server needs, and of every tree beside it. Changes nothing. What stands in the way is a
/// blocker among the findings, not an error. `written`: where this tool itself writes during a run, which is never frozen.
///
/// # Errors
/// The host cannot be examined at all.
pub fn lay_out(
    paths: &[WrittenPath],
    files: &[PathBuf],
    providers: &[Box<dyn Provider>],
    mounts: &Mounts,
    written: &[PathBuf],
) -> Result<Layout, Error> {
    let host = Host {
        providers,
        mounts,
        written,
    };
    let mut layout = Layout::default();
    database::place(&host, paths, &mut layout);
    files::place(&host, files, &mut layout);
    files::join(&host, &mut layout);
    Ok(layout)
}

/// What the host offers.
struct Host<'a> {
    providers: &'a [Box<dyn Provider>],
    mounts: &'a Mounts,
    written: &'a [PathBuf],
}

impl<'a> Host<'a> {
    /// The provider and volume of a path that is there.
    fn locate(&self, path: &Path) -> Result<(&'a dyn Provider, Located), Error> {
        for provider in self.providers {
            if let Some(located) = provider.locate(path, self.mounts)? {
                return Ok((provider.as_ref(), located));
            }
        }
        let mount = self.mounts.holding(path);
        Err(Error::Unsupported {
            path: path.to_owned(),
            fs_type: mount.map_or_else(|| "an unknown filesystem".to_owned(), |mount| mount.fs_type.clone()),
            source_name: mount.map(|mount| mount.source.clone()).unwrap_or_default(),
        })
    }

    /// The directories at or below `path` that a snapshot of its volume does not contain: nested volumes, and whatever is
    /// mounted there.
    fn gaps(&self, provider: &dyn Provider, located: &Located, path: &Path) -> Result<(Vec<Gap>, Vec<Finding>), Error> {
        let survey = provider.survey(&located.volume, &[path.to_owned()])?;
        let nested = survey.nested.into_iter().map(|volume| Gap::Nested(volume.top));
        let mounted = self.mounts.below(path).into_iter().map(|mount| Gap::Mounted {
            at: mount.mount_point.clone(),
            fs_type: mount.fs_type.clone(),
        });
        let mut gaps: Vec<Gap> = nested.chain(mounted).collect();
        gaps.sort_by(|one, two| one.at().cmp(two.at()));
        gaps.dedup_by(|one, two| one.at() == two.at());
        Ok((gaps, survey.findings))
    }
}

/// A directory inside a path that a snapshot of the path's volume shows empty.
#[derive(Debug)]
enum Gap {
    /// A volume nested in it.
    Nested(PathBuf),
    /// Another filesystem is mounted there.
    Mounted { at: PathBuf, fs_type: String },
}

impl Gap {
    fn at(&self) -> &Path {
        match self {
            Gap::Nested(at) | Gap::Mounted { at, .. } => at,
        }
    }

    fn describe(&self) -> String {
        match self {
            Gap::Nested(at) => format!("the nested subvolume {}", at.display()),
            Gap::Mounted { at, fs_type } => format!("the {fs_type} filesystem mounted at {}", at.display()),
        }
    }
}

/// Adds findings, each once.
fn add_findings(to: &mut Vec<Finding>, found: impl IntoIterator<Item = Finding>) {
    for finding in found {
        if !to.contains(&finding) {
            to.push(finding);
        }
    }
}

#[cfg(test)]
mod tests;
