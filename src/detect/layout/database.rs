//! The server's paths: all of them on volumes that one provider takes at one instant, or a blocker that names them.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{Gap, Host, Layout, Placed, add_findings};
use crate::database::{PathRole, WrittenPath};
use crate::detect::Error;
use crate::finding::Finding;
use crate::volume::Volume;
use crate::volume::barrier::{self, Arrangement};

/// Places every path that the server needs, then asks whether one instant covers them all.
pub fn place(host: &Host<'_>, paths: &[WrittenPath], layout: &mut Layout) {
    let left_out = temporary(paths);
    for written in paths.iter().filter(|path| path.needed) {
        match std::fs::canonicalize(&written.path) {
            Ok(path) => place_one(host, written.role, path, &left_out, layout),
            Err(error) => add_findings(&mut layout.findings, [missing(written, &error)]),
        }
    }
    let findings = one_instant(host, layout);
    add_findings(&mut layout.findings, findings);
}

/// The directories of temporary files that hold nothing else of the server's. A relay log or a directory that the server only knows is no reason to
/// pass over what lies below it: it may be the datadir itself.
fn temporary(paths: &[WrittenPath]) -> Vec<&Path> {
    let holds_more = |one: &Path| paths.iter().any(|path| path.needed && path.path.starts_with(one));
    paths
        .iter()
        .filter(|path| path.role == PathRole::Temporary && !path.needed && !holds_more(&path.path))
        .map(|path| path.path.as_path())
        .collect()
}

fn place_one(host: &Host<'_>, role: PathRole, path: PathBuf, left_out: &[&Path], layout: &mut Layout) {
    let mut open = vec![path];
    let mut seen = BTreeSet::new();
    while let Some(path) = open.pop().filter(|path| seen.insert(path.clone())) {
        let placed = host.locate(&path).and_then(|(provider, located)| {
            let (gaps, findings) = host.gaps(provider, &located, &path)?;
            Ok((located, gaps, findings))
        });
        match placed {
            Ok((located, gaps, findings)) => {
                add_findings(&mut layout.findings, findings);
                for gap in gaps {
                    match ignorable(&path, &gap, left_out) {
                        Some(note) => add_findings(&mut layout.findings, [note]),
                        None => open.push(gap.at().to_owned()),
                    }
                }
                let volume = layout.volume_index(located.volume);
                let relative = located.inside;
                layout.placed.push(Placed {
                    path,
                    role,
                    volume,
                    relative,
                });
            }
            Err(error) => add_findings(&mut layout.findings, [unplaced(&error)]),
        }
    }
}

/// A gap that holds nothing which the server needs: below a directory of temporary files, or below
/// a name with a leading dot, which no database directory has (MySQL writes a dot as `@002e`).
fn ignorable(path: &Path, gap: &Gap, left_out: &[&Path]) -> Option<Finding> {
    let at = gap.at();
    let temporary = left_out.iter().any(|one| at.starts_with(one));
    let below = at.strip_prefix(path).unwrap_or(at);
    let dotted = below
        .components()
        .any(|name| name.as_os_str().as_encoded_bytes().starts_with(b"."));
    (temporary || dotted).then(|| {
        Finding::note(
            "left-out",
            format!(
                "{} holds nothing that the server needs; it is not in the backup",
                gap.describe()
            ),
        )
    })
}

fn missing(written: &WrittenPath, error: &std::io::Error) -> Finding {
    let named = written
        .named
        .clone()
        .unwrap_or_else(|| written.path.display().to_string());
    let message = format!(
        "{named} ({}), which the server writes, cannot be found on this host: {error}",
        role(written.role)
    );
    // The server itself starts without these.
    let optional = matches!(written.role, PathRole::InnodbDirectory | PathRole::External);
    match error.kind() {
        ErrorKind::NotFound if optional => Finding::warning("missing-path", message),
        _ => Finding::blocker("missing-path", message)
            .remedy("run snapback as root on the host (and in the mount namespace) in which the server runs"),
    }
}

