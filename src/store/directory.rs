//! A directory as a store: one file per object, written under no name, published by a link that refuses a taken one.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::FileType;

use super::{Error, Result, Store, Upload, key};
use crate::sys;
use crate::sys::fs::{Beneath, Unpublished};

/// Written to the kernel at once.
const BUFFER: usize = 256 << 10;
/// Writing to disk starts after so many bytes, so that the fsync at the end is short.
const EARLY: u64 = 8 << 20;
/// A temporary file younger than this may belong to a writer that has not locked it yet.
const YOUNG: Duration = Duration::from_secs(60);

/// Objects below a directory.
#[derive(Debug, Clone)]
pub struct DirectoryStore {
    root: PathBuf,
    /// Whoever may write the repository could exchange what is below: everything is found from here, without following links.
    beneath: Arc<Beneath>,
    /// Directories with names that are not known to be durable, relative to the root.
    unsynced: Arc<Mutex<BTreeSet<PathBuf>>>,
}

/// How deep objects lie below the root, at most.
const DEEPEST: usize = 8;

impl DirectoryStore {
    /// Makes a store in a directory that is empty or not there.
    ///
    /// # Errors
    /// The directory has something in it (but for a repository, which is left to say so itself), or cannot be made.
    pub fn create(root: &Path) -> Result<DirectoryStore> {
        let fail = |operation: &'static str| {
            let root = root.to_owned();
            move |source: io::Error| Error::Io {
                operation,
                key: "the directory".to_owned(),
                store: root.display().to_string(),
                source,
            }
        };
        let absolute = std::path::absolute(root).map_err(fail("find"))?;
        let beneath = match Beneath::open_way(&absolute, false) {
            Ok(there) => there,
            Err(error) if error.is(io::ErrorKind::NotFound) => {
                make(&absolute).map_err(|error| fail("make")(error.into_io()))?
            }
            Err(error) => return Err(fail("open")(error.into_io())),
        };
        let names = beneath.names().map_err(|error| fail("read")(error.into_io()))?;
        if !names.is_empty() && !names.iter().any(|name| name == "config") {
            let source = io::Error::other("it is not empty, and what is in it is no repository");
            return Err(fail("use")(source));
        }
        Ok(DirectoryStore::on(absolute, beneath))
    }

    fn on(root: PathBuf, beneath: Beneath) -> DirectoryStore {
        DirectoryStore {
            beneath: Arc::new(beneath),
            root,
            unsynced: Arc::default(),
        }
    }

    /// Opens a directory as a store.
    ///
    /// # Errors
    /// It is not a directory.
    pub fn open(root: &Path) -> Result<DirectoryStore> {
        let io = |source| Error::Io {
            operation: "open",
            key: "the directory".to_owned(),
            store: root.display().to_string(),
            source,
        };
        let absolute = std::path::absolute(root).map_err(io)?;
        let found = match std::fs::metadata(&absolute) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::Absent {
                    key: "a repository".to_owned(),
                    store: absolute.display().to_string(),
                });
            }
            found => found.map_err(io)?,
        };
        if !found.is_dir() {
            return Err(io(io::Error::from(io::ErrorKind::NotADirectory)));
        }
        let beneath = Beneath::open(&absolute).map_err(|error| io(error.into_io()))?;
        Ok(DirectoryStore::on(absolute, beneath))
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn unsynced(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn io(&self, operation: &'static str, key: &str, source: io::Error) -> Error {
        match source.kind() {
            io::ErrorKind::NotFound => Error::Absent {
                key: key.to_owned(),
                store: self.name(),
            },
            io::ErrorKind::AlreadyExists => Error::Present {
                key: key.to_owned(),
                store: self.name(),
            },
            _ => Error::Io {
                operation,
                key: key.to_owned(),
                store: self.name(),
                source,
            },
        }
    }

    /// Makes the directories above an object. [`Store::sync`] syncs the names of all of them, also of those that were there: who made
    /// them may be a writer that has not synced them yet, or died before it did.
    fn make_way<'k>(&self, key: &'k str) -> Result<&'k Path> {
        let parent = parent_of(key);
        let mut way: Vec<&Path> = parent.ancestors().filter(|above| *above != Path::new("")).collect();
        while let Some(directory) = way.pop() {
            let there = self.beneath.look(directory).map(|found| found.is_some());
            let made = match there {
                Ok(true) => Ok(false),
                _ => self.beneath.make_directory(directory, 0o700),
            };
            made.map_err(|error| self.io("make the directory of", key, error.into_io()))?;
            let above = directory.parent().unwrap_or(Path::new(""));
            self.unsynced().insert(above.to_owned());
        }
        Ok(parent)
    }

    /// All that is below a directory and no directory itself. What lies deeper than objects do is none.
    fn walk(&self, relative: &Path, found: &mut dyn FnMut(&Beneath, PathBuf) -> io::Result<()>) -> io::Result<()> {
        let mut left = vec![relative.to_owned()];
        while let Some(relative) = left.pop() {
            let directory = match self.beneath.enter(&relative) {
                Err(error) if error.is(io::ErrorKind::NotFound) => continue,
                directory => directory.map_err(sys::Error::into_io)?,
            };
            for (name, kind) in directory.entries(Path::new("")).map_err(sys::Error::into_io)? {
                let path = relative.join(name);
                match kind == FileType::Directory {
                    true if path.components().count() < DEEPEST => left.push(path),
                    true => {}
                    false => found(&directory, path)?,
                }
            }
        }
        Ok(())
    }

    fn abandoned(&self, remove: bool) -> io::Result<u64> {
        let mut count = 0;
        self.walk(Path::new(""), &mut |directory, path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let ours = name.starts_with(".snapback-") && name.ends_with(".tmp");
            if ours && is_abandoned(directory, Path::new(name.as_ref()))? {
                if remove {
                    self.beneath.remove_file(&path).map_err(sys::Error::into_io)?;
                }
                count += 1;
            }
            Ok(())
        })?;
        Ok(count)
    }
}

