//! The position that is read off a binary log is the server's own.

use std::fs;
use std::path::{Path, PathBuf};

use mysql::prelude::Queryable;
use snapback::database::mysql::binlog;
use snapback::database::{Database, Flavour, Position};

use super::server::TestServer;

/// All kinds of groups: transactions, single statements, DDL, MyISAM, XA, rollbacks, LOAD DATA, savepoints, big rows.
const STORY: &[&str] = &[
    "CREATE DATABASE s",
    "CREATE TABLE s.i (a INT PRIMARY KEY AUTO_INCREMENT, b MEDIUMTEXT) ENGINE=InnoDB",
    "CREATE TABLE s.m (a INT PRIMARY KEY AUTO_INCREMENT, b MEDIUMTEXT) ENGINE=MyISAM",
    "INSERT INTO s.i (b) VALUES ('x')",
    "INSERT INTO s.m (b) VALUES ('x'), ('y')",
    "BEGIN",
    "INSERT INTO s.i (b) VALUES (REPEAT('a', 200000))",
    "SAVEPOINT p",
    "UPDATE s.i SET b = 'z'",
    "ROLLBACK TO SAVEPOINT p",
    "INSERT INTO s.m (b) VALUES ('in a transaction')",
    "COMMIT",
    "BEGIN",
    "INSERT INTO s.i (b) VALUES ('gone')",
    "INSERT INTO s.m (b) VALUES ('stays')",
    "ROLLBACK",
    "CREATE TABLE s.c AS SELECT * FROM s.i",
    "XA START 'x1'",
    "INSERT INTO s.i (b) VALUES ('xa')",
    "XA END 'x1'",
    "XA PREPARE 'x1'",
    "XA COMMIT 'x1'",
    "SET @v = 5",
    "INSERT INTO s.i (a, b) VALUES (LAST_INSERT_ID() + 1000, @v)",
    "DROP TABLE s.c",
    "TRUNCATE TABLE s.i",
    "CREATE TEMPORARY TABLE s.tmp (a INT)",
    "DROP TEMPORARY TABLE s.tmp",
    "FLUSH TABLES",
    "GRANT SELECT ON s.* TO u@localhost",
    "INSERT INTO s.i (b) SELECT REPEAT('r', 1000) FROM information_schema.COLUMNS LIMIT 200",
];

fn status(server: &TestServer) -> Position {
    let (statement, gtid) = match server.flavour {
        Flavour::MariaDb => ("SHOW MASTER STATUS", "SELECT @@global.gtid_binlog_pos"),
        Flavour::MySql => (
            "SHOW BINARY LOG STATUS",
            "SELECT REPLACE(@@global.gtid_executed, '\\n', '')",
        ),
    };
    let mut rows: Vec<(String, u64)> = server
        .client()
        .query_map(statement, |mut row: mysql::Row| {
            (row.take(0).unwrap(), row.take(1).unwrap())
        })
        .unwrap();
    let (file, position) = rows.remove(0);
    Position {
        file,
        position,
        gtid: Some(server.value(gtid)).filter(|gtid| !gtid.is_empty()),
    }
}

fn index(server: &TestServer) -> PathBuf {
    server.datadir().join("bin.index")
}

/// A set of GTIDs without its order.
fn parts(position: &Position) -> Vec<String> {
    let mut parts: Vec<String> = position
        .gtid
        .iter()
        .flat_map(|gtid| gtid.split(','))
        .map(str::to_owned)
        .collect();
    parts.sort();
    parts
}

/// Ours is theirs. MariaDB writes a checkpoint event a moment after each new log, so theirs is asked before and after.
fn same(database: &dyn Database, server: &TestServer) {
    loop {
        let before = status(server);
        let ours = database.derive_position(&index(server), &server.datadir()).unwrap();
        if status(server) == before {
            assert_eq!((&ours.file, ours.position), (&before.file, before.position));
            assert_eq!(parts(&ours), parts(&before));
            return;
        }
    }
}

