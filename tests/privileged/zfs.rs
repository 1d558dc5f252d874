//! What only ZFS can do wrong. Where the tests run on other storage, there is nothing to test.

use std::process::Command;

use crate::common::{Flavour, Kind, Tool, both, run, text, wait_for_file};
use crate::setting::Scene;

fn scene() -> Option<Scene> {
    (Kind::chosen() == Kind::Zfs)
        .then(|| Scene::new(Flavour::MariaDb, &[], false, ""))
        .flatten()
}

#[test]
fn a_snapshot_that_is_copied_cannot_be_destroyed_and_strangers_stay() {
    let Some(scene) = scene() else { return };
    let dataset = format!("{}/db", scene.lab.storage.group());
    // Our kind of name, but not our property.
    let stranger = format!("{dataset}@snapback-{}-0", "0123456789abcdef".repeat(2));
    run("zfs", &["snapshot", &stranger]);
    // Reached by its name all the same.
    run("zfs", &["set", "snapdir=hidden", &dataset]);
    let gate = scene.lab.path("gate");
    let child = scene.tool.spawn(
        &format!("backup.readable=pause:{}", gate.display()),
        &["--json", "backup"],
    );
    wait_for_file(&scene.lab.path("gate.reached"));
    let ours: Vec<String> = scene.lab.storage.snapshots();
    let ours: Vec<&String> = ours.iter().filter(|name| **name != stranger).collect();
    assert_eq!(ours.len(), 1, "{ours:?}");
    let holds = run("zfs", &["holds", "-H", ours[0]]);
    assert!(holds.contains("\tsnapback\t"), "nothing holds it: {holds}");
    let destroyed = Command::new("zfs").args(["destroy", ours[0]]).output().unwrap();
    assert!(
        !destroyed.status.success(),
        "a snapshot that is being copied was destroyed"
    );
    std::fs::write(&gate, "").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(matches!(output.status.code(), Some(0 | 5)), "{}", both(&output));
    let report = scene.tool.json(&["cleanup", "--orphans"]);
    assert_eq!(report["orphans"].as_array().unwrap().len(), 0, "{report}");
    assert_eq!(scene.lab.storage.snapshots(), vec![stranger]);
}

#[test]
fn an_encrypted_dataset_is_backed_up_as_any_other() {
    let Some(scene) = scene() else { return };
    let group = scene.lab.storage.group();
    let key = scene.lab.path("key");
    std::fs::write(&key, "correct horse battery staple\n").unwrap();
    let location = format!("keylocation=file://{}", key.display());
    let dataset = format!("{group}/secret");
    run(
        "zfs",
        &[
            "create",
            "-o",
            "encryption=on",
            "-o",
            "keyformat=passphrase",
            "-o",
            "pbkdf2iters=100000",
            "-o",
            &location,
            &dataset,
        ],
    );
    let top = scene.lab.storage.mount_point().join("secret");
    std::fs::create_dir(top.join("files")).unwrap();
    std::fs::write(top.join("files/one"), "content").unwrap();
    let home = scene.lab.path("files-only");
    std::fs::create_dir(&home).unwrap();
    let tool = Tool::bare(
        &home,
        &format!("server: none\nfiles: [{}]\n", top.join("files").display()),
    );
    tool.ok(&["init", "--repository", &text(&tool.repository)]);
    let backup = tool.json(&["backup"]);
    assert_eq!(backup["volumes"][0]["source"], dataset, "{backup}");
    tool.json(&["restore", "latest", "--target", &text(&home.join("back"))]);
    let back = home.join("back").join(top.strip_prefix("/").unwrap()).join("files/one");
    assert_eq!(std::fs::read_to_string(back).unwrap(), "content");
    assert_eq!(scene.lab.storage.snapshots(), Vec::<String>::new());
}

