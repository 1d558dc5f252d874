//! Backups of a directory in any store, without a server: what tests of the repository need.
#![allow(dead_code, missing_docs)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use snapback::copy::{CopyOptions, Tree, copy};
use snapback::monitor::Silent;
use snapback::repository::{ChunkClass, Draft, Manifest, ReadBackReport, Repository, WriterOptions};
use snapback::restore::{Destination, Report, Request, restore};
use snapback::store::Store;
use snapback::sys::signal::Cancel;
use snapback::units::Id;

pub fn create(store: impl Store + 'static) -> Repository {
    Repository::create(Arc::new(store)).unwrap()
}

/// A record as small as one that restores can be.
pub fn record(root: &Path) -> serde_json::Value {
    serde_json::json!({
        "tool": "test", "consistency": "crash", "exact": false, "volumes": [], "phases": [],
        "roots": [{"path": root, "role": "files", "source": "snapshot"}],
        "copy": {"files": 0, "bytes_total": 0, "bytes_read": 0, "bytes_new": 0, "bytes_stored": 0, "seconds": 0.0},
    })
}

pub fn try_back_up(repository: &Repository, dir: &Path, parent: Option<Id>) -> snapback::Result<Manifest> {
    back_up_in_chunks(repository, dir, parent, ChunkClass::default())
}

pub fn back_up_in_chunks(
    repository: &Repository,
    dir: &Path,
    parent: Option<Id>,
    class: ChunkClass,
) -> snapback::Result<Manifest> {
    back_up_reading_back(repository, dir, parent, class, 0).map(|(manifest, _)| manifest)
}

/// Reads one of `every` chunks of the parent back.
pub fn back_up_reading_back(
    repository: &Repository,
    dir: &Path,
    parent: Option<Id>,
    class: ChunkClass,
    every: u32,
) -> snapback::Result<(Manifest, ReadBackReport)> {
    let (cancel, tree) = (
        Cancel::new(),
        Tree {
            original: dir.into(),
            read_from: dir.into(),
            live: false,
            datadir: false,
            database: false,
            skip: Vec::new(),
        },
    );
    let writer = repository.begin(WriterOptions {
        id: Id::random(),
        parent,
        level: 1,
    })?;
    let writer = writer.with_read_back(every);
    let options = CopyOptions {
        workers: 2,
        idle_priority: false,
        class,
        ..CopyOptions::default()
    };
    copy(&[tree], &writer, &options, &|| Ok(()), &Silent, &cancel)?;
    let draft = Draft {
        time: jiff::Timestamp::now(),
        host: "test".into(),
        tags: BTreeMap::new(),
        record: record(dir),
    };
    let seen = writer.read_back();
    Ok((writer.commit(draft)?, seen))
}

pub fn back_up(repository: &Repository, dir: &Path, parent: Option<Id>) -> Manifest {
    try_back_up(repository, dir, parent).unwrap()
}

/// Restores everything below `target` and returns where the root is.
pub fn try_restore(repository: &Repository, which: &str, dir: &Path, target: &Path) -> snapback::Result<PathBuf> {
    restore_with(repository, which, dir, target, false).map(|(root, _)| root)
}

/// The same, going on over damage.
pub fn rescue(repository: &Repository, which: &str, dir: &Path, target: &Path) -> snapback::Result<(PathBuf, Report)> {
    restore_with(repository, which, dir, target, true)
}

fn restore_with(
    repository: &Repository,
    which: &str,
    dir: &Path,
    target: &Path,
    keep_going: bool,
) -> snapback::Result<(PathBuf, Report)> {
    let request = Request {
        destination: Destination::Target(target.into()),
        include: Vec::new(),
        force: false,
        workers: 2,
        keep_uuid: false,
        new_uuid: false,
        keep_going,
        special: true,
        unfinished: None,
        stop_with: None,
        start_with: None,
    };
    let report = restore(repository, which, &request, &Silent, &Cancel::new())?;
    Ok((target.join(dir.strip_prefix("/").unwrap()), report))
}

/// A directory in memory where the machine has one: nothing waits for a disk.
pub fn scratch() -> tempfile::TempDir {
    let mut builder = tempfile::Builder::new();
    builder.prefix("snapback-test-");
    let in_memory = Path::new("/dev/shm");
    if in_memory.is_dir() {
        return builder.tempdir_in(in_memory).unwrap();
    }
    builder.tempdir().unwrap()
}

/// Bytes that look random and do not compress.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..length).map(next).collect()
}

/// A tree with every kind of file that needs no root.
pub fn sample(dir: &Path) {
    use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
    std::fs::create_dir_all(dir.join("deep/er")).unwrap();
    std::fs::write(dir.join("small"), "hello").unwrap();
    std::fs::write(dir.join("empty"), "").unwrap();
    std::fs::write(dir.join("noise"), noise(7, 300_000)).unwrap();
    std::fs::write(dir.join("text"), "the same again, ".repeat(50_000)).unwrap();
    std::fs::write(dir.join("deep/er/log.000001"), noise(9, 2_500_000)).unwrap();
    let sparse = std::fs::File::create(dir.join("sparse")).unwrap();
    sparse.set_len(10 << 20).unwrap();
    sparse.write_all_at(&noise(3, 70_000), 5 << 20).unwrap();
    std::fs::hard_link(dir.join("noise"), dir.join("deep/noise-too")).unwrap();
    symlink("../nowhere", dir.join("deep/link")).unwrap();
    std::fs::set_permissions(dir.join("small"), std::fs::Permissions::from_mode(0o4751)).unwrap();
}

/// Content, kind, mode and time of everything below a directory, by relative path.
pub fn fingerprint(dir: &Path) -> BTreeMap<PathBuf, String> {
    use std::os::unix::fs::MetadataExt;
    let mut found = BTreeMap::new();
    let mut left = vec![dir.to_path_buf()];
    while let Some(at) = left.pop() {
        let meta = std::fs::symlink_metadata(&at).unwrap();
        let content = if meta.is_dir() {
            left.extend(std::fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().path()));
            "directory".to_owned()
        } else if meta.is_symlink() {
            std::fs::read_link(&at).unwrap().display().to_string()
        } else if !meta.is_file() {
            format!("special {:?}", meta.file_type())
        } else {
            format!("{} links={}", blake3::hash(&std::fs::read(&at).unwrap()), meta.nlink())
        };
        let line = format!(
            "{content} mode={:o} mtime={}.{} uid={}",
            meta.mode(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.uid()
        );
        found.insert(at.strip_prefix(dir).unwrap().to_owned(), line);
    }
    found
}
