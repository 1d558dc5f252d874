//! New replicas from backups taken under load: of a source and of a replica, by GTIDs and by file and position.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use serde_json::Value;

use crate::common::server::mysql_prefix;
use crate::common::{Flavour, Server, Tool, both, load, run, text, wait_for_file};
use crate::service::{Ends, service};
use crate::setting::{Scene, THREADS};

const PASSWORD: &str = "it's a 'secret'";

/// Restores with these flags (in place where the datadir is that of the scene's server, which is stopped), starts a server on it, gives it the file.
fn seed(tool: &Tool, scene: &Scene, datadir: &Path, flags: &[&str]) -> (Server, Value) {
    let secret = scene.lab.path("secret");
    std::fs::write(&secret, format!("{PASSWORD}\n")).unwrap();
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
    let (at, secret) = (text(datadir), text(&secret));
    let in_place = datadir == scene.server.datadir;
    let mut arguments = vec!["restore", "latest", "--replica-user", "repl"];
    arguments.extend(["--replica-password-file", &secret]);
    arguments.extend(match in_place {
        true => ["--in-place", "--force"],
        false => ["--datadir", &at],
    });
    arguments.extend(flags);
    let report = tool.json(&arguments);
    assert!(!report.to_string().contains(PASSWORD), "{report}");
    let flavour = scene.server.flavour;
    let skip = match flavour {
        Flavour::MariaDb => "skip-slave-start",
        Flavour::MySql => "skip-replica-start",
    };
    let mut options = vec![(skip, "ON")];
    options.extend(gtids(flavour));
    let name = match in_place {
        true => "back",
        false => datadir.file_name().unwrap().to_str().unwrap(),
    };
    let server = Server::on(flavour, datadir, &scene.lab.path(&format!("{name}-run")), &options);
    let file = report["replica"]["file"].as_str().unwrap();
    assert_eq!(file, format!("{}.snapback-replica.sql", text(datadir)));
    let said = flavour
        .client_program()
        .args(["--no-defaults", "-uroot", &format!("--socket={}", text(&server.socket))])
        .stdin(std::fs::File::open(file).unwrap())
        .output()
        .unwrap();
    assert!(said.status.success(), "{file}: {}", both(&said));
    let id: u64 = server.one("SELECT @@server_id");
    assert_eq!(report["replica"]["server_id"], id);
    (server, report)
}

