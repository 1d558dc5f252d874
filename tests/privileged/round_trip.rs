//! The first whole path: back up a loaded server, lose its datadir, restore, start, go on.

use crate::common::{Flavour, Server, load, text};
use crate::setting::{Scene, THREADS, exists};

fn disaster(flavour: Flavour) {
    let Some(mut scene) = Scene::new(flavour, &[], false, "") else {
        return;
    };
    let load = scene.start_load();
    let before = load.acknowledged();
    let backup = scene.tool.json(&["backup", "--tag", "why=test"]);
    load.stop();
    for key in [
        "id",
        "consistency",
        "lock",
        "position",
        "volumes",
        "phases",
        "copy",
        "warnings",
    ] {
        assert!(!backup[key].is_null(), "backup --json lacks {key}: {backup}");
    }
    assert_eq!(backup["consistency"], "application");
    assert!(backup["lock"]["held_us"].as_u64().unwrap() > 0);
    let listed = scene.tool.json(&["list"]);
    assert_eq!(listed[0]["id"], backup["id"]);
    assert_eq!(listed[0]["tags"]["why"], "test");

    scene.server.kill();
    std::fs::remove_dir_all(&scene.server.datadir).unwrap();
    scene
        .tool
        .json(&["restore", "latest", "--datadir", &text(&scene.server.datadir)]);
    scene.server.start();
    let there = load::proven(&scene.server.socket, scene.mariadb(), false, THREADS);
    assert!(
        there
            .iter()
            .zip(&before)
            .all(|(there, before)| (0..3).all(|engine| there[engine] >= before[engine]))
    );
    scene.assert_writable();
    scene.assert_nothing_left();
}

#[test]
fn mariadb_comes_back_after_its_datadir_is_lost() {
    disaster(Flavour::MariaDb);
}

#[test]
fn mysql_comes_back_after_its_datadir_is_lost() {
    disaster(Flavour::MySql);
}

#[test]
fn a_second_backup_stores_only_what_changed_and_both_verify() {
    let Some(scene) = Scene::new(Flavour::MariaDb, &[], false, "") else {
        return;
    };
    let first = scene.tool.json(&["backup"]);
    scene
        .server
        .exec("UPDATE ledger.bulk SET hits = hits + 1 WHERE id < 100");
    let second = scene.tool.json(&["backup"]);
    let bytes = |backup: &serde_json::Value| backup["copy"]["bytes_new"].as_u64().unwrap();
    assert!(
        bytes(&second) * 3 < bytes(&first),
        "first {} new bytes, second {}",
        bytes(&first),
        bytes(&second)
    );
    assert_eq!(second["parent"], first["id"]);
    scene.tool.ok(&["verify", "--all", "--level", "data"]);
    // Every backup restores by itself.
    for backup in [&first, &second] {
        let server = scene.restore(backup["id"].as_str().unwrap(), "again");
        let _: u64 = server.one("SELECT COUNT(*) FROM ledger.bulk");
        drop(server);
        std::fs::remove_dir_all(scene.lab.path("again")).unwrap();
    }
}

#[test]
fn crash_level_takes_no_lock_and_recovers() {
    let Some(scene) = Scene::new(Flavour::MariaDb, &[], true, "") else {
        return;
    };
    let load = scene.start_load();
    let backup = scene.tool.json(&["backup", "--consistency", "crash"]);
    load.stop();
    assert_eq!(backup["consistency"], "crash");
    assert_eq!(backup["lock"]["held_us"].as_u64().unwrap_or(0), 0);
    let server = scene.restore(backup["id"].as_str().unwrap(), "crash");
    load::proven(&server.socket, true, true, THREADS);
}

