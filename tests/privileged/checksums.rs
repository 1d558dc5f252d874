//! Checksums that travel with a backup: read off the snapshot by a private server, compared by a drill, which names each table that is not as it was.

use std::os::unix::fs::FileExt;

use serde_json::Value;

use crate::common::{Flavour, Kind, both, load, text};
use crate::setting::Scene;

/// Tables of the kinds that a checksum could trip over.
fn kinds(scene: &Scene) {
    scene.server.exec("CREATE DATABASE kinds");
    let exec = |sql: &str| scene.server.exec(sql);
    exec("CREATE TABLE kinds.plain (a INT, b VARCHAR(200)) ENGINE=MyISAM");
    exec("INSERT INTO kinds.plain VALUES (1, REPEAT('x', 190)), (2, REPEAT('y', 190))");
    exec("CREATE TABLE kinds.gone (a INT) ENGINE=MyISAM");
    exec("CREATE TABLE kinds.empty (a INT) ENGINE=MEMORY");
    exec("INSERT INTO kinds.empty VALUES (1)");
    exec("CREATE VIEW kinds.seen AS SELECT a FROM kinds.plain");
    exec("CREATE VIEW kinds.nothing AS SELECT a FROM kinds.empty");
    if scene.mariadb() {
        exec("CREATE SEQUENCE kinds.numbers");
        exec("CREATE TABLE kinds.history (a INT) ENGINE=InnoDB WITH SYSTEM VERSIONING");
        exec("INSERT INTO kinds.history VALUES (1)");
        exec("UPDATE kinds.history SET a = 2");
    }
}

fn recorded(backup: &Value, schema: &str, table: &str) -> Option<u64> {
    backup["checksums"]["tables"][schema][table].as_u64()
}

fn drilled(scene: &Scene, statuses: &[i32]) -> Value {
    let drilled = scene.tool.json_with(&["verify", "--boot"], statuses);
    drilled["drills"][0]["verdict"].clone()
}

/// What would spoil the snapshot waits until that was copied.
fn assert_order(backup: &Value) {
    let phases = backup["phases"].as_array().unwrap();
    let at = |name: &str| phases.iter().position(|phase| phase["name"] == name).unwrap();
    let copied_first = matches!(Kind::chosen(), Kind::Lvm(_));
    assert_eq!(at("copy") < at("recover"), copied_first, "{phases:?}");
}