#[test]
fn a_pool_with_a_faulted_device_is_backed_up_with_a_warning() {
    if Kind::chosen() != Kind::Zfs {
        return;
    }
    let dir = tempfile::Builder::new().prefix("snapback-test-").tempdir().unwrap();
    let images: Vec<String> = ["one", "two"]
        .iter()
        .map(|name| {
            let image = dir.path().join(name);
            std::fs::File::create(&image).unwrap().set_len(256 << 20).unwrap();
            text(&image)
        })
        .collect();
    let pool = format!("snapbackmirror{}", std::process::id());
    let top = dir.path().join("mnt");
    run(
        "zpool",
        &[
            "create",
            "-f",
            "-m",
            &text(&top),
            &pool,
            "mirror",
            &images[0],
            &images[1],
        ],
    );
    let _ended = Pool(pool.clone());
    std::fs::create_dir(top.join("files")).unwrap();
    std::fs::write(top.join("files/one"), "content").unwrap();
    run("zpool", &["offline", "-f", &pool, &images[1]]);
    let tool = Tool::bare(
        dir.path(),
        &format!("server: none\nfiles: [{}]\n", top.join("files").display()),
    );
    tool.ok(&["init", "--repository", &text(&tool.repository)]);
    let output = tool.run(&["backup"]);
    assert_eq!(output.status.code(), Some(5), "{}", both(&output));
    let said = both(&output);
    assert!(said.contains("is degraded") && !said.contains("hurries"), "{said}");
    tool.ok(&["verify", "latest", "--level", "data"]);
}

/// `zfs create -V` reserves the volume's whole size. The volume is found by a mount that is seen, and its clone gets a device although the pool says that volumes get
/// none.
#[test]
fn a_volume_with_a_reservation_below_a_hidden_mount_is_backed_up() {
    if Kind::chosen() != Kind::Zfs {
        return;
    }
    let dir = tempfile::Builder::new().prefix("snapback-test-").tempdir().unwrap();
    let image = dir.path().join("image");
    std::fs::File::create(&image).unwrap().set_len(1 << 30).unwrap();
    let pool = format!("snapbackthick{}", std::process::id());
    run("zpool", &["create", "-f", "-m", "none", &pool, &text(&image)]);
    let _ended = Pool(pool.clone());
    let volume = format!("{pool}/db");
    run("zfs", &["create", "-V", "400M", &volume]);
    run("zfs", &["set", "volmode=none", &pool]);
    run("zfs", &["set", "volmode=dev", &volume]);
    run("udevadm", &["settle"]);
    let device = format!("/dev/zvol/{volume}");
    run("mkfs.ext4", &["-q", "-F", &device]);
    // The first mount is hidden by another filesystem, the second one shows.
    let (hidden, top) = (dir.path().join("hidden"), dir.path().join("top"));
    std::fs::create_dir(&hidden).unwrap();
    std::fs::create_dir(&top).unwrap();
    run("mount", &[&device, &text(&hidden)]);
    run("mount", &["-t", "tmpfs", "tmpfs", &text(&hidden)]);
    run("mount", &[&device, &text(&top)]);
    let _unmounted = Unmounted([top.clone(), hidden.clone(), hidden]);
    std::fs::create_dir(top.join("files")).unwrap();
    let content: Vec<u8> = (0..40_u32 << 20)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    std::fs::write(top.join("files/one"), &content).unwrap();
    run("zpool", &["sync", &pool]);
    let tool = Tool::bare(
        dir.path(),
        &format!("server: none\nfiles: [{}]\n", top.join("files").display()),
    );
    tool.ok(&["init", "--repository", &text(&tool.repository)]);
    let backup = tool.json(&["backup"]);
    assert_eq!(backup["volumes"][0]["provider"], "zvol", "{backup}");
    tool.ok(&["verify", "latest", "--level", "data"]);
}

/// Unmounted when the test ends.
struct Unmounted([std::path::PathBuf; 3]);

impl Drop for Unmounted {
    fn drop(&mut self) {
        for at in &self.0 {
            let _ = Command::new("umount").arg(at).output();
        }
    }
}

/// Destroyed when the test ends.
struct Pool(String);

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = Command::new("zpool").args(["destroy", "-f", &self.0]).output();
    }
}
