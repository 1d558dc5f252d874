//! A copy of a server's data beside the server itself: it opens nothing of the original, and the printed command starts it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mysql::prelude::{FromValue, Queryable};
use serde_json::Value;

use crate::common::server::{REDO, SYSTEM, mysql_prefix, signal};
use crate::common::{Flavour, Lab, Server, Tool, both, load, run, text};
use crate::setting::Scene;

/// A server that was started with the command that a restore printed.
struct Printed {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Printed {
    fn start(report: &Value, flavour: Flavour, copy: &Path, log: &Path) -> Printed {
        let steps = report["next_steps"].as_array().unwrap();
        let step = steps
            .iter()
            .filter_map(Value::as_str)
            .find(|step| step.contains("--no-defaults"));
        let step = step.unwrap_or_else(|| panic!("no command to start a server: {steps:?}"));
        let (_, command) = step.split_once('\n').unwrap();
        let command = match flavour {
            Flavour::MariaDb => command.trim().to_owned(),
            Flavour::MySql => command.trim().replacen(
                "mysqld ",
                &format!("{} ", text(&mysql_prefix().join("bin/mysqld97"))),
                1,
            ),
        };
        eprintln!("{step}");
        let to = std::fs::File::create(log).unwrap();
        let child = Command::new("sh")
            .arg("-c")
            .arg(format!("exec setpriv --pdeathsig KILL {command}"))
            .stdin(Stdio::null())
            .stdout(to.try_clone().unwrap())
            .stderr(to)
            .spawn()
            .unwrap();
        let mut server = Printed {
            child,
            socket: copy.join("mysqld.sock"),
            log: log.to_owned(),
        };
        let begun = Instant::now();
        while server.connect().is_err() {
            let ended = server.child.try_wait().unwrap();
            let late = begun.elapsed() > Duration::from_secs(120);
            assert!(ended.is_none() && !late, "{ended:?}\n{}", server.said());
            std::thread::sleep(Duration::from_millis(100));
        }
        server
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    fn connect(&self) -> mysql::Result<mysql::Conn> {
        let opts = mysql::OptsBuilder::new()
            .socket(Some(text(&self.socket)))
            .user(Some("root"));
        mysql::Conn::new(opts)
    }

    fn one<T: FromValue>(&self, sql: &str) -> T {
        let row = self.connect().unwrap().query_first(sql);
        row.unwrap_or_else(|error| panic!("{sql}: {error}\n{}", self.said()))
            .unwrap()
    }

    /// Which of these files it has open. By what they are: mounts give them other names.
    fn open_of(&self, files: &[PathBuf]) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        let open: Vec<_> = entries.flatten().filter_map(|entry| identity(&entry.path())).collect();
        let is_open = |path: &&PathBuf| identity(path).is_some_and(|file| open.contains(&file));
        files.iter().filter(is_open).cloned().collect()
    }

    /// One column of the replica's status.
    fn replica(&self, flavour: Flavour, column: &str) -> Option<String> {
        replica(&mut self.connect().unwrap(), flavour, column)
    }

