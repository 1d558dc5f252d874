//! The caller's thread: puts the workers' answers back into table order and writes the file table.

use std::collections::HashMap;

use crossbeam_channel::Receiver;

use super::live::Live;
use super::notes::Notes;
use super::unreadable;
use super::walk::{Item, Reply, too_large_finding, vanished};
use super::{Error, Result, Tree};
use crate::finding::Finding;
use crate::monitor::Monitor;
use crate::record::CopyFigures;
use crate::repository::{Content, Entry, EntryKind, SectionRef, TableWriter};

/// What was put into the table.
#[derive(Default)]
pub(super) struct Collected {
    pub figures: CopyFigures,
    /// Live files that vanished, and files that could not be read (why): a further name of one cannot refer to it.
    gone: HashMap<(u32, Vec<u8>), Option<String>>,
}

/// Writes the table until the walk ends.
pub(super) fn collect(
    items: &Receiver<Item>,
    trees: &[Tree],
    mut table: TableWriter<'_>,
    notes: &Notes<'_>,
    monitor: &dyn Monitor,
) -> Result<Collected> {
    let mut collected = Collected::default();
    for item in items {
        let entry = match item {
            Item::Entry(entry) => Some(entry),
            Item::File { entry, replies } => complete(entry, &replies, trees, notes, &mut collected)?,
        };
        let Some(entry) = entry else { continue };
        if let EntryKind::HardLink(first) = &entry.kind
            && let Some(unreadable) = collected.gone.get(&(entry.root, first.clone()))
        {
            let path = original(trees, &entry);
            match unreadable {
                Some(reason) => leave_out(notes, path, reason),
                None => notes.find(vanished(&path)),
            }
            continue;
        }
        table.push(&entry)?;
        collected.figures.files += 1;
        if let EntryKind::File(content) = &entry.kind {
            collected.figures.bytes_total = collected.figures.bytes_total.saturating_add(content.size);
        }
        monitor.advance(0, 1);
    }
    table.finish()?;
    Ok(collected)
}

/// The entry with its content; `None` when the file vanished.
fn complete(
    mut entry: Entry,
    replies: &Receiver<Reply>,
    trees: &[Tree],
    notes: &Notes<'_>,
    collected: &mut Collected,
) -> Result<Option<Entry>> {
    let EntryKind::File(mut content) = entry.kind else {
        return Ok(Some(entry));
    };
    let answer = match entry.live {
        false => fill(&mut content, replies)?.map_or(Answer::Filled, Answer::Unreadable),
        true => match replies.recv() {
            Ok(Reply::Live(copied)) => Answer::Live(copied),
            Ok(Reply::Unreadable { reason, .. }) => Answer::Unreadable(reason),
            // A worker that failed has dropped its end; why, is told elsewhere.
            _ => return Err(Error::Interrupted(0)),
        },
    };
    let copied = match answer {
        Answer::Live(copied) => copied,
        Answer::Filled => {
            entry.kind = EntryKind::File(content);
            return Ok(Some(entry));
        }
        Answer::Unreadable(reason) => {
            let path = original_of(trees, entry.root, &entry.path);
            leave_out(notes, path, &reason);
            collected.gone.insert((entry.root, entry.path), Some(reason));
            return Ok(None);
        }
    };
    entry.kind = EntryKind::File(content);
    let path = original(trees, &entry);
    let missing = match &copied {
        Live::Copied(_) => None,
        Live::Vanished => Some(vanished(&path)),
        Live::TooLarge(reason) => Some(too_large_finding(&path, reason)),
    };
    let (Live::Copied(copied), None) = (copied, &missing) else {
        missing.into_iter().for_each(|finding| notes.find(finding));
        collected.gone.insert((entry.root, entry.path), None);
        return Ok(None);
    };
    if copied.torn {
        let message = format!(
            "{} changed each time that it was copied: its content may be of several moments",
            path.display()
        );
        notes.find(
            Finding::warning("torn", message).remedy("put it on a volume that can be snapshotted, or exclude it"),
        );
    }
    entry.torn = copied.torn;
    entry.metadata.mtime_ns = copied.mtime_ns;
    entry.kind = EntryKind::File(copied.content);
    Ok(Some(entry))
}

/// How a file's content came.
enum Answer {
    Filled,
    Live(Live),
    Unreadable(String),
}

fn leave_out(notes: &Notes<'_>, path: std::path::PathBuf, reason: &str) {
    notes.find(unreadable::left_out(&path, reason));
    // One reason for all: the list is bounded by reason.
    notes.leave_out(path, "cannot be read");
}

/// Waits for every section; the answer is why the file could not be read, if it could not.
fn fill(content: &mut Content, replies: &Receiver<Reply>) -> Result<Option<String>> {
    let count = content.size.div_ceil(crate::repository::SECTION_BYTES) as usize;
    let mut sections: Vec<Option<SectionRef>> = vec![None; count];
    let mut left = count;
    let mut unreadable: Option<String> = None;
    while left > 0 {
        match replies.recv() {
            Ok(Reply::Section { index, section, sparse }) => {
                content.sparse |= sparse;
                sections[index] = Some(section);
                left -= 1;
            }
            Ok(Reply::Holes { from, to }) => {
                content.sparse = true;
                for (index, section) in sections.iter_mut().enumerate().take(to).skip(from) {
                    *section = Some(SectionRef::hole(content.section_chunks(index)));
                }
                left = left.saturating_sub(to - from);
            }
            // The others are waited for: who sends them must not find the end closed.
            Ok(Reply::Unreadable { from, to, reason }) => {
                let known = unreadable.take().filter(|known| !known.is_empty());
                unreadable = known.or(Some(reason));
                left = left.saturating_sub(to - from);
            }
            // A worker that failed has dropped its end; why, is told elsewhere.
            _ => return Err(Error::Interrupted(0)),
        }
    }
    content.sections = sections.into_iter().flatten().collect();
    Ok(unreadable)
}

fn original(trees: &[Tree], entry: &Entry) -> std::path::PathBuf {
    original_of(trees, entry.root, &entry.path)
}

fn original_of(trees: &[Tree], root: u32, path: &[u8]) -> std::path::PathBuf {
    use std::os::unix::ffi::OsStrExt;
    let base = trees
        .get(root as usize)
        .map(|tree| tree.original.clone())
        .unwrap_or_default();
    if path.is_empty() {
        base
    } else {
        base.join(std::ffi::OsStr::from_bytes(path))
    }
}
