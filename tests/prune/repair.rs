//! Damage, repair, the next backup.

use snapback::monitor::Silent;
use snapback::repository::repair::Report;
use snapback::repository::verify::Level;
use snapback::store::Store;
use snapback::sys::signal::Cancel;

use super::scene::Scene;
use super::stored;

fn repair(scene: &Scene, dry_run: bool) -> Report {
    scene.repository.repair(dry_run, 1, &Silent, &Cancel::new()).unwrap()
}

/// The data pack, and its bytes.
fn data_pack(scene: &Scene) -> (String, Vec<u8>) {
    let objects = scene.store.objects();
    let packs = objects
        .iter()
        .filter(|(key, bytes)| key.starts_with("packs/") && bytes[10] == 1);
    let (key, bytes) = packs.max_by_key(|(_, bytes)| bytes.len()).unwrap();
    (key.clone(), bytes.to_vec())
}

#[test]
fn what_is_lost_is_written_down_and_stored_again_by_the_next_backup() {
    let mut scene = Scene::new();
    scene.write("a", &(0..10).collect::<Vec<_>>());
    scene.write("b", &(20..30).collect::<Vec<_>>());
    let first = scene.back_up(None);
    let (key, mut bytes) = data_pack(&scene);
    bytes[100] ^= 1;
    scene.store.tamper(&key, bytes);

    let before = scene.store.objects();
    let planned = repair(&scene, true);
    assert_eq!(scene.store.objects(), before, "a dry run wrote something");
    assert_eq!(planned.packs[0].lost_slots, Some(1));
    let done = repair(&scene, false);
    assert_eq!((done.packs.len(), done.packs[0].lost_slots), (1, Some(1)));
    assert_eq!(done.backups[0].backup, first.id);
    assert_eq!(done.backups[0].objects[0].files, 1);
    // Nothing was taken away, and the backup is known to be damaged: a restore says so before it begins.
    assert!(before.keys().all(|key| scene.store.size(key).is_ok()));
    assert_eq!(scene.repository.losses_of(first.id).unwrap().len(), 1);
    let target = tempfile::tempdir().unwrap();
    let refused = stored::try_restore(&scene.repository, "latest", &scene.tree(), &target.path().join("t"));
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("--keep-going"), "{refused}");

    // The next backup stores the lost chunk again, and only that.
    let second = scene.back_up(Some(&first));
    assert!(
        (64 << 10..80 << 10).contains(&second.sizes.stored),
        "{} bytes stored",
        second.sizes.stored
    );
    let found = scene
        .repository
        .verify(Some("latest"), Level::Data, 1, &Silent, &Cancel::new())
        .unwrap();
    assert_eq!(found.damage, []);
    let expected = stored::fingerprint(&scene.tree());
    scene.assert_restores(second.id, &expected);

    // Repairing twice does nothing more.
    let again = repair(&scene, false);
    assert!(again.packs.is_empty() && again.backups[0].known, "{again:?}");
    assert_eq!(scene.repository.losses_of(first.id).unwrap().len(), 1);

    // Once the damaged backup is forgotten, all is well again, and the damaged object goes.
    scene.remove(&first);
    assert!(scene.repository.losses().unwrap().is_empty());
    scene.later(25);
    scene.prune();
    scene.later(25);
    scene.prune();
    scene.assert_good("after the damaged backup was forgotten");
    assert!(scene.store.size(&key).is_err(), "the damaged object is still there");
    scene.assert_restores(second.id, &expected);
}

#[test]
fn a_prune_never_deletes_a_damaged_object_that_is_needed() {
    let mut scene = Scene::new();
    scene.write("a", &(0..10).collect::<Vec<_>>());
    scene.back_up(None);
    let (key, mut bytes) = data_pack(&scene);
    bytes[100] ^= 1;
    scene.store.tamper(&key, bytes);
    repair(&scene, false);
    for round in 0..3 {
        scene.later(25);
        let report = scene.prune();
        assert_eq!(report.damaged, std::slice::from_ref(&key), "round {round}");
        assert_eq!((report.copied.objects, report.deleted.objects), (0, 0), "round {round}");
        assert!(scene.store.size(&key).is_ok());
    }
}

#[test]
fn a_missing_pack_is_noted_and_stored_again() {
    let scene = Scene::new();
    scene.write("a", &(0..10).collect::<Vec<_>>());
    let first = scene.back_up(None);
    let (key, _) = data_pack(&scene);
    scene.store.delete(&key).unwrap();
    let report = repair(&scene, false);
    assert_eq!((report.packs[0].lost_slots, &report.packs[0].saved_to), (None, &None));
    assert_eq!(report.backups[0].backup, first.id);
    let second = scene.back_up(Some(&first));
    assert!(second.sizes.stored > 10 * (64 << 10));
    let expected = stored::fingerprint(&scene.tree());
    scene.assert_restores(second.id, &expected);
}

#[test]
fn a_digest_that_rotted_costs_nothing() {
    let mut scene = Scene::new();
    scene.write("a", &(0..10).collect::<Vec<_>>());
    let first = scene.back_up(None);
    let (key, mut bytes) = data_pack(&scene);
    // Longer than its footer says: each slot reads well by itself once the rest is cut off, so nothing needs to be lost.
    let body = bytes.len() - 96 + 32;
    bytes[body] ^= 1;
    scene.store.tamper(&key, bytes);
    let report = repair(&scene, false);
    // The footer does not verify, so nobody can say where the slots lie: all is lost as far as a repair can tell, and noted.
    assert_eq!(report.packs.len(), 1);
    assert_eq!(report.backups[0].backup, first.id);
    let second = scene.back_up(Some(&first));
    let expected = stored::fingerprint(&scene.tree());
    scene.assert_restores(second.id, &expected);
    scene.later(25);
    assert!(
        scene.prune().damaged.contains(&key),
        "what a patient reader may still read was deleted"
    );
}

#[test]
fn a_sound_repository_is_left_as_it_is() {
    let scene = Scene::new();
    scene.write("a", &[1, 2]);
    scene.back_up(None);
    let before = scene.store.objects();
    assert_eq!(repair(&scene, false), Report::default());
    assert_eq!(scene.store.objects(), before);
}
