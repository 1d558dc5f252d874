//! Which parts of a backup are restored, and where each goes.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::lost::{Losses, LostTable, REMEDY};
use super::{Destination, Request};
use crate::record::{Record, RootRole};
use crate::repository::{Backup, Entry, EntryKind};
use crate::sys::signal::Cancel;
use crate::{Error, Result};

/// A subtree of a root that is restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// Index of the root.
    pub root: u32,
    /// The part of the root, relative to it; empty for all of it.
    pub below: Vec<u8>,
    /// Its original path.
    pub original: PathBuf,
    /// Where it goes.
    pub destination: PathBuf,
    /// The directory that appears as a whole: `destination` itself, or one above it.
    pub space: PathBuf,
    /// Whether it is the server's.
    pub database: bool,
    /// Whether it is the datadir.
    pub datadir: bool,
}

impl Piece {
    /// Where an entry goes, relative to the piece; `None` when it is not in it.
    pub fn holds<'e>(&self, entry: &'e Entry) -> Option<&'e [u8]> {
        if entry.root != self.root {
            return None;
        }
        let rest = entry.path.strip_prefix(&self.below[..])?;
        match (self.below.is_empty(), rest) {
            (true, rest) | (false, rest @ []) => Some(rest),
            (false, rest) => rest.strip_prefix(b"/"),
        }
    }
}

/// The pieces of a restore, in the roots' order.
///
/// # Errors
/// The request does not fit the backup.
pub(super) fn choose(record: &Record, request: &Request) -> Result<Vec<Piece>> {
    let absolute =
        |path: &Path| std::path::absolute(path).map_err(|error| Error::usage(format!("{}: {error}", path.display())));
    let mut pieces = Vec::new();
    for (root, root_record) in record.roots.iter().enumerate() {
        for below in parts(&root_record.path, &request.include) {
            let original = if below.as_os_str().is_empty() {
                root_record.path.clone()
            } else {
                root_record.path.join(&below)
            };
            pieces.push(Piece {
                root: root as u32,
                below: below.as_os_str().as_bytes().to_vec(),
                destination: original.clone(),
                space: original.clone(),
                original,
                database: root_record.role != RootRole::Files,
                datadir: root_record.role == RootRole::Datadir,
            });
        }
    }
    check_originals(&pieces)?;
    match &request.destination {
        Destination::InPlace => {}
        Destination::Target(target) => {
            let target = absolute(target)?;
            for piece in &mut pieces {
                piece.destination = below(&target, &piece.original);
                piece.space.clone_from(&target);
            }
        }
        Destination::Datadir(datadir) => into_datadir(&mut pieces, &absolute(datadir)?, request)?,
    }
    if pieces.is_empty() {
        return Err(Error::usage(
            "nothing of this backup was chosen: `snapback show` lists its roots",
        ));
    }
    Ok(pieces)
}

/// A record is as hostile as anything else that is stored.
fn check_originals(pieces: &[Piece]) -> Result<()> {
    let plain = |path: &Path| {
        path.is_absolute()
            && path
                .components()
                .all(|part| !matches!(part, std::path::Component::ParentDir))
    };
    match pieces.iter().find(|piece| !plain(&piece.original)) {
        Some(piece) => Err(crate::repository::Error::damaged(
            "the backup's record",
            format!("the root {} is not a plain absolute path", piece.original.display()),
        )
        .into()),
        None => Ok(()),
    }
}

/// The parts of a root that are asked for, relative to it.
fn parts(root: &Path, include: &[PathBuf]) -> Vec<PathBuf> {
    if include.is_empty() || include.iter().any(|wanted| root.starts_with(wanted)) {
        return vec![PathBuf::new()];
    }
    let mut parts: Vec<PathBuf> = include
        .iter()
        .filter_map(|wanted| Some(wanted.strip_prefix(root).ok()?.to_owned()))
        .collect();
    parts.sort();
    parts.dedup_by(|later, earlier| later.starts_with(&*earlier));
    parts
}

