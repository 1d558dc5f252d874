//! Whoever is in the lock's way is left alone: exit status 3, nothing changed, no writer queued beyond the bound.

use std::time::{Duration, Instant};

use mysql::prelude::Queryable;

use crate::common::load::Probe;
use crate::common::{Flavour, Kind, both};
use crate::setting::Scene;

/// What the backup does about a statement.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// Nothing: it is not in the way.
    Passes,
    /// It is seen, and no lock is asked for at all: no commit waits.
    Seen,
    /// It cannot be seen: the lock is asked for, and the wait is bounded.
    Bounded,
}

const ACQUIRE: Duration = Duration::from_millis(500);

/// A statement, run on a connection of its own, beside a backup with this strategy.
fn beside(scene: &Scene, strategy: &str, prepare: &str, statement: &str, expect: Expect) {
    // Before the blocker: the probes make their own table, which a lock could hold up.
    let every = Duration::from_millis(5);
    let (before, probe) = (
        Probe::start(&scene.server.socket, every),
        Probe::start(&scene.server.socket, every),
    );
    let mut conn = scene.server.connect();
    let id: u64 = conn.query_first("SELECT CONNECTION_ID()").unwrap().unwrap();
    conn.query_drop("USE ledger").unwrap();
    conn.query_drop(prepare).unwrap();
    let statement_text = statement.to_owned();
    let (open, over) = std::sync::mpsc::channel::<()>();
    let blocker = std::thread::spawn(move || {
        if !statement_text.is_empty() {
            let _ = conn.query_drop(statement_text);
        } else {
            // Idle until the backup is over, however long it takes.
            let _ = over.recv();
        }
        drop(conn);
    });
    std::thread::sleep(Duration::from_millis(1200));
    // What a commit takes beside the statement alone, on this machine, now.
    let baseline = Duration::from_micros(before.stop().into_iter().max().unwrap_or(0));
    let asked_before = locks_asked_for(scene);
    let begun = Instant::now();
    let args = [
        "backup",
        "--lock",
        strategy,
        "--on-busy",
        "fail",
        "--acquire-timeout",
        "500ms",
        "--attempts",
        "1",
    ];
    let output = scene.tool.run(&args);
    let took = begun.elapsed();
    let longest = Duration::from_micros(probe.stop().into_iter().max().unwrap_or(0));
    eprintln!(
        "{strategy} beside `{prepare}` `{statement}`: status {:?} after {took:?}, longest commit {longest:?}, {baseline:?} before",
        output.status.code()
    );
    let status = output.status.code();
    let bound = match expect {
        Expect::Passes => {
            assert!(matches!(status, Some(0 | 5)), "{}", both(&output));
            ACQUIRE * 2
        }
        Expect::Seen => {
            assert_eq!(status, Some(3), "{}", both(&output));
            let named = format!("connection {id} of");
            assert!(both(&output).contains(&named), "{named}: {}", both(&output));
            // By the server's word, and not by the clock: a machine may be slow.
            assert_eq!(locks_asked_for(scene), asked_before, "the lock was asked for");
            ACQUIRE * 2
        }
        Expect::Bounded => {
            assert_eq!(status, Some(3), "{}", both(&output));
            assert!(locks_asked_for(scene) > asked_before, "no server counted the lock");
            ACQUIRE * 2
        }
    };
    let bound = bound.max(baseline * 3);
    assert!(
        longest < bound,
        "a commit waited {longest:?} beside the backup; {bound:?} is the bound"
    );
    if expect == Expect::Seen && !statement.is_empty() {
        assert!(!blocker.is_finished(), "the statement was too quick to show anything");
    }
    drop(open);
    // It may have ended by itself.
    let _ = scene.server.connect().query_drop(format!("KILL {id}"));
    blocker.join().unwrap();
    scene.assert_nothing_left();
    scene.assert_writable();
}

/// Statements that lock all tables, or ask for it, since the server began.
fn locks_asked_for(scene: &Scene) -> u64 {
    let mut conn = scene.server.connect();
    let counted: Vec<(String, u64)> = conn
        .query("SHOW GLOBAL STATUS WHERE Variable_name IN ('Com_flush', 'Com_backup', 'Com_lock_instance')")
        .unwrap();
    assert!(counted.len() >= 2, "{counted:?}");
    counted.into_iter().map(|(_, count)| count).sum()
}

/// A table whose copy takes an ALTER some seconds.
fn make_big(scene: &Scene) {
    scene
        .server
        .exec("CREATE TABLE ledger.big (a INT PRIMARY KEY AUTO_INCREMENT, c CHAR(100)) ENGINE=InnoDB");
    scene.server.exec(
        "INSERT INTO ledger.big (c) SELECT REPEAT('x', 100) FROM ledger.bulk x, (SELECT 1 FROM ledger.bulk LIMIT 100) y",
    );
}

