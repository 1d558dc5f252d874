//! Figures for docs/benchmarks.md: the lock's hold beside the bare snapshot command, under load; the two ways of a replay. Not a test of anything: run it by name with `--ignored`.
#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use crate::common::server::mysql_prefix;
use crate::common::{Flavour, Kind, Storage, both, load, run, text};
use crate::setting::{ROWS, Scene, THREADS};

const ROUNDS: usize = 3;

fn bare(storage: &Storage) -> Duration {
    let group = storage.group();
    let begun = Instant::now();
    let (program, arguments): (&str, Vec<String>) = match storage.kind {
        Kind::Btrfs => (
            "btrfs",
            vec![
                "subvolume".into(),
                "snapshot".into(),
                "-r".into(),
                text(&storage.mount_point().join("db")),
                text(&storage.mount_point().join("bare")),
            ],
        ),
        Kind::Lvm(_) => (
            "lvcreate",
            vec![
                "-s".into(),
                "-y".into(),
                "-L".into(),
                "128M".into(),
                "-n".into(),
                "bare".into(),
                format!("{group}/db"),
            ],
        ),
        Kind::LvmThin => (
            "lvcreate",
            vec![
                "-s".into(),
                "-y".into(),
                "-n".into(),
                "bare".into(),
                format!("{group}/db"),
            ],
        ),
        Kind::Zfs | Kind::Zvol => ("zfs", vec!["snapshot".into(), format!("{group}/db@bare")]),
    };
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    run(program, &arguments);
    let took = begun.elapsed();
    match storage.kind {
        Kind::Zfs | Kind::Zvol => storage.destroy(&format!("{group}/db@bare")),
        _ => storage.destroy("bare"),
    }
    took
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort();
    all[all.len() / 2]
}

/// The ways to take the same snapshot, by what a failpoint leaves out.
const VARIANTS: [(&str, &str, &str); 6] = [
    ("backup-stage: brink, settle", "backup-stage", ""),
    ("ftwrl: brink, settle", "ftwrl", ""),
    // On ZFS only; elsewhere the same as the first.
    (
        "backup-stage: brink, settle by syncfs",
        "backup-stage",
        "zfs.syncfs=error",
    ),
    (
        "backup-stage: brink, no settle",
        "backup-stage",
        "backup.no-settle=error",
    ),
    (
        "backup-stage: no brink, settle",
        "backup-stage",
        "brink.unsupported=error",
    ),
    (
        "backup-stage: no brink, no settle",
        "backup-stage",
        "brink.unsupported=error;backup.no-settle=error",
    ),
];

#[test]
#[ignore = "a measurement"]
fn hold_beside_the_bare_command() {
    let Some(scene) = Scene::new(Flavour::MariaDb, &[], false, "") else {
        return;
    };
    let load = scene.start_load();
    let mut commands = Vec::new();
    let mut older = (Vec::new(), Vec::new());
    let mut ours = vec![(Vec::new(), Vec::new()); VARIANTS.len()];
    // Each takes half a minute under emulation: the less telling ones on one kind only.
    let told = |name: &str| match scene.lab.storage.kind {
        Kind::Lvm(_) => !name.contains("syncfs"),
        Kind::Zfs => !name.contains("ftwrl"),
        _ => !name.contains("syncfs") && !name.contains("ftwrl"),
    };
    for _ in 0..ROUNDS {
        std::thread::sleep(Duration::from_secs(1));
        commands.push(bare(&scene.lab.storage));
        if let Kind::Lvm(_) | Kind::LvmThin = scene.lab.storage.kind {
            std::thread::sleep(Duration::from_secs(1));
            load.take_slowest();
            older.0.push(mylvmbackup(&scene));
            older.1.push(load.take_slowest());
        }
        for ((name, strategy, failpoints), into) in VARIANTS.iter().zip(&mut ours) {
            if !told(name) {
                continue;
            }
            std::thread::sleep(Duration::from_secs(1));
            load.take_slowest();
            let output = scene
                .tool
                .spawn(failpoints, &["--json", "backup", "--lock", strategy])
                .wait_with_output()
                .unwrap();
            into.1.push(load.take_slowest());
            assert!(matches!(output.status.code(), Some(0 | 5)), "{}", both(&output));
            let backup: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            into.0
                .push(Duration::from_micros(backup["lock"]["held_us"].as_u64().unwrap()));
        }
    }
    let rate = load.commits_per_second();
    load.stop();
    let ms = |all: Vec<Duration>| format!("{:.0} ms", median(all).as_secs_f64() * 1000.0);
    println!(
        "{:?}: medians of {ROUNDS}, {rate:.0} commits per second; held, longest commit",
        scene.lab.storage.kind
    );
    println!("| the bare command's run time | {} | |", ms(commands));
    if !older.0.is_empty() {
        println!("| mylvmbackup | {} | {} |", ms(older.0), ms(older.1));
    }
    for ((name, ..), (held, longest)) in VARIANTS.iter().zip(ours).filter(|((name, ..), _)| told(name)) {
        println!("| {name} | {} | {} |", ms(held), ms(longest));
    }
}

