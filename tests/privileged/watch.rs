//! `snapback snapshot watch` on real storage that really fills: it warns, extends where that is allowed, and removes the oldest sets rather than let the room that
//! production needs run out.

use serde_json::Value;

use crate::common::{Flavour, Kind, run, text};
use crate::setting::Scene;

/// What one ballast takes, in bytes.
const BALLAST: u64 = 200 << 20;

/// A database whose sets share the room of a filesystem or pool with it.
fn sharing() -> Option<Scene> {
    let shares = !matches!(Kind::chosen(), Kind::Lvm(_));
    shares.then(|| Scene::new(Flavour::MariaDb, &[], false, "")).flatten()
}

/// The scene on storage of this kind only.
fn only_on(kind: fn(Kind) -> bool, extra: &str) -> Option<Scene> {
    let there = kind(Kind::chosen());
    there.then(|| Scene::new(Flavour::MariaDb, &[], false, extra)).flatten()
}

fn create(scene: &Scene, label: &str) -> String {
    let set = scene.tool.json(&["snapshot", "create", "--label", label]);
    set["id"].as_str().unwrap().to_owned()
}

/// The sets' labels and how full their storage is, in hundredths.
fn sets(scene: &Scene) -> Vec<(String, f64)> {
    let listed = scene.tool.json(&["snapshot", "list"]);
    let one = |set: &Value| (set["label"].as_str().unwrap().to_owned(), set["fill"].as_f64().unwrap());
    listed.as_array().unwrap().iter().map(one).collect()
}

fn labels(scene: &Scene) -> Vec<String> {
    sets(scene).into_iter().map(|(label, _)| label).collect()
}

/// One pass under a policy, which ends with this status.
fn watch(scene: &Scene, on_full: &str, at: f64, status: i32) -> Value {
    let all = std::fs::read_to_string(&scene.tool.config).unwrap();
    let kept = all.split("held:").next().unwrap();
    std::fs::write(
        &scene.tool.config,
        format!("{kept}held: {{on_full: {on_full}, at: {at}}}\n"),
    )
    .unwrap();
    scene.tool.json_with(&["snapshot", "watch"], &[status])
}

fn codes(watched: &Value) -> Vec<&str> {
    let findings = watched["findings"].as_array().unwrap();
    findings
        .iter()
        .map(|finding| finding["code"].as_str().unwrap())
        .collect()
}

fn removed(watched: &Value) -> Vec<&str> {
    let removed = watched["removed"].as_array().unwrap();
    removed.iter().map(|set| set["label"].as_str().unwrap()).collect()
}

#[test]
fn room_shared_with_production_is_warned_of_and_then_the_oldest_set_goes_and_no_more() {
    let Some(scene) = sharing() else { return };
    scene.write_ballast(BALLAST, 1);
    create(&scene, "oldest");
    let before = sets(&scene)[0].1;
    scene.write_ballast(BALLAST, 2);
    create(&scene, "newer");
    create(&scene, "newest");
    let full = sets(&scene)[0].1;
    assert!(full > before + 2.0, "the ballast takes no room: {before} then {full}");
    eprintln!("{before} %, then {full} %");

    // Room enough: nothing is done, whatever the policy.
    for policy in ["warn", "extend", "drop"] {
        let watched = watch(&scene, policy, full + 2.0, 0);
        assert_eq!((codes(&watched), removed(&watched)), (vec![], vec![]), "{watched}");
    }
    let at = before.midpoint(full);
    // There is nothing to extend here.
    for policy in ["warn", "extend"] {
        let watched = watch(&scene, policy, at, 5);
        assert_eq!(codes(&watched), ["held-full"; 3], "{watched}");
        assert_eq!(labels(&scene), ["oldest", "newer", "newest"]);
    }
    let said = watched_text(&scene);
    assert!(said.contains("snapshot delete") && said.contains("(oldest)"), "{said}");

    let watched = watch(&scene, "drop", at, 5);
    assert_eq!(removed(&watched), ["oldest"], "{watched}");
    assert_eq!(codes(&watched), ["held-dropped"], "{watched}");
    assert_eq!(labels(&scene), ["newer", "newest"]);
    assert!(sets(&scene)[0].1 < at, "{:?}", sets(&scene));
    assert_eq!(codes(&watch(&scene, "drop", at, 0)), Vec::<&str>::new());

    // What is in use stays, and the next one goes.
    let at = scene.lab.path("shown");
    std::fs::create_dir(&at).unwrap();
    scene.tool.ok(&["snapshot", "mount", "newer", &text(&at)]);
    let watched = watch(&scene, "drop", 1.0, 5);
    assert_eq!(codes(&watched), ["held-full", "held-dropped"], "{watched}");
    assert!(watched.to_string().contains("could not be removed"), "{watched}");
    assert_eq!(labels(&scene), ["newer"]);
    run("umount", &["-R", &text(&at)]);
    let watched = watch(&scene, "drop", 1.0, 5);
    assert_eq!(removed(&watched), ["newer"], "{watched}");
    scene.assert_nothing_left();
    scene.assert_writable();
}

