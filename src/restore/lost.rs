//! What a restore that goes on over damage could not bring back.
//!
//! The rule: what has its own name is whole, bit for bit. A file that lost something is written as far as it goes, its lost ranges
//! left as holes, under a name that nobody takes for the file: `NAME.snapback-damaged`. Zeros under the file's own name would be
//! wrong bytes that a server or a person takes for data (InnoDB takes a page of zeros for a free one); a missing file is noticed.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::workspace::Workspace;
use crate::repository::Error as Repository;
use crate::sys;
use crate::units::Id;
use crate::{Error, Result};

/// What the name of a file that is not whole ends with.
pub const DAMAGED: &str = ".snapback-damaged";
/// What the name of the list of losses ends with; it lies beside the destination.
pub const LIST: &str = ".snapback-lost.json";
/// What a person does when a restore stops at damage.
pub(super) const REMEDY: &str = "`--keep-going` restores what is intact";
/// The longest name of a file, in bytes (NAME_MAX).
const LONGEST_NAME: usize = 255;

/// What could not be restored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// Files that are not whole.
    pub files: Vec<LostFile>,
    /// Parts of the file table that are lost: nobody knows what was in them.
    pub tables: Vec<LostTable>,
    /// Entries (files, directories, links) that were in those parts, of the whole backup.
    pub entries: u64,
    /// Directories whose own entry is lost: they are there, with mode 0700 and whoever restored as owner.
    pub bare_directories: Vec<PathBuf>,
    /// The file that has this list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub list: Option<PathBuf>,
}

/// A file that is not whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LostFile {
    /// Its original path.
    pub original: PathBuf,
    /// Where what is left of it is now; `None`: nothing of it is left.
    pub at: Option<PathBuf>,
    /// Its length in bytes.
    pub size: u64,
    /// What is lost of it, in order.
    pub ranges: Vec<LostRange>,
}

/// A lost part of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LostRange {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    /// The damaged object.
    pub object: String,
    /// What is wrong with it.
    pub reason: String,
}

/// A lost part of the file table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LostTable {
    /// The damaged object.
    pub object: String,
    /// What is wrong with it.
    pub reason: String,
    /// Original path of the last entry before it; `None` at the table's beginning.
    pub after: Option<PathBuf>,
    /// Original path of the first entry behind it; `None` at the table's end.
    pub before: Option<PathBuf>,
}

impl Lost {
    /// Whether everything is there.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.tables.is_empty() && self.bare_directories.is_empty()
    }
}

/// A file in a workspace.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// Which workspace.
    pub space: usize,
    /// Its path there.
    pub relative: PathBuf,
    /// Its original path.
    pub original: PathBuf,
}

#[derive(Debug)]
struct Broken {
    place: Place,
    size: u64,
    ranges: Vec<LostRange>,
    /// Whether anything of its data was read.
    some: bool,
}

/// Collected by all threads of a restore; without `--keep-going` every loss is an error instead.
#[derive(Debug, Default)]
pub(super) struct Losses {
    keep_going: bool,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    broken: Vec<Broken>,
    /// Further names: the first one's place in the workspace, and their own.
    links: Vec<(PathBuf, Place)>,
    bare: Vec<PathBuf>,
    /// What is not whole, once it has its other name.
    files: Vec<LostFile>,
}

impl Losses {
    pub fn new(keep_going: bool) -> Losses {
        Losses {
            keep_going,
            inner: Mutex::default(),
        }
    }

