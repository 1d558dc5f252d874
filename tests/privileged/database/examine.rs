//! What an examination finds on real servers: paths, privileges, preconditions; and every way to be let in.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use mysql::prelude::Queryable;
use snapback::config;
use snapback::database::mysql::{Account, Feature, Login, Server, account_sql, connect};
use snapback::database::{Consistency, Database, Examination, Flavour, OnBusy, PathRole, Strategy};
use snapback::finding::Severity;

use super::harness::{Run, plan};
use super::server::TestServer;

fn paths(examination: &Examination, role: PathRole) -> Vec<&Path> {
    examination
        .paths
        .iter()
        .filter(|path| path.role == role)
        .map(|path| path.path.as_path())
        .collect()
}

fn codes(examination: &Examination, severity: Severity) -> Vec<&str> {
    let findings = examination
        .findings
        .iter()
        .filter(|finding| finding.severity == severity);
    findings.map(|finding| finding.code.as_str()).collect()
}

#[test]
fn every_path_is_found_on_mariadb() {
    let outside = tempfile::tempdir().unwrap();
    let top = outside.path().canonicalize().unwrap();
    for dir in ["logs", "undo", "tmp", "aria", "moved", "myisam", "relay"] {
        fs::create_dir(top.join(dir)).unwrap();
    }
    let at = |name: &str| top.join(name).display().to_string();
    let options = [
        format!("--log-bin={}/bin", at("logs")),
        format!("--tmpdir={}", at("tmp")),
        format!("--relay-log={}/relay", at("relay")),
        "--symbolic-links=ON".into(),
    ];
    let server = TestServer::start(
        Flavour::MariaDb,
        &["--symbolic-links=ON", "--innodb-log-group-home-dir=./"],
    );
    server.sql("CREATE DATABASE moved; CREATE TABLE moved.t (a INT); CREATE DATABASE s");
    server.sql(&format!(
        "CREATE TABLE s.far (a INT) ENGINE=InnoDB DATA DIRECTORY='{}'",
        top.display()
    ));
    server.sql(&format!(
        "CREATE TABLE s.old (a INT) ENGINE=MyISAM DATA DIRECTORY='{}'",
        at("myisam")
    ));
    let dir = server.stop();
    let data = dir.path().join("data");
    fs::remove_dir(top.join("moved")).unwrap();
    let moved = Command::new("mv")
        .arg(data.join("moved"))
        .arg(top.join("moved"))
        .status()
        .unwrap();
    assert!(moved.success());
    symlink(top.join("moved"), data.join("moved")).unwrap();

    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let server = TestServer::start_in(Flavour::MariaDb, dir, &options);
    let examination = server.connect().examine(&plan(Strategy::Auto)).unwrap();
    assert_eq!(examination.strategy, Strategy::BackupStage);
    assert_eq!(paths(&examination, PathRole::Datadir), [server.datadir()]);
    assert_eq!(paths(&examination, PathRole::BinaryLog), [top.join("logs")]);
    assert_eq!(paths(&examination, PathRole::Temporary), [top.join("tmp")]);
    assert_eq!(paths(&examination, PathRole::RelayLog), [top.join("relay")]);
    let mut external = paths(&examination, PathRole::External);
    external.sort();
    assert_eq!(external, [top.join("moved"), top.join("myisam/old.MYD"), top.join("s")]);
    assert!(
        codes(&examination, Severity::Blocker).is_empty(),
        "{:?}",
        examination.findings
    );
    assert!(
        codes(&examination, Severity::Warning).is_empty(),
        "{:?}",
        examination.findings
    );
    assert!(
        !codes(&examination, Severity::Note).contains(&"lockless-possible"),
        "there is a MyISAM table"
    );
}