/// What a person reads of a pass.
fn watched_text(scene: &Scene) -> String {
    let output = scene.tool.run(&["snapshot", "watch"]);
    assert_eq!(output.status.code(), Some(5));
    crate::common::both(&output)
}

#[test]
fn what_has_expired_makes_room_before_anything_else_is_dropped() {
    let Some(scene) = sharing() else { return };
    scene.write_ballast(BALLAST, 1);
    create(&scene, "oldest");
    let before = sets(&scene)[0].1;
    scene
        .tool
        .json(&["snapshot", "create", "--label", "over", "--expires", "1s"]);
    scene.tool.ok(&["snapshot", "delete", "oldest"]);
    create(&scene, "stays");
    scene.write_ballast(BALLAST, 2);
    // "stays" shares what "over" holds: only both together give it back.
    create(&scene, "newest");
    let full = sets(&scene)[0].1;
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let watched = watch(&scene, "drop", before.midpoint(full), 5);
    assert_eq!(removed(&watched), ["over", "stays"], "{watched}");
    assert_eq!(watched["removed"][0]["reason"], "expired", "{watched}");
    assert_eq!(labels(&scene), ["newest"]);
    scene.tool.ok(&["snapshot", "delete", "newest"]);
    scene.assert_nothing_left();
}

#[test]
fn a_thin_pool_that_is_all_but_full_between_two_passes_loses_its_sets() {
    let Some(scene) = only_on(|kind| kind == Kind::LvmThin, "") else {
        return;
    };
    create(&scene, "oldest");
    scene.write_ballast(BALLAST, 1);
    create(&scene, "newer");
    crate::lvm::fill(&scene, 98.0);
    // They are whole, and not called lost; nothing goes by itself.
    let watched = watch(&scene, "warn", 80.0, 5);
    assert_eq!(codes(&watched), ["held-full"; 2], "{watched}");
    assert_eq!(labels(&scene), ["oldest", "newer"]);
    let watched = watch(&scene, "drop", 80.0, 5);
    assert_eq!(removed(&watched), ["oldest", "newer"], "{watched}");
    scene.assert_nothing_left();
    scene.assert_writable();
}

/// The copy-on-write space of the only snapshot, in MiB.
fn space(scene: &Scene) -> u64 {
    let name = scene.lab.storage.snapshots().pop().unwrap();
    let name = format!("{}/{name}", scene.lab.storage.group());
    let printed = run(
        "lvs",
        &["--noheadings", "--units", "m", "--nosuffix", "-o", "lv_size", &name],
    );
    printed.trim().split('.').next().unwrap().parse().unwrap()
}

#[test]
fn copy_on_write_space_is_extended_up_to_its_limit_and_then_the_policy_says() {
    let thick = |kind| matches!(kind, Kind::Lvm(_));
    let Some(scene) = only_on(thick, "lvm: {held_cow_size: 64MiB, cow_limit: 160MiB}\n") else {
        return;
    };
    create(&scene, "held");
    let first = space(&scene);
    scene.write_ballast(56 << 20, 1);
    let watched = watch(&scene, "warn", 60.0, 5);
    assert_eq!(codes(&watched), ["held-full"], "{watched}");
    assert_eq!(space(&scene), first);

    let watched = watch(&scene, "extend", 60.0, 0);
    assert_eq!(watched["extended"].as_array().unwrap().len(), 1, "{watched}");
    assert!(sets(&scene)[0].1 < 60.0, "{:?}", sets(&scene));
    let second = space(&scene);
    assert!(second > first && second <= 160, "{first} MiB, then {second} MiB");

    // As far as it may, and no more of it: then a person is told, or it goes.
    scene.write_ballast(130 << 20, 2);
    let watched = watch(&scene, "extend", 60.0, 5);
    assert_eq!(codes(&watched), ["held-full"], "{watched}");
    assert!(watched.to_string().contains("lvm.cow_limit"), "{watched}");
    assert!((second..=160).contains(&space(&scene)));
    let watched = watch(&scene, "drop", 60.0, 5);
    assert_eq!(removed(&watched), ["held"], "{watched}");
    scene.assert_nothing_left();
    scene.assert_writable();
}
