//! What only LVM can do wrong: copy-on-write space that overflows, pools that fill, volumes that look like ours. Where the tests run on other storage, there is
//! nothing to test.

use std::time::{Duration, Instant};

use crate::common::storage::POOL_MIB;
use crate::common::{Flavour, Kind, both, run};
use crate::setting::Scene;

/// The scene, on thick or thin volumes only.
fn scene(thin: bool, extra: &str) -> Option<Scene> {
    let wanted = match Kind::chosen() {
        Kind::Lvm(_) => !thin,
        Kind::LvmThin => thin,
        Kind::Btrfs | Kind::Zfs => false,
    };
    wanted
        .then(|| Scene::new(Flavour::MariaDb, &[], false, extra))
        .flatten()
}

#[test]
fn an_overflow_while_it_is_copied_gives_no_backup() {
    let Some(scene) = scene(false, "lvm: {cow_size: 32MiB}\n") else {
        return;
    };
    let gate = scene.lab.path("gate");
    let child = scene.tool.spawn(
        &format!("backup.released=pause:{}", gate.display()),
        &["backup", "--bandwidth", "20MB"],
    );
    let begun = Instant::now();
    while !scene.lab.path("gate.reached").exists() {
        assert!(begun.elapsed() < Duration::from_secs(120), "the snapshot was not taken");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::fs::write(&gate, "").unwrap();
    // More than the snapshot can hold, while it is read.
    std::fs::write(scene.lab.storage.mount_point().join("db/ballast"), vec![7u8; 80 << 20]).unwrap();
    run("sync", &[]);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    let said = both(&output);
    assert!(said.contains("overflowed") && said.contains("lvm.cow_size"), "{said}");
    scene.assert_nothing_left();
    scene.assert_writable();
    assert_eq!(scene.backups(), 0);
}

#[test]
fn a_volume_group_without_room_is_found_by_check() {
    let Some(scene) = scene(false, "") else { return };
    let group = scene.lab.storage.group();
    run(
        "lvcreate",
        &["-q", "-y", "-W", "n", "-l", "100%FREE", "-n", "rest", group],
    );
    let output = scene.tool.run(&["check"]);
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    assert!(
        both(&output).contains("too little for the copy-on-write space"),
        "{}",
        both(&output)
    );
    let output = scene.tool.run(&["backup"]);
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    scene.assert_nothing_left();
    scene.assert_writable();
}

#[test]
fn a_pool_that_is_nearly_full_gets_no_snapshot() {
    let Some(scene) = scene(true, "") else { return };
    let group = scene.lab.storage.group();
    let pool = format!("{group}/pool");
    let used = run("lvs", &["--noheadings", "-o", "data_percent", &pool]);
    let used: f64 = used.trim().parse().unwrap();
    let mebibytes = (96.5 - used) / 100.0 * f64::from(POOL_MIB);
    run(
        "lvcreate",
        &["-q", "-y", "-V", "2G", "--thinpool", "pool", "-n", "filler", group],
    );
    let (device, count) = (format!("of=/dev/{group}/filler"), format!("count={mebibytes:.0}"));
    run(
        "dd",
        &["if=/dev/zero", &device, "bs=1M", &count, "oflag=direct", "conv=notrunc"],
    );
    let output = scene.tool.run(&["check"]);
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    assert!(both(&output).contains("thin pool"), "{}", both(&output));
    let output = scene.tool.run(&["backup"]);
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    scene.assert_nothing_left();
    scene.assert_writable();
}

#[test]
fn volumes_that_look_like_ours_are_left_alone() {
    let thin = Kind::chosen() == Kind::LvmThin;
    let Some(scene) = scene(thin, "") else { return };
    let group = scene.lab.storage.group();
    let stranger = format!("snapback-{}-0", "0123456789abcdef".repeat(2));
    run(
        "lvcreate",
        &["-q", "-y", "-W", "n", "-L", "32M", "-n", &stranger, group],
    );
    let tagged = "kept-by-somebody";
    run(
        "lvcreate",
        &[
            "-q", "-y", "-W", "n", "-L", "32M", "--addtag", "snapback", "-n", tagged, group,
        ],
    );
    scene.tool.json(&["backup"]);
    let report = scene.tool.json(&["cleanup", "--orphans"]);
    assert_eq!(report["orphans"].as_array().unwrap().len(), 0, "{report}");
    let left = run("lvs", &["--noheadings", "-o", "lv_name", group]);
    assert!(left.contains(&stranger) && left.contains(tagged), "{left}");
}
