//! What an archive must not take for something else: another instance, a log of the same name, a discarded history, a log that has not all.

use serde_json::Value;

use crate::common::server::mysql_prefix;
use crate::common::{Flavour, Lab, Server, Tool, both, text};
use crate::setting::{AS_ROOT, Scene};

fn archive(tool: &Tool) -> Value {
    tool.json_with(&["binlog", "archive", "--once"], &[0, 5])
}

fn codes(report: &Value) -> Vec<String> {
    let warnings = report["warnings"].as_array().unwrap().iter();
    warnings.map(|one| one["code"].as_str().unwrap().to_owned()).collect()
}

/// Two instances with one `server_id` and one repository keep their histories apart.
#[test]
fn instances_with_one_server_id_share_no_archive() {
    let Some(lab) = Lab::new() else { return };
    let mut sides = Vec::new();
    for name in ["one", "two"] {
        let volume = lab.storage.volume(name);
        let options = [("server-id", "1")];
        let server = Server::create(
            Flavour::MariaDb,
            &volume.join("data"),
            &lab.path(&format!("{name}-run")),
            &options,
        );
        server.exec("CREATE DATABASE shop");
        server.exec("CREATE TABLE shop.log (b VARCHAR(20)) ENGINE=InnoDB");
        let directory = lab.path(&format!("{name}-tool"));
        std::fs::create_dir(&directory).unwrap();
        let tool = Tool::new(&directory, &server, AS_ROOT);
        if name == "two" {
            // Both keep their backups and logs in one repository.
            let shared = text(&lab.path("one-tool/repository"));
            let yaml = std::fs::read_to_string(&tool.config).unwrap();
            let lines: Vec<String> = yaml
                .lines()
                .map(|line| match line.starts_with("repository:") {
                    true => format!("repository: {shared}"),
                    false => line.to_owned(),
                })
                .collect();
            std::fs::write(&tool.config, lines.join("\n") + "\n").unwrap();
        }
        sides.push((name, server, tool));
    }
    let mut ids = Vec::new();
    for (_, _, tool) in &sides {
        ids.push(tool.json_with(&["backup"], &[0, 5])["id"].as_str().unwrap().to_owned());
    }
    for round in 1..=3 {
        for (name, server, tool) in &sides {
            server.exec(&format!("INSERT INTO shop.log VALUES ('{name}-{round}')"));
            assert!(codes(&archive(tool)).is_empty(), "the other's logs are no RESET");
        }
    }
    let datadir = lab.path("then");
    let (_, _, tool) = &sides[0];
    tool.json(&["restore", &ids[0], "--datadir", &text(&datadir), "--until", "end"]);
    let then = Server::on(Flavour::MariaDb, &datadir, &lab.path("then-run"), &[]);
    let rows: String = then.one("SELECT GROUP_CONCAT(b ORDER BY b) FROM shop.log");
    assert_eq!(rows, "one-1,one-2,one-3");
}

/// A log that somebody removed is a gap that is told; what comes behind it is archived.
fn a_removed_log(flavour: Flavour) {
    let Some(scene) = Scene::new(flavour, &[], true, AS_ROOT) else {
        return;
    };
    archive(&scene.tool);
    for table in ["a", "b", "c"] {
        scene.server.exec("FLUSH BINARY LOGS");
        scene
            .server
            .exec(&format!("CREATE TABLE ledger.{table} (a INT) ENGINE=InnoDB"));
    }
    let logs = scene.server.binary_logs();
    let removed = &logs[logs.len() - 2];
    std::fs::remove_file(removed).unwrap();
    assert_eq!(codes(&archive(&scene.tool)), ["binlog-gap"]);
    let last = text(std::path::Path::new(logs.last().unwrap().file_name().unwrap()));
    let listed = scene.tool.json_with(&["binlog", "list"], &[0, 5]);
    let listed = listed.as_array().unwrap();
    assert!(listed.iter().any(|log| log["file"] == last.as_str()), "{listed:?}");
    let again = archive(&scene.tool);
    assert_eq!((&again["segments"], codes(&again).len()), (&0.into(), 0), "{again}");
}

