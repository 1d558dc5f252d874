//! Points in time by clock, GTID and log, and what the archive is made of: merged, verified, forgotten, filled from a backup.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::server::mysql_prefix;
use crate::common::{Flavour, both, text};
use crate::setting::{AS_ROOT, Scene, exists};

/// A server with an archive, whose tables tell which changes a copy has.
struct History {
    scene: Scene,
    copies: std::cell::Cell<u32>,
}

/// When a log or a change was made is known to the second.
fn a_second() {
    std::thread::sleep(Duration::from_millis(1100));
}

impl History {
    fn new(flavour: Flavour) -> Option<History> {
        let gtid = [("gtid-mode", "ON"), ("enforce-gtid-consistency", "ON")];
        let options = match flavour {
            Flavour::MariaDb => &[][..],
            Flavour::MySql => &gtid,
        };
        Some(History {
            scene: Scene::new(flavour, options, true, AS_ROOT)?,
            copies: std::cell::Cell::new(0),
        })
    }

    fn create(&self, table: &str) {
        let statement = format!("CREATE TABLE ledger.{table} (a INT) ENGINE=InnoDB");
        self.scene.server.exec(&statement);
    }

    fn archive(&self) -> Value {
        self.scene.tool.json(&["binlog", "archive", "--once"])
    }

    fn arguments<'a>(&self, id: &'a str, datadir: &'a str, flags: &[&'a str]) -> Vec<String> {
        let mut arguments: Vec<String> = ["restore", id, "--datadir", datadir].map(str::to_owned).to_vec();
        arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
        if !self.scene.mariadb() {
            arguments.extend(["--mysqld".to_owned(), text(&mysql_prefix().join("bin/mysqld97"))]);
        }
        arguments
    }

    /// Which of the tables `a`, `b`, ... a restore to a point has.
    fn at(&self, id: &str, flags: &[&str]) -> String {
        let number = self.copies.replace(self.copies.get() + 1);
        let datadir = self.scene.lab.path(&format!("copy-{number}"));
        let name = text(&datadir);
        let arguments = self.arguments(id, &name, flags);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.scene.tool.json(&arguments);
        let has = |table: &char| exists(&datadir.join(format!("ledger/{table}.ibd")));
        let tables = ('a'..='z').filter(has).collect();
        std::fs::remove_dir_all(&datadir).unwrap();
        tables
    }

    /// Why a restore to a point is refused.
    fn refused(&self, id: &str, flags: &[&str]) -> String {
        let datadir = self.scene.lab.path("no");
        let name = text(&datadir);
        let arguments = self.arguments(id, &name, flags);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = self.scene.tool.run(&arguments);
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {}", both(&output));
        assert!(!exists(&datadir));
        both(&output)
    }

    /// The archived change of this table.
    fn change(&self, table: &str) -> Value {
        let shown = self
            .scene
            .tool
            .json(&["binlog", "show", "--table", &format!("ledger.{table}")]);
        assert_eq!(shown.as_array().unwrap().len(), 1, "{shown}");
        shown[0].clone()
    }

    fn backup(&self, flags: &[&str]) -> String {
        let mut arguments = vec!["backup"];
        arguments.extend(flags);
        self.scene.tool.json(&arguments)["id"].as_str().unwrap().to_owned()
    }

    fn listed(&self) -> Vec<Value> {
        self.scene.tool.json(&["binlog", "list"]).as_array().unwrap().clone()
    }
}