    /// Whether the restore goes on over damage.
    pub fn keep_going(&self) -> bool {
        self.keep_going
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the restore goes on over this error: then the damaged object, and what is wrong with it.
    pub fn passes(&self, error: &Repository) -> Option<(String, String)> {
        let is_loss = matches!(
            error,
            Repository::Damaged { .. }
                | Repository::Store(crate::store::Error::Absent { .. } | crate::store::Error::Io { .. })
        );
        (self.keep_going && is_loss).then(|| error.object_and_reason())
    }

    /// A file could not be filled whole.
    pub fn file(&self, place: Place, size: u64, ranges: Vec<LostRange>, some: bool) {
        let ranges = merged(ranges);
        self.inner().broken.push(Broken {
            place,
            size,
            ranges,
            some,
        });
    }

    /// A further name was made for the file whose first name has this place.
    pub fn link(&self, first: &Path, place: &Place) {
        if self.keep_going {
            self.inner().links.push((first.to_owned(), place.clone()));
        }
    }

    /// A directory was made whose own entry is lost.
    pub fn bare(&self, original: PathBuf) {
        self.inner().bare.push(original);
    }

    /// Gives what is not whole its other name, in all workspaces. All files are filled by then, and no directory has its time yet.
    ///
    /// # Errors
    /// A rename failed.
    pub fn settle(&self, spaces: &[Workspace]) -> sys::Result<()> {
        let mut inner = self.inner();
        let (mut broken, links) = (std::mem::take(&mut inner.broken), std::mem::take(&mut inner.links));
        broken.sort_by(|one, two| one.place.original.cmp(&two.place.original));
        for broken in broken {
            let first = (broken.place.space, &broken.place.relative);
            let further = links.iter().filter(|(at, link)| (link.space, at) == first);
            for place in std::iter::once(&broken.place).chain(further.map(|(_, link)| link)) {
                let space = &spaces[place.space];
                inner.files.push(LostFile {
                    original: place.original.clone(),
                    at: match broken.some {
                        true => Some(space.final_path(&rename(space, &place.relative)?)),
                        false => remove(space, &place.relative)?,
                    },
                    size: broken.size,
                    ranges: broken.ranges.clone(),
                });
            }
        }
        Ok(())
    }

    /// Files that are not whole, and directories whose own entry is lost.
    pub fn into_lists(self) -> (Vec<LostFile>, Vec<PathBuf>) {
        let inner = self.inner.into_inner().unwrap_or_else(PoisonError::into_inner);
        (inner.files, inner.bare)
    }
}

/// A further name whose first name is lost was never made.
fn remove(space: &Workspace, relative: &Path) -> sys::Result<Option<PathBuf>> {
    if space.beneath().exists(relative)? {
        space.beneath().remove_file(relative)?;
    }
    Ok(None)
}

/// Gives a file in a workspace the name of one that is not whole; one that has that name already keeps it.
fn rename(space: &Workspace, relative: &Path) -> sys::Result<PathBuf> {
    let mut number = 1;
    loop {
        let to = relative.with_file_name(damaged_name(relative, number));
        match space.beneath().rename(relative, &to) {
            Err(error) if error.errno() == Some(libc::EEXIST) && number < 1000 => number += 1,
            answer => return answer.map(|()| to),
        }
    }
}

fn damaged_name(path: &Path, number: u32) -> OsString {
    let suffix = match number {
        1 => DAMAGED.to_owned(),
        number => format!("{DAMAGED}-{number}"),
    };
    let mut name = path.file_name().unwrap_or_default().as_bytes().to_vec();
    name.truncate(LONGEST_NAME - suffix.len());
    name.extend_from_slice(suffix.as_bytes());
    OsString::from_vec(name)
}

/// In order; neighbours with the same cause are one.
fn merged(mut ranges: Vec<LostRange>) -> Vec<LostRange> {
    ranges.sort_by_key(|range| range.offset);
    let mut merged: Vec<LostRange> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if last.offset + last.length == range.offset && last.object == range.object => {
                last.length += range.length;
            }
            _ => merged.push(range),
        }
    }
    merged
}

/// Where the list of losses lies.
pub(super) fn list_beside(destination: &Path) -> PathBuf {
    let mut name = destination.file_name().unwrap_or_default().to_owned();
    name.push(LIST);
    destination.with_file_name(name)
}

/// Writes the list. It is there before what it tells of.
///
/// # Errors
/// It cannot be written.
pub(super) fn write_list(lost: &mut Lost, backup: Id, space: &Workspace) -> Result<()> {
    #[derive(Serialize)]
    struct File<'l> {
        backup: Id,
        #[serde(flatten)]
        lost: &'l Lost,
    }
    let path = list_beside(space.destination());
    let json = serde_json::to_vec_pretty(&File { backup, lost })
        .map_err(|error| Error::failed(format!("cannot write {}: {error}", path.display())))?;
    space.write_beside(path.file_name().unwrap_or_default(), &json)?;
    lost.list = Some(path);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(offset: u64, length: u64, object: &str) -> LostRange {
        LostRange {
            offset,
            length,
            object: object.to_owned(),
            reason: String::new(),
        }
    }

    #[test]
    fn neighbours_with_one_cause_are_one_range() {
        let found = merged(vec![
            range(20, 10, "a"),
            range(0, 10, "a"),
            range(10, 10, "a"),
            range(30, 5, "b"),
        ]);
        assert_eq!(found, [range(0, 30, "a"), range(30, 5, "b")]);
    }

    #[test]
    fn the_other_name_fits_whatever_the_name_is() {
        assert_eq!(damaged_name(Path::new("a/t.ibd"), 1), "t.ibd.snapback-damaged");
        assert_eq!(damaged_name(Path::new("t"), 2), "t.snapback-damaged-2");
        let long = "x".repeat(255);
        assert_eq!(damaged_name(Path::new(&long), 1).len(), 255);
    }
}