#[test]
fn mariadb_a_removed_log_is_a_gap() {
    a_removed_log(Flavour::MariaDb);
}

#[test]
fn mysql_a_removed_log_is_a_gap() {
    a_removed_log(Flavour::MySql);
}

/// Behind a last event that a crash tore, the archive goes on; what is whole before it is there.
#[test]
fn a_torn_last_event_ends_no_archive() {
    let Some(mut scene) = Scene::new(Flavour::MariaDb, &[], true, AS_ROOT) else {
        return;
    };
    scene.tool.json_with(&["backup"], &[0, 5]);
    archive(&scene.tool);
    scene
        .server
        .exec("CREATE TABLE ledger.before_crash (a INT) ENGINE=InnoDB");
    let logs = scene.server.binary_logs();
    scene.server.kill();
    let last = logs.last().unwrap();
    let mut bytes = std::fs::read(last).unwrap();
    let torn = bytes[bytes.len() - 160..bytes.len() - 90].to_vec();
    bytes.extend(torn);
    std::fs::write(last, bytes).unwrap();
    scene.server.start();
    scene
        .server
        .exec("CREATE TABLE ledger.after_crash (a INT) ENGINE=InnoDB");
    let report = archive(&scene.tool);
    assert!(codes(&report).is_empty(), "{report}");
    let datadir = scene.lab.path("end");
    scene
        .tool
        .json(&["restore", "latest", "--datadir", &text(&datadir), "--until", "end"]);
    for table in ["before_crash", "after_crash"] {
        assert!(datadir.join(format!("ledger/{table}.ibd")).exists(), "{table}");
    }
}

/// After a rollback the server gives GTIDs again: which is meant, nobody can know.
#[test]
fn a_gtid_of_two_lines_of_history_is_refused_and_a_line_can_be_said() {
    let Some(mut scene) = Scene::new(Flavour::MariaDb, &[], true, AS_ROOT) else {
        return;
    };
    let create = |scene: &Scene, table: &str| {
        scene
            .server
            .exec(&format!("CREATE TABLE ledger.{table} (a INT) ENGINE=InnoDB"));
    };
    scene.tool.json_with(&["backup"], &[0, 5]);
    scene.tool.json_with(&["snapshot", "create", "--label", "s"], &[0, 5]);
    create(&scene, "thrown_away");
    archive(&scene.tool);
    scene.server.stop();
    scene
        .tool
        .json_with(&["snapshot", "rollback", "s", "--yes", "--with-files"], &[0, 5]);
    scene.server.start();
    create(&scene, "of_now");
    assert_eq!(codes(&archive(&scene.tool)), ["binlog-fork"]);
    let gtid: String = scene.server.one("SELECT @@GLOBAL.gtid_binlog_pos");
    let datadir = scene.lab.path("then");
    let name = text(&datadir);
    let refused = scene
        .tool
        .run(&["restore", "latest", "--datadir", &name, "--until", &gtid]);
    assert_eq!(refused.status.code(), Some(2), "{}", both(&refused));
    assert!(both(&refused).contains("2 lines of history"), "{}", both(&refused));
    let listed = scene.tool.json_with(&["binlog", "list"], &[5]);
    let listed = listed.as_array().unwrap();
    let new = listed.iter().find(|log| !log["fork_before"].is_null()).unwrap();
    let line = new["id"].as_str().unwrap();
    scene.tool.json(&[
        "restore",
        "latest",
        "--datadir",
        &name,
        "--until",
        &gtid,
        "--line",
        line,
    ]);
    assert!(datadir.join("ledger/of_now.ibd").exists());
    assert!(!datadir.join("ledger/thrown_away.ibd").exists());
}

