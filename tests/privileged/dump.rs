//! Logical dumps of a backup: everything of it arrives in an empty server, nothing of the live one is asked, and what is cut does not look whole.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use mysql::prelude::Queryable;
use rustix::process::Signal;

use crate::common::server::signal;
use crate::common::{Flavour, Server, both, load, text};
use crate::setting::Scene;

/// Accounts whose hosts have names are known.
const NAMES: &[(&str, &str)] = &[("skip-name-resolve", "0")];
const KINDS: &str = "kin`ds.x";

fn scene(flavour: Flavour) -> Option<(Scene, PathBuf)> {
    let (mut scene, scratch) = Scene::with_scratch(flavour)?;
    if flavour == Flavour::MariaDb {
        scene.server.stop();
        let (datadir, work) = (scene.server.datadir.clone(), scene.lab.path("run"));
        scene.server = Server::on(flavour, &datadir, &work, NAMES);
    }
    Some((scene, scratch))
}

fn everything(scene: &Scene) {
    let mut conn = scene.server.connect();
    let mut exec = |sql: &str| {
        let sql = sql.replace("KINDS", "`kin``ds.x`");
        conn.query_drop(&sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    };
    exec("CREATE DATABASE KINDS CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci");
    exec("CREATE TABLE KINDS.parent (id INT PRIMARY KEY, b BLOB, t VARCHAR(40), bits BIT(9)) ENGINE=InnoDB");
    exec(
        "INSERT INTO KINDS.parent VALUES (1, 0x00ff27225c0a, 'gr\u{fc}\u{df} \u{1f600}', b'101'), (2, NULL, '', NULL)",
    );
    exec(
        "CREATE TABLE KINDS.child (id INT PRIMARY KEY, p INT, twice INT GENERATED ALWAYS AS (p * 2) STORED, v INT GENERATED ALWAYS AS (p + 1) VIRTUAL, KEY (v), \
         CONSTRAINT fk FOREIGN KEY (p) REFERENCES KINDS.parent (id)) ENGINE=InnoDB",
    );
    exec("INSERT INTO KINDS.child (id, p) VALUES (1, 1), (2, 2)");
    exec(
        "CREATE TABLE KINDS.parts (a INT PRIMARY KEY) ENGINE=InnoDB PARTITION BY RANGE (a) (PARTITION p0 VALUES LESS THAN (10), PARTITION p1 VALUES LESS THAN MAXVALUE)",
    );
    exec("INSERT INTO KINDS.parts VALUES (1), (20)");
    exec("CREATE TABLE KINDS.log (n INT) ENGINE=MyISAM");
    exec("CREATE VIEW KINDS.seen AS SELECT c.id, p.t FROM KINDS.child c JOIN KINDS.parent p ON p.id = c.p");
    exec(
        "CREATE TRIGGER KINDS.after_child AFTER INSERT ON KINDS.child FOR EACH ROW INSERT INTO KINDS.log VALUES (NEW.id)",
    );
    exec("CREATE PROCEDURE KINDS.count_them(OUT n INT) SELECT COUNT(*) INTO n FROM KINDS.child");
    exec("CREATE FUNCTION KINDS.doubled(n INT) RETURNS INT DETERMINISTIC RETURN n * 2");
    exec("CREATE EVENT KINDS.tick ON SCHEDULE EVERY 1 DAY DO INSERT INTO KINDS.log VALUES (0)");
    exec("CREATE ROLE reader");
    exec("GRANT SELECT ON KINDS.* TO reader");
    exec("CREATE USER 'far'@'a-host.by-name'");
    exec("CREATE USER 'sh''op'@'localhost' IDENTIFIED BY 'Se-cret 1'");
    exec("GRANT INSERT (id, p), SELECT ON KINDS.child TO 'sh''op'@'localhost'");
    exec("GRANT EXECUTE ON PROCEDURE KINDS.count_them TO 'sh''op'@'localhost'");
    exec("GRANT reader TO 'sh''op'@'localhost'");
    exec(if scene.mariadb() {
        "SET DEFAULT ROLE reader FOR 'sh''op'@'localhost'"
    } else {
        "SET DEFAULT ROLE reader TO 'sh''op'@'localhost'"
    });
    if scene.mariadb() {
        exec("CREATE SEQUENCE KINDS.numbers START WITH 7");
    }
}

/// What of a server is compared, as rows of text.
fn picture(server: &Server) -> Vec<String> {
    let mut conn = server.connect();
    let mut all = Vec::new();
    let own = format!("IN ('{KINDS}', '{}')", load::SCHEMA);
    for sql in [
        format!(
            "SELECT CONCAT_WS('|', schema_name, default_collation_name) FROM information_schema.schemata WHERE schema_name {own}"
        ),
        format!(
            "SELECT CONCAT_WS('|', table_schema, table_name, table_type, engine, table_collation) FROM information_schema.tables WHERE table_schema {own}"
        ),
        format!(
            "SELECT CONCAT_WS('|', table_schema, table_name, column_name, column_type, is_nullable, extra, generation_expression) FROM information_schema.columns WHERE table_schema {own}"
        ),
        format!(
            "SELECT CONCAT_WS('|', table_schema, table_name, view_definition, definer) FROM information_schema.views WHERE table_schema {own}"
        ),
        format!(
            "SELECT CONCAT_WS('|', trigger_name, event_object_table, action_statement, definer) FROM information_schema.triggers WHERE trigger_schema {own}"
        ),
        format!(
            "SELECT CONCAT_WS('|', routine_name, routine_type, routine_definition, definer) FROM information_schema.routines WHERE routine_schema {own}"
        ),
        format!(
            "SELECT CONCAT_WS('|', event_name, event_definition, interval_value, status, definer) FROM information_schema.events WHERE event_schema {own}"
        ),
        format!(
            "SELECT CONCAT_WS('|', constraint_name, table_name, referenced_table_name) FROM information_schema.referential_constraints WHERE constraint_schema {own}"
        ),
        format!(
            "SELECT CONCAT_WS('|', table_name, partition_name, partition_description) FROM information_schema.partitions WHERE partition_name IS NOT NULL AND table_schema {own}"
        ),
        "SHOW GRANTS FOR 'sh''op'@'localhost'".to_owned(),
        "SHOW GRANTS FOR reader".to_owned(),
        "SHOW GRANTS FOR 'far'@'a-host.by-name'".to_owned(),
    ] {
        let mut rows: Vec<String> = conn.query(&sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert!(!rows.is_empty(), "nothing to compare: {sql}");
        rows.sort();
        all.append(&mut rows);
    }
    for schema in [KINDS.replace('`', "``"), load::SCHEMA.to_owned()] {
        let tables: Vec<(String, String)> = conn
            .query(format!(
                "SHOW FULL TABLES FROM `{schema}` WHERE table_type = 'BASE TABLE'"
            ))
            .unwrap();
        for (table, _) in tables {
            let (name, sum): (String, Option<u64>) = conn
                .query_first(format!("CHECKSUM TABLE `{schema}`.`{table}`"))
                .unwrap()
                .unwrap();
            let rows: u64 = conn
                .query_first(format!("SELECT COUNT(*) FROM `{schema}`.`{table}`"))
                .unwrap()
                .unwrap();
            all.push(format!("{name} {sum:?} {rows}"));
        }
    }
    all
}

fn assert_nothing_left(scene: &Scene, scratch: &Path) {
    assert!(
        std::fs::read_dir(scratch).unwrap().next().is_none(),
        "scratch space is left"
    );
    scene.assert_nothing_left();
}

fn whole(flavour: Flavour) {
    let Some((scene, scratch)) = scene(flavour) else { return };
    everything(&scene);
    scene.start_load().stop();
    scene.tool.json(&["backup"]);
    let live = picture(&scene.server);
    // Production is not asked: it cannot answer.
    signal(scene.server.pid(), Signal::STOP);
    let file = scene.lab.path("all.sql");
    let report = scene.tool.json(&["dump", "latest", "--output", &text(&file)]);
    signal(scene.server.pid(), Signal::CONT);
    eprintln!("{flavour:?}: {report}");
    let sql = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{error}"));
    assert!(!sql.contains("snapback-scratch"), "our own account is in the dump");
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    assert_eq!(report["bytes"], sql.len());
    assert!(sql.starts_with("-- snapback: backup ") && sql.contains("-- snapback: position "));

    let empty = Server::create(flavour, &scene.lab.path("empty"), &scene.lab.path("empty-run"), NAMES);
    let loaded = empty
        .client()
        .stdin(std::fs::File::open(&file).unwrap())
        .output()
        .unwrap();
    assert!(loaded.status.success(), "{}", both(&loaded));
    assert_eq!(picture(&empty), live);
    // The password, the default role and the grants are those of before.
    let opts = mysql::OptsBuilder::new()
        .socket(Some(text(&empty.socket)))
        .user(Some("sh'op"))
        .pass(Some("Se-cret 1"));
    let mut shop = mysql::Conn::new(opts).unwrap();
    let rows: u64 = shop
        .query_first("SELECT COUNT(*) FROM `kin``ds.x`.parent")
        .unwrap()
        .unwrap();
    assert_eq!(rows, 2);

    // A part of it, as a stream; nothing of others.
    let part = scene
        .tool
        .run(&["dump", "latest", "--tables", "`kin``ds.x`.parent,`kin``ds.x`.parts"]);
    assert!(part.status.success(), "{}", both(&part));
    let part = String::from_utf8_lossy(&part.stdout).into_owned();
    assert!(
        part.contains("CREATE TABLE `parent`")
            && !part.contains("CREATE TABLE `child`")
            && !part.contains("CREATE USER")
    );
    assert!(part.trim_end().ends_with("is complete"), "{part}");
    // It makes its schema.
    let mut conn = empty.connect();
    conn.query_drop("DROP DATABASE `kin``ds.x`").unwrap();
    let mut client = empty
        .client()
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    client.stdin.as_mut().unwrap().write_all(part.as_bytes()).unwrap();
    let loaded = client.wait_with_output().unwrap();
    assert!(loaded.status.success(), "{}", both(&loaded));
    let rows: u64 = empty.one("SELECT COUNT(*) FROM `kin``ds.x`.parts");
    assert_eq!(rows, 2);

    let directory = scene.lab.path("by-schema");
    scene.tool.json(&["dump", "latest", "--output-dir", &text(&directory)]);
    let mut names: Vec<String> = std::fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "%accounts.sql".to_owned(),
            "kin%60ds.x.sql".to_owned(),
            format!("{}.sql", load::SCHEMA)
        ]
    );
    assert_nothing_left(&scene, &scratch);
}

