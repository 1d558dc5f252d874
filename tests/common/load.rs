//! A write load whose every acknowledged commit is known outside the server.
//!
//! Each thread appends rows (thread, n, payload, crc) with n counting up, into InnoDB, MyISAM and (MariaDB) Aria tables, and adds to random rows
//! of a wide InnoDB table, so that a lost or repeated transaction shows: as a gap, as a wrong checksum, or as an error on replay.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use mysql::{Conn, OptsBuilder};

pub const SCHEMA: &str = "ledger";

/// Makes the schema: row tables of every engine, and `bulk` with `rows` rows of about 1 KiB.
pub fn set_up(socket: &Path, mariadb: bool, only_innodb: bool, rows: u64) {
    let mut conn = connect(socket).expect("connect for setup");
    conn.query_drop(format!("CREATE DATABASE IF NOT EXISTS {SCHEMA}"))
        .unwrap();
    conn.query_drop(format!("USE {SCHEMA}")).unwrap();
    for engine in engines(mariadb, only_innodb) {
        conn.query_drop(format!(
            "CREATE TABLE {engine}_rows (thread INT, n BIGINT, payload VARBINARY(250), crc BIGINT UNSIGNED, PRIMARY KEY (thread, n)) ENGINE={engine}"
        ))
        .unwrap();
    }
    conn.query_drop(
        "CREATE TABLE bulk (id BIGINT PRIMARY KEY, hits BIGINT NOT NULL DEFAULT 0, pad VARBINARY(1000)) ENGINE=InnoDB",
    )
    .unwrap();
    conn.query_drop("CREATE TABLE digits (d INT PRIMARY KEY) ENGINE=InnoDB")
        .unwrap();
    conn.query_drop("INSERT INTO digits VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9)")
        .unwrap();
    // Half of each row is random and half repeats: about what compresses 2:1.
    let mut filled = 0;
    while filled < rows {
        conn.query_drop(format!(
            "INSERT INTO bulk SELECT {filled}+a.d*1000+b.d*100+c.d*10+e.d, 0, CONCAT(UNHEX(CONCAT(SHA2(RAND(),512),SHA2(RAND(),512),SHA2(RAND(),512),SHA2(RAND(),512),SHA2(RAND(),512),SHA2(RAND(),512),SHA2(RAND(),512))), REPEAT('lorem ipsum ', 42)) FROM digits a, digits b, digits c, digits e"
        ))
        .unwrap();
        filled += 10_000;
    }
}

fn engines(mariadb: bool, only_innodb: bool) -> Vec<&'static str> {
    match (only_innodb, mariadb) {
        (true, _) => vec!["InnoDB"],
        (false, true) => vec!["InnoDB", "MyISAM", "Aria"],
        (false, false) => vec!["InnoDB", "MyISAM"],
    }
}

fn connect(socket: &Path) -> mysql::Result<Conn> {
    let opts = OptsBuilder::new()
        .socket(Some(socket.to_string_lossy()))
        .user(Some("root"))
        .prefer_socket(true)
        .db_name(None::<String>);
    Conn::new(opts)
}

/// What the threads share.
struct Shared {
    stop: AtomicBool,
    commits: AtomicU64,
    slowest_us: AtomicU64,
    /// Per thread and engine (InnoDB, MyISAM, Aria): the last n that the server acknowledged.
    acknowledged: Vec<[AtomicU64; 3]>,
    /// Written after each acknowledgement, for people and for demos; `None` in tests.
    log: Option<PathBuf>,
}

/// Running writers.
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    begun: Instant,
}

/// How the writers behave.
#[derive(Debug, Clone)]
pub struct Options {
    pub threads: usize,
    pub mariadb: bool,
    pub only_innodb: bool,
    pub rows: u64,
    /// A pause between commits of one thread.
    pub pause: Duration,
    pub log: Option<PathBuf>,
}

impl Load {
    pub fn start(socket: &Path, options: &Options) -> Load {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            commits: AtomicU64::new(0),
            slowest_us: AtomicU64::new(0),
            acknowledged: (0..options.threads).map(|_| Default::default()).collect(),
            log: options.log.clone(),
        });
        let spawn = |thread: usize| {
            let (shared, socket, options) = (Arc::clone(&shared), socket.to_owned(), options.clone());
            std::thread::spawn(move || write(&shared, &socket, &options, thread))
        };
        let threads = (0..options.threads).map(spawn).collect();
        Load {
            shared,
            threads,
            begun: Instant::now(),
        }
    }

    pub fn commits(&self) -> u64 {
        self.shared.commits.load(Ordering::SeqCst)
    }

    pub fn commits_per_second(&self) -> f64 {
        self.commits() as f64 / self.begun.elapsed().as_secs_f64()
    }

    /// The longest that one commit took since the last call.
    pub fn take_slowest(&self) -> Duration {
        Duration::from_micros(self.shared.slowest_us.swap(0, Ordering::SeqCst))
    }

    /// What is acknowledged by now: per thread, per engine.
    pub fn acknowledged(&self) -> Vec<[u64; 3]> {
        let one = |thread: &[AtomicU64; 3]| [0, 1, 2].map(|engine: usize| thread[engine].load(Ordering::SeqCst));
        self.shared.acknowledged.iter().map(one).collect()
    }

    /// Asks the writers to end and waits for them; returns what was acknowledged in all.
    pub fn stop(mut self) -> Vec<[u64; 3]> {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        self.acknowledged()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
    }
}

