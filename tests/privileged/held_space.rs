//! What a held set on Btrfs is said to hold is what was overwritten since, and what its removal gives back.

use std::time::Instant;

use serde_json::Value;

use crate::common::{Flavour, Kind, run, text};
use crate::setting::Scene;

/// What is overwritten, in bytes.
const WRITTEN: u64 = 120 << 20;
/// What an idle server and the filesystem's own blocks may make of it.
const SLACK: u64 = 12 << 20;

/// With ballast on the database's volume.
fn scene() -> Option<Scene> {
    let scene = (Kind::chosen() == Kind::Btrfs).then(|| Scene::new(Flavour::MariaDb, &[], false, ""))??;
    scene.write_ballast(4 * WRITTEN, 1);
    Some(scene)
}

/// What the sets hold, oldest first.
fn held(scene: &Scene, args: &[&str]) -> Vec<Option<u64>> {
    let listed = scene.tool.json(&[&["snapshot", "list"], args].concat());
    let bytes = |set: &Value| set["bytes"].as_u64();
    listed.as_array().unwrap().iter().map(bytes).collect()
}

#[track_caller]
fn assert_about(found: Option<u64>, wanted: u64) {
    let found = found.expect("the space is unknown");
    eprintln!("{found} bytes of {wanted}");
    assert!(
        (wanted..wanted + SLACK).contains(&found),
        "{found} bytes where {wanted} were overwritten"
    );
}

fn available(scene: &Scene) -> u64 {
    let mount = text(scene.lab.storage.mount_point());
    run("btrfs", &["subvolume", "sync", &mount]);
    run("btrfs", &["filesystem", "sync", &mount]);
    let room = rustix::fs::statvfs(scene.lab.storage.mount_point()).unwrap();
    room.f_bavail * room.f_frsize
}

#[test]
fn what_was_overwritten_is_measured_and_comes_back_with_the_removal() {
    let Some(scene) = scene() else { return };
    scene.tool.json(&["snapshot", "create", "--label", "first"]);
    assert_eq!(held(&scene, &[]), [None], "without quotas Btrfs does not say");
    assert_about(held(&scene, &["--space"])[0], 0);
    scene.write_ballast(WRITTEN, 2);
    scene.tool.json(&["snapshot", "create", "--label", "second"]);
    let begun = Instant::now();
    let both = held(&scene, &["--space"]);
    eprintln!("two sets measured in {:?}", begun.elapsed());
    assert_about(both[0], WRITTEN);
    assert_about(both[1], 0);
    let shown = scene.tool.json(&["snapshot", "show", "first", "--space"]);
    assert_about(shown["bytes"].as_u64(), WRITTEN);
    let text = scene.tool.ok(&["snapshot", "show", "first"]);
    assert!(
        text.contains("an unknown space (`snapback snapshot show --space` measures it)"),
        "{text}"
    );

    // What two sets share, neither holds alone; a file under two names counts once; what is gone from the live volume is held.
    let live = scene.lab.storage.mount_point().join("db");
    std::fs::hard_link(live.join("ballast"), live.join("ballast-too")).unwrap();
    scene.tool.json(&["snapshot", "create", "--label", "third"]);
    scene.write_ballast(WRITTEN, 3);
    let three = held(&scene, &["--space"]);
    assert_about(three[1], 0);
    assert_about(three[2], 0);
    scene.tool.ok(&["snapshot", "delete", "second"]);
    let before = available(&scene);
    assert_about(held(&scene, &["--space"])[1], WRITTEN);

    scene.tool.ok(&["snapshot", "delete", "third"]);
    let back = available(&scene) - before;
    assert_about(Some(back), WRITTEN - SLACK / 2);
    scene.tool.ok(&["snapshot", "delete", "first"]);
    scene.assert_nothing_left();
}

#[test]
fn with_quotas_the_space_is_known_without_a_look_at_the_extents() {
    let Some(scene) = scene() else { return };
    let mount = text(scene.lab.storage.mount_point());
    run("btrfs", &["quota", "enable", &mount]);
    run("btrfs", &["quota", "rescan", "-w", &mount]);
    scene.tool.json(&["snapshot", "create", "--label", "first"]);
    scene.write_ballast(WRITTEN, 2);
    run("btrfs", &["filesystem", "sync", &mount]);
    assert_about(held(&scene, &[])[0], WRITTEN);
    assert_about(held(&scene, &["--space"])[0], WRITTEN);
    run("btrfs", &["quota", "disable", &mount]);
    assert_eq!(held(&scene, &[]), [None]);
    scene.tool.ok(&["snapshot", "delete", "first"]);
    scene.assert_nothing_left();
}
