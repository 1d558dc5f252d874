//! A write load whose every acknowledged commit is known outside the server; for `scripts/demo` and `scripts/bench`.
//!
//! `ledger setup SOCKET ROWS [ENGINES]`, `ledger load SOCKET LOG-DIRECTORY THREADS PAUSE-US ROWS [ENGINES]` (until its standard input ends; ENGINES is
//! `mariadb`, the default, `mysql` or `innodb`), `ledger prove SOCKET LOG-DIRECTORY THREADS`, `ledger probe SOCKET` (until its standard input ends; prints the longest commit in µs).
#![allow(clippy::print_stdout, clippy::exit, missing_docs, dead_code)]

#[path = "../tests/common/load.rs"]
mod load;

use std::path::{Path, PathBuf};
use std::time::Duration;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["setup", socket, rows] => set_up(socket, rows, "mariadb"),
        ["setup", socket, rows, engines] => set_up(socket, rows, engines),
        ["load", socket, log, threads, pause, rows] => run(
            socket,
            log,
            number(threads) as usize,
            number(pause),
            number(rows),
            "mariadb",
        ),
        ["load", socket, log, threads, pause, rows, engines] => run(
            socket,
            log,
            number(threads) as usize,
            number(pause),
            number(rows),
            engines,
        ),
        ["prove", socket, log, threads] => prove(socket, log, number(threads) as usize),
        ["probe", socket] => probe(socket),
        _ => {
            println!("usage: ledger setup|load|prove|probe ...");
            std::process::exit(2);
        }
    }
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("`{text}` is not a number"))
}

fn until_input_ends() {
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
}

fn set_up(socket: &str, rows: &str, engines: &str) {
    load::set_up(
        Path::new(socket),
        engines == "mariadb",
        engines == "innodb",
        number(rows),
    );
}

fn run(socket: &str, log: &str, threads: usize, pause: u64, rows: u64, engines: &str) {
    let options = load::Options {
        threads,
        mariadb: engines == "mariadb",
        only_innodb: engines == "innodb",
        rows,
        pause: Duration::from_micros(pause),
        log: (log != "-").then(|| PathBuf::from(log)),
    };
    let load = load::Load::start(Path::new(socket), &options);
    until_input_ends();
    println!(
        "{:.0} commits per second, {} in all",
        load.commits_per_second(),
        load.commits()
    );
    load.stop();
}

/// Every row that was acknowledged (one file per thread and engine in `log`) is in the tables, and there are no gaps.
fn prove(socket: &str, log: &str, threads: usize) {
    let there = load::proven(Path::new(socket), true, false, threads);
    let (mut acknowledged, mut rows, mut missing) = (0, 0, 0);
    for (thread, there) in there.iter().enumerate() {
        for (at, engine) in ["InnoDB", "MyISAM", "Aria"].iter().enumerate() {
            let text = std::fs::read_to_string(Path::new(log).join(format!("{thread}-{engine}"))).unwrap_or_default();
            let last: u64 = text.trim().parse().unwrap_or(0);
            acknowledged += last;
            rows += there[at];
            missing += last.saturating_sub(there[at]);
        }
    }
    println!("{acknowledged} rows were acknowledged, {rows} are there without a gap, {missing} are missing");
    if missing > 0 {
        std::process::exit(1);
    }
}

fn probe(socket: &str) {
    let probe = load::Probe::start(Path::new(socket), Duration::from_millis(3));
    until_input_ends();
    let mut latencies = probe.stop();
    latencies.sort_unstable();
    let at = |part: f64| {
        latencies
            .get(((latencies.len() as f64 * part) as usize).min(latencies.len().saturating_sub(1)))
            .copied()
    };
    println!("{} {}", at(1.0).unwrap_or(0), at(0.5).unwrap_or(0));
}
