//! Rights that a backup could give away: devices, set-user-ID files, privileged attributes.
//!
//! Whoever can write the repository chooses them, and root would restore them into a place where that user comes in. So a database's
//! tree never gets any, since no server needs them, and a tree of `files:` only when the restore is asked for them.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::super::pieces::Piece;
use crate::copy::notes::Notes;
use crate::finding::Finding;
use crate::repository::{Entry, EntryKind, Metadata};

/// Paths that the warning names, per sort; all are counted.
const NAMED: usize = 5;
/// Set-user-ID and set-group-ID.
const SET_ID: u32 = 0o6000;

/// Takes rights out of entries and counts what it took.
pub(super) struct Rights {
    /// The restore is asked for them.
    special: bool,
    modes: Taken,
    devices: Taken,
    attributes: Taken,
    /// One of them would have come back with `--special`.
    could_come: bool,
    /// Devices, by root and path: further names of theirs have nothing to refer to.
    left_out: HashSet<(u32, Vec<u8>)>,
}

/// How many of a sort, and the first of them.
#[derive(Default)]
struct Taken {
    count: u64,
    first: Vec<PathBuf>,
}

impl Rights {
    pub fn new(special: bool) -> Rights {
        Rights {
            special,
            modes: Taken::default(),
            devices: Taken::default(),
            attributes: Taken::default(),
            could_come: false,
            left_out: HashSet::new(),
        }
    }

    /// The entry as it may be restored; `None` for a device that may not.
    pub fn take(&mut self, mut entry: Entry, piece: &Piece, original: &Path) -> Option<Entry> {
        if self.special && !piece.database {
            return Some(entry);
        }
        if is_device(&entry.kind) {
            self.left_out.insert((entry.root, entry.path));
            self.devices.add(original);
            self.could_come |= !piece.database;
            return None;
        }
        // On a directory they only say whose group new files have.
        let is_directory = entry.kind == EntryKind::Directory;
        if !is_directory && entry.metadata.mode & SET_ID != 0 {
            entry.metadata.mode &= !SET_ID;
            self.modes.add(original);
            self.could_come |= !piece.database;
        }
        if take_attributes(&mut entry.metadata) {
            self.attributes.add(original);
            self.could_come |= !piece.database;
        }
        Some(entry)
    }

    /// Whether this is the first name of a device that was left out.
    pub fn has_left_out(&self, root: u32, first: &[u8]) -> bool {
        self.left_out.contains(&(root, first.to_vec()))
    }

    /// A further name of a device that was left out.
    pub fn leave_out_name(&mut self, original: &Path) {
        self.devices.add(original);
    }

    /// Warns of what was left out.
    pub fn tell(&self, notes: &Notes<'_>) {
        let sorts = [
            (&self.devices, "devices"),
            (&self.modes, "set-user-ID or set-group-ID modes"),
            (&self.attributes, "privileged attributes (security.*, trusted.*)"),
        ];
        let said: Vec<String> = sorts
            .into_iter()
            .filter(|(taken, _)| taken.count > 0)
            .map(|(taken, sort)| taken.said(sort))
            .collect();
        if said.is_empty() {
            return;
        }
        let message = format!("the backup gives rights, which were left out: {}", said.join("; "));
        let remedy = match self.could_come {
            true => {
                "`restore --special` restores those of `files:` trees; it gives root's rights to whoever can write the repository"
            }
            false => "a database needs none of them: find out who put them into its directories or into the repository",
        };
        notes.find(Finding::warning("special-left-out", message).remedy(remedy));
    }
}

impl Taken {
    fn add(&mut self, original: &Path) {
        self.count += 1;
        if self.first.len() < NAMED {
            self.first.push(original.to_owned());
        }
    }

    fn said(&self, sort: &str) -> String {
        let first: Vec<String> = self.first.iter().map(|path| path.display().to_string()).collect();
        let more = if self.count > NAMED as u64 { ", ..." } else { "" };
        format!("{} {sort} ({}{more})", self.count, first.join(", "))
    }
}

