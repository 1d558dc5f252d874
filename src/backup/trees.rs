//! Which trees a backup consists of: the datadir, the server's other paths, the configured files; each on its volume or live.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::examine::{Examined, places};
use crate::config::Config;
use crate::copy::Tree;
use crate::database::{PathRole, WrittenPath};
use crate::detect::Layout;
use crate::record::{Above, RootRecord, RootRole, RootSource};

/// A tree before its snapshot exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlannedTree {
    /// As it will stand in the record.
    pub record: RootRecord,
    /// Index into the layout's volumes, unless it is read live.
    pub volume: Option<usize>,
    /// Its path below the volume's top.
    pub relative: PathBuf,
    /// Absolute paths below it that are not to be copied from here.
    pub skip: Vec<PathBuf>,
}

/// The trees' records alone, for `check`.
pub(crate) fn records(config: &Config, examined: &Examined) -> Vec<RootRecord> {
    plan(config, &examined.layout, &examined.paths)
        .into_iter()
        .map(|tree| tree.record)
        .collect()
}

/// The trees in the order in which they are stored: the datadir, the server's other paths, keys where asked for, files that are not
/// left out.
pub(crate) fn plan(config: &Config, layout: &Layout, paths: &[WrittenPath]) -> Vec<PlannedTree> {
    let mut trees: Vec<PlannedTree> = Vec::new();
    for placed in layout.database_trees() {
        let role = if placed.role == PathRole::Datadir {
            RootRole::Datadir
        } else {
            RootRole::Database
        };
        let record = RootRecord {
            above: above(&placed.path),
            path: placed.path.clone(),
            role,
            source: RootSource::Snapshot,
        };
        trees.push(PlannedTree {
            record,
            volume: Some(placed.volume),
            relative: placed.relative.clone(),
            skip: Vec::new(),
        });
    }
    trees.sort_by_key(|tree| (tree.record.role != RootRole::Datadir, tree.record.path.clone()));
    for secret in paths
        .iter()
        .filter(|written| config.include_secrets && written.role == PathRole::Secret)
    {
        let covered = trees.iter().any(|tree| secret.path.starts_with(&tree.record.path));
        if !covered && secret.path.exists() {
            trees.push(live(&secret.path, RootRole::Database));
        }
    }
    let own = places::own(config);
    let wanted = layout
        .files
        .iter()
        .filter(|file| !places::is_left_out(&file.path, config, &own));
    for file in wanted {
        let source = match (file.volume, file.own) {
            (None, _) => RootSource::Live,
            (Some(_), true) => RootSource::OwnSnapshot,
            (Some(_), false) => RootSource::Snapshot,
        };
        let record = RootRecord {
            above: above(&file.path),
            path: file.path.clone(),
            role: RootRole::Files,
            source,
        };
        trees.push(PlannedTree {
            record,
            volume: file.volume,
            relative: file.relative.clone(),
            skip: file.skip.clone(),
        });
    }
    trees
}

fn live(path: &Path, role: RootRole) -> PlannedTree {
    let record = RootRecord {
        above: above(path),
        path: path.to_owned(),
        role,
        source: RootSource::Live,
    };
    PlannedTree {
        record,
        volume: None,
        relative: PathBuf::new(),
        skip: Vec::new(),
    }
}

/// The directories above a path, `/` first. One with an ACL counts as closed: its mode alone does not say whom it keeps out.
fn above(path: &Path) -> Vec<Above> {
    let mut all: Vec<Above> = path.ancestors().skip(1).map(one_above).collect();
    all.reverse();
    all
}

fn one_above(directory: &Path) -> Above {
    let found = std::fs::symlink_metadata(directory).ok().filter(|found| found.is_dir());
    let has_acl = crate::sys::fs::link_xattrs(directory).map_or(true, |xattrs| {
        xattrs.iter().any(|(name, _)| name == b"system.posix_acl_access")
    });
    match found {
        Some(found) if !has_acl => Above {
            mode: found.mode() & 0o7777,
            uid: found.uid(),
            gid: found.gid(),
        },
        _ => Above::CLOSED,
    }
}

