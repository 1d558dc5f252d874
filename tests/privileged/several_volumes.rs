//! A server whose datadir, redo log and binary log lie on several volumes: taken at one instant behind a barrier, or refused.
//!
//! | storage | data on | logs on |
//! |---|---|---|
//! | `lvm`, `lvm-thin` | a logical volume | another one of the same group |
//! | `lvm-xfs` | a logical volume | one of another group |
//! | `zfs`, `btrfs` | a dataset, a subvolume | a logical volume |

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;

use crate::common::server::REDO;
use crate::common::{Flavour, Kind, Lab, Server, Storage, Tool, both, load, text};
use crate::setting::{ROWS, Scene};

/// Between the first snapshot and the others, in ms: long enough for background writes to matter.
const APART: u64 = 2500;

/// A slow machine takes its time for a whole command under the freeze; what is proved does not hang on it.
const PATIENT: &str = "lock: {hold_limit: 2m}\n";

/// What has not happened by then does not happen: far above what a slow machine takes, far below an hour.
const PATIENCE: Duration = Duration::from_secs(180);

/// Whether a failed proof shows a loss: rows that are missing, tables that differ, rows of the binary log that do not fit, or a server that refuses what its logs say.
fn is_loss(said: &str) -> bool {
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    has(&[
        "acknowledged before the backup",
        "differs from the live one",
        "the data is torn",
    ]) || has(&["replaying from"]) && has(&["Can't find record", "Duplicate entry"])
        || has(&["the server ended"]) && has(&["[ERROR] InnoDB", "[ERROR] [FATAL] InnoDB"])
}

struct Two {
    // Dropped in this order: the server before its filesystems.
    scene: Scene,
    logs: PathBuf,
    _second: Option<Storage>,
    _dir: tempfile::TempDir,
}

impl Two {
    fn new(extra: &str) -> Option<Two> {
        let device_mapper =
            || std::fs::read_to_string("/proc/devices").is_ok_and(|text| text.contains("device-mapper"));
        // The second volume is a logical one, which takes the lab's guest.
        if !device_mapper() {
            // On the host these tests are not meant to run; where LVM was asked for, they are.
            if matches!(Kind::chosen(), Kind::Lvm(_) | Kind::LvmThin) {
                crate::common::missing("device-mapper");
            }
            return None;
        }
        let lab = Lab::new()?;
        let dir = tempfile::Builder::new().prefix("snapback-test-").tempdir().unwrap();
        let second = match Kind::chosen() {
            Kind::Lvm("xfs") => Storage::of(Kind::Lvm("xfs"), dir.path(), 2 << 30),
            Kind::Zfs | Kind::Zvol | Kind::Btrfs => Storage::of(Kind::Lvm("ext4"), dir.path(), 2 << 30),
            _ => None,
        };
        let volume = lab.storage.volume("db");
        let logs = second.as_ref().unwrap_or(&lab.storage).volume("logs");
        let (redo, binlog) = (logs.join("redo"), logs.join("bin"));
        std::fs::create_dir(&redo).unwrap();
        std::fs::create_dir(&binlog).unwrap();
        let options = [
            (REDO, text(&redo)),
            ("log-bin", text(&binlog.join("log"))),
            ("innodb-log-file-size", "16M".to_owned()),
            ("innodb-io-capacity", "2000".to_owned()),
        ];
        let options: Vec<(&str, &str)> = options.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let server = Server::create(Flavour::MariaDb, &volume.join("data"), &lab.path("run"), &options);
        load::set_up(&server.socket, true, true, ROWS);
        let tool = Tool::new(lab.dir.path(), &server, extra);
        let scene = Scene {
            server,
            tool,
            lab,
            only_innodb: true,
        };
        Some(Two {
            scene,
            logs,
            _second: second,
            _dir: dir,
        })
    }

    /// A backup under load, with time between the snapshots.
    fn back_up(&self, strategy: &str, failpoints: &str) -> (serde_json::Value, Vec<[u64; 3]>) {
        let load = self.scene.start_load();
        // Pages are written and the log's end moves on all the time.
        self.scene.server.exec("SET GLOBAL innodb_max_dirty_pages_pct=0");
        let heavy = Heavy::start(&self.scene.server);
        let before = load.acknowledged();
        let failpoints = format!("barrier.anchor-fixed=sleep:{APART};{failpoints}");
        let mut tool = self
            .scene
            .tool
            .spawn(&failpoints, &["--json", "backup", "--lock", strategy]);
        let mut lines = BufReader::new(tool.stderr.take().unwrap()).lines().map(Result::unwrap);
        let mut said: Vec<String> = lines.by_ref().take_while(|line| line != "copy").collect();
        // What is written from here on is not in the backup, and all of it would be replayed.
        heavy.stop();
        load.stop();
        said.extend(lines);
        let output = tool.wait_with_output().unwrap();
        self.scene.server.exec("SET GLOBAL innodb_max_dirty_pages_pct=90");
        // 5: with warnings, of a filling snapshot for one.
        assert!(matches!(output.status.code(), Some(0 | 5)), "{}", said.join("\n"));
        (serde_json::from_slice(&output.stdout).unwrap(), before)
    }

