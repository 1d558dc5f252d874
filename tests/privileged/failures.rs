//! What goes wrong beside the server: a full repository, a snapshot that vanishes, a second backup at the same time.

use std::time::Duration;

use crate::common::{Flavour, both, run, text, wait_for_file};
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
    // With room again, the next run stores what this one could not.
    run("mount", &["-o", "remount,size=256m", &text(&small)]);
    let again = scene
        .tool
        .run(&["--json", "backup", "--repository", &text(&repository)]);
    let verified = scene
        .tool
        .run(&["verify", "--all", "--level", "data", "--repository", &text(&repository)]);
    run("umount", &[&text(&small)]);
    // The configuration names another repository, which is worth a warning.
    assert_eq!(init.status.code(), Some(5), "{}", both(&init));
    assert!(matches!(again.status.code(), Some(0 | 5)), "{}", both(&again));
    assert!(verified.status.success(), "{}", both(&verified));
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
    wait_for_file(&scene.lab.path("gate.reached"));
    std::fs::write(&gate, "").unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    let names = scene.lab.storage.snapshots();
    assert!(!names.is_empty(), "there was no snapshot to lose");
    for name in &names {
        scene.lab.storage.destroy(name);
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    let said = both(&output);
    let last = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
    assert!(
        names.iter().any(|name| said.contains(&last(name))),
        "{names:?} is not named: {said}"
    );
    scene.assert_nothing_left();
    assert_eq!(scene.backups(), 0);
    scene.tool.json(&["backup"]);
}

#[test]
fn a_lock_that_is_lost_leaves_no_raised_setting_and_no_journal() {
    let options = [("innodb_flush_log_at_trx_commit", "0")];
    let Some(scene) = Scene::new(Flavour::MariaDb, &options, false, "") else {
        return;
    };
    let setting = || {
        scene
            .server
            .one::<u64>("SELECT @@global.innodb_flush_log_at_trx_commit")
    };
    let gate = scene.lab.path("gate");
    let spawn = |limit: &str| {
        scene.tool.spawn(
            &format!("backup.locked=pause:{}", gate.display()),
            &["backup", "--hold-limit", limit],
        )
    };
    let reached = scene.lab.path("gate.reached");
    let wait = || {
        wait_for_file(&reached);
    };
    // Long enough for a busy machine to look at the setting in it.
    let child = spawn("4s");
    wait();
    assert_eq!(setting(), 1);
    std::thread::sleep(Duration::from_millis(5500));
    std::fs::write(&gate, "").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    assert!(both(&output).contains("the lock was lost"), "{}", both(&output));
    assert_eq!(setting(), 0);
    scene.assert_nothing_left();

    // A run that is killed leaves it raised: the next one says that this is not the administrator's setting.
    std::fs::remove_file(&gate).unwrap();
    let _ = std::fs::remove_file(&reached);
    let mut child = spawn("10m");
    wait();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(setting(), 1);
    for command in ["check", "backup"] {
        let output = scene.tool.run(&[command]);
        let said = both(&output);
        assert_eq!(output.status.code(), Some(5), "{command}: {said}");
        assert!(
            said.contains("innodb_flush_log_at_trx_commit at 1") && said.contains("it was 0"),
            "{command}: {said}"
        );
    }
    let dry = scene.tool.ok(&["cleanup", "--dry-run"]);
    assert!(
        dry.contains("would put setting innodb_flush_log_at_trx_commit back to 0"),
        "{dry}"
    );
    scene.cleanup();
    assert_eq!(setting(), 0);
    scene.assert_nothing_left();
}

#[test]
fn what_the_server_needs_cannot_be_excluded() {
    let Some(scene) = Scene::new(Flavour::MariaDb, &[], false, "") else {
        return;
    };
    let inside = text(&scene.server.datadir.join("ledger"));
    let output = scene.tool.run(&["backup", "--exclude", &inside]);
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    assert!(
        both(&output).contains(&inside) && both(&output).contains("backed up whole"),
        "{}",
        both(&output)
    );
    let output = scene.tool.run(&["backup", "--lock", "instance"]);
    assert_eq!(output.status.code(), Some(2), "{}", both(&output));
    assert_eq!(scene.backups(), 0);
}

#[test]
fn orphans_that_would_go_are_named() {
    let Some(scene) = Scene::new(Flavour::MariaDb, &[], false, "") else {
        return;
    };
    let output = scene.tool.with_failpoint("backup.released=kill", &["backup"]);
    assert_ne!(output.status.code(), Some(0));
    std::fs::remove_dir_all(scene.tool.state.join("runs")).unwrap();
    let names = scene.lab.storage.snapshots();
    assert_eq!(names.len(), 1);
    let dry = scene.tool.ok(&["cleanup", "--orphans", "--dry-run"]);
    assert!(
        dry.contains("would remove snapshot") && !dry.contains("nothing to clean up"),
        "{dry}"
    );
    assert_eq!(scene.lab.storage.snapshots(), names);
    // Not without --dry-run: it would take the snapshots of tests that run beside this one.
    names.iter().for_each(|name| scene.lab.storage.destroy(name));
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
    wait_for_file(&scene.lab.path("gate.reached"));
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
