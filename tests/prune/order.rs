//! Rows of the table "Who may run beside whom" in docs/architecture.md that no other test shows.

use std::sync::Arc;

use snapback::forget::{self, forget};
use snapback::monitor::Silent;
use snapback::repository::verify::Level;
use snapback::repository::{Repository, Running};
use snapback::retention::Policy;
use snapback::sys::signal::Cancel;

use super::hooked::{Hooked, Step};
use super::scene::Scene;
use super::stored;

fn keep_last(scene: &Scene, count: u32) -> forget::Request {
    forget::Request {
        ids: Vec::new(),
        damaged: false,
        policy: Policy {
            keep_last: count,
            ..Policy::default()
        },
        host: None,
        job: None,
        dry_run: false,
        now: scene.now + jiff::SignedDuration::from_hours(1),
    }
}

#[test]
fn two_hosts_back_up_at_once() {
    let scene = Scene::new();
    scene.write("a", &(0..5).collect::<Vec<_>>());
    let (repository, tree) = (scene.repository.clone(), scene.tree());
    // The other one comes and goes right before this one's manifest.
    let hooked = Hooked::once(&scene.store, Step::Put, "manifests/", move || {
        stored::back_up(&repository, &tree, None);
    });
    scene.back_up_over(hooked, None).unwrap();
    assert_eq!(scene.keys("manifests/").len(), 2);
    scene.assert_good("two at once");
}

#[test]
fn the_parent_of_a_running_backup_stays() {
    let scene = Scene::new();
    scene.write("a", &[1]);
    let backups: Vec<_> = (0..3).map(|_| scene.back_up(None)).collect();
    let announced = scene.repository.announce(Running {
        run: snapback::units::Id::random(),
        host: "test".into(),
        parent: Some(backups[0].id),
        owner: "o".into(),
    });
    let report = forget(&scene.repository, &keep_last(&scene, 1), &Cancel::new()).unwrap();
    assert_eq!(report.forgotten, [backups[1].id]);
    drop(announced);
    let report = forget(&scene.repository, &keep_last(&scene, 1), &Cancel::new()).unwrap();
    assert_eq!(report.forgotten, [backups[0].id]);
}

#[test]
fn forgetting_twice_is_no_error() {
    let scene = Scene::new();
    scene.write("a", &[1]);
    let backups: Vec<_> = (0..3).map(|_| scene.back_up(None)).collect();
    let (repository, request) = (scene.repository.clone(), keep_last(&scene, 1));
    let hooked = Hooked::once(&scene.store, Step::Delete, "manifests/", move || {
        forget(&repository, &request, &Cancel::new()).unwrap();
    });
    let beside = Repository::open(Arc::new(hooked)).unwrap();
    let report = forget(&beside, &keep_last(&scene, 1), &Cancel::new()).unwrap();
    assert_eq!(report.forgotten, [backups[0].id, backups[1].id]);
    assert_eq!(scene.keys("manifests/").len(), 1);
}

#[test]
fn forget_beside_a_prune_costs_nothing() {
    let mut scene = Scene::new();
    scene.write("a", &(0..5).collect::<Vec<_>>());
    let first = scene.back_up(None);
    scene.write("a", &(10..15).collect::<Vec<_>>());
    let second = scene.back_up(Some(&first));
    // Right after the manifests were listed, and before they are read.
    let (repository, manifest) = (scene.repository.clone(), first.clone());
    let hooked = Hooked::once(&scene.store, Step::Get, "manifests/", move || {
        repository.remove(&manifest).unwrap()
    });
    let beside = Repository::open(Arc::new(hooked)).unwrap();
    beside.prune(&scene.options(), &Silent, &Cancel::new()).unwrap();
    scene.assert_good("after a forget beside a prune");
    for _ in 0..2 {
        scene.later(25);
        scene.prune();
    }
    scene.assert_good("later");
    let expected = stored::fingerprint(&scene.tree());
    scene.assert_restores(second.id, &expected);
    assert!(scene.bytes() < 6 * (64 << 10), "what was forgotten is still there");
}

#[test]
fn a_repair_beside_a_prune() {
    let mut scene = Scene::new();
    scene.of_twenty_stay(3);
    // A chunk that nobody needs rots in the pack that the prune copies.
    let objects = scene.store.objects();
    let packs = objects
        .iter()
        .filter(|(key, bytes)| key.starts_with("packs/") && bytes[10] == 1);
    let (key, bytes) = packs.max_by_key(|(_, bytes)| bytes.len()).unwrap();
    let mut bad = bytes.to_vec();
    bad[32 + 10 * (64 << 10)] ^= 1;
    scene.store.tamper(key, bad);
    let repository = scene.repository.clone();
    let hooked = Hooked::once(&scene.store, Step::Put, "packs/", move || {
        repository.repair(false, 1, &Silent, &Cancel::new()).unwrap();
    });
    let beside = Repository::open(Arc::new(hooked)).unwrap();
    beside.prune(&scene.options(), &Silent, &Cancel::new()).unwrap();
    for _ in 0..3 {
        scene.later(25);
        scene.prune();
        scene.assert_good("a repair beside a prune");
    }
    assert!(
        scene.repository.losses().unwrap().is_empty(),
        "nothing that is needed was lost"
    );
    assert!(scene.keys("doomed/").is_empty());
}

#[test]
fn a_backup_that_is_forgotten_is_read_to_its_end() {
    let scene = Scene::new();
    scene.write("a", &(0..5).collect::<Vec<_>>());
    let first = scene.back_up(None);
    let expected = stored::fingerprint(&scene.tree());
    scene.write("a", &(10..15).collect::<Vec<_>>());
    scene.back_up(Some(&first));
    let (repository, options, manifest) = (scene.repository.clone(), scene.options(), first.clone());
    let hooked = Hooked::once(&scene.store, Step::Get, "packs/", move || {
        repository.remove(&manifest).unwrap();
        repository.prune(&options, &Silent, &Cancel::new()).unwrap();
    });
    let reading = Repository::open(Arc::new(hooked)).unwrap();
    let target = tempfile::tempdir().unwrap();
    let root = stored::try_restore(&reading, &first.id.to_string(), &scene.tree(), &target.path().join("t")).unwrap();
    assert_eq!(stored::fingerprint(&root), expected);
}

/// The other order: the listing has it, and it is gone when its manifest is read. (`verify` and `repair` once called that damage.)
#[test]
fn a_backup_that_is_forgotten_while_it_is_listed_is_no_damage() {
    let scene = Scene::new();
    scene.write("a", &[1, 2]);
    let first = scene.back_up(None);
    scene.write("a", &[3, 4]);
    let second = scene.back_up(Some(&first));
    let forgotten_by = |which: usize| {
        let gone = [&first, &second][which].clone();
        let repository = scene.repository.clone();
        let hooked = Hooked::once(&scene.store, Step::Get, "manifests/", move || {
            repository.remove(&gone).unwrap();
        });
        Repository::open(Arc::new(hooked)).unwrap()
    };
    let verified = forgotten_by(0)
        .verify(None, Level::Data, 1, &Silent, &Cancel::new())
        .unwrap();
    assert_eq!((verified.damage, verified.backups), (Vec::new(), 1));
    let repaired = forgotten_by(1).repair(true, 1, &Silent, &Cancel::new()).unwrap();
    assert_eq!(repaired.manifests, Vec::<String>::new());
}
