use super::*;
use crate::database::Consistency;
use crate::database::mysql::scratch::tests::facts;
use crate::record::CopyFigures;

pub(super) fn record(flavour: Flavour, gtid: Option<&str>, replica: Vec<ReplicaChannel>) -> Record {
    let mut server = facts(flavour);
    if flavour == Flavour::MySql {
        server.version_number = (9, 7, 0);
    }
    Record {
        tool: "1".to_owned(),
        consistency: Consistency::Application,
        exact: true,
        job: None,
        sequence: None,
        server: Some(server),
        paths: Vec::new(),
        lock: None,
        position: Some(Position {
            file: "own.000002".to_owned(),
            position: 77,
            gtid: gtid.map(str::to_owned),
        }),
        replica,
        log_trace: None,
        prepared_xa: Vec::new(),
        recovery: None,
        checksums: None,
        volumes: Vec::new(),
        roots: Vec::new(),
        phases: Vec::new(),
        copy: CopyFigures::default(),
        left_out: Vec::new(),
        warnings: Vec::new(),
    }
}

fn channel(host: &str, uses_gtid: bool) -> ReplicaChannel {
    ReplicaChannel {
        channel: String::new(),
        source_host: host.to_owned(),
        source_port: 3306,
        file: "up.000009".to_owned(),
        position: 1234,
        gtid: Some("0-9-9".to_owned()),
        uses_gtid,
        delay: 0,
        running: true,
    }
}

pub(super) fn wanted(host: &str) -> Wanted {
    Wanted {
        host: host.to_owned(),
        port: 3306,
        coordinates: None,
        by: None,
        user: Some("repl".to_owned()),
        password: Some(Secret::new("it's \\ hush")),
        server_id: Some(5),
    }
}

fn text(record: &Record, wanted: &Wanted) -> String {
    let statements = seed(record, wanted).unwrap().statements;
    let texts: Vec<String> = statements.into_iter().map(|statement| statement.text).collect();
    texts.join("\n")
}

#[test]
fn each_server_gets_its_own_words_and_the_position_that_fits() {
    let maria = text(&record(Flavour::MariaDb, Some("0-1-7"), vec![]), &wanted("db1"));
    assert!(
        maria.contains("gtid_slave_pos = '0-1-7'") && maria.contains("MASTER_USE_GTID=slave_pos"),
        "{maria}"
    );
    assert!(!maria.contains("LOG_FILE"), "{maria}");
    let mysql = text(&record(Flavour::MySql, Some("a:1-7"), vec![]), &wanted("db1"));
    assert!(
        mysql.contains("gtid_purged = 'a:1-7'") && mysql.contains("SOURCE_AUTO_POSITION=1"),
        "{mysql}"
    );
    assert!(
        mysql.contains("CHANGE REPLICATION SOURCE TO SOURCE_HOST='db1'"),
        "{mysql}"
    );
    let mysql = text(&record(Flavour::MySql, None, vec![]), &wanted("db1"));
    assert!(
        mysql.contains("SOURCE_LOG_FILE='own.000002', SOURCE_LOG_POS=77"),
        "{mysql}"
    );
    assert!(!mysql.contains("gtid_purged"), "{mysql}");
    let by_position = Wanted {
        by: Some(By::Position),
        ..wanted("db1")
    };
    let maria = text(&record(Flavour::MariaDb, Some("0-1-7"), vec![]), &by_position);
    assert!(
        maria.contains("MASTER_LOG_FILE='own.000002', MASTER_LOG_POS=77"),
        "{maria}"
    );
    assert!(!maria.contains("RESET MASTER"), "{maria}");
}

#[test]
fn a_backup_of_a_replica_follows_its_source_or_itself_and_never_guesses() {
    let of = |uses_gtid| record(Flavour::MariaDb, Some("0-1-7"), vec![channel("up", uses_gtid)]);
    let source = text(&of(false), &wanted("up"));
    assert!(
        source.contains("MASTER_LOG_FILE='up.000009', MASTER_LOG_POS=1234"),
        "{source}"
    );
    let source = text(&of(true), &wanted("up"));
    assert!(source.contains("gtid_slave_pos = '0-9-9'"), "{source}");
    let own = text(&of(false), &wanted("live"));
    assert!(own.contains("gtid_slave_pos = '0-1-7'"), "{own}");
    let error = seed(&of(false), &wanted("10.0.0.1")).unwrap_err();
    assert!(error.to_string().contains("--replica-coordinates"), "{error}");
    let named = Wanted {
        coordinates: Some(Coordinates::Source),
        ..wanted("10.0.0.1")
    };
    assert!(text(&of(false), &named).contains("up.000009"));
}

#[test]
fn the_password_is_in_the_file_only_and_only_its_owner_reads_that() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let mut seed = seed(&record(Flavour::MySql, Some("a:1-7"), vec![]), &wanted("db1")).unwrap();
    seed.write_beside(&dir.path().join("data")).unwrap();
    let file = seed.file.clone().unwrap();
    assert_eq!(file, dir.path().join("data.snapback-replica.sql"));
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let written = std::fs::read_to_string(&file).unwrap();
    assert!(written.contains(r"SOURCE_PASSWORD='it\'s \\ hush'"), "{written}");
    let told = serde_json::to_string(&seed).unwrap() + &format!("{seed:?}");
    assert!(!told.contains("hush"), "{told}");
}

#[test]
fn what_cannot_seed_is_refused_and_what_is_not_exact_warns() {
    let mut without = record(Flavour::MySql, None, vec![]);
    let by_gtid = Wanted {
        by: Some(By::Gtid),
        ..wanted("db1")
    };
    assert!(seed(&without, &by_gtid).unwrap_err().to_string().contains("no GTIDs"));
    without.exact = false;
    assert_eq!(
        seed(&without, &wanted("db1")).unwrap().warnings[0].code,
        "seed-not-exact"
    );
    without.position = None;
    assert!(
        seed(&without, &wanted("db1"))
            .unwrap_err()
            .to_string()
            .contains("no binary log position")
    );
    let free = free_server_id(7);
    assert!(free > 1 << 24);
}
