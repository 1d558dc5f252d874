//! A busy server is left alone: nobody is queued behind us for longer than the bound.

use std::time::{Duration, Instant};

use snapback::database::{Error, Flavour, OnBusy, Strategy};

use super::harness::{Load, Run, TABLES, background, limits, plan};
use super::server::TestServer;

const SELECT: &str = "SELECT SLEEP(0.4) FROM t.i LIMIT 6";
const UPDATE: &str = "UPDATE t.i SET b = SLEEP(0.4) WHERE a <= 6";
const MYISAM: &str = "UPDATE t.m SET b = SLEEP(0.4) WHERE a <= 6";
const TRANSACTION: &str = "BEGIN; UPDATE t.i SET b = 0 WHERE a = 1; DO SLEEP(0)";
const LOCK_TABLES: &str = "LOCK TABLES t.i WRITE";
const LOCK_READ: &str = "LOCK TABLES t.i READ";
const HANDLER: &str = "HANDLER t.i OPEN";

/// What a slow machine may add. Without a bound it would be the time that the statement in the way takes, or for ever.
const NOISE: Duration = Duration::from_secs(8);

/// How many statements so far asked for a lock or flushed tables, of anybody.
fn locks_asked_for(server: &TestServer) -> u64 {
    use mysql::prelude::Queryable;
    let rows: Vec<(String, u64)> = server
        .client()
        .query("SHOW GLOBAL STATUS WHERE Variable_name IN ('Com_flush', 'Com_backup', 'Com_lock_instance', 'Com_lock_instance_for_backup')")
        .unwrap();
    rows.iter().map(|(_, count)| count).sum()
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Expect {
    /// The lock is had at once.
    Free,
    /// Refused before any lock is asked for: no writer notices.
    Seen,
    /// Asked for and not granted: writers wait for the bound at most.
    Bounded,
}

fn judge(server: &TestServer, strategy: Strategy, statement: &'static str, expect: Expect) {
    let case = format!("{:?} {strategy:?} beside `{statement}`", server.flavour);
    let load = Load::start(server, "t.w", 4);
    let mut blocker = server.client();
    let idle = !(statement.contains("SLEEP(0.4)"));
    let thread = if idle {
        use mysql::prelude::Queryable;
        blocker.query_drop(statement).unwrap();
        None
    } else {
        Some(background(server, statement))
    };
    std::thread::sleep(Duration::from_millis(50));
    load.longest();
    let mut database = server.connect();
    let asked = locks_asked_for(server);
    let run = Run::new();
    let mut once = || {
        let begun = Instant::now();
        let outcome = run.quiesce(&mut database, &plan(strategy));
        (
            begun.elapsed(),
            outcome.map(|held| held.release().map(|released| released.exact)),
        )
    };
    let begun = Instant::now();
    let (mut took, mut result) = once();
    // On a slow machine a commit of the load may take long itself, and is rightly seen; it is not what is tested.
    let of_load = |error: &snapback::Error| error.to_string().contains("(Commit)");
    while expect == Expect::Free && result.as_ref().is_err_and(of_load) && begun.elapsed() < NOISE {
        (took, result) = once();
    }
    let longest = load.longest();
    let asked = locks_asked_for(server) - asked;
    println!("{case}: {took:?}, longest commit {longest:?}, {result:?}");
    match (expect, &result) {
        (Expect::Free, Ok(Ok(true))) => assert!(asked > 0, "{case}: no lock was asked for"),
        (Expect::Seen, Err(snapback::Error::Database(Error::Busy { .. }))) => {
            assert_eq!(asked, 0, "{case}: a lock was asked for");
        }
        (Expect::Bounded, Err(snapback::Error::Database(Error::Busy { .. }))) => {
            assert!(
                longest < limits().acquire_timeout + NOISE,
                "{case}: a commit took {longest:?}"
            );
            assert!(took < limits().acquire_timeout + 2 * NOISE, "{case}: it took {took:?}");
        }
        _ => panic!("{case}: expected {expect:?}, got {result:?}"),
    }
    if let Err(error) = result {
        assert_eq!(error.kind(), snapback::error::Kind::Busy);
    }
    let waited = load.until_commits_go_on();
    assert!(waited < 2 * NOISE, "{case}: the server was stuck for {waited:?}");
    load.stop();
    drop(blocker);
    if let Some(thread) = thread {
        drop(thread.join().unwrap());
    }
}

#[test]
fn mariadb_backup_stage() {
    let server = TestServer::start(Flavour::MariaDb, &[]);
    server.sql(TABLES);
    for (statement, expect) in [
        (SELECT, Expect::Free),
        (UPDATE, Expect::Free),
        (TRANSACTION, Expect::Free),
        (LOCK_READ, Expect::Free),
        (HANDLER, Expect::Free),
        (LOCK_TABLES, Expect::Bounded),
        // In state `User sleep`, so neither its state nor InnoDB gives it away.
        (MYISAM, Expect::Bounded),
    ] {
        judge(&server, Strategy::BackupStage, statement, expect);
    }
}

#[test]
fn mariadb_ftwrl() {
    let server = TestServer::start(Flavour::MariaDb, &[]);
    server.sql(TABLES);
    for (statement, expect) in [
        (SELECT, Expect::Free),
        (UPDATE, Expect::Seen),
        (TRANSACTION, Expect::Free),
        (LOCK_READ, Expect::Free),
        (LOCK_TABLES, Expect::Bounded),
        (MYISAM, Expect::Bounded),
    ] {
        judge(&server, Strategy::Ftwrl, statement, expect);
    }
}

#[test]
fn mariadb_with_lock_tables_sees_what_it_cannot_without() {
    let instrument = "--performance-schema-instrument=wait/lock/metadata/sql/mdl=ON";
    let server = TestServer::start(Flavour::MariaDb, &["--performance-schema=ON", instrument]);
    server.sql(TABLES);
    for strategy in [Strategy::BackupStage, Strategy::Ftwrl] {
        judge(&server, strategy, LOCK_TABLES, Expect::Seen);
        judge(&server, strategy, MYISAM, Expect::Seen);
        judge(&server, strategy, SELECT, Expect::Free);
        judge(&server, strategy, TRANSACTION, Expect::Free);
    }
}

#[test]
fn mysql_instance_and_ftwrl() {
    let server = TestServer::start(Flavour::MySql, &[]);
    server.sql(TABLES);
    for strategy in [Strategy::Instance, Strategy::Ftwrl] {
        for (statement, expect) in [
            (SELECT, Expect::Seen),
            (UPDATE, Expect::Seen),
            (MYISAM, Expect::Seen),
            (TRANSACTION, Expect::Free),
            (LOCK_TABLES, Expect::Seen),
            (LOCK_READ, Expect::Seen),
            (HANDLER, Expect::Seen),
        ] {
            judge(&server, strategy, statement, expect);
        }
    }
}

/// Then ages are known in whole seconds only.
#[test]
fn mysql_without_performance_schema() {
    let server = TestServer::start(Flavour::MySql, &["--performance-schema=OFF"]);
    server.sql(TABLES);
    for (statement, expect) in [
        (SELECT, Expect::Bounded),
        (UPDATE, Expect::Bounded),
        (TRANSACTION, Expect::Free),
        (LOCK_TABLES, Expect::Bounded),
    ] {
        judge(&server, Strategy::Instance, statement, expect);
    }
}

/// A guard that saw nothing still lets nobody wait beyond the bound.
#[test]
fn a_blocker_that_was_not_seen_costs_the_bound_at_most() {
    for (flavour, strategy) in [
        (Flavour::MySql, Strategy::Ftwrl),
        (Flavour::MySql, Strategy::Instance),
        (Flavour::MariaDb, Strategy::Ftwrl),
    ] {
        let server = TestServer::start(flavour, &[]);
        server.sql(TABLES);
        let load = Load::start(&server, "t.w", 4);
        let thread = background(&server, UPDATE);
        load.longest();
        let mut database = server.connect();
        let run = Run::new();
        let mut plan = plan(strategy);
        // Nothing is old enough to be seen.
        plan.limits.blocker_age = Duration::from_secs(3600);
        plan.limits.acquire_timeout = Duration::from_millis(400);
        let begun = Instant::now();
        let error = run.quiesce(&mut database, &plan).err().unwrap();
        let (took, longest) = (begun.elapsed(), load.longest());
        println!("{flavour:?} {strategy:?}: {took:?}, longest commit {longest:?}: {error}");
        assert_eq!(error.kind(), snapback::error::Kind::Busy, "{error}");
        assert!(error.to_string().contains("writes for"), "{error}");
        assert!(
            longest < Duration::from_millis(1900),
            "{flavour:?} {strategy:?}: a commit took {longest:?}"
        );
        load.stop();
        drop(thread.join().unwrap());
    }
}

#[test]
fn a_running_alter_is_not_waited_for_where_it_need_not_be() {
    for (flavour, strategy, expect) in [
        (Flavour::MariaDb, Strategy::BackupStage, Expect::Free),
        (Flavour::MariaDb, Strategy::Ftwrl, Expect::Seen),
        (Flavour::MySql, Strategy::Instance, Expect::Seen),
        (Flavour::MySql, Strategy::Ftwrl, Expect::Seen),
    ] {
        let server = TestServer::start(flavour, &["--innodb-flush-log-at-trx-commit=2"]);
        server.sql(TABLES);
        server.sql(
            "CREATE TABLE t.big (a INT PRIMARY KEY AUTO_INCREMENT, c CHAR(100)) ENGINE=InnoDB; \
             INSERT INTO t.big (c) SELECT REPEAT('x', 100) FROM t.i x, (SELECT 1 FROM t.i LIMIT 120) y",
        );
        let mut database = server.connect();
        let load = Load::start(&server, "t.w", 2);
        let alter = background(
            &server,
            "ALTER TABLE t.big ADD COLUMN d INT, ADD INDEX (c), ALGORITHM=COPY",
        );
        load.longest();
        let run = Run::new();
        let outcome = run
            .quiesce(&mut database, &plan(strategy))
            .map(|held| held.release().map(|released| released.exact));
        let longest = load.longest();
        println!("{flavour:?} {strategy:?} beside ALTER: longest commit {longest:?}: {outcome:?}");
        assert!(!alter.is_finished(), "the ALTER was too quick to show anything");
        match (expect, outcome) {
            (Expect::Free, Ok(Ok(true))) => {}
            (Expect::Seen, Err(error)) => assert_eq!(error.kind(), snapback::error::Kind::Busy, "{error}"),
            (_, outcome) => panic!("{flavour:?} {strategy:?}: expected {expect:?}, got {outcome:?}"),
        }
        assert!(
            longest < Duration::from_millis(1900),
            "{flavour:?} {strategy:?}: a commit took {longest:?}"
        );
        drop(alter);
        load.stop();
    }
}

#[test]
fn what_is_in_the_way_is_killed_only_when_that_was_asked_for() {
    for (flavour, strategy, statement, on_busy, ends) in [
        (Flavour::MySql, Strategy::Instance, SELECT, OnBusy::KillReads, true),
        (Flavour::MySql, Strategy::Instance, UPDATE, OnBusy::KillReads, false),
        (Flavour::MySql, Strategy::Ftwrl, UPDATE, OnBusy::KillAll, true),
        (Flavour::MariaDb, Strategy::Ftwrl, UPDATE, OnBusy::KillReads, false),
        (Flavour::MariaDb, Strategy::Ftwrl, UPDATE, OnBusy::KillAll, true),
        (Flavour::MariaDb, Strategy::Ftwrl, UPDATE, OnBusy::Wait, false),
        (Flavour::MariaDb, Strategy::Ftwrl, UPDATE, OnBusy::Fail, false),
    ] {
        let server = TestServer::start(flavour, &[]);
        server.sql(TABLES);
        let thread = background(&server, statement);
        let mut database = server.connect();
        let run = Run::new();
        let mut plan = plan(strategy);
        plan.limits.on_busy = on_busy;
        let outcome = run
            .quiesce(&mut database, &plan)
            .map(|held| held.release().map(|released| released.exact));
        println!(
            "{flavour:?} {strategy:?} {on_busy:?} {statement}: {outcome:?} {:?}",
            run.messages.all()
        );
        assert_eq!(
            outcome.is_ok(),
            ends,
            "{flavour:?} {strategy:?} {on_busy:?}: {outcome:?}"
        );
        let begun = Instant::now();
        let answer = thread.join().unwrap();
        // SLEEP that is interrupted in a SELECT returns 1 instead of failing on MySQL.
        assert_eq!(
            begun.elapsed() < Duration::from_millis(1500) && (answer.is_err() || flavour == Flavour::MySql),
            ends
        );
    }
}

#[test]
fn retries_wait_for_a_blocker_to_end() {
    let server = TestServer::start(Flavour::MariaDb, &[]);
    server.sql(TABLES);
    let thread = background(&server, UPDATE);
    let mut database = server.connect();
    let run = Run::new();
    let mut plan = plan(Strategy::Ftwrl);
    plan.limits.attempts = 8;
    plan.limits.backoff = Duration::from_millis(100);
    let held = run.quiesce(&mut database, &plan).unwrap();
    let released = held.release().unwrap();
    assert!(released.figures.attempts > 1);
    assert!(run.messages.all()[0].contains("attempt 1"), "{:?}", run.messages.all());
    drop(thread.join().unwrap());
}
