//! Exactness: a snapshot taken under each strategy is booted, made a replica of the live server at the recorded position, and must end
//! up with the same rows. A lost row is missing there for ever; a row too many is a duplicate key.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use snapback::database::{Database, Flavour, Position, Strategy};
use snapback::sys::btrfs::SnapshotCall;

use super::harness::{Load, Run, plan};
use super::server::TestServer;

/// A Btrfs of its own on a loop device.
struct Btrfs {
    dir: tempfile::TempDir,
    top: PathBuf,
}

fn run(program: &str, arguments: &[&OsStr]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

impl Btrfs {
    fn new() -> Btrfs {
        let dir = tempfile::Builder::new().prefix("snapback-btrfs-").tempdir().unwrap();
        let (image, top) = (dir.path().join("image"), dir.path().join("fs"));
        File::create(&image).unwrap().set_len(6 << 30).unwrap();
        std::fs::create_dir(&top).unwrap();
        run("mkfs.btrfs", &["-q".as_ref(), image.as_os_str()]);
        run(
            "mount",
            &["-o".as_ref(), "loop".as_ref(), image.as_os_str(), top.as_os_str()],
        );
        Btrfs { dir, top }
    }

    fn subvolume(&self, path: &Path) {
        run(
            "btrfs",
            &["-q".as_ref(), "subvolume".as_ref(), "create".as_ref(), path.as_os_str()],
        );
    }
}

impl Drop for Btrfs {
    fn drop(&mut self) {
        drop(Command::new("umount").arg(&self.top).status());
        let _ = &self.dir;
    }
}

fn start(btrfs: &Btrfs, flavour: Flavour, options: &[&str]) -> TestServer {
    let dir = tempfile::tempdir_in(&btrfs.top).unwrap();
    btrfs.subvolume(&dir.path().join("data"));
    TestServer::start_on(flavour, dir, options)
}

struct Loads(Vec<Load>);

impl Loads {
    fn start(server: &TestServer, tables: &[(&str, usize)]) -> Loads {
        Loads(
            tables
                .iter()
                .map(|(table, writers)| Load::start(server, table, *writers))
                .collect(),
        )
    }

    fn stop(self) {
        self.0.into_iter().for_each(Load::stop);
    }
}

fn status(server: &TestServer) -> (String, u64) {
    let statement = if server.flavour == Flavour::MariaDb {
        "SHOW MASTER STATUS"
    } else {
        "SHOW BINARY LOG STATUS"
    };
    let row: mysql::Row = server.client().query_first(statement).unwrap().unwrap();
    (row.get(0).unwrap(), row.get(1).unwrap())
}

/// Takes a snapshot under a strategy and boots a writable copy of it. Returns the copy's server and the recorded position.
fn backup(btrfs: &Btrfs, live: &TestServer, strategy: Strategy, options: &[&str]) -> (TestServer, Position, bool) {
    let mut database = live.connect();
    let mut plan = plan(strategy);
    plan.limits.attempts = 5;
    plan.limits.acquire_timeout = Duration::from_secs(2);
    let examination = database.examine(&plan).unwrap();
    let blockers = examination
        .findings
        .iter()
        .filter(|f| f.severity == snapback::finding::Severity::Blocker);
    assert_eq!(blockers.count(), 0, "{:?}", examination.findings);
    let dir = tempfile::tempdir_in(&btrfs.top).unwrap();
    let open = |path: &Path| OwnedFd::from(File::open(path).unwrap());
    let mut call = SnapshotCall::prepare(open(&live.datadir()), open(dir.path()), OsStr::new("snapshot")).unwrap();
    let run_ = Run::new();
    let held = run_
        .quiesce_with(&mut database, &plan, &mut |_| {
            run("sync", &["-f".as_ref(), btrfs.top.as_os_str()]);
            Ok(())
        })
        .unwrap();
    let noted = held.coordinates().position.clone();
    call.fix().unwrap();
    let released = held.release().unwrap();
    call.finish().unwrap();
    println!(
        "  {strategy:?}: held {} us, exact {}",
        released.figures.held_us, released.exact
    );
    let (snapshot, data) = (dir.path().join("snapshot"), dir.path().join("data"));
    let position = noted.unwrap_or_else(|| {
        database
            .derive_position(&snapshot.join("bin.index"), &snapshot)
            .unwrap()
    });
    run(
        "btrfs",
        &[
            "-q".as_ref(),
            "subvolume".as_ref(),
            "snapshot".as_ref(),
            snapshot.as_os_str(),
            data.as_os_str(),
        ],
    );
    drop(std::fs::remove_file(data.join("auto.cnf")));
    (
        TestServer::start_in(live.flavour, dir, options),
        position,
        released.exact,
    )
}

/// Lets the copy follow the live server from the position and compares all tables.
fn catch_up(live: &TestServer, copy: &TestServer, position: &Position, tables: &[(&str, usize)]) -> Result<(), String> {
    let (port, file, offset) = (live.port, &position.file, position.position);
    let (follow, state) = match live.flavour {
        Flavour::MariaDb => (
            format!(
                "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, MASTER_USER='repl', MASTER_PASSWORD='r', \
                 MASTER_LOG_FILE='{file}', MASTER_LOG_POS={offset}, MASTER_USE_GTID=no; START SLAVE"
            ),
            "SHOW SLAVE STATUS",
        ),
        Flavour::MySql => (
            format!(
                "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={port}, SOURCE_USER='repl', SOURCE_PASSWORD='r', \
                 SOURCE_LOG_FILE='{file}', SOURCE_LOG_POS={offset}, GET_SOURCE_PUBLIC_KEY=1; START REPLICA"
            ),
            "SHOW REPLICA STATUS",
        ),
    };
    copy.sql(&follow);
    let goal = status(live);
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let row: mysql::Row = copy.client().query_first(state).unwrap().unwrap();
        let text = |name: &str| row.get::<Option<String>, _>(name).flatten().unwrap_or_default();
        let either = |one: &str, two: &str| {
            if row.columns_ref().iter().any(|c| c.name_str() == one) {
                text(one)
            } else {
                text(two)
            }
        };
        let at = (
            either("Relay_Source_Log_File", "Relay_Master_Log_File"),
            either("Exec_Source_Log_Pos", "Exec_Master_Log_Pos"),
        );
        if at.0 == goal.0 && at.1.parse() == Ok(goal.1) {
            break;
        }
        let error = text("Last_SQL_Error") + &text("Last_IO_Error");
        if !error.is_empty() {
            return Err(error);
        }
        assert!(
            Instant::now() < deadline,
            "the copy does not catch up: {at:?} of {goal:?}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    for (table, _) in tables {
        let sums = |server: &TestServer| -> (String, u64, u64) {
            let (name, sum): (String, u64) = server
                .client()
                .query_first(format!("CHECKSUM TABLE {table}"))
                .unwrap()
                .unwrap();
            (
                name,
                sum,
                server.value(&format!("SELECT COUNT(*) FROM {table}")).parse().unwrap(),
            )
        };
        if sums(live) != sums(copy) {
            return Err(format!("{table}: {:?} here, {:?} there", sums(live), sums(copy)));
        }
    }
    Ok(())
}

fn rounds() -> usize {
    std::env::var("SNAPBACK_TEST_ROUNDS")
        .ok()
        .and_then(|rounds| rounds.parse().ok())
        .unwrap_or(1)
}

fn judge(flavour: Flavour, trx_commit: u8, sync_binlog: u8, strategies: &[Strategy], all_engines: bool) {
    let btrfs = Btrfs::new();
    let (one, two) = (
        format!("--innodb-flush-log-at-trx-commit={trx_commit}"),
        format!("--sync-binlog={sync_binlog}"),
    );
    let options = [one.as_str(), two.as_str()];
    let live = start(&btrfs, flavour, &options);
    live.sql("CREATE USER repl@'%' IDENTIFIED BY 'r'; GRANT REPLICATION SLAVE ON *.* TO repl@'%'; CREATE DATABASE t");
    live.sql("CREATE TABLE t.w (a INT PRIMARY KEY AUTO_INCREMENT, b INT) ENGINE=InnoDB");
    let mut tables = vec![("t.w", 6)];
    if all_engines {
        live.sql("CREATE TABLE t.m (a INT PRIMARY KEY AUTO_INCREMENT, b INT) ENGINE=MyISAM");
        tables.push(("t.m", 1));
        if flavour == Flavour::MariaDb {
            live.sql("CREATE TABLE t.a (a INT PRIMARY KEY AUTO_INCREMENT, b INT) ENGINE=Aria");
            live.sql("CREATE TABLE t.n (a INT PRIMARY KEY AUTO_INCREMENT, b INT) ENGINE=Aria TRANSACTIONAL=0");
            tables.extend([("t.a", 1), ("t.n", 1)]);
        }
    }
    for strategy in strategies {
        for round in 0..rounds() {
            println!("{flavour:?} {strategy:?} trx_commit={trx_commit} sync_binlog={sync_binlog} round {round}");
            let load = Loads::start(&live, &tables);
            std::thread::sleep(Duration::from_millis(700));
            let (copy, position, exact) = backup(&btrfs, &live, *strategy, &options);
            load.stop();
            assert!(exact);
            if let Err(error) = catch_up(&live, &copy, &position, &tables) {
                panic!(
                    "{flavour:?} {strategy:?} trx_commit={trx_commit}: the position {position:?} is not exact: {error}"
                );
            }
        }
    }
}

#[test]
fn mariadb_locks() {
    for (trx_commit, sync_binlog) in [(1, 1), (2, 0), (0, 0)] {
        judge(
            Flavour::MariaDb,
            trx_commit,
            sync_binlog,
            &[Strategy::BackupStage, Strategy::Ftwrl],
            true,
        );
    }
}

#[test]
fn mysql_locks() {
    for (trx_commit, sync_binlog) in [(1, 1), (2, 0), (0, 0)] {
        judge(
            Flavour::MySql,
            trx_commit,
            sync_binlog,
            &[Strategy::Instance, Strategy::Ftwrl],
            true,
        );
    }
}

#[test]
fn lockless() {
    judge(Flavour::MariaDb, 1, 1, &[Strategy::Lockless], false);
    judge(Flavour::MySql, 1, 1, &[Strategy::Lockless], false);
}