/// By clock, by GTID, by log: with and without what is there. What the archive does not prove is refused.
fn every_kind_of_point(flavour: Flavour, reset: &str) {
    let Some(history) = History::new(flavour) else { return };
    history.create("a");
    let first = history.backup(&[]);
    history.create("b");
    a_second();
    let between = jiff::Timestamp::now().to_string();
    a_second();
    history.create("c");
    history.scene.server.exec("FLUSH BINARY LOGS");
    history.create("d");
    history.archive();

    let c = history.change("c");
    let gtid = c["gtid"].as_str().unwrap();
    assert_eq!(history.at("latest", &["--until", &between]), "ab");
    assert_eq!(history.at("latest", &["--until", gtid]), "abc");
    assert_eq!(history.at("latest", &["--until-before", &format!("gtid:{gtid}")]), "ab");
    let end = format!("{}:{}", c["file"].as_str().unwrap(), c["end"]);
    assert_eq!(history.at("latest", &["--until", &end]), "abc");

    // A backup that was taken after the point is none for it, also when only the name of its log says so.
    a_second();
    history.backup(&["--lock", "lockless"]);
    assert_eq!(history.at("latest", &["--until", &between]), "ab");
    let early = jiff::Timestamp::from_second(c["time"].as_i64().unwrap() - 3600).unwrap();
    assert!(
        history
            .refused("latest", &["--until", &early.to_string()])
            .contains("which is later")
    );

    // The newest backup is behind the archive: nothing replayed over an older one is newer.
    history.scene.server.exec("FLUSH BINARY LOGS");
    history.create("e");
    let newest = history.backup(&[]);
    let said = history.refused("latest", &["--until", "end"]);
    assert!(said.contains("ends before"), "{said}");
    assert_eq!(history.at(&first, &["--until", "end"]), "abcd");
    history.archive();
    assert_eq!(history.at("latest", &["--until", "end"]), "abcde");

    // After RESET a name means the newest log of it; the old one can be named by GTID.
    a_second();
    history.scene.server.exec(reset);
    for table in 'f'..='k' {
        history.create(&table.to_string());
    }
    history.archive();
    let log = c["file"].as_str().unwrap();
    let same_name = history
        .listed()
        .iter()
        .filter(|archived| archived["file"] == log)
        .count();
    if same_name < 2 {
        // Up to the name that is asked for.
        while history.archive()["file"] != log {
            history.scene.server.exec("FLUSH BINARY LOGS");
        }
    }
    history.create("l");
    history.archive();
    let said = history.refused(&first, &["--until", &format!("{log}:{}", history.change("l")["end"])]);
    assert!(said.contains("begun anew (RESET)"), "{said}");
    if flavour == Flavour::MariaDb {
        // With MySQL the numbers begin anew, and the GTID is there twice.
        assert_eq!(history.at(&first, &["--until", gtid]), "abc");
    }
    // All that is archived ends there.
    assert_eq!(history.at(&newest, &["--until", "end"]), "abcde");
    history.scene.assert_nothing_left();
}

#[test]
fn mariadb_every_kind_of_point() {
    every_kind_of_point(Flavour::MariaDb, "RESET MASTER");
}

#[test]
fn mysql_every_kind_of_point() {
    every_kind_of_point(Flavour::MySql, "RESET BINARY LOGS AND GTIDS");
}

