//! The interleavings that the model in scripts/model/prune.py is about, on the real code.

use snapback::monitor::Silent;
use snapback::repository::Repository;
use snapback::store::Store;
use snapback::sys::signal::Cancel;
use std::sync::{Arc, Mutex};

use super::hooked::{Hooked, Step};
use super::scene::{GRACE, Scene};
use super::stored;

/// A scene with one backup of twenty chunks.
fn begun() -> (Scene, snapback::repository::Manifest) {
    let scene = Scene::new();
    scene.write("a", &(0..20).collect::<Vec<_>>());
    let first = scene.back_up(None);
    (scene, first)
}

/// What removes the first backup and prunes, from elsewhere, at the scene's time.
fn elsewhere(scene: &Scene, first: &snapback::repository::Manifest) -> impl FnOnce() + Send + 'static {
    let (repository, options, first) = (scene.repository.clone(), scene.options(), first.clone());
    move || {
        repository.remove(&first).unwrap();
        repository.prune(&options, &Silent, &Cancel::new()).unwrap();
    }
}

#[test]
fn a_mark_after_the_check_does_not_cost_the_backup() {
    let (mut scene, first) = begun();
    let hooked = Hooked::once(&scene.store, Step::Put, "manifests/", elsewhere(&scene, &first));
    let second = scene.back_up_over(hooked, Some(&first)).unwrap();
    assert!(
        !scene.keys("doomed/").is_empty(),
        "nothing was marked: the test tests nothing"
    );
    let expected = stored::fingerprint(&scene.tree());
    scene.later(25);
    let report = scene.prune();
    assert!(report.copied.objects > 0 && report.deleted.objects > 0, "{report:?}");
    scene.assert_good("what a manifest refers to that came after the mark");
    scene.assert_restores(second.id, &expected);
    // A mark is never taken back: what was marked is gone, the copy has another name.
    let objects = scene.keys("packs/");
    let data: Vec<&String> = objects
        .iter()
        .filter(|key| scene.store.objects()[*key][10] == 1)
        .collect();
    assert!(data.iter().all(|key| key.contains('.')), "{data:?}");
}

#[test]
fn a_mark_before_the_check_stops_the_backup_and_nothing_of_it_stays() {
    let (scene, first) = begun();
    // The first sync of a commit comes after all packs, before the check.
    let hooked = Hooked::once(&scene.store, Step::Sync, "", elsewhere(&scene, &first));
    let refused = scene.back_up_over(hooked, Some(&first)).unwrap_err().to_string();
    assert!(refused.contains("run the backup again"), "{refused}");
    assert!(scene.keys("manifests/").is_empty());
    assert_eq!(
        scene.keys("packs/").len(),
        scene.keys("doomed/").len(),
        "the failed backup left packs"
    );
    // Again, it stores what it needs itself.
    let expected = stored::fingerprint(&scene.tree());
    let again = scene.back_up(None);
    let mut scene = scene;
    scene.later(25);
    scene.prune();
    scene.assert_good("after the marked packs went");
    scene.assert_restores(again.id, &expected);
}

#[test]
fn a_compaction_meanwhile_stops_a_backup_only_when_it_dropped_what_that_refers_to() {
    for (refers_to, good) in [(3, true), (10, false)] {
        let (mut scene, first) = begun();
        let mixed = |old: u64, new: u64| (0..20).map(|n| if n < old { n } else { new + n }).collect::<Vec<_>>();
        // Another backup needs the first five chunks of the first one's pack, so that these are copied.
        scene.write("a", &mixed(5, 200));
        scene.back_up(Some(&first));
        scene.write("a", &mixed(refers_to, 300));
        let (forget, store) = (elsewhere(&scene, &first), scene.store.clone());
        let copies = Arc::new(Mutex::new(0));
        let seen = Arc::clone(&copies);
        let hooked = Hooked::once(&scene.store, Step::Sync, "", move || {
            forget();
            let keys = store.list("packs/").unwrap();
            *seen.lock().unwrap() = keys.iter().filter(|key| key.contains(".1-")).count();
        });
        let result = scene.back_up_over(hooked, Some(&first));
        assert_eq!(
            *copies.lock().unwrap(),
            1,
            "nothing was compacted: the test tests nothing"
        );
        match result {
            Ok(_) => assert!(good, "it refers to what was dropped"),
            Err(error) => assert!(
                !good && error.to_string().contains("run the backup again"),
                "{refers_to}: {error}"
            ),
        }
        scene.later(25);
        scene.prune();
        scene.assert_good("after a compaction beside a backup");
    }
}