/// Restores where a server ran until now with `--replica-start`; the service starts it with that one's options. `of`: whose repository; `id`: of its option file.
fn start(of: &Tool, scene: &Scene, mut server: Server, id: u64, flags: &[&str]) -> (Ends, Server, Value) {
    let in_place = server.datadir == scene.server.datadir;
    let work = server.socket.parent().unwrap().to_owned();
    let dir = work.join("service");
    std::fs::create_dir(&dir).unwrap();
    let mut yaml = format!("server:\n  socket: {}\n  user: root\n", text(&server.socket));
    yaml += &service(&dir, &work, &server, &[]);
    // An id of its own in its option file: replication that its copy brought would begin.
    let script = dir.join("service-start");
    let line = std::fs::read_to_string(&script).unwrap();
    std::fs::write(&script, line.replace("--server-id=1'", &format!("--server-id={id}'"))).unwrap();
    yaml += "scratch:\n  user: root\n";
    if server.flavour == Flavour::MySql {
        yaml += &format!("  mysqld: {}\n", text(&mysql_prefix().join("bin/mysqld97")));
    }
    let tool = Tool::bare(&dir, &yaml);
    let (at, secret, repository) = (
        text(&server.datadir),
        text(&scene.lab.path("secret")),
        text(&of.repository),
    );
    let mut arguments = vec![
        "--repository",
        repository.as_str(),
        "restore",
        "latest",
        "--host",
        "testhost",
        "--replica-start",
    ];
    arguments.extend(["--replica-user", "repl", "--replica-password-file", &secret]);
    arguments.extend(match in_place {
        // Nothing on this host says yet that its data lie there.
        true => vec!["--in-place", "--allow-path", &at],
        false => vec!["--datadir", &at],
    });
    arguments.extend(flags);
    // Without a password, or beside a server that answers, nothing is done.
    let no_password: Vec<&str> = arguments
        .iter()
        .filter(|word| **word != "--replica-password-file" && **word != secret)
        .copied()
        .collect();
    let refused = tool.run(&no_password);
    assert_eq!(refused.status.code(), Some(2), "{}", both(&refused));
    assert!(both(&refused).contains("password"), "{}", both(&refused));
    let refused = tool.run(&arguments);
    assert_eq!(refused.status.code(), Some(2), "{}", both(&refused));
    assert!(both(&refused).contains("stop it"), "{}", both(&refused));
    server.stop();
    std::fs::remove_dir_all(&server.datadir).unwrap();
    let ends = Ends {
        pid: work.join("pid"),
        not: None,
    };
    // A source that lets it not in is said, with what is left to do.
    let wrong = scene.lab.path("wrong");
    std::fs::write(&wrong, "another password\n").unwrap();
    std::fs::set_permissions(&wrong, PermissionsExt::from_mode(0o600)).unwrap();
    let wrong = text(&wrong);
    let without: Vec<&str> = arguments
        .iter()
        .map(|word| if *word == secret { &wrong } else { *word })
        .collect();
    let refused = tool.run(&without);
    assert_eq!(refused.status.code(), Some(1), "{}", both(&refused));
    assert!(both(&refused).contains("Access denied"), "{}", both(&refused));
    assert!(!both(&refused).contains("another password"), "{}", both(&refused));
    let file = format!("{at}.snapback-replica.sql");
    assert!(
        both(&refused).contains(&file) && Path::new(&file).exists(),
        "{}",
        both(&refused)
    );
    run(&text(&dir.join("service-stop")), &[]);
    std::fs::remove_dir_all(&server.datadir).unwrap();

    // When it is started nothing of its original's replication is left in it.
    let gate = dir.join("gate");
    arguments.insert(0, "--json");
    let child = tool.spawn(&format!("seed.started=pause:{}", gate.display()), &arguments);
    wait_for_file(&dir.join("gate.reached"));
    let statement = match server.flavour {
        Flavour::MariaDb => "SHOW ALL SLAVES STATUS",
        Flavour::MySql => "SHOW REPLICA STATUS",
    };
    let channels: Vec<mysql::Row> = server.connect().query(statement).unwrap();
    assert!(channels.is_empty(), "{channels:?}");
    std::fs::write(&gate, "").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(matches!(output.status.code(), Some(0 | 5)), "{}", both(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(!report.to_string().contains(PASSWORD), "{report}");
    assert!(!Path::new(&file).exists(), "it has the password, and nobody needs it");
    assert_eq!(
        report["replica"]["following"]["server_id"],
        server.one::<u64>("SELECT @@server_id")
    );
    assert_eq!(
        server.one::<u64>("SELECT COUNT(*) FROM mysql.user WHERE user LIKE 'snapback-%'"),
        0
    );
    let left = std::fs::read_dir(tool.state.join("journal")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "a journal is left");
    (ends, server, report)
}

/// Waits until the replica has what the source has. The source's writers are at rest.
fn assert_catches_up(source: &Server, replica: &Server, what: &str) {
    let wanted = source.checksums(load::SCHEMA);
    let begun = Instant::now();
    while replica.checksums(load::SCHEMA) != wanted {
        let (statement, column) = match source.flavour {
            Flavour::MariaDb => ("SHOW SLAVE STATUS", "Last_Error"),
            Flavour::MySql => ("SHOW REPLICA STATUS", "Last_Error"),
        };
        let row: mysql::Row = replica.connect().query_first(statement).unwrap().unwrap();
        let (error, io): (String, String) = (row.get(column).unwrap(), row.get("Last_IO_Error").unwrap());
        let late = begun.elapsed() > Duration::from_secs(120);
        assert!(error.is_empty() && !late, "{what}: {error} {io}\n{}", replica.log());
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn gtids(flavour: Flavour) -> Vec<(&'static str, &'static str)> {
    match flavour {
        Flavour::MariaDb => vec![("log-slave-updates", "ON"), ("gtid-strict-mode", "ON")],
        // Workers that commit in order meet a global read lock halfway (finding `applier-in-order`).
        Flavour::MySql => vec![
            ("gtid-mode", "ON"),
            ("enforce-gtid-consistency", "ON"),
            ("replica-parallel-workers", "1"),
        ],
    }
}

fn prove(flavour: Flavour) {
    let Some(mut scene) = Scene::new(flavour, &gtids(flavour), true, "") else {
        return;
    };
    let quoted = PASSWORD.replace('\'', "''");
    scene
        .server
        .exec(&format!("CREATE USER repl@'127.0.0.1' IDENTIFIED BY '{quoted}'"));
    scene.server.exec("GRANT REPLICATION SLAVE ON *.* TO repl@'127.0.0.1'");
    let source = format!("127.0.0.1:{}", scene.server.port);
    let of_source = ["--replica-of", source.as_str()];

    // A backup of the source, taken under load, seeds by GTIDs and by position.
    let load = scene.start_load();
    scene.tool.json(&["backup"]);
    let volume = scene.lab.storage.volume("second");
    let (second, report) = seed(&scene.tool, &scene, &volume.join("data"), &of_source);
    assert_eq!(
        (&report["replica"]["by"], &report["replica"]["coordinates"]),
        (&"gtid".into(), &"own".into())
    );
    let by_position = [&of_source[..], &["--replica-by", "position"]].concat();
    let (third, _) = seed(&scene.tool, &scene, &scene.lab.path("third"), &by_position);
    load.stop();
    assert_catches_up(&scene.server, &second, "by GTIDs");
    assert_catches_up(&scene.server, &third, "by position");
    drop(third);

    // A backup of the replica, taken while it applies, seeds one of its source and one of its own.
    let dir = scene.lab.path("of-second");
    std::fs::create_dir(&dir).unwrap();
    let tool = Tool::new(&dir, &second, "");
    if scene.mariadb() {
        // Never started, and named: not even its relay logs are to be found by another server.
        second.exec("CHANGE MASTER 'other' TO MASTER_HOST='none', MASTER_USER='nobody'");
    }
    let load = scene.start_load();
    tool.json(&["backup"]);
    let (sibling, report) = seed(&tool, &scene, &scene.lab.path("sibling"), &of_source);
    assert_eq!(report["replica"]["coordinates"], "source");
    let itself = format!("127.0.0.1:{}", second.port);
    let unclear = tool.run(&[
        "restore",
        "latest",
        "--datadir",
        &text(&scene.lab.path("no")),
        "--replica-of",
        &itself,
    ]);
    assert_eq!(unclear.status.code(), Some(2), "{}", both(&unclear));
    let own = ["--replica-of", itself.as_str(), "--replica-coordinates", "own"];
    let (child, _) = seed(&tool, &scene, &scene.lab.path("child"), &own);
    load.stop();
    assert_catches_up(&scene.server, &sibling, "a replica's backup, of its source");
    assert_catches_up(&scene.server, &child, "a replica's backup, of itself");
    load::proven(&child.socket, scene.mariadb(), true, THREADS);
    drop(child);

    // Started by the restore itself: the copy of a replica, which would have gone on under its original's name.
    let (ends, sibling, report) = start(&tool, &scene, sibling, 41, &of_source);
    assert_eq!(report["replica"]["coordinates"], "source");
    assert_eq!(sibling.one::<u64>("SELECT @@server_id"), 41);
    assert_catches_up(&scene.server, &sibling, "a replica's backup, started by the restore");
    drop((ends, sibling));

    // The replica takes over; the old source comes back in place and follows it.
    let uuid = |server: &Server| (flavour == Flavour::MySql).then(|| server.one::<String>("SELECT @@server_uuid"));
    let before = uuid(&scene.server);
    // What the replica was seeded with is not in its log.
    scene.tool.json(&["backup"]);
    assert_catches_up(&scene.server, &second, "before the failover");
    scene.server.stop();
    let word = if scene.mariadb() { "SLAVE" } else { "REPLICA" };
    second.exec(&format!("STOP {word}"));
    second.exec(&format!("RESET {word} ALL"));
    second.exec("CREATE TABLE ledger.after_failover (a INT PRIMARY KEY) ENGINE=InnoDB");
    let (back, report) = seed(&scene.tool, &scene, &scene.server.datadir, &["--replica-of", &itself]);
    assert_eq!(report["replica"]["by"], "gtid");
    assert_catches_up(&second, &back, "in place");
    assert!(
        before.is_none() || uuid(&back) != before,
        "the backed-up server's server_uuid"
    );
    let (ends, back, _) = start(
        &scene.tool,
        &scene,
        back,
        41,
        &["--replica-of", &itself, "--replica-server-id", "77"],
    );
    assert_eq!(back.one::<u64>("SELECT @@server_id"), 77);
    assert_catches_up(&second, &back, "in place, started by the restore");
    drop((ends, back));

    if scene.mariadb() {
        // It has no id of its own, and no log that could be emptied.
        let options = [("skip-log-bin", "ON"), ("skip-slave-start", "ON")];
        let plain = Server::on(flavour, &scene.server.datadir, &scene.lab.path("plain-run"), &options);
        let (ends, plain, report) = start(&scene.tool, &scene, plain, 1, &["--replica-of", &itself]);
        assert_eq!(plain.one::<u64>("SELECT @@log_bin"), 0);
        let id = plain.one::<u64>("SELECT @@server_id");
        assert!(id > 1 << 24 && report["replica"]["server_id"] == id, "{report}");
        assert_catches_up(&second, &plain, "without a log");
        drop(ends);
    }
}

/// The service starts another server than what was restored.
#[test]
fn mariadb_another_server_than_the_restored_one_is_left_alone() {
    let Some(mut scene) = Scene::new(Flavour::MariaDb, &[], true, "") else {
        return;
    };
    scene.tool.json(&["backup"]);
    let dir = scene.lab.path("service");
    std::fs::create_dir(&dir).unwrap();
    let work = scene.server.socket.parent().unwrap().to_owned();
    let mut yaml = format!("server:\n  socket: {}\n  user: root\n", text(&scene.server.socket));
    yaml += &service(&dir, &work, &scene.server, &[]);
    let tool = Tool::bare(&dir, &yaml);
    let secret = scene.lab.path("secret");
    std::fs::write(&secret, format!("{PASSWORD}\n")).unwrap();
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
    let executed = "SELECT @@GLOBAL.gtid_binlog_state";
    let before: (String, u64) = (scene.server.one(executed), scene.server.one("SELECT @@server_id"));
    scene.server.stop();
    let ends = Ends {
        pid: work.join("pid"),
        not: None,
    };
    let (at, secret, repository) = (
        text(&scene.lab.path("elsewhere")),
        text(&secret),
        text(&scene.tool.repository),
    );
    let mut arguments = vec!["--repository", &repository, "restore", "latest", "--datadir", &at];
    arguments.extend([
        "--replica-of",
        "127.0.0.1:1",
        "--replica-start",
        "--replica-user",
        "repl",
    ]);
    arguments.extend(["--replica-password-file", &secret]);
    let refused = tool.run(&arguments);
    assert_eq!(refused.status.code(), Some(1), "{}", both(&refused));
    assert!(
        both(&refused).contains("nothing was changed in it") && both(&refused).contains(&at),
        "{}",
        both(&refused)
    );
    let after: (String, u64) = (scene.server.one(executed), scene.server.one("SELECT @@server_id"));
    assert_eq!(after, before);
    let rows: Vec<mysql::Row> = scene.server.connect().query("SHOW ALL SLAVES STATUS").unwrap();
    assert!(rows.is_empty(), "{rows:?}");
    drop(ends);
}

#[test]
fn mariadb_replicas_are_seeded_from_a_source_and_from_a_replica() {
    prove(Flavour::MariaDb);
}

#[test]
fn mysql_replicas_are_seeded_from_a_source_and_from_a_replica() {
    prove(Flavour::MySql);
}