fn unplaced(error: &Error) -> Finding {
    match error {
        Error::Unsupported { .. } => Finding::blocker("unsupported-storage", error.to_string())
            .remedy("move what the server writes there to storage that can be snapshotted (LVM, ZFS, Btrfs), best together with its datadir"),
        _ => Finding::blocker("unreachable-storage", error.to_string()),
    }
}

/// What the server needs must be taken at one instant; anything else can boot cleanly and still have lost rows.
fn one_instant(host: &Host<'_>, layout: &mut Layout) -> Option<Finding> {
    let indices = layout.database_volumes();
    let volumes: Vec<_> = indices.iter().map(|index| layout.volumes[*index].clone()).collect();
    let reason = match barrier::arrange(host.providers, &volumes, host.written) {
        Ok(arrangement) => {
            layout.instant = arrangement;
            return frozen_note(&layout.instant);
        }
        Err(reason) => reason,
    };
    let on = |index: usize| {
        let of_it = layout.placed.iter().filter(|placed| placed.volume == index);
        let paths: Vec<String> = of_it
            .map(|placed| format!("{} ({})", placed.path.display(), role(placed.role)))
            .collect();
        format!("{} on {}", paths.join(", "), layout.volumes[index].source)
    };
    let list: Vec<String> = indices.into_iter().map(on).collect();
    Some(
        Finding::blocker(
            "several-volumes",
            format!(
                "what the server writes lies on {} volumes, which cannot be snapshotted at one instant, so that the copy \
                 could miss rows without any sign of it: {} ({reason})",
                list.len(),
                list.join("; "),
            ),
        )
        .remedy(remedy(layout)),
    )
}

fn frozen_note(instant: &Arrangement) -> Option<Finding> {
    let (anchor, frozen) = instant.sets.split_first()?;
    let names = |volumes: &mut dyn Iterator<Item = &Volume>| {
        let names: Vec<&str> = volumes.map(|volume| volume.source.as_str()).collect();
        names.join(", ")
    };
    (!frozen.is_empty()).then(|| {
        Finding::note(
            "barrier",
            format!(
                "{} will be frozen while the snapshot of {} is taken, so that they agree; the server waits that long, also with lockless",
                names(&mut frozen.iter().flatten()),
                names(&mut anchor.iter()),
            ),
        )
    })
}

fn remedy(layout: &Layout) -> String {
    let home = layout.placed.iter().find(|placed| placed.role == PathRole::Datadir);
    let home_volume = home.or(layout.placed.first()).map(|placed| placed.volume);
    let strays = layout.placed.iter().filter(|placed| Some(placed.volume) != home_volume);
    let steps: Vec<String> = strays
        .map(|stray| {
            let path = stray.path.display();
            match home {
                // A volume inside the datadir: the same name can be a plain directory.
                Some(home) if stray.path.starts_with(&home.path) => format!(
                    "mv {path} {path}.old && cp -a --reflink=auto {path}.old {path} && check, then remove {path}.old \
                     (`btrfs subvolume delete` when it is a subvolume, unmounted before when it is a mount)",
                ),
                _ => format!("move {path} into a directory on the datadir's volume and point the server there"),
            }
        })
        .collect();
    format!(
        "bring all of it onto one volume: stop the server; {}; start it again",
        steps.join("; ")
    )
}

fn role(role: PathRole) -> &'static str {
    match role {
        PathRole::Datadir => "datadir",
        PathRole::SystemTablespace => "system tablespace",
        PathRole::Redo => "redo log",
        PathRole::Undo => "undo tablespaces",
        PathRole::Doublewrite => "doublewrite files",
        PathRole::BinaryLog => "binary log",
        PathRole::RelayLog => "relay log",
        PathRole::AriaLog => "Aria log",
        PathRole::External => "table or database outside the datadir",
        PathRole::InnodbDirectory => "innodb_directories",
        PathRole::Temporary => "temporary files",
        PathRole::Log => "log",
        PathRole::Secret => "keys",
    }
}
