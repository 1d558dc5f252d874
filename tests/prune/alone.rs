//! One prune, nobody else.

use std::sync::Arc;

use snapback::monitor::Silent;
use snapback::repository::Running;
use snapback::repository::prune::Options;
use snapback::store::{DirectoryStore, Store};
use snapback::sys::signal::Cancel;
use snapback::units::Id;

use super::scene::{GRACE, Scene, assert_good};
use super::stored;

#[test]
fn a_forgotten_backups_room_comes_back_after_the_grace_and_not_before() {
    let mut scene = Scene::new();
    scene.write("a", &[1, 2, 3]);
    let first = scene.back_up(None);
    scene.write("a", &[4, 5, 6]);
    let second = scene.back_up(Some(&first));
    let expected = stored::fingerprint(&scene.tree());
    scene.remove(&first);

    let marked = scene.prune();
    assert!(marked.unreferenced.bytes > 3 * (64 << 10), "{marked:?}");
    assert_eq!(marked.deleted.objects, 0, "deleted what was marked just now");
    scene.later(23);
    let waiting = scene.prune();
    assert_eq!((waiting.deleted.objects, waiting.waiting), (0, marked.unreferenced));
    scene.later(1);
    assert_eq!(scene.prune().deleted, marked.unreferenced);
    assert!(scene.keys("doomed/").is_empty());
    assert!(scene.bytes() < 4 * (64 << 10), "{} bytes are left", scene.bytes());
    scene.assert_good("after the prune");
    scene.assert_restores(second.id, &expected);
}

#[test]
fn a_pack_that_is_mostly_unused_is_copied_without_that() {
    let mut scene = Scene::new();
    let (second, expected) = scene.of_twenty_stay(3);
    let before = scene.bytes();
    let dry = scene.dry_run();
    let report = scene.prune();
    assert_eq!((report.copied.objects, report.replaced.objects), (1, 1), "{report:?}");
    assert_eq!((dry.copied.objects, dry.replaced), (1, report.replaced));
    assert!(report.copied.bytes < 4 * (64 << 10) && report.copied.bytes.abs_diff(dry.copied.bytes) < 4096);
    scene.later(25);
    scene.prune();
    let later = scene
        .keys("packs/")
        .into_iter()
        .filter(|key| key.contains(".1-"))
        .count();
    assert_eq!(later, 1);
    assert!(
        scene.bytes() < before - 16 * (64 << 10),
        "{before} to {}",
        scene.bytes()
    );
    scene.assert_good("after the compaction");
    scene.assert_restores(second.id, &expected);
    // What is copied is as good as ever: the next backup refers to it.
    let third = scene.back_up(Some(&second));
    assert!(third.sizes.stored < 4096, "{} bytes stored again", third.sizes.stored);
    scene.later(25);
    let idle = scene.prune();
    assert_eq!(
        (idle.copied.objects, idle.replaced.objects, idle.unreferenced.objects),
        (0, 0, 0)
    );
}

#[test]
fn the_share_that_may_be_unused_is_the_users() {
    let scene = Scene::new();
    scene.of_twenty_stay(14);
    let copied = |max_unused| {
        let options = Options {
            max_unused,
            dry_run: true,
            ..scene.options()
        };
        scene.repository.prune(&options, &Silent, &Cancel::new()).unwrap()
    };
    assert_eq!(copied(50).copied.objects, 0);
    assert!(copied(50).unused_bytes > 5 * (64 << 10));
    assert_eq!(copied(25).copied.objects, 1);
}

#[test]
fn a_dry_run_changes_nothing() {
    let mut scene = Scene::new();
    scene.write("a", &[1, 2, 3]);
    let first = scene.back_up(None);
    scene.write("a", &[1, 7, 8]);
    scene.back_up(Some(&first));
    scene.remove(&first);
    for _ in 0..2 {
        let before = scene.store.objects();
        let report = scene.dry_run();
        assert!(report.dry_run && report.stored.objects > 0);
        assert_eq!(scene.store.objects(), before);
        scene.prune();
        scene.later(25);
    }
}

#[test]
fn packs_of_a_run_that_died_go_the_same_way_and_those_of_one_that_lives_stay() {
    let mut scene = Scene::new();
    scene.write("a", &[1]);
    scene.back_up(None);
    scene.write("b", &[9, 10]);
    // The manifest is taken away before anybody sees it: what is left is what a killed run leaves.
    let died = scene.back_up(None);
    scene.remove(&died);
    let announced = scene.repository.announce(Running {
        run: died.id,
        host: "test".into(),
        parent: None,
        owner: "o".into(),
    });
    let living = scene.prune();
    assert_eq!(
        (living.unreferenced.objects, living.running.objects > 0),
        (0, true),
        "{living:?}"
    );
    drop(announced);
    let marked = scene.prune().unreferenced;
    assert_eq!(marked, living.running);
    scene.later(25);
    assert_eq!(scene.prune().deleted, marked);
    scene.assert_good("after the dead run's packs went");
}

