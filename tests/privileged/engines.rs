//! Each storage engine at each level of consistency, on real servers, written to while the backups are taken: what the table in docs/consistency.md, "Engines", says.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use serde_json::Value;

use crate::common::server::{engines_prefix, initialise, mysql_prefix};
use crate::common::{Flavour, Kind as Storages, Lab, Server, Tool, both, text};

/// What a table of an engine is worth after a restore at level `crash`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Crash {
    /// It recovers by itself, with every row that was acknowledged.
    Recovers,
    /// It can be opened, perhaps after REPAIR TABLE; no row has wrong content.
    Repairs,
    /// It is there and has no rows, at every level.
    Empty,
}
use Crash::{Empty, Recovers, Repairs};

const SCHEMA: &str = "engines";

struct Kind {
    table: &'static str,
    /// What follows the columns.
    made: &'static str,
    key: &'static str,
    crash: Crash,
}

const fn kind(table: &'static str, key: &'static str, made: &'static str, crash: Crash) -> Kind {
    Kind {
        table,
        made,
        key,
        crash,
    }
}

const KEY: &str = ", PRIMARY KEY (n)";

const BOTH: [Kind; 6] = [
    kind("innodb", KEY, "ENGINE=InnoDB", Recovers),
    kind("myisam", KEY, "ENGINE=MyISAM", Repairs),
    kind("archive", "", "ENGINE=ARCHIVE", Repairs),
    kind("csv", "", "ENGINE=CSV", Repairs),
    kind("memory", KEY, "ENGINE=MEMORY", Empty),
    kind(
        "merged",
        ", KEY (n)",
        "ENGINE=MERGE UNION=(engines.part, engines.last) INSERT_METHOD=LAST",
        Repairs,
    ),
];

const MARIADB: [Kind; 3] = [
    kind("aria", KEY, "ENGINE=Aria TRANSACTIONAL=1", Recovers),
    kind("aria_plain", KEY, "ENGINE=Aria TRANSACTIONAL=0", Repairs),
    kind("rocksdb", KEY, "ENGINE=ROCKSDB", Recovers),
];

fn kinds(flavour: Flavour) -> Vec<&'static Kind> {
    let more: &[Kind] = if flavour == Flavour::MariaDb { &MARIADB } else { &[] };
    BOTH.iter().chain(more).collect()
}

/// How servers with every engine are started.
struct How {
    flavour: Flavour,
    program: Option<PathBuf>,
    options: Vec<(&'static str, String)>,
}

impl How {
    fn new(flavour: Flavour) -> Option<How> {
        let (program, options) = match flavour {
            Flavour::MariaDb => {
                let prefix = engines_prefix()?;
                let options = vec![
                    ("plugin-dir", text(&prefix.join("lib/mysql/plugin"))),
                    ("lc-messages-dir", text(&prefix.join("share/mysql"))),
                ];
                (Some(prefix.join("sbin/mariadbd")), options)
            }
            Flavour::MySql => (None, Vec::new()),
        };
        Some(How {
            flavour,
            program,
            options,
        })
    }

    /// What the tool needs to know to start one.
    fn scratch(&self, dir: &str) -> String {
        let program = self.program.clone();
        let program = program.unwrap_or_else(|| mysql_prefix().join("bin/mysqld97"));
        let mut yaml = format!("scratch:\n  dir: {dir}\n  mysqld: {}\n", text(&program));
        for (at, (name, value)) in self.options.iter().enumerate() {
            yaml += if at == 0 { "  options:\n" } else { "" };
            yaml += &format!("    {name}: {value}\n");
        }
        yaml
    }

