//! The matrix: each kind of object, each kind of damage.

use std::collections::BTreeMap;

use snapback::repository::verify::Level;

use super::keep_going::nothing_else_is_lost;
use super::oracle::{Pack, Part};
use super::scene::{Scene, expected, pack_id, said};

type Damaged = BTreeMap<String, Option<Vec<u8>>>;

/// The damage that both levels must see: the object is not there, or not as long as it was, or somebody else's.
fn grave(scene: &Scene, key: &str) -> Vec<(String, Damaged)> {
    let objects = scene.store.objects();
    let bytes = &objects[key];
    let mut cases = vec![("removed".to_owned(), None)];
    let footer = bytes.len().saturating_sub(96);
    for length in [0, 1, 16, bytes.len() / 2, footer, bytes.len() - 1] {
        cases.push((
            format!("cut to {length} of {}", bytes.len()),
            Some(bytes[..length].to_vec()),
        ));
    }
    cases.push(("one byte longer".to_owned(), Some([&bytes[..], &[0]].concat())));
    let garbage = super::stored::noise(11, 5000);
    cases.push(("garbage behind it".to_owned(), Some([&bytes[..], &garbage].concat())));
    cases.push(("all zero".to_owned(), Some(vec![0; bytes.len()])));
    let mut cases: Vec<(String, Damaged)> = cases
        .into_iter()
        .map(|(what, bytes)| (what, [(key.to_owned(), bytes)].into()))
        .collect();
    if let Some(other) = twin(scene, key) {
        let swapped = [
            (key.to_owned(), Some(objects[&other].to_vec())),
            (other.clone(), Some(bytes.to_vec())),
        ];
        cases.push((format!("swapped with {other}"), swapped.into()));
    }
    cases
}

/// Another object of the same kind.
fn twin(scene: &Scene, key: &str) -> Option<String> {
    let objects = scene.store.objects();
    let kind = |key: &str| {
        let byte = objects[key].get(10).copied();
        (
            key.split('/').next().map(str::to_owned),
            byte.filter(|_| key.starts_with("packs/")),
        )
    };
    let mut others = objects.keys().filter(|other| *other != key && kind(other) == kind(key));
    others.next().cloned()
}

fn check(scene: &Scene, what: &str, damaged: &Damaged, part: Part, levels: &[Level]) {
    let parts = damaged.keys().map(|key| (pack_id(key), part)).collect();
    let meaning = expected(scene, &parts);
    scene.with(damaged, || {
        for level in levels {
            let report = scene.verify(*level);
            for key in damaged.keys() {
                assert!(
                    report.damage.iter().any(|damage| damage.object == *key),
                    "{key} {what}: not named at {level:?}: {:?}",
                    report.damage
                );
            }
            assert_eq!(
                said(&report.damage),
                meaning,
                "{damaged:?} {what} at {level:?}",
                damaged = damaged.keys()
            );
        }
        nothing_else_is_lost(scene, what, &meaning);
    });
}

/// Packs that hold chunks, maps, roots, or nothing that is needed.
fn packs_of(scene: &Scene, choose: impl Fn(&str, &Pack) -> bool) -> Vec<(String, Pack)> {
    let packs: Vec<_> = scene
        .packs()
        .into_iter()
        .filter(|(key, pack)| choose(key, pack))
        .collect();
    assert!(!packs.is_empty());
    packs
}

fn is_root(scene: &Scene, key: &str) -> bool {
    scene
        .backups
        .iter()
        .any(|backup| backup.manifest.root.pack == pack_id(key))
}

fn both() -> [Level; 2] {
    [Level::Structure, Level::Data]
}

#[test]
fn two_backups_share_their_packs() {
    let scene = Scene::new();
    assert!(scene.verify(Level::Data).good);
    let users = |key: &str| {
        let parts = [(pack_id(key), Part::Whole)].into();
        expected(&scene, &parts).backups.len()
    };
    assert!(scene.packs().keys().any(|key| users(key) == 2));
    assert!(
        scene.backups.iter().all(|backup| backup.blocks.len() > 2),
        "one block proves little"
    );
    assert!(
        scene
            .backups
            .iter()
            .all(|backup| backup.files.iter().any(|file| !file.sections.is_empty())),
        "no map lies in a pack"
    );
    assert_eq!(users(&scene.stray), 0);
}

#[test]
fn data_packs() {
    let scene = Scene::new();
    for (key, pack) in packs_of(&scene, |key, pack| !pack.is_meta() && *key != scene.stray) {
        for (what, damaged) in grave(&scene, &key) {
            check(&scene, &what, &damaged, Part::Whole, &both());
        }
        footer_flips(&scene, &key, &pack);
        slot_flips(&scene, &key, &pack);
    }
}

#[test]
fn packs_of_maps() {
    let scene = Scene::new();
    for (key, pack) in packs_of(&scene, |key, pack| {
        pack.is_meta() && !is_root(&scene, key) && *key != scene.stray
    }) {
        for (what, damaged) in grave(&scene, &key) {
            check(&scene, &what, &damaged, Part::Whole, &both());
        }
        footer_flips(&scene, &key, &pack);
        slot_flips(&scene, &key, &pack);
    }
}

