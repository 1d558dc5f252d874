//! Restore drills: a backup is booted by a private server, every table is checked, the verdict is kept; and nothing of it is left, whatever ends it.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::common::server::{mysql_prefix, signal};
use crate::common::{Flavour, Server, both, load, run, text, wait_for_file};
use crate::setting::Scene;

fn scene(flavour: Flavour) -> Option<Scene> {
    let extra = match flavour {
        Flavour::MariaDb => String::new(),
        // Its program is a wrapper that becomes the loader.
        Flavour::MySql => format!("scratch:\n  mysqld: {}\n", text(&mysql_prefix().join("bin/mysqld97"))),
    };
    Scene::new(flavour, &[], false, &extra)
}

/// A directory beside the datadir, on the same volume, that the server may keep tables in.
fn far(scene: &mut Scene) -> PathBuf {
    let far = scene.server.datadir.with_file_name("far");
    std::fs::create_dir(&far).unwrap();
    if !scene.mariadb() {
        scene.server.stop();
        let (datadir, work) = (scene.server.datadir.clone(), scene.lab.path("run"));
        scene.server = Server::on(Flavour::MySql, &datadir, &work, &[("innodb-directories", &text(&far))]);
    }
    far
}

/// A directory for scratch space that every user can come to, as /var/tmp.
fn scratch(scene: &Scene) -> PathBuf {
    let path = scene.lab.path("scratch");
    std::fs::create_dir(&path).unwrap();
    for directory in [&path, scene.lab.dir.path()] {
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    path
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).unwrap().next().is_none()
}

/// One table of every kind that the load does not make.
fn every_kind(scene: &Scene, far: &Path) {
    scene.server.exec("CREATE DATABASE kinds");
    let exec = |sql: &str| scene.server.exec(&sql.replace("kinds.", "`kinds`."));
    exec("CREATE TABLE kinds.parts (a INT PRIMARY KEY, b INT) ENGINE=InnoDB PARTITION BY HASH (a) PARTITIONS 4");
    exec("INSERT INTO kinds.parts VALUES (1,1),(2,2),(3,3)");
    exec(
        "CREATE TABLE kinds.made (a INT PRIMARY KEY, v INT GENERATED ALWAYS AS (a * 2) VIRTUAL, s INT GENERATED ALWAYS AS (a * 3) STORED, KEY (v), KEY (s)) ENGINE=InnoDB",
    );
    exec("INSERT INTO kinds.made (a) VALUES (1),(2)");
    exec("CREATE TABLE kinds.m1 (a INT, b VARCHAR(20), KEY (a)) ENGINE=MyISAM");
    exec("CREATE TABLE kinds.m2 (a INT, b VARCHAR(20), KEY (a)) ENGINE=MyISAM");
    exec("INSERT INTO kinds.m1 VALUES (1,'x')");
    exec("CREATE TABLE kinds.merged (a INT, b VARCHAR(20), KEY (a)) ENGINE=MERGE UNION=(kinds.m1, kinds.m2)");
    exec("CREATE TABLE kinds.memory (a INT) ENGINE=MEMORY");
    exec("INSERT INTO kinds.memory VALUES (1)");
    exec("CREATE TABLE kinds.csv (a INT NOT NULL) ENGINE=CSV");
    exec("INSERT INTO kinds.csv VALUES (1),(2)");
    exec("CREATE VIEW kinds.seen AS SELECT a FROM kinds.made");
    let elsewhere = |table: &str, engine: &str| {
        format!(
            "CREATE TABLE kinds.{table} (a INT PRIMARY KEY) ENGINE={engine} DATA DIRECTORY='{}'",
            far.display()
        )
    };
    // The datadir holds the live file's path: an .isl file or a symlink, or MySQL's dictionary.
    exec(&elsewhere("far", "InnoDB"));
    exec("INSERT INTO kinds.far VALUES (1),(2)");
    exec("CREATE EVENT kinds.tick ON SCHEDULE EVERY 1 SECOND DO INSERT INTO kinds.m2 VALUES (9, 'tick')");
    if scene.mariadb() {
        exec("CREATE SEQUENCE kinds.numbers");
        exec(&elsewhere("far_myisam", "MyISAM"));
    } else {
        exec("CREATE TABLE kinds.archive (a INT) ENGINE=ARCHIVE");
        exec("INSERT INTO kinds.archive VALUES (1)");
    }
}

/// Content and times of every file below a directory.
fn picture(directory: &Path) -> BTreeMap<PathBuf, (u64, i64, i64, blake3::Hash)> {
    let mut all = BTreeMap::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap().flatten() {
            let (path, found) = (entry.path(), entry.metadata().unwrap());
            if found.is_dir() {
                directories.push(path);
            } else if found.is_file() {
                let hash = blake3::hash(&std::fs::read(&path).unwrap());
                all.insert(path, (found.len(), found.mtime(), found.mtime_nsec(), hash));
            }
        }
    }
    all
}

