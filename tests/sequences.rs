//! Random sequences of changes, backups, damage and restores. Whatever happened, a backup restores bit for bit as its tree was, or
//! `verify` says that it cannot and the restore refuses.
//!
//! `PROPTEST_CASES=1000 cargo test --release --test sequences` runs more of them; what failed once is kept in `sequences.regressions`.
#![allow(missing_docs)]

#[path = "common/stored.rs"]
mod stored;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

use snapback::monitor::Silent;
use snapback::repository::verify::Level;
use snapback::repository::{ChunkClass, Repository};
use snapback::store::Store;
use snapback::store::memory::MemoryStore;
use snapback::sys::signal::Cancel;
use snapback::units::Id;
use snapback::verify::{Which, verify};

/// Names that collide often: files, directories and links take each other's place.
const NAMES: [&str; 9] = ["a", "a.x", "b", "d", "d/a", "d/b", "d/e", "d/e/a", "log.000001"];

/// Lengths around the edges of chunks, reads and sections.
const LENGTHS: [u64; 12] = [
    0,
    1,
    4095,
    16 << 10,
    (16 << 10) + 1,
    64 << 10,
    (64 << 10) - 1,
    300_000,
    1 << 20,
    (1 << 20) + 70_000,
    // Only as a hole: over the edge of a section.
    64 << 20,
    (64 << 20) + 100_000,
];

#[derive(Debug, Clone, Copy)]
enum Kind {
    Directory,
    Symlink,
    Fifo,
    File,
}

/// One step. Names and backups are numbers, taken modulo what there is.
#[derive(Debug, Clone)]
enum Step {
    Create {
        name: usize,
        length: usize,
        seed: u64,
    },
    Modify {
        name: usize,
        permille: u64,
        length: usize,
        seed: u64,
    },
    Truncate {
        name: usize,
        length: usize,
    },
    Extend {
        name: usize,
        length: usize,
        seed: u64,
    },
    Punch {
        name: usize,
        permille: u64,
        length: usize,
    },
    Rename {
        name: usize,
        to: usize,
    },
    Link {
        name: usize,
        to: usize,
    },
    Delete {
        name: usize,
    },
    Replace {
        name: usize,
        kind: Kind,
    },
    Metadata {
        name: usize,
        mode: u32,
        seconds: u64,
        attribute: Vec<u8>,
    },
    BackUp {
        class: ChunkClass,
        parent: Option<usize>,
    },
    Restore {
        backup: usize,
    },
    Verify,
    Damage {
        object: usize,
        how: Damage,
    },
}

#[derive(Debug, Clone, Copy)]
enum Damage {
    Remove,
    Cut(u64),
    Flip(u64),
    Grow,
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..NAMES.len();
    let length = 0..LENGTHS.len();
    // Bytes of noise are made one by one: the lengths of sections are for holes.
    let short = 0..LENGTHS.len() - 2;
    let kind = prop_oneof![
        Just(Kind::Directory),
        Just(Kind::Symlink),
        Just(Kind::Fifo),
        Just(Kind::File)
    ];
    let class = prop_oneof![
        Just(ChunkClass::Small),
        Just(ChunkClass::Medium),
        Just(ChunkClass::Large)
    ];
    let how = prop_oneof![
        Just(Damage::Remove),
        (0..1000u64).prop_map(Damage::Cut),
        (0..8000u64).prop_map(Damage::Flip),
        Just(Damage::Grow)
    ];
    prop_oneof![
        4 => (name.clone(), short.clone(), any::<u64>()).prop_map(|(name, length, seed)| Step::Create { name, length, seed }),
        4 => (name.clone(), 0..1000u64, short.clone(), any::<u64>())
            .prop_map(|(name, permille, length, seed)| Step::Modify { name, permille, length, seed }),
        2 => (name.clone(), length.clone()).prop_map(|(name, length)| Step::Truncate { name, length }),
        2 => (name.clone(), short.clone(), any::<u64>()).prop_map(|(name, length, seed)| Step::Extend { name, length, seed }),
        2 => (name.clone(), 0..1000u64, length).prop_map(|(name, permille, length)| Step::Punch { name, permille, length }),
        2 => (name.clone(), name.clone()).prop_map(|(name, to)| Step::Rename { name, to }),
        2 => (name.clone(), name.clone()).prop_map(|(name, to)| Step::Link { name, to }),
        1 => name.clone().prop_map(|name| Step::Delete { name }),
        2 => (name.clone(), kind).prop_map(|(name, kind)| Step::Replace { name, kind }),
        2 => (name, 0..0o10000u32, 0..4_000_000_000u64, proptest::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(name, mode, seconds, attribute)| Step::Metadata { name, mode, seconds, attribute }),
        6 => (class, proptest::option::weighted(0.85, 0..4usize)).prop_map(|(class, parent)| Step::BackUp { class, parent }),
        2 => (0..8usize).prop_map(|backup| Step::Restore { backup }),
        1 => Just(Step::Verify),
        1 => (any::<usize>(), how).prop_map(|(object, how)| Step::Damage { object, how }),
    ]
}

