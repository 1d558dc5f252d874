//! The runbooks of docs/operations.md, run as they are written, on hosts of their own with a real server on Btrfs.

#[path = "runbooks/host.rs"]
mod host;

use crate::common::server::engines_prefix;
use crate::common::{Flavour, Kind, Lab};
use host::Host;

const DOCUMENT: &str = include_str!("../../docs/operations.md");

/// What the runbooks have as examples, and no scene can make true beforehand.
const LAST_GOOD: &str = "3f2a";
const FIRST_BAD: &str = "81c0";
const PLACE: &str = "binlog.000042:1337";

/// All blocks that the document marks, each of them run by a test below.
const RUN: [&str; 10] = [
    "set-up",
    "lost-host",
    "new-replica-source",
    "new-replica",
    "dropped-table",
    "dropped-table-of-the-backup",
    "silent-corruption-find",
    "silent-corruption-mend",
    "upgrade-in-place",
    "upgrade-by-dump",
];

/// What the document says to write in place of these words on MySQL: the rows of its table.
fn words_of_mysql() -> Vec<(&'static str, &'static str)> {
    let mut rows = DOCUMENT.lines().skip_while(|line| *line != "| here | on MySQL |");
    assert!(
        rows.next().is_some(),
        "docs/operations.md has no table of MySQL's words"
    );
    let rows = rows.skip(1).take_while(|line| line.starts_with('|'));
    let cells = |row: &'static str| -> Option<(&'static str, &'static str)> {
        let mut quoted = row.split('`').skip(1).step_by(2);
        Some((quoted.next()?, quoted.next()?))
    };
    rows.map(|row| cells(row).unwrap_or_else(|| panic!("not two words: {row}")))
        .collect()
}

/// The line with whole words replaced: what stands between spaces.
fn on_mysql(line: &str, words: &[(&str, &str)]) -> String {
    let mut meant: Vec<&str> = line.split(' ').collect();
    for word in &mut meant {
        if let Some((_, there)) = words.iter().find(|(here, _)| here == word) {
            *word = there;
        }
    }
    meant.join(" ")
}

/// The lines of the block that is marked so.
fn block(name: &str) -> Vec<&'static str> {
    let fence = format!("```sh runbook={name}");
    let mut lines = DOCUMENT.lines().skip_while(|line| *line != fence);
    assert!(lines.next().is_some(), "docs/operations.md has no block `{fence}`");
    lines.take_while(|line| *line != "```").collect()
}

/// The status that a line of a runbook says it ends with.
fn status(line: &str) -> &str {
    line.split_once("(status ")
        .map_or("0", |(_, rest)| rest.split([':', ')']).next().unwrap())
}

/// Runs a runbook line by line; each has to end with 0, or with the status that its comment says.
fn follow(host: &Host, name: &str, examples: &[(&str, &str)]) -> String {
    assert!(RUN.contains(&name), "{name}");
    let mut script = String::from("set -uo pipefail\n");
    let words = match host.flavour {
        Flavour::MariaDb => Vec::new(),
        Flavour::MySql => words_of_mysql(),
    };
    for line in block(name).into_iter().filter(|line| !line.starts_with('#')) {
        let mut meant = on_mysql(line, &words);
        for (example, real) in examples {
            meant = meant.replace(example, real);
        }
        let wanted = status(line);
        let quoted = meant.replace('\'', r"'\''");
        script += &format!(
            "echo '$ {quoted}'\n{meant}\nat=$?; [ $at = {wanted} ] || {{ echo \"ended with $at, not {wanted}\"; exit 99; }}\n"
        );
    }
    let (ended, said) = host.bash(&script);
    assert_eq!(ended, Some(0), "{name}: {said}");
    eprintln!("{name}:\n{said}");
    said
}

/// A host with a database and a first backup; `None` where a facility is missing.
fn db1(lab: &Lab) -> Host {
    let new = engines_prefix();
    let host = Host::new(lab, "db1", "10.0.0.1", None, new.as_deref());
    host.ok("mariadb-install-db --no-defaults --user=mysql --datadir=/var/lib/mysql --auth-root-authentication-method=normal --skip-test-db >/dev/null\nsystemctl start mariadb");
    set_up(&host);
    host
}

/// The same with MySQL.
fn db1_with_mysql(lab: &Lab) -> Host {
    let host = Host::with_mysql(lab, "db1", "10.0.0.1", None);
    host.ok("install -d -o mysql -g mysql /var/lib/mysql\nmysqld --no-defaults --initialize-insecure --user=mysql --secure-file-priv= --datadir=/var/lib/mysql 2>/run/mysqld/log\nsystemctl start mysql");
    set_up(&host);
    host
}