#[test]
fn a_dump_of_mariadb_gives_everything_back_to_an_empty_server() {
    whole(Flavour::MariaDb);
}

#[test]
fn a_dump_of_mysql_gives_everything_back_to_an_empty_server() {
    whole(Flavour::MySql);
}

/// The live server's SQL mode is the private one's as well: what is dumped is for a server with the default mode all the same.
fn under_sql_modes(flavour: Flavour) {
    let Some((scene, _)) = scene(flavour) else { return };
    everything(&scene);
    let empty = Server::create(flavour, &scene.lab.path("empty"), &scene.lab.path("empty-run"), NAMES);
    let rows = "SELECT COALESCE(SUM(CRC32(CONCAT_WS('|', id, HEX(b), t))), 0) FROM `kin``ds.x`.parent";
    let live: u64 = scene.server.one(rows);
    let oracle = if flavour == Flavour::MariaDb { "ORACLE" } else { "ANSI" };
    for mode in [
        "ANSI_QUOTES",
        "PAD_CHAR_TO_FULL_LENGTH",
        "NO_BACKSLASH_ESCAPES",
        oracle,
        "ANSI,PAD_CHAR_TO_FULL_LENGTH,NO_BACKSLASH_ESCAPES",
    ] {
        scene.server.exec(&format!("SET GLOBAL sql_mode = '{mode}'"));
        scene.tool.json(&["backup"]);
        let file = scene.lab.path(&format!("{mode}.sql"));
        scene.tool.json(&["dump", "latest", "--output", &text(&file)]);
        let sql = std::fs::read_to_string(&file).unwrap();
        assert!(
            !sql.contains("snapback-scratch"),
            "{mode}: our own account is in the dump"
        );
        assert!(
            sql.contains("CREATE USER IF NOT EXISTS `sh'op`@`localhost`"),
            "{mode}: no account"
        );
        let loaded = empty
            .client()
            .stdin(std::fs::File::open(&file).unwrap())
            .output()
            .unwrap();
        assert!(loaded.status.success(), "{mode}: {}", both(&loaded));
        assert_eq!(empty.one::<u64>(rows), live, "{mode}");
        empty.exec("DROP DATABASE `kin``ds.x`");
    }
}