/// What a tree looks like: all that a backup must bring back.
type Tree = BTreeMap<PathBuf, String>;

struct World {
    dir: tempfile::TempDir,
    tree: PathBuf,
    store: MemoryStore,
    repository: Repository,
    /// What each backup must restore to, oldest first.
    expected: Vec<(Id, Tree)>,
    damaged: bool,
}

impl World {
    fn new() -> World {
        let dir = stored::scratch();
        let tree = dir.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        let store = MemoryStore::default();
        World {
            repository: stored::create(store.clone()),
            dir,
            tree,
            store,
            expected: Vec::new(),
            damaged: false,
        }
    }

    fn at(&self, name: usize) -> PathBuf {
        self.tree.join(NAMES[name])
    }

    /// The regular file of this name, if it is one.
    fn file(&self, name: usize) -> Option<File> {
        let path = self.at(name);
        let is_file = std::fs::symlink_metadata(&path).is_ok_and(|found| found.is_file());
        is_file.then(|| File::options().read(true).write(true).open(path).unwrap())
    }

    fn remove(path: &Path) {
        match std::fs::symlink_metadata(path) {
            Ok(found) if found.is_dir() => std::fs::remove_dir_all(path).unwrap(),
            Ok(_) => std::fs::remove_file(path).unwrap(),
            Err(_) => {}
        }
    }

