//! The real store's own calls: each made to fail, and a power cut after each.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use snapback::monitor::Silent;
use snapback::repository::Repository;
use snapback::repository::verify::Level;
use snapback::store::DirectoryStore;
use snapback::sys::signal::Cancel;
use snapback::units::Id;

use super::disk::{Disk, Log, Luck, Step};
use super::stored;

/// A directory for a repository, and the trees as they were at each backup.
struct Scene {
    dir: tempfile::TempDir,
    root: PathBuf,
    tree: PathBuf,
    log: Log,
}

impl Scene {
    fn new() -> Scene {
        let dir = stored::scratch();
        let (root, tree) = (dir.path().join("repository"), dir.path().join("tree"));
        std::fs::create_dir_all(tree.join("deep")).unwrap();
        std::fs::write(tree.join("small"), "hello").unwrap();
        std::fs::write(tree.join("noise"), stored::noise(1, 300_000)).unwrap();
        // Its map is long enough to lie in a pack.
        std::fs::write(tree.join("deep/table.ibd"), stored::noise(2, 1_200_000)).unwrap();
        Scene {
            dir,
            root,
            tree,
            log: Log::default(),
        }
    }

    fn create(&self) -> Repository {
        Repository::create(Arc::new(DirectoryStore::create(&self.root).unwrap())).unwrap()
    }

    fn open(&self) -> snapback::repository::Result<Repository> {
        Repository::open(Arc::new(DirectoryStore::open(&self.root)?))
    }

    /// Another state of the tree for each number.
    fn change(&self, number: usize) {
        std::fs::write(self.tree.join("small"), format!("change {number}")).unwrap();
        let file = std::fs::File::options()
            .write(true)
            .open(self.tree.join("deep/table.ibd"))
            .unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &stored::noise(number as u64, 900), 70_000 * number as u64)
            .unwrap();
    }

    /// Backs up, and remembers the tree and that the tool said it is done.
    fn back_up(&self, repository: &Repository, parent: Option<Id>) -> snapback::Result<Id> {
        let manifest = stored::try_back_up(repository, &self.tree, parent)?;
        self.log.push(Step::Committed {
            id: manifest.id,
            tree: self.keep(),
        });
        Ok(manifest.id)
    }

    /// A copy of the tree as it is.
    fn keep(&self) -> PathBuf {
        let copy = self.dir.path().join(format!("kept-{}", Id::random()));
        let status = std::process::Command::new("cp")
            .arg("-a")
            .arg(&self.tree)
            .arg(&copy)
            .status();
        assert!(status.unwrap().success());
        copy
    }
}

/// What was committed must be there, whole; what else is there must verify; and the next backup works.
fn check(scene: &Scene, at: &Path, promised: &BTreeMap<Id, PathBuf>) -> Result<(), String> {
    let repository = match DirectoryStore::open(at)
        .map_err(Into::into)
        .and_then(|store| Repository::open(Arc::new(store)))
    {
        Ok(repository) => repository,
        Err(error) if promised.is_empty() => return said(&error.to_string()),
        Err(error) => return Err(error.to_string()),
    };
    let listed = repository.list().map_err(|error| error.to_string())?;
    if let Some(half) = listed.iter().find(|one| one.manifest.is_err()) {
        return Err(format!("a half manifest: {half:?}"));
    }
    let found = repository
        .verify(None, Level::Data, 1, &Silent, &Cancel::new())
        .map_err(|error| error.to_string())?;
    let manifests: Vec<_> = listed.into_iter().map(|one| one.manifest.unwrap()).collect();
    // A pack that nobody needs may be torn; nothing that a backup needs may be.
    if let Some(damage) = found.damage.iter().find(|damage| !damage.backups.is_empty()) {
        return Err(format!("{damage:?}"));
    }
    let there: BTreeSet<Id> = manifests.iter().map(|manifest| manifest.id).collect();
    for (id, tree) in promised {
        if !there.contains(id) {
            return Err(format!("the committed backup {id} is gone"));
        }
        let target = at.with_extension("restored");
        let root = stored::try_restore(&repository, &id.to_string(), &scene.tree, &target)
            .map_err(|error| error.to_string())?;
        let same = stored::fingerprint(&root) == stored::fingerprint(tree);
        std::fs::remove_dir_all(&target).unwrap();
        if !same {
            return Err(format!("{id} was restored otherwise than it was"));
        }
    }
    let next = stored::try_back_up(&repository, &scene.tree, manifests.last().map(|manifest| manifest.id));
    let next = next.map_err(|error| format!("the next backup: {error}"))?;
    let found = repository
        .verify(Some(&next.id.to_string()), Level::Data, 1, &Silent, &Cancel::new())
        .map_err(|error| error.to_string())?;
    match found.damage.is_empty() {
        true => Ok(()),
        false => Err(format!("the next backup: {:?}", found.damage)),
    }
}

