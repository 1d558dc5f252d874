//! A backup as a tar archive on a stream, with all metadata; each chunk is verified before it is written.
//!
//! Archives are POSIX (pax) with GNU's sparse files 1.0, as GNU tar, bsdtar and Python's tarfile read them. An error ends the archive in the
//! middle of a member, so that no reader takes what was written for the whole.

mod acl;
mod ahead;
mod member;
mod tar;

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use crate::monitor::{Monitor, Work};
use crate::record::Roots;
use crate::repository::{Backup, Entry, EntryKind, Lookup, Manifest, Repository};
use crate::sys::signal::Cancel;
use crate::units::Id;
use crate::{Error, Result};

use ahead::Ahead;
use tar::Archive;

/// What is exported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Original paths; everything else is left out. Empty: all.
    pub include: Vec<PathBuf>,
    /// Threads that read ahead in large files.
    pub workers: usize,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The backup.
    pub id: Id,
    /// Members of the archive.
    pub files: u64,
    /// Bytes of the archive.
    pub bytes: u64,
    /// Wall time.
    pub seconds: f64,
}

/// Writes a backup as a tar archive.
///
/// # Errors
/// Something stored is damaged, `out` cannot be written, or a signal asked to end. The archive is cut short then: it is not well-formed.
pub fn export(
    repository: &Repository,
    which: &str,
    request: &Request,
    out: &mut dyn Write,
    monitor: &dyn Monitor,
    cancel: &Cancel,
) -> Result<Report> {
    let begun = Instant::now();
    let backup = repository.find(which)?;
    let roots = roots(backup.manifest())?;
    let mut links = Links::new(&backup, &roots, request, cancel)?;
    let sizes = backup.manifest().sizes;
    monitor.begin(Work {
        name: "exporting",
        bytes: sizes.bytes,
        items: sizes.entries,
    });
    let mut archive = Archive::new(out);
    let mut files = 0;
    let written = std::thread::scope(|scope| {
        let mut ahead = Ahead::start(scope, &backup, request.workers, cancel)?;
        for entry in backup.entries()? {
            cancel.check()?;
            let entry = entry?;
            let name = name(&roots, &entry)?;
            if !wanted(&roots, &request.include, entry.root, &entry.path) {
                continue;
            }
            let entry = links.resolve(entry, &name, &roots, request)?;
            member::write(&mut archive, &entry, &name, &mut ahead, monitor)?;
            files += 1;
            monitor.advance(0, 1);
        }
        Ok(())
    });
    monitor.end();
    match written {
        Ok(()) => archive.finish().map_err(cannot_write)?,
        Err(error) => {
            archive.cut();
            return Err(error);
        }
    }
    Ok(Report {
        id: backup.manifest().id,
        files,
        bytes: archive.bytes(),
        seconds: begun.elapsed().as_secs_f64(),
    })
}

fn cannot_write(error: io::Error) -> Error {
    Error::failed(format!("cannot write the archive: {error}"))
}

/// The roots' original paths.
fn roots(manifest: &Manifest) -> Result<Vec<PathBuf>> {
    let bad = |reason: String| crate::repository::Error::damaged("the backup's record", reason);
    let stored: Roots = manifest.record.parse().map_err(|error| bad(error.to_string()))?;
    stored
        .roots
        .into_iter()
        .map(|root| {
            let plain = root.path.is_absolute()
                && !root
                    .path
                    .components()
                    .any(|part| part == std::path::Component::ParentDir);
            let reason = || bad(format!("the root {} is not a plain absolute path", root.path.display()));
            if plain {
                Ok(root.path.clone())
            } else {
                Err(reason().into())
            }
        })
        .collect()
}

/// The name in the archive: the original path without its leading slash.
fn name(roots: &[PathBuf], entry: &Entry) -> Result<Vec<u8>> {
    let root = roots.get(entry.root as usize).ok_or_else(|| {
        let reason = format!("an entry of root {}, which the record does not have", entry.root);
        Error::from(crate::repository::Error::damaged("the file table", reason))
    })?;
    let path = original(root, &entry.path);
    let bytes = path.as_os_str().as_bytes();
    let relative = bytes.strip_prefix(b"/").unwrap_or(bytes);
    Ok(if relative.is_empty() {
        b".".to_vec()
    } else {
        relative.to_vec()
    })
}

fn original(root: &Path, path: &[u8]) -> PathBuf {
    if path.is_empty() {
        root.to_owned()
    } else {
        root.join(std::ffi::OsStr::from_bytes(path))
    }
}

/// Whether an entry is asked for: it is an included path or below one.
fn wanted(roots: &[PathBuf], include: &[PathBuf], root: u32, path: &[u8]) -> bool {
    if include.is_empty() {
        return true;
    }
    let Some(root) = roots.get(root as usize) else {
        return false;
    };
    let original = original(root, path);
    include.iter().any(|wanted| original.starts_with(wanted))
}

/// Further names whose first name is not in the archive: the first of them becomes the file.
struct Links {
    /// Only where a part is exported.
    lookup: Option<Lookup>,
    moved: HashMap<(u32, Vec<u8>), Vec<u8>>,
}

impl Links {
    /// # Errors
    /// An included path is not in the backup.
    fn new(backup: &Backup, roots: &[PathBuf], request: &Request, cancel: &Cancel) -> Result<Links> {
        let mut links = Links {
            lookup: None,
            moved: HashMap::new(),
        };
        if request.include.is_empty() {
            return Ok(links);
        }
        let mut lookup = Lookup::open(backup, cancel)?;
        for wanted in &request.include {
            let mut found = roots.iter().any(|root| root.starts_with(wanted));
            for (index, root) in roots.iter().enumerate() {
                if let Ok(rest) = wanted.strip_prefix(root) {
                    found |= lookup.find(index as u32, rest.as_os_str().as_bytes())?.is_some();
                }
            }
            if !found {
                return Err(Error::usage(format!("{} is not in this backup", wanted.display())));
            }
        }
        links.lookup = Some(lookup);
        Ok(links)
    }

    /// The entry as the archive has it: a further name of something that is in it, or the file itself.
    fn resolve(&mut self, entry: Entry, name: &[u8], roots: &[PathBuf], request: &Request) -> Result<Entry> {
        let EntryKind::HardLink(first) = &entry.kind else {
            return Ok(entry);
        };
        let target = |name: Vec<u8>| Entry {
            kind: EntryKind::HardLink(name),
            ..entry.clone()
        };
        if wanted(roots, &request.include, entry.root, first) {
            let first = Entry {
                path: first.clone(),
                ..entry.clone()
            };
            return Ok(target(self::name(roots, &first)?));
        }
        let key = (entry.root, first.clone());
        if let Some(known) = self.moved.get(&key) {
            return Ok(target(known.clone()));
        }
        let found = self
            .lookup
            .as_mut()
            .map(|lookup| lookup.find(entry.root, first))
            .transpose()?;
        let Some((_, content)) = found.flatten() else {
            let reason = format!("the first name of `{}` is not there", name.escape_ascii());
            return Err(crate::repository::Error::damaged("the file table", reason).into());
        };
        self.moved.insert(key, name.to_vec());
        Ok(Entry {
            path: entry.path,
            ..content
        })
    }
}
