//! One flipped bit, or one missing or cut object, anywhere in a repository: `verify` names it, and no restore gives it out as good.

use super::stored;

use snapback::monitor::Silent;
use snapback::repository::Repository;
use snapback::repository::verify::Level;
use snapback::store::memory::MemoryStore;
use snapback::sys::signal::Cancel;

struct Scene {
    _dir: tempfile::TempDir,
    tree: std::path::PathBuf,
    store: MemoryStore,
    scratch: tempfile::TempDir,
}

impl Scene {
    fn new() -> Scene {
        let dir = stored::scratch();
        let tree = dir.path().join("tree");
        stored::sample(&tree);
        let store = MemoryStore::default();
        let repository = stored::create(store.clone());
        let first = stored::back_up(&repository, &tree, None);
        std::fs::write(tree.join("small"), "changed").unwrap();
        stored::back_up(&repository, &tree, Some(first.id));
        Scene {
            _dir: dir,
            tree,
            store,
            scratch: stored::scratch(),
        }
    }

    /// The object that verification names; `None` when it finds nothing.
    fn verified(&self, level: Level) -> Option<Vec<String>> {
        let repository = match Repository::open(std::sync::Arc::new(self.store.clone())) {
            Ok(repository) => repository,
            Err(error) => return Some(vec![error.to_string()]),
        };
        let found = repository.verify(None, level, 2, &Silent, &Cancel::new()).unwrap();
        (!found.damage.is_empty()).then(|| found.damage.into_iter().map(|damage| damage.object).collect())
    }

    /// Restores every backup that can be; what comes out must be whole.
    fn nothing_bad_is_restored(&self, good: &[std::collections::BTreeMap<std::path::PathBuf, String>]) {
        let Ok(repository) = Repository::open(std::sync::Arc::new(self.store.clone())) else {
            return;
        };
        for listed in repository.list().unwrap() {
            let Ok(manifest) = listed.manifest else { continue };
            let target = self.scratch.path().join(manifest.id.to_string());
            match stored::try_restore(&repository, &manifest.id.to_string(), &self.tree, &target) {
                Ok(root) => {
                    assert!(
                        good.contains(&stored::fingerprint(&root)),
                        "a damaged backup was restored as if good"
                    );
                    std::fs::remove_dir_all(&target).unwrap();
                }
                Err(_) => assert!(!target.exists(), "a failed restore left something at its destination"),
            }
        }
    }
}

#[test]
fn an_undamaged_repository_verifies_and_restores() {
    let scene = Scene::new();
    assert_eq!(scene.verified(Level::Structure), None);
    assert_eq!(scene.verified(Level::Data), None);
    let repository = Repository::open(std::sync::Arc::new(scene.store.clone())).unwrap();
    let root = stored::try_restore(&repository, "latest", &scene.tree, &scene.scratch.path().join("out")).unwrap();
    assert_eq!(stored::fingerprint(&root), stored::fingerprint(&scene.tree));
}

#[test]
fn every_flipped_bit_is_named() {
    let scene = Scene::new();
    let repository = Repository::open(std::sync::Arc::new(scene.store.clone())).unwrap();
    let good: Vec<_> = repository
        .list()
        .unwrap()
        .iter()
        .map(|listed| {
            let id = listed.manifest.as_ref().unwrap().id.to_string();
            let target = scene.scratch.path().join(&id);
            let fingerprint =
                stored::fingerprint(&stored::try_restore(&repository, &id, &scene.tree, &target).unwrap());
            std::fs::remove_dir_all(&target).unwrap();
            fingerprint
        })
        .collect();
    for (key, bytes) in scene.store.objects() {
        // Every byte of what is small; of packs the edges, and samples between.
        let step = (bytes.len() / 60).max(1);
        let edges = (0..bytes.len().min(48)).chain(bytes.len().saturating_sub(200)..bytes.len());
        let places: std::collections::BTreeSet<usize> = edges.chain((0..bytes.len()).step_by(step)).collect();
        for (number, at) in places.into_iter().enumerate() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 1 << (number % 8);
            scene.store.tamper(&key, damaged);
            let named = scene
                .verified(Level::Data)
                .unwrap_or_else(|| panic!("a flipped bit in {key} at {at} was not found"));
            assert!(
                named.iter().any(|object| object.contains(&key)),
                "{key} at {at}: {named:?} were named"
            );
            // Restores take longer than checks: a few per object.
            if number % 40 == 0 {
                scene.nothing_bad_is_restored(&good);
            }
            scene.store.tamper(&key, bytes.to_vec());
        }
    }
    assert_eq!(scene.verified(Level::Data), None);
}

#[test]
fn missing_and_cut_objects_are_named_by_the_quick_check_as_well() {
    use snapback::store::Store;
    let scene = Scene::new();
    for (key, bytes) in scene.store.objects() {
        for length in [0, 1, bytes.len() / 2, bytes.len() - 1] {
            scene.store.tamper(&key, bytes[..length].to_vec());
            assert!(
                scene.verified(Level::Structure).is_some(),
                "{key} cut to {length} was not found"
            );
        }
        let mut longer = bytes.to_vec();
        longer.push(0);
        scene.store.tamper(&key, longer);
        assert!(
            scene.verified(Level::Structure).is_some(),
            "{key} with a byte too many was not found"
        );
        scene.store.delete(&key).unwrap();
        let missing = scene.verified(Level::Structure);
        // A backup whose manifest is gone is none; whatever else is gone is missed.
        assert!(
            missing.is_some() || key.starts_with("manifests/"),
            "{key} is gone and was not missed"
        );
        scene.store.tamper(&key, bytes.to_vec());
    }
}