fn parent_of(key: &str) -> &Path {
    Path::new(key).parent().unwrap_or(Path::new(""))
}

/// A living writer holds a lock on its unfinished file. What is no plain file is no writer's.
fn is_abandoned(directory: &Beneath, name: &Path) -> io::Result<bool> {
    if !directory
        .look(name)
        .map_err(sys::Error::into_io)?
        .is_some_and(|found| found.is_file())
    {
        return Ok(false);
    }
    let file = directory.open_plain(name).map_err(sys::Error::into_io)?;
    let old = file.metadata()?.modified()?.elapsed().is_ok_and(|age| age > YOUNG);
    Ok(old && file.try_lock().is_ok())
}

/// Makes the directory, and those above it that are missing. Somebody else may own one of them: no link of theirs is followed.
fn make(root: &Path) -> sys::Result<Beneath> {
    let (holder, name) = Beneath::open_holder(root, true)?;
    holder.make_directory(Path::new(name), 0o700)?;
    holder.sync_names()?;
    holder.enter(Path::new(name))
}

impl Store for DirectoryStore {
    fn name(&self) -> String {
        self.root.display().to_string()
    }

    fn put_new(&self, key: &str) -> Result<Box<dyn Upload>> {
        key::check(key)?;
        let directory = self.make_way(key)?;
        let create = || -> sys::Result<Unpublished> {
            let within = self.beneath.open_directory(directory)?;
            let file = Unpublished::create_in(within, &self.root.join(directory), 0o600)?;
            // Tells `clean_leftovers` that its writer lives, where the file has a temporary name.
            let _ = file.file().try_lock();
            Ok(file)
        };
        let file = create().map_err(|error| Error::Io {
            operation: "write",
            key: key.to_owned(),
            store: self.name(),
            source: error.into_io(),
        })?;
        Ok(Box::new(FileUpload {
            store: self.clone(),
            key: key.to_owned(),
            file,
            buffer: Vec::with_capacity(BUFFER),
            written: 0,
            started: 0,
        }))
    }

    fn sync(&self) -> Result<()> {
        // Deepest first: a name is worth nothing before what it names.
        let directories: Vec<PathBuf> = self.unsynced().iter().rev().cloned().collect();
        for directory in directories {
            self.beneath
                .sync_directory(&directory)
                .map_err(|error| self.io("sync", &directory.display().to_string(), error.into_io()))?;
            self.unsynced().remove(&directory);
        }
        Ok(())
    }

    fn get_range(&self, key: &str, offset: u64, into: &mut [u8]) -> Result<usize> {
        key::check(key)?;
        let opened = self.beneath.open_plain(Path::new(key)).map_err(sys::Error::into_io);
        let read = opened.and_then(|file| sys::fs::read_up_to(&file, into, offset));
        read.map_err(|error| self.io("read", key, error))
    }