/// What a filter leaves out of the log is missing in every point in time: that is refused, and said.
fn a_filtered_log(flavour: Flavour) {
    let options = [("binlog-ignore-db", "hidden")];
    let Some(scene) = Scene::new(flavour, &options, true, AS_ROOT) else {
        return;
    };
    let backup = scene.tool.json_with(&["backup"], &[5]);
    assert!(backup.to_string().contains("log-not-whole"), "{backup}");
    scene.server.exec("CREATE TABLE ledger.later (a INT) ENGINE=InnoDB");
    assert_eq!(codes(&archive(&scene.tool)), ["log-not-whole"]);
    let datadir = scene.lab.path("end");
    let name = text(&datadir);
    let mysqld = text(&mysql_prefix().join("bin/mysqld97"));
    let mut arguments = vec!["restore", "latest", "--datadir", &name, "--until", "end"];
    if flavour == Flavour::MySql {
        arguments.extend(["--mysqld", &mysqld]);
    }
    let refused = scene.tool.run(&arguments);
    assert_eq!(refused.status.code(), Some(2), "{}", both(&refused));
    assert!(both(&refused).contains("binlog_ignore_db=hidden"), "{}", both(&refused));
    arguments.push("--accept-incomplete");
    let accepted = scene.tool.json_with(&arguments, &[5]);
    assert!(accepted.to_string().contains("log-not-whole"), "{accepted}");
}

#[test]
fn mariadb_a_filtered_log_is_not_the_whole_history() {
    a_filtered_log(Flavour::MariaDb);
}

#[test]
fn mysql_a_filtered_log_is_not_the_whole_history() {
    a_filtered_log(Flavour::MySql);
}

/// Events that the applier makes are what they were on their server.
fn events(flavour: Flavour) {
    let Some(scene) = Scene::new(flavour, &[], true, AS_ROOT) else {
        return;
    };
    scene
        .server
        .exec("CREATE EVENT ledger.old ON SCHEDULE EVERY 1 DAY DO SET @x = 1");
    scene.tool.json_with(&["backup"], &[0, 5]);
    for statement in [
        "CREATE EVENT ledger.fresh ON SCHEDULE EVERY 1 DAY DO SET @x = 1",
        "ALTER EVENT ledger.old ON SCHEDULE EVERY 2 DAY",
        "CREATE EVENT ledger.off ON SCHEDULE EVERY 1 DAY DISABLE DO SET @x = 1",
    ] {
        scene.server.exec(statement);
    }
    archive(&scene.tool);
    let name = text(&scene.lab.path("end"));
    let mysqld = text(&mysql_prefix().join("bin/mysqld97"));
    let mut arguments = vec![
        "restore",
        "latest",
        "--datadir",
        &name,
        "--until",
        "end",
        "--replay-workers",
        "2",
    ];
    if flavour == Flavour::MySql {
        arguments.extend(["--mysqld", &mysqld]);
    }
    let report = scene.tool.json_with(&arguments, &[0, 5]);
    assert_eq!(report["replay"]["applier"], "parallel", "{report}");
    let end = Server::on(flavour, &scene.lab.path("end"), &scene.lab.path("end-run"), &[]);
    let states = |server: &Server| -> String {
        server.one(
            "SELECT GROUP_CONCAT(EVENT_NAME, ' ', STATUS, ' ', DEFINER, ' ', SQL_MODE ORDER BY EVENT_NAME SEPARATOR '; ') \
             FROM information_schema.EVENTS WHERE EVENT_SCHEMA = 'ledger'",
        )
    };
    assert_eq!(states(&end), states(&scene.server));
}

#[test]
fn mariadb_events_of_the_replay_are_as_they_were() {
    events(Flavour::MariaDb);
}

#[test]
fn mysql_events_of_the_replay_are_as_they_were() {
    events(Flavour::MySql);
}
