//! Death at every phase: the server is free at once, `cleanup` leaves nothing, and the next backup is good.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use crate::common::{Flavour, Kind, both, server, wait_for_file};
use crate::setting::Scene;

/// In the order in which a run reaches them; the storage's own at the instant and at the removal.
fn points(storage: Kind) -> Vec<&'static str> {
    let (instant, removal) = storage.failpoints();
    let mut points = vec!["journal.record", "backup.planned", instant];
    if storage == Kind::Btrfs {
        points.push("btrfs.after-snapshot");
    }
    points.extend([
        "backup.fixed",
        "backup.released",
        "backup.readable",
        "fs.publish",
        "repository.packs-durable",
        "repository.before-manifest",
        removal,
    ]);
    points
}

fn killed_everywhere(flavour: Flavour) {
    // Durability 0, so that there is a setting to put back as well.
    let Some(scene) = Scene::new(flavour, &[("innodb-flush-log-at-trx-commit", "0")], false, "") else {
        return;
    };
    killed_at(&scene, &points(scene.lab.storage.kind));
}

/// The storage's own points, and what lies between them: for a machine on which all of them take too long.
pub fn killed_around_the_snapshot(scene: &Scene) {
    let (instant, removal) = scene.lab.storage.kind.failpoints();
    killed_at(scene, &[instant, "backup.fixed", "backup.readable", removal]);
}

fn killed_at(scene: &Scene, points: &[&str]) {
    let flavour = scene.server.flavour;
    let load = scene.start_load();
    let removal = scene.lab.storage.kind.failpoints().1;
    for &point in points {
        let before = scene.backups();
        let output = scene.tool.with_failpoint(&format!("{point}=kill"), &["backup"]);
        assert_eq!(
            output.status.signal(),
            Some(9),
            "{point} was not reached: {}",
            both(&output)
        );
        let begun = Instant::now();
        scene.assert_writable();
        eprintln!(
            "{flavour:?}: killed at {point}; a write and a CREATE TABLE went through {:?} later",
            begun.elapsed()
        );
        scene.cleanup();
        scene.assert_nothing_left();
        let durability: u8 = scene.server.one("SELECT @@innodb_flush_log_at_trx_commit");
        assert_eq!(durability, 0, "killed at {point}: the setting was not put back");
        let committed = scene.backups() - before;
        assert!(
            committed == 0 || (committed == 1 && point == removal),
            "killed at {point}: {committed} new backups"
        );
        // Under emulation the one at the end must do.
        if scene.lab.storage.kind == Kind::Btrfs {
            scene.tool.ok(&["verify", "--all"]);
        }
    }
    scene.tool.json(&["backup"]);
    load.stop();
    scene.tool.ok(&["verify", "--all", "--level", "data"]);
}

#[test]
fn mariadb_sigkill_at_every_phase() {
    killed_everywhere(Flavour::MariaDb);
}

#[test]
fn mysql_sigkill_at_every_phase() {
    killed_everywhere(Flavour::MySql);
}

#[test]
fn signals_and_panics_clean_up_after_themselves() {
    let Some(scene) = Scene::new(Flavour::MariaDb, &[], false, "") else {
        return;
    };
    for (action, status) in [("signal:2", 130), ("signal:15", 143), ("signal:1", 129)] {
        for point in ["backup.planned", "backup.locked", "backup.released", "fs.publish"] {
            let output = scene.tool.with_failpoint(&format!("{point}={action}@1"), &["backup"]);
            assert_eq!(
                output.status.code(),
                Some(status),
                "{action} at {point}: {}",
                both(&output)
            );
            scene.assert_nothing_left();
            scene.assert_writable();
            assert_eq!(scene.backups(), 0, "{action} at {point} left a backup");
        }
    }
    for point in ["backup.locked", "backup.released", "repository.packs-durable"] {
        let output = scene.tool.with_failpoint(&format!("{point}=panic"), &["backup"]);
        eprintln!("a panic at {point}: {:?}", output.status.code());
        assert_eq!(output.status.code(), Some(1), "a panic at {point}: {}", both(&output));
        scene.assert_writable();
        scene.cleanup();
        scene.assert_nothing_left();
    }
}

#[test]
fn a_server_killed_while_it_is_locked_gives_no_backup() {
    let Some(mut scene) = Scene::new(Flavour::MariaDb, &[], false, "") else {
        return;
    };
    let gate = scene.lab.path("gate");
    let child = scene
        .tool
        .spawn(&format!("backup.locked=pause:{}", gate.display()), &["backup"]);
    let reached = scene.lab.path("gate.reached");
    wait_for_file(&reached);
    server::signal(scene.server.pid(), rustix::process::Signal::KILL);
    std::thread::sleep(Duration::from_millis(300));
    std::fs::write(&gate, "").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    assert!(both(&output).contains("lock was lost"), "{}", both(&output));
    scene.assert_nothing_left();
    assert_eq!(scene.backups(), 0);
    scene.server.kill();
    scene.server.start();
    scene.tool.json(&["backup"]);
}

#[test]
fn a_tool_that_hangs_with_the_lock_is_thrown_out_by_the_server() {
    let Some(scene) = Scene::new(Flavour::MariaDb, &[], false, "") else {
        return;
    };
    let gate = scene.lab.path("gate");
    let child = scene.tool.spawn(
        &format!("backup.locked=pause:{}", gate.display()),
        &["backup", "--hold-limit", "1s"],
    );
    let reached = scene.lab.path("gate.reached");
    wait_for_file(&reached);
    // Stopped as a whole: neither its own release nor its watchdog can run.
    server::signal(child.id(), rustix::process::Signal::STOP);
    let waited = Instant::now();
    scene.assert_writable();
    let took = waited.elapsed();
    eprintln!("a stopped holder was thrown out after {took:?}");
    assert!(took < Duration::from_secs(6), "the lock outlived its limit: {took:?}");
    std::fs::write(&gate, "").unwrap();
    server::signal(child.id(), rustix::process::Signal::CONT);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    scene.assert_nothing_left();
}