/// The datadir becomes `datadir`; what the server kept elsewhere goes beside it, at its original path.
fn into_datadir(pieces: &mut Vec<Piece>, datadir: &Path, request: &Request) -> Result<()> {
    if !request.include.is_empty() {
        return Err(Error::usage(
            "--include does not go with --datadir: a server cannot start on a part; use --target",
        ));
    }
    pieces.retain(|piece| piece.database);
    if !pieces.iter().any(|piece| piece.datadir) {
        return Err(Error::usage("this backup holds no database: use --target"));
    }
    let external = external_of(datadir);
    for piece in pieces {
        if piece.datadir {
            piece.destination = datadir.to_owned();
            piece.space = datadir.to_owned();
        } else {
            piece.destination = below(&external, &piece.original);
            piece.space.clone_from(&external);
        }
    }
    Ok(())
}

/// Where that is.
pub(super) fn external_of(datadir: &Path) -> PathBuf {
    let mut name = datadir.file_name().unwrap_or_default().to_owned();
    name.push(".external");
    datadir.with_file_name(name)
}

/// An absolute path below a directory.
fn below(directory: &Path, absolute: &Path) -> PathBuf {
    directory.join(absolute.strip_prefix("/").unwrap_or(absolute))
}

/// What a look at the file table found, before anything is written.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub entries: u64,
    pub bytes: u64,
    /// Bytes that the restored files will take at most.
    pub allocated: u64,
    /// Pieces whose top is not a directory.
    pub single: HashSet<usize>,
    /// User and group of the datadir.
    pub owner: Option<(u32, u32)>,
    /// The same, by the tree that appears as a whole.
    pub allocated_in: HashMap<PathBuf, u64>,
    /// First names of hard links that are not restored while a further name is, or in another tree: its content is written again.
    pub borrowed: HashSet<(u32, Vec<u8>)>,
    /// Files whose content is a path of the server's (`.isl`), in a copy: the piece, and the path in it.
    pub links: Vec<(usize, Vec<u8>)>,
    /// Parts of the file table that are lost.
    pub tables: Vec<LostTable>,
    /// Entries in them.
    pub lost: u64,
    /// Pieces whose own entry is lost.
    pub topless: Vec<usize>,
}

/// Reads the whole file table: counts, and finds what needs care.
///
/// # Errors
/// The table is damaged (and the restore does not go on over damage), or a piece is not in it.
pub(super) fn survey(
    backup: &Backup,
    record: &Record,
    pieces: &[Piece],
    request: &Request,
    losses: &Losses,
    cancel: &Cancel,
) -> Result<Survey> {
    let mut survey = Survey::default();
    let mut found = vec![false; pieces.len()];
    let copied = matches!(request.destination, Destination::Datadir(_));
    let (mut seen, mut last): (u64, Option<PathBuf>) = (0, None);
    let mut open = 0;
    let mut fetcher = backup.fetcher()?;
    for entry in backup.entries().map_err(nothing_left)? {
        cancel.check()?;
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                let Some((object, reason)) = losses.passes(&error) else {
                    return Err(with_remedy(error).into());
                };
                survey.tables.push(LostTable {
                    object,
                    reason,
                    after: last.clone(),
                    before: None,
                });
                continue;
            }
        };
        seen += 1;
        if losses.keep_going() {
            last = Some(original_of(record, &entry));
            survey.tables[open..]
                .iter_mut()
                .for_each(|lost| lost.before.clone_from(&last));
            open = survey.tables.len();
        }
        let Some((index, rest)) = find(pieces, &entry) else {
            continue;
        };
        if is_dropped(&pieces[index], rest, request) {
            continue;
        }
        survey.entries += 1;
        found[index] |= rest.is_empty();
        if rest.is_empty() && pieces[index].datadir {
            survey.owner = Some((entry.metadata.uid, entry.metadata.gid));
        }
        if rest.is_empty() && entry.kind != EntryKind::Directory {
            survey.single.insert(index);
        }
        match &entry.kind {
            EntryKind::File(content) => {
                survey.bytes = survey.bytes.saturating_add(content.size);
                let allocated = fetcher.occupied(content, cancel)?;
                survey.allocated = survey.allocated.saturating_add(allocated);
                let sum = survey.allocated_in.entry(pieces[index].space.clone()).or_default();
                *sum = sum.saturating_add(allocated);
                if copied && pieces[index].database && rest.ends_with(b".isl") {
                    survey.links.push((index, rest.to_vec()));
                }
            }
            EntryKind::HardLink(first) => {
                // By its path alone: a table of all first names would take memory for every file there is.
                let probe = Entry::probe(entry.root, first.clone());
                let near = find(pieces, &probe).filter(|(at, rest)| !is_dropped(&pieces[*at], rest, request));
                if near.is_none_or(|(at, _)| pieces[at].space != pieces[index].space) {
                    survey.borrowed.insert((entry.root, first.clone()));
                }
            }
            _ => {}
        }
    }
    survey.lost = backup.manifest().sizes.entries.saturating_sub(seen);
    survey.topless = (0..pieces.len()).filter(|index| !found[*index]).collect();
    if let Some(lost) = survey.tables.first().filter(|_| survey.entries == 0) {
        let reason = format!(
            "{}; all that is known of what was asked for was in it: nothing of it can be restored",
            lost.reason
        );
        return Err(crate::repository::Error::damaged(&lost.object, reason).into());
    }
    match survey.topless.first() {
        Some(missing) if survey.tables.is_empty() => Err(Error::usage(format!(
            "{} is not in this backup",
            pieces[*missing].original.display()
        ))),
        _ => Ok(survey),
    }
}

