//! Plans, contexts, and a load that measures how long commits wait.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use snapback::database::{Consistency, Database, LockLimits, OnBusy, QuiesceContext, QuiescePlan, Quiesced, Strategy};
use snapback::journal::Journal;
use snapback::monitor::Monitor;
use snapback::sys::signal::Cancel;
use snapback::units::Id;

use super::server::TestServer;

/// Limits that suit tests.
pub fn limits() -> LockLimits {
    LockLimits {
        acquire_timeout: Duration::from_millis(600),
        hold_limit: Duration::from_secs(3),
        attempts: 1,
        backoff: Duration::from_millis(50),
        blocker_age: Duration::from_millis(200),
        on_busy: OnBusy::Wait,
    }
}

pub fn plan(strategy: Strategy) -> QuiescePlan {
    QuiescePlan {
        consistency: Consistency::Application,
        strategy,
        limits: limits(),
        raise_durability: true,
    }
}

/// What a quiesce needs from its run.
pub struct Run {
    _dir: tempfile::TempDir,
    pub journal: Journal,
    pub cancel: Cancel,
    pub messages: Messages,
    pub origin: Instant,
}

#[derive(Default)]
pub struct Messages(Mutex<Vec<String>>);

impl Messages {
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Monitor for Messages {
    fn message(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

impl Run {
    pub fn new() -> Run {
        let dir = tempfile::tempdir().unwrap();
        Run {
            journal: Journal::create(dir.path(), Id::random()).unwrap(),
            _dir: dir,
            cancel: Cancel::new(),
            messages: Messages::default(),
            origin: Instant::now(),
        }
    }

    pub fn quiesce<'s>(
        &self,
        server: &'s mut dyn Database,
        plan: &QuiescePlan,
    ) -> snapback::Result<Box<dyn Quiesced + 's>> {
        self.quiesce_with(server, plan, &mut |_| Ok(()))
    }

    pub fn quiesce_with<'s>(
        &self,
        server: &'s mut dyn Database,
        plan: &QuiescePlan,
        settle: &mut dyn FnMut(snapback::database::SettlePoint) -> snapback::Result<()>,
    ) -> snapback::Result<Box<dyn Quiesced + 's>> {
        server.quiesce(
            plan,
            QuiesceContext {
                origin: self.origin,
                journal: &self.journal,
                monitor: &self.messages,
                cancel: &self.cancel,
                settle,
            },
        )
    }
}

/// Writers that commit as fast as they can, and the longest wait that one of them saw.
pub struct Load {
    stop: Arc<AtomicBool>,
    commits: Arc<AtomicU64>,
    longest_us: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

pub const TABLES: &str = "CREATE DATABASE t; CREATE TABLE t.i (a INT PRIMARY KEY AUTO_INCREMENT, b INT, c VARCHAR(200)) ENGINE=InnoDB; \
    CREATE TABLE t.w (a INT PRIMARY KEY AUTO_INCREMENT, b INT) ENGINE=InnoDB; \
    CREATE TABLE t.m (a INT PRIMARY KEY AUTO_INCREMENT, b INT) ENGINE=MyISAM; \
    INSERT INTO t.i (b) VALUES (1),(2),(3),(4),(5),(6),(7),(8); \
    INSERT INTO t.i (b) SELECT x.b FROM t.i x, t.i y, t.i z, t.i u; \
    INSERT INTO t.m (b) SELECT b FROM t.i";

impl Load {
    /// `table` is `t.w` (InnoDB) or `t.m` (MyISAM).
    pub fn start(server: &TestServer, table: &str, writers: usize) -> Load {
        let load = Load {
            stop: Arc::default(),
            commits: Arc::default(),
            longest_us: Arc::default(),
            threads: Vec::new(),
        };
        let threads = (0..writers).map(|_| {
            let (stop, commits, longest) = (
                Arc::clone(&load.stop),
                Arc::clone(&load.commits),
                Arc::clone(&load.longest_us),
            );
            let mut client = server.client();
            let statement = format!("INSERT INTO {table} (b) VALUES (1)");
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    if client.query_drop(&statement).is_err() {
                        // The server went away, or the test failed and drops it.
                        break;
                    }
                    longest.fetch_max(begun.elapsed().as_micros() as u64, Ordering::Relaxed);
                    commits.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_micros(300));
                }
            })
        });
        let threads = threads.collect();
        let load = Load { threads, ..load };
        while load.commits() < 20 {
            std::thread::sleep(Duration::from_millis(5));
        }
        load
    }

    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// The longest wait since the last call.
    pub fn longest(&self) -> Duration {
        Duration::from_micros(self.longest_us.swap(0, Ordering::Relaxed))
    }

    /// Waits until every writer can have committed again, and tells how long that took.
    pub fn until_commits_go_on(&self) -> Duration {
        let (begun, before) = (Instant::now(), self.commits());
        while self.commits() < before + 8 {
            assert!(begun.elapsed() < Duration::from_secs(240), "the server is stuck");
            std::thread::sleep(Duration::from_millis(1));
        }
        begun.elapsed()
    }

    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

/// A statement that runs in the background until it is done or its server is gone.
pub fn background(server: &TestServer, statements: &'static str) -> JoinHandle<mysql::Result<()>> {
    let mut client = server.client();
    let thread = std::thread::spawn(move || client.query_drop(statements));
    std::thread::sleep(Duration::from_millis(500));
    thread
}