    /// Frees a name and makes the directories above it.
    fn make_way(&self, name: usize) -> PathBuf {
        let path = self.at(name);
        World::remove(&path);
        for above in path.ancestors().skip(1).take_while(|above| *above != self.tree) {
            if std::fs::symlink_metadata(above).is_ok_and(|found| !found.is_dir()) {
                std::fs::remove_file(above).unwrap();
            }
        }
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Create { name, length, seed } => {
                std::fs::write(self.make_way(*name), stored::noise(*seed, LENGTHS[*length] as usize)).unwrap();
            }
            Step::Modify {
                name,
                permille,
                length,
                seed,
            } => {
                if let Some(file) = self.file(*name) {
                    let size = file.metadata().unwrap().len();
                    let from = size * permille / 1000;
                    let bytes = stored::noise(*seed, LENGTHS[*length].min(size - from) as usize);
                    file.write_all_at(&bytes, from).unwrap();
                }
            }
            Step::Truncate { name, length } => {
                if let Some(file) = self.file(*name) {
                    file.set_len(LENGTHS[*length]).unwrap();
                }
            }
            Step::Extend { name, length, seed } => {
                if let Some(file) = self.file(*name) {
                    let size = file.metadata().unwrap().len();
                    file.write_all_at(&stored::noise(*seed, LENGTHS[*length] as usize), size)
                        .unwrap();
                }
            }
            Step::Punch { name, permille, length } => {
                if let Some(file) = self.file(*name).filter(|_| LENGTHS[*length] > 0) {
                    let from = file.metadata().unwrap().len() * permille / 1000;
                    let how = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
                    rustix::fs::fallocate(&file, how, from, LENGTHS[*length]).unwrap();
                }
            }
            Step::Rename { name, to } => self.move_or_link(*name, *to, |from, to| std::fs::rename(from, to)),
            Step::Link { name, to } => {
                if self.file(*name).is_some() {
                    self.move_or_link(*name, *to, |from, to| std::fs::hard_link(from, to));
                }
            }
            Step::Delete { name } => World::remove(&self.at(*name)),
            Step::Replace { name, kind } => self.replace(*name, *kind),
            Step::Metadata {
                name,
                mode,
                seconds,
                attribute,
            } => self.dress(*name, *mode, *seconds, attribute),
            Step::BackUp { class, parent } => self.back_up(*class, *parent),
            Step::Restore { backup } => {
                if let Some(at) = backup.checked_rem(self.expected.len()) {
                    self.check_restore(at, None);
                }
            }
            Step::Verify => {
                self.lost();
            }
            Step::Damage { object, how } => self.damage(*object, *how),
        }
    }

    fn move_or_link(&self, name: usize, to: usize, make: impl Fn(&Path, &Path) -> std::io::Result<()>) {
        let (from, to_path) = (self.at(name), self.at(to));
        // Not over itself, nor into or over what it lies in.
        let apart = !from.starts_with(&to_path) && !to_path.starts_with(&from);
        if apart && std::fs::symlink_metadata(&from).is_ok() {
            self.make_way(to);
            make(&from, &to_path).unwrap();
        }
    }

    fn replace(&self, name: usize, kind: Kind) {
        let path = self.make_way(name);
        match kind {
            Kind::Directory => std::fs::create_dir(path).unwrap(),
            Kind::Symlink => symlink("../nowhere/in particular", path).unwrap(),
            Kind::Fifo => rustix::fs::mknodat(
                rustix::fs::CWD,
                path,
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::from_raw_mode(0o640),
                0,
            )
            .unwrap(),
            Kind::File => std::fs::write(path, "").unwrap(),
        }
    }

    fn dress(&self, name: usize, mode: u32, seconds: u64, attribute: &[u8]) {
        let path = self.at(name);
        let Ok(found) = std::fs::symlink_metadata(&path) else {
            return;
        };
        if found.is_symlink() {
            return;
        }
        // Without root the owner must go on being able to read and enter.
        let mode = if found.is_dir() { mode | 0o700 } else { mode | 0o600 };
        if found.is_file() || found.is_dir() {
            let set = rustix::fs::setxattr(&path, "user.snapback", attribute, rustix::fs::XattrFlags::empty());
            // A filesystem in memory may have no attributes of users.
            assert!(matches!(set, Ok(()) | Err(rustix::io::Errno::NOTSUP)), "{set:?}");
            let time = SystemTime::UNIX_EPOCH + Duration::new(seconds, 123_456_789);
            File::open(&path).unwrap().set_modified(time).unwrap();
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn back_up(&mut self, class: ChunkClass, parent: Option<usize>) {
        let parent = parent
            .and_then(|back| self.expected.iter().rev().nth(back))
            .map(|(id, _)| *id);
        let tree = look(&self.tree);
        let done = stored::back_up_in_chunks(&self.repository, &self.tree, parent, class);
        // A parent whose table cannot be read is refused, and the caller goes on without one.
        let done = match done {
            Err(error) if self.damaged && parent.is_some() => {
                assert_eq!(error.kind(), snapback::error::Kind::Damaged, "{error}");
                stored::back_up_in_chunks(&self.repository, &self.tree, None, class)
            }
            done => done,
        };
        self.expected.push((done.unwrap().id, tree));
    }

    fn damage(&mut self, object: usize, how: Damage) {
        let objects: Vec<_> = self
            .store
            .objects()
            .into_iter()
            .filter(|(key, _)| key.starts_with("packs/"))
            .collect();
        let Some((key, bytes)) = object.checked_rem(objects.len()).map(|at| &objects[at]) else {
            return;
        };
        self.damaged = true;
        let length = bytes.len() as u64;
        match how {
            Damage::Remove => self.store.delete(key).unwrap(),
            Damage::Cut(permille) => self
                .store
                .tamper(key, bytes[..(length * permille / 1000) as usize].to_vec()),
            Damage::Grow => self.store.tamper(key, [&bytes[..], b"more"].concat()),
            Damage::Flip(at) => {
                let mut bytes = bytes.to_vec();
                if let Some(byte) = bytes.get_mut((length * (at / 8) / 1000) as usize) {
                    *byte ^= 1 << (at % 8);
                }
                self.store.tamper(key, bytes);
            }
        }
    }

    /// The backups that `verify` calls damaged.
    fn lost(&self) -> Vec<Id> {
        let report = verify(&self.repository, &Which::All, Level::Data, 2, &Silent, &Cancel::new()).unwrap();
        assert!(self.damaged || report.good, "{:?}", report.damage);
        assert_eq!(report.backups as usize, self.expected.len());
        report.damage.into_iter().flat_map(|damage| damage.backups).collect()
    }

    /// Restores a backup and compares. `lost`: what `verify` said of it, where it was asked.
    fn check_restore(&self, at: usize, lost: Option<bool>) {
        let (id, expected) = &self.expected[at];
        let target = self.dir.path().join("out");
        match stored::try_restore(&self.repository, &id.to_string(), &self.tree, &target) {
            Ok(root) => {
                assert_ne!(lost, Some(true), "{id} restores, but verify calls it damaged");
                assert_eq!(look(&root), *expected, "{id} is not what it was");
                std::fs::remove_dir_all(&target).unwrap();
            }
            Err(error) => {
                assert!(self.damaged && lost != Some(false), "{id}: {error}");
                assert_eq!(error.kind(), snapback::error::Kind::Damaged, "{error}");
                assert!(!target.exists());
                self.check_rescue(id, expected, &target);
            }
        }
    }

    /// Going on over damage: what has its own name is as it was.
    fn check_rescue(&self, id: &Id, expected: &Tree, target: &Path) {
        let Ok((root, report)) = stored::rescue(&self.repository, &id.to_string(), &self.tree, target) else {
            return;
        };
        let content = |line: &str| line.split(" | ").next().unwrap().to_owned();
        let other = |path: &Path| {
            report
                .lost
                .files
                .iter()
                .any(|file| file.at.as_ref() == Some(&root.join(path)))
        };
        for (path, line) in look(&root).iter().filter(|(path, _)| !other(path)) {
            assert_eq!(content(line), content(&expected[path]), "{id}: {}", path.display());
        }
        std::fs::remove_dir_all(target).unwrap();
        if let Some(list) = report.lost.list {
            std::fs::remove_file(list).unwrap();
        }
    }

    /// At the end every backup is restored, and `verify` must have known how that goes.
    fn check_all(&self) {
        let lost = self.lost();
        for (at, (id, _)) in self.expected.iter().enumerate() {
            self.check_restore(at, Some(lost.contains(id)));
        }
    }
}

/// Everything below a directory: content first, then metadata.
fn look(dir: &Path) -> Tree {
    let mut tree = stored::fingerprint(dir);
    for (path, line) in &mut tree {
        let at = dir.join(path);
        let found = std::fs::symlink_metadata(&at).unwrap();
        let mut value = [0; 100];
        let attribute = rustix::fs::lgetxattr(&at, "user.snapback", &mut value[..])
            .map_or(Vec::new(), |length| value[..length].to_vec());
        let content = line.split(" links=").next().unwrap().split(" mode=").next().unwrap();
        let kind = found.mode() & 0o170_000;
        *line = format!(
            "{kind:o} {content} | {line} gid={} attribute={attribute:?}",
            found.gid()
        );
    }
    tree
}

fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok());
    ProptestConfig {
        cases: cases.unwrap_or(120),
        max_shrink_iters: 300,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/sequences.regressions"))),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_backup_restores_as_its_tree_was(steps in proptest::collection::vec(step(), 1..40)) {
        let mut world = World::new();
        steps.iter().for_each(|step| world.take(step));
        world.take(&Step::BackUp { class: ChunkClass::Medium, parent: Some(0) });
        world.check_all();
    }
}

/// The repository is opened anew between steps, as every command does it.
#[test]
fn a_long_sequence_through_newly_opened_repositories() {
    let mut world = World::new();
    for number in 0..30usize {
        let seed = number as u64;
        world.take(&Step::Create {
            name: number % NAMES.len(),
            length: number % 10,
            seed,
        });
        world.take(&Step::Modify {
            name: (number + 3) % NAMES.len(),
            permille: 500,
            length: 3,
            seed,
        });
        world.repository = Repository::open(Arc::new(world.store.clone())).unwrap();
        let class = [ChunkClass::Small, ChunkClass::Medium, ChunkClass::Large][number % 3];
        world.take(&Step::BackUp {
            class,
            parent: Some(number % 2),
        });
    }
    world.check_all();
}