#[test]
fn restores_refuse_what_would_do_harm() {
    let Some(scene) = Scene::new(Flavour::MariaDb, &[], true, "") else {
        return;
    };
    scene.tool.json(&["backup"]);
    let datadir = text(&scene.server.datadir);
    let live = scene.tool.run(&["restore", "latest", "--datadir", &datadir]);
    assert!(!live.status.success(), "a restore over a live datadir was allowed");
    let in_place = scene.tool.run(&["restore", "latest", "--in-place", "--force"]);
    let said = String::from_utf8_lossy(&in_place.stderr).into_owned();
    assert!(
        !in_place.status.success() && said.contains("running"),
        "in place under a running server: {said}"
    );
    scene.assert_writable();
    let full = scene.lab.path("full");
    std::fs::create_dir(&full).unwrap();
    std::fs::write(full.join("file"), "mine").unwrap();
    assert!(
        !scene
            .tool
            .run(&["restore", "latest", "--datadir", &text(&full)])
            .status
            .success()
    );
    assert_eq!(std::fs::read(full.join("file")).unwrap(), b"mine");
}

#[test]
fn in_place_puts_everything_back_where_it_was() {
    let Some(mut scene) = Scene::new(Flavour::MariaDb, &[], true, "") else {
        return;
    };
    scene.tool.json(&["backup"]);
    scene.server.exec("DROP TABLE ledger.bulk");
    scene.server.stop();
    let refused = scene.tool.run(&["restore", "latest", "--in-place"]);
    assert!(!refused.status.success(), "overwrote a datadir without --force");
    scene.tool.json(&["restore", "latest", "--in-place", "--force"]);
    scene.server.start();
    let rows: u64 = scene.server.one("SELECT COUNT(*) FROM ledger.bulk");
    assert_eq!(rows, crate::setting::ROWS);
}

#[test]
fn a_restored_mysql_gets_a_uuid_of_its_own_unless_told_otherwise() {
    let Some(scene) = Scene::new(Flavour::MySql, &[], true, "") else {
        return;
    };
    let uuid: String = scene.server.one("SELECT @@server_uuid");
    scene.tool.json(&["backup"]);
    let restored = scene.restore("latest", "other");
    assert_ne!(restored.one::<String>("SELECT @@server_uuid"), uuid);
    drop(restored);
    let kept = scene.lab.path("same");
    scene
        .tool
        .json(&["restore", "latest", "--datadir", &text(&kept), "--keep-uuid"]);
    assert!(exists(&kept.join("auto.cnf")));
    let same = Server::on(Flavour::MySql, &kept, &scene.lab.path("same-run"), &[]);
    assert_eq!(same.one::<String>("SELECT @@server_uuid"), uuid);
}

#[test]
fn a_least_privilege_account_is_enough_and_a_lesser_one_is_told_what_it_lacks() {
    for flavour in [Flavour::MariaDb, Flavour::MySql] {
        let Some(scene) = Scene::new(flavour, &[], false, "") else {
            return;
        };
        let word = if flavour == Flavour::MariaDb {
            "mariadb"
        } else {
            "mysql"
        };
        let grants = scene.tool.ok(&["init", "--print-grants", "--flavour", word]);
        let sql = grants.replace("choose-a-password", "S3cret-for-test");
        for statement in sql.split(';').map(str::trim).filter(|one| !one.is_empty()) {
            let statement: String = statement
                .lines()
                .filter(|line| !line.trim_start().starts_with("--"))
                .collect::<Vec<_>>()
                .join("\n");
            if !statement.trim().is_empty() {
                scene.server.exec(&statement);
            }
        }
        scene
            .server
            .exec("CREATE USER lesser@localhost IDENTIFIED BY 'S3cret-for-test'");
        let as_user = |user: &str| {
            scene
                .tool
                .command(&["--json", "backup", "--user", user])
                .env("SNAPBACK_MYSQL_PASSWORD", "S3cret-for-test")
                .output()
                .unwrap()
        };
        let enough = as_user("snapback");
        assert!(
            matches!(enough.status.code(), Some(0 | 5)),
            "{}",
            crate::common::both(&enough)
        );
        let lesser = as_user("lesser");
        let said = crate::common::both(&lesser);
        assert_eq!(lesser.status.code(), Some(1), "{said}");
        assert!(said.contains("RELOAD"), "the missing privilege is not named: {said}");
        assert!(!said.contains("S3cret"), "a secret was printed: {said}");
    }
}
