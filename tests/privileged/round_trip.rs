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

/// Runs what `init --print-grants` printed, as the server's client would.
fn run_printed(scene: &Scene, sql: &str) {
    let statements: Vec<&str> = sql.lines().filter(|line| !line.starts_with("--")).collect();
    statements.iter().for_each(|statement| scene.server.exec(statement));
}

/// The account from the printed text, with what `features` says; its option file is the configuration's.
fn printed_account(scene: &Scene, features: &[&str]) -> String {
    let file = scene.lab.path("account.cnf");
    let _ = std::fs::remove_file(&file);
    let file = text(&file);
    let arguments = ["init", "--print-grants", "--option-file", &file];
    run_printed(scene, &scene.tool.ok(&[&arguments, features].concat()));
    file
}

#[test]
fn a_least_privilege_account_is_enough_and_a_lesser_one_is_told_what_it_lacks() {
    for flavour in [Flavour::MariaDb, Flavour::MySql] {
        let Some(scene) = Scene::new(flavour, &[], false, "") else {
            return;
        };
        let root = std::fs::read_to_string(&scene.tool.config).unwrap();
        let file = printed_account(&scene, &["--for", "backup"]);
        let yaml = root.replace("  user: root", &format!("  defaults_file: {file}"));
        assert_ne!(yaml, root);
        std::fs::write(&scene.tool.config, yaml).unwrap();
        let check = scene.tool.json(&["check"]);
        let lacking: Vec<&str> = check["findings"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|one| one["code"] == "missing-for-command")
            .map(|one| one["message"].as_str().unwrap())
            .collect();
        assert_eq!(lacking.len(), 3, "{lacking:?}");
        assert!(
            lacking[0].contains("REPLICATION SLAVE") && lacking[0].contains("binlog archive"),
            "{lacking:?}"
        );
        scene.tool.json(&["backup"]);
        std::fs::write(&scene.tool.config, root).unwrap();
        scene
            .server
            .exec("CREATE USER lesser@localhost IDENTIFIED BY 'S3cret-for-test'");
        let lesser = scene
            .tool
            .command(&["--json", "backup", "--user", "lesser"])
            .env("SNAPBACK_MYSQL_PASSWORD", "S3cret-for-test")
            .output()
            .unwrap();
        let said = crate::common::both(&lesser);
        assert_eq!(lesser.status.code(), Some(1), "{said}");
        assert!(said.contains("RELOAD"), "the missing privilege is not named: {said}");
        assert!(!said.contains("S3cret"), "a secret was printed: {said}");
    }
}

/// README's commands with the account that README makes, as it is printed; twice, since a person does that.
#[test]
fn the_printed_account_can_do_what_readme_goes_on_to_do() {
    for flavour in [Flavour::MariaDb, Flavour::MySql] {
        let Some((scene, _)) = Scene::with_scratch(flavour) else {
            return;
        };
        printed_account(&scene, &[]);
        let file = printed_account(&scene, &[]);
        let root = std::fs::read_to_string(&scene.tool.config).unwrap();
        let as_account = |file: &str| {
            std::fs::write(
                &scene.tool.config,
                root.replace("  user: root", &format!("  defaults_file: {file}")),
            )
            .unwrap();
        };
        as_account(&file);
        let check = scene.tool.json(&["check"]).to_string();
        assert!(
            !check.contains("for `binlog archive`") && check.contains("for `restore --into-server`"),
            "{check}"
        );
        scene.tool.json(&["backup"]);
        scene.tool.json(&["snapshot", "create", "--label", "before-upgrade"]);
        let archived = scene.tool.json(&["binlog", "archive"]);
        assert!(!archived["logs"].as_array().is_some_and(Vec::is_empty), "{archived}");
        scene.tool.json(&["snapshot", "delete", "before-upgrade"]);
        // What `--replica-start` runs, as it is printed in a record of it, without the sources that need a second server.
        let mut session = mysql::Conn::new(
            mysql::OptsBuilder::new()
                .socket(Some(text(&scene.server.socket)))
                .user(Some("snapback"))
                .pass(Some(password_in(&file))),
        )
        .unwrap();
        let statements: &[&str] = match flavour {
            Flavour::MariaDb => &[
                "STOP ALL SLAVES",
                "RESET SLAVE ALL",
                "SET GLOBAL server_id = 77",
                "RESET MASTER",
                "SET GLOBAL gtid_slave_pos = '0-1-5'",
                "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT=1, MASTER_USE_GTID=slave_pos",
                "START SLAVE",
                "SHOW ALL SLAVES STATUS",
                "STOP ALL SLAVES",
            ],
            Flavour::MySql => &[
                "STOP REPLICA",
                "RESET REPLICA ALL",
                "SET PERSIST server_id = 77",
                "RESET BINARY LOGS AND GTIDS",
                "SET GLOBAL gtid_purged = '11111111-1111-1111-1111-111111111111:1-5'",
                "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT=1, SOURCE_SSL=1, SOURCE_LOG_FILE='x.000001', SOURCE_LOG_POS=4",
                "START REPLICA",
                "SHOW REPLICA STATUS",
                "STOP REPLICA",
            ],
        };
        for statement in statements {
            mysql::prelude::Queryable::query_drop(&mut session, statement)
                .unwrap_or_else(|error| panic!("{flavour:?} {statement}: {error}"));
        }
        // A table back into the server is a privilege of its own.
        let into = |scene: &Scene| {
            let socket = text(&scene.server.socket);
            scene.tool.run(&[
                "restore",
                "latest",
                "--into-server",
                &socket,
                "--schema",
                crate::common::load::SCHEMA,
                "--as",
                "rescue",
            ])
        };
        std::fs::write(&scene.tool.config, &root).unwrap();
        as_account(&printed_account(&scene, &["--for", "backup,into-server"]));
        let restored = into(&scene);
        assert!(
            matches!(restored.status.code(), Some(0 | 5)),
            "{flavour:?}: {}",
            crate::common::both(&restored)
        );
        assert!(
            scene
                .server
                .one::<u64>("SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'rescue'")
                > 0
        );
    }
}

fn password_in(file: &str) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines()
        .find_map(|line| line.strip_prefix("password="))
        .unwrap()
        .to_owned()
}

/// MySQL lets root in over the socket where its plugin is there: then no password is made at all.
#[test]
fn with_mysqls_plugin_for_sockets_no_password_is_made() {
    let Some(scene) = Scene::new(Flavour::MySql, &[("plugin-load-add", "auth_socket.so")], true, "") else {
        return;
    };
    let sql = scene.tool.ok(&["init", "--print-grants"]);
    assert!(
        sql.contains("IDENTIFIED WITH auth_socket AS 'root'") && !sql.contains("IDENTIFIED BY"),
        "{sql}"
    );
    run_printed(&scene, &sql);
    let root = std::fs::read_to_string(&scene.tool.config).unwrap();
    std::fs::write(&scene.tool.config, root.replace("user: root", "user: snapback")).unwrap();
    scene.tool.json(&["backup"]);
}
