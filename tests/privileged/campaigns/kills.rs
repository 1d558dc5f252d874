//! SIGKILL and SIGTERM at random moments around the lock, under load: the server is free, nothing is left, a backup that is listed is whole.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::Random;
use crate::common::load::Probe;
use crate::common::{Flavour, both, rounds, server};
use crate::setting::Scene;

/// The longest that a commit may wait beside a tool that is killed: the lock's own limits (acquire and hold), and a machine that is busy.
const STALL: Duration = Duration::from_secs(20);

fn kills(flavour: Flavour, strategies: &[&str]) {
    let Some(scene) = Scene::new(flavour, &[("innodb-flush-log-at-trx-commit", "0")], false, "") else {
        return;
    };
    let load = scene.start_load();
    let mut random = Random::new();
    let whole = {
        let begun = Instant::now();
        scene.tool.json(&["backup"]);
        begun.elapsed()
    };
    let mut longest = Duration::ZERO;
    let mut ended = [0, 0];
    for round in 0..rounds(4) {
        let strategy = strategies[random.below(strategies.len() as u64) as usize];
        let probe = Probe::start(&scene.server.socket, Duration::from_millis(3));
        let child = start(&scene, strategy);
        let wait = Duration::from_micros(random.below(whole.as_micros() as u64));
        std::thread::sleep(wait);
        let signal = if round % 3 == 2 { Signal::TERM } else { Signal::KILL };
        server::signal(child.id(), signal);
        let output = child.wait_with_output().unwrap();
        let (status, by) = (output.status.code(), output.status.signal());
        let done = matches!(status, Some(0 | 5));
        assert!(
            done || by == Some(9) || status == Some(143),
            "{strategy}, {signal:?} after {wait:?}: {}",
            both(&output)
        );
        ended[usize::from(done)] += 1;
        scene.assert_writable();
        let stall = Duration::from_micros(probe.stop().into_iter().max().unwrap_or(0));
        longest = longest.max(stall);
        assert!(
            stall < STALL,
            "{strategy}, {signal:?} after {wait:?}: a commit waited {stall:?}"
        );
        scene.cleanup();
        scene.assert_nothing_left();
        let durability: u8 = scene.server.one("SELECT @@innodb_flush_log_at_trx_commit");
        assert_eq!(
            durability, 0,
            "{strategy}, {signal:?} after {wait:?}: the setting was not put back"
        );
        if round % 20 == 19 {
            scene.tool.ok(&["verify", "--all"]);
        }
    }
    eprintln!(
        "{flavour:?}: {} killed, {} done before; longest commit {longest:?}",
        ended[0], ended[1]
    );
    scene.tool.json(&["backup"]);
    load.stop();
    scene.tool.ok(&["verify", "--all", "--level", "data"]);
}

fn start(scene: &Scene, strategy: &str) -> Child {
    let mut command = scene.tool.command(&["--quiet", "backup", "--lock", strategy]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

#[test]
fn mariadb_kills_around_the_lock() {
    kills(Flavour::MariaDb, &["backup-stage", "ftwrl"]);
}

#[test]
fn mysql_kills_around_the_lock() {
    kills(Flavour::MySql, &["instance", "ftwrl"]);
}
