//! What in a copy leads to where everything was: log indexes (trap 19), symlinks, `.isl` files. A server that starts on it beside the old one
//! would open, write or purge that one's files.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::Destination;
use super::pieces::{Piece, Survey, in_space};
use super::workspace::Workspace;
use crate::copy::notes::Notes;
use crate::database::mysql::place::{Place, Turn};
use crate::finding::Finding;
use crate::record::Record;
use crate::sys;
use crate::{Error, Result};

/// The largest text that is rewritten, in bytes.
const LARGEST: u64 = 16 << 20;

/// The server's trees: where each was, and where it goes.
pub(super) fn trees(pieces: &[Piece]) -> Vec<(PathBuf, PathBuf)> {
    let database = pieces.iter().filter(|piece| piece.database);
    database
        .map(|piece| (piece.original.clone(), piece.destination.clone()))
        .collect()
}

/// The copy, where a server is to start on it at another place.
pub(super) fn copy<'p>(
    record: &'p Record,
    destination: &Destination,
    pieces: &'p [Piece],
    trees: &'p [(PathBuf, PathBuf)],
) -> Option<Place<'p>> {
    let Destination::Datadir(_) = destination else {
        return None;
    };
    Some(Place {
        facts: record.server.as_ref()?,
        paths: &record.paths,
        datadir: &pieces.iter().find(|piece| piece.datadir)?.destination,
        trees,
    })
}

/// What a symlink that was at `original` has to hold.
pub(super) fn target(copy: Option<&Place<'_>>, original: &Path, target: Vec<u8>, notes: &Notes<'_>) -> Vec<u8> {
    let new = copy.and_then(|copy| turned(copy, original, Path::new(std::ffi::OsStr::from_bytes(&target)), notes));
    new.map_or(target, |new| new.into_os_string().into_vec())
}

fn turned(copy: &Place<'_>, original: &Path, target: &Path, notes: &Notes<'_>) -> Option<PathBuf> {
    match copy.turn(original, target) {
        Turn::Stay => None,
        Turn::To(new) => Some(new),
        Turn::Out(live) => {
            let message = format!(
                "{} leads to {}, which is not in this backup: a server on the copy would open what is there",
                original.display(),
                live.display()
            );
            let remedy = "remove the link from the copy, or make it lead to a copy of what it led to";
            notes.find(Finding::warning("link-leads-out", message).remedy(remedy));
            None
        }
    }
}

/// Rewrites the log indexes and `.isl` files of a copy.
///
/// # Errors
/// One of them cannot be written.
pub(super) fn rewrite(
    copy: &Place<'_>,
    record: &Record,
    pieces: &[Piece],
    survey: &Survey,
    spaces: &[Workspace],
    notes: &Notes<'_>,
) -> Result<()> {
    for (index, rest) in &survey.links {
        let piece = &pieces[*index];
        let Some(space) = spaces.iter().find(|space| space.destination() == piece.space) else {
            continue;
        };
        let inside = space.inside(&in_space(piece, rest));
        let original = piece.original.join(std::ffi::OsStr::from_bytes(rest));
        // Its content may be lost: then it has another name.
        if let Some((file, text)) = read(space, &inside)?
            && let Some(new) = turned(copy, &original, Path::new(text.trim()), notes)
        {
            replace(space, &inside, file, &new.display().to_string())?;
        }
    }
    for (variable, wanted) in [
        ("log_bin_index", copy.facts.log_bin),
        ("relay_log_index", !record.replica.is_empty()),
    ] {
        let Some(index) = copy.facts.variables.get(variable).filter(|value| !value.is_empty()) else {
            continue;
        };
        let live = copy.facts.datadir.join(index);
        if !rewrite_index(copy, &live, spaces, notes)? && wanted {
            let message = format!(
                "the log index {} was not found in the copy, or is no text: what a server on the copy takes for its logs is not known",
                live.display()
            );
            let remedy = "look at it before a server is started: its lines must not name the old server's files";
            notes.find(Finding::warning("log-index", message).remedy(remedy));
        }
    }
    Ok(())
}

/// Whether it is there and names nothing of the old server any more, or says so.
fn rewrite_index(copy: &Place<'_>, live: &Path, spaces: &[Workspace], notes: &Notes<'_>) -> Result<bool> {
    let Some(at) = copy.moved(live) else { return Ok(false) };
    let Some(space) = spaces.iter().find(|space| at.starts_with(space.destination())) else {
        return Ok(false);
    };
    let inside = space.inside(at.strip_prefix(space.destination()).unwrap_or(&at));
    let Some((file, text)) = read(space, &inside)? else {
        return Ok(false);
    };
    let line = |line: &str| {
        relocated(copy, line).unwrap_or_else(|| {
            let message = format!(
                "{} names {line}, which is not in this backup: a server on the copy would open it",
                live.display()
            );
            notes.find(Finding::warning("log-index", message).remedy("take the line out of the copy's index"));
            line.to_owned()
        }) + "\n"
    };
    let new: String = text.lines().map(line).collect();
    if new != text {
        replace(space, &inside, file, &new)?;
    }
    Ok(true)
}

/// A relative name means the datadir, and still does. `None`: it is not in the copy.
fn relocated(copy: &Place<'_>, line: &str) -> Option<String> {
    let path = Path::new(line);
    if !path.is_absolute() {
        return Some(line.to_owned());
    }
    let moved = copy.moved(path)?;
    Some(match moved.strip_prefix(copy.datadir) {
        Ok(below) => format!("./{}", below.display()),
        Err(_) => moved.display().to_string(),
    })
}

fn read(space: &Workspace, inside: &Path) -> Result<Option<(File, String)>> {
    if !space.beneath().exists(inside)? {
        return Ok(None);
    }
    let file = space.beneath().open_file(inside)?;
    let mut text = String::new();
    let fits = file.metadata().is_ok_and(|found| found.len() <= LARGEST);
    Ok((fits && (&file).take(LARGEST).read_to_string(&mut text).is_ok()).then_some((file, text)))
}

fn replace(space: &Workspace, inside: &Path, mut file: File, text: &str) -> Result<()> {
    let fail = |error| Error::Sys(sys::Error::path("rewrite", space.path().join(inside), error));
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(text.as_bytes()))
        .and_then(|()| file.sync_all())
        .map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::mysql::scratch::tests::facts;
    use crate::database::{Flavour, PathRole, WrittenPath};

    #[test]
    fn an_index_line_follows_the_log() {
        let facts = facts(Flavour::MariaDb);
        let trees = [
            ("/live".into(), "/new".into()),
            ("/logs".into(), "/new.external/logs".into()),
        ];
        let paths = [WrittenPath {
            role: PathRole::BinaryLog,
            path: "/live".into(),
            needed: true,
            named: Some("/var/lib/mysql/bin".to_owned()),
        }];
        let copy = Place {
            facts: &facts,
            paths: &paths,
            datadir: Path::new("/new"),
            trees: &trees,
        };
        let line = |line: &str| relocated(&copy, line);
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(line("./bin.000001"), some("./bin.000001"));
        assert_eq!(line("/live/bin.000001"), some("./bin.000001"));
        assert_eq!(line("/var/lib/mysql/bin.000001"), some("./bin.000001"));
        assert_eq!(line("/logs/bin.000001"), some("/new.external/logs/bin.000001"));
        assert_eq!(line("/elsewhere/bin.000001"), None);
    }
}
