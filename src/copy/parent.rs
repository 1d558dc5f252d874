//! The parent backup's entries beside the walk: both are sorted alike, so one pass over each joins them.

use std::cmp::Ordering;

use crate::finding::Finding;
use crate::repository::{Content, Entries, Entry, EntryKind, Writer, table_order};

use super::notes::Notes;

/// Gives each file its content in the parent.
pub struct Parent<'n, 'm> {
    entries: Option<Entries>,
    ahead: Option<Entry>,
    notes: &'n Notes<'m>,
}

impl<'n, 'm> Parent<'n, 'm> {
    /// The parent's entries, if there is a readable parent. A damaged one only costs space: everything is stored anew.
    pub fn of(writer: &Writer, notes: &'n Notes<'m>) -> Parent<'n, 'm> {
        let mut parent = Parent {
            entries: None,
            ahead: None,
            notes,
        };
        match writer.parent_entries() {
            Ok(entries) => parent.entries = entries,
            Err(error) => parent.give_up(&error),
        }
        parent
    }

    /// What the parent has at this path. Paths must be asked for in table order.
    pub fn content(&mut self, root: u32, path: &[u8]) -> Option<Content> {
        loop {
            if self.ahead.is_none() {
                self.ahead = self.read();
            }
            let ahead = self.ahead.as_ref()?;
            match table_order((ahead.root, &ahead.path), (root, path)) {
                Ordering::Less => self.ahead = None,
                Ordering::Equal => {
                    return match self.ahead.take()?.kind {
                        EntryKind::File(content) => Some(content),
                        _ => None,
                    };
                }
                Ordering::Greater => return None,
            }
        }
    }

    fn read(&mut self) -> Option<Entry> {
        match self.entries.as_mut()?.next()? {
            Ok(entry) => Some(entry),
            Err(error) => {
                self.give_up(&error);
                None
            }
        }
    }

    fn give_up(&mut self, error: &crate::repository::Error) {
        self.entries = None;
        self.notes.find(
            Finding::warning(
                "damaged-parent",
                format!("the parent backup cannot be compared with, so more is stored anew: {error}"),
            )
            .remedy("`snapback verify --all` shows what is damaged"),
        );
    }
}