/// Before the first backup was promised a repository may not be there yet; then it must say so, and `init` must work.
fn said(error: &str) -> Result<(), String> {
    let clear = error.contains("there is no repository") || error.contains("is not in the store");
    clear.then_some(()).ok_or_else(|| error.to_owned())
}

/// Lays out every state that a power cut can leave after any of the steps; returns the first bad one.
fn sweep(scene: &Scene, steps: &[Step], lucks: &[Luck]) -> (usize, Option<String>) {
    let (mut disk, mut promised, mut seen) = (Disk::default(), BTreeMap::new(), BTreeSet::new());
    // The repository's parent directory is there, and certain.
    for (number, step) in steps.iter().enumerate() {
        disk.make(step);
        if let Step::Committed { id, tree } = step {
            promised.insert(*id, tree.clone());
        }
        for luck in lucks {
            let files = disk.after_crash(scene.dir.path(), *luck);
            let mut hash = blake3::Hasher::new();
            for (name, bytes) in &files {
                hash.update(name.as_os_str().as_encoded_bytes())
                    .update(&(bytes.len() as u64).to_le_bytes())
                    .update(bytes);
            }
            if !seen.insert((promised.len(), *hash.finalize().as_bytes())) {
                continue;
            }
            let at = scene.dir.path().join("after");
            std::fs::create_dir(&at).unwrap();
            for (name, bytes) in &files {
                let path = at.join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, bytes).unwrap();
            }
            let answer = check(scene, &at.join("repository"), &promised);
            std::fs::remove_dir_all(&at).unwrap();
            if let Err(error) = answer {
                let what = format!(
                    "after step {number} of {} ({}), {luck:?}: {error}",
                    steps.len(),
                    short(step)
                );
                return (seen.len(), Some(what));
            }
        }
    }
    (seen.len(), None)
}

fn short(step: &Step) -> String {
    format!("{step:?}").chars().take(120).collect()
}

fn lucks() -> Vec<Luck> {
    let mut all = vec![Luck::None, Luck::All, Luck::Names];
    all.extend((0..20).map(Luck::Some));
    all
}

/// `init`, a backup, a second one with the first as parent: the real calls.
fn recorded(scene: &Scene, nameless: bool) -> Vec<Step> {
    let _watch = match nameless {
        true => scene.log.record(&scene.root, None),
        false => scene.log.record_without_tmpfile(&scene.root),
    };
    // The store syncs the name of its own directory in the one above, which is not watched.
    let repository = scene.create();
    scene.log.push(Step::MakeDirectory {
        path: scene.root.clone(),
    });
    scene.log.push(Step::SyncDirectory {
        path: scene.dir.path().to_owned(),
    });
    let first = scene.back_up(&repository, None).unwrap();
    scene.change(1);
    let again = scene.open().unwrap();
    scene.back_up(&again, Some(first)).unwrap();
    scene.log.steps()
}

#[test]
fn a_power_cut_after_any_call_leaves_every_committed_backup_whole() {
    for nameless in [true, false] {
        every_power_cut(nameless);
    }
}

/// With files that get their name by linkat(2), and with files that are renamed to it.
fn every_power_cut(nameless: bool) {
    let scene = Scene::new();
    let steps = recorded(&scene, nameless);
    assert_eq!(steps.iter().any(|step| matches!(step, Step::Rename { .. })), !nameless);
    let kinds = |wanted: fn(&Step) -> bool| steps.iter().filter(|step| wanted(step)).count();
    let names = kinds(|step| matches!(step, Step::Link { .. } | Step::Rename { .. }));
    assert!(names > 6, "{steps:?}");
    assert!(kinds(|step| matches!(step, Step::SyncFile { .. })) > 6);
    let (states, bad) = sweep(&scene, &steps, &lucks());
    assert_eq!(bad, None);
    // Each new name is a state of its own, with luck; without luck there is at least the empty disk. How many more there are hangs on
    // the random ids' order.
    assert!(states > names, "only {states} different states, with {names} names");
}