#[test]
fn every_path_is_found_on_mysql() {
    let outside = tempfile::tempdir().unwrap();
    let top = outside.path().canonicalize().unwrap();
    for dir in ["logs", "undo", "tablespaces", "redo", "dblwr"] {
        fs::create_dir(top.join(dir)).unwrap();
    }
    let at = |name: &str| top.join(name).display().to_string();
    let options = [
        format!("--log-bin={}/bin", at("logs")),
        format!("--innodb-directories={}", at("tablespaces")),
        format!("--innodb-doublewrite-dir={}", at("dblwr")),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let server = TestServer::start(Flavour::MySql, &options);
    server.sql("CREATE DATABASE s; CREATE TABLE s.near (a INT)");
    server.sql(&format!(
        "CREATE TABLE s.far (a INT) DATA DIRECTORY='{}'",
        at("tablespaces")
    ));
    server.sql(&format!(
        "CREATE TABLESPACE general ADD DATAFILE '{}/general.ibd'",
        at("tablespaces")
    ));
    server.sql(&format!(
        "CREATE UNDO TABLESPACE more ADD DATAFILE '{}/more.ibu'",
        at("tablespaces")
    ));
    let examination = server.connect().examine(&plan(Strategy::Auto)).unwrap();
    assert_eq!(examination.strategy, Strategy::Instance);
    assert_eq!(
        paths(&examination, PathRole::Redo),
        [server.datadir().join("#innodb_redo")]
    );
    assert_eq!(paths(&examination, PathRole::BinaryLog), [top.join("logs")]);
    assert_eq!(paths(&examination, PathRole::Doublewrite), [top.join("dblwr")]);
    assert_eq!(
        paths(&examination, PathRole::InnodbDirectory),
        [top.join("tablespaces")]
    );
    let mut external = paths(&examination, PathRole::External);
    external.sort();
    let tablespaces = top.join("tablespaces");
    assert_eq!(
        external,
        [
            tablespaces.join("general.ibd"),
            tablespaces.join("more.ibu"),
            tablespaces.join("s")
        ]
    );
    assert!(paths(&examination, PathRole::Secret).contains(&server.datadir().join("server-key.pem").as_path()));
    assert!(
        codes(&examination, Severity::Blocker).is_empty(),
        "{:?}",
        examination.findings
    );
    assert_eq!(codes(&examination, Severity::Note), ["lockless-possible"]);

    // An undo tablespace that is being emptied, and one that was, are the server's still.
    let is_found = |state: &str| {
        let examination = server.connect().examine(&plan(Strategy::Auto)).unwrap();
        let external = paths(&examination, PathRole::External);
        assert!(
            external.contains(&tablespaces.join("more.ibu").as_path()),
            "{state}: {external:?}"
        );
    };
    server.sql("ALTER UNDO TABLESPACE more SET INACTIVE");
    is_found("inactive");
    std::thread::sleep(std::time::Duration::from_secs(2));
    is_found("emptied");
    server.sql("ALTER UNDO TABLESPACE more SET ACTIVE");
    is_found("active again");
}

/// The account that `init --print-grants` makes can do the whole of it, and no privilege of it is too many.
#[test]
fn the_printed_grants_are_enough_and_none_is_too_many() {
    for (flavour, strategies) in [
        (Flavour::MariaDb, [Strategy::BackupStage, Strategy::Ftwrl]),
        (Flavour::MySql, [Strategy::Instance, Strategy::Ftwrl]),
    ] {
        let server = TestServer::start(flavour, &[]);
        for strategy in strategies {
            let account = account(strategy);
            let sql = account_sql(flavour, &account);
            assert_eq!(sql, server.connect().account_sql(&account));
            server.sql("DROP USER IF EXISTS snapback@localhost");
            for statement in sql.lines().filter(|line| !line.starts_with("--")) {
                server.sql(statement);
            }
            let config = least(&server);
            let mut database = Server::connect(&config).unwrap();
            let examination = database.examine(&plan(strategy)).unwrap();
            assert!(
                codes(&examination, Severity::Blocker).is_empty(),
                "{:?}",
                examination.findings
            );
            let run = Run::new();
            run.quiesce(&mut database, &plan(strategy)).unwrap().release().unwrap();
            for (privilege, object) in granted(&sql) {
                server.sql(&format!("REVOKE {privilege} ON {object} FROM snapback@localhost"));
                let mut database = Server::connect(&config).unwrap();
                let outcome = database.examine(&plan(strategy)).map(|examination| {
                    let findings = examination
                        .findings
                        .into_iter()
                        .filter(|finding| finding.code == "missing-privilege");
                    findings.map(|finding| finding.message).collect::<Vec<_>>()
                });
                let messages = outcome.unwrap();
                let expected = &privilege;
                assert!(
                    messages.iter().any(|message| message.contains(expected)),
                    "{flavour:?} {strategy:?} {privilege}: {messages:?}"
                );
                server.sql(&format!("GRANT {privilege} ON {object} TO snapback@localhost"));
            }
        }
    }
}

fn account(strategy: Strategy) -> Account {
    Account {
        strategy,
        features: vec![Feature::Backup],
        login: Login::Password("choose-a-password".to_owned()),
    }
}

fn least(server: &TestServer) -> config::Server {
    let file = server.dir.path().join("least.cnf");
    fs::write(
        &file,
        format!(
            "[snapback]\nuser=snapback\npassword=choose-a-password\nsocket={}\n",
            server.socket().display()
        ),
    )
    .unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    config::Server {
        defaults_file: Some(file),
        ..Default::default()
    }
}

fn granted(sql: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for line in sql.lines().filter_map(|line| line.strip_prefix("GRANT ")) {
        let (privileges, rest) = line.split_once(" ON ").unwrap();
        let object = rest.split_once(" TO ").unwrap().0;
        all.extend(
            privileges
                .split(", ")
                .map(|privilege| (privilege.to_owned(), object.to_owned())),
        );
    }
    all
}

#[test]
fn privileges_that_come_by_a_role_count() {
    for (flavour, strategy) in [
        (Flavour::MariaDb, Strategy::BackupStage),
        (Flavour::MySql, Strategy::Instance),
    ] {
        let server = TestServer::start(flavour, &[]);
        let sql = account_sql(flavour, &account(strategy)).replace("'snapback'@'localhost'", "backup_role");
        server.sql("CREATE ROLE backup_role; CREATE USER snapback@localhost IDENTIFIED BY 'choose-a-password'");
        for statement in sql.lines().filter(|line| line.starts_with("GRANT")) {
            server.sql(statement);
        }
        server.sql("GRANT backup_role TO snapback@localhost");
        let missing = |config: &config::Server| {
            let examination = Server::connect(config).unwrap().examine(&plan(strategy)).unwrap();
            codes(&examination, Severity::Blocker)
                .iter()
                .filter(|code| **code == "missing-privilege")
                .count()
        };
        assert!(missing(&least(&server)) > 0, "the role is not active yet");
        match flavour {
            Flavour::MariaDb => server.sql("SET DEFAULT ROLE backup_role FOR snapback@localhost"),
            Flavour::MySql => server.sql("SET DEFAULT ROLE backup_role TO snapback@localhost"),
        }
        assert_eq!(missing(&least(&server)), 0);
    }
}

#[test]
fn strategies_and_levels_are_resolved_against_the_server() {
    let server = TestServer::start(Flavour::MariaDb, &["--sync-binlog=1"]);
    let mut database = server.connect();
    let error = database.examine(&plan(Strategy::Instance)).unwrap_err();
    assert!(error.to_string().contains("backup-stage"), "{error}");
    let mut crash = plan(Strategy::Auto);
    crash.consistency = Consistency::Crash;
    assert_eq!(database.examine(&crash).unwrap().strategy, Strategy::None);
    let run = Run::new();
    crash.strategy = Strategy::None;
    let released = run.quiesce(&mut database, &crash).unwrap().release().unwrap();
    assert!(!released.exact);
    assert_eq!(released.figures.held_us, 0);
    let examination = database.examine(&plan(Strategy::Lockless)).unwrap();
    assert!(
        codes(&examination, Severity::Blocker).is_empty(),
        "{:?}",
        examination.findings
    );
    server.sql("CREATE DATABASE s; CREATE TABLE s.m (a INT) ENGINE=MyISAM");
    let examination = database.examine(&plan(Strategy::Lockless)).unwrap();
    assert_eq!(codes(&examination, Severity::Blocker), ["lockless-precondition"]);
    let mut kill = plan(Strategy::Auto);
    kill.limits.on_busy = OnBusy::KillAll;
    assert!(codes(&database.examine(&kill).unwrap(), Severity::Blocker).is_empty());
}

#[test]
fn passwords_and_tls_over_tcp() {
    for flavour in [Flavour::MySql, Flavour::MariaDb] {
        // MySQL makes itself certificates; MariaDB 10.11 is given the same ones.
        let mysql = TestServer::start(Flavour::MySql, &[]);
        let pem = |name: &str| mysql.datadir().join(name).display().to_string();
        let tls = [
            format!("--ssl-ca={}", pem("ca.pem")),
            format!("--ssl-cert={}", pem("server-cert.pem")),
            format!("--ssl-key={}", pem("server-key.pem")),
        ];
        let tls: Vec<&str> = tls.iter().map(String::as_str).collect();
        let other = (flavour == Flavour::MariaDb).then(|| TestServer::start(flavour, &tls));
        let server = other.as_ref().unwrap_or(&mysql);
        server.sql("CREATE USER tcp@'%' IDENTIFIED BY 'pass word#1' REQUIRE SSL; GRANT ALL ON *.* TO tcp@'%'");
        let attempt = |extra: &str| {
            let file = server.dir.path().join("tcp.cnf");
            let text = format!(
                "[client]\nuser=tcp\npassword='pass word#1'\nhost=127.0.0.1\nport={}\n{extra}\n",
                server.port
            );
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            let config = config::Server {
                defaults_file: Some(file),
                ..Default::default()
            };
            connect(&config)
                .map(|database| database.facts().address.clone())
                .map_err(|error| error.to_string())
        };
        assert_eq!(attempt("").unwrap(), format!("127.0.0.1:{}", server.port));
        attempt("ssl-mode=REQUIRED").unwrap();
        attempt(&format!("ssl-ca={}", pem("ca.pem"))).unwrap();
        let wrong_name = attempt(&format!("ssl-ca={}\nssl-verify-server-cert", pem("ca.pem"))).unwrap_err();
        assert!(!wrong_name.contains("pass word"), "{wrong_name}");
        // Another authority than the one that signed.
        attempt(&format!("ssl-ca={}", pem("client-cert.pem"))).unwrap_err();
        let plain = attempt("skip-ssl").unwrap_err();
        assert!(plain.contains("denied"), "{plain}");
        assert!(!plain.contains("pass word"), "{plain}");
        println!("{flavour:?}: {wrong_name} | {plain}");
    }
}

#[test]
fn option_files_read_as_the_stock_clients_read_them() {
    use snapback::database::mysql::option_file::OptionFile;
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path: PathBuf = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    write("d/b.cnf", "[client]\nuser=b\n");
    write("d/a.cnf", "[client]\nuser = a # x\n[x]\nuser=no");
    write("d/c.txt", "[client]\nuser=c\n");
    let one = write("one.cnf", "[snapback]\nsocket=/x\n");
    let text = format!(
        "# c\n[client]\n!include {}\nuser=first\n!includedir {}\n!include /nonexistent\npassword=\"q#1\\s\\\\\\\"\\n\\x\"\n\
         empty=\nbare\nhalf='x\n one = 'a' 'b' \n quoted = 'a\\'b'\nhash=a#b\nsemi=a;b\n[ spaced ]\nk=v\n[client-server]\nport=1\r\nx=\"\n y= \"\" \n",
        one.display(),
        dir.path().join("d").display()
    );
    let path = write("my.cnf", &text);
    let groups = ["client", "client-server", "snapback", "spaced"];
    let output = Command::new("my_print_defaults")
        .arg(format!("--defaults-file={}", path.display()))
        .args(groups)
        .output()
        .unwrap();
    assert!(output.status.success());
    let theirs = String::from_utf8(output.stdout).unwrap();
    let file = OptionFile::read(&path).unwrap();
    let ours: String = file
        .in_groups(&groups)
        .map(|entry| match &entry.value {
            Some(value) => format!("--{}={value}\n", entry.key),
            None => format!("--{}\n", entry.key),
        })
        .collect();
    assert_eq!(ours, theirs);
}

#[test]
fn a_datadir_of_another_server_is_refused() {
    let server = TestServer::start(Flavour::MySql, &[]);
    let mut client = server.client();
    client.query_drop("DO 1").unwrap();
    fs::write(
        server.datadir().join("auto.cnf"),
        "[auto]\nserver-uuid=00000000-0000-0000-0000-000000000000\n",
    )
    .unwrap();
    let error = server.connect().examine(&plan(Strategy::Auto)).unwrap_err();
    assert!(error.to_string().contains("another server_uuid"), "{error}");
}
