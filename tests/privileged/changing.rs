//! What others change while a backup runs, and what a server makes of our sessions: the promise holds, or the backup says that it does not.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use mysql::prelude::Queryable;
use serde_json::Value;

use crate::common::{Flavour, Server, both, text, wait_for_file};
use crate::setting::Scene;

const COMMIT: &str = "innodb_flush_log_at_trx_commit";
const LAZY: &[(&str, &str)] = &[("innodb-flush-log-at-trx-commit", "0"), ("sync-binlog", "0")];
const DURABLE: &[(&str, &str)] = &[("innodb-flush-log-at-trx-commit", "1"), ("sync-binlog", "1")];

/// A session that puts the durability back as often as it can.
struct Toggler {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Toggler {
    fn start(server: &Server) -> Toggler {
        let (stop, mut conn) = (Arc::new(AtomicBool::new(false)), server.connect());
        let wanted = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !wanted.load(Ordering::Relaxed) {
                conn.query_drop(format!("SET GLOBAL {COMMIT} = 0")).unwrap();
                std::thread::sleep(Duration::from_micros(500));
            }
        });
        Toggler {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Toggler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.thread.take().unwrap().join());
    }
}

fn rounds() -> u64 {
    crate::common::rounds(2)
}

fn warned(backup: &Value, code: &str) -> bool {
    let warnings = backup["warnings"].as_array().unwrap();
    warnings.iter().any(|warning| warning["code"] == code)
}

fn put_back_by_another(flavour: Flavour, strategies: &[&str]) {
    let Some(scene) = Scene::new(flavour, LAZY, false, "") else {
        return;
    };
    for (round, strategy) in (0..rounds()).flat_map(|round| strategies.iter().map(move |one| (round, *one))) {
        let load = scene.start_load();
        let toggler = Toggler::start(&scene.server);
        let before = load.acknowledged();
        let backup = scene.tool.json(&["backup", "--lock", strategy]);
        std::thread::sleep(Duration::from_millis(100));
        load.stop();
        drop(toggler);
        eprintln!(
            "{flavour:?} {strategy} round {round}: exact {}, {} attempts",
            backup["exact"], backup["lock"]["attempts"]
        );
        assert_eq!(backup["exact"], true, "{backup}");
        scene.prove_exact(&backup, &before, &format!("{strategy}-{round}"));
        let now: u8 = scene.server.one(&format!("SELECT @@{COMMIT}"));
        assert_eq!(now, 0);
    }
}

#[test]
fn durability_that_another_session_puts_back_on_mariadb() {
    put_back_by_another(Flavour::MariaDb, &["backup-stage", "ftwrl"]);
}

#[test]
fn durability_that_another_session_puts_back_on_mysql() {
    put_back_by_another(Flavour::MySql, &["instance", "ftwrl"]);
}

/// A scene whose backups do something between the examination and the settling; the hook waits for the test.
fn with_gate(flavour: Flavour, options: &[(&str, &str)], only_innodb: bool, extra: &str) -> Option<(Scene, PathBuf)> {
    let scene = Scene::new(flavour, options, only_innodb, "")?;
    let (gate, hook) = (scene.lab.path("gate"), scene.lab.path("hook"));
    let script = format!(
        "#!/bin/sh\ntouch {0}.reached\nwhile [ ! -e {0} ]; do sleep 0.05; done\nrm {0} {0}.reached\n",
        text(&gate)
    );
    std::fs::write(&hook, script).unwrap();
    std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let yaml = std::fs::read_to_string(&scene.tool.config).unwrap();
    let hooks = format!("hooks: {{before_quiesce: [{{command: [{}]}}]}}\n", text(&hook));
    std::fs::write(&scene.tool.config, format!("{yaml}{hooks}{extra}")).unwrap();
    Some((scene, gate))
}

/// A backup beside which `change` is made once it was examined.
fn changed_by(scene: &mut Scene, gate: &Path, args: &[&str], change: impl FnOnce(&mut Scene)) -> std::process::Output {
    let mut all = vec!["--json", "backup"];
    all.extend(args);
    let child = scene.tool.spawn("none=error", &all);
    wait_for_file(&gate.with_extension("reached"));
    change(scene);
    std::fs::write(gate, "").unwrap();
    child.wait_with_output().unwrap()
}

