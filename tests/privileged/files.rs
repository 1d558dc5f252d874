//! Where things live: files beside the database, nested subvolumes, logs elsewhere, a datadir below the top of its subvolume.

use crate::common::{Flavour, Server, both, load, run, text};
use crate::setting::Scene;

#[test]
fn files_come_from_the_snapshot_where_they_can_and_are_marked_live_where_not() {
    let Some(scene) = Scene::new(Flavour::MariaDb, &[], true, "") else {
        return;
    };
    let on_volume = scene.lab.storage.mount_point().join("db/www");
    let own = scene.lab.storage.volume("site");
    let live = scene.lab.path("etc");
    for dir in [&on_volume, &own, &live] {
        std::fs::create_dir_all(dir.join("sub")).unwrap();
        std::fs::write(dir.join("sub/index.html"), text(dir)).unwrap();
    }
    let args = [
        "backup",
        "--files",
        &text(&on_volume),
        "--files",
        &text(&own),
        "--files",
        &text(&live),
    ];
    let backup = scene.tool.json(&args);
    let source = |path: &std::path::Path| {
        let roots = backup["roots"].as_array().unwrap();
        let root = roots
            .iter()
            .find(|root| root["path"] == text(path))
            .unwrap_or_else(|| panic!("{} is no root: {roots:?}", path.display()));
        root["source"].as_str().unwrap().to_owned()
    };
    assert_eq!(source(&on_volume), "snapshot");
    assert_eq!(source(&own), "own-snapshot");
    assert_eq!(source(&live), "live");
    assert_eq!(backup["volumes"].as_array().unwrap().len(), 2);
    scene.assert_nothing_left();
    let target = scene.lab.path("all");
    scene.tool.json(&["restore", "latest", "--target", &text(&target)]);
    for dir in [&on_volume, &own, &live] {
        let restored = target.join(dir.strip_prefix("/").unwrap()).join("sub/index.html");
        assert_eq!(std::fs::read_to_string(restored).unwrap(), text(dir));
    }
}

#[test]
fn a_database_spread_over_subvolumes_is_refused_with_a_remedy() {
    for flavour in [Flavour::MariaDb, Flavour::MySql] {
        // Its relay logs lie in the datadir, as MySQL's do: they are left out, and nothing else is.
        let Some(scene) = Scene::new(flavour, &[("relay-log", "relay")], true, "") else {
            return;
        };
        run(
            "btrfs",
            &["subvolume", "create", &text(&scene.server.datadir.join("nested"))],
        );
        let output = scene.tool.run(&["backup"]);
        let said = both(&output);
        assert_eq!(output.status.code(), Some(1), "{flavour:?}: {said}");
        assert!(said.contains("nested") && said.contains("->"), "{said}");
        let check = scene.tool.run(&["check"]);
        assert_eq!(check.status.code(), Some(1), "{}", both(&check));
        scene.assert_nothing_left();
    }
}

#[test]
fn a_binary_log_beside_the_datadir_is_restored_and_found_by_the_server() {
    for flavour in [Flavour::MariaDb, Flavour::MySql] {
        let Some(lab) = crate::common::Lab::new() else { return };
        if !flavour.available() {
            return;
        }
        let volume = lab.storage.volume("db");
        let logs = volume.join("logs");
        std::fs::create_dir(&logs).unwrap();
        let base = text(&logs.join("binlog"));
        let server = Server::create(flavour, &volume.join("data"), &lab.path("run"), &[("log-bin", &base)]);
        load::set_up(&server.socket, flavour == Flavour::MariaDb, true, 100);
        let tool = crate::common::Tool::new(lab.dir.path(), &server, "");
        tool.json(&["backup"]);
        let rows: u64 = server.one("SELECT COUNT(*) FROM ledger.bulk");
        drop(server);
        // The origin is gone: what starts now can only use the copy.
        std::fs::remove_dir_all(volume.join("data")).unwrap();
        std::fs::remove_dir_all(&logs).unwrap();
        let copy = lab.path("copy");
        let report = tool.json(&["restore", "latest", "--datadir", &text(&copy)]);
        let placed = report["placed"].as_array().unwrap();
        assert_eq!(placed.len(), 2, "{report}");
        let moved = lab
            .path("copy.external")
            .join(logs.strip_prefix("/").unwrap())
            .join("binlog");
        let restored = Server::on(flavour, &copy, &lab.path("copy-run"), &[("log-bin", &text(&moved))]);
        assert_eq!(restored.one::<u64>("SELECT COUNT(*) FROM ledger.bulk"), rows);
        let found = restored.binary_logs();
        assert!(found.len() > 1, "the old binary log was not found again: {found:?}");
    }
}

#[test]
fn what_only_a_running_server_needs_is_left_out_and_listed() {
    let Some(scene) = Scene::new(Flavour::MySql, &[], true, "") else {
        return;
    };
    let backup = scene.tool.json(&["backup"]);
    let listed = scene.tool.ok(&["show", "latest", "--files"]);
    assert!(
        !listed.contains("ibtmp1") && !listed.contains("#innodb_temp/"),
        "{listed}"
    );
    let left: Vec<&str> = backup["left_out"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|left| left["path"].as_str())
        .collect();
    assert!(left.iter().any(|path| path.ends_with("ibtmp1")), "{left:?}");
}