/// Statements before one that takes rows from `sequence`, and that.
fn sequence(host: &Host, from: u32, to: u32) -> (&'static str, String) {
    match host.flavour {
        Flavour::MariaDb => ("", format!("seq_{from}_to_{to}")),
        Flavour::MySql => (
            "SET SESSION cte_max_recursion_depth=10000; ",
            format!(
                "(WITH RECURSIVE n(seq) AS (SELECT {from} UNION ALL SELECT seq + 1 FROM n WHERE seq < {to}) SELECT seq FROM n) AS s"
            ),
        ),
    }
}

fn set_up(host: &Host) {
    let insert = |table: &str, what: &str, from: u32, to: u32| {
        let (before, rows) = sequence(host, from, to);
        host.sql(&format!(
            "USE shop; {before}INSERT INTO {table} SELECT seq, {what} FROM {rows}"
        ));
    };
    host.sql("CREATE DATABASE shop");
    host.sql("CREATE TABLE shop.orders (id INT PRIMARY KEY, what VARCHAR(200)) ENGINE=InnoDB");
    host.sql("CREATE TABLE shop.customers (id INT PRIMARY KEY) ENGINE=InnoDB");
    host.sql("CREATE TABLE shop.invoices (id INT, what VARCHAR(200)) ENGINE=MyISAM");
    insert("orders", "REPEAT(SHA2(seq, 256), 3)", 1, 4000);
    insert("invoices", "REPEAT('paid ', 30)", 1, 100);
    follow(host, "set-up", &[]);
    // Committed after the backup, and in the logs only.
    insert("orders", "REPEAT(SHA2(seq, 256), 3)", 4001, 4100);
    host.sql("INSERT INTO shop.customers VALUES (1), (2)");
}

fn lab() -> Option<Lab> {
    let lab = Lab::new()?;
    (lab.storage.kind == Kind::Btrfs && Flavour::MariaDb.available() && engines_prefix().is_some()).then_some(lab)
}

fn sums(host: &Host) -> String {
    host.sql("CHECKSUM TABLE shop.orders, shop.customers, shop.invoices")
}

#[test]
fn every_block_that_is_marked_is_run() {
    let marked = DOCUMENT.lines().filter_map(|line| line.strip_prefix("```sh runbook="));
    assert_eq!(marked.collect::<Vec<_>>(), RUN);
}

#[test]
fn a_lost_host_comes_back_with_what_was_committed_last() {
    let Some(lab) = lab() else { return };
    let lost = db1(&lab);
    lost.ok("snapback binlog archive --once");
    let before = sums(&lost);
    let new = Host::new(&lab, "db2", "10.0.0.2", Some(&lost), None);
    drop(lost);
    follow(&new, "lost-host", &[]);
    assert_eq!(sums(&new), before);
    assert_eq!(new.sql("SELECT COUNT(*) FROM shop.orders"), "4100");
}

#[test]
fn a_dropped_table_comes_back() {
    let Some(lab) = lab() else { return };
    drop_and_bring_back(&db1(&lab), "4000");
}

/// On MySQL the host that was lost is then the one whose table is dropped.
#[test]
fn a_lost_host_and_a_dropped_table_come_back_on_mysql() {
    let Some(lab) = lab().filter(|_| Flavour::MySql.available()) else {
        return;
    };
    let lost = db1_with_mysql(&lab);
    lost.ok("snapback binlog archive --once");
    let before = sums(&lost);
    let new = Host::with_mysql(&lab, "db2", "10.0.0.2", Some(&lost));
    drop(lost);
    follow(&new, "lost-host", &[]);
    assert_eq!(sums(&new), before);
    drop_and_bring_back(&new, "4100");
}

/// `in_backup`: rows that the newest backup has.
fn drop_and_bring_back(host: &Host, in_backup: &str) {
    let before = sums(host);
    host.sql("DROP TABLE shop.orders");
    host.sql("INSERT INTO shop.customers VALUES (3)");
    let shown = host.ok("snapback binlog archive --once >&2; snapback --json binlog show --table shop.orders --grep 'DROP TABLE' 2>/dev/null | jq -r '.[0] | \"\\(.file):\\(.start)\"'");
    let place = shown.lines().last().unwrap();
    let said = follow(host, "dropped-table", &[(PLACE, place)]);
    assert!(
        said.lines()
            .any(|line| line.contains(place) && line.contains("DROP TABLE")),
        "{said}"
    );
    assert_eq!(host.sql("SELECT COUNT(*) FROM shop.customers"), "3");
    host.sql("DELETE FROM shop.customers WHERE id = 3");
    assert_eq!(sums(host), before);

    host.sql("DROP TABLE shop.orders");
    follow(host, "dropped-table-of-the-backup", &[]);
    for table in ["shop.orders", "rescue.orders"] {
        assert_eq!(host.sql(&format!("SELECT COUNT(*) FROM {table}")), in_backup);
    }
}

