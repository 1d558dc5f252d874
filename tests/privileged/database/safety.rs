//! The lock cannot outlive the tool, whatever happens to the tool, the server or the connection.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use snapback::database::{Database, Error, Flavour, Strategy};
use snapback::journal::Made;

use super::harness::{Load, Run, TABLES, background, plan};
use super::server::TestServer;

const ALL: [(Flavour, Strategy); 4] = [
    (Flavour::MariaDb, Strategy::BackupStage),
    (Flavour::MariaDb, Strategy::Ftwrl),
    (Flavour::MySql, Strategy::Instance),
    (Flavour::MySql, Strategy::Ftwrl),
];

#[test]
fn the_watchdog_ends_a_hold_that_takes_too_long() {
    for (flavour, strategy) in ALL {
        let server = TestServer::start(flavour, &[]);
        server.sql(TABLES);
        let load = Load::start(&server, "t.w", 4);
        let mut database = server.connect();
        let run = Run::new();
        let mut plan = plan(strategy);
        plan.limits.hold_limit = Duration::from_millis(400);
        let held = run.quiesce(&mut database, &plan).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        let waited = load.until_commits_go_on();
        println!("{flavour:?} {strategy:?}: commits went on after {waited:?}");
        assert!(
            waited < Duration::from_millis(1500),
            "{flavour:?} {strategy:?}: {waited:?}"
        );
        let error = held.release().unwrap_err();
        assert!(
            matches!(&error, Error::LockLost { reason } if reason.contains("hold limit")),
            "{error}"
        );
        load.stop();
    }
}

#[test]
fn a_signal_ends_the_hold_and_the_wait() {
    for (flavour, strategy) in ALL {
        let server = TestServer::start(flavour, &[]);
        server.sql(TABLES);
        let load = Load::start(&server, "t.w", 4);
        let mut database = server.connect();
        let run = Run::new();
        let held = run.quiesce(&mut database, &plan(strategy)).unwrap();
        run.cancel.cancel(15);
        let waited = load.until_commits_go_on();
        assert!(
            waited < Duration::from_millis(1200),
            "{flavour:?} {strategy:?}: {waited:?}"
        );
        let error = held.release().unwrap_err();
        assert!(
            matches!(&error, Error::LockLost { reason } if reason.contains("signal")),
            "{error}"
        );
        load.stop();

        let run = Run::new();
        let lock = background(&server, "LOCK TABLES t.i WRITE; DO SLEEP(0.5); DO SLEEP(3)");
        let cancel = run.cancel.clone();
        let mut plan = plan(strategy);
        plan.limits.blocker_age = Duration::from_secs(3600);
        plan.limits.acquire_timeout = Duration::from_secs(30);
        let signal = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            cancel.cancel(2);
        });
        let begun = Instant::now();
        let error = run.quiesce(&mut database, &plan).err().unwrap();
        println!(
            "{flavour:?} {strategy:?}: wait ended after {:?}: {error}",
            begun.elapsed()
        );
        assert!(matches!(error, snapback::Error::Interrupted(2)), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(3));
        signal.join().unwrap();
        drop(lock);
    }
}

#[test]
fn dropping_and_abandoning_let_go() {
    for (flavour, strategy) in ALL {
        let server = TestServer::start(flavour, &[]);
        server.sql(TABLES);
        let load = Load::start(&server, "t.w", 4);
        let mut database = server.connect();
        let run = Run::new();
        drop(run.quiesce(&mut database, &plan(strategy)).unwrap());
        assert!(load.until_commits_go_on() < Duration::from_millis(1200));
        run.quiesce(&mut database, &plan(strategy)).unwrap().abandon().unwrap();
        assert!(load.until_commits_go_on() < Duration::from_millis(1200));
        let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _held = run.quiesce(&mut database, &plan(strategy)).unwrap();
            panic!("on purpose");
        }));
        assert!(unwound.is_err());
        assert!(load.until_commits_go_on() < Duration::from_millis(1200));
        load.stop();
        drop(database);
        server.wait_until_alone();
    }
}

/// Runs in a process of its own: takes the lock that the environment names and waits to be killed.
#[test]
fn child_that_holds_a_lock() {
    let Ok(socket) = std::env::var("SNAPBACK_TEST_HOLD_SOCKET") else {
        return;
    };
    let strategy = match std::env::var("SNAPBACK_TEST_HOLD_STRATEGY").unwrap().as_str() {
        "backup-stage" => Strategy::BackupStage,
        "instance" => Strategy::Instance,
        _ => Strategy::Ftwrl,
    };
    let config = snapback::config::Server {
        socket: Some(socket.into()),
        ..Default::default()
    };
    let mut database = snapback::database::mysql::Server::connect(&config).unwrap();
    let run = Run::new();
    let mut plan = plan(strategy);
    // Longer than the test: only the death of the process or the server's own limit ends it.
    plan.limits.hold_limit = Duration::from_millis(std::env::var("SNAPBACK_TEST_HOLD_MS").unwrap().parse().unwrap());
    if std::env::var("SNAPBACK_TEST_HOLD_BLIND").is_ok() {
        plan.limits.blocker_age = Duration::from_secs(3600);
        plan.limits.acquire_timeout = Duration::from_secs(2);
        println!("WAITS");
    }
    let _held = run.quiesce(&mut database, &plan).unwrap();
    println!("HELD");
    std::thread::sleep(Duration::from_secs(60));
}