#[test]
fn dumps_of_mariadb_under_every_sql_mode_load_on_a_default_server() {
    under_sql_modes(Flavour::MariaDb);
}

#[test]
fn dumps_of_mysql_under_every_sql_mode_load_on_a_default_server() {
    under_sql_modes(Flavour::MySql);
}

fn back_into_the_server(flavour: Flavour) {
    let Some((scene, scratch)) = scene(flavour) else { return };
    everything(&scene);
    scene.tool.json(&["backup"]);
    let live = picture(&scene.server);
    let socket = text(&scene.server.socket);
    let into = |args: &[&str], status: i32| {
        let all = [&["restore", "latest", "--into-server", &socket], args].concat();
        let output = scene.tool.run(&all);
        assert_eq!(output.status.code(), Some(status), "{args:?}: {}", both(&output));
        both(&output)
    };
    // What is there stays.
    let refused = into(&["--table", "`kin``ds.x`.child"], 2);
    assert!(refused.contains("is there already"), "{refused}");
    // Lost, and back with its trigger, foreign key and generated columns.
    scene.server.exec("DROP TABLE `kin``ds.x`.child");
    scene.server.exec("UPDATE `kin``ds.x`.parts SET a = a + 1 WHERE a = 1");
    into(&["--table", "`kin``ds.x`.child"], 0);
    into(&["--table", "`kin``ds.x`.parts", "--force"], 0);
    assert_eq!(picture(&scene.server), live);
    let orphan = scene
        .server
        .connect()
        .query_drop("INSERT INTO `kin``ds.x`.child (id, p) VALUES (9, 99)");
    assert!(orphan.is_err(), "the foreign key is not back");
    // Beside it, in a schema that is made: the reference still leads to the parent.
    let said = into(&["--table", "`kin``ds.x`.child", "--as", "rescue.child2"], 0);
    assert!(said.contains("after_child"), "{said}");
    assert_eq!(scene.server.one::<u64>("SELECT SUM(twice) FROM rescue.child2"), 6);
    let orphan = scene
        .server
        .connect()
        .query_drop("INSERT INTO rescue.child2 (id, p) VALUES (9, 99)");
    assert!(orphan.is_err(), "the foreign key does not lead to the parent");
    into(&["--schema", "kin`ds.x", "--as", "whole"], 0);
    for table in ["parent", "child", "parts"] {
        assert_eq!(
            scene.server.one::<u64>(&format!("SELECT COUNT(*) FROM whole.{table}")),
            2,
            "{table}"
        );
    }
    // Nothing of it went into the schema that it comes from.
    let triggers: u64 = scene
        .server
        .one("SELECT COUNT(*) FROM information_schema.triggers WHERE trigger_schema = 'whole'");
    assert_eq!(triggers, 0);
    assert_eq!(picture(&scene.server), live);
    let collation: String = scene
        .server
        .one("SELECT default_collation_name FROM information_schema.schemata WHERE schema_name = 'whole'");
    assert_eq!(collation, "utf8mb4_unicode_ci");
    let none = into(&["--table", "ledger.nothing"], 2);
    assert!(none.contains("nothing"), "{none}");
    assert_nothing_left(&scene, &scratch);
}

