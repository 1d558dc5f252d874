//! The two ways of a replay, the server's applier and its client, give the same: on a replica's backup, over logs with everything that is awkward to apply beside something else.

use std::collections::BTreeSet;

use mysql::prelude::Queryable;
use serde_json::Value;

use crate::common::server::{mysql_prefix, signal};
use crate::common::{Flavour, Server, both, load, text, wait_for_file};
use crate::setting::{AS_ROOT, Scene, THREADS, assert_same};

const PARALLEL: &str = "4";
const SERIAL: &str = "1";

/// MySQL 9.7 has them unless it is told.
const WITHOUT_GTIDS: (&str, &str) = ("gtid-mode", "OFF");

/// Restores to the end of the archive.
fn arguments(scene: &Scene, name: &str, workers: &str) -> Vec<String> {
    let datadir = text(&scene.lab.path(name));
    let mut all = vec!["restore", "latest", "--datadir", &datadir, "--until", "end"];
    // MariaDB's replicas do not log what they apply, unless they are told.
    all.extend(["--replay-workers", workers, "--accept-incomplete"]);
    let mysqld = text(&mysql_prefix().join("bin/mysqld97"));
    if !scene.mariadb() {
        all.extend(["--mysqld", &mysqld]);
    }
    all.into_iter().map(str::to_owned).collect()
}

