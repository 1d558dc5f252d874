//! The lock is taken, stops what it should, and is let go.

use std::time::Duration;

use mysql::prelude::Queryable;
use snapback::database::{Database, Flavour, Strategy};

use super::harness::{Load, Run, TABLES, plan};
use super::server::TestServer;

const PAIRS: [(Flavour, Strategy); 4] = [
    (Flavour::MariaDb, Strategy::BackupStage),
    (Flavour::MariaDb, Strategy::Ftwrl),
    (Flavour::MySql, Strategy::Instance),
    (Flavour::MySql, Strategy::Ftwrl),
];

#[test]
fn commits_stop_during_the_hold_and_go_on_after_it() {
    for (flavour, strategy) in PAIRS {
        let server = TestServer::start(flavour, &[]);
        server.sql(TABLES);
        let (innodb, myisam) = (Load::start(&server, "t.w", 4), Load::start(&server, "t.m", 1));
        let mut database = server.connect();
        let examined = database.examine(&plan(Strategy::Auto)).unwrap();
        assert!(
            examined
                .findings
                .iter()
                .all(|f| f.severity != snapback::finding::Severity::Blocker),
            "{:?}",
            examined.findings
        );
        let run = Run::new();
        let held = run.quiesce(&mut database, &plan(strategy)).unwrap();
        let position = held.coordinates().position.clone().unwrap();
        let status = if flavour == Flavour::MariaDb {
            "SHOW MASTER STATUS"
        } else {
            "SHOW BINARY LOG STATUS"
        };
        let now: (String, u64) = server
            .client()
            .query_map(status, |mut row: mysql::Row| {
                (row.take::<String, _>(0).unwrap(), row.take::<u64, _>(1).unwrap())
            })
            .unwrap()
            .remove(0);
        assert_eq!(
            (position.file.clone(), position.position),
            now,
            "{flavour:?} {strategy:?}"
        );
        std::thread::sleep(Duration::from_millis(50));
        let (before, before_myisam) = (innodb.commits(), myisam.commits());
        std::thread::sleep(Duration::from_millis(300));
        // A writer may have been between its commit and its count.
        assert!(
            innodb.commits() <= before + 4,
            "{flavour:?} {strategy:?}: commits went on"
        );
        assert!(
            myisam.commits() <= before_myisam + 1,
            "{flavour:?} {strategy:?}: MyISAM writes went on"
        );
        let released = held.release().unwrap();
        assert!(released.exact, "{:?}", released.findings);
        assert!(released.figures.held_us >= 300_000);
        std::thread::sleep(Duration::from_millis(200));
        assert!(
            innodb.commits() > before + 4,
            "{flavour:?} {strategy:?}: commits did not go on"
        );
        println!("{flavour:?} {strategy:?}: {:?}", released.figures);
        innodb.stop();
        myisam.stop();
        assert!(run.journal.left().is_empty());
    }
}

#[test]
fn short_holds_are_short() {
    for (flavour, strategy) in PAIRS {
        let server = TestServer::start(flavour, &[]);
        server.sql(TABLES);
        let load = Load::start(&server, "t.w", 8);
        let mut database = server.connect();
        let (mut acquire, mut held) = (Vec::new(), Vec::new());
        let mut last = None;
        for _ in 0..15 {
            let run = Run::new();
            let mut plan = plan(strategy);
            plan.limits.acquire_timeout = Duration::from_secs(5);
            let quiet = run.quiesce(&mut database, &plan).unwrap();
            let released = quiet.release().unwrap();
            acquire.push(released.figures.acquire_us);
            held.push(released.figures.held_us);
            last = Some(released.figures);
            std::thread::sleep(Duration::from_millis(20));
        }
        acquire.sort_unstable();
        held.sort_unstable();
        println!(
            "{flavour:?} {strategy:?}: acquire median {} max {} us, held median {} max {} us",
            acquire[7], acquire[14], held[7], held[14]
        );
        println!("   longest commit {:?}; last {:?}", load.longest(), last.unwrap().steps);
        load.stop();
        drop(database);
        server.wait_until_alone();
    }
}