/// A damaged part of the table.
fn with_remedy(error: crate::repository::Error) -> crate::repository::Error {
    match error {
        crate::repository::Error::Damaged { object, reason } => {
            crate::repository::Error::damaged(object, format!("{reason}; {REMEDY}"))
        }
        other => other,
    }
}

/// Without the file table's index nobody knows what there was.
fn nothing_left(error: crate::repository::Error) -> crate::repository::Error {
    let (object, reason) = error.object_and_reason();
    match error.kind() {
        crate::error::Kind::Damaged => crate::repository::Error::damaged(
            object,
            format!(
                "{reason}; it is the root of this backup: without it nothing of it can be restored. Other backups may be whole: \
                 `snapback verify --all`"
            ),
        ),
        _ => error,
    }
}

fn original_of(record: &Record, entry: &Entry) -> PathBuf {
    let root = record.roots.get(entry.root as usize).map(|root| root.path.clone());
    let path = Path::new(OsStr::from_bytes(&entry.path));
    match root {
        Some(root) if entry.path.is_empty() => root,
        root => root.unwrap_or_default().join(path),
    }
}

/// The piece that holds an entry, and the entry's path in it.
pub(super) fn find<'e>(pieces: &[Piece], entry: &'e Entry) -> Option<(usize, &'e [u8])> {
    pieces
        .iter()
        .enumerate()
        .find_map(|(index, piece)| Some((index, piece.holds(entry)?)))
}

/// MySQL's `auto.cnf` names the server: a copy that lives beside its origin needs a name of its own (trap 35).
pub(super) fn is_dropped(piece: &Piece, rest: &[u8], request: &Request) -> bool {
    let another = request.new_uuid || matches!(request.destination, Destination::Datadir(_));
    piece.datadir && rest == b"auto.cnf" && !request.keep_uuid && another
}

/// Where a piece's entry goes in its workspace.
pub(super) fn in_space(piece: &Piece, rest: &[u8]) -> PathBuf {
    let top = piece.destination.strip_prefix(&piece.space).unwrap_or(Path::new(""));
    if rest.is_empty() {
        top.to_owned()
    } else {
        top.join(OsStr::from_bytes(rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_root_are_those_asked_for() {
        let parts = |include: &[&str]| {
            parts(
                Path::new("/srv/www"),
                &include.iter().map(PathBuf::from).collect::<Vec<_>>(),
            )
        };
        assert_eq!(parts(&[]), [PathBuf::new()]);
        assert_eq!(parts(&["/srv"]), [PathBuf::new()]);
        assert_eq!(parts(&["/srv/www/a", "/srv/www/a/b", "/etc"]), [PathBuf::from("a")]);
        assert!(parts(&["/srv/wwwx"]).is_empty());
    }
}
