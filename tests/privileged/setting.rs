//! The scene of most tests: a server on a Btrfs subvolume, a load, a configured tool.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::common::server::mysql_prefix;
use crate::common::{Flavour, Kind, Lab, Load, Server, Tool, load, run, text, wait_for_file};

pub struct Scene {
    // Dropped in this order: the server before its filesystem.
    pub server: Server,
    pub tool: Tool,
    pub lab: Lab,
    pub only_innodb: bool,
}

/// The tests' servers run as root, and so do private ones on restored data that stay.
pub const AS_ROOT: &str = "scratch: {user: root}\n";
pub const ROWS: u64 = 10_000;
pub const THREADS: usize = 8;

impl Scene {
    /// `None` when a facility is missing and skipping is allowed.
    pub fn new(flavour: Flavour, options: &[(&str, &str)], only_innodb: bool, extra: &str) -> Option<Scene> {
        if !flavour.available() {
            return None;
        }
        let lab = Lab::new()?;
        let volume = lab.storage.volume("db");
        let server = Server::create(flavour, &volume.join("data"), &lab.path("run"), options);
        load::set_up(&server.socket, flavour == Flavour::MariaDb, only_innodb, ROWS);
        let tool = Tool::new(lab.dir.path(), &server, extra);
        Some(Scene {
            server,
            tool,
            lab,
            only_innodb,
        })
    }

    /// With scratch space that every user can come to, as /var/tmp.
    pub fn with_scratch(flavour: Flavour) -> Option<(Scene, PathBuf)> {
        Scene::with_scratch_and(flavour, false)
    }