#[test]
fn a_backup_that_begins_after_the_mark_stores_again_and_the_mark_is_obeyed() {
    let (mut scene, first) = begun();
    let hooked = Hooked::once(&scene.store, Step::Put, "manifests/", elsewhere(&scene, &first));
    let second = scene.back_up_over(hooked, Some(&first)).unwrap();
    // Its data is doomed now, though it is needed.
    let third = scene.back_up(Some(&second));
    assert!(third.sizes.stored > 20 * (64 << 10), "it referred to what is doomed");
    let expected = stored::fingerprint(&scene.tree());
    scene.remove(&second);
    scene.later(25);
    scene.prune();
    scene.assert_good("after the doomed packs went");
    scene.assert_restores(third.id, &expected);
}

/// A prune that has decided, and sleeps before each deletion while everything else goes on.
#[test]
fn a_prune_that_sleeps_before_it_deletes_takes_nothing_that_came_to_be_needed() {
    let (mut scene, first) = begun();
    let hooked = Hooked::once(&scene.store, Step::Put, "manifests/", elsewhere(&scene, &first));
    let second = scene.back_up_over(hooked, Some(&first)).unwrap();
    scene.later(25);
    let options = scene.options();
    let (repository, tree, parent, later) = (scene.repository.clone(), scene.tree(), second.id, scene.options());
    let sleepy = Hooked::once(&scene.store, Step::Delete, "packs/", move || {
        // Another prune does it all, a backup refers to the copy, a third prune comes a day later.
        repository.prune(&later, &Silent, &Cancel::new()).unwrap();
        stored::back_up(&repository, &tree, Some(parent));
        let mut later = later;
        later.now += GRACE + GRACE;
        repository.prune(&later, &Silent, &Cancel::new()).unwrap();
    });
    let sleepy = Repository::open(Arc::new(sleepy)).unwrap();
    sleepy.prune(&options, &Silent, &Cancel::new()).unwrap();
    scene.assert_good("after a prune that slept");
    for _ in 0..3 {
        scene.later(25);
        scene.prune();
        scene.assert_good("later");
    }
    assert!(scene.keys("doomed/").is_empty());
}

#[test]
fn two_prunes_at_once_leave_one_copy() {
    let mut scene = Scene::new();
    let (second, expected) = scene.of_twenty_stay(3);
    let (repository, options) = (scene.repository.clone(), scene.options());
    let hooked = Hooked::once(&scene.store, Step::Put, "packs/", move || {
        repository.prune(&options, &Silent, &Cancel::new()).unwrap();
    });
    let beside = Repository::open(Arc::new(hooked)).unwrap();
    beside.prune(&scene.options(), &Silent, &Cancel::new()).unwrap();
    let copies = |scene: &Scene| {
        scene
            .keys("packs/")
            .into_iter()
            .filter(|key| key.contains(".1-"))
            .count()
    };
    assert_eq!(copies(&scene), 2, "both wrote one: the test tests nothing otherwise");
    for _ in 0..3 {
        scene.later(25);
        scene.prune();
        scene.assert_good("with two copies");
    }
    assert_eq!((copies(&scene), scene.keys("doomed/").len()), (1, 0));
    scene.assert_restores(second.id, &expected);
}

/// At every single read of a restore and of a verification, the prune that deletes what was copied comes in between.
#[test]
fn readers_find_a_pack_that_is_copied_and_deleted_under_them() {
    let mut scene = Scene::new();
    let (second, expected) = scene.of_twenty_stay(3);
    scene.prune();
    scene.later(25);
    let before = scene.store.objects();
    let mut read = 0;
    loop {
        let store = snapback::store::memory::MemoryStore::default();
        before.iter().for_each(|(key, bytes)| store.tamper(key, bytes.to_vec()));
        let (seen, options) = (Arc::new(Mutex::new(0)), scene.options());
        let (count, below) = (Arc::clone(&seen), store.clone());
        let hooked = Hooked::new(&store, move |step, key| {
            if step == Step::Get && key.starts_with("packs/") {
                let mut count = count.lock().unwrap();
                *count += 1;
                if *count == read + 1 {
                    let repository = Repository::open(Arc::new(below.clone())).unwrap();
                    repository.prune(&options, &Silent, &Cancel::new()).unwrap();
                }
            }
            Ok(())
        });
        let repository = Repository::open(Arc::new(hooked)).unwrap();
        let target = tempfile::tempdir().unwrap();
        let restored = stored::try_restore(
            &repository,
            &second.id.to_string(),
            &scene.tree(),
            &target.path().join("t"),
        );
        let root = restored.unwrap_or_else(|error| panic!("read {read}: {error}"));
        assert_eq!(stored::fingerprint(&root), expected);
        super::scene::assert_good(&repository, &format!("read {read}"));
        if *seen.lock().unwrap() <= read {
            break;
        }
        read += 1;
    }
    assert!(read > 20, "{read} reads");
}