fn named(drill: &Value, table: &str) -> Option<Value> {
    let named = drill["verdict"]["tables"]["named"].as_array().unwrap();
    named.iter().find(|one| one["table"] == table).cloned()
}

fn good(flavour: Flavour) {
    let Some(mut scene) = scene(flavour) else { return };
    let scratch = scratch(&scene);
    let far = far(&mut scene);
    every_kind(&scene, &far);
    let load = scene.start_load();
    let first = scene.tool.json(&["backup"]);
    load.stop();
    if flavour == Flavour::MariaDb {
        // Then the scratch server runs as the files' owner.
        run(
            "chown",
            &["-R", "65534:65534", &text(&scene.server.datadir), &text(&far)],
        );
    }
    let second = scene.tool.json(&["backup"]);

    // The live server stands still: whatever changes below its datadir, the drill did it.
    signal(scene.server.pid(), Signal::STOP);
    let live = || (picture(&scene.server.datadir), picture(&far));
    let before = live();
    let pick = |statuses: &[i32]| {
        let args = [
            "verify",
            "--boot",
            "--pick",
            "oldest-undrilled",
            "--scratch",
            &text(&scratch),
        ];
        scene.tool.json_with(&args, statuses)
    };
    let drilled = pick(&[0]);
    let again = pick(&[0]);
    let same = before == live();
    signal(scene.server.pid(), Signal::CONT);
    assert!(same, "the drill changed the live server's files");
    scene.assert_writable();

    assert_eq!(drilled["good"], true, "{drilled}");
    let drill = &drilled["drills"][0];
    assert_eq!(drill["backup"], first["id"], "the oldest first");
    assert_eq!(again["drills"][0]["backup"], second["id"]);
    let verdict = &drill["verdict"];
    assert_eq!(verdict["result"], "ok", "{verdict}");
    assert_eq!(verdict["recovery"]["crash_recovery"], true, "{verdict}");
    assert_eq!(verdict["position"]["agrees"], true, "{verdict}");
    assert_eq!(verdict["position"]["found"]["file"], first["position"]["file"]);
    let engines = &verdict["tables"]["engines"];
    let mut expected = vec![
        ("InnoDB", "ok"),
        ("MyISAM", "ok"),
        ("CSV", "ok"),
        ("VIEW", "ok"),
        ("MEMORY", "unsupported"),
    ];
    expected.push(if scene.mariadb() {
        ("Aria", "ok")
    } else {
        ("ARCHIVE", "ok")
    });
    expected.push((if scene.mariadb() { "MRG_MyISAM" } else { "MRG_MYISAM" }, "ok"));
    for (engine, kind) in expected {
        assert!(
            engines[engine][kind].as_u64().unwrap_or(0) > 0,
            "no {engine} is {kind}: {engines}"
        );
    }
    eprintln!("{flavour:?}: {}", verdict["seconds"]);

    let listed = scene.tool.json(&["list"]);
    assert_eq!(listed[0]["drill"]["result"], "ok", "{listed}");
    assert!(scene.tool.ok(&["list"]).contains("ok now"));
    let shown = scene.tool.json(&["show", first["id"].as_str().unwrap()]);
    assert_eq!(shown["drill"]["id"], drill["id"]);
    assert!(
        scene
            .tool
            .ok(&["show", first["id"].as_str().unwrap()])
            .contains("drill at")
    );
    assert!(is_empty(&scratch), "scratch space is left");
    scene.assert_nothing_left();
    // Events did not run on the copy, nor did anything write to it that the checks saw: they run on the live one.
    let _: u64 = scene.server.one("SELECT COUNT(*) FROM kinds.m2");
}

#[test]
fn a_good_mariadb_backup_under_load_passes() {
    good(Flavour::MariaDb);
}

#[test]
fn a_good_mysql_backup_under_load_passes() {
    good(Flavour::MySql);
}

/// Writes nonsense over a part of a file.
fn spoil(file: &Path, offset: u64, length: usize) {
    let file = std::fs::File::options().write(true).open(file).unwrap();
    file.write_all_at(&vec![0xf5; length], offset).unwrap();
    file.sync_all().unwrap();
}