    /// The same; `only_innodb`: without tables that forbid to go without a lock.
    pub fn with_scratch_and(flavour: Flavour, only_innodb: bool) -> Option<(Scene, PathBuf)> {
        use std::os::unix::fs::PermissionsExt;
        let program = match flavour {
            Flavour::MariaDb => String::new(),
            // The running program is the loader; its wrapper has to be named, and has the tools' wrappers beside it.
            Flavour::MySql => format!("  mysqld: {}\n", text(&mysql_prefix().join("bin/mysqld97"))),
        };
        let scene = Scene::new(flavour, &[], only_innodb, "")?;
        let scratch = scene.lab.path("scratch");
        std::fs::create_dir(&scratch).unwrap();
        for directory in [&scratch, scene.lab.dir.path()] {
            std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let yaml = std::fs::read_to_string(&scene.tool.config).unwrap();
        let yaml = format!("{yaml}scratch:\n  dir: {}\n{program}", text(&scratch));
        std::fs::write(&scene.tool.config, yaml).unwrap();
        Some((scene, scratch))
    }

    pub fn mariadb(&self) -> bool {
        self.server.flavour == Flavour::MariaDb
    }

    pub fn start_load(&self) -> Load {
        let options = load::Options {
            threads: THREADS,
            mariadb: self.mariadb(),
            only_innodb: self.only_innodb,
            rows: ROWS,
            pause: Duration::from_millis(2),
            log: None,
        };
        let load = Load::start(&self.server.socket, &options);
        let begun = std::time::Instant::now();
        while load.commits() < 200 {
            assert!(
                begun.elapsed() < Duration::from_secs(240),
                "the load makes no progress: {} commits",
                load.commits()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        load
    }

    /// Restores a backup to a fresh directory and starts a server there.
    pub fn restore(&self, id: &str, name: &str) -> Server {
        let datadir = self.lab.path(name);
        self.tool.json(&["restore", id, "--datadir", &text(&datadir)]);
        // The copy keeps the binary log of its source: the same server with another socket and port.
        Server::on(
            self.server.flavour,
            &datadir,
            &self.lab.path(&format!("{name}-run")),
            &[],
        )
    }

    /// Shows that a backup is exact: every row acknowledged before it is there, no gaps, and the live binary log replayed from the recorded
    /// position gives what the live server has now. The load is at rest.
    pub fn prove_exact(&self, backup: &Value, before: &[[u64; 3]], name: &str) {
        let restored = self.restore(backup["id"].as_str().unwrap(), name);
        self.prove_same(backup, before, restored);
        std::fs::remove_dir_all(self.lab.path(name)).unwrap();
    }

    /// As [`prove_exact`](Scene::prove_exact), for a server that runs on the restored data already.
    pub fn prove_same(&self, backup: &Value, before: &[[u64; 3]], restored: Server) {
        let there = load::proven(&restored.socket, self.mariadb(), self.only_innodb, THREADS);
        for (thread, (there, before)) in there.iter().zip(before).enumerate() {
            for engine in 0..3 {
                assert!(
                    there[engine] >= before[engine],
                    "thread {thread}, engine {engine}: {} acknowledged before the backup, {} restored",
                    before[engine],
                    there[engine]
                );
            }
        }
        let file = backup["position"]["file"].as_str().unwrap();
        let position = backup["position"]["position"].as_u64().unwrap();
        restored.replay(&self.server.binary_logs(), file, position);
        assert_same(&self.server.checksums(load::SCHEMA), &restored.checksums(load::SCHEMA));
    }

    /// `snapback cleanup`, again while a command that a dead run started is still at work.
    pub fn cleanup(&self) {
        let begun = std::time::Instant::now();
        loop {
            let report = self.tool.json(&["cleanup"]);
            let alive = report["runs"]
                .as_array()
                .unwrap()
                .iter()
                .any(|run| run["alive"] == true);
            if !alive {
                return;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "a dead run stays alive: {report}"
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// The clone of the datadir (of a thick logical volume: its snapshot, writable), once a run stands at a failpoint.
    pub fn clone_of(&self, gate: &Path) -> PathBuf {
        wait_for_file(&gate.with_extension("reached"));
        if self.lab.storage.kind != Kind::Btrfs {
            let top = private_mounts().into_iter().find(|(_, writable)| *writable);
            return top.expect("a writable mount of ours").0.join("data");
        }
        let names = self.lab.storage.snapshots();
        let clone = names
            .iter()
            .find(|name| name.rsplit('-').next().unwrap().starts_with('0'));
        let clone = clone.unwrap_or_else(|| panic!("no clone among {names:?}"));
        self.lab.storage.mount_point().join(clone).join("data")
    }

    /// Nothing of ours is on the host: no snapshot, no journal.
    pub fn assert_nothing_left(&self) {
        assert_eq!(self.lab.storage.snapshots(), Vec::<String>::new(), "snapshots are left");
        // On Btrfs nothing is mounted, and others may be at work on this machine.
        if self.lab.storage.kind != Kind::Btrfs {
            assert_eq!(private_mounts(), [], "mounts are left");
        }
        let journals: Vec<PathBuf> = std::fs::read_dir(self.tool.state.join("runs")).map_or(Vec::new(), |entries| {
            entries.flatten().map(|entry| entry.path()).collect()
        });
        assert_eq!(journals, Vec::<PathBuf>::new(), "journals are left");
    }

    /// The server takes writes at once: nobody holds a lock.
    pub fn assert_writable(&self) {
        let mut conn = self.server.connect();
        use mysql::prelude::Queryable;
        conn.query_drop("SET SESSION lock_wait_timeout=3").unwrap();
        conn.query_drop(format!(
            "CREATE TABLE IF NOT EXISTS {}.free (n INT) ENGINE=InnoDB",
            load::SCHEMA
        ))
        .unwrap();
        conn.query_drop(format!("INSERT INTO {}.free VALUES (1)", load::SCHEMA))
            .unwrap();
    }

    /// Overwrites a file on the database's volume, so that what it was before is in snapshots alone. Nothing of it can be compressed, and its extents
    /// are small: Btrfs keeps one whole as long as anything refers to a part of it.
    pub fn write_ballast(&self, bytes: u64, seed: u64) {
        let path = self.lab.storage.mount_point().join("db/ballast");
        let mut options = File::options();
        let file = options.create(true).truncate(false).write(true).open(path).unwrap();
        let mut state = seed | 1;
        let mut block = vec![0; 1 << 20];
        for word in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_ne_bytes());
        }
        for at in 0..bytes >> 20 {
            file.write_all_at(&block, at << 20).unwrap();
            if at % 8 == 7 {
                file.sync_data().unwrap();
            }
        }
        run("sync", &["-f", &text(self.lab.storage.mount_point())]);
    }

    pub fn backups(&self) -> usize {
        self.tool.json(&["list"]).as_array().unwrap().len()
    }
}

/// The run's own mounts, and whether they are writable.
fn private_mounts() -> Vec<(PathBuf, bool)> {
    let table = std::fs::read_to_string("/proc/mounts").unwrap();
    let mount = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        let at = PathBuf::from(fields.next()?);
        let writable = fields.nth(1)?.split(',').any(|option| option == "rw");
        at.starts_with("/run/snapback").then_some((at, writable))
    };
    table.lines().filter_map(mount).collect()
}

pub fn assert_same(live: &BTreeMap<String, Option<u64>>, restored: &BTreeMap<String, Option<u64>>) {
    assert_eq!(
        live, restored,
        "the restored server with the binary log replayed differs from the live one"
    );
}

pub fn exists(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}
