//! The caller's thread: puts the workers' answers back into table order and writes the file table.

use std::collections::HashSet;

use crossbeam_channel::Receiver;

use super::live::Live;
use super::notes::Notes;
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
    /// Live files that vanished: a further name of one cannot refer to it.
    gone: HashSet<(u32, Vec<u8>)>,
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
            && collected.gone.contains(&(entry.root, first.clone()))
        {
            notes.find(vanished(&original(trees, &entry)));
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
    if !entry.live {
        fill(&mut content, replies)?;
        entry.kind = EntryKind::File(content);
        return Ok(Some(entry));
    }
    let Ok(Reply::Live(copied)) = replies.recv() else {
        return Err(Error::Interrupted(0));
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
        collected.gone.insert((entry.root, entry.path));
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

fn fill(content: &mut Content, replies: &Receiver<Reply>) -> Result<()> {
    let count = content.size.div_ceil(crate::repository::SECTION_BYTES) as usize;
    let mut sections: Vec<Option<SectionRef>> = vec![None; count];
    let mut left = count;
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
            // A worker that failed has dropped its end; why, is told elsewhere.
            _ => return Err(Error::Interrupted(0)),
        }
    }
    content.sections = sections.into_iter().flatten().collect();
    Ok(())
}

fn original(trees: &[Tree], entry: &Entry) -> std::path::PathBuf {
    use std::os::unix::ffi::OsStrExt;
    let base = trees
        .get(entry.root as usize)
        .map(|tree| tree.original.clone())
        .unwrap_or_default();
    if entry.path.is_empty() {
        base
    } else {
        base.join(std::ffi::OsStr::from_bytes(&entry.path))
    }
}