/// The sweep would see a missing fsync: without any single one of them some power cut loses something.
#[test]
fn every_sync_that_the_store_makes_is_needed() {
    let scene = Scene::new();
    let steps = recorded(&scene, true);
    let syncs: Vec<usize> = (0..steps.len()).filter(|at| steps[*at].is_sync()).collect();
    let mut idle = Vec::new();
    for at in syncs {
        // What is lost for it shows at the latest when the next backup is promised: the sweep may begin there.
        let mut without = steps.clone();
        let left_out = without.remove(at);
        if sweep(&scene, &without, &[Luck::None, Luck::Names]).1.is_none() {
            idle.push(left_out);
        }
    }
    // A directory that was synced before, and got nothing new since, is synced again for writers that died; nothing else is idle.
    for step in &idle {
        let again = |step: &Step| steps.iter().filter(|other| *other == step).count() > 1;
        assert!(
            matches!(step, Step::SyncDirectory { .. }) && again(step),
            "nothing misses {}",
            short(step)
        );
    }
}

/// Fails at each call of a backup in turn, for each reason a disk can give.
#[test]
fn a_call_that_fails_leaves_a_good_repository_and_the_next_backup_works() {
    for errno in [libc::ENOSPC, libc::EDQUOT, libc::EIO] {
        let scene = Scene::new();
        let first = scene.back_up(&scene.create(), None).unwrap();
        let kept = scene.keep();
        scene.change(1);
        let before = objects(&scene.root);
        // Every call for one reason, samples for the others: the way through the code is the same.
        let (mut at, stride) = (1, if errno == libc::ENOSPC { 1 } else { 3 });
        loop {
            let repository = scene.open().unwrap();
            let watch = Log::default().record(&scene.root, Some((at, errno)));
            let answer = stored::try_back_up(&repository, &scene.tree, Some(first));
            drop(repository);
            drop(watch);
            let Err(error) = answer else {
                assert!(at > 15, "only {at} calls were met");
                break;
            };
            let wanted = std::io::Error::from_raw_os_error(errno).to_string();
            assert!(error.to_string().contains(&wanted), "call {at}: {error}");
            let listed = scene.open().unwrap().list().unwrap();
            if listed.len() == 1 {
                assert_eq!(objects(&scene.root), before, "call {at} left objects behind");
            }
            let copy = scene.dir.path().join("copy");
            let status = std::process::Command::new("cp")
                .arg("-a")
                .arg(&scene.root)
                .arg(&copy)
                .status();
            assert!(status.unwrap().success());
            check(&scene, &copy, &[(first, kept.clone())].into()).unwrap_or_else(|error| panic!("call {at}: {error}"));
            std::fs::remove_dir_all(&copy).unwrap();
            for extra in listed
                .iter()
                .filter_map(|one| one.manifest.as_ref().ok())
                .filter(|one| one.id != first)
            {
                // Only the sync after the manifest may leave a backup that is whole and was not promised.
                assert!(
                    error.to_string().contains("sync"),
                    "call {at}: {} is there: {error}",
                    extra.id
                );
            }
            reset(&scene.root, &before);
            at += stride;
        }
    }
}

/// A run that dies in the middle, then a whole one, then the power goes: directories that the dead one made are not certain for the
/// other one either.
#[test]
fn what_a_dead_run_made_is_not_taken_for_durable() {
    let scene = Scene::new();
    let watch = scene.log.record(&scene.root, None);
    let repository = scene.create();
    scene.log.push(Step::MakeDirectory {
        path: scene.root.clone(),
    });
    scene.log.push(Step::SyncDirectory {
        path: scene.dir.path().to_owned(),
    });
    drop(watch);
    // Dead: made every directory there is, synced none.
    let mut directories = vec!["packs".to_owned(), "manifests".to_owned(), "manifests/test".to_owned()];
    directories.extend((0..=255).map(|number| format!("packs/{number:02x}")));
    for directory in directories {
        let path = scene.root.join(directory);
        std::fs::create_dir(&path).unwrap();
        scene.log.push(Step::MakeDirectory { path });
    }
    let watch = scene.log.record(&scene.root, None);
    scene.back_up(&repository, None).unwrap();
    drop(watch);
    assert_eq!(sweep(&scene, &scene.log.steps(), &lucks()).1, None);
}

fn objects(root: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut left = vec![root.to_owned()];
    while let Some(at) = left.pop() {
        for entry in std::fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                found.insert(path);
            }
        }
    }
    found
}

fn reset(root: &Path, to: &BTreeSet<PathBuf>) {
    for path in objects(root).difference(to) {
        std::fs::remove_file(path).unwrap();
    }
}