    /// Restores a backup and starts a server on it, its logs where the restore put them.
    fn restore(&self, backup: &serde_json::Value, name: &str) -> Server {
        let datadir = self.scene.lab.path(name);
        let id = backup["id"].as_str().unwrap();
        self.scene.tool.json(&["restore", id, "--datadir", &text(&datadir)]);
        let moved = |inside: &str| {
            let external = self.scene.lab.path(&format!("{name}.external"));
            text(&external.join(self.logs.strip_prefix("/").unwrap()).join(inside))
        };
        let options = [(REDO, moved("redo")), ("log-bin", moved("bin/log"))];
        let options: Vec<(&str, &str)> = options.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let work = self.scene.lab.path(&format!("{name}-run"));
        Server::on(Flavour::MariaDb, &datadir, &work, &options)
    }

    /// How long it took until both filesystems and the server took writes; `None` when that did not happen within [`PATIENCE`]. Then they are thawed here, so that the
    /// test can end.
    fn takes_writes(&self) -> Option<Duration> {
        let tops = [
            self.scene.server.datadir.parent().unwrap().to_owned(),
            self.logs.clone(),
        ];
        let (mut conn, written) = (self.scene.server.connect(), tops.clone());
        let begun = Instant::now();
        let (done, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for top in written {
                std::fs::write(top.join("written"), "by a test").unwrap();
            }
            conn.query_drop("CREATE OR REPLACE TABLE ledger.written (n INT)")
                .unwrap();
            let _ = done.send(begun.elapsed());
        });
        let took = told.recv_timeout(PATIENCE).ok();
        if took.is_none() {
            for top in tops {
                let _ = Command::new("fsfreeze").arg("--unfreeze").arg(top).output();
            }
        }
        took
    }

    fn forget(&self, name: &str) {
        std::fs::remove_dir_all(self.scene.lab.path(name)).unwrap();
        std::fs::remove_dir_all(self.scene.lab.path(&format!("{name}.external"))).unwrap();
    }

    /// Whether the restored server starts, has every acknowledged row, and agrees with the live one after the binary log was replayed. A failure that does not
    /// come from the data is none of these: it fails the test.
    fn is_exact(&self, backup: &serde_json::Value, before: &[[u64; 3]], name: &str) -> bool {
        let proof = || {
            let restored = self.restore(backup, name);
            self.scene.prove_same(backup, before, restored);
        };
        let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(proof)) else {
            return true;
        };
        let said = panic.downcast_ref::<String>().cloned().unwrap_or_default();
        let said = format!("{said}{}", panic.downcast_ref::<&str>().unwrap_or(&""));
        assert!(is_loss(&said), "this shows no loss: {said}");
        eprintln!("seen: {}", said.lines().next().unwrap_or_default());
        false
    }
}

