//! The vendor's command at the brink on real storage (LVM thick and thin, ZFS): whatever goes wrong there, nothing is left, the server is free, and the next
//! backup is good. On Btrfs, which needs no command, there is nothing to test. What needs no storage is tested in src/sys/brink/tests.rs.

use std::time::{Duration, Instant};

use mysql::prelude::Queryable;

use crate::common::server::signal;
use crate::common::{Flavour, Kind, both, run, text, wait_for};
use crate::setting::Scene;

/// Seconds between two attempts for the lock.
const PAUSE: u64 = 20;

/// With the whole of the vendor's command under the lock, which takes long on a slow machine.
const SLOW: [&str; 4] = ["--json", "backup", "--hold-limit", "10m"];

fn scene() -> Option<Scene> {
    (Kind::chosen() != Kind::Btrfs)
        .then(|| Scene::new(Flavour::MariaDb, &[], false, &format!("lock: {{backoff: {PAUSE}s}}\n")))
        .flatten()
}

fn nothing_happened(scene: &Scene) {
    scene.assert_writable();
    scene.assert_nothing_left();
    let there = scene.backups();
    scene.tool.json(&["backup"]);
    assert_eq!(scene.backups(), there + 1);
    scene.assert_nothing_left();
}

/// One scene for all: under emulation making one takes longest.
#[test]
fn whatever_goes_wrong_at_the_brink_leaves_nothing() {
    let Some(scene) = scene() else { return };
    lock_refused(&scene);
    command_killed(&scene);
    if matches!(Kind::chosen(), Kind::Lvm(_) | Kind::LvmThin) {
        command_killed_with_the_volume_suspended(&scene);
        command_and_tool_killed_with_the_volume_suspended(&scene);
        lock_late(&scene);
        calls_that_cannot_be_read(&scene);
    }
    kernel_that_cannot_hold_it(&scene);
}

/// The command is let go, and its snapshot removed.
fn lock_refused(scene: &Scene) {
    let mut blocker = scene.server.connect();
    blocker.query_drop("LOCK TABLES ledger.MyISAM_rows WRITE").unwrap();
    let args = [
        "backup",
        "--lock",
        "ftwrl",
        "--on-busy",
        "fail",
        "--acquire-timeout",
        "1s",
        "--attempts",
        "1",
    ];
    let output = scene.tool.run(&args);
    drop(blocker);
    assert_eq!(output.status.code(), Some(3), "{}", both(&output));
    nothing_happened(scene);
}

fn command_killed(scene: &Scene) {
    let point = scene.lab.storage.kind.failpoints().0;
    kill_at(scene, point, "", |lvm| {
        // The kernel may have let the call be made all the same (seen on a busy machine): then nobody is left to resume the origin.
        if lvm {
            run("dmsetup", &["suspend", &origin(scene)]);
        }
    });
}

/// Between suspend and resume.
fn command_killed_with_the_volume_suspended(scene: &Scene) {
    kill_at(scene, "lvm.suspended", "lvm.hold-suspended=error;", |_| {
        assert!(is_suspended(scene));
    });
}

/// Nobody is left to resume the origin but `cleanup`.
fn command_and_tool_killed_with_the_volume_suspended(scene: &Scene) {
    let (mut child, command) = killed_at(scene, "lvm.suspended", "lvm.hold-suspended=error;", "both");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(is_suspended(scene), "{command:?}");
    scene.cleanup();
    let resumed = !is_suspended(scene);
    if !resumed {
        // So that the test can end.
        run("dmsetup", &["resume", &origin(scene)]);
    }
    assert!(resumed, "cleanup left the volume suspended");
    nothing_happened(scene);
}

/// Kills the vendor's command at a failpoint, does something, and lets the tool go on.
fn kill_at(scene: &Scene, point: &str, before: &str, then: impl Fn(bool)) {
    let (child, command) = killed_at(scene, point, before, "one");
    let lvm = command == "lvcreate";
    then(lvm);
    std::fs::write(scene.lab.path(&format!("gate-{point}-one")), "").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    // At once, and not only when the snapshot is removed.
    assert!(
        !lvm || both(&output).contains("suspended, which was resumed"),
        "{}",
        both(&output)
    );
    nothing_happened(scene);
}