/// A child that does not outlive a test that fails: stopped, it would keep the test's output open for ever.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Starts the child and waits until it holds the lock, or, `blind` to blockers, is about to wait for it.
fn child(server: &TestServer, strategy: Strategy, hold: Duration, blind: bool) -> Killed {
    let name = match strategy {
        Strategy::BackupStage => "backup-stage",
        Strategy::Instance => "instance",
        _ => "ftwrl",
    };
    let mut command = Command::new(std::env::current_exe().unwrap());
    if blind {
        command.env("SNAPBACK_TEST_HOLD_BLIND", "1");
    }
    let mut child = command
        .args(["safety::child_that_holds_a_lock", "--exact", "--nocapture"])
        .env("SNAPBACK_TEST_HOLD_SOCKET", server.socket())
        .env("SNAPBACK_TEST_HOLD_STRATEGY", name)
        .env("SNAPBACK_TEST_HOLD_MS", hold.as_millis().to_string())
        .stdout(Stdio::piped())
        .spawn()
        .map(Killed)
        .unwrap();
    let lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    assert!(
        lines
            .map_while(Result::ok)
            .any(|line| line.contains(if blind { "WAITS" } else { "HELD" })),
        "the child did not get the lock"
    );
    child
}

#[test]
fn a_killed_tool_frees_the_server_at_once() {
    for (flavour, strategy) in ALL {
        let server = TestServer::start(flavour, &[]);
        server.sql(TABLES);
        let load = Load::start(&server, "t.w", 4);
        let mut child = child(&server, strategy, Duration::from_secs(60), false);
        std::thread::sleep(Duration::from_millis(200));
        let before = load.commits();
        std::thread::sleep(Duration::from_millis(200));
        assert!(load.commits() <= before + 4, "the child holds nothing");
        child.0.kill().unwrap();
        let waited = load.until_commits_go_on();
        println!("{flavour:?} {strategy:?}: free {waited:?} after SIGKILL");
        assert!(
            waited < Duration::from_millis(1500),
            "{flavour:?} {strategy:?}: {waited:?}"
        );
        load.stop();
    }
}

/// Killed while it *waits* for the lock: on MySQL only `lock_wait_timeout` ends the wait of a client that is gone.
#[test]
fn a_tool_that_is_killed_while_it_waits_frees_the_server_within_the_bound() {
    for (flavour, strategy) in [ALL[1], ALL[2]] {
        let server = TestServer::start(flavour, &[]);
        server.sql(TABLES);
        let load = Load::start(&server, "t.w", 4);
        let update = background(&server, "UPDATE t.i SET b = SLEEP(0.5) WHERE a <= 10");
        let mut child = child(&server, strategy, Duration::from_secs(60), true);
        let begun = Instant::now();
        let waits =
            "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE INFO LIKE 'FLUSH%' AND STATE LIKE 'Waiting%'";
        while server.value(waits) == "0" {
            assert!(begun.elapsed() < Duration::from_secs(2), "the child never waited");
            std::thread::sleep(Duration::from_millis(10));
        }
        child.0.kill().unwrap();
        let waited = load.until_commits_go_on();
        println!("{flavour:?} {strategy:?}: free {waited:?} after SIGKILL in the wait");
        assert!(
            waited < Duration::from_millis(4500),
            "{flavour:?} {strategy:?}: {waited:?}"
        );
        load.stop();
        drop(update);
    }
}

/// A tool that hangs (here: is stopped) neither releases nor watches; the server's own `wait_timeout` does.
#[test]
fn a_stopped_tool_is_dropped_by_the_server_itself() {
    for (flavour, strategy) in [ALL[0], ALL[2]] {
        let server = TestServer::start(flavour, &[]);
        server.sql(TABLES);
        let load = Load::start(&server, "t.w", 4);
        let mut child = child(&server, strategy, Duration::from_secs(1), false);
        let stop = Command::new("kill")
            .args(["-STOP", &child.0.id().to_string()])
            .status()
            .unwrap();
        assert!(stop.success());
        let waited = load.until_commits_go_on();
        println!("{flavour:?} {strategy:?}: free {waited:?} after SIGSTOP");
        assert!(
            waited < Duration::from_millis(4500),
            "{flavour:?} {strategy:?}: {waited:?}"
        );
        child.0.kill().unwrap();
        load.stop();
    }
}