fn servers() -> Vec<(Flavour, Vec<&'static str>)> {
    let maria = Flavour::MariaDb;
    let mysql = Flavour::MySql;
    vec![
        (maria, vec!["--binlog-format=ROW"]),
        (maria, vec!["--binlog-format=STATEMENT", "--binlog-checksum=NONE"]),
        (
            maria,
            vec![
                "--binlog-format=MIXED",
                "--log-bin-compress=ON",
                "--binlog-annotate-row-events=ON",
            ],
        ),
        (mysql, vec!["--gtid-mode=ON", "--enforce-gtid-consistency=ON"]),
        (mysql, vec!["--gtid-mode=OFF", "--binlog-checksum=NONE"]),
        (
            mysql,
            vec![
                "--gtid-mode=ON",
                "--enforce-gtid-consistency=ON",
                "--binlog-transaction-compression=ON",
            ],
        ),
    ]
}

#[test]
fn the_position_is_the_servers_after_every_statement() {
    for (flavour, options) in servers() {
        let server = TestServer::start(flavour, &options);
        let database = server.connect();
        let mut client = server.client();
        client.query_drop("CREATE USER u@localhost").unwrap();
        let mut inside = false;
        for (number, statement) in STORY.iter().enumerate() {
            if let Err(error) = client.query_drop(statement) {
                // Mixing engines in a transaction is refused under some settings.
                println!("{flavour:?} {options:?}: {statement}: {error}");
            }
            inside = (inside || *statement == "BEGIN" || statement.starts_with("XA START"))
                && !statement.starts_with("XA PREPARE");
            inside &= !matches!(*statement, "COMMIT" | "ROLLBACK");
            same(&database, &server);
            if number % 9 == 8 && !inside {
                client.query_drop("FLUSH BINARY LOGS").unwrap();
                same(&database, &server);
            }
        }
    }
}

#[test]
fn tagged_and_scattered_gtids_are_understood() {
    let server = TestServer::start(Flavour::MySql, &["--gtid-mode=ON", "--enforce-gtid-consistency=ON"]);
    let database = server.connect();
    let mut client = server.client();
    client
        .query_drop("CREATE DATABASE s; CREATE TABLE s.i (a INT PRIMARY KEY AUTO_INCREMENT)")
        .unwrap();
    for gtid in [
        "AUTOMATIC:nightly",
        "AUTOMATIC:another_tag_of_thirty_two_chars_",
        "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaff:7",
        "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaff:5",
        "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaff:6",
        "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaff:t:123456789012",
        "00000000-0000-0000-0000-000000000001:x:1",
        "AUTOMATIC",
    ] {
        client.query_drop(format!("SET gtid_next = '{gtid}'")).unwrap();
        client.query_drop("INSERT INTO s.i VALUES (NULL)").unwrap();
        same(&database, &server);
    }
    client.query_drop("FLUSH BINARY LOGS").unwrap();
    let ours = database.derive_position(&index(&server), &server.datadir()).unwrap();
    println!("{:?}", ours.gtid);
    same(&database, &server);
}

#[test]
fn mariadb_domains_and_servers_are_understood() {
    let server = TestServer::start(Flavour::MariaDb, &[]);
    let database = server.connect();
    let mut client = server.client();
    client
        .query_drop("CREATE DATABASE s; CREATE TABLE s.i (a INT PRIMARY KEY AUTO_INCREMENT)")
        .unwrap();
    for (domain, id) in [(0, 7), (5, 7), (5, 9), (4294967295u64, 8), (5, 7), (0, 6)] {
        client
            .query_drop(format!(
                "SET gtid_domain_id = {domain}, server_id = {id}; INSERT INTO s.i VALUES (NULL)"
            ))
            .unwrap();
        same(&database, &server);
        client.query_drop("FLUSH BINARY LOGS").unwrap();
        same(&database, &server);
    }
}

