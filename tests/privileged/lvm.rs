//! What only LVM can do wrong: copy-on-write space that overflows, pools that fill, volumes that look like ours. Where the tests run on other storage, there is
//! nothing to test.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::server::signal;
use crate::common::storage::POOL_MIB;
use crate::common::{Flavour, Kind, Lab, Tool, both, run, text, wait_for_file};
use crate::setting::Scene;

/// The scene, on thick or thin volumes only.
fn scene(thin: bool, extra: &str) -> Option<Scene> {
    let wanted = match Kind::chosen() {
        Kind::Lvm(_) => !thin,
        Kind::LvmThin => thin,
        Kind::Btrfs | Kind::Zfs | Kind::Zvol => false,
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
    wait_for_file(&scene.lab.path("gate.reached"));
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
fn what_a_private_server_writes_gets_room_in_the_snapshot() {
    let Some(scene) = scene(false, "") else { return };
    let size = |level: &str| -> u64 {
        let gate = scene.lab.path(&format!("gate-{level}"));
        let child = scene.tool.spawn(
            &format!("backup.released=pause:{}", gate.display()),
            &["backup", "--consistency", level],
        );
        wait_for_file(&scene.lab.path(&format!("gate-{level}.reached")));
        let listed = run(
            "lvs",
            &[
                "--noheadings",
                "--units",
                "b",
                "--nosuffix",
                "-o",
                "lv_name,lv_size",
                scene.lab.storage.group(),
            ],
        );
        // It has been planned: the rest is tested elsewhere.
        signal(child.id(), rustix::process::Signal::INT);
        std::fs::write(&gate, "").unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{}", both(&output));
        let ours = listed.lines().find(|line| line.contains("snapback-"));
        ours.and_then(|line| line.split_whitespace().nth(1))
            .unwrap()
            .parse()
            .unwrap()
    };
    let redo: u64 = scene.server.one("SELECT @@innodb_log_file_size");
    let (application, clean) = (size("application"), size("clean"));
    assert!(
        clean >= application + redo,
        "{application} and {clean} bytes, a redo log of {redo}"
    );
    // Two seconds after the signal the tool is gone; under emulation LVM's commands take longer.
    scene.cleanup();
    scene.assert_nothing_left();
}

/// `lvs` reads, and waits for, every group unless it is told one; a long operation in a group that has nothing to do with the backup must not matter.
#[test]
fn a_lock_on_another_volume_group_delays_nothing() {
    let Some(scene) = scene(false, "") else { return };
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let image = dir.path().join("image");
    std::fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    let device = run("losetup", &["--find", "--show", &text(&image)]).trim().to_owned();
    let other = format!("{}other", scene.lab.storage.group());
    run("vgcreate", &["-q", &other, &device]);
    // As an `lvcreate` or `pvmove` of it that takes long holds it (lvm2, lib/locking/file_locking.c).
    let held = std::fs::File::create(format!("/run/lock/lvm/V_{other}")).unwrap();
    held.lock().unwrap();
    let begun = Instant::now();
    let output = scene.tool.run(&["backup"]);
    let took = begun.elapsed();
    drop(held);
    run("vgremove", &["-f", "-y", &other]);
    run("losetup", &["--detach", &device]);
    assert!(matches!(output.status.code(), Some(0 | 5)), "{}", both(&output));
    eprintln!("with another group locked: {took:?}");
    scene.assert_nothing_left();
}

/// Fills the pool to so many hundredths of its data, by a volume that nobody else uses.
pub fn fill(scene: &Scene, percent: f64) {
    let group = scene.lab.storage.group();
    let used = run("lvs", &["--noheadings", "-o", "data_percent", &format!("{group}/pool")]);
    let used: f64 = used.trim().parse().unwrap();
    let mebibytes = (percent - used) / 100.0 * f64::from(POOL_MIB);
    run(
        "lvcreate",
        &["-q", "-y", "-V", "2G", "--thinpool", "pool", "-n", "filler", group],
    );
    let (device, count) = (format!("of=/dev/{group}/filler"), format!("count={mebibytes:.0}"));
    run(
        "dd",
        &["if=/dev/zero", &device, "bs=1M", &count, "oflag=direct", "conv=notrunc"],
    );
}

#[test]
fn a_pool_that_fills_while_it_is_copied_lets_the_snapshot_go() {
    let Some(scene) = scene(true, "") else { return };
    let gate = scene.lab.path("gate");
    let child = scene
        .tool
        .spawn(&format!("backup.readable=pause:{}", gate.display()), &["backup"]);
    wait_for_file(&scene.lab.path("gate.reached"));
    fill(&scene, 98.0);
    std::fs::write(&gate, "").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    assert!(both(&output).contains("the snapshot is given up"), "{}", both(&output));
    scene.assert_nothing_left();
    scene.assert_writable();
    assert_eq!(scene.backups(), 0);
}

#[test]
fn a_pool_that_is_nearly_full_gets_no_snapshot() {
    let Some(scene) = scene(true, "") else { return };
    fill(&scene, 96.5);
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

#[test]
fn copy_on_write_space_that_fills_is_extended_up_to_its_limit() {
    let Some(scene) = scene(false, "lvm: {cow_size: 64MiB, cow_limit: 400MiB}\n") else {
        return;
    };
    let gate = scene.lab.path("gate");
    let child = scene.tool.spawn(
        &format!("backup.released=pause:{}", gate.display()),
        &["backup", "--bandwidth", "8MB"],
    );
    wait_for_file(&scene.lab.path("gate.reached"));
    std::fs::write(&gate, "").unwrap();
    let size = || -> u64 {
        let Some(ours) = scene.lab.storage.snapshots().pop() else {
            return 0;
        };
        let name = format!("{}/{ours}", scene.lab.storage.group());
        let printed = Command::new("lvs")
            .args(["--noheadings", "--units", "m", "--nosuffix", "-o", "lv_size", &name])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&printed.stdout).trim().to_owned();
        text.split('.').next().and_then(|whole| whole.parse().ok()).unwrap_or(0)
    };
    let mut largest = 0;
    // Twice what it could hold, in steps that the watch can follow.
    for step in 0..12 {
        std::fs::write(
            scene.lab.storage.mount_point().join(format!("db/ballast-{step}")),
            vec![7u8; 10 << 20],
        )
        .unwrap();
        run("sync", &[]);
        std::thread::sleep(Duration::from_millis(1200));
        largest = largest.max(size());
    }
    assert!((65..=400).contains(&largest), "the space was {largest} MiB");
    let output = child.wait_with_output().unwrap();
    assert!(matches!(output.status.code(), Some(0 | 5)), "{}", both(&output));
    scene.assert_nothing_left();
    scene.tool.ok(&["verify", "latest", "--level", "data"]);
}

#[test]
fn a_snapshot_that_cannot_be_read_gives_no_backup() {
    let thin = Kind::chosen() == Kind::LvmThin;
    let Some(scene) = scene(thin, "") else { return };
    let gate = scene.lab.path("gate");
    let child = scene.tool.spawn(
        &format!("backup.readable=pause:{}", gate.display()),
        &["backup", "--bandwidth", "20MB"],
    );
    wait_for_file(&scene.lab.path("gate.reached"));
    let group = scene.lab.storage.group();
    let ours = scene.lab.storage.snapshots();
    let path = run(
        "lvs",
        &["--noheadings", "-o", "lv_dm_path", &format!("{group}/{}", ours[0])],
    );
    let device = path.trim();
    let sectors = run("blockdev", &["--getsz", device]);
    // Every read fails from now on, as on a broken disk.
    run("dmsetup", &["suspend", "--noflush", "--nolockfs", device]);
    run(
        "dmsetup",
        &["load", device, "--table", &format!("0 {} error", sectors.trim())],
    );
    run("dmsetup", &["resume", device]);
    run("blockdev", &["--flushbufs", device]);
    std::fs::write(&gate, "").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    eprintln!("{}", both(&output));
    scene.assert_nothing_left();
    scene.assert_writable();
    assert_eq!(scene.backups(), 0);
}

#[test]
fn encryption_on_top_of_a_volume_is_refused_and_below_it_is_fine() {
    if !matches!(Kind::chosen(), Kind::Lvm(_)) {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    // Below: the group's own disk is an encrypted one.
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let (image, key) = (dir.path().join("image"), dir.path().join("key"));
    std::fs::write(&key, [7u8; 32]).unwrap();
    let key = format!("--key-file={}", key.display());
    std::fs::File::create(&image).unwrap().set_len(2 << 30).unwrap();
    let device = run("losetup", &["--find", "--show", &text(&image)]).trim().to_owned();
    let (below, above) = (
        format!("snapbelow{}", std::process::id()),
        format!("snapabove{}", std::process::id()),
    );
    let plain = [
        "open",
        "--type",
        "plain",
        "--cipher",
        "aes-xts-plain64",
        "--key-size",
        "256",
        &key,
    ];
    run("cryptsetup", &[&plain[..], &[&device, &below]].concat());
    let group = format!("{}crypt", lab.storage.group());
    run("vgcreate", &["-q", &group, &format!("/dev/mapper/{below}")]);
    run("lvcreate", &["-q", "-y", "-W", "n", "-L", "700M", "-n", "db", &group]);
    run("lvcreate", &["-q", "-y", "-W", "n", "-L", "300M", "-n", "top", &group]);
    run(
        "cryptsetup",
        &[&plain[..], &[&format!("/dev/{group}/top"), &above]].concat(),
    );
    let mounted = |name: &str, device: &str| {
        let at = lab.path(name);
        std::fs::create_dir(&at).unwrap();
        run("mkfs.ext4", &["-q", "-F", device]);
        run("mount", &[device, &text(&at)]);
        at
    };
    let (on_below, on_above) = (
        mounted("on-below", &format!("/dev/{group}/db")),
        mounted("on-above", &format!("/dev/mapper/{above}")),
    );
    for (at, works) in [(&on_below, true), (&on_above, false)] {
        let files = at.join("files");
        std::fs::create_dir(&files).unwrap();
        std::fs::write(files.join("one"), "content").unwrap();
        let config = format!("server: none\nfiles: [{}]\n", files.display());
        let home = lab.path(if works { "tool-below" } else { "tool-above" });
        std::fs::create_dir(&home).unwrap();
        let tool = Tool::bare(&home, &config);
        tool.ok(&["init", "--repository", &text(&tool.repository)]);
        let output = tool.run(&["check"]);
        eprintln!("{}", both(&output));
        if works {
            let backup = tool.json(&["backup"]);
            assert_eq!(backup["volumes"][0]["provider"], "lvm", "{backup}");
        } else {
            // Files are copied live, with the reason.
            assert!(both(&output).contains("LVM on top of LUKS"), "{}", both(&output));
        }
    }
    run("umount", &[&text(&on_above)]);
    run("umount", &[&text(&on_below)]);
    run("cryptsetup", &["close", &above]);
    run("vgremove", &["-f", "-y", &group]);
    run("cryptsetup", &["close", &below]);
    run("losetup", &["--detach", &device]);
}