#[test]
fn a_lost_mariadb_table_comes_back_into_the_running_server() {
    back_into_the_server(Flavour::MariaDb);
}

#[test]
fn a_lost_mysql_table_comes_back_into_the_running_server() {
    back_into_the_server(Flavour::MySql);
}

#[test]
fn a_dump_that_is_cut_does_not_look_whole() {
    let Some((scene, scratch)) = scene(Flavour::MariaDb) else {
        return;
    };
    everything(&scene);
    scene.tool.json(&["backup"]);
    let file = scene.lab.path("all.sql");
    let there = |what: &str| {
        assert!(
            !file.exists() && !scene.lab.path("all.sql.partial").exists(),
            "{what} left a file"
        );
        assert_nothing_left(&scene, &scratch);
    };
    let output = ["dump", "latest", "--output", &text(&file)];
    let cut = scene.tool.with_failpoint("dump.write=error", &output);
    assert_eq!(cut.status.code(), Some(1), "{}", both(&cut));
    there("a failed write");
    let cut = scene.tool.with_failpoint("dump.write=signal:15", &output);
    assert_eq!(cut.status.code(), Some(143), "{}", both(&cut));
    there("a signal");
    let cut = scene.tool.with_failpoint("dump.write=error", &["dump", "latest"]);
    assert_eq!(cut.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&cut.stdout).ends_with("THIS DUMP IS INCOMPLETE;\n"),
        "{}",
        both(&cut)
    );
    // A view whose table is gone cannot be dumped: it is left out by name.
    scene.server.exec("DROP VIEW `kin``ds.x`.seen");
    scene
        .server
        .exec("CREATE VIEW `kin``ds.x`.seen AS SELECT 1 FROM `kin``ds.x`.log");
    scene.server.exec("DROP TABLE `kin``ds.x`.log");
    scene.tool.json(&["backup"]);
    let without = scene.tool.run(&output);
    assert_eq!(without.status.code(), Some(5), "{}", both(&without));
    assert!(
        both(&without).contains("kin`ds.x.seen is not in the dump"),
        "{}",
        both(&without)
    );
    std::fs::remove_file(&file).unwrap();
    there("a dump without a view");
    let none = scene.tool.run(&["dump", "latest", "--tables", "ledger.nothing"]);
    assert_eq!(none.status.code(), Some(2), "{}", both(&none));
}