/// Complete logs are one object each; rot in one is found; what the server threw away comes from a backup; what no backup needs goes.
fn the_archive_is_kept(flavour: Flavour) {
    let Some(history) = History::new(flavour) else { return };
    let tool = &history.scene.tool;
    history.create("a");
    let first = history.backup(&[]);
    for table in ["b", "c", "d"] {
        history.create(table);
        history.archive();
    }
    history.scene.server.exec("FLUSH BINARY LOGS");
    // Killed while it merges: the old segments and the new one are there.
    let killed = tool.with_failpoint("binlog.merged=kill", &["binlog", "archive"]);
    assert_eq!(killed.status.code(), None, "{}", both(&killed));
    let complete = |history: &History| {
        let all = history.listed().into_iter().filter(|log| log["complete"] == true);
        all.map(|log| log["segments"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert!(complete(&history)[0] > 4, "{:?}", complete(&history));
    assert_eq!(history.at(&first, &["--until", "end"]), "abcd");
    let merged = history.archive();
    assert!(merged["merged"].as_u64().unwrap() > 3, "{merged}");
    assert!(
        complete(&history).iter().all(|segments| *segments == 1),
        "{:?}",
        complete(&history)
    );
    assert_eq!(history.at(&first, &["--until", "end"]), "abcd");

    let verified = tool.json(&["verify", "--all", "--level", "data"]);
    assert!(verified["binlog_bytes"].as_u64().unwrap() > 0, "{verified}");
    let segment = first_file(&tool.repository.join("binlogs"));
    let good = std::fs::read(&segment).unwrap();
    let mut rotten = good.clone();
    let middle = rotten.len() / 2;
    rotten[middle] ^= 1;
    std::fs::write(&segment, &rotten).unwrap();
    let verified = tool.json_with(&["verify", "--all", "--level", "data"], &[4]);
    assert_eq!(
        (&verified["good"], verified["damage"].as_array().unwrap().len()),
        (&false.into(), 1),
        "{verified}"
    );
    assert!(
        verified["damage"][0]["object"]
            .as_str()
            .unwrap()
            .starts_with("binlogs/"),
        "{verified}"
    );
    std::fs::write(&segment, &good).unwrap();
    tool.json_with(&["verify", "--all", "--level", "data"], &[0]);

    // Thrown away before they were archived; a backup has them among its files.
    history.create("e");
    history.scene.server.exec("FLUSH BINARY LOGS");
    history.create("f");
    history.scene.server.exec("FLUSH BINARY LOGS");
    history.create("g");
    let second = history.backup(&[]);
    let newest = history.scene.server.binary_logs();
    let newest = newest.last().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
    history.scene.server.exec(&format!("PURGE BINARY LOGS TO '{newest}'"));
    let gap = history.archive();
    assert_eq!(gap["warnings"][0]["code"], "binlog-gap", "{gap}");
    let gaps = |history: &History| {
        history
            .listed()
            .iter()
            .filter(|log| !log["gap_before"].is_null())
            .count()
    };
    assert_eq!(gaps(&history), 1);
    let filled = tool.json_with(&["binlog", "archive", "--from", "latest"], &[0]);
    assert!(filled["added"].as_array().unwrap().len() >= 2, "{filled}");
    assert_eq!(gaps(&history), 0, "{:?}", history.listed());
    // The log that the backup ends in went on: nobody knows yet that nothing is missing behind it.
    assert_eq!(
        history.listed().last().unwrap()["complete"],
        false,
        "{:?}",
        history.listed()
    );
    assert_eq!(
        tool.json(&["binlog", "archive", "--from", "latest"])["added"],
        serde_json::json!([])
    );
    assert_eq!(history.at(&first, &["--until", "end"]), "abcdefg");

    // With the first backup go the logs that only it needs.
    let before = history.listed().len();
    assert_eq!(tool.json(&["binlog", "forget"])["forgotten"], serde_json::json!([]));
    tool.ok(&["forget", &first]);
    let would = tool.json(&["binlog", "forget", "--dry-run"]);
    assert_eq!(history.listed().len(), before);
    let forgotten = tool.json(&["binlog", "forget"]);
    assert_eq!(would["forgotten"], forgotten["forgotten"]);
    assert!(forgotten["forgotten"].as_array().unwrap().len() >= 2, "{forgotten}");
    assert_eq!(
        history.listed().len(),
        before - forgotten["forgotten"].as_array().unwrap().len()
    );
    history.create("h");
    history.archive();
    assert_eq!(history.at(&second, &["--until", "end"]), "abcdefgh");

    // Only the end of the log that was archived last is missing: the next one follows by its name.
    history.create("i");
    history.scene.server.exec("FLUSH BINARY LOGS");
    let newest = history.scene.server.binary_logs();
    let newest = newest.last().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
    history.scene.server.exec(&format!("PURGE BINARY LOGS TO '{newest}'"));
    let gap = history.archive();
    assert_eq!(gap["warnings"][0]["code"], "binlog-gap", "{gap}");
    assert_eq!(gaps(&history), 1);
    history.scene.assert_nothing_left();
}

fn first_file(below: &std::path::Path) -> std::path::PathBuf {
    let mut entries: Vec<_> = std::fs::read_dir(below)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    match entries.first() {
        Some(path) if path.is_dir() => first_file(path),
        Some(path) => path.clone(),
        None => panic!("nothing is below {}", below.display()),
    }
}

#[test]
fn mariadb_the_archive_is_merged_verified_filled_and_forgotten() {
    the_archive_is_kept(Flavour::MariaDb);
}

#[test]
fn mysql_the_archive_is_merged_verified_filled_and_forgotten() {
    the_archive_is_kept(Flavour::MySql);
}

/// A follower that is let in no more ends and says why; that another server answers ends it as well.
#[test]
fn a_follower_that_will_never_get_on_ends() {
    let Some(history) = History::new(Flavour::MariaDb) else {
        return;
    };
    let server = &history.scene.server;
    let follow = |user: &str| {
        let child = history.scene.tool.spawn(
            "",
            &["binlog", "archive", "--follow", "--interval", "100ms", "--user", user],
        );
        history.create(&format!("seen_by_{user}"));
        let begun = Instant::now();
        let archived = || {
            let logs = server.binary_logs();
            let length = std::fs::metadata(logs.last().unwrap()).unwrap().len();
            history.listed().last().is_some_and(|log| log["end"] == length)
        };
        while !archived() {
            assert!(
                begun.elapsed() < Duration::from_secs(120),
                "the follower does not archive"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        child
    };
    server.exec("CREATE USER follower@localhost");
    server.exec("GRANT REPLICATION SLAVE, REPLICATION MASTER ADMIN, BINLOG MONITOR ON *.* TO follower@localhost");
    let child = follow("follower");
    server.exec("DROP USER follower@localhost");
    let ended = outcome(child);
    assert_eq!(ended.status.code(), Some(1), "{}", both(&ended));
    assert!(both(&ended).contains("Access denied"), "{}", both(&ended));

    let child = follow("root");
    server.exec("SET GLOBAL server_id = 4711");
    let ended = outcome(child);
    assert_eq!(ended.status.code(), Some(1), "{}", both(&ended));
    assert!(both(&ended).contains("another server answers now"), "{}", both(&ended));
}

/// What a process said that ends by itself, within two minutes.
fn outcome(mut child: std::process::Child) -> std::process::Output {
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > Duration::from_secs(120) {
            child.kill().unwrap();
            panic!("it goes on: {}", both(&child.wait_with_output().unwrap()));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    child.wait_with_output().unwrap()
}
