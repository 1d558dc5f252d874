//! Another session changes, at random, what exactness stands on: a backup that says "exact" is, and one that does not says why.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mysql::prelude::Queryable;

use super::Random;
use crate::common::{Flavour, rounds};
use crate::setting::Scene;

const CHANGES: &[&str] = &[
    "innodb_flush_log_at_trx_commit = 0",
    "innodb_flush_log_at_trx_commit = 1",
    "innodb_flush_log_at_trx_commit = 2",
    "sync_binlog = 0",
    "sync_binlog = 1",
    "sync_binlog = 100",
    "lock_wait_timeout = 5",
    "time_zone = '+03:00'",
    "group_concat_max_len = 64",
];

/// Makes changes until it is told to stop; the pauses are random as well.
fn changer(scene: &Scene, stop: &Arc<AtomicBool>, mut random: Random) -> std::thread::JoinHandle<()> {
    let (stop, mut conn) = (Arc::clone(stop), scene.server.connect());
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            let change = CHANGES[random.below(CHANGES.len() as u64) as usize];
            conn.query_drop(format!("SET GLOBAL {change}")).unwrap();
            std::thread::sleep(Duration::from_micros(random.below(4000)));
        }
    })
}

fn changes(flavour: Flavour, strategies: &[&str]) {
    let Some(scene) = Scene::new(flavour, &[("sync-binlog", "1")], true, "") else {
        return;
    };
    let mut random = Random::new();
    let mut exact = 0;
    for round in 0..rounds(2) {
        let strategy = strategies[random.below(strategies.len() as u64) as usize];
        let first = ["0", "1"][random.below(2) as usize];
        scene
            .server
            .exec(&format!("SET GLOBAL innodb_flush_log_at_trx_commit = {first}"));
        let load = scene.start_load();
        let stop = Arc::new(AtomicBool::new(false));
        let thread = changer(&scene, &stop, Random::new());
        let before = load.acknowledged();
        let backup = scene.tool.json(&["backup", "--lock", strategy]);
        std::thread::sleep(Duration::from_millis(50));
        load.stop();
        stop.store(true, Ordering::Relaxed);
        thread.join().unwrap();
        eprintln!("{flavour:?} {strategy} round {round}: exact {}", backup["exact"]);
        scene.assert_nothing_left();
        match backup["exact"] == true {
            true => {
                exact += 1;
                scene.prove_exact(&backup, &before, &format!("copy-{round}"));
            }
            false => assert!(backup["warnings"].to_string().contains("position-inexact"), "{backup}"),
        }
    }
    eprintln!("{flavour:?}: {exact} exact");
}

#[test]
fn mariadb_settings_changed_by_others() {
    changes(Flavour::MariaDb, &["backup-stage", "ftwrl"]);
}

#[test]
fn mysql_settings_changed_by_others() {
    changes(Flavour::MySql, &["instance", "ftwrl"]);
}
