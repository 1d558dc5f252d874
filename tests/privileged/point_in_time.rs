//! Binary logs are archived under load, over rotations, restarts and gaps; a DROP TABLE in the middle of a load is undone to the transaction.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::server::mysql_prefix;
use crate::common::{Flavour, Server, both, load, run, text};
use crate::setting::{AS_ROOT, Scene, THREADS};

/// Archives, and compares every archived byte with the server's own files.
fn archive(scene: &Scene) -> Value {
    scene.tool.json(&["binlog", "archive", "--once"])
}

fn prove(flavour: Flavour, options: &[(&str, &str)]) {
    let Some(mut scene) = Scene::new(flavour, options, true, "scratch: {user: nobody}\n") else {
        return;
    };
    let load = scene.start_load();
    let before_backup = load.acknowledged();
    // The private server of a replay is somebody else than we are.
    std::fs::set_permissions(scene.lab.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    run("chown", &["-R", "nobody:nogroup", &text(&scene.server.datadir)]);
    scene.tool.json(&["backup"]);
    let first = archive(&scene);
    assert_eq!(first["warnings"].as_array().unwrap().len(), 0, "{first}");
    // Rotations, and a restart of the server, between rounds.
    scene.server.exec("FLUSH BINARY LOGS");
    std::thread::sleep(Duration::from_millis(300));
    archive(&scene);
    load.stop();
    scene.server.stop();
    scene.server.start();

    // The accident: a table goes in the middle of a load.
    scene
        .server
        .exec("CREATE TABLE ledger.precious (a INT PRIMARY KEY) ENGINE=InnoDB");
    scene.server.exec("INSERT INTO ledger.precious VALUES (1), (2), (3)");
    let load = scene.start_load();
    let before_drop = load.acknowledged();
    scene.server.exec("DROP TABLE ledger.precious");
    let after_drop = load.acknowledged();
    std::thread::sleep(Duration::from_millis(300));
    load.stop();
    let last = archive(&scene);
    assert_eq!(
        (&last["behind"], last["warnings"].as_array().unwrap().len()),
        (&0.into(), 0),
        "{last}"
    );
    let again = archive(&scene);
    assert_eq!(again["segments"], 0, "nothing is new: {again}");
    let listed = scene.tool.json(&["binlog", "list"]);
    assert!(listed.as_array().unwrap().len() >= 3, "{listed}");

    // It is found, and undone: everything committed before it, nothing of it and after it.
    let shown = scene
        .tool
        .json(&["binlog", "show", "--table", "ledger.precious", "--grep", "DROP TABLE"]);
    let drop = &shown.as_array().unwrap()[0];
    assert_eq!(shown.as_array().unwrap().len(), 1, "{shown}");
    let point = format!("{}:{}", drop["file"].as_str().unwrap(), drop["start"]);
    let mysqld = text(&mysql_prefix().join("bin/mysqld97"));
    let restore = |name: &str, flags: &[&str]| {
        let datadir = text(&scene.lab.path(name));
        let mut arguments = vec!["restore", "latest", "--datadir", &datadir];
        arguments.extend(flags);
        if flavour == Flavour::MySql {
            arguments.extend(["--mysqld", &mysqld]);
        }
        scene.tool.json(&arguments)
    };
    let report = restore("then", &["--until-before", &point]);
    eprintln!("{flavour:?}: {}", report["replay"]);
    let then = Server::on(flavour, &scene.lab.path("then"), &scene.lab.path("then-run"), options);
    assert_eq!(then.one::<u64>("SELECT COUNT(*) FROM ledger.precious"), 3);
    assert_eq!(
        then.one::<u64>("SELECT COUNT(*) FROM mysql.user WHERE user LIKE 'snapback-%'"),
        0
    );
    let there = load::proven(&then.socket, scene.mariadb(), true, THREADS);
    for (thread, rows) in there.iter().enumerate() {
        assert!(
            rows[0] >= before_drop[thread][0],
            "thread {thread} lost rows: {rows:?}, {before_drop:?}"
        );
        assert!(rows[0] >= before_backup[thread][0]);
        // One commit of each writer may lie between the drop and our look at what was acknowledged.
        assert!(
            rows[0] <= after_drop[thread][0] + 1,
            "thread {thread} has rows from after: {rows:?}, {after_drop:?}"
        );
    }
    drop_server(then);

    // To the end it is what the live server has.
    let report = restore("end", &["--until", "end"]);
    let end = Server::on(flavour, &scene.lab.path("end"), &scene.lab.path("end-run"), options);
    assert_eq!(
        end.checksums(load::SCHEMA),
        scene.server.checksums(load::SCHEMA),
        "{}",
        report["replay"]
    );
    if flavour == Flavour::MySql {
        let of = |server: &Server| server.one::<String>("SELECT @@GLOBAL.gtid_executed").replace('\n', "");
        assert_eq!(of(&end), of(&scene.server));
    }
    drop_server(end);

    // What is not archived is said, and nothing appears.
    let refused = scene.tool.run(&[
        "restore",
        "latest",
        "--datadir",
        &text(&scene.lab.path("no")),
        "--until",
        "binlog.000999:4",
    ]);
    assert_eq!(refused.status.code(), Some(2), "{}", both(&refused));
    assert!(!scene.lab.path("no").exists());

    // A log that the server threw away before it was archived is a gap, and a restore over it is refused.
    scene.server.exec("FLUSH BINARY LOGS");
    scene.server.exec("CREATE TABLE ledger.later (a INT)");
    scene.server.exec("FLUSH BINARY LOGS");
    let newest = scene.server.binary_logs();
    let newest = newest.last().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
    scene.server.exec(&format!("PURGE BINARY LOGS TO '{newest}'"));
    let gap = archive(&scene);
    assert_eq!(gap["warnings"][0]["code"], "binlog-gap", "{gap}");
    let over = format!("{newest}:{}", gap["position"]);
    let refused = scene.tool.run(&[
        "restore",
        "latest",
        "--datadir",
        &text(&scene.lab.path("no")),
        "--until",
        &over,
    ]);
    assert_eq!(refused.status.code(), Some(2), "{}", both(&refused));
    assert!(both(&refused).contains("gap"), "{}", both(&refused));
    // The rest of the tool reads the repository as before.
    scene.tool.ok(&["verify", "--all"]);
    scene.tool.json(&["prune"]);
    let kept = scene.tool.json(&["binlog", "forget", "--dry-run"]);
    assert!(
        !kept["forgotten"].to_string().contains(first["file"].as_str().unwrap()),
        "{kept}"
    );
    scene.assert_nothing_left();
}

fn drop_server(mut server: Server) {
    server.stop();
}

/// Segments together are the server's files, byte for byte, while a follower runs and the server is killed under it.
#[test]
fn a_follower_goes_on_over_a_killed_server_and_the_archive_is_the_servers_files() {
    let Some(mut scene) = Scene::new(Flavour::MariaDb, &[], true, AS_ROOT) else {
        return;
    };
    let mut follower = scene
        .tool
        .spawn("", &["--json", "binlog", "archive", "--follow", "--interval", "200ms"]);
    let load = scene.start_load();
    scene.server.exec("FLUSH BINARY LOGS");
    std::thread::sleep(Duration::from_millis(500));
    load.stop();
    scene.server.kill();
    scene.server.start();
    scene.server.exec("CREATE TABLE ledger.after (a INT)");
    let begun = Instant::now();
    loop {
        let listed = scene.tool.json(&["binlog", "list"]);
        let logs = scene.server.binary_logs();
        let last = logs.last().unwrap();
        let name = last.file_name().unwrap().to_str().unwrap();
        let end = listed
            .as_array()
            .unwrap()
            .iter()
            .find(|log| log["file"] == name)
            .map(|log| log["end"].as_u64());
        if end == Some(Some(std::fs::metadata(last).unwrap().len())) {
            let gaps = listed
                .as_array()
                .unwrap()
                .iter()
                .filter(|log| !log["gap_before"].is_null())
                .count();
            assert_eq!(gaps, 0, "{listed}");
            break;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(120),
            "the follower does not get there: {listed}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    crate::common::server::signal(follower.id(), rustix::process::Signal::TERM);
    assert_eq!(follower.wait().unwrap().code(), Some(0));
}

/// A name is used again: neither the restore nor `binlog forget` takes the log of after for that of before.
fn logs_begun_anew(flavour: Flavour, reset: &str) {
    let Some(scene) = Scene::new(flavour, &[], true, AS_ROOT) else {
        return;
    };
    // When a log was begun is known to the second.
    let a_second = || std::thread::sleep(Duration::from_millis(1100));
    let create = |table: &str| {
        scene
            .server
            .exec(&format!("CREATE TABLE ledger.{table} (a INT) ENGINE=InnoDB"))
    };
    scene.server.exec(reset);
    create("before");
    let backup = scene.tool.json(&["backup"]);
    let log = backup["position"]["file"].as_str().unwrap().to_owned();
    for table in ["between", "between_too", "between_as_well"] {
        create(table);
    }
    archive(&scene);
    a_second();
    scene.server.exec(reset);
    // The new one is shorter than the archived one, and is not passed over.
    let anew = archive(&scene);
    assert_eq!(anew["warnings"][0]["code"], "binlog-reset", "{anew}");
    let of_that_name = || {
        let listed = scene.tool.json(&["binlog", "list"]);
        let all = listed.as_array().unwrap().iter();
        all.filter(|archived| archived["file"] == log).count()
    };
    assert_eq!(of_that_name(), 2);
    // Longer than the backup's position.
    for number in 0..60 {
        create(&format!("beyond_{number}"));
    }
    let longer = archive(&scene);
    assert_eq!(
        (&longer["file"], &longer["behind"]),
        (&log.clone().into(), &0.into()),
        "{longer}"
    );
    assert!(longer["position"].as_u64().unwrap() > backup["position"]["position"].as_u64().unwrap());

    let mysqld = text(&mysql_prefix().join("bin/mysqld97"));
    let datadir = text(&scene.lab.path("end"));
    let mut arguments = vec!["restore", "latest", "--datadir", &datadir, "--until", "end"];
    if flavour == Flavour::MySql {
        arguments.extend(["--mysqld", &mysqld]);
    }
    half_replays(&scene, &arguments);
    let mark = scene.lab.path("end/SNAPBACK-REPLAY-UNFINISHED");
    let report = scene.tool.json_with(&arguments, &[0, 5]);
    assert!(!mark.exists());
    assert!(report.to_string().contains("binlog-gap"), "{report}");
    let end = Server::on(flavour, &scene.lab.path("end"), &scene.lab.path("end-run"), &[]);
    let has = |like: &str| {
        end.one::<u64>(&format!(
            "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'ledger' AND TABLE_NAME LIKE '{like}'"
        ))
    };
    assert_eq!((has("before"), has("between%"), has("beyond%")), (1, 3, 0));
    drop_server(end);
    let kept = scene.tool.json(&["binlog", "forget"]);
    assert_eq!(kept["forgotten"].as_array().unwrap().len(), 0, "{kept}");
    assert_eq!(of_that_name(), 2);
    scene.assert_nothing_left();
}

/// Half a replay says that it is one from the moment that it appears, nothing takes it for a whole one, and cleanup removes it.
fn half_replays(scene: &Scene, arguments: &[&str]) {
    let (end, mark) = (scene.lab.path("end"), scene.lab.path("end/SNAPBACK-REPLAY-UNFINISHED"));
    let killed = |point: &str, arguments: &[&str]| {
        let killed = scene.tool.with_failpoint(&format!("{point}=kill"), arguments);
        assert_eq!(killed.status.code(), None, "{point} was not reached: {}", both(&killed));
    };
    killed("restore.publish", arguments);
    assert!(!end.exists(), "it appears when all is restored");
    // With MySQL nothing else is tried: its restores take long.
    let points = ["replay.applied", "replay.restored"];
    for point in &points[..if scene.mariadb() { 2 } else { 1 }] {
        scene.cleanup();
        killed(point, arguments);
        assert!(mark.exists(), "{point}: half a replay without a mark");
        // Neither a second restore nor a backup takes it for something else.
        let refused = scene.tool.run(arguments);
        assert_eq!(refused.status.code(), Some(1), "{}", both(&refused));
        assert!(both(&refused).contains("snapback cleanup"), "{}", both(&refused));
        let checked = scene.tool.run(&["check"]);
        let left = format!("half a replay at {}", end.display());
        assert!(both(&checked).contains(&left), "{}", both(&checked));
        let dry = scene.tool.ok(&["cleanup", "--dry-run"]);
        assert!(dry.contains(&format!("would remove {left}")) && mark.exists(), "{dry}");
    }
    // A removal that is killed leaves half a replay as well.
    killed("replay.cleared", &["cleanup"]);
    assert!(mark.exists());
    let report = scene.tool.json(&["cleanup"]);
    assert!(report.to_string().contains("half a replay at"), "{report}");
    assert!(!end.exists());
    if !scene.mariadb() {
        return;
    }

    // One that somebody made his own by removing the mark stays.
    killed("replay.restored", arguments);
    std::fs::remove_file(&mark).unwrap();
    scene.cleanup();
    assert!(end.join("ibdata1").exists());
    std::fs::remove_dir_all(&end).unwrap();
    // So does one on which a server runs, until it has ended.
    killed("replay.restored", arguments);
    let server = Server::on(scene.server.flavour, &end, &scene.lab.path("end-run"), &[]);
    let report = scene.tool.json_with(&["cleanup"], &[1]);
    assert!(report.to_string().contains("a server still runs"), "{report}");
    assert!(end.join("ibdata1").exists());
    drop_server(server);
    scene.cleanup();
    assert!(!end.exists());
    std::fs::remove_dir_all(scene.lab.path("end-run")).unwrap();

    // A replay that fails takes away what it had made.
    let failed = scene.tool.with_failpoint("replay.applied=error", arguments);
    assert_eq!(failed.status.code(), Some(1), "{}", both(&failed));
    assert!(!end.exists());
    scene.assert_nothing_left();
}

/// A server on half a replay is told of.
#[test]
fn a_server_on_half_a_replay_is_told_of() {
    let Some(scene) = Scene::new(Flavour::MariaDb, &[], true, AS_ROOT) else {
        return;
    };
    let told = |scene: &Scene| scene.tool.json(&["check"]).to_string().contains("half-replay");
    assert!(!told(&scene));
    std::fs::write(scene.server.datadir.join("SNAPBACK-REPLAY-UNFINISHED"), "").unwrap();
    assert!(told(&scene));
}

#[test]
fn mariadb_logs_that_are_begun_anew_are_others() {
    logs_begun_anew(Flavour::MariaDb, "RESET MASTER");
}

#[test]
fn mysql_logs_that_are_begun_anew_are_others() {
    logs_begun_anew(Flavour::MySql, "RESET BINARY LOGS AND GTIDS");
}

#[test]
fn mariadb_a_dropped_table_comes_back_to_the_transaction() {
    prove(Flavour::MariaDb, &[]);
}

#[test]
fn mysql_a_dropped_table_comes_back_to_the_transaction() {
    prove(
        Flavour::MySql,
        &[("gtid-mode", "ON"), ("enforce-gtid-consistency", "ON")],
    );
}