/// mydumper's files, read by its own loader into an empty server: the tables are the same; accounts are beside them.
fn by_mydumper(flavour: Flavour) {
    let Some((scene, scratch)) = scene(flavour) else { return };
    scene.start_load().stop();
    scene.server.exec("CREATE DATABASE `od$d-`");
    scene
        .server
        .exec("CREATE TABLE `od$d-`.kept (a INT PRIMARY KEY) ENGINE=InnoDB");
    scene.server.exec("INSERT INTO `od$d-`.kept VALUES (7)");
    scene
        .server
        .exec("CREATE USER someone@localhost IDENTIFIED BY 'Se-cret 1'");
    scene.tool.json(&["backup"]);
    let directory = scene.lab.path("by-table");
    let report = scene
        .tool
        .json(&["dump", "latest", "--mydumper", "--output-dir", &text(&directory)]);
    eprintln!("{flavour:?}: {report}");
    assert!(
        std::fs::read_to_string(directory.join("%accounts"))
            .unwrap()
            .contains("someone")
    );
    assert!(
        std::fs::read_to_string(directory.join("%backup"))
            .unwrap()
            .contains("-- snapback: position ")
    );
    let empty = Server::create(flavour, &scene.lab.path("empty"), &scene.lab.path("empty-run"), NAMES);
    let loaded = std::process::Command::new("myloader")
        .args([
            "--user=root",
            &format!("--socket={}", text(&empty.socket)),
            &format!("--directory={}", text(&directory)),
        ])
        .output()
        .unwrap();
    assert!(loaded.status.success(), "{}", both(&loaded));
    assert_eq!(empty.checksums(load::SCHEMA), scene.server.checksums(load::SCHEMA));
    assert_eq!(empty.one::<u64>("SELECT a FROM `od$d-`.kept"), 7);
    // One table, and not its neighbours.
    let directory = scene.lab.path("one");
    scene.tool.json(&[
        "dump",
        "latest",
        "--mydumper",
        "--tables",
        "`od$d-`.kept",
        "--output-dir",
        &text(&directory),
    ]);
    let names: Vec<String> = std::fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(names.iter().any(|name| name.contains("kept")), "{names:?}");
    assert!(!names.iter().any(|name| name.contains("bulk")), "{names:?}");
    // What its loader would not find again is refused.
    scene.server.exec("CREATE DATABASE `do.t`");
    scene.tool.json(&["backup"]);
    let directory = scene.lab.path("dot");
    let refused = scene
        .tool
        .run(&["dump", "latest", "--mydumper", "--output-dir", &text(&directory)]);
    assert_eq!(refused.status.code(), Some(2), "{}", both(&refused));
    assert!(!directory.exists() && !scene.lab.path("dot.partial").exists());
    assert_nothing_left(&scene, &scratch);
}

#[test]
fn mydumper_dumps_a_mariadb_backup_for_its_loader() {
    by_mydumper(Flavour::MariaDb);
}

#[test]
fn mydumper_dumps_a_mysql_backup_for_its_loader() {
    by_mydumper(Flavour::MySql);
}