    fn size(&self, key: &str) -> Result<u64> {
        key::check(key)?;
        let opened = self.beneath.open_plain(Path::new(key)).map_err(sys::Error::into_io);
        let found = opened.and_then(|file| file.metadata());
        Ok(found.map_err(|error| self.io("look at", key, error))?.len())
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>> {
        key::check_prefix(prefix)?;
        let mut found = Vec::new();
        let mut take = |_: &Beneath, path: PathBuf| {
            // Unfinished objects, and whatever a person put there, are none.
            found.extend(path.to_str().filter(|key| key::check(key).is_ok()).map(str::to_owned));
            Ok(())
        };
        self.walk(Path::new(prefix.trim_end_matches('/')), &mut take)
            .map_err(|error| self.io("list", prefix, error))?;
        found.sort();
        Ok(found)
    }

    fn delete(&self, key: &str) -> Result<()> {
        key::check(key)?;
        match self.beneath.remove_file(Path::new(key)) {
            Err(error) if error.is(io::ErrorKind::NotFound) => Ok(()),
            Err(error) => Err(self.io("delete", key, error.into_io())),
            // A prune counts on the order of deletions, too.
            Ok(()) => {
                self.unsynced().insert(parent_of(key).to_owned());
                Ok(())
            }
        }
    }

    fn clean_leftovers(&self) -> Result<u64> {
        self.abandoned(true)
            .map_err(|error| self.io("clean", "unfinished objects", error))
    }

    fn leftovers(&self) -> Result<u64> {
        self.abandoned(false)
            .map_err(|error| self.io("look for", "unfinished objects", error))
    }
}

struct FileUpload {
    store: DirectoryStore,
    key: String,
    file: Unpublished,
    buffer: Vec<u8>,
    written: u64,
    /// Up to here writing to disk was started.
    started: u64,
}

impl FileUpload {
    fn flush(&mut self) -> Result<()> {
        crate::failpoint!("store.write", || Error::Io {
            operation: "write",
            key: self.key.clone(),
            store: self.store.name(),
            source: io::Error::from(io::ErrorKind::StorageFull),
        });
        let wrote = self.file.write_all(&self.buffer);
        wrote.map_err(|error| self.store.io("write", &self.key, error))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        if self.written - self.started >= EARLY {
            sys::fs::start_writing(self.file.file(), self.started, self.written - self.started);
            self.started = self.written;
        }
        Ok(())
    }
}

impl Upload for FileUpload {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.flush()?;
        let (file, store) = (self.file, self.store);
        let path = store.root.join(&self.key);
        // The page cache is the server's: what was written is not kept in it once it is on disk.
        let cached = file.file().try_clone();
        file.publish(&path)
            .map_err(|error| store.io("write", &self.key, error.into_io()))?;
        if let Ok(cached) = cached {
            sys::fs::forget_cached(&cached, 0, 0);
        }
        store.unsynced().insert(parent_of(&self.key).to_owned());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn put(store: &dyn Store, key: &str, bytes: &[u8]) -> Result<()> {
        let mut upload = store.put_new(key)?;
        upload.append(bytes)?;
        upload.finish()
    }

    #[test]
    fn an_object_appears_when_it_is_finished_and_only_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = DirectoryStore::create(&dir.path().join("deep/repo")).unwrap();
        let mut upload = store.put_new("packs/aa/x").unwrap();
        upload.append(&[1; 300 << 10]).unwrap();
        assert_eq!(store.list("packs/").unwrap(), Vec::<String>::new());
        upload.finish().unwrap();
        store.sync().unwrap();
        for private in ["", "packs", "packs/aa", "packs/aa/x"] {
            let mode = std::fs::metadata(store.root().join(private)).unwrap().permissions();
            let mode = std::os::unix::fs::PermissionsExt::mode(&mode);
            assert_eq!(mode & 0o077, 0, "others may read {private}");
        }
        assert_eq!(store.list("packs/").unwrap(), ["packs/aa/x"]);
        assert!(matches!(
            put(&store, "packs/aa/x", b"other"),
            Err(Error::Present { .. })
        ));
        assert_eq!(store.size("packs/aa/x").unwrap(), 300 << 10);
        let mut buffer = [0; 10];
        assert_eq!(store.get_range("packs/aa/x", (300 << 10) - 4, &mut buffer).unwrap(), 4);
        store.delete("packs/aa/x").unwrap();
        store.delete("packs/aa/x").unwrap();
        assert!(matches!(store.size("packs/aa/x"), Err(Error::Absent { .. })));
    }

    #[test]
    fn what_is_dropped_unfinished_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = DirectoryStore::create(dir.path()).unwrap();
        let mut upload = store.put_new("packs/bb/y").unwrap();
        upload.append(&[1; 1 << 20]).unwrap();
        drop(upload);
        assert_eq!(std::fs::read_dir(dir.path().join("packs/bb")).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_of_somebody_else_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("holiday.jpg"), "").unwrap();
        let refused = DirectoryStore::create(dir.path()).unwrap_err().to_string();
        assert!(refused.contains("not empty"), "{refused}");
    }

    #[test]
    fn leftovers_of_the_dead_go_and_those_of_the_living_stay() {
        let dir = tempfile::tempdir().unwrap();
        let store = DirectoryStore::create(dir.path()).unwrap();
        std::fs::create_dir(dir.path().join("packs")).unwrap();
        let old = std::time::SystemTime::now() - Duration::from_secs(3600);
        let make = |name: &str| {
            let file = File::create(dir.path().join("packs").join(name)).unwrap();
            file.set_modified(old).unwrap();
            file
        };
        let living = make(".snapback-1.tmp");
        living.lock().unwrap();
        make(".snapback-2.tmp");
        make("mine.tmp");
        File::create(dir.path().join("packs/.snapback-3.tmp")).unwrap();
        assert_eq!(store.leftovers().unwrap(), 1);
        assert_eq!(store.clean_leftovers().unwrap(), 1);
        assert_eq!(store.leftovers().unwrap(), 0);
        assert_eq!(std::fs::read_dir(dir.path().join("packs")).unwrap().count(), 3);
    }
}
