//! The recorded position is exact: for each server, lock strategy and durability, over several rounds (SNAPBACK_TEST_ROUNDS, 2 by default).

use crate::common::{Flavour, Server, both};
use crate::setting::Scene;

fn rounds() -> usize {
    std::env::var("SNAPBACK_TEST_ROUNDS")
        .ok()
        .and_then(|rounds| rounds.parse().ok())
        .unwrap_or(2)
}

/// Only some of the durabilities, where time is short: `SNAPBACK_TEST_DURABILITY=0`.
fn wanted(commit: u8) -> bool {
    std::env::var("SNAPBACK_TEST_DURABILITY").map_or(true, |only| only.contains(&commit.to_string()))
}

fn set_durability(server: &Server, commit: u8) {
    server.exec(&format!("SET GLOBAL innodb_flush_log_at_trx_commit={commit}"));
}

fn prove(flavour: Flavour, strategy: &str, only_innodb: bool, commits: &[u8]) {
    let Some(scene) = Scene::new(flavour, &[], only_innodb, "") else {
        return;
    };
    // What can be proved with one durability only is proved with that.
    for &commit in commits.iter().filter(|commit| commits.len() == 1 || wanted(**commit)) {
        set_durability(&scene.server, commit);
        for round in 0..rounds() {
            let load = scene.start_load();
            let before = load.acknowledged();
            let backup = scene.tool.json(&["backup", "--lock", strategy]);
            let slowest = load.take_slowest();
            std::thread::sleep(std::time::Duration::from_millis(200));
            load.stop();
            eprintln!(
                "{flavour:?} {strategy} trx_commit={commit} round {round}: held {} us, acquired in {} us, slowest commit {slowest:?}",
                backup["lock"]["held_us"], backup["lock"]["acquire_us"]
            );
            assert_eq!(backup["lock"]["strategy"], strategy);
            let now: u8 = scene.server.one("SELECT @@innodb_flush_log_at_trx_commit");
            assert_eq!(now, commit, "the durability setting was not put back");
            scene.assert_nothing_left();
            scene.prove_exact(&backup, &before, &format!("restored-{commit}-{round}"));
        }
    }
}

#[test]
fn mariadb_ftwrl() {
    prove(Flavour::MariaDb, "ftwrl", false, &[0, 1, 2]);
}

#[test]
fn mariadb_backup_stage() {
    prove(Flavour::MariaDb, "backup-stage", false, &[0, 1, 2]);
}

#[test]
fn mariadb_lockless() {
    prove(Flavour::MariaDb, "lockless", true, &[1]);
}

#[test]
fn mysql_ftwrl() {
    prove(Flavour::MySql, "ftwrl", false, &[0, 1, 2]);
}

#[test]
fn mysql_instance() {
    prove(Flavour::MySql, "instance", false, &[0, 1, 2]);
}

#[test]
fn mysql_lockless() {
    prove(Flavour::MySql, "lockless", true, &[1]);
}

/// MariaDB commits a sequence's row without a flush, whatever the durability.
#[test]
fn a_sequence_that_was_made_just_before_is_whole_or_the_run_is_refused() {
    let Some(scene) = Scene::new(Flavour::MariaDb, &[("sync-binlog", "1")], true, "") else {
        return;
    };
    scene.server.exec("CREATE SEQUENCE ledger.numbers START WITH 7");
    let refused = both(&scene.tool.run(&["backup", "--lock", "lockless"]));
    assert!(refused.contains("1 sequences"), "{refused}");
    for (round, strategy) in ["backup-stage", "ftwrl"].into_iter().enumerate() {
        scene
            .server
            .exec("CREATE OR REPLACE SEQUENCE ledger.numbers START WITH 7");
        let backup = scene.tool.json(&["backup", "--lock", strategy]);
        let restored = scene.restore(backup["id"].as_str().unwrap(), &format!("copy-{round}"));
        let next: u64 = restored.one("SELECT next_not_cached_value FROM ledger.numbers");
        assert_eq!(next, 7, "{strategy}");
    }
}