fn damaged(flavour: Flavour) {
    let Some(mut scene) = scene(flavour) else { return };
    let scratch = scratch(&scene);
    scene.start_load().stop();
    scene.server.stop();
    let schema = scene.server.datadir.join(load::SCHEMA);
    let (ibd, myd) = (schema.join("bulk.ibd"), schema.join("MyISAM_rows.MYD"));
    let middle = std::fs::metadata(&ibd).unwrap().len() / 2 / 16_384 * 16_384;
    spoil(&ibd, middle + 200, 4000);
    spoil(&myd, std::fs::metadata(&myd).unwrap().len() / 2, 200);
    scene.server.start();
    scene.tool.json(&["backup"]);
    // The repository keeps what it was given, faithfully.
    scene.tool.ok(&["verify", "--all", "--level", "data"]);
    let drilled = scene
        .tool
        .json_with(&["verify", "--boot", "--scratch", &text(&scratch)], &[4]);
    let drill = &drilled["drills"][0];
    assert_eq!(drill["verdict"]["result"], "failed");
    assert_eq!(drill["verdict"]["failed_at"], "check", "{drill}");
    for table in ["ledger.bulk", "ledger.MyISAM_rows"] {
        let found = named(drill, table).unwrap_or_else(|| panic!("{table} is not named: {}", drill["verdict"]));
        assert_eq!(found["verdict"], "errors", "{found}");
    }
    assert!(
        named(drill, "ledger.InnoDB_rows").is_none(),
        "a good table is blamed: {drill}"
    );
    assert!(
        drill["verdict"]["tables"]["engines"]["InnoDB"]["ok"].as_u64().unwrap() > 2,
        "{drill}"
    );
    let listed = scene.tool.json(&["list"]);
    assert_eq!(listed[0]["drill"]["result"], "failed");
    assert!(scene.tool.ok(&["list"]).contains("failed now"));
    assert!(scene.tool.ok(&["show"]).contains("ledger.bulk"));
    assert!(is_empty(&scratch));
    scene.assert_nothing_left();
}

#[test]
fn damaged_mariadb_tables_in_a_sound_repository_are_named() {
    damaged(Flavour::MariaDb);
}

/// Its server ends at a corrupt page: the table is found out, and the others are checked all the same.
#[test]
fn damaged_mysql_tables_in_a_sound_repository_are_named() {
    damaged(Flavour::MySql);
}

#[test]
fn a_crash_level_backup_with_myisam_is_not_called_good() {
    let Some(scene) = scene(Flavour::MariaDb) else { return };
    let scratch = scratch(&scene);
    let load = scene.start_load();
    scene.tool.json(&["backup", "--consistency", "crash"]);
    load.stop();
    let drilled = scene
        .tool
        .json_with(&["verify", "--boot", "--scratch", &text(&scratch)], &[4, 5]);
    let drill = &drilled["drills"][0];
    let found = named(drill, "ledger.MyISAM_rows").unwrap_or_else(|| panic!("it is not named: {}", drill["verdict"]));
    assert!(
        found["verdict"] == "warnings" || found["verdict"] == "errors",
        "{found}"
    );
    assert_eq!(drill["verdict"]["tables"]["engines"]["InnoDB"]["errors"], 0, "{drill}");
}

