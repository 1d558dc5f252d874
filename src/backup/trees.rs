//! Which trees a backup consists of: the datadir, the server's other paths, the configured files; each on its volume or live.

use std::path::{Path, PathBuf};

use super::examine::Examined;
use crate::config::Config;
use crate::copy::Tree;
use crate::database::{PathRole, WrittenPath};
use crate::record::{RootRecord, RootSource};
use crate::record::RootRole;

/// A tree before its snapshot exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlannedTree {
    /// As it will stand in the record.
    pub record: RootRecord,
    /// Index into the layout's volumes, unless it is read live.
    pub volume: Option<usize>,
    /// Its path below the volume's top.
    pub relative: PathBuf,
}

/// The trees' records alone, for `check`.
pub(crate) fn records(config: &Config, examined: &Examined) -> Vec<RootRecord> {
    plan(config, examined).into_iter().map(|tree| tree.record).collect()
}

/// The trees in the order in which they are stored: the datadir, the server's other paths, files.
pub(crate) fn plan(config: &Config, examined: &Examined) -> Vec<PlannedTree> {
    let mut trees: Vec<PlannedTree> = Vec::new();
    for placed in &examined.layout.placed {
        let wanted = placed.needed || (placed.role == PathRole::Secret && config.include_secrets);
        if !wanted {
            continue;
        }
        let role = if placed.role == PathRole::Datadir { RootRole::Datadir } else { RootRole::Database };
        let source = if placed.volume.is_some() { RootSource::Snapshot } else { RootSource::Live };
        let record = RootRecord { path: placed.path.clone(), role, source };
        trees.push(PlannedTree { record, volume: placed.volume, relative: placed.relative.clone() });
    }
    // The datadir first: whatever lies inside it is part of it.
    trees.sort_by_key(|tree| (tree.record.role != RootRole::Datadir, tree.record.path.clone()));
    for file in &examined.layout.files {
        let source = match (file.volume, file.own) {
            (None, _) => RootSource::Live,
            (Some(_), true) => RootSource::OwnSnapshot,
            (Some(_), false) => RootSource::Snapshot,
        };
        let record = RootRecord { path: file.path.clone(), role: RootRole::Files, source };
        trees.push(PlannedTree { record, volume: file.volume, relative: file.relative.clone() });
    }
    without_contained(trees)
}

/// Drops every tree that another one contains and that is read from the same place.
fn without_contained(trees: Vec<PlannedTree>) -> Vec<PlannedTree> {
    let mut kept: Vec<PlannedTree> = Vec::new();
    for (at, tree) in trees.iter().enumerate() {
        let contains = |other: &PlannedTree| tree.record.path.starts_with(&other.record.path) && other.volume == tree.volume;
        let before = kept.iter().any(contains);
        let later = trees[at + 1..].iter().any(|other| contains(other) && other.record.path != tree.record.path);
        // A datadir below a files root stays a tree of its own: restores ask for it by role.
        if !before && (!later || tree.record.role == RootRole::Datadir) {
            kept.push(tree.clone());
        }
    }
    kept
}

/// The trees to copy, once the volumes' snapshots are readable at `tops` (one per layout volume, `None`: not snapshotted).
pub(crate) fn readable(planned: &[PlannedTree], tops: &[Option<PathBuf>], config: &Config, paths: &[WrittenPath]) -> Vec<Tree> {
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
            skip: skips(tree, planned, config, paths),
        })
        .collect()
}

fn skips(tree: &PlannedTree, planned: &[PlannedTree], config: &Config, paths: &[WrittenPath]) -> Vec<(PathBuf, String)> {
    let inside = |path: &Path| path.starts_with(&tree.record.path) && path != tree.record.path;
    let others = planned.iter().filter(|other| inside(&other.record.path)).map(|other| (other.record.path.clone(), String::new()));
    let excluded = config.exclude.iter().filter(|path| inside(path)).map(|path| (path.clone(), "excluded by the configuration".to_owned()));
    let left_out = paths.iter().filter(|written| inside(&written.path)).filter_map(|written| match written.role {
        PathRole::Temporary => Some((written.path.clone(), "temporary files of the server".to_owned())),
        PathRole::Secret if !config.include_secrets => {
            Some((written.path.clone(), "a key of the server: set `include_secrets: true` to copy it".to_owned()))
        }
        _ => None,
    });
    others.chain(excluded).chain(left_out).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(path: &str, role: RootRole, volume: Option<usize>) -> PlannedTree {
        let source = if volume.is_some() { RootSource::Snapshot } else { RootSource::Live };
        PlannedTree { record: RootRecord { path: path.into(), role, source }, volume, relative: PathBuf::new() }
    }

    #[test]
    fn a_path_inside_the_datadir_is_part_of_it() {
        let trees = vec![
            tree("/db", RootRole::Datadir, Some(0)),
            tree("/db/undo", RootRole::Database, Some(0)),
            tree("/redo", RootRole::Database, Some(0)),
        ];
        let kept: Vec<_> = without_contained(trees).into_iter().map(|tree| tree.record.path).collect();
        assert_eq!(kept, [PathBuf::from("/db"), PathBuf::from("/redo")]);
    }

    #[test]
    fn a_datadir_below_a_files_root_is_copied_once_as_the_datadir() {
        let trees = vec![tree("/srv/db", RootRole::Datadir, Some(0)), tree("/srv", RootRole::Files, Some(0))];
        let kept = without_contained(trees);
        assert_eq!(kept.len(), 2);
        let read = readable(&kept, &[Some("/snap".into())], &Config::default(), &[]);
        assert_eq!(read[1].skip, [(PathBuf::from("/srv/db"), String::new())]);
    }

    #[test]
    fn a_tree_inside_another_on_other_storage_stays() {
        let trees = vec![tree("/www", RootRole::Files, Some(0)), tree("/www/media", RootRole::Files, Some(1))];
        assert_eq!(without_contained(trees).len(), 2);
    }

    #[test]
    fn the_same_root_twice_is_one() {
        let trees = vec![tree("/www", RootRole::Files, None), tree("/www", RootRole::Files, None)];
        assert_eq!(without_contained(trees).len(), 1);
    }

    #[test]
    fn keys_stay_behind_unless_asked_for() {
        let trees = [tree("/db", RootRole::Datadir, None)];
        let key = WrittenPath { role: PathRole::Secret, path: "/db/server-key.pem".into(), needed: false, named: None };
        let mut config = Config::default();
        assert_eq!(readable(&trees, &[], &config, std::slice::from_ref(&key))[0].skip.len(), 1);
        config.include_secrets = true;
        assert!(readable(&trees, &[], &config, &[key])[0].skip.is_empty());
    }
}
