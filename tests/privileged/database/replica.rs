//! Replicas: the executed position of each channel, and temporary tables of the applier.

use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use snapback::database::{Error, Flavour, Strategy};

use super::harness::{Load, Run, plan};
use super::server::TestServer;

fn replicate(source: &TestServer, replica: &TestServer, channel: &str) {
    if source.flavour == Flavour::MariaDb {
        source.sql(&format!("SET GLOBAL gtid_domain_id = {}", source.port));
    }
    source.sql("CREATE USER IF NOT EXISTS repl@'%' IDENTIFIED BY 'r'; GRANT REPLICATION SLAVE ON *.* TO repl@'%'");
    let port = source.port;
    match replica.flavour {
        Flavour::MariaDb => replica.sql(&format!(
            "CHANGE MASTER '{channel}' TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, MASTER_USER='repl', MASTER_PASSWORD='r', \
             MASTER_CONNECT_RETRY=1; START SLAVE '{channel}'"
        )),
        Flavour::MySql => replica.sql(&format!(
            "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={port}, SOURCE_USER='repl', SOURCE_PASSWORD='r', \
             GET_SOURCE_PUBLIC_KEY=1, SOURCE_CONNECT_RETRY=1 FOR CHANNEL '{channel}'; START REPLICA FOR CHANNEL '{channel}'"
        )),
    }
}

fn source_position(source: &TestServer) -> (String, u64) {
    let statement = if source.flavour == Flavour::MariaDb {
        "SHOW MASTER STATUS"
    } else {
        "SHOW BINARY LOG STATUS"
    };
    let row: mysql::Row = source.client().query_first(statement).unwrap().unwrap();
    (row.get(0).unwrap(), row.get(1).unwrap())
}

#[test]
fn the_executed_position_of_every_channel_is_recorded() {
    for (flavour, strategy, options) in [
        (Flavour::MariaDb, Strategy::BackupStage, &[][..]),
        (Flavour::MariaDb, Strategy::Ftwrl, &["--slave-parallel-threads=4"]),
        (
            Flavour::MySql,
            Strategy::Instance,
            &["--gtid-mode=ON", "--enforce-gtid-consistency=ON"],
        ),
        (Flavour::MySql, Strategy::Ftwrl, &[]),
    ] {
        let (one, two) = (TestServer::start(flavour, options), TestServer::start(flavour, options));
        let replica = TestServer::start(flavour, options);
        replicate(&one, &replica, "first");
        replicate(&two, &replica, "second");
        one.sql("CREATE DATABASE t; CREATE TABLE t.w (a INT PRIMARY KEY AUTO_INCREMENT, b INT)");
        two.sql("CREATE DATABASE u; CREATE TABLE u.w (a INT PRIMARY KEY AUTO_INCREMENT, b INT)");
        let (load, other) = (Load::start(&one, "t.w", 4), Load::start(&two, "u.w", 2));
        let mut database = replica.connect();
        let mut plan = plan(strategy);
        plan.limits.attempts = 5;
        plan.limits.acquire_timeout = Duration::from_secs(3);
        for _ in 0..5 {
            let run = Run::new();
            let held = run.quiesce(&mut database, &plan).unwrap();
            assert_eq!(held.coordinates().replica.len(), 2);
            std::thread::sleep(Duration::from_millis(60));
            let released = held.release().unwrap();
            assert!(released.exact, "{flavour:?} {strategy:?}: {:?}", released.findings);
        }
        load.stop();
        other.stop();
        let deadline = Instant::now() + Duration::from_secs(240);
        loop {
            let run = Run::new();
            let held = run.quiesce(&mut database, &plan).unwrap();
            let channels = held.release().unwrap().coordinates.replica;
            let executed: Vec<_> = channels
                .iter()
                .map(|c| (c.channel.as_str(), c.source_port, (c.file.clone(), c.position)))
                .collect();
            if executed
                == [
                    ("first", one.port, source_position(&one)),
                    ("second", two.port, source_position(&two)),
                ]
            {
                assert!(
                    channels
                        .iter()
                        .all(|channel| channel.running && channel.source_host == "127.0.0.1")
                );
                println!("{flavour:?} {strategy:?}: {channels:?}");
                break;
            }
            let log = std::fs::read_to_string(replica.dir.path().join("error.log")).unwrap_or_default();
            assert!(
                Instant::now() < deadline,
                "{flavour:?} {strategy:?}: {channels:?}\n{log}"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

#[test]
fn a_replica_whose_applier_has_temporary_tables_is_left_alone() {
    let options = ["--binlog-format=STATEMENT"];
    let (source, replica) = (
        TestServer::start(Flavour::MariaDb, &options),
        TestServer::start(Flavour::MariaDb, &options),
    );
    replicate(&source, &replica, "");
    source.sql("CREATE DATABASE t");
    let mut session = source.client();
    session
        .query_drop("CREATE TEMPORARY TABLE t.tmp (a INT); INSERT INTO t.tmp VALUES (1)")
        .unwrap();
    let open = || {
        replica
            .client()
            .query_first::<(String, u64), _>("SHOW GLOBAL STATUS LIKE 'Slave_open_temp_tables'")
            .unwrap()
            .unwrap()
            .1
    };
    while open() == 0 {
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut database = replica.connect();
    for strategy in [Strategy::BackupStage, Strategy::Ftwrl] {
        let error = Run::new().quiesce(&mut database, &plan(strategy)).err().unwrap();
        assert!(
            matches!(&error, snapback::Error::Database(Error::Busy { reason }) if reason.contains("temporary")),
            "{error}"
        );
    }
    drop(session);
    while open() > 0 {
        std::thread::sleep(Duration::from_millis(20));
    }
    Run::new()
        .quiesce(&mut database, &plan(Strategy::BackupStage))
        .unwrap()
        .release()
        .unwrap();
}

#[test]
fn prepared_transactions_are_recorded() {
    for (flavour, strategy) in [
        (Flavour::MariaDb, Strategy::BackupStage),
        (Flavour::MySql, Strategy::Instance),
    ] {
        let server = TestServer::start(flavour, &[]);
        server.sql("CREATE DATABASE t; CREATE TABLE t.i (a INT)");
        let mut client = server.client();
        client
            .query_drop("XA START 'abc','d',7; INSERT INTO t.i VALUES (1); XA END 'abc','d',7; XA PREPARE 'abc','d',7")
            .unwrap();
        let mut database = server.connect();
        let held = Run::new().quiesce(&mut database, &plan(strategy)).map(|held| {
            let prepared = held.coordinates().prepared_xa.clone();
            held.release().unwrap();
            prepared
        });
        assert_eq!(held.unwrap(), ["formatID=7 gtrid_length=3 bqual_length=1 data=abcd"]);
        client.query_drop("XA ROLLBACK 'abc','d',7").unwrap();
    }
}
