//! A model of a disk that keeps nothing but what it was told to keep: fed with the calls that the real store really made, it says what
//! may be there after a power cut at any moment.
//!
//! The rules are POSIX's at their worst. A file's bytes are certain once the file was synced. A name (and that a name is gone) is
//! certain once its directory was synced. Whatever is not certain may have reached the disk or not, each name by itself.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use snapback::sys::fs::calls::{Call, Watch, watch};
use snapback::units::Id;

/// A call, as it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Create {
        inode: u64,
        name: Option<PathBuf>,
    },
    Write {
        inode: u64,
        bytes: Vec<u8>,
    },
    SyncFile {
        inode: u64,
    },
    Link {
        inode: u64,
        to: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    MakeDirectory {
        path: PathBuf,
    },
    SyncDirectory {
        path: PathBuf,
    },
    Remove {
        path: PathBuf,
    },
    /// The tool said that this backup is committed.
    Committed {
        id: Id,
        tree: PathBuf,
    },
}

impl Step {
    pub fn is_sync(&self) -> bool {
        matches!(self, Step::SyncFile { .. } | Step::SyncDirectory { .. })
    }

    fn of(call: &Call<'_>) -> Step {
        let inode = call.inode().unwrap_or(0);
        match call {
            Call::Create { name, .. } => Step::Create {
                inode,
                name: name.map(Path::to_owned),
            },
            Call::Write { bytes, .. } => Step::Write {
                inode,
                bytes: bytes.to_vec(),
            },
            Call::SyncFile { .. } => Step::SyncFile { inode },
            Call::Link { to, .. } => Step::Link {
                inode,
                to: to.to_path_buf(),
            },
            Call::Rename { from, to } => Step::Rename {
                from: from.to_path_buf(),
                to: to.to_path_buf(),
            },
            Call::MakeDirectory { path } => Step::MakeDirectory {
                path: path.to_path_buf(),
            },
            Call::SyncDirectory { path } => Step::SyncDirectory {
                path: path.to_path_buf(),
            },
            Call::Remove { path } => Step::Remove {
                path: path.to_path_buf(),
            },
        }
    }
}

/// All calls below a directory, in order.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<Step>>>);

impl Log {
    pub fn steps(&self) -> Vec<Step> {
        self.0.lock().unwrap().clone()
    }

    pub fn push(&self, step: Step) {
        self.0.lock().unwrap().push(step);
    }

    /// Records from now on; the call number `fails_at` (from 1) and all that follow fail with `errno`. Removals succeed, as they do on
    /// a full disk.
    pub fn record(&self, directory: &Path, fails_at: Option<(usize, i32)>) -> Watch {
        let (log, mut made) = (self.clone(), 0);
        watch(directory, move |call| {
            made += 1;
            let is_removal = matches!(call, Call::Remove { .. });
            if let Some((_, errno)) = fails_at.filter(|(at, _)| made >= *at && !is_removal) {
                return Err(io::Error::from_raw_os_error(errno));
            }
            log.push(Step::of(call));
            Ok(())
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    File(usize),
    Directory,
}

#[derive(Debug, Clone, Default)]
struct File {
    bytes: Vec<u8>,
    /// How many of them are certain.
    certain: usize,
    /// Whether its existence with its length is.
    synced: bool,
}

/// The disk after some calls.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    files: Vec<File>,
    inodes: BTreeMap<u64, usize>,
    /// What a running system sees.
    names: BTreeMap<PathBuf, Node>,
    /// What is certain.
    certain: BTreeMap<PathBuf, Node>,
}

/// What becomes of what is not certain.
#[derive(Debug, Clone, Copy)]
pub enum Luck {
    /// All of it is lost.
    None,
    /// All of it reached the disk.
    All,
    /// Names reached the disk, the bytes of unsynced files did not.
    Names,
    /// Each name by itself: a different choice for each number.
    Some(u64),
}

impl Disk {
    pub fn make(&mut self, step: &Step) {
        match step {
            Step::Create { inode, name } => {
                self.files.push(File::default());
                self.inodes.insert(*inode, self.files.len() - 1);
                if let Some(name) = name {
                    self.names.insert(name.clone(), Node::File(self.files.len() - 1));
                }
            }
            Step::Write { inode, bytes } => self.file(*inode).bytes.extend_from_slice(bytes),
            Step::SyncFile { inode } => {
                let file = self.file(*inode);
                (file.certain, file.synced) = (file.bytes.len(), true);
            }
            Step::Link { inode, to } => {
                let file = self.inodes[inode];
                self.names.insert(to.clone(), Node::File(file));
            }
            Step::Rename { from, to } => {
                let node = self.names.remove(from).unwrap();
                self.names.insert(to.clone(), node);
            }
            Step::MakeDirectory { path } => {
                self.names.entry(path.clone()).or_insert(Node::Directory);
            }
            Step::SyncDirectory { path } => {
                let inside = |name: &PathBuf| name.parent() == Some(path);
                self.certain.retain(|name, _| !inside(name));
                let now = self.names.iter().filter(|(name, _)| inside(name));
                self.certain
                    .extend(now.map(|(name, node)| (name.clone(), node.clone())));
            }
            Step::Remove { path } => {
                self.names.remove(path);
            }
            Step::Committed { .. } => {}
        }
    }

    fn file(&mut self, inode: u64) -> &mut File {
        &mut self.files[self.inodes[&inode]]
    }

    /// The files below `root` after a power cut now.
    pub fn after_crash(&self, root: &Path, luck: Luck) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut number = 0;
        let mut lucky = || {
            number += 1;
            match luck {
                Luck::None => false,
                Luck::All | Luck::Names => true,
                Luck::Some(seed) => blake3::hash(format!("{seed}/{number}").as_bytes()).as_bytes()[0] & 1 == 1,
            }
        };
        let mut names = self.certain.clone();
        for name in self.names.keys().chain(self.certain.keys()) {
            let (now, certain) = (self.names.get(name), self.certain.get(name));
            if now != certain && lucky() {
                match now {
                    Some(node) => names.insert(name.clone(), node.clone()),
                    None => names.remove(name),
                };
            }
        }
        let reachable = |name: &Path| {
            name.ancestors()
                .skip(1)
                .take_while(|above| *above != root)
                .all(|above| names.get(above) == Some(&Node::Directory))
        };
        let mut found = BTreeMap::new();
        for (name, node) in &names {
            let Node::File(file) = node else { continue };
            if !reachable(name) {
                continue;
            }
            let file = &self.files[*file];
            let bytes = match luck {
                Luck::All => file.bytes.clone(),
                // The length may be there without the bytes.
                Luck::Some(seed) if seed % 2 == 1 => {
                    let mut bytes = file.bytes.clone();
                    bytes[file.certain..].fill(0);
                    bytes
                }
                _ => file.bytes[..file.certain].to_vec(),
            };
            found.insert(name.strip_prefix(root).unwrap().to_owned(), bytes);
        }
        found
    }
}