    fn start(&self, datadir: &Path, work: &Path, libraries: &str) -> Server {
        let mut options: Vec<(&str, &str)> = self
            .options
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        if self.flavour == Flavour::MariaDb {
            // RocksDB cannot be installed into a running server.
            options.push(("plugin-load", libraries));
        }
        Server::by(self.program.as_deref(), self.flavour, datadir, work, &options)
    }
}

const LIBRARIES: &str = "ha_archive.so;ha_rocksdb.so";

/// A server with tables of every engine, and the tool.
struct Scene {
    server: Server,
    tool: Tool,
    lab: Lab,
    how: How,
}

/// What is in a table.
#[derive(Debug, PartialEq, Eq)]
struct Rows {
    count: u64,
    last: u64,
    wrong: u64,
}

impl Scene {
    fn new(flavour: Flavour) -> Option<Scene> {
        // What an engine is worth does not depend on the storage, and the guest has not got all of them.
        if Storages::chosen() != Storages::Btrfs || !flavour.available() {
            return None;
        }
        let how = How::new(flavour)?;
        let lab = Lab::new()?;
        let datadir = lab.storage.volume("db").join("data");
        initialise(flavour, &datadir, &[]);
        let server = how.start(&datadir, &lab.path("run"), LIBRARIES);
        let scratch = lab.path("scratch");
        std::fs::create_dir(&scratch).unwrap();
        for directory in [&scratch, lab.dir.path()] {
            std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let tool = Tool::new(lab.dir.path(), &server, &how.scratch(&text(&scratch)));
        let scene = Scene { server, tool, lab, how };
        scene.server.exec(&format!("CREATE DATABASE {SCHEMA}"));
        scene.create("part", &kind("part", ", KEY (n)", "ENGINE=MyISAM", Repairs));
        scene.create("last", &kind("last", ", KEY (n)", "ENGINE=MyISAM", Repairs));
        for kind in kinds(flavour) {
            scene.create(kind.table, kind);
        }
        Some(scene)
    }

    fn create(&self, table: &str, kind: &Kind) {
        let (key, made) = (kind.key, kind.made);
        self.server.exec(&format!(
            "CREATE TABLE {SCHEMA}.{table} (n BIGINT NOT NULL, payload VARCHAR(200) NOT NULL, crc BIGINT NOT NULL{key}) CHARACTER SET latin1 {made}"
        ));
    }

    fn backup(&self, args: &[&str], statuses: &[i32]) -> Value {
        self.tool.json_with(&[&["backup"], args].concat(), statuses)
    }

    fn assert_nothing_left(&self) {
        assert_eq!(self.lab.storage.snapshots(), Vec::<String>::new(), "snapshots are left");
    }

    /// Restores a backup and starts a server on it.
    fn restore(&self, backup: &Value, name: &str) -> Server {
        let datadir = self.lab.path(name);
        let id = backup["id"].as_str().unwrap();
        self.tool.json(&["restore", id, "--datadir", &text(&datadir)]);
        self.how
            .start(&datadir, &self.lab.path(&format!("{name}-run")), LIBRARIES)
    }

    /// The live log from the recorded position on makes the restored tables what the live ones are.
    fn prove_exact(&self, backup: &Value, restored: &Server, tables: &[&Kind]) {
        assert_eq!(backup["exact"], true, "{backup}");
        let (file, position) = (&backup["position"]["file"], &backup["position"]["position"]);
        restored.replay(
            &self.server.binary_logs(),
            file.as_str().unwrap(),
            position.as_u64().unwrap(),
        );
        let (live, there) = (self.server.checksums(SCHEMA), restored.checksums(SCHEMA));
        for kind in tables.iter().filter(|kind| kind.crash != Empty) {
            assert_eq!(there[kind.table], live[kind.table], "{}", kind.table);
            // MySQL's CHECKSUM TABLE may read nothing of an ARCHIVE table.
            let of = |server| rows(server, kind.table);
            assert_eq!(of(restored), of(&self.server), "{}", kind.table);
        }
    }
}

fn rows(server: &Server, table: &str) -> Rows {
    let (count, last, wrong) = server
        .connect()
        .query_first(format!(
            "SELECT COUNT(*), COALESCE(MAX(n), 0), COALESCE(SUM(crc <> CRC32(payload)), 0) FROM {SCHEMA}.{table}"
        ))
        .unwrap_or_else(|error| panic!("{table}: {error}"))
        .unwrap();
    Rows { count, last, wrong }
}

/// What `CHECK TABLE` or `REPAIR TABLE` say, but for what is in order.
fn said(server: &Server, what: &str, table: &str) -> Vec<String> {
    let rows: Vec<(String, String, String, String)> = server
        .connect()
        .query(format!("{what} TABLE {table}"))
        .unwrap_or_else(|error| panic!("{what} {table}: {error}"));
    let said = rows.into_iter().map(|(_, _, kind, text)| format!("{kind}: {text}"));
    said.filter(|line| line != "status: OK" && !line.contains("doesn't support"))
        .collect()
}

/// One writer for each table.
struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: BTreeMap<&'static str, Arc<AtomicU64>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Goes on after what is there; returns when each table has got rows.
    fn start(server: &Server, kinds: &[&'static Kind]) -> Load {
        let mut load = Load {
            stop: Arc::default(),
            acknowledged: BTreeMap::new(),
            threads: Vec::new(),
        };
        for kind in kinds {
            let begun = rows(server, kind.table).last;
            let (stop, done) = (Arc::clone(&load.stop), Arc::new(AtomicU64::new(begun)));
            load.acknowledged.insert(kind.table, Arc::clone(&done));
            let (mut conn, table) = (server.connect(), kind.table);
            load.threads.push(std::thread::spawn(move || {
                for n in begun + 1.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let payload = format!("{:x}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15)).repeat(1 + (n % 12) as usize);
                    let insert = format!("INSERT INTO {SCHEMA}.{table} VALUES ({n}, '{payload}', CRC32('{payload}'))");
                    conn.query_drop(&insert)
                        .unwrap_or_else(|error| panic!("{table}: {error}"));
                    done.store(n, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(3));
                }
            }));
        }
        let begun = Instant::now();
        while load.acknowledged.values().any(|done| done.load(Ordering::SeqCst) < 50) {
            assert!(
                begun.elapsed() < Duration::from_secs(120),
                "the load makes no progress: {:?}",
                load.now()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        load
    }

    /// The last row of each table that was acknowledged.
    fn now(&self) -> BTreeMap<&'static str, u64> {
        self.acknowledged
            .iter()
            .map(|(table, done)| (*table, done.load(Ordering::SeqCst)))
            .collect()
    }

    fn stop(self) -> BTreeMap<&'static str, u64> {
        self.stop.store(true, Ordering::SeqCst);
        let last = self.acknowledged;
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        last.iter()
            .map(|(table, done)| (*table, done.load(Ordering::SeqCst)))
            .collect()
    }
}

/// Nothing of the table is wrong, but rows of the end may be missing.
fn assert_sound(found: &Rows, what: &str, last: u64) {
    assert!(
        found.wrong == 0 && found.last <= last,
        "{what}: {found:?}, written up to {last}"
    );
}

/// Every acknowledged row is there, and there are no gaps.
fn assert_whole(found: &Rows, what: &str, before: u64, last: u64) {
    assert_sound(found, what, last);
    assert!(
        found.count == found.last && found.last >= before,
        "{what}: {found:?}, {before} acknowledged before the backup"
    );
}

/// Opens every table of a restored backup, of level `crash` or of one that promises that nothing needs repair.
fn assert_as_promised(restored: &Server, level: &str, before: &BTreeMap<&str, u64>, last: &BTreeMap<&str, u64>) {
    let flavour = restored.flavour;
    let of = |what: &str, table: &str| said(restored, what, &format!("{SCHEMA}.{table}"));
    let check = |table: &str| of("CHECK", table);
    let log = "mysql.general_log";
    if !said(restored, "CHECK", log).is_empty() {
        said(restored, "REPAIR", log);
        assert_eq!(
            said(restored, "CHECK", log),
            Vec::<String>::new(),
            "{flavour:?} {level} {log}"
        );
    }
    // The last child of the MERGE table, which is as good as its children.
    if level == "crash" && !check("last").is_empty() {
        of("REPAIR", "last");
    }
    for kind in kinds(flavour)
        .into_iter()
        .filter(|kind| before.contains_key(kind.table))
    {
        let table = kind.table;
        let what = format!("{flavour:?} {level} {table}");
        let damage = check(table);
        let sound = match (level, kind.crash) {
            (_, Empty) => {
                assert_eq!(rows(restored, table).count, 0, "{what}");
                continue;
            }
            ("crash", Repairs) => false,
            _ => true,
        };
        if sound {
            assert_eq!(damage, Vec::<String>::new(), "{what}");
            assert_whole(&rows(restored, table), &what, before[table], last[table]);
            continue;
        }
        if !damage.is_empty() {
            of("REPAIR", table);
            assert_eq!(
                check(table),
                Vec::<String>::new(),
                "{what}: after REPAIR TABLE; before: {damage:?}"
            );
        }
        let found = rows(restored, table);
        eprintln!("{what}: {found:?}, acknowledged {}, {damage:?}", before[table]);
        assert_sound(&found, &what, last[table]);
    }
}

fn drilled(scene: &Scene, statuses: &[i32]) -> Value {
    let drill = scene.tool.json_with(&["verify", "--boot"], statuses);
    drill["drills"][0]["verdict"].clone()
}

fn named(verdict: &Value) -> Vec<(String, String)> {
    let named = verdict["tables"]["named"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut all: Vec<_> = named.map(|one| (text(&one["table"]), text(&one["verdict"]))).collect();
    all.sort();
    all
}

fn levels(flavour: Flavour) {
    let Some(scene) = Scene::new(flavour) else { return };
    let all = kinds(flavour);
    // The log tables are CSV, and written to whatever is locked.
    scene
        .server
        .exec("SET GLOBAL log_output='TABLE', GLOBAL general_log=ON");
    let load = Load::start(&scene.server, &all);
    let refused = both(&scene.tool.run(&["backup", "--lock", "lockless"]));
    assert!(refused.contains("table files are not InnoDB's"), "{refused}");
    assert_eq!(
        refused.contains("has loaded ha_rocksdb.so:"),
        flavour == Flavour::MariaDb,
        "{refused}"
    );
    let mut taken = Vec::new();
    for level in ["crash", "application", "clean"] {
        let before = load.now();
        let backup = scene.backup(
            &["--consistency", level, "--checksums", "all"],
            &[if level == "crash" { 5 } else { 0 }],
        );
        let warnings = backup["warnings"].to_string();
        assert_eq!(warnings.contains("crash-unsafe-tables"), level == "crash", "{warnings}");
        let verdict = drilled(&scene, &[0, 4, 5]);
        let sums = &verdict["checksums"];
        assert_eq!(
            (sums["differ"].as_u64(), sums["missing"].as_u64()),
            (Some(0), Some(0)),
            "{level}: {verdict}"
        );
        eprintln!("{flavour:?} {level}: {:?}", named(&verdict));
        if level != "crash" {
            let bad = named(&verdict)
                .into_iter()
                .find(|(table, _)| table != "mysql.general_log");
            assert_eq!(bad, None, "{level}: {verdict}");
            assert_ne!(verdict["result"], "failed", "{level}: {verdict}");
            assert_eq!(sums["agree"], sums["recorded"], "{level}: {verdict}");
            let archive = backup["checksums"]["tables"][SCHEMA]["archive"].as_u64();
            assert!(archive.is_some_and(|sum| sum != 0), "{}", backup["checksums"]);
        }
        taken.push((level, before, backup));
    }
    let last = load.stop();
    for (level, before, backup) in &taken {
        let restored = scene.restore(backup, level);
        assert_as_promised(&restored, level, before, &last);
        if *level != "crash" {
            scene.prove_exact(backup, &restored, &all);
        }
    }
    scene.assert_nothing_left();
    lockless(scene, flavour);
}

/// Where only InnoDB has rows on disk.
fn lockless(mut scene: Scene, flavour: Flavour) {
    let left: Vec<&Kind> = kinds(flavour)
        .into_iter()
        .filter(|kind| ["innodb", "memory"].contains(&kind.table))
        .collect();
    for table in kinds(flavour).iter().map(|kind| kind.table).chain(["part", "last"]) {
        if !left.iter().any(|kind| kind.table == table) {
            scene.server.exec(&format!("DROP TABLE {SCHEMA}.{table}"));
        }
    }
    if flavour == Flavour::MariaDb {
        let refused = both(&scene.tool.run(&["backup", "--lock", "lockless"]));
        assert!(refused.contains("has loaded ha_rocksdb.so:"), "{refused}");
        assert!(!refused.contains("table files are not"), "{refused}");
        scene.server.stop();
        let (datadir, work) = (scene.server.datadir.clone(), scene.lab.path("run"));
        scene.server = scene.how.start(&datadir, &work, "ha_archive.so");
    }
    let load = Load::start(&scene.server, &left);
    let before = load.now();
    let backup = scene.backup(&["--lock", "lockless"], &[0]);
    let last = load.stop();
    let verdict = drilled(&scene, &[0, 5]);
    assert_eq!(verdict["position"]["agrees"], true, "{verdict}");
    let restored = scene.restore(&backup, "lockless");
    assert_as_promised(&restored, "lockless", &before, &last);
    scene.prove_exact(&backup, &restored, &left);
}

#[test]
fn mariadb_tables_of_every_engine_are_what_the_level_promises() {
    levels(Flavour::MariaDb);
}

#[test]
fn mysql_tables_of_every_engine_are_what_the_level_promises() {
    levels(Flavour::MySql);
}