/// Cut at every byte, the log gives the end of the last group that is whole.
#[test]
fn a_log_that_was_cut_off_gives_its_last_whole_group() {
    for (flavour, options) in servers() {
        let server = TestServer::start(flavour, &options);
        let mut client = server.client();
        let mut ends = Vec::new();
        client
            .query_drop("CREATE DATABASE s; CREATE TABLE s.i (a INT PRIMARY KEY AUTO_INCREMENT, b TEXT)")
            .unwrap();
        client.query_drop("FLUSH BINARY LOGS").unwrap();
        // MariaDB's checkpoint event follows a moment later, by itself.
        std::thread::sleep(std::time::Duration::from_millis(300));
        ends.push(status(&server));
        for statement in [
            "INSERT INTO s.i (b) VALUES ('x')",
            "ALTER TABLE s.i ADD COLUMN c INT",
            "BEGIN; INSERT INTO s.i (b) VALUES ('y'); UPDATE s.i SET b = 'z'; COMMIT",
            "XA START 'x'; INSERT INTO s.i (b) VALUES ('xa'); XA END 'x'; XA PREPARE 'x'",
            "XA COMMIT 'x'",
        ] {
            client.query_drop(statement).unwrap();
            ends.push(status(&server));
        }
        let name = ends[0].file.clone();
        let whole = fs::read(server.datadir().join(&name)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (log, list) = (dir.path().join(&name), dir.path().join("index"));
        fs::write(&list, format!("/somewhere/else/{name}\n")).unwrap();
        let derive = |bytes: &[u8]| -> Option<Position> {
            fs::write(&log, bytes).unwrap();
            binlog::position(flavour, &list, dir.path()).ok()
        };
        let header = ends[0].position as usize;
        let unchecked = options.iter().any(|option| option.contains("NONE"));
        for cut in header..=whole.len() {
            let expected = ends.iter().rev().find(|end| end.position as usize <= cut).unwrap();
            let ours = derive(&whole[..cut]).unwrap();
            // Groups of two statements may end between two of the ends that were noted.
            assert!(
                ours.position >= expected.position && ours.position as usize <= cut,
                "cut at {cut}: {ours:?}"
            );
            if ends.iter().any(|end| end.position == ours.position) {
                let end = ends.iter().find(|end| end.position == ours.position).unwrap();
                assert_eq!(parts(&ours), parts(end), "{flavour:?} cut at {cut}");
            }
            // The same, but the rest of the file was allocated and never written.
            let mut zeroed = whole[..cut].to_vec();
            zeroed.resize(whole.len() + 4096, 0);
            // Without checksums zeros can pass for an event's own: that is why `lockless` asks for checksums.
            let position = derive(&zeroed).unwrap().position;
            // Where the bytes that were cut off are zeros themselves (a checksum may end so), nothing is missing.
            let rest = whole.get(cut..position as usize).unwrap_or_default();
            let nothing_missing = position > ours.position && rest.iter().all(|byte| *byte == 0);
            assert!(
                position == ours.position || unchecked || nothing_missing,
                "{flavour:?}: zeroed after {cut}: {position}"
            );
        }
        // Not even a whole header: there is nothing before this log, so there is no position.
        for cut in 0..header.min(100) {
            assert_eq!(derive(&whole[..cut]), None);
        }
        if !unchecked {
            damage(&whole, &ends, header, &derive);
        }
    }
}

/// A flipped byte before the last group is damage, and never a position as if all were well.
fn damage(whole: &[u8], ends: &[Position], header: usize, derive: &dyn Fn(&[u8]) -> Option<Position>) {
    let last = ends.last().unwrap().position as usize;
    let before_last = ends[ends.len() - 2].position as usize;
    for at in header..last {
        let mut bytes = whole.to_vec();
        bytes[at] ^= 0x10;
        match derive(&bytes) {
            None => {}
            Some(position) => assert!(
                position.position as usize <= at,
                "the flip at {at} went unnoticed: {position:?}"
            ),
        }
        if at < before_last && derive(&bytes).is_some() {
            // A length that lies hides what follows it; then the log must seem to end right there.
            assert!((derive(&bytes).unwrap().position as usize) <= at);
        }
    }
}

#[test]
fn what_is_no_readable_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let index = dir.path().join("index");
    let judge = |list: &str, bytes: Option<&[u8]>| {
        fs::write(&index, list).unwrap();
        if let Some(bytes) = bytes {
            fs::write(dir.path().join("bin.000001"), bytes).unwrap();
        }
        binlog::position(Flavour::MySql, &index, dir.path())
            .unwrap_err()
            .to_string()
    };
    assert!(judge("", None).contains("names no binary log"));
    assert!(judge("./bin.000001\n", None).contains("cannot open"));
    assert!(judge("./bin.000001\n", Some(b"\xfdbin....................")).contains("encrypted"));
    assert!(judge("./bin.000001\n", Some(b"PK\x03\x04....................")).contains("no binary log"));
    assert!(binlog::position(Flavour::MySql, Path::new("/nonexistent"), dir.path()).is_err());
}