    fn stop(&mut self) {
        signal(self.child.id(), rustix::process::Signal::TERM);
        self.child.wait().unwrap();
    }
}

impl Drop for Printed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

fn replica(conn: &mut mysql::Conn, flavour: Flavour, column: &str) -> Option<String> {
    let statement = match flavour {
        Flavour::MariaDb => "SHOW SLAVE STATUS",
        Flavour::MySql => "SHOW REPLICA STATUS",
    };
    conn.query_first::<mysql::Row, _>(statement).unwrap()?.get(column)
}

fn walk(top: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(top).unwrap().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(walk(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

/// Tables of every kind that lies outside the datadir.
fn spread(server: &Server, top: &Path) -> Vec<&'static str> {
    let at = |name: &str| text(&top.join(name));
    server.exec("CREATE DATABASE far");
    match server.flavour {
        Flavour::MariaDb => {
            server.exec(&format!(
                "CREATE TABLE far.inno (a INT) ENGINE=InnoDB DATA DIRECTORY='{}'",
                at("ext")
            ));
            server.exec(&format!(
                "CREATE TABLE far.isam (a INT) ENGINE=MyISAM DATA DIRECTORY='{}'",
                at("isam")
            ));
            // A database directory that is a link.
            run("mkdir", &[&at("moved")]);
            std::os::unix::fs::symlink(top.join("moved"), server.datadir.join("moved")).unwrap();
            server.exec("CREATE TABLE moved.t (a INT) ENGINE=InnoDB");
            vec!["far.inno", "far.isam", "moved.t"]
        }
        Flavour::MySql => {
            server.exec(&format!("CREATE TABLE far.inno (a INT) DATA DIRECTORY='{}'", at("ext")));
            server.exec(&format!(
                "CREATE TABLESPACE general ADD DATAFILE '{}/general.ibd'",
                at("isam")
            ));
            server.exec("CREATE TABLE far.general (a INT) TABLESPACE general");
            server.exec(&format!(
                "CREATE UNDO TABLESPACE more ADD DATAFILE '{}/more.ibu'",
                at("ext")
            ));
            vec!["far.inno", "far.general"]
        }
    }
}

#[test]
fn a_copy_beside_its_running_origin_starts_by_the_printed_command_and_opens_nothing_of_it() {
    for flavour in [Flavour::MariaDb, Flavour::MySql] {
        let Some(lab) = Lab::new() else { return };
        if !flavour.available() {
            return;
        }
        let top = lab.storage.volume("db");
        for name in ["logs", "redo", "ext", "isam"] {
            std::fs::create_dir(top.join(name)).unwrap();
        }
        // The server names everything through a link, as where /var/lib/mysql leads to another disk.
        let link = lab.path("link");
        std::os::unix::fs::symlink(&top, &link).unwrap();
        let (log, redo) = (text(&link.join("logs/binlog")), text(&link.join("redo")));
        let known = format!("{};{}", text(&top.join("ext")), text(&top.join("isam")));
        let mut options = vec![("log-bin", log.as_str()), (REDO, redo.as_str())];
        if flavour == Flavour::MySql {
            options.push(("innodb-directories", &known));
        }
        let server = Server::create(flavour, &link.join("data"), &lab.path("run"), &options);
        load::set_up(&server.socket, flavour == Flavour::MariaDb, false, 100);
        let tables = spread(&server, &top);
        for table in &tables {
            server.exec(&format!("INSERT INTO {table} VALUES (1), (2)"));
        }
        let tool = Tool::new(lab.dir.path(), &server, "");
        tool.json(&["backup"]);
        for table in &tables {
            server.exec(&format!("INSERT INTO {table} VALUES (3)"));
        }
        let logs_before = server.binary_logs();

        let copy = lab.path("my.copy");
        let report = tool.json(&["restore", "latest", "--datadir", &text(&copy)]);
        assert_eq!(report["warnings"], serde_json::json!([]), "{report}");
        let mut printed = Printed::start(&report, flavour, &copy, &lab.path("printed.log"));
        for table in &tables {
            assert_eq!(
                printed.one::<u64>(&format!("SELECT COUNT(*) FROM {table}")),
                2,
                "{table}"
            );
            printed
                .connect()
                .unwrap()
                .query_drop(format!("INSERT INTO {table} VALUES (9)"))
                .unwrap();
        }
        let index: String = printed.one("SELECT @@log_bin_index");
        assert!(index.starts_with(&text(&lab.path("my.copy.external"))), "{index}");
        let lines = std::fs::read_to_string(&index).unwrap();
        assert!(
            lines.lines().count() > 1,
            "the old binary log was not found again: {lines}"
        );
        assert!(
            lines
                .lines()
                .all(|line| Path::new(line).starts_with(lab.path("my.copy.external"))),
            "{lines}"
        );
        let live = walk(&top);
        assert!(live.len() > 20, "{live:?}");
        let open = printed.open_of(&live);
        assert_eq!(open, Vec::<PathBuf>::new(), "the copy has files of the original open");
        printed
            .connect()
            .unwrap()
            .query_drop("PURGE BINARY LOGS BEFORE NOW()")
            .unwrap();
        printed.stop();
        for table in &tables {
            assert_eq!(
                server.one::<u64>(&format!("SELECT COUNT(*) FROM {table}")),
                3,
                "{table}"
            );
            assert_eq!(
                server.one::<u64>(&format!("SELECT COUNT(*) FROM {table} WHERE a = 9")),
                0,
                "{table}"
            );
        }
        assert!(
            logs_before.iter().all(|log| log.exists()),
            "the copy purged the original's logs"
        );
    }
}

#[test]
fn a_system_tablespace_outside_the_datadir_comes_along_and_the_copy_has_its_own() {
    for flavour in [Flavour::MariaDb, Flavour::MySql] {
        let Some(lab) = Lab::new() else { return };
        if !flavour.available() {
            return;
        }
        let top = lab.storage.volume("db");
        let system = top.join("system");
        std::fs::create_dir(&system).unwrap();
        let options = [(SYSTEM, text(&system))];
        let options: Vec<(&str, &str)> = options.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let server = Server::create(flavour, &top.join("data"), &lab.path("run"), &options);
        assert!(
            system.join("ibdata1").exists(),
            "the system tablespace is not where it was asked for"
        );
        assert!(!server.datadir.join("ibdata1").exists());
        load::set_up(&server.socket, flavour == Flavour::MariaDb, false, 100);
        server.exec("CREATE DATABASE far");
        server.exec("CREATE TABLE far.t (a INT PRIMARY KEY) ENGINE=InnoDB");
        server.exec("INSERT INTO far.t VALUES (1), (2)");
        let tool = Tool::new(lab.dir.path(), &server, "");
        tool.json(&["backup"]);
        server.exec("INSERT INTO far.t VALUES (3)");

        let copy = lab.path("copy");
        let report = tool.json(&["restore", "latest", "--datadir", &text(&copy)]);
        let mut printed = Printed::start(&report, flavour, &copy, &lab.path("printed.log"));
        assert_eq!(printed.one::<u64>("SELECT COUNT(*) FROM far.t"), 2);
        assert_eq!(printed.open_of(&walk(&top)), Vec::<PathBuf>::new());
        printed
            .connect()
            .unwrap()
            .query_drop("INSERT INTO far.t VALUES (9)")
            .unwrap();
        printed.stop();
        assert_eq!(server.one::<u64>("SELECT COUNT(*) FROM far.t WHERE a = 9"), 0);
    }
}

#[test]
fn a_part_of_a_database_is_not_restored_in_place_and_a_running_server_is_seen_from_any_part() {
    let Some(mut scene) = Scene::new(Flavour::MariaDb, &[], true, "") else {
        return;
    };
    scene.tool.json(&["backup"]);
    let (datadir, part) = (text(&scene.server.datadir), text(&scene.server.datadir.join("ledger")));
    let refused = |include: &str, status: i32, word: &str| {
        let args = ["restore", "latest", "--in-place", "--force", "--include", include];
        let output = scene.tool.run(&args);
        let said = both(&output);
        assert_eq!(output.status.code(), Some(status), "{include}: {said}");
        assert!(said.contains(word), "{include}: {said}");
    };
    refused(&datadir, 1, "running");
    refused(&part, 2, "--target");
    scene.server.exec("DROP TABLE ledger.bulk");
    scene.server.stop();
    let output = scene
        .tool
        .run(&["restore", "latest", "--in-place", "--force", "--include", &part]);
    assert_eq!(output.status.code(), Some(2), "{}", both(&output));
    // All of it is no part.
    scene
        .tool
        .json(&["restore", "latest", "--in-place", "--force", "--include", &datadir]);
    scene.server.start();
    assert_eq!(
        scene.server.one::<u64>("SELECT COUNT(*) FROM ledger.bulk"),
        crate::setting::ROWS
    );
}

#[test]
fn a_restored_replica_does_not_replicate_by_itself() {
    for flavour in [Flavour::MariaDb, Flavour::MySql] {
        let options: &[(&str, &str)] = match flavour {
            Flavour::MariaDb => &[],
            Flavour::MySql => &[("gtid-mode", "ON"), ("enforce-gtid-consistency", "ON")],
        };
        let Some(scene) = Scene::new(flavour, options, true, "") else {
            return;
        };
        // Its source is not there: it keeps on asking for it.
        scene.server.exec(match flavour {
            Flavour::MariaDb => {
                "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT=1, MASTER_USER='r', MASTER_PASSWORD='r', MASTER_USE_GTID=slave_pos"
            }
            Flavour::MySql => {
                "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT=1, SOURCE_USER='r', SOURCE_PASSWORD='r', SOURCE_AUTO_POSITION=1"
            }
        });
        let (start, applier, by_gtid) = match flavour {
            Flavour::MariaDb => ("START SLAVE", "Slave_SQL_Running", "Using_Gtid"),
            Flavour::MySql => ("START REPLICA", "Replica_SQL_Running", "Auto_Position"),
        };
        scene.server.exec(start);
        let begun = Instant::now();
        while replica(&mut scene.server.connect(), flavour, applier).as_deref() != Some("Yes") {
            assert!(begun.elapsed() < Duration::from_secs(240), "{}", scene.server.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        scene.tool.json(&["backup"]);
        let copy = scene.lab.path("copy");
        let report = scene.tool.json(&["restore", "latest", "--datadir", &text(&copy)]);
        let printed = Printed::start(&report, flavour, &copy, &scene.lab.path("printed.log"));
        assert_eq!(printed.replica(flavour, applier).as_deref(), Some("No"), "{flavour:?}");
        // The statements that are printed are taken.
        let steps = report["next_steps"].as_array().unwrap();
        let again = steps
            .iter()
            .filter_map(Value::as_str)
            .find(|step| step.contains("it was a replica"));
        let (_, statements) = again.unwrap().split_once('\n').unwrap();
        let mut conn = printed.connect().unwrap();
        for statement in statements
            .split(';')
            .map(str::trim)
            .filter(|statement| !statement.is_empty())
        {
            conn.query_drop(statement)
                .unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
        let by_gtid = printed.replica(flavour, by_gtid);
        assert!(
            matches!(by_gtid.as_deref(), Some("Slave_Pos" | "1")),
            "{flavour:?}: {by_gtid:?}"
        );
    }
}

/// A filesystem in memory, gone with the test.
struct Memory(PathBuf);

impl Memory {
    fn mount(at: &Path, size: &str) -> Memory {
        run(
            "mount",
            &["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs", &text(at)],
        );
        Memory(at.to_owned())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).output();
    }
}

#[test]
fn trees_on_several_filesystems_have_room_each_and_appear_together() {
    if !rustix::process::geteuid().is_root() {
        crate::common::missing("root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (small, large) = (dir.path().join("a"), dir.path().join("b"));
    for tree in [&small, &large] {
        std::fs::create_dir(tree).unwrap();
        std::fs::write(tree.join("own"), "old").unwrap();
    }
    let content: Vec<u8> = (0..3_000_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    std::fs::write(large.join("content"), &content).unwrap();
    let tool = Tool::bare(dir.path(), "server: none\n");
    tool.ok(&["init"]);
    tool.json(&["backup", "--files", &text(&small), "--files", &text(&large)]);
    std::fs::remove_dir_all(&large).unwrap();
    std::fs::create_dir(&large).unwrap();
    std::fs::write(small.join("own"), "newer").unwrap();
    let restore = ["restore", "latest", "--in-place", "--force"];

    let mounted = Memory::mount(&large, "1m");
    let said = both(&tool.run(&restore));
    assert!(
        said.contains(&format!("{} has", text(&large))) && said.contains("make room"),
        "{said}"
    );
    drop(mounted);

    // The mount is filled, entry by entry: two go aside, two appear, after the two renames of the other tree.
    let mounted = Memory::mount(&large, "20m");
    for name in ["own", "content"] {
        std::fs::write(large.join(name), "newer").unwrap();
    }
    for at in 3..=6 {
        let said = both(&tool.with_failpoint(&format!("restore.rename=error@{at}"), &restore));
        assert!(said.contains("nothing has changed"), "rename {at}: {said}");
        for file in [small.join("own"), large.join("own"), large.join("content")] {
            assert_eq!(
                std::fs::read(&file).unwrap(),
                b"newer",
                "rename {at}: {}",
                file.display()
            );
        }
    }
    tool.json(&restore);
    assert_eq!(std::fs::read(large.join("content")).unwrap(), content);
    assert_eq!(std::fs::read(small.join("own")).unwrap(), b"old");
    drop(mounted);
}