/// A quarter of an hour, unless it is killed: on a slow machine the backup may take long to come to look.
const UPDATE: &str = "UPDATE bulk SET hits = hits + SLEEP(0.5) WHERE id < 2000";
const ALTER: &str = "ALTER TABLE big ADD COLUMN d INT, ADD INDEX (c), ALGORITHM=COPY";

#[test]
fn mariadb_is_never_queued_behind_a_backup() {
    let Some(scene) = Scene::new(Flavour::MariaDb, &[], false, "") else {
        return;
    };
    make_big(&scene);
    beside(&scene, "ftwrl", "SELECT 1", UPDATE, Expect::Seen);
    beside(&scene, "backup-stage", "SELECT 1", UPDATE, Expect::Passes);
    beside(&scene, "ftwrl", "SELECT 1", "SELECT SLEEP(8)", Expect::Passes);
    beside(&scene, "ftwrl", "SELECT 1", ALTER, Expect::Seen);
    // This server has no view of table locks.
    beside(&scene, "ftwrl", "LOCK TABLES bulk WRITE", "", Expect::Bounded);
    beside(&scene, "backup-stage", "LOCK TABLES bulk WRITE", "", Expect::Bounded);
    beside(&scene, "backup-stage", "BEGIN", "", Expect::Passes);
    granted_too_late(&scene, "backup-stage");
    granted_too_late(&scene, "ftwrl");
}

/// One that is seen and one that is not; then death around the snapshot. One scene for both: in the guest making one takes a quarter of a minute.
#[test]
fn in_short_nobody_is_queued_and_death_leaves_nothing() {
    if Kind::chosen() == Kind::Btrfs {
        // All of it is tested here.
        return;
    }
    let durability = [("innodb-flush-log-at-trx-commit", "0")];
    let Some(scene) = Scene::new(Flavour::MariaDb, &durability, false, "") else {
        return;
    };
    beside(&scene, "ftwrl", "SELECT 1", UPDATE, Expect::Seen);
    beside(&scene, "backup-stage", "LOCK TABLES bulk WRITE", "", Expect::Bounded);
    crate::kill_phases::killed_around_the_snapshot(&scene);
}

/// The wait ends at the moment at which the lock is granted: that attempt is over, and another one is made. (It once went on, and the KILL came in the middle of
/// the hold.)
fn granted_too_late(scene: &Scene, strategy: &str) {
    let args = [
        "--json",
        "backup",
        "--lock",
        strategy,
        "--acquire-timeout",
        "1s",
        "--attempts",
        "2",
    ];
    let late = "lock.granted=sleep:2000@1;lock.kill=sleep:3000@1";
    let output = scene.tool.with_failpoint(late, &args);
    assert!(matches!(output.status.code(), Some(0 | 5)), "{}", both(&output));
    let backup: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(backup["lock"]["attempts"], 2, "{backup}");
    scene.assert_nothing_left();
    scene.assert_writable();
}

#[test]
fn mysql_is_never_queued_behind_a_backup() {
    let Some(scene) = Scene::new(Flavour::MySql, &[], false, "") else {
        return;
    };
    make_big(&scene);
    let select = "SELECT COUNT(*) FROM bulk WHERE SLEEP(0.5) = 0 AND id < 2000";
    beside(&scene, "instance", "SELECT 1", UPDATE, Expect::Seen);
    beside(&scene, "instance", "SELECT 1", select, Expect::Seen);
    beside(&scene, "instance", "SELECT 1", ALTER, Expect::Seen);
    beside(&scene, "ftwrl", "LOCK TABLES bulk WRITE", "", Expect::Seen);
    beside(&scene, "instance", "BEGIN", "", Expect::Passes);
    granted_too_late(&scene, "instance");
}

#[test]
fn an_open_transaction_with_row_locks_is_no_obstacle() {
    for flavour in [Flavour::MariaDb, Flavour::MySql] {
        let Some(scene) = Scene::new(flavour, &[], true, "") else {
            return;
        };
        let mut conn = scene.server.connect();
        conn.query_drop("BEGIN").unwrap();
        conn.query_drop("UPDATE ledger.bulk SET hits = 77 WHERE id < 50")
            .unwrap();
        let backup = scene.tool.json(&["backup", "--on-busy", "fail"]);
        conn.query_drop("COMMIT").unwrap();
        let restored = scene.restore(backup["id"].as_str().unwrap(), "open");
        let uncommitted: u64 = restored.one("SELECT COUNT(*) FROM ledger.bulk WHERE hits = 77");
        assert_eq!(uncommitted, 0, "a transaction that was open is in the backup");
    }
}
