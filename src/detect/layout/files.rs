//! Trees beside the database: from the server's snapshot where they are on it, with one of their own, or live.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{Gap, Host, Layout, PlacedFile, add_findings};
use crate::detect::Error;
use crate::finding::Finding;
use crate::volume::Located;

/// Filesystems of the kernel's own, or of this boot only: what is below them is no data.
const PSEUDO: &[&str] = &[
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nsfs",
    "overlay",
    "proc",
    "pstore",
    "ramfs",
    "rpc_pipefs",
    "securityfs",
    "squashfs",
    "sysfs",
    "tmpfs",
    "tracefs",
];

/// Places every tree, outer ones first.
pub fn place(host: &Host<'_>, files: &[PathBuf], layout: &mut Layout) {
    let mut roots = Vec::new();
    for named in files {
        match std::fs::canonicalize(named) {
            Ok(path) => roots.push((named.clone(), path)),
            Err(error) => layout.findings.push(
                Finding::warning(
                    "missing-files",
                    format!("{} is not in the backup: {error}", named.display()),
                )
                .remedy("take it out of `files:` when it is gone for good"),
            ),
        }
    }
    roots.sort_by(|one, two| one.1.cmp(&two.1));
    let database: Vec<PathBuf> = layout.database_trees().iter().map(|tree| tree.path.clone()).collect();
    let mut seen = BTreeSet::new();
    for (named, path) in roots {
        let alias = host.locate(&path).ok().and_then(|(_, located)| alias(layout, &located));
        if let Some(outer) = covering(layout, &database, &path).or(alias) {
            layout.findings.push(Finding::note(
                "covered",
                format!(
                    "{} is in the backup already, as a part of {}",
                    named.display(),
                    outer.display()
                ),
            ));
            continue;
        }
        place_tree(host, named, path, &database, &mut seen, layout);
    }
}

/// Takes files at the server's instant where that costs nothing (datasets of the same ZFS pool).
pub fn join(host: &Host<'_>, layout: &mut Layout) {
    for index in layout.own_volumes() {
        let Some(volume) = layout.volumes.get(index).cloned() else {
            continue;
        };
        if layout.instant.join(host.providers, &volume) {
            let of_it = layout.files.iter_mut().filter(|file| file.volume == Some(index));
            of_it.for_each(|file| file.own = false);
        }
    }
}

/// The tree that a path is copied with already: the innermost one around it, unless it is skipped there.
fn covering(layout: &Layout, database: &[PathBuf], path: &Path) -> Option<PathBuf> {
    let in_database = database.iter().find(|tree| path.starts_with(tree)).cloned();
    in_database.or_else(|| {
        let around = layout.files.iter().filter(|file| path.starts_with(&file.path));
        let innermost = around.max_by_key(|file| file.path.components().count())?;
        let skipped = innermost.skip.iter().any(|skip| path.starts_with(skip));
        (!skipped).then(|| innermost.path.clone())
    })
}

/// The database's tree that a path lies in by its place on the volume: another mount may show the same directory elsewhere.
fn alias(layout: &Layout, located: &Located) -> Option<PathBuf> {
    let of_it = same_volume(layout, located);
    let around = of_it.filter(|tree| located.inside.starts_with(&tree.relative));
    around.map(|tree| tree.path.clone()).next()
}

/// Where the database's trees appear in a tree that another mount shows: they go with the database.
fn aliases(layout: &Layout, path: &Path, located: &Located) -> Vec<PathBuf> {
    let of_it = same_volume(layout, located);
    let below = of_it.filter_map(|tree| Some(path.join(tree.relative.strip_prefix(&located.inside).ok()?)));
    below.filter(|at| at != path).collect()
}

fn same_volume<'l>(layout: &'l Layout, located: &'l Located) -> impl Iterator<Item = &'l super::Placed> {
    let trees = layout.database_trees().into_iter();
    trees.filter(|tree| {
        let volume = layout.volumes.get(tree.volume);
        volume.is_some_and(|volume| (volume.provider, &volume.id) == (located.volume.provider, &located.volume.id))
    })
}

