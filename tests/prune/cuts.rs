//! A prune that dies at any step, with or without a power cut: everything needed is there, and the next prune finishes the work.

use std::sync::Arc;

use snapback::monitor::Silent;
use snapback::repository::Repository;
use snapback::store::Error;
use snapback::store::memory::MemoryStore;
use snapback::sys::signal::Cancel;

use super::hooked::{Hooked, Step};
use super::scene::{Scene, assert_good};

/// A repository in which a prune deletes, copies and marks at once.
fn busy() -> Scene {
    let mut scene = Scene::new();
    scene.write("a", &(0..20).collect::<Vec<_>>());
    scene.write("gone", &(50..55).collect::<Vec<_>>());
    let first = scene.back_up(None);
    std::fs::remove_file(scene.tree().join("gone")).unwrap();
    let second = scene.back_up(Some(&first));
    scene.write("b", &[70, 71, 72, 73]);
    let third = scene.back_up(Some(&second));
    scene.remove(&second);
    scene.prune();
    scene.later(25);
    scene.write(
        "a",
        &(0..20).map(|n| if n < 3 { n } else { 100 + n }).collect::<Vec<_>>(),
    );
    scene.back_up(Some(&third));
    scene.remove(&first);
    scene.remove(&third);
    scene
}

#[test]
fn a_prune_may_end_anywhere() {
    let scene = busy();
    let before = scene.store.objects();
    let copy = |objects: &MemoryStore| {
        let store = MemoryStore::default();
        objects
            .objects()
            .iter()
            .for_each(|(key, bytes)| store.tamper(key, bytes.to_vec()));
        snapback::store::Store::sync(&store).unwrap();
        store
    };
    let mut steps = 0;
    loop {
        let store = copy(&scene.store);
        let (dying, left) = Hooked::dying(&store, steps);
        let repository = Repository::open(Arc::new(dying)).unwrap();
        let result = repository.prune(&scene.options(), &Silent, &Cancel::new());
        if result.is_ok() {
            assert!(*left.lock().unwrap() < 2 && steps > 8, "{steps} steps");
            break;
        }
        // As it is, and after a power cut that kept what was synced, or that and some of the rest.
        for (what, after) in [
            ("as it is", store.clone()),
            ("a power cut", store.after_crash(|_| false)),
            (
                "a power cut that kept marks",
                store.after_crash(|key| key.starts_with("doomed/")),
            ),
        ] {
            let repository = Repository::open(Arc::new(after.clone())).unwrap();
            assert_good(&repository, &format!("{what}, step {steps}"));
            let mut options = scene.options();
            for _ in 0..3 {
                repository.prune(&options, &Silent, &Cancel::new()).unwrap();
                options.now += super::scene::GRACE;
            }
            assert_good(&repository, &format!("{what}, step {steps}, then pruned"));
            let store: &dyn snapback::store::Store = &after;
            assert!(
                store.list("doomed/").unwrap().is_empty(),
                "{what}, step {steps}: marks are left"
            );
            let small = after
                .objects()
                .iter()
                .filter(|(key, _)| key.starts_with("packs/"))
                .map(|(_, bytes)| bytes.len())
                .sum::<usize>();
            assert!(small < 26 * (64 << 10), "{what}, step {steps}: {small} bytes are left");
        }
        steps += 1;
    }
    assert_eq!(scene.store.objects(), before);
}

#[test]
fn a_wish_to_end_is_heeded_and_harms_nothing() {
    let scene = busy();
    let cancel = Cancel::new();
    cancel.cancel(15);
    let ended = scene.repository.prune(&scene.options(), &Silent, &cancel).unwrap_err();
    assert!(matches!(ended, snapback::Error::Interrupted(15)), "{ended}");
    scene.assert_good("after a cancelled prune");
}

#[test]
fn without_room_for_copies_the_rest_is_done_all_the_same() {
    let scene = busy();
    let full = Hooked::new(&scene.store, |step, key| match step {
        Step::Put if key.starts_with("packs/") => Err(Error::Io {
            operation: "write",
            key: key.to_owned(),
            store: "full".to_owned(),
            source: std::io::Error::from(std::io::ErrorKind::StorageFull),
        }),
        _ => Ok(()),
    });
    let before = scene.bytes();
    let repository = Repository::open(Arc::new(full)).unwrap();
    let report = repository.prune(&scene.options(), &Silent, &Cancel::new()).unwrap();
    assert!(report.failed.len() == 1 && report.copied.objects == 0, "{report:?}");
    assert!(
        report.deleted.objects > 0 && scene.bytes() < before,
        "nothing was given back"
    );
    assert!(report.damaged.is_empty(), "what could not be copied was called damaged");
    scene.assert_good("without room");
    assert_eq!(scene.prune().copied.objects, 1, "the next one did not go on");
}

/// The worst of power cuts: deletions reach the disk, names that were not synced do not.
#[test]
fn a_copy_is_durable_before_what_it_was_made_of_goes() {
    let mut scene = Scene::new();
    scene.write("a", &(0..20).collect::<Vec<_>>());
    let first = scene.back_up(None);
    let (repository, options, gone) = (scene.repository.clone(), scene.options(), first.clone());
    let hooked = Hooked::once(&scene.store, Step::Put, "manifests/", move || {
        repository.remove(&gone).unwrap();
        repository.prune(&options, &Silent, &Cancel::new()).unwrap();
    });
    scene.back_up_over(hooked, Some(&first)).unwrap();
    scene.later(25);
    for steps in 0.. {
        let store = MemoryStore::default();
        let before = scene.store.objects();
        before.iter().for_each(|(key, bytes)| store.tamper(key, bytes.to_vec()));
        snapback::store::Store::sync(&store).unwrap();
        let (dying, _) = Hooked::dying(&store, steps);
        let repository = Repository::open(Arc::new(dying)).unwrap();
        let done = repository.prune(&scene.options(), &Silent, &Cancel::new()).is_ok();
        let (now, after) = (store.objects(), store.after_crash(|_| false));
        for key in after.objects().into_keys().filter(|key| !now.contains_key(key)) {
            snapback::store::Store::delete(&after, &key).unwrap();
        }
        assert_good(&Repository::open(Arc::new(after)).unwrap(), &format!("step {steps}"));
        if done {
            assert!(
                steps > 4 && now.keys().any(|key| key.contains(".1-")),
                "nothing was copied"
            );
            return;
        }
    }
}