/// The trees to copy, once the volumes' snapshots are readable at `tops` (one per layout volume, `None`: not snapshotted).
/// `places` are the directories of ours in which snapshots appear.
pub(crate) fn readable(
    planned: &[PlannedTree],
    tops: &[Option<PathBuf>],
    config: &Config,
    paths: &[WrittenPath],
    places: &[PathBuf],
) -> Vec<Tree> {
    let top_of = |tree: &PlannedTree| tree.volume.and_then(|volume| tops.get(volume).cloned().flatten());
    planned
        .iter()
        .map(|tree| Tree {
            original: tree.record.path.clone(),
            read_from: match top_of(tree) {
                Some(top) if tree.relative.as_os_str().is_empty() => top,
                Some(top) => top.join(&tree.relative),
                None => tree.record.path.clone(),
            },
            live: tree.record.source == RootSource::Live,
            datadir: tree.record.role == RootRole::Datadir,
            database: tree.record.role != RootRole::Files,
            skip: skips(tree, planned, config, paths, places),
        })
        .collect()
}

fn skips(
    tree: &PlannedTree,
    planned: &[PlannedTree],
    config: &Config,
    paths: &[WrittenPath],
    places: &[PathBuf],
) -> Vec<(PathBuf, String)> {
    let inside = |path: &Path| path.starts_with(&tree.record.path) && path != tree.record.path;
    let silent = |path: &PathBuf| (path.clone(), String::new());
    let others = planned
        .iter()
        .map(|other| &other.record.path)
        .filter(|path| inside(path))
        .map(silent);
    let own = tree.skip.iter().chain(places).filter(|path| inside(path)).map(silent);
    let excluded = config
        .exclude
        .iter()
        .filter(|path| inside(path))
        .map(|path| (path.clone(), "excluded by the configuration".to_owned()));
    let left_out = paths
        .iter()
        .filter(|written| inside(&written.path))
        .filter_map(|written| match written.role {
            PathRole::Temporary => Some((written.path.clone(), "temporary files of the server".to_owned())),
            PathRole::Secret if !config.include_secrets => Some((
                written.path.clone(),
                "a key of the server: set `include_secrets: true` to copy it".to_owned(),
            )),
            _ => None,
        });
    let ours = places::own(config)
        .into_iter()
        .filter(|(path, _)| inside(path))
        .map(|(path, what)| (path, format!("{what}: no backup contains it")));
    others.chain(own).chain(ours).chain(excluded).chain(left_out).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(path: &str, role: RootRole, volume: Option<usize>) -> PlannedTree {
        let source = if volume.is_some() {
            RootSource::Snapshot
        } else {
            RootSource::Live
        };
        PlannedTree {
            record: RootRecord {
                above: Vec::new(),
                path: path.into(),
                role,
                source,
            },
            volume,
            relative: PathBuf::new(),
            skip: Vec::new(),
        }
    }

    #[test]
    fn a_tree_inside_another_is_copied_once() {
        let trees = vec![
            tree("/srv/db", RootRole::Datadir, Some(0)),
            tree("/srv", RootRole::Files, Some(0)),
        ];
        let read = readable(
            &trees,
            &[Some("/snap".into())],
            &Config::default(),
            &[],
            &["/srv/.snapback".into()],
        );
        assert_eq!(
            read[1].skip,
            [
                ("/srv/db".into(), String::new()),
                ("/srv/.snapback".into(), String::new())
            ]
        );
        assert_eq!(read[0].skip, []);
    }

    #[test]
    fn keys_stay_behind_unless_asked_for() {
        let trees = [tree("/db", RootRole::Datadir, None)];
        let key = WrittenPath {
            role: PathRole::Secret,
            path: "/db/server-key.pem".into(),
            needed: false,
            named: None,
        };
        let mut config = Config::default();
        assert_eq!(
            readable(&trees, &[], &config, std::slice::from_ref(&key), &[])[0]
                .skip
                .len(),
            1
        );
        config.include_secrets = true;
        assert!(readable(&trees, &[], &config, &[key], &[])[0].skip.is_empty());
    }
}