/// A further mount of a lab's filesystem, gone before the lab.
struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).output();
    }
}

/// What most people make of a disk: mkfs.btrfs, mounted on the datadir. There is no place for a snapshot, and the advice that is printed makes one.
#[test]
fn a_btrfs_disk_that_is_the_datadir_is_refused_with_advice_that_works() {
    let Some(lab) = crate::common::Lab::new() else { return };
    if lab.storage.kind != crate::common::Kind::Btrfs || !Flavour::MariaDb.available() {
        return;
    }
    let device = lab.storage.device().to_owned();
    run("umount", &[&text(lab.storage.mount_point())]);
    let datadir = lab.path("datadir");
    std::fs::create_dir(&datadir).unwrap();
    run("mount", &[&device, &text(&datadir)]);
    let live = Mounted(datadir.clone());
    let mut server = Server::create(Flavour::MariaDb, &datadir, &lab.path("run"), &[]);
    load::set_up(&server.socket, true, true, 100);
    let tool = crate::common::Tool::new(lab.dir.path(), &server, "");
    let config = std::fs::read_to_string(&tool.config).unwrap();
    let pool = lab.path("pool");
    std::fs::create_dir(&pool).unwrap();
    run("mount", &["-o", "subvolid=5", &device, &text(&pool)]);
    let top = Mounted(pool.clone());
    let with_place = format!("{config}btrfs: {{snapshot_dir: {}}}\n", text(&pool.join(".snapback")));
    // The top level is the datadir, by whichever mount: also where a person names it.
    for yaml in [&config, &with_place] {
        std::fs::write(&tool.config, yaml).unwrap();
        let check = tool.run(&["check"]);
        assert_eq!(check.status.code(), Some(1), "{}", both(&check));
        assert!(both(&check).contains("btrfs subvolume snapshot"), "{}", both(&check));
    }
    assert!(!datadir.join(".snapback").exists());
    // The advice.
    server.stop();
    run(
        "btrfs",
        &["subvolume", "snapshot", &text(&datadir), &text(&datadir.join("@mysql"))],
    );
    drop(live);
    run("mount", &["-o", "subvol=@mysql", &device, &text(&datadir)]);
    let live = Mounted(datadir.clone());
    server.start();
    tool.json(&["backup"]);
    assert!(pool.join(".snapback").parent().unwrap().exists() && !datadir.join(".snapback").exists());
    let databases: String = server.one("SELECT GROUP_CONCAT(SCHEMA_NAME) FROM information_schema.SCHEMATA");
    assert!(!databases.contains("snapback"), "{databases}");
    server.stop();
    drop((live, top));
    run("mount", &[&device, &text(lab.storage.mount_point())]);
}

/// The usual layout of a production host: /var/lib/mysql is the mount of a subvolume, and nothing else of the filesystem is mounted there.
#[test]
fn a_datadir_that_is_a_mount_of_its_own_goes_round() {
    let Some(lab) = crate::common::Lab::new() else { return };
    if !Flavour::MariaDb.available() {
        return;
    }
    lab.storage.volume("db");
    let datadir = lab.path("datadir");
    std::fs::create_dir(&datadir).unwrap();
    run("mount", &["-o", "subvol=db", lab.storage.device(), &text(&datadir)]);
    let mounted = Mounted(datadir.clone());
    let mut server = Server::create(Flavour::MariaDb, &datadir, &lab.path("run"), &[]);
    load::set_up(&server.socket, true, true, 100);
    let tool = crate::common::Tool::new(lab.dir.path(), &server, "");
    tool.json(&["check"]);
    tool.json(&["backup"]);
    assert_eq!(lab.storage.snapshots(), Vec::<String>::new());
    let rows: u64 = server.one("SELECT COUNT(*) FROM ledger.bulk");

    // In its datadir a snapshot may not appear; where there is no other place, `check` says so, and nothing is locked.
    let elsewhere = lab.path("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let config = std::fs::read_to_string(&tool.config).unwrap();
    std::fs::write(
        &tool.config,
        format!("{config}btrfs: {{snapshot_dir: {}}}\n", text(&elsewhere)),
    )
    .unwrap();
    let check = tool.run(&["check"]);
    assert_eq!(check.status.code(), Some(1), "{}", both(&check));
    assert!(both(&check).contains("snapshot_dir"), "{}", both(&check));
    std::fs::write(&tool.config, config).unwrap();

    // A mount point cannot be replaced: the restore fills it.
    server.kill();
    for entry in std::fs::read_dir(&datadir).unwrap() {
        let path = entry.unwrap().path();
        let removed = if path.is_dir() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        removed.unwrap();
    }
    tool.json(&["restore", "latest", "--datadir", &text(&datadir)]);
    server.start();
    assert_eq!(server.one::<u64>("SELECT COUNT(*) FROM ledger.bulk"), rows);
    server.stop();
    // In place over what is there: moved aside within the mount.
    tool.json(&["restore", "latest", "--in-place", "--force"]);
    server.start();
    assert_eq!(server.one::<u64>("SELECT COUNT(*) FROM ledger.bulk"), rows);
    drop(server);
    drop(mounted);
}