#[test]
fn a_server_that_dies_during_the_hold_means_no_backup() {
    for (flavour, strategy) in ALL {
        let mut server = TestServer::start(flavour, &[]);
        let mut database = server.connect();
        let run = Run::new();
        let held = run.quiesce(&mut database, &plan(strategy)).unwrap();
        server.kill();
        let error = held.release().unwrap_err();
        println!("{flavour:?} {strategy:?}: {error}");
        assert!(matches!(error, Error::LockLost { .. }), "{error}");
        let error = run.quiesce(&mut database, &plan(strategy)).err().unwrap();
        assert!(error.to_string().contains("cannot connect"), "{error}");
    }
}

/// The session is not the same any more: killed from outside during the hold.
#[test]
fn a_lock_session_that_was_killed_means_no_backup() {
    for (flavour, strategy) in ALL {
        let server = TestServer::start(flavour, &[]);
        server.sql(TABLES);
        let mut database = server.connect();
        let run = Run::new();
        let mut client = server.client();
        let ids =
            "SELECT ID FROM information_schema.PROCESSLIST WHERE ID <> CONNECTION_ID() AND USER = 'root' ORDER BY ID";
        let before: Vec<u64> = client.query(ids).unwrap();
        let held = run.quiesce(&mut database, &plan(strategy)).unwrap();
        let after: Vec<u64> = client.query(ids).unwrap();
        // The lock session is opened before the watchdog's.
        let lock = after.iter().find(|id| !before.contains(id)).unwrap();
        client.query_drop(format!("KILL {lock}")).unwrap();
        let error = held.release().unwrap_err();
        assert!(matches!(error, Error::LockLost { .. }), "{error}");
    }
}

#[test]
fn durability_is_raised_for_the_hold_and_put_back() {
    let zero = "--innodb-flush-log-at-trx-commit=0";
    let setting = "SELECT @@global.innodb_flush_log_at_trx_commit";
    for (flavour, strategy) in ALL {
        let server = TestServer::start(flavour, &[zero]);
        server.sql(TABLES);
        let mut database = server.connect();
        for ending in ["release", "abandon", "drop", "fail"] {
            let run = Run::new();
            let mut seen = Vec::new();
            let mut settle = |point| {
                seen.push((point, server.value(setting)));
                if ending == "fail" {
                    Err(snapback::Error::failed("on purpose"))
                } else {
                    Ok(())
                }
            };
            let outcome = run.quiesce_with(&mut database, &plan(strategy), &mut settle);
            assert!(seen.iter().all(|(_, value)| value == "1"), "{seen:?}");
            match (ending, outcome) {
                ("release", Ok(held)) => {
                    let made: Vec<_> = run.journal.left();
                    assert!(
                        matches!(&made[..], [Made::Setting(s)] if s.old == "0" && s.new == "1"),
                        "{made:?}"
                    );
                    let released = held.release().unwrap();
                    assert!(released.exact);
                    assert_eq!(released.settings.len(), 1);
                    assert!(
                        released
                            .figures
                            .steps
                            .iter()
                            .any(|step| step.name == "flush-engine-logs")
                    );
                }
                ("abandon", Ok(held)) => held.abandon().unwrap(),
                ("drop", Ok(held)) => drop(held),
                ("fail", Err(error)) => {
                    assert!(error.to_string().contains("on purpose"), "{error}");
                    assert!(run.journal.left().is_empty());
                }
                (_, outcome) => panic!("{ending}: {:?}", outcome.err()),
            }
            assert_eq!(server.value(setting), "0", "{flavour:?} {strategy:?} {ending}");
        }
        let run = Run::new();
        let mut plan = plan(strategy);
        plan.raise_durability = false;
        let held = run.quiesce(&mut database, &plan).unwrap();
        assert_eq!(held.release().unwrap().exact, flavour == Flavour::MySql);
        let findings = {
            plan.strategy = strategy;
            database.examine(&plan).unwrap().findings
        };
        assert_eq!(
            findings.iter().any(|f| f.code == "position-inexact"),
            flavour == Flavour::MariaDb
        );
    }
}

#[test]
fn cleanup_puts_a_setting_back_after_a_death() {
    use snapback::database::mysql::restore_setting;
    let server = TestServer::start(Flavour::MariaDb, &["--innodb-flush-log-at-trx-commit=0"]);
    let mut database = server.connect();
    let run = Run::new();
    std::mem::forget(run.quiesce(&mut database, &plan(Strategy::BackupStage)).unwrap());
    let Some(Made::Setting(setting)) = run.journal.left().pop() else {
        panic!("the journal has no setting");
    };
    assert!(restore_setting(&server.config(), &setting).unwrap());
    assert_eq!(server.value("SELECT @@global.innodb_flush_log_at_trx_commit"), "0");
    // Changed by somebody else since: left alone.
    server.sql("SET GLOBAL innodb_flush_log_at_trx_commit = 2");
    assert!(!restore_setting(&server.config(), &setting).unwrap());
    let other = TestServer::start(Flavour::MariaDb, &[]);
    let error = restore_setting(&other.config(), &setting).unwrap_err();
    assert!(error.to_string().contains("by hand"), "{error}");
}