/// A backup that waits at a failpoint, its vendor's command killed; that one's name.
fn killed_at(scene: &Scene, point: &str, before: &str, which: &str) -> (std::process::Child, String) {
    let gate = scene.lab.path(&format!("gate-{point}-{which}"));
    let child = scene
        .tool
        .spawn(&format!("{before}{point}=pause:{}", gate.display()), &["backup"]);
    let reached = scene.lab.path(&format!("gate-{point}-{which}.reached"));
    wait_for("the point was not reached", || reached.exists());
    let command = children(child.id());
    assert_eq!(command.len(), 1, "{command:?}");
    signal(command[0].0, rustix::process::Signal::KILL);
    wait_for("the command does not die", || {
        std::fs::read_to_string(format!("/proc/{}/stat", command[0].0)).map_or(true, |stat| stat.contains(") Z "))
    });
    (child, command[0].1.clone())
}

fn is_suspended(scene: &Scene) -> bool {
    let state = run(
        "dmsetup",
        &["info", "-c", "--noheadings", "-o", "suspended", &origin(scene)],
    );
    state.trim() == "Suspended"
}

/// The device of the server's logical volume.
fn origin(scene: &Scene) -> String {
    let datadir = text(&scene.server.datadir);
    let source = run("findmnt", &["-n", "-o", "SOURCE", "--target", &datadir]);
    source.trim().to_owned()
}

/// While the lock is not to be had, others can use the volume group; then the snapshot is prepared again.
fn lock_late(scene: &Scene) {
    let mut blocker = scene.server.connect();
    blocker.query_drop("LOCK TABLES ledger.MyISAM_rows WRITE").unwrap();
    let there = scene.backups();
    let args = ["--json", "backup", "--lock", "ftwrl", "--acquire-timeout", "1s"];
    let child = scene.tool.spawn("none=error", &args);
    wait_for("lvcreate was not started", || !children(child.id()).is_empty());
    wait_for("the snapshot stays", || scene.lab.storage.snapshots().is_empty());
    let begun = Instant::now();
    run("vgchange", &["--addtag", "others-work", scene.lab.storage.group()]);
    assert!(
        begun.elapsed() < Duration::from_secs(PAUSE / 2),
        "{:?}",
        begun.elapsed()
    );
    drop(blocker);
    let output = child.wait_with_output().unwrap();
    assert!(matches!(output.status.code(), Some(0 | 5)), "{}", both(&output));
    let backup: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(backup["lock"]["attempts"], 2, "{backup}");
    assert_eq!(scene.backups(), there + 1);
    scene.assert_nothing_left();
}

/// As with Yama's ptrace_scope 3, which cannot be taken back before a reboot.
fn calls_that_cannot_be_read(scene: &Scene) {
    let output = scene.tool.with_failpoint("lvm.unreadable=error", &SLOW);
    assert!(matches!(output.status.code(), Some(0 | 5)), "{}", both(&output));
    let backup: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(backup["warnings"].to_string().contains("no-brink"), "{backup}");
    nothing_happened(scene);
}

/// Those that run a vendor's program, by pid and name.
fn children(of: u32) -> Vec<(u32, String)> {
    let tasks = std::fs::read_dir(format!("/proc/{of}/task")).unwrap().flatten();
    let listed = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let pids: Vec<u32> = listed
        .flat_map(|list| {
            list.split_whitespace()
                .map(|pid| pid.parse().unwrap())
                .collect::<Vec<u32>>()
        })
        .collect();
    let named = pids.into_iter().map(|pid| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        (pid, name.trim().to_owned())
    });
    named
        .filter(|(_, name)| matches!(name.as_str(), "lvcreate" | "zfs"))
        .collect()
}

/// The command runs under the lock as a whole, and the manifest says so.
fn kernel_that_cannot_hold_it(scene: &Scene) {
    let load = scene.start_load();
    let before = load.acknowledged();
    let output = scene.tool.with_failpoint("brink.unsupported=error", &SLOW);
    load.stop();
    assert!(matches!(output.status.code(), Some(0 | 5)), "{}", both(&output));
    let backup: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let codes: Vec<&str> = backup["warnings"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|warning| warning["code"].as_str())
        .collect();
    assert!(codes.contains(&"no-brink"), "{codes:?}");
    // Slower, and exact all the same.
    scene.prove_exact(&backup, &before, "restored");
    scene.assert_nothing_left();
}