#[test]
fn silent_corruption_is_dated_and_mended_without_loss() {
    let Some(lab) = lab() else { return };
    corrupt_and_mend(&db1(&lab));
}

#[test]
fn a_new_replica_follows() {
    let Some(lab) = lab() else { return };
    let source = db1(&lab);
    replicate(&source, &Host::new(&lab, "db2", "10.0.0.2", Some(&source), None));
}

/// On MySQL the host that was mended is then the one that gets a replica.
#[test]
fn silent_corruption_is_mended_and_a_replica_follows_on_mysql() {
    let Some(lab) = lab().filter(|_| Flavour::MySql.available()) else {
        return;
    };
    let source = db1_with_mysql(&lab);
    corrupt_and_mend(&source);
    replicate(&source, &Host::with_mysql(&lab, "db2", "10.0.0.2", Some(&source)));
}

fn corrupt_and_mend(host: &Host) {
    host.ok("snapback backup");
    let before = sums(host);
    // Behind the server's back, when its log has nothing of them any more and its memory has them whole: a page of rows, and a byte in a row.
    let (admin, unit) = match host.flavour {
        Flavour::MariaDb => ("mariadb-admin", "mariadb"),
        Flavour::MySql => ("mysqladmin", "mysql"),
    };
    host.ok(&format!(
        "{admin} shutdown; while [ -S /run/mysqld/mysqld.sock ]; do sleep 0.1; done; systemctl start {unit}"
    ));
    assert_eq!(sums(host), before);
    host.sql("FLUSH TABLES shop.invoices");
    host.ok("cd /var/lib/mysql/shop\n\
         dd if=/dev/urandom of=orders.ibd bs=16384 seek=20 count=1 conv=notrunc,fsync status=none\n\
         printf q | dd of=invoices.MYD bs=1 seek=200 conv=notrunc,fsync status=none");
    host.ok("snapback backup");
    let ids = host.ok("snapback --json list 2>/dev/null | jq -r '.[].id'");
    let ids: Vec<&str> = ids.lines().collect();
    let examples = [(LAST_GOOD, ids[1]), (FIRST_BAD, ids[2])];
    let said = follow(host, "silent-corruption-find", &examples);
    assert!(said.contains("shop.orders"), "{said}");
    assert!(said.contains("\"invoices\""), "{said}");
    let mended = follow(host, "silent-corruption-mend", &examples);
    assert_eq!(sums(host), before, "{mended}");
    let verdict = host.ok("snapback verify --boot latest");
    assert!(!verdict.contains("failed"), "{verdict}");
}

fn replicate(source: &Host, replica: &Host) {
    follow(source, "new-replica-source", &[]);
    let said = follow(replica, "new-replica", &[]);
    assert!(said.contains("_IO_Running: "), "{said}");
    source.sql("INSERT INTO shop.customers VALUES (7)");
    let wait = match source.flavour {
        Flavour::MariaDb => format!("MASTER_GTID_WAIT('{}', 60)", source.sql("SELECT @@gtid_binlog_pos")),
        Flavour::MySql => format!(
            "WAIT_FOR_EXECUTED_GTID_SET(REPLACE('{}', '\\n', ''), 60)",
            source.sql("SELECT @@gtid_executed")
        ),
    };
    assert_eq!(replica.sql(&format!("SELECT {wait}")), "0");
    assert_eq!(sums(replica), sums(source));
}

#[test]
fn an_upgrade_is_rehearsed_on_a_copy_and_by_a_dump() {
    let Some(lab) = lab() else { return };
    let host = db1(&lab);
    let before = sums(&host);
    let said = follow(&host, "upgrade-in-place", &[]);
    assert!(
        said.lines()
            .any(|line| line.starts_with("shop.orders") && line.ends_with("OK")),
        "{said}"
    );
    follow(&host, "upgrade-by-dump", &[]);
    let there = host
        .ok("mariadb --socket=/srv/empty/mysqld.sock -NBe 'CHECKSUM TABLE shop.orders, shop.customers, shop.invoices'");
    assert_eq!(there.trim(), before);
}