fn write(shared: &Shared, socket: &Path, options: &Options, thread: usize) {
    let Ok(mut conn) = connect(socket) else { return };
    let _ = conn.query_drop(format!("USE {SCHEMA}"));
    let mut random = Random(0x9E37_79B9 ^ (thread as u64 + 1) << 32);
    let engines = engines(options.mariadb, options.only_innodb);
    // A later load goes on where an earlier one ended.
    let mut next = [1_u64; 3];
    for (engine, name) in engines.iter().enumerate() {
        let last = conn.query_first(format!(
            "SELECT COALESCE(MAX(n), 0) FROM {name}_rows WHERE thread = {thread}"
        ));
        let Ok(Some(last)) = last else { return };
        shared.acknowledged[thread][engine].store(last, Ordering::SeqCst);
        next[engine] = last + 1;
    }
    while !shared.stop.load(Ordering::SeqCst) {
        // Mostly InnoDB, a few rows of the others; the same thread appends to all, in order.
        let engine = match random.next() % 10 {
            0 if engines.len() > 1 => 1,
            1 if engines.len() > 2 => 2,
            _ => 0,
        };
        let n = next[engine];
        let begun = Instant::now();
        let done = append(&mut conn, engines[engine], thread, n, options.rows, &mut random);
        if done.is_err() {
            // Killed, or the server went away: what was not acknowledged may or may not be there.
            return;
        }
        let took = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        next[engine] += 1;
        shared.acknowledged[thread][engine].store(n, Ordering::SeqCst);
        shared.commits.fetch_add(1, Ordering::SeqCst);
        shared.slowest_us.fetch_max(took, Ordering::SeqCst);
        if let Some(log) = &shared.log {
            let _ = std::fs::write(log.join(format!("{thread}-{}", engines[engine])), format!("{n}\n"));
        }
        if !options.pause.is_zero() {
            std::thread::sleep(options.pause);
        }
    }
}

/// One acknowledged step: a row, and for InnoDB now and then a transaction that changes several rows of `bulk` as well.
fn append(conn: &mut Conn, engine: &str, thread: usize, n: u64, rows: u64, random: &mut Random) -> mysql::Result<()> {
    let payload: Vec<u8> = (0..20 + random.next() % 200).map(|_| random.next() as u8).collect();
    let hex: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
    let insert = format!("INSERT INTO {engine}_rows VALUES ({thread}, {n}, X'{hex}', CRC32(payload))");
    if engine != "InnoDB" || rows == 0 || !random.next().is_multiple_of(3) {
        return conn.query_drop(insert);
    }
    // Ids in rising order: no deadlocks between the writers.
    let mut ids: Vec<u64> = (0..3).map(|_| random.next() % rows).collect();
    ids.sort_unstable();
    conn.query_drop("BEGIN")?;
    conn.query_drop(insert)?;
    for id in ids {
        conn.query_drop(format!(
            "UPDATE bulk SET hits = hits + 1, pad = INSERT(pad, 1 + {} , 8, '{:08x}') WHERE id = {id}",
            random.next() % 900,
            random.next() as u32
        ))?;
    }
    conn.query_drop("COMMIT")
}

/// What the rows themselves say: per thread, per engine the highest n. Panics on gaps and wrong payloads.
pub fn proven(socket: &Path, mariadb: bool, only_innodb: bool, threads: usize) -> Vec<[u64; 3]> {
    let mut conn = connect(socket).expect("connect for the proof");
    let mut highest = vec![[0; 3]; threads];
    for (at, engine) in engines(mariadb, only_innodb).iter().enumerate() {
        let table = format!("{SCHEMA}.{engine}_rows");
        let wrong: u64 = conn
            .query_first(format!("SELECT COUNT(*) FROM {table} WHERE crc <> CRC32(payload)"))
            .unwrap()
            .unwrap();
        assert_eq!(wrong, 0, "{table}: rows whose payload is not what was written");
        let rows: Vec<(usize, u64, u64, u64)> = conn
            .query(format!(
                "SELECT thread, COUNT(*), MIN(n), MAX(n) FROM {table} GROUP BY thread"
            ))
            .unwrap();
        for (thread, count, min, max) in rows {
            assert!(
                min == 1 && max == count,
                "{table}: thread {thread} has {count} rows from {min} to {max}: there are gaps"
            );
            highest[thread][at] = max;
        }
    }
    highest
}

/// A separate client that commits every few milliseconds; knows the longest commit.
pub struct Probe {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<u64>>>,
}

impl Probe {
    /// Makes its own table. Errors of the server are counted as an endless commit.
    pub fn start(socket: &Path, every: Duration) -> Probe {
        let mut conn = connect(socket).expect("connect the probe");
        conn.query_drop(format!("CREATE DATABASE IF NOT EXISTS {SCHEMA}"))
            .unwrap();
        conn.query_drop(format!(
            "CREATE TABLE IF NOT EXISTS {SCHEMA}.probe (n BIGINT AUTO_INCREMENT PRIMARY KEY) ENGINE=InnoDB"
        ))
        .unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut latencies = Vec::new();
            while !asked.load(Ordering::SeqCst) {
                let begun = Instant::now();
                let done = conn.query_drop(format!("INSERT INTO {SCHEMA}.probe VALUES ()"));
                latencies.push(done.map_or(u64::MAX, |()| begun.elapsed().as_micros() as u64));
                std::thread::sleep(every);
            }
            latencies
        });
        Probe {
            stop,
            thread: Some(thread),
        }
    }

    /// Ends it; the latencies of all its commits in microseconds.
    pub fn stop(mut self) -> Vec<u64> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread
            .take()
            .map(|thread| thread.join().unwrap())
            .unwrap_or_default()
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// xorshift64: enough to scatter, and repeatable.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