fn is_device(kind: &EntryKind) -> bool {
    matches!(kind, EntryKind::CharDevice(..) | EntryKind::BlockDevice(..))
}

/// Takes out attributes that only root may set, since the kernel or a filesystem acts on them. A label of SELinux stays: it allows
/// nothing that owner and mode forbid.
fn take_attributes(metadata: &mut Metadata) -> bool {
    let before = metadata.xattrs.len();
    metadata.xattrs.retain(|(name, _)| {
        name == b"security.selinux" || !(name.starts_with(b"security.") || name.starts_with(b"trusted."))
    });
    metadata.xattrs.len() != before
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::Silent;

    fn piece(database: bool) -> Piece {
        Piece {
            root: 0,
            below: Vec::new(),
            original: "/r".into(),
            destination: "/t/r".into(),
            space: "/t".into(),
            database,
            datadir: database,
        }
    }

    fn entry(kind: EntryKind, mode: u32, xattrs: &[&str]) -> Entry {
        let xattrs = xattrs.iter().map(|name| (name.as_bytes().to_vec(), vec![1])).collect();
        Entry {
            kind,
            metadata: Metadata {
                mode,
                xattrs,
                ..Metadata::default()
            },
            ..Entry::probe(0, b"e".to_vec())
        }
    }

    #[test]
    fn nothing_that_gives_rights_comes_back_unless_it_is_asked_for_and_never_in_a_database() {
        let link = || EntryKind::Symlink(b"t".to_vec());
        for (special, database) in [(false, false), (false, true), (true, true)] {
            let mut rights = Rights::new(special);
            let mut take = |entry: Entry| rights.take(entry, &piece(database), Path::new("/r/e"));
            for device in [EntryKind::CharDevice(1, 1), EntryKind::BlockDevice(7, 0)] {
                assert_eq!(take(entry(device, 0o600, &[])), None);
            }
            assert_eq!(take(entry(link(), 0o6755, &[])).unwrap().metadata.mode, 0o755);
            assert_eq!(take(entry(EntryKind::Fifo, 0o2644, &[])).unwrap().metadata.mode, 0o644);
            let all = [
                "security.capability",
                "security.ima",
                "security.selinux",
                "system.posix_acl_access",
                "trusted.overlay.opaque",
                "user.note",
            ];
            let directory = take(entry(EntryKind::Directory, 0o2770, &all)).unwrap().metadata;
            assert_eq!(directory.mode, 0o2770);
            let kept: Vec<_> = directory.xattrs.iter().map(|(name, _)| name.as_slice()).collect();
            let wanted: [&[u8]; 3] = [b"security.selinux", b"system.posix_acl_access", b"user.note"];
            assert_eq!(kept, wanted);
            assert!(rights.has_left_out(0, b"e"));
        }
        let mut rights = Rights::new(true);
        let asked = entry(EntryKind::CharDevice(1, 1), 0o4600, &["security.capability"]);
        let given = rights.take(asked.clone(), &piece(false), Path::new("/r/e"));
        assert_eq!(given, Some(asked));
    }

    #[test]
    fn the_warning_counts_all_and_names_the_first() {
        let mut rights = Rights::new(false);
        for number in 0..7 {
            let path = PathBuf::from(format!("/r/{number}"));
            rights.take(entry(EntryKind::Fifo, 0o4755, &[]), &piece(false), &path);
        }
        let notes = Notes::new(&Silent);
        rights.tell(&notes);
        let (_, findings) = notes.into_lists();
        assert_eq!(findings.len(), 1);
        assert!(findings[0].message.contains("7 set-user-ID"), "{findings:?}");
        assert!(
            findings[0].message.contains("(/r/0, /r/1, /r/2, /r/3, /r/4, ...)"),
            "{findings:?}"
        );
        assert!(findings[0].remedy.as_ref().unwrap().contains("--special"));
        let notes = Notes::new(&Silent);
        Rights::new(false).tell(&notes);
        assert!(notes.into_lists().1.is_empty());
    }
}