/// What a server cannot read any more is left out by name, and the rest is there; what the user says reaches the tool.
fn says_what_it_has_not(flavour: Flavour) {
    let Some((scene, scratch)) = scene(flavour) else { return };
    let exec = |sql: &str| scene.server.exec(sql);
    exec("CREATE DATABASE odd");
    exec("CREATE TABLE odd.keep (a INT PRIMARY KEY)");
    exec("INSERT INTO odd.keep VALUES (7)");
    exec("CREATE TABLE odd.lost (a INT)");
    exec("CREATE VIEW odd.seen AS SELECT * FROM odd.lost");
    exec("DROP TABLE odd.lost");
    exec("CREATE TABLE odd.given_up (a INT PRIMARY KEY) ENGINE=InnoDB");
    exec("ALTER TABLE odd.given_up DISCARD TABLESPACE");
    // Longer than the tools' own limit, on either side.
    exec("CREATE TABLE odd.long_row (a INT PRIMARY KEY, b LONGBLOB)");
    exec("SET GLOBAL max_allowed_packet = 256 * 1024 * 1024");
    exec("INSERT INTO odd.long_row VALUES (1, REPEAT('x', 15 * 1024 * 1024))");
    for _ in 0..2 {
        exec("UPDATE odd.long_row SET b = CONCAT(b, b) WHERE LENGTH(b) < 30 * 1024 * 1024");
    }
    if scene.mariadb() {
        exec("CREATE TABLE odd.timed (a INT PRIMARY KEY, b INT) WITH SYSTEM VERSIONING");
        exec("INSERT INTO odd.timed VALUES (1, 1)");
        exec("UPDATE odd.timed SET b = 2");
        exec(
            "CREATE TABLE odd.by_transaction (a INT PRIMARY KEY, s BIGINT UNSIGNED GENERATED ALWAYS AS ROW START, \
             e BIGINT UNSIGNED GENERATED ALWAYS AS ROW END, PERIOD FOR SYSTEM_TIME (s, e)) WITH SYSTEM VERSIONING",
        );
        exec("INSERT INTO odd.by_transaction (a) VALUES (1)");
    }
    std::fs::create_dir(scene.server.datadir.join(".cache")).unwrap();
    scene.tool.run(&["backup"]);
    let dump = |name: &str, args: &[&str]| {
        let file = scene.lab.path(name);
        let path = text(&file);
        let all = [&["dump", "latest", "--output", &path], args].concat();
        let output = scene.tool.run(&all);
        let sql = std::fs::read(&file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        (output.status.code(), both(&output), sql.unwrap_or_default())
    };
    let (status, said, sql) = dump("all.sql", &[]);
    assert_eq!(status, Some(5), "{said}");
    for name in ["odd.seen is not in the dump", "odd.given_up is not in the dump"] {
        assert!(said.contains(name) && sql.contains(name), "{said}");
    }
    assert!(sql.contains("CREATE TABLE `keep`") && !sql.contains("CREATE TABLE `given_up`"));
    assert!(sql.len() > 60 << 20, "the long row is not there");
    if scene.mariadb() {
        assert!(said.contains("`.cache`"), "{said}");
        assert!(sql.contains("system_versioning_insert_history"), "no history");
        assert!(said.contains("odd.by_transaction alone"), "{said}");
    }
    let (status, said, sql) = dump(
        "some.sql",
        &[
            "--databases",
            "odd",
            "--ignore-table",
            "odd.long_row,odd.seen,odd.given_up",
            "--dump-option=--complete-insert",
            "--no-accounts",
        ],
    );
    assert_eq!(status, Some(if scene.mariadb() { 5 } else { 0 }), "{said}");
    assert!(
        sql.contains("INSERT INTO `keep` (`a`) VALUES") && !sql.contains("long_row"),
        "{said}"
    );
    let (status, said, _) = dump("named.sql", &["--tables", "odd.given_up"]);
    assert!(
        status == Some(1) && said.contains("odd.given_up cannot be dumped"),
        "{said}"
    );
    let (status, said, _) = dump("no.sql", &["--dump-option=--result-file=/x"]);
    assert!(status == Some(2) && said.contains("--result-file"), "{said}");
    // A drill calls none of it damage.
    let drill = scene.tool.run(&["verify", "--boot", "--scratch", &text(&scratch)]);
    assert_eq!(drill.status.code(), Some(5), "{}", both(&drill));
}

#[test]
fn a_dump_of_mariadb_says_what_it_has_not() {
    says_what_it_has_not(Flavour::MariaDb);
}

#[test]
fn a_dump_of_mysql_says_what_it_has_not() {
    says_what_it_has_not(Flavour::MySql);
}