#[test]
fn root_packs() {
    let scene = Scene::new();
    for (key, pack) in packs_of(&scene, |key, _| is_root(&scene, key)) {
        for (what, damaged) in grave(&scene, &key) {
            check(&scene, &what, &damaged, Part::Whole, &both());
        }
        footer_flips(&scene, &key, &pack);
        slot_flips(&scene, &key, &pack);
    }
}

/// A bit in every class of byte of header, slot table and trailer: the pack as a whole is not to be believed.
fn footer_flips(scene: &Scene, key: &str, pack: &Pack) {
    let (table, end) = (pack.table, pack.bytes.len());
    let last = end - 96 - 44;
    let places = [
        ("magic", 3),
        ("version", 8),
        ("kind", 10),
        ("encryption", 11),
        ("generation", 13),
        ("id", 20),
        ("stored length", table),
        ("plain length", table + 5),
        ("encoding", table + 8),
        ("zero of a slot", table + 10),
        ("hash of a slot", table + 30),
        ("hash of the last slot", last + 40),
        ("digest", end - 96),
        ("body digest", end - 50),
        ("slot count", end - 32),
        ("zero of the trailer", end - 20),
        ("end", end - 1),
    ];
    for (number, (what, at)) in places.into_iter().enumerate() {
        let mut bytes = pack.bytes.clone();
        bytes[at] ^= 1 << (number % 8);
        check(
            scene,
            what,
            &[(key.to_owned(), Some(bytes))].into(),
            Part::Whole,
            &both(),
        );
    }
}

/// A bit in the stored bytes of each slot: only reading all data finds it, and only what needs that slot is affected.
fn slot_flips(scene: &Scene, key: &str, pack: &Pack) {
    let step = (pack.slots.len() / 6).max(1);
    for (slot, (offset, stored, _, _)) in pack.slots.iter().enumerate().step_by(step) {
        let mut bytes = pack.bytes.clone();
        bytes[offset + stored / 2] ^= 0x10;
        let part = Part::Slot(slot as u32);
        check(
            scene,
            "slot",
            &[(key.to_owned(), Some(bytes))].into(),
            part,
            &[Level::Data],
        );
    }
}

#[test]
fn a_pack_that_nobody_needs() {
    let scene = Scene::new();
    let key = scene.stray.clone();
    for (what, damaged) in grave(&scene, &key) {
        if damaged.values().all(Option::is_some) && damaged.len() == 1 {
            check(&scene, &what, &damaged, Part::Whole, &both());
        }
    }
    let gone: Damaged = [(key, None)].into();
    scene.with(&gone, || {
        assert!(scene.verify(Level::Data).good, "a pack that nobody needs is no loss")
    });
}

#[test]
fn manifests() {
    let scene = Scene::new();
    let keys: Vec<String> = scene.backups.iter().map(|backup| backup.key.clone()).collect();
    for key in &keys {
        let bytes = scene.store.objects()[key].clone();
        let mut cases = grave(&scene, key);
        for at in [0, bytes.len() / 3, bytes.len() - 66, bytes.len() - 30, bytes.len() - 1] {
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 4;
            cases.push((format!("bit at {at}"), [(key.clone(), Some(flipped))].into()));
        }
        for (what, damaged) in cases {
            scene.with(&damaged, || {
                let report = scene.verify(Level::Structure);
                let named: Vec<&String> = report.damage.iter().map(|damage| &damage.object).collect();
                // A backup whose manifest is gone is none; a damaged one is named, and is no backup that could be restored.
                let there: Vec<&String> = damaged
                    .iter()
                    .filter(|(_, bytes)| bytes.is_some())
                    .map(|(key, _)| key)
                    .collect();
                assert_eq!(named, there, "{what}");
                assert_eq!(report.backups as usize, keys.len() - damaged.len(), "{what}");
                nothing_else_is_lost(&scene, &what, &super::oracle::Meaning::default());
            });
        }
    }
}

#[test]
fn the_configuration() {
    let scene = Scene::new();
    let bytes = scene.store.objects()["config"].clone();
    let mut cases = grave(&scene, "config");
    for at in (0..bytes.len()).step_by(7) {
        let mut flipped = bytes.to_vec();
        flipped[at] ^= 1 << (at % 8);
        cases.push((format!("bit at {at}"), [("config".to_owned(), Some(flipped))].into()));
    }
    for (what, damaged) in cases {
        scene.with(&damaged, || {
            let error = scene
                .repository()
                .err()
                .unwrap_or_else(|| panic!("{what}: it opened"))
                .to_string();
            let clear = error.contains("config is damaged") || error.contains("there is no repository");
            assert!(clear, "{what}: {error}");
        });
    }
    assert!(scene.verify(Level::Data).good);
}

#[test]
fn two_damaged_packs_at_once() {
    let scene = Scene::new();
    let data: Vec<_> = packs_of(&scene, |key, pack| !pack.is_meta() && *key != scene.stray);
    let maps: Vec<_> = packs_of(&scene, |key, pack| {
        pack.is_meta() && !is_root(&scene, key) && *key != scene.stray
    });
    let damaged: Damaged = [(data[0].0.clone(), None), (maps[0].0.clone(), None)].into();
    check(&scene, "both gone", &damaged, Part::Whole, &both());
}
