//! What goes wrong beside the server: a full repository, a snapshot that vanishes, a second backup at the same time.

use std::time::{Duration, Instant};

use crate::common::{Flavour, both, run, text};
use crate::setting::Scene;

#[test]
fn a_full_repository_fails_before_anything_is_published_and_recovers() {
    let Some(scene) = Scene::new(Flavour::MariaDb, &[], false, "") else {
        return;
    };
    // A real full disk: a small tmpfs as the repository.
    let small = scene.lab.path("small");
    std::fs::create_dir(&small).unwrap();
    run("mount", &["-t", "tmpfs", "-o", "size=6m", "tmpfs", &text(&small)]);
    let repository = small.join("repository");
    let init = scene.tool.run(&["init", "--repository", &text(&repository)]);
    let output = scene.tool.run(&["backup", "--repository", &text(&repository)]);
    let listed = scene.tool.run(&["--json", "list", "--repository", &text(&repository)]);
    let packs = std::fs::read_dir(repository.join("packs")).map_or(0, |packs| {
        packs
            .map(|dir| std::fs::read_dir(dir.unwrap().path()).unwrap().count())
            .sum()
    });
    run("umount", &[&text(&small)]);
    assert!(init.status.success(), "{}", both(&init));
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    assert!(both(&output).contains("No space left"), "{}", both(&output));
    assert_eq!(String::from_utf8_lossy(&listed.stdout).trim(), "[]");
    assert_eq!(packs, 0, "a failed backup kept its packs");
    scene.assert_nothing_left();
    scene.assert_writable();
}

#[test]
fn a_snapshot_that_cannot_be_mounted_is_removed_and_the_journal_knows() {
    let Some(scene) = Scene::new(Flavour::MariaDb, &[], false, "") else {
        return;
    };
    let output = scene
        .tool
        .spawn("backup.mount=error", &["backup"])
        .wait_with_output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    scene.assert_nothing_left();
    scene.assert_writable();
    // What cannot be removed either is said, and kept for cleanup.
    let removal = scene.lab.storage.kind.failpoints().1;
    let output = scene
        .tool
        .spawn(&format!("backup.mount=error;{removal}=error"), &["backup"])
        .wait_with_output()
        .unwrap();
    assert!(both(&output).contains("cleanup"), "{}", both(&output));
    assert_eq!(scene.lab.storage.snapshots().len(), 1);
    scene.cleanup();
    scene.assert_nothing_left();
    assert_eq!(scene.backups(), 0);
}

#[test]
fn a_snapshot_lost_during_the_copy_ends_the_backup() {
    let Some(scene) = Scene::new(Flavour::MariaDb, &[], false, "") else {
        return;
    };
    let gate = scene.lab.path("gate");
    let child = scene.tool.spawn(
        &format!("backup.released=pause:{}", gate.display()),
        &["backup", "--bandwidth", "2MB"],
    );
    let begun = Instant::now();
    while !scene.lab.path("gate.reached").exists() {
        assert!(begun.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(5));
    }
    std::fs::write(&gate, "").unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    for name in scene.lab.storage.snapshots() {
        scene.lab.storage.destroy(&name);
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    scene.assert_nothing_left();
    assert_eq!(scene.backups(), 0);
    scene.tool.json(&["backup"]);
}

#[test]
fn a_second_backup_at_the_same_time_is_refused_and_cleanup_leaves_the_first_alone() {
    let Some(scene) = Scene::new(Flavour::MariaDb, &[], false, "") else {
        return;
    };
    let gate = scene.lab.path("gate");
    let first = scene.tool.spawn(
        &format!("backup.released=pause:{}", gate.display()),
        &["--json", "backup"],
    );
    let begun = Instant::now();
    while !scene.lab.path("gate.reached").exists() {
        assert!(begun.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(5));
    }
    let second = scene.tool.run(&["backup"]);
    assert_eq!(second.status.code(), Some(1), "{}", both(&second));
    assert!(both(&second).contains("another backup is running"), "{}", both(&second));
    let cleaned = scene.tool.json(&["cleanup", "--orphans"]);
    assert_eq!(cleaned["runs"][0]["alive"], true);
    assert_eq!(
        scene.lab.storage.snapshots().len(),
        1,
        "cleanup took a living run's snapshot"
    );
    std::fs::write(&gate, "").unwrap();
    let output = first.wait_with_output().unwrap();
    assert!(matches!(output.status.code(), Some(0 | 5)), "{}", both(&output));
    scene.assert_nothing_left();
}