fn done(output: &std::process::Output) -> Value {
    assert!(matches!(output.status.code(), Some(0 | 5)), "{}", both(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn durability_that_falls_after_the_examination_is_raised_or_said() {
    for raise in [true, false] {
        let lock = format!("lock: {{raise_durability: {raise}}}\n");
        let Some((mut scene, gate)) = with_gate(Flavour::MariaDb, DURABLE, true, &lock) else {
            return;
        };
        let output = changed_by(&mut scene, &gate, &[], |scene| {
            scene.server.exec(&format!("SET GLOBAL {COMMIT} = 0"));
        });
        let backup = done(&output);
        assert_eq!(backup["exact"], raise, "{backup}");
        assert_eq!(warned(&backup, "position-inexact"), !raise, "{backup}");
        // What the other session set stays.
        assert_eq!(scene.server.one::<u8>(&format!("SELECT @@{COMMIT}")), 0);
        scene.assert_nothing_left();
    }
}

#[test]
fn what_lockless_stands_on_counts_before_and_after_the_snapshot() {
    for flavour in [Flavour::MariaDb, Flavour::MySql] {
        let Some((mut scene, gate)) = with_gate(flavour, DURABLE, true, "") else {
            return;
        };
        let lockless = ["--lock", "lockless"];
        let same = changed_by(&mut scene, &gate, &lockless, |_| {});
        assert_eq!(done(&same)["exact"], true, "{}", both(&same));
        for change in [
            "SET GLOBAL sync_binlog = 0",
            "SET GLOBAL sync_binlog = 1; SET GLOBAL innodb_flush_log_at_trx_commit = 2",
            "SET GLOBAL innodb_flush_log_at_trx_commit = 1; CREATE TABLE ledger.late (a INT) ENGINE = MyISAM",
        ] {
            scene.server.exec("SET GLOBAL sync_binlog = 1");
            scene.server.exec("SET GLOBAL innodb_flush_log_at_trx_commit = 1");
            let output = changed_by(&mut scene, &gate, &lockless, |scene| {
                change.split("; ").for_each(|one| scene.server.exec(one));
            });
            let backup = done(&output);
            assert_eq!(backup["exact"], false, "{change}: {backup}");
            assert!(warned(&backup, "lockless-changed"), "{change}: {backup}");
        }
        // Between the two looks.
        scene.server.exec("DROP TABLE ledger.late");
        let at = scene.lab.path("locked");
        let child = scene.tool.spawn(
            &format!("backup.locked=pause:{}", text(&at)),
            &["--json", "backup", "--lock", "lockless"],
        );
        std::fs::write(&gate, "").unwrap();
        wait_for_file(&at.with_extension("reached"));
        scene.server.exec("SET GLOBAL sync_binlog = 0");
        std::fs::write(&at, "").unwrap();
        let backup = done(&child.wait_with_output().unwrap());
        assert_eq!(backup["exact"], false, "{backup}");
    }
}

#[test]
fn a_server_that_was_started_anew_is_not_the_one_that_was_examined() {
    for flavour in [Flavour::MariaDb, Flavour::MySql] {
        let Some((mut scene, gate)) = with_gate(flavour, DURABLE, true, "") else {
            return;
        };
        let output = changed_by(&mut scene, &gate, &[], |scene| {
            scene.server.stop();
            scene.server.start();
        });
        assert_eq!(output.status.code(), Some(1), "{}", both(&output));
        assert!(
            both(&output).contains("another server answers than at the beginning"),
            "{}",
            both(&output)
        );
        scene.assert_nothing_left();
        scene.assert_writable();
    }
}

#[test]
fn without_a_redo_log_there_is_no_backup() {
    let Some((mut scene, gate)) = with_gate(Flavour::MySql, DURABLE, true, "") else {
        return;
    };
    let few = ["--attempts", "2"];
    let output = changed_by(&mut scene, &gate, &few, |scene| {
        scene.server.exec("ALTER INSTANCE DISABLE INNODB REDO_LOG");
    });
    assert_eq!(output.status.code(), Some(3), "{}", both(&output));
    assert!(both(&output).contains("redo log is disabled"), "{}", both(&output));
    let refused = scene.tool.run(&["check"]);
    assert!(both(&refused).contains("redo log is disabled"), "{}", both(&refused));
    scene.server.exec("ALTER INSTANCE ENABLE INNODB REDO_LOG");
    assert_eq!(done(&changed_by(&mut scene, &gate, &few, |_| {}))["exact"], true);
}

/// Globals that cut or change what a session is told: every path is found, and a dump loads.
#[test]
fn what_a_server_makes_of_sessions_changes_nothing() {
    for flavour in [Flavour::MariaDb, Flavour::MySql] {
        let away = tempfile::Builder::new()
            .prefix("snapback-away-")
            .tempdir_in("/var/tmp")
            .unwrap();
        let directories = text(away.path());
        let option = [("innodb-directories", directories.as_str())];
        let options: &[(&str, &str)] = if flavour == Flavour::MySql { &option } else { &[] };
        let Some(scene) = Scene::new(flavour, options, true, "") else {
            return;
        };
        let places: Vec<PathBuf> = (0..4).map(|at| away.path().join(format!("d{at}"))).collect();
        scene.server.exec("CREATE DATABASE far");
        for (at, place) in places.iter().enumerate() {
            std::fs::create_dir(place).unwrap();
            scene.server.exec(&format!(
                "CREATE TABLE far.t{at} (a INT) ENGINE=InnoDB DATA DIRECTORY='{}'",
                text(place)
            ));
        }
        let found = |scene: &Scene| {
            let report = both(&scene.tool.run(&["--json", "check"]));
            places.iter().filter(|place| report.contains(&text(place))).count()
        };
        assert_eq!(found(&scene), 4);
        for global in [
            "sql_select_limit = 1",
            "max_join_size = 1",
            "sql_mode = 'ANSI_QUOTES,PAD_CHAR_TO_FULL_LENGTH,NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT,HIGH_NOT_PRECEDENCE'",
            "autocommit = OFF",
            "group_concat_max_len = 4",
            "lock_wait_timeout = 1",
            "time_zone = '+05:00'",
            "character_set_results = 'ucs2'",
            match flavour {
                Flavour::MariaDb => "max_statement_time = 0.001",
                Flavour::MySql => "max_execution_time = 1",
            },
        ] {
            scene.server.exec(&format!("SET GLOBAL {global}"));
            assert_eq!(found(&scene), 4, "{global}");
        }
        // What it makes of the sessions of an account without SUPER.
        let grants = match flavour {
            Flavour::MariaDb => "PROCESS, RELOAD, BINLOG MONITOR, REPLICA MONITOR",
            Flavour::MySql => "PROCESS, RELOAD, REPLICATION CLIENT, BACKUP_ADMIN, XA_RECOVER_ADMIN",
        };
        scene.server.exec("CREATE USER plain@localhost");
        scene.server.exec(&format!("GRANT {grants} ON *.* TO plain@localhost"));
        if flavour == Flavour::MySql {
            scene
                .server
                .exec("GRANT SELECT ON performance_schema.* TO plain@localhost");
        }
        let connect = "SET SESSION sql_select_limit = 1, autocommit = 0, sql_mode = ANSI_QUOTES";
        scene.server.exec(&format!("SET GLOBAL init_connect = '{connect}'"));
        let yaml = std::fs::read_to_string(&scene.tool.config).unwrap();
        std::fs::write(&scene.tool.config, yaml.replace("user: root", "user: plain")).unwrap();
        assert_eq!(found(&scene), 4, "{connect}");
    }
}

/// A temporary table that is open on a primary is in no copy, and the log has it as a statement.
#[test]
fn open_temporary_tables_of_a_primary_are_warned_of() {
    for (flavour, format) in [(Flavour::MariaDb, "MIXED"), (Flavour::MySql, "STATEMENT")] {
        let Some(scene) = Scene::new(flavour, &[("binlog-format", format)], true, "") else {
            return;
        };
        let backup = || scene.tool.json(&["backup"]);
        let mut conn = scene.server.connect();
        assert!(!warned(&backup(), "open-temporary-tables"));
        conn.query_drop("CREATE TEMPORARY TABLE ledger.passing (a INT)")
            .unwrap();
        conn.query_drop("CREATE TEMPORARY TABLE ledger.second (a INT) ENGINE = MyISAM")
            .unwrap();
        let open = backup();
        assert!(warned(&open, "open-temporary-tables"), "{open}");
        assert!(open["warnings"].to_string().contains("2 temporary tables"), "{open}");
        conn.query_drop("DROP TEMPORARY TABLE ledger.passing").unwrap();
        assert!(backup()["warnings"].to_string().contains("1 temporary table"));
        // The session ends, and the server says so in the log.
        drop(conn);
        crate::common::wait_for("the session's end", || {
            let gone = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE COMMAND = 'Sleep'";
            scene.server.one::<u64>(gone) == 0
        });
        let closed = backup();
        assert!(!warned(&closed, "open-temporary-tables"), "{closed}");
    }
}