/// Restores, and expects that it was by so many workers.
fn restore(scene: &Scene, name: &str, (workers, failpoint, by): (&str, &str, u64)) {
    let arguments = arguments(scene, name, workers);
    let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    arguments.insert(0, "--json");
    let output = scene.tool.with_failpoint(failpoint, &arguments);
    assert!(matches!(output.status.code(), Some(0 | 5)), "{}", both(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let report = &report["replay"];
    eprintln!("{:?}: {report}", scene.server.flavour);
    let way = if by == 1 { "serial" } else { "parallel" };
    assert_eq!(
        (&report["applier"], &report["workers"]),
        (&way.into(), &by.into()),
        "{report}"
    );
}

/// What a server knows of its replication, and of what it has executed.
fn replication(server: &Server) -> Vec<String> {
    let mut conn = server.connect();
    let mut said = Vec::new();
    let mut ask = |statement: &str| {
        let rows: Vec<mysql::Row> = conn.query(statement).unwrap();
        // Debug shows the first few bytes of a value only.
        let text = |row: mysql::Row| row.unwrap().iter().map(|value| value.as_sql(true)).collect::<Vec<_>>();
        said.extend(rows.into_iter().map(|row| format!("{statement}: {:?}", text(row))));
    };
    match server.flavour {
        Flavour::MariaDb => {
            ask("SELECT @@GLOBAL.gtid_slave_pos, @@GLOBAL.gtid_binlog_pos, @@GLOBAL.gtid_binlog_state");
            ask("SELECT domain_id, server_id, seq_no FROM mysql.gtid_slave_pos ORDER BY 1, 2, 3");
        }
        Flavour::MySql => {
            ask("SELECT @@GLOBAL.gtid_executed, @@GLOBAL.gtid_purged");
            ask(
                "SELECT Channel_name, Host, Port, User_name, Master_log_name, Master_log_pos FROM mysql.slave_master_info ORDER BY 1",
            );
            ask("SELECT Channel_name, Master_log_name, Master_log_pos FROM mysql.slave_relay_log_info ORDER BY 1");
            ask("SELECT Channel_name, Id FROM mysql.slave_worker_info ORDER BY 1, 2");
        }
    }
    said
}

/// MariaDB keeps its channels in files.
fn channels(server: &Server) -> Vec<(String, String)> {
    let names = names(server);
    let kept = names
        .iter()
        .filter(|name| name.ends_with(".info") && !name.starts_with("relay"));
    kept.map(|name| {
        (
            name.clone(),
            std::fs::read_to_string(server.datadir.join(name)).unwrap(),
        )
    })
    .collect()
}

fn names(server: &Server) -> BTreeSet<String> {
    let entries = std::fs::read_dir(&server.datadir).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// As a replica of two others, which are not there.
fn make_replica(scene: &Scene) {
    let source = "127.0.0.1";
    match scene.server.flavour {
        Flavour::MariaDb => {
            for (name, port) in [("", 1), ("'other'", 2)] {
                scene.server.exec(&format!(
                    "CHANGE MASTER {name} TO MASTER_HOST='{source}', MASTER_PORT={port}, MASTER_USER='nobody'"
                ));
            }
            // It has applied what its log has now, and something of another domain.
            let there: String = scene.server.one("SELECT @@GLOBAL.gtid_binlog_pos");
            scene
                .server
                .exec(&format!("SET GLOBAL gtid_slave_pos = '{there},5-9-100'"));
        }
        Flavour::MySql => {
            for name in ["", "other"] {
                scene.server.exec(&format!(
                    "CHANGE REPLICATION SOURCE TO SOURCE_HOST='{source}', SOURCE_PORT=1, SOURCE_USER='nobody' FOR CHANNEL '{name}'"
                ));
            }
        }
    }
}

/// Statements that depend on what was before them in other ways than by rows.
fn awkward(scene: &Scene, round: u64) {
    let mut conn = scene.server.connect();
    let mut run = |statement: &str| {
        conn.query_drop(statement)
            .unwrap_or_else(|error| panic!("{statement}: {error}"));
    };
    run("USE ledger");
    if round == 0 {
        run("CREATE TABLE odd (id INT AUTO_INCREMENT PRIMARY KEY, a INT, note VARCHAR(60), KEY (a)) ENGINE=InnoDB");
        run(
            "CREATE TABLE child (id INT PRIMARY KEY, odd INT, FOREIGN KEY (odd) REFERENCES odd (id) ON DELETE CASCADE) ENGINE=InnoDB",
        );
        run("CREATE TRIGGER odd_seen AFTER INSERT ON odd FOR EACH ROW UPDATE bulk SET hits = hits + 1 WHERE id = 7");
    }
    run("SET SESSION binlog_format = 'STATEMENT'");
    for number in 0..20 {
        run(&format!("INSERT INTO odd (a, note) VALUES ({number}, 'by statement')"));
        run(&format!("SET @x = {number}"));
        run("UPDATE odd SET a = a + @x WHERE id % 5 = 0");
    }
    if scene.mariadb() {
        run("CREATE TEMPORARY TABLE passing (a INT) ENGINE=InnoDB");
        run("INSERT INTO passing VALUES (1), (2)");
        run("INSERT INTO odd (a, note) SELECT a, 'by way of a temporary table' FROM passing");
        run("DROP TEMPORARY TABLE passing");
    }
    run("SET SESSION binlog_format = 'ROW'");
    run(&format!("ALTER TABLE odd ADD COLUMN more_{round} INT DEFAULT {round}"));
    run(&format!("XA START 'x{round}'"));
    run("INSERT INTO odd (a, note) VALUES (1, 'xa')");
    run(&format!("XA END 'x{round}'"));
    run(&format!("XA PREPARE 'x{round}'"));
    run(&format!("XA COMMIT 'x{round}'"));
    run(&format!(
        "INSERT INTO child SELECT id + {round}000, id FROM odd WHERE id % 3 = {round}"
    ));
    run("DELETE FROM odd WHERE id % 7 = 1");
    run(&format!(
        "CREATE USER somebody_{round}@localhost IDENTIFIED BY 'Aa1!secret'"
    ));
    run(&format!("CREATE TABLE made_{round} SELECT * FROM odd"));
    if scene.mariadb() {
        run("SET SESSION gtid_domain_id = 7, SESSION server_id = 77");
        run("INSERT INTO odd (a, note) VALUES (2, 'of another domain and server')");
    }
}

fn prove(flavour: Flavour, options: &[(&str, &str)]) {
    let Some(mut scene) = Scene::new(flavour, options, false, AS_ROOT) else {
        return;
    };
    make_replica(&scene);
    let load = scene.start_load();
    scene.tool.json(&["backup"]);
    awkward(&scene, 0);
    scene.server.exec("FLUSH BINARY LOGS");
    awkward(&scene, 1);
    load.stop();
    scene.server.stop();
    scene.server.start();
    let load = scene.start_load();
    awkward(&scene, 2);
    load.stop();
    scene.tool.json(&["binlog", "archive", "--once"]);
    let live = scene.server.checksums(load::SCHEMA);

    let mut seen = Vec::new();
    let skip = match flavour {
        Flavour::MariaDb => "skip-slave-start",
        Flavour::MySql => "skip-replica-start",
    };
    let ways = [
        ("serial", (SERIAL, "", 1)),
        ("parallel", (PARALLEL, "", 4)),
        // A server that does not take the channel.
        ("no-channel", (PARALLEL, "replay.no-channel=error", 1)),
    ];
    // With MySQL, where each takes half a minute, once is enough.
    let refused = flavour == Flavour::MariaDb || options.contains(&WITHOUT_GTIDS);
    for (name, way) in &ways[..if refused { 3 } else { 2 }] {
        restore(&scene, name, *way);
        let datadir = scene.lab.path(name);
        let options = [options, &[(skip, "ON")]].concat();
        let copy = Server::on(flavour, &datadir, &scene.lab.path(&format!("{name}-run")), &options);
        assert_same(&live, &copy.checksums(load::SCHEMA));
        load::proven(&copy.socket, scene.mariadb(), false, THREADS);
        assert_eq!(
            copy.one::<u64>("SELECT COUNT(*) FROM mysql.user WHERE user LIKE 'somebody%' OR user LIKE 'snapback-%'"),
            3
        );
        let executed = match flavour {
            Flavour::MariaDb => "SELECT @@GLOBAL.gtid_binlog_state",
            Flavour::MySql => "SELECT @@GLOBAL.gtid_executed",
        };
        assert_eq!(copy.one::<String>(executed), scene.server.one::<String>(executed));
        // A replica has what it had: that of the live server now, but that one has gone on.
        seen.push((replication(&copy), channels(&copy), names(&copy)));
    }
    for (seen_too, (name, _)) in seen.iter().zip(&ways) {
        assert_eq!(*seen_too, seen[0], "{name}, and serially");
    }
    let all = format!("{seen:?}");
    assert!(all.contains("other") && !all.contains("snapback_replay"), "{all}");
    scene.assert_nothing_left();
}

#[test]
fn mariadb_both_ways_of_a_replay_give_the_same() {
    // Relay logs are named by the pid file: the private server's have other names, and it must not look for those of the copy's named connection.
    prove(Flavour::MariaDb, &[("log-bin-compress", "ON")]);
}

#[test]
fn mysql_both_ways_of_a_replay_give_the_same() {
    prove(
        Flavour::MySql,
        &[
            ("gtid-mode", "ON"),
            ("enforce-gtid-consistency", "ON"),
            ("binlog-transaction-compression", "ON"),
        ],
    );
}

#[test]
fn mysql_without_gtids_both_ways_of_a_replay_give_the_same() {
    prove(Flavour::MySql, &[WITHOUT_GTIDS]);
}

/// The last log has a group without a commit at its end, or nothing else. MySQL cuts off, and removes, what it takes for half received.
fn ends_in_no_transaction(flavour: Flavour, options: &[(&str, &str)]) {
    let Some(mut scene) = Scene::new(flavour, options, true, AS_ROOT) else {
        return;
    };
    let executed = match flavour {
        Flavour::MariaDb => "SELECT @@GLOBAL.gtid_binlog_state",
        Flavour::MySql => "SELECT @@GLOBAL.gtid_executed",
    };
    let restored = |scene: &Scene, name: &str, workers: u64| {
        scene.tool.json(&["binlog", "archive", "--once"]);
        restore(scene, name, (&workers.to_string(), "", workers));
        let copy = Server::on(flavour, &scene.lab.path(name), &scene.lab.path("run"), options);
        assert_eq!(
            copy.one::<String>(executed),
            scene.server.one::<String>(executed),
            "{name}"
        );
        assert_eq!(copy.one::<u64>("SELECT COUNT(*) FROM ledger.late"), 1);
    };
    scene
        .server
        .exec("CREATE TABLE ledger.late (a INT PRIMARY KEY) ENGINE=InnoDB");
    scene.server.exec("INSERT INTO ledger.late VALUES (1)");
    scene.tool.json(&["backup"]);
    scene.server.stop();
    scene.server.start();
    scene.server.exec("FLUSH TABLES ledger.late");
    restored(&scene, "alone", 4);
    // Behind a transaction, in the same log.
    scene.server.exec("UPDATE ledger.late SET a = 2");
    scene.server.exec("FLUSH TABLES");
    restored(&scene, "behind", 4);
    restored(&scene, "serial", 1);
}

#[test]
fn mariadb_a_replay_ends_where_no_transaction_does() {
    ends_in_no_transaction(Flavour::MariaDb, &[]);
}

#[test]
fn mysql_a_replay_ends_where_no_transaction_does() {
    ends_in_no_transaction(
        Flavour::MySql,
        &[("gtid-mode", "ON"), ("enforce-gtid-consistency", "ON")],
    );
}

#[test]
fn mysql_without_gtids_a_replay_ends_where_no_transaction_does() {
    ends_in_no_transaction(Flavour::MySql, &[WITHOUT_GTIDS]);
}

/// What does not fit, or is interrupted, leaves nothing, whichever way.
fn leaves_nothing(flavour: Flavour, options: &[(&str, &str)]) {
    let Some(scene) = Scene::new(flavour, options, true, AS_ROOT) else {
        return;
    };
    scene
        .server
        .exec("CREATE TABLE ledger.precious (a INT PRIMARY KEY) ENGINE=InnoDB");
    scene.tool.json(&["backup"]);
    let load = scene.start_load();
    // The backup has not got this row, and the log tells of its end only.
    let mut conn = scene.server.connect();
    for statement in [
        "SET SESSION sql_log_bin = 0",
        "INSERT INTO ledger.precious VALUES (77)",
        "SET SESSION sql_log_bin = 1",
    ] {
        conn.query_drop(statement).unwrap();
    }
    scene.tool.json(&["binlog", "archive", "--once"]);
    let arguments = arguments(&scene, "no", PARALLEL);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let gate = scene.lab.path("gate");
    let point = format!("replay.applying=pause:{}", gate.display());
    let mut stopped = scene.tool.spawn(&point, &arguments);
    wait_for_file(&scene.lab.path("gate.reached"));
    assert!(scene.lab.path("no/SNAPBACK-REPLAY-UNFINISHED").exists());
    signal(stopped.id(), rustix::process::Signal::TERM);
    std::fs::write(&gate, "").unwrap();
    assert_eq!(stopped.wait().unwrap().code(), Some(128 + 15));
    assert!(!scene.lab.path("no").exists());

    conn.query_drop("DELETE FROM ledger.precious").unwrap();
    load.stop();
    scene.tool.json(&["binlog", "archive", "--once"]);
    for workers in [PARALLEL, SERIAL] {
        let mut arguments = arguments.clone();
        let at = arguments.iter().position(|word| *word == PARALLEL).unwrap();
        arguments[at] = workers;
        let refused = scene.tool.run(&arguments);
        assert_eq!(refused.status.code(), Some(1), "{}", both(&refused));
        assert!(both(&refused).contains("precious"), "{}", both(&refused));
        assert!(
            workers == SERIAL || both(&refused).contains("--replay-workers 1"),
            "{}",
            both(&refused)
        );
        assert!(!scene.lab.path("no").exists());
    }
    scene.assert_nothing_left();
}

#[test]
fn mariadb_a_replay_that_fails_or_is_interrupted_leaves_nothing() {
    leaves_nothing(Flavour::MariaDb, &[]);
}

#[test]
fn mysql_a_replay_that_fails_or_is_interrupted_leaves_nothing() {
    leaves_nothing(Flavour::MySql, &[]);
}