/// Every row of the wide table is changed again and again, so that the redo log goes round within seconds.
struct Heavy {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Heavy {
    fn start(server: &Server) -> Heavy {
        let stop = Arc::new(AtomicBool::new(false));
        let (asked, mut conn) = (Arc::clone(&stop), server.connect());
        let thread = std::thread::spawn(move || {
            let mut done = 0;
            while !asked.load(Ordering::SeqCst) {
                let part = done % 20;
                let changed = format!(
                    "UPDATE {}.bulk SET hits = hits + 1, pad = REVERSE(pad) WHERE id % 20 = {part}",
                    load::SCHEMA
                );
                conn.query_drop(changed).unwrap();
                done += 1;
                // All of it is replayed afterwards.
                std::thread::sleep(Duration::from_millis(300));
            }
            done
        });
        Heavy { stop, thread }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        assert!(self.thread.join().unwrap() > 0, "not one heavy UPDATE was done");
    }
}

fn rounds() -> usize {
    std::env::var("SNAPBACK_TEST_ROUNDS").map_or(2, |rounds| rounds.parse().unwrap())
}

#[test]
fn data_and_logs_on_two_volumes_agree_to_the_transaction() {
    let Some(two) = Two::new(PATIENT) else { return };
    let output = two.scene.tool.run(&["check"]);
    assert!(both(&output).contains("will be frozen"), "{}", both(&output));
    // Without a lock nothing but the barrier makes them agree: where there is one round only, that is the one.
    let strategies = match rounds() {
        1 => &["lockless"][..],
        _ => &["lockless", "backup-stage"][..],
    };
    for round in 0..rounds() {
        for strategy in strategies {
            let (backup, before) = two.back_up(strategy, "");
            eprintln!(
                "{:?} {strategy} round {round}: held {} us with {APART} ms between the snapshots",
                Kind::chosen(),
                backup["lock"]["held_us"]
            );
            let name = format!("restored-{strategy}-{round}");
            let restored = two.restore(&backup, &name);
            two.scene.prove_same(&backup, &before, restored);
            two.forget(&name);
            two.scene.assert_nothing_left();
        }
    }
    two.scene.assert_writable();
}

/// Level `clean`: the private server sees a clone of each volume at its place.
#[test]
fn a_clean_backup_of_two_volumes_needs_no_recovery_and_is_exact() {
    let Some(two) = Two::new(PATIENT) else { return };
    let load = two.scene.start_load();
    let before = load.acknowledged();
    let backup = two.scene.tool.json(&["backup", "--consistency", "clean"]);
    load.stop();
    two.scene.assert_nothing_left();
    let restored = two.restore(&backup, "clean");
    let log = std::fs::read_to_string(two.scene.lab.path("clean-run").join("log")).unwrap();
    assert!(!log.contains("crash recovery"), "{log}");
    two.scene.prove_same(&backup, &before, restored);
}

/// The exactness test can fail: without the freeze the same sequence loses rows, or the server does not even start.
#[test]
fn without_the_barrier_the_loss_is_seen() {
    let Some(two) = Two::new(PATIENT) else { return };
    for round in 0..3 {
        let (backup, before) = two.back_up("lockless", "barrier.unguarded=error");
        if !two.is_exact(&backup, &before, &format!("torn-{round}")) {
            return;
        }
    }
    panic!("three backups without a barrier were all exact: the proof proves nothing");
}

/// The tool stays where it is, with everything frozen: only the keepers can thaw, at the limit.
#[test]
fn a_freeze_that_lasts_too_long_gives_no_backup() {
    let Some(two) = Two::new("lock: {hold_limit: 10s}\n") else {
        return;
    };
    let load = two.scene.start_load();
    let gate = two.scene.lab.path("gate");
    let failpoint = format!("barrier.anchor-fixed=pause:{}", gate.display());
    let mut child = two.scene.tool.spawn(&failpoint, &["backup"]);
    let reached = two.scene.lab.path("gate.reached");
    while !reached.exists() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let thawed = two.takes_writes();
    std::fs::write(&gate, "").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(reached.exists(), "{}", both(&output));
    eprintln!("frozen at the limit of 10 s: writes went through after {thawed:?}");
    assert!(
        thawed.is_some(),
        "the limit has passed and nothing thawed: {}",
        both(&output)
    );
    load.stop();
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    // The lock was held for too long as well; that the volumes may disagree is what counts.
    assert!(both(&output).contains("cannot keep frozen"), "{}", both(&output));
    two.scene.assert_nothing_left();
    two.scene.assert_writable();
    assert_eq!(two.scene.backups(), 0);
}

#[test]
fn sigkill_while_frozen_thaws_at_once() {
    // The keepers' limit is that of the lock: not what thaws here.
    let Some(two) = Two::new("lock: {hold_limit: 1h}\n") else {
        return;
    };
    for point in ["barrier.frozen", "barrier.anchor-fixed"] {
        let load = two.scene.start_load();
        let output = two
            .scene
            .tool
            .spawn(&format!("{point}=kill"), &["backup"])
            .wait_with_output()
            .unwrap();
        assert_eq!(output.status.signal(), Some(9), "{}", both(&output));
        let thawed = two.takes_writes();
        eprintln!("killed at {point}: writes went through after {thawed:?}");
        assert!(thawed.is_some(), "nothing thaws after a death at {point}");
        load.stop();
        two.scene.assert_writable();
        two.scene.cleanup();
        two.scene.assert_nothing_left();
    }
    let there = two.scene.backups();
    two.scene.tool.json(&["backup"]);
    assert_eq!(two.scene.backups(), there + 1);
    let frozen = Command::new("fsfreeze")
        .arg("--unfreeze")
        .arg(&two.logs)
        .output()
        .unwrap();
    assert!(!frozen.status.success(), "the logs' filesystem was left frozen");
}