fn place_tree(
    host: &Host<'_>,
    named: PathBuf,
    path: PathBuf,
    database: &[PathBuf],
    seen: &mut BTreeSet<PathBuf>,
    layout: &mut Layout,
) {
    let mut open = vec![(named, path)];
    while let Some((named, path)) = open.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        let (located, gaps) = examine(host, &path, layout);
        let mut skip: Vec<PathBuf> = database
            .iter()
            .filter(|tree| tree.starts_with(&path))
            .cloned()
            .collect();
        for at in located.iter().flat_map(|located| aliases(layout, &path, located)) {
            if !skip.contains(&at) {
                skip.push(at);
            }
        }
        for gap in gaps {
            let at = gap.at().to_owned();
            if skip.iter().any(|one| at.starts_with(one)) {
                continue;
            }
            let (finding, follow) = judge(&gap, located.is_some());
            add_findings(&mut layout.findings, [finding]);
            if follow {
                open.push((at.clone(), at.clone()));
            }
            skip.push(at);
        }
        let file = placed(named, path, located, skip, layout);
        layout.files.push(file);
    }
}

/// The volume of a tree, if it has one that can be snapshotted, and what is not in its snapshot.
fn examine(host: &Host<'_>, path: &Path, layout: &mut Layout) -> (Option<Located>, Vec<Gap>) {
    let examined = host.locate(path).and_then(|(provider, located)| {
        let (gaps, findings) = host.gaps(provider, &located, path)?;
        Ok((located, gaps, findings))
    });
    match examined {
        Ok((located, gaps, findings)) => {
            add_findings(&mut layout.findings, findings);
            (Some(located), gaps)
        }
        Err(error) => {
            add_findings(&mut layout.findings, [live(path, &error)]);
            let mounted = host.mounts.below(path).into_iter().map(|mount| Gap::Mounted {
                at: mount.mount_point.clone(),
                fs_type: mount.fs_type.clone(),
            });
            (None, mounted.collect())
        }
    }
}

fn live(path: &Path, error: &Error) -> Finding {
    let message = match error {
        Error::Unsupported { fs_type, .. } => {
            format!(
                "{} is on {fs_type}: it is copied from the live filesystem, file by file",
                path.display()
            )
        }
        error => format!(
            "{} is copied from the live filesystem, file by file: {error}",
            path.display()
        ),
    };
    Finding::note("copied-live", message)
}

/// What to say of a gap, and whether it becomes a tree of its own.
fn judge(gap: &Gap, snapshotted: bool) -> (Finding, bool) {
    match gap {
        Gap::Mounted { fs_type, .. } if PSEUDO.contains(&fs_type.as_str()) => {
            let message = format!("{} is not in the backup", gap.describe());
            (Finding::note("left-out", message), false)
        }
        gap if snapshotted => {
            let message = format!(
                "{} is not in the snapshot around it: it is taken on its own",
                gap.describe()
            );
            (Finding::note("taken-on-its-own", message), true)
        }
        gap => (
            Finding::note("taken-on-its-own", format!("{} is taken on its own", gap.describe())),
            true,
        ),
    }
}

fn placed(
    named: PathBuf,
    path: PathBuf,
    located: Option<Located>,
    mut skip: Vec<PathBuf>,
    layout: &mut Layout,
) -> PlacedFile {
    skip.sort();
    let Some(located) = located else {
        return PlacedFile {
            named,
            path,
            volume: None,
            relative: PathBuf::new(),
            own: false,
            skip,
        };
    };
    let volume = layout.volume_index(located.volume);
    PlacedFile {
        named,
        path,
        volume: Some(volume),
        relative: located.inside,
        own: !layout.database_volumes().contains(&volume),
        skip,
    }
}