/// How long the real mylvmbackup (Debian package) holds its lock: by the server's own general log, from the statement after FLUSH TABLES WITH READ LOCK to
/// UNLOCK TABLES.
fn mylvmbackup(scene: &Scene) -> Duration {
    use mysql::prelude::Queryable;
    let place = scene.lab.path("mylvmbackup");
    std::fs::create_dir_all(place.join("mnt")).unwrap();
    std::fs::create_dir_all(place.join("backup")).unwrap();
    let mut conn = scene.server.connect();
    conn.query_drop("SET GLOBAL log_output='TABLE'").unwrap();
    conn.query_drop("TRUNCATE mysql.general_log").unwrap();
    conn.query_drop("SET GLOBAL general_log=1").unwrap();
    let output = std::process::Command::new("mylvmbackup")
        .args([
            "--user=root",
            "--lvname=db",
            "--lvsize=128M",
            "--backuptype=none",
            "--relpath=data",
        ])
        .arg(format!("--socket={}", text(&scene.server.socket)))
        .arg(format!("--vgname={}", scene.lab.storage.group()))
        .arg(format!("--mountdir={}", text(&place.join("mnt"))))
        .arg(format!("--backupdir={}", text(&place.join("backup"))))
        .output()
        .unwrap();
    conn.query_drop("SET GLOBAL general_log=0").unwrap();
    let held: Option<u64> = conn
        .query_first(
            "SELECT CAST(TIMESTAMPDIFF(MICROSECOND, \
             (SELECT MIN(event_time) FROM mysql.general_log WHERE argument='SHOW MASTER STATUS'), \
             (SELECT MAX(event_time) FROM mysql.general_log WHERE argument='UNLOCK TABLES')) AS UNSIGNED)",
        )
        .unwrap()
        .unwrap();
    Duration::from_micros(held.unwrap_or_else(|| panic!("mylvmbackup took no lock: {}", both(&output))))
}

/// Transactions of the load that is replayed.
const REPLAYED: u64 = 50_000;

fn replay(flavour: Flavour) {
    // So that the load itself does not take long.
    let fast = [("innodb-flush-log-at-trx-commit", "0"), ("sync-binlog", "0")];
    let Some(scene) = Scene::new(flavour, &fast, true, "") else {
        return;
    };
    scene.tool.json(&["backup"]);
    let options = load::Options {
        threads: THREADS,
        mariadb: scene.mariadb(),
        only_innodb: true,
        rows: ROWS,
        pause: Duration::ZERO,
        log: None,
    };
    let load = load::Load::start(&scene.server.socket, &options);
    while load.commits() < REPLAYED {
        std::thread::sleep(Duration::from_millis(100));
    }
    let rate = load.commits_per_second();
    load.stop();
    scene.tool.json(&["binlog", "archive", "--once"]);
    let mysqld = text(&mysql_prefix().join("bin/mysqld97"));
    for round in 0..2 {
        for workers in ["1", "2", "4"] {
            let datadir = text(&scene.lab.path(&format!("of-{round}-{workers}")));
            let mut arguments = vec!["restore", "latest", "--datadir", &datadir, "--until", "end"];
            arguments.extend(["--replay-workers", workers]);
            if !scene.mariadb() {
                arguments.extend(["--mysqld", &mysqld]);
            }
            let report = &scene.tool.json(&arguments)["replay"];
            println!(
                "{flavour:?}: {} transactions of {rate:.0} a second, {} workers, {}: {:.1} s",
                report["changes"],
                report["workers"],
                report["applier"],
                report["seconds"].as_f64().unwrap()
            );
            std::fs::remove_dir_all(&datadir).unwrap();
        }
    }
}

#[test]
#[ignore = "a measurement"]
fn mariadb_replays() {
    replay(Flavour::MariaDb);
}

#[test]
#[ignore = "a measurement"]
fn mysql_replays() {
    replay(Flavour::MySql);
}