fn travel(flavour: Flavour) {
    let Some((scene, _)) = Scene::with_scratch(flavour) else {
        return;
    };
    kinds(&scene);
    let load = scene.start_load();
    let backup = scene.tool.json(&["backup", "--checksums", "all"]);
    load.stop();
    scene.assert_nothing_left();
    assert_eq!(backup["consistency"], "application");
    assert!(backup["recovery"].is_null(), "what is copied is the snapshot: {backup}");
    assert_order(&backup);
    for table in ["InnoDB_rows", "MyISAM_rows", "bulk"] {
        assert!(
            recorded(&backup, load::SCHEMA, table).is_some(),
            "{table}: {}",
            backup["checksums"]
        );
    }
    assert_eq!(
        recorded(&backup, "kinds", "empty"),
        None,
        "rows in memory are in no backup"
    );
    assert_eq!(recorded(&backup, "kinds", "seen"), None, "a view has no rows");
    assert!(backup["checksums"]["tables"]["mysql"].is_null());
    assert_eq!(recorded(&backup, "kinds", "numbers").is_some(), scene.mariadb());
    assert_eq!(recorded(&backup, "kinds", "history").is_some(), scene.mariadb());
    let verdict = drilled(&scene, &[0]);
    let sums = &verdict["checksums"];
    assert!(sums["recorded"].as_u64().unwrap() > 5, "{verdict}");
    assert_eq!(sums["agree"], sums["recorded"], "{verdict}");
    assert_eq!(
        verdict["recovery"]["crash_recovery"], true,
        "the snapshot itself was copied: {verdict}"
    );

    // With nothing written meanwhile the live server gives the same numbers; a name that is not there is a warning.
    let live = scene.server.checksums(load::SCHEMA);
    let named = scene
        .tool
        .json_with(&["backup", "--checksums", "ledger.bulk,ledger.none,kinds.seen"], &[5]);
    assert_eq!(recorded(&named, load::SCHEMA, "bulk"), live["bulk"]);
    assert_eq!(recorded(&named, load::SCHEMA, "InnoDB_rows"), None);
    assert!(
        named["warnings"]
            .to_string()
            .contains("ledger.none (there is no such table)"),
        "{named}"
    );
    assert!(
        named["warnings"].to_string().contains("kinds.seen (it is a view"),
        "{named}"
    );
    let shown = scene.tool.ok(&["show"]);
    assert!(shown.contains("checksums") && shown.contains("ledger.bulk"), "{shown}");

    // Spoiled behind the server's back, after it has read and shut down: a byte of a row, which no check of MyISAM sees, and a whole table.
    let gate = scene.lab.path("gate");
    let clean = ["backup", "--consistency", "clean", "--checksums", "all"];
    let tool = scene
        .tool
        .spawn(&format!("clean.done=pause:{}", gate.display()), &clean);
    let clone = scene.clone_of(&gate).join("kinds");
    let rows = std::fs::read(clone.join("plain.MYD")).unwrap();
    let at = rows.iter().position(|byte| *byte == b'y').unwrap() as u64 + 20;
    let file = std::fs::File::options()
        .write(true)
        .open(clone.join("plain.MYD"))
        .unwrap();
    file.write_all_at(b"z", at).unwrap();
    for entry in std::fs::read_dir(&clone).unwrap().flatten() {
        // MySQL keeps the table in its dictionary, and cannot open it then.
        if scene.mariadb() && text(&entry.path()).contains("/gone.") {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    std::fs::write(&gate, "").unwrap();
    let output = tool.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    let verdict = drilled(&scene, &[4]);
    // A table in memory that the private server opened, itself or by a view, would count as a transaction on MySQL.
    assert_eq!(verdict["position"]["agrees"], true, "{verdict}");
    assert_eq!(verdict["failed_at"], "check", "{verdict}");
    let sums = &verdict["checksums"];
    let missing = u64::from(scene.mariadb());
    assert_eq!(
        (sums["differ"].as_u64(), sums["missing"].as_u64()),
        (Some(1), Some(missing)),
        "{verdict}"
    );
    assert!(
        verdict["reasons"].to_string().contains("kinds.plain: its checksum is"),
        "{verdict}"
    );
    assert_eq!(
        verdict["reasons"].to_string().contains("kinds.gone: it is missing"),
        scene.mariadb()
    );
    let tables = verdict["tables"]["named"].as_array().unwrap();
    let plain = tables.iter().find(|one| one["table"] == "kinds.plain").unwrap();
    assert_eq!(plain["verdict"], "errors", "{plain}");
    scene.assert_nothing_left();
}

/// Read off the clone of a snapshot that nobody was locked for: they are those of what the server recovers from it, on the clone and in the drill alike.
fn without_a_lock(flavour: Flavour) {
    let Some((scene, _)) = Scene::with_scratch_and(flavour, true) else {
        return;
    };
    let load = scene.start_load();
    for how in [["--consistency", "crash"], ["--lock", "lockless"]] {
        let level = if how[1] == "crash" { "crash" } else { "application" };
        let backup = scene.tool.json(&[&["backup", "--checksums", "all"], &how[..]].concat());
        assert_eq!(
            (backup["consistency"].as_str(), &backup["recovery"]),
            (Some(level), &Value::Null)
        );
        assert_eq!(backup["lock"]["held_us"].as_u64().unwrap_or(0), 0, "{how:?}");
        let before = recorded(&backup, load::SCHEMA, "InnoDB_rows").unwrap();
        let verdict = drilled(&scene, &[0, 5]);
        let sums = &verdict["checksums"];
        assert!(sums["recorded"].as_u64().unwrap() > 1, "{verdict}");
        assert_eq!(sums["agree"], sums["recorded"], "{how:?}: {verdict}");
        assert_eq!(verdict["recovery"]["crash_recovery"], true, "{verdict}");
        // What was read is the snapshot, and not what the server has by now.
        let restored = scene.restore(backup["id"].as_str().unwrap(), how[1]);
        assert_eq!(restored.checksums(load::SCHEMA)["InnoDB_rows"], Some(before), "{how:?}");
        assert_ne!(scene.server.checksums(load::SCHEMA)["InnoDB_rows"], Some(before));
    }
    load.stop();
    scene.assert_nothing_left();
}

#[test]
fn checksums_of_a_mariadb_backup_without_a_lock_travel() {
    without_a_lock(Flavour::MariaDb);
}

#[test]
fn checksums_of_a_mysql_backup_without_a_lock_travel() {
    without_a_lock(Flavour::MySql);
}

#[test]
fn checksums_of_a_mariadb_backup_travel_and_a_drill_names_what_differs() {
    travel(Flavour::MariaDb);
}

#[test]
fn checksums_of_a_mysql_backup_travel_and_a_drill_names_what_differs() {
    travel(Flavour::MySql);
}

/// Short, for the guest: what is copied is the snapshot as it was, with something to recover, also where the tables are read off the snapshot itself.
#[test]
fn in_short_what_is_copied_is_the_snapshot_as_it_was() {
    if Kind::chosen() == Kind::Btrfs {
        return;
    }
    let Some(scene) = Scene::new(Flavour::MariaDb, &[], false, "") else {
        return;
    };
    scene.start_load().stop();
    let backup = scene.tool.json(&["backup", "--checksums", "all"]);
    scene.assert_nothing_left();
    assert_order(&backup);
    assert!(
        backup["checksums"]["tables"]["ledger"]["MyISAM_rows"].is_u64(),
        "{backup}"
    );
    let drilled = scene.tool.json_with(&["verify", "--boot"], &[0]);
    let verdict = &drilled["drills"][0]["verdict"];
    assert_eq!(verdict["recovery"]["crash_recovery"], true, "{verdict}");
    assert_eq!(
        verdict["checksums"]["agree"], verdict["checksums"]["recorded"],
        "{verdict}"
    );
}

#[test]
fn without_checksums_there_is_still_a_backup_and_a_run_that_dies_leaves_no_clone() {
    let Some((scene, _)) = Scene::with_scratch(Flavour::MariaDb) else {
        return;
    };
    let args = ["backup", "--checksums", "all"];
    let output = scene.tool.with_failpoint("clean.clone=error", &args);
    assert_eq!(output.status.code(), Some(5), "{}", both(&output));
    assert!(both(&output).contains("no checksums"), "{}", both(&output));
    assert_eq!(scene.backups(), 1);
    scene.assert_nothing_left();
    let output = scene.tool.with_failpoint("clean.booted=signal:2", &args);
    assert_eq!(output.status.code(), Some(130), "{}", both(&output));
    scene.assert_nothing_left();
    let output = scene.tool.with_failpoint("clean.booted=kill", &args);
    assert!(!output.status.success());
    scene.cleanup();
    scene.assert_nothing_left();
    assert_eq!(scene.backups(), 1);
    let output = scene.tool.run(&["check", "--no-server", "--checksums", "all"]);
    assert!(both(&output).contains("no server is configured"), "{}", both(&output));
    let output = scene.tool.run(&["backup", "--checksums", "mysql.user"]);
    assert_eq!(output.status.code(), Some(2), "{}", both(&output));
}