/// Waits until a drill stands at a failpoint; the process number of its server.
fn server_of(scene: &Scene, scratch: &Path, gate: &Path) -> u32 {
    wait_for_file(&gate.with_extension("reached"));
    let space = std::fs::read_dir(scratch).unwrap().next().unwrap().unwrap().path();
    let run = space.join("run");
    assert_eq!(std::fs::metadata(&run).unwrap().mode() & 0o777, 0o700);
    let pid: u32 = std::fs::read_to_string(run.join("pid"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert_ne!(pid, scene.server.pid());
    pid
}

fn lives(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn dies(flavour: Flavour) {
    let Some(scene) = scene(flavour) else { return };
    let scratch = scratch(&scene);
    scene.tool.json(&["backup"]);
    let boot = ["verify", "--boot", "--scratch", &text(&scratch)];
    let gate = scene.lab.path("gate");
    let mut tool = scene
        .tool
        .spawn(&format!("drill.booted=pause:{}", gate.display()), &boot);
    let pid = server_of(&scene, &scratch, &gate);
    assert!(lives(pid));
    // It can reach nobody, and nobody but root and its user can reach it.
    let network = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap();
    assert!(
        !network.contains("eth") && network.lines().count() <= 3,
        "it sees the host's network: {network}"
    );
    tool.kill().unwrap();
    tool.wait().unwrap();
    let begun = Instant::now();
    while lives(pid) {
        assert!(begun.elapsed() < Duration::from_secs(2), "the server outlives the tool");
        std::thread::sleep(Duration::from_millis(5));
    }
    eprintln!("{flavour:?}: the server was gone {:?} after the tool", begun.elapsed());
    assert!(!is_empty(&scratch), "a killed tool cannot clean up");
    assert!(both(&scene.tool.run(&["cleanup", "--dry-run"])).contains("scratch space"));
    scene.cleanup();
    assert!(is_empty(&scratch), "cleanup left the scratch space");
    scene.assert_nothing_left();

    // The same code for both flavours.
    let signals: &[_] = if scene.mariadb() {
        &[("drill.restored", 15, 143), ("drill.booted", 2, 130)]
    } else {
        &[]
    };
    for (point, sign, status) in signals {
        let output = scene.tool.with_failpoint(&format!("{point}=signal:{sign}"), &boot);
        assert_eq!(output.status.code(), Some(*status), "{}", both(&output));
        assert!(is_empty(&scratch), "signal {sign} at {point} left scratch space");
        scene.assert_nothing_left();
    }
    assert!(
        scene.tool.json(&["list"])[0]["drill"].is_null(),
        "a drill that was broken off has a verdict"
    );
}

#[test]
fn mariadb_drill_leaves_no_server_and_no_scratch_space_whatever_ends_it() {
    dies(Flavour::MariaDb);
}

#[test]
fn mysql_drill_leaves_no_server_and_no_scratch_space_whatever_ends_it() {
    dies(Flavour::MySql);
}

#[test]
fn a_drill_that_cannot_be_is_refused_before_anything_is_written() {
    let Some(scene) = Scene::new(
        Flavour::MariaDb,
        &[],
        true,
        "scratch:
  boot_limit: 10s
",
    ) else {
        return;
    };
    if !Flavour::MySql.available() {
        return;
    }
    let scratch = scratch(&scene);
    let load = scene.start_load();
    scene.tool.json(&["backup", "--lock", "lockless"]);
    load.stop();
    let refused = |args: &[&str], status: i32, word: &str| {
        let all = [&["verify", "--boot"], args].concat();
        let output = scene.tool.run(&all);
        assert_eq!(output.status.code(), Some(status), "{args:?}: {}", both(&output));
        assert!(both(&output).contains(word), "{args:?}: {}", both(&output));
    };
    let (wrapper, scratch_text) = (mysql_prefix().join("bin/mysqld97"), text(&scratch));
    refused(
        &["--scratch", &scratch_text, "--mysqld", &text(&wrapper)],
        1,
        "MySQL 9.7",
    );
    refused(&["--scratch", &scratch_text, "--mysqld", "/bin/true"], 1, "/bin/true");
    let older = scene.lab.path("older");
    std::fs::write(&older, "#!/bin/sh\necho 'mariadbd  Ver 10.6.20-MariaDB for Linux'\n").unwrap();
    std::fs::set_permissions(&older, std::fs::Permissions::from_mode(0o755)).unwrap();
    refused(&["--scratch", &scratch_text, "--mysqld", &text(&older)], 1, "10.11");
    refused(&["--scratch", "/nonexistent"], 2, "--scratch");
    assert!(is_empty(&scratch));

    let small = scene.lab.path("small");
    std::fs::create_dir(&small).unwrap();
    run("mount", &["-t", "tmpfs", "-o", "size=64m", "tmpfs", &text(&small)]);
    let output = scene.tool.run(&["verify", "--boot", "--scratch", &text(&small)]);
    let left = is_empty(&small);
    run("umount", &[&text(&small)]);
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    assert!(
        both(&output).contains("free, and the restored data needs"),
        "{}",
        both(&output)
    );
    assert!(left, "something was written");
    assert!(scene.tool.json(&["list"])[0]["drill"].is_null());

    // One without a lock passes like the others.
    let drilled = scene
        .tool
        .json_with(&["verify", "--boot", "--scratch", &scratch_text], &[0]);
    assert_eq!(drilled["drills"][0]["verdict"]["position"]["agrees"], true, "{drilled}");

    // A server that does not come up in time says nothing of the data.
    let version = run("mariadbd", &["--no-defaults", "--version"]);
    let script = format!(
        "#!/bin/sh\ncase $* in *--version*) echo '{}';; *) sleep 60;; esac\n",
        version.trim()
    );
    std::fs::write(&older, script).unwrap();
    let args = [
        "verify",
        "--boot",
        "--scratch",
        &scratch_text,
        "--mysqld",
        &text(&older),
    ];
    let late = scene.tool.json_with(&args, &[1]);
    assert_eq!(late["drills"][0]["verdict"]["failed_at"], "boot", "{late}");
    assert!(is_empty(&scratch));

    // Checks that take too long are ended, and what they did not come to is not called good.
    let mut config = std::fs::read_to_string(&scene.tool.config).unwrap();
    config.push_str("  check_limit: 1ms\n");
    std::fs::write(&scene.tool.config, config).unwrap();
    let late = scene
        .tool
        .json_with(&["verify", "--boot", "--scratch", &scratch_text], &[1]);
    let tables = &late["drills"][0]["verdict"]["tables"];
    assert!(tables["engines"]["InnoDB"]["unchecked"].as_u64().unwrap() > 0, "{late}");
    assert!(is_empty(&scratch));
    scene.assert_nothing_left();
}
