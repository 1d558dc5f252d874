use super::super::tests::facts;
use super::*;
use std::path::PathBuf;

use crate::database::mysql::place::Place;
use crate::database::{PathRole, ServerFacts, WrittenPath};

fn made(
    facts: &ServerFacts,
    paths: &[WrittenPath],
    trees: &[(&str, &str)],
    options: &[(&str, &str)],
) -> Result<String> {
    let trees: Vec<(PathBuf, PathBuf)> = trees.iter().map(|(from, to)| (from.into(), to.into())).collect();
    let place = Place {
        facts,
        paths,
        datadir: Path::new("/scratch/data"),
        trees: &trees,
    };
    let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    let wishes = Wishes {
        options: options.iter().map(own).collect(),
        ..Wishes::default()
    };
    text(
        &place,
        &wishes,
        Path::new("/scratch/run"),
        Path::new("/scratch/read/init.sql"),
    )
}

fn last<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    let value = text
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    value.map(|value| value.trim_matches('"'))
}

#[test]
fn what_the_data_needs_is_carried_and_every_path_is_ours() {
    let mut facts = facts(Flavour::MySql);
    for (name, value) in [
        ("innodb_page_size", "8192"),
        ("lower_case_table_names", "1"),
        ("innodb_data_file_path", "ibdata1:12M;/ib/ibdata2:10M:autoextend"),
        ("innodb_data_home_dir", ""),
        ("gtid_mode", "ON"),
        ("time_zone", "+02:00"),
        ("log_bin_basename", "/link/logs/bin"),
        ("log_bin_index", "/link/logs/bin.index"),
    ] {
        facts.variables.insert(name.to_owned(), value.to_owned());
    }
    let written = |role, path: &str, named: Option<&str>| WrittenPath {
        role,
        path: path.into(),
        needed: true,
        named: named.map(str::to_owned),
    };
    let paths = [
        written(PathRole::Redo, "/redo/#innodb_redo", None),
        written(PathRole::Undo, "/live", Some("./")),
        written(PathRole::BinaryLog, "/logs", Some("/link/logs/bin")),
        written(PathRole::BinaryLog, "/logs", Some("/link/logs/bin.index")),
    ];
    let trees = [
        ("/live", "/scratch/data"),
        ("/redo/#innodb_redo", "/scratch/data.external/redo/#innodb_redo"),
        ("/ib", "/scratch/data.external/ib"),
        ("/logs", "/scratch/data.external/logs"),
    ];
    let text = made(
        &facts,
        &paths,
        &trees,
        &[("socket", "/run/live.sock"), ("skip-networking", "OFF")],
    )
    .unwrap();
    for (key, value) in [
        ("loose-innodb-page-size", "8192"),
        ("loose-lower-case-table-names", "1"),
        ("loose-enforce-gtid-consistency", "ON"),
        ("default-time-zone", "+02:00"),
        ("datadir", "/scratch/data"),
        ("socket", "/scratch/run/s"),
        ("init-file", "/scratch/read/init.sql"),
        ("skip-networking", "ON"),
        ("event-scheduler", "OFF"),
        (
            "innodb-data-file-path",
            "ibdata1:12M;/scratch/data.external/ib/ibdata2:10M:autoextend",
        ),
        ("innodb-log-group-home-dir", "/scratch/data.external/redo"),
        ("innodb-undo-directory", "/scratch/data"),
        ("log-bin", "/scratch/data.external/logs/bin"),
        ("log-bin-index", "/scratch/data.external/logs/bin.index"),
        ("myisam-recover-options", "OFF"),
    ] {
        assert_eq!(last(&text, key), Some(value), "{key} in\n{text}");
    }
    let live = |line: &&str| line.contains("/live") || line.contains("/link") || line.contains("=\"/redo");
    let others: Vec<&str> = text.lines().filter(live).collect();
    assert_eq!(
        others,
        ["socket=\"/run/live.sock\""],
        "a live path that ours does not replace"
    );
}

#[test]
fn a_path_that_is_not_in_the_backup_is_named() {
    let paths = [WrittenPath {
        role: PathRole::Redo,
        path: "/elsewhere".into(),
        needed: true,
        named: None,
    }];
    let error = made(&facts(Flavour::MariaDb), &paths, &[("/live", "/scratch/data")], &[]).unwrap_err();
    assert!(error.to_string().contains("/elsewhere"), "{error}");
}

#[test]
fn engines_that_were_loaded_are_loaded_but_none_that_reaches_out() {
    let mut facts = facts(Flavour::MariaDb);
    let libraries = "ha_archive.so;ha_federatedx.so;ha_spider.so;ha_rocksdb.so;../evil.so;x=/y.so";
    facts
        .variables
        .insert("engine_libraries".to_owned(), libraries.to_owned());
    let text = made(&facts, &[], &[("/live", "/scratch/data")], &[]).unwrap();
    let loaded: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("plugin-load-add="))
        .collect();
    assert_eq!(loaded, ["\"ha_archive.so\"", "\"ha_rocksdb.so\""]);
}

#[test]
fn an_option_cannot_smuggle_in_another() {
    for (key, value) in [("a", "x\nsocket=/live"), ("a b", "x"), ("", "x"), ("a", "x\"y")] {
        assert!(
            made(&facts(Flavour::MariaDb), &[], &[("/live", "/s")], &[(key, value)]).is_err(),
            "{key} {value}"
        );
    }
}

#[test]
fn without_a_binary_log_there_is_none() {
    let mut facts = facts(Flavour::MariaDb);
    facts.log_bin = false;
    let text = made(&facts, &[], &[("/live", "/scratch/data")], &[]).unwrap();
    assert!(text.lines().any(|line| line == "skip-log-bin"), "{text}");
    assert_eq!(last(&text, "log-bin"), None);
}
