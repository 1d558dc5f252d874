//! Whoever is in the lock's way is left alone: exit status 3, nothing changed, no writer queued beyond the bound.

use std::time::{Duration, Instant};

use mysql::prelude::Queryable;

use crate::common::load::Probe;
use crate::common::{Flavour, both};
use crate::setting::Scene;

/// A statement that blocks, run on a connection of its own; true when it blocks this strategy.
fn blocked_by(scene: &Scene, strategy: &str, prepare: &str, statement: &str, expect_busy: bool) {
    // Before the blocker: the probe makes its own table, which a lock could hold up.
    let probe = Probe::start(&scene.server.socket, Duration::from_millis(5));
    let mut conn = scene.server.connect();
    let id: u64 = conn.query_first("SELECT CONNECTION_ID()").unwrap().unwrap();
    conn.query_drop("USE ledger").unwrap();
    conn.query_drop(prepare).unwrap();
    let statement_text = statement.to_owned();
    let blocker = std::thread::spawn(move || {
        if !statement_text.is_empty() {
            let _ = conn.query_drop(statement_text);
        } else {
            std::thread::sleep(Duration::from_secs(8));
        }
        drop(conn);
    });
    std::thread::sleep(Duration::from_millis(1200));
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
    let longest = probe.stop().into_iter().max().unwrap_or(0);
    eprintln!(
        "{strategy} beside `{prepare}` `{statement}`: status {:?} after {took:?}, longest commit {longest} us",
        output.status.code()
    );
    let status = output.status.code();
    if expect_busy {
        assert_eq!(status, Some(3), "{}", both(&output));
    } else {
        assert!(matches!(status, Some(0 | 5)), "{}", both(&output));
    }
    // The bound: the acquire timeout, and room for a loaded machine.
    assert!(longest < 2_500_000, "a commit waited {longest} us behind the backup");
    scene.server.exec(&format!("KILL {id}"));
    blocker.join().unwrap();
    scene.assert_nothing_left();
    scene.assert_writable();
}

#[test]
fn mariadb_is_never_queued_behind_a_backup() {
    let Some(scene) = Scene::new(Flavour::MariaDb, &[], false, "") else {
        return;
    };
    let update = "UPDATE bulk SET hits = hits + SLEEP(0.005) WHERE id < 2000";
    blocked_by(&scene, "ftwrl", "SELECT 1", update, true);
    blocked_by(&scene, "backup-stage", "SELECT 1", update, false);
    blocked_by(&scene, "ftwrl", "SELECT 1", "SELECT SLEEP(8)", false);
    blocked_by(&scene, "ftwrl", "LOCK TABLES bulk WRITE", "", true);
    blocked_by(&scene, "backup-stage", "LOCK TABLES bulk WRITE", "", true);
    blocked_by(&scene, "backup-stage", "BEGIN", "", false);
}

#[test]
fn mysql_is_never_queued_behind_a_backup() {
    let Some(scene) = Scene::new(Flavour::MySql, &[], false, "") else {
        return;
    };
    let update = "UPDATE bulk SET hits = hits + SLEEP(0.005) WHERE id < 2000";
    blocked_by(&scene, "instance", "SELECT 1", update, true);
    blocked_by(
        &scene,
        "instance",
        "SELECT 1",
        "SELECT COUNT(*) FROM bulk WHERE SLEEP(0.005) = 0 AND id < 2000",
        true,
    );
    blocked_by(&scene, "ftwrl", "LOCK TABLES bulk WRITE", "", true);
    blocked_by(&scene, "instance", "BEGIN", "", false);
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