#[test]
fn an_unreadable_manifest_stops_a_prune_before_it_touches_anything() {
    let scene = Scene::new();
    scene.write("a", &[1]);
    let first = scene.back_up(None);
    scene.write("a", &[2]);
    let second = scene.back_up(None);
    scene.remove(&first);
    let key = scene.keys("manifests/").remove(0);
    let good = scene.store.objects()[&key].to_vec();
    let mut bad = good.clone();
    bad[10] ^= 1;
    scene.store.tamper(&key, bad);
    let before = scene.store.objects();
    let refused = scene
        .repository
        .prune(&scene.options(), &Silent, &Cancel::new())
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains(&key) && refused.contains("forget --damaged"),
        "{refused}"
    );
    assert_eq!(scene.store.objects(), before);
    // Given up, or put back, it goes on.
    scene.store.tamper(&key, good);
    assert!(scene.prune().unreferenced.objects > 0);
    scene.repository.remove_damaged(&key).unwrap();
    assert!(scene.repository.find(&second.id.to_string()).is_err());
    scene.prune();
}

#[test]
fn a_backup_whose_map_is_damaged_keeps_all_its_packs() {
    let mut scene = Scene::new();
    scene.write("a", &(0..40).collect::<Vec<_>>());
    let first = scene.back_up(None);
    scene.write(
        "a",
        &(0..40).map(|n| if n < 3 { n } else { 100 + n }).collect::<Vec<_>>(),
    );
    let second = scene.back_up(Some(&first));
    scene.remove(&first);
    // The largest meta pack that is no root holds the section.
    let root = second.root.pack.to_string();
    let objects = scene.store.objects();
    let metas = objects
        .iter()
        .filter(|(key, bytes)| key.starts_with("packs/") && bytes[10] == 2 && !key.contains(&root));
    for (key, bytes) in metas {
        let mut bad = bytes.to_vec();
        bad[40] ^= 1;
        scene.store.tamper(key, bad);
    }
    let report = scene.prune();
    assert_eq!(report.uncertain.len(), 1, "{report:?}");
    assert_eq!((report.copied.objects, report.replaced.objects), (0, 0));
    scene.later(25);
    scene.prune();
    for key in objects
        .keys()
        .filter(|key| key.starts_with("packs/") && objects[*key][10] == 1)
    {
        assert!(scene.store.size(key).is_ok(), "{key} may be needed, and is gone");
    }
}

#[test]
fn a_short_grace_is_refused() {
    let scene = Scene::new();
    let options = Options {
        grace: jiff::SignedDuration::from_mins(90),
        ..scene.options()
    };
    let refused = scene
        .repository
        .prune(&options, &Silent, &Cancel::new())
        .unwrap_err()
        .to_string();
    assert!(refused.contains("2 h"), "{refused}");
}

#[test]
fn a_mark_of_a_clock_that_is_ahead_costs_time_and_nothing_else() {
    let mut scene = Scene::new();
    scene.write("a", &[1]);
    let first = scene.back_up(None);
    scene.write("a", &[2]);
    scene.back_up(None);
    scene.remove(&first);
    let ahead = Options {
        now: scene.now + GRACE * 100,
        ..scene.options()
    };
    scene.repository.prune(&ahead, &Silent, &Cancel::new()).unwrap();
    assert_eq!(scene.prune().deleted.objects, 0);
    scene.later(25);
    assert!(
        scene.prune().deleted.objects > 0,
        "a mark from the future keeps its object for ever"
    );
    assert!(scene.keys("doomed/").is_empty());
}

#[test]
fn notes_of_backups_that_are_gone_go_too() {
    let scene = Scene::new();
    scene.write("a", &[1]);
    let first = scene.back_up(None);
    let second = scene.back_up(None);
    let gone = Id::random();
    for id in [first.id, second.id, gone] {
        scene.repository.hold(id, None).unwrap();
        scene
            .store
            .tamper(&format!("drills/{id}/20261124T000000Z-x"), b"sealed".to_vec());
    }
    scene.remove(&first);
    assert_eq!(scene.keys("drills/").len(), 2);
    assert_eq!(scene.prune().notes_removed, 2);
    let notes = [scene.keys("drills/"), scene.keys("holds/")].concat();
    assert!(
        notes.iter().all(|key| key.contains(&second.id.to_string())) && notes.len() == 2,
        "{notes:?}"
    );
}

#[test]
fn a_directory_is_pruned_as_memory_is() {
    let scene = Scene::new();
    let place = tempfile::tempdir().unwrap();
    let store = DirectoryStore::create(place.path()).unwrap();
    let repository = snapback::repository::Repository::create(Arc::new(store.clone())).unwrap();
    scene.write("a", &(0..20).collect::<Vec<_>>());
    let first = stored::back_up(&repository, &scene.tree(), None);
    scene.write(
        "a",
        &(0..20).map(|n| if n < 3 { n } else { 100 + n }).collect::<Vec<_>>(),
    );
    let second = stored::back_up(&repository, &scene.tree(), Some(first.id));
    repository.remove(&first).unwrap();
    for days in 0..2 {
        let options = Options {
            now: scene.now + GRACE * days,
            ..scene.options()
        };
        repository.prune(&options, &Silent, &Cancel::new()).unwrap();
    }
    assert!(store.list("packs/").unwrap().iter().any(|key| key.contains(".1-")));
    assert!(store.list("doomed/").unwrap().is_empty());
    assert_good(&repository, "in a directory");
    let target = tempfile::tempdir().unwrap();
    let root = stored::try_restore(
        &repository,
        &second.id.to_string(),
        &scene.tree(),
        &target.path().join("t"),
    )
    .unwrap();
    assert_eq!(stored::fingerprint(&root), stored::fingerprint(&scene.tree()));
}
