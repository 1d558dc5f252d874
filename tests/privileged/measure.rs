//! Figures for docs/benchmarks.md: the lock's hold beside the bare snapshot command, under load. Not a test of anything: run it by name with `--ignored`.
#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use crate::common::{Flavour, Kind, Storage, run, text};
use crate::setting::Scene;

const ROUNDS: usize = 5;

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
        Kind::Zfs => ("zfs", vec!["snapshot".into(), format!("{group}/db@bare")]),
    };
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    run(program, &arguments);
    let took = begun.elapsed();
    match storage.kind {
        Kind::Zfs => storage.destroy(&format!("{group}/db@bare")),
        _ => storage.destroy("bare"),
    }
    took
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort();
    all[all.len() / 2]
}

#[test]
#[ignore = "a measurement"]
fn hold_beside_the_bare_command() {
    let Some(scene) = Scene::new(Flavour::MariaDb, &[], false, "") else {
        return;
    };
    let load = scene.start_load();
    let (mut commands, mut stages, mut ftwrls, mut longest) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        std::thread::sleep(Duration::from_secs(2));
        commands.push(bare(&scene.lab.storage));
        for (strategy, into) in [("backup-stage", &mut stages), ("ftwrl", &mut ftwrls)] {
            std::thread::sleep(Duration::from_secs(2));
            load.take_slowest();
            let backup = scene.tool.json(&["backup", "--lock", strategy]);
            longest.push(load.take_slowest());
            into.push(Duration::from_micros(backup["lock"]["held_us"].as_u64().unwrap()));
        }
    }
    let rate = load.commits_per_second();
    load.stop();
    println!(
        "{:?}: bare command {:?}, held with backup-stage {:?}, with ftwrl {:?}, longest commit of the load over a backup {:?} (medians of {ROUNDS}; {rate:.0} commits per second)",
        scene.lab.storage.kind,
        median(commands),
        median(stages),
        median(ftwrls),
        median(longest)
    );
}
