//! `snapback snapshot rollback` on a real server: back to exactly what was held, all volumes or none, also after death at every step.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Output;

use mysql::prelude::Queryable;
use serde_json::Value;

use crate::common::{Flavour, Kind, Lab, Server, Tool, both, load, run, text, wait_for_file};
use crate::service::{Ends, service};
use crate::setting::{Scene, exists};

type Sums = BTreeMap<String, Option<u64>>;

/// A server on one or two volumes, with a service; the one that the service started is ended at the end.
struct Rehearsal {
    // Dropped in this order: the server before its filesystem.
    _ends: Ends,
    scene: Scene,
}

impl Rehearsal {
    fn new(two_volumes: bool) -> Option<Rehearsal> {
        Rehearsal::of(Flavour::MariaDb, two_volumes, &[])
    }

    fn of(flavour: Flavour, two_volumes: bool, options: &[(&str, &str)]) -> Option<Rehearsal> {
        if !flavour.available() {
            return None;
        }
        let lab = Lab::new()?;
        let volume = lab.storage.volume("db");
        let (mut log_bin, mut more) = ("binlog".to_owned(), String::new());
        if two_volumes {
            let logs = lab.storage.volume("logs").join("bin");
            std::fs::create_dir(&logs).unwrap();
            std::fs::write(logs.join("marker"), "held").unwrap();
            match lab.storage.kind {
                // A server cannot be held on two subvolumes at one instant: the second one has files.
                Kind::Btrfs => more = format!("files: [{}]", text(&logs)),
                // Both are frozen while the first one's command ends, which under emulation takes long.
                _ => {
                    log_bin = text(&logs.join("binlog"));
                    more = "lock: {hold_limit: 10m}".to_owned();
                }
            }
        }
        let server = Server::create(
            flavour,
            &volume.join("data"),
            &lab.path("run"),
            &[&[("log-bin", log_bin.as_str())], options].concat(),
        );
        load::set_up(&server.socket, flavour == Flavour::MariaDb, false, 10_000);
        // The last log is read on every way; under emulation a long one takes minutes.
        server.exec("FLUSH BINARY LOGS");
        let yaml = service(lab.dir.path(), &lab.path("run"), &server, &[&more]);
        let tool = Tool::new(lab.dir.path(), &server, &yaml);
        Some(Rehearsal {
            _ends: Ends {
                pid: lab.path("run/pid"),
                not: Some(server.pid()),
            },
            scene: Scene {
                server,
                tool,
                lab,
                only_innodb: false,
            },
        })
    }

    fn server(&self) -> &Server {
        &self.scene.server
    }

    fn tool(&self) -> &Tool {
        &self.scene.tool
    }

    fn sums(&self) -> Sums {
        self.server().checksums(load::SCHEMA)
    }

    /// What both volumes have.
    fn state(&self) -> (Sums, String) {
        let marker = self.scene.lab.storage.mount_point().join("logs/bin/marker");
        (self.sums(), std::fs::read_to_string(marker).unwrap())
    }

    /// Every volume of the set goes back with the database.
    fn join_volumes(&self, set: &str) {
        let path = self.tool().state.join("held").join(format!("{set}.json"));
        let text = std::fs::read_to_string(&path).unwrap();
        let mut record: Value = serde_json::from_str(&text).unwrap();
        let volumes = record["volumes"].as_array_mut().unwrap();
        assert_eq!(volumes.len(), 2);
        volumes
            .iter_mut()
            .for_each(|volume| volume["with_database"] = Value::Bool(true));
        std::fs::write(&path, record.to_string()).unwrap();
    }

    /// A held set, with the server's checksums at its instant when nobody writes.
    fn hold(&self, label: &str) -> (String, Sums) {
        let set = self.tool().json(&["snapshot", "create", "--label", label]);
        (set["id"].as_str().unwrap().to_owned(), self.sums())
    }

    /// What a migration that goes wrong does.
    fn destroy(&self) {
        let mut conn = self.server().connect();
        let marker = self.scene.lab.storage.mount_point().join("logs/bin/marker");
        if exists(&marker) {
            std::fs::write(&marker, "live").unwrap();
        }
        conn.query_drop(format!("USE {}", load::SCHEMA)).unwrap();
        conn.query_drop("DROP TABLE MyISAM_rows").unwrap();
        conn.query_drop("UPDATE bulk SET pad = REPEAT('x', 200), hits = -1 WHERE id % 10 = 0")
            .unwrap();
        conn.query_drop("CREATE TABLE migrated (n INT) ENGINE=InnoDB").unwrap();
    }

    fn rollback(&self, set: &str) -> Value {
        self.tool()
            .json(&["snapshot", "rollback", set, "--yes", "--stop-server"])
    }

    /// Stops whichever server runs on the data.
    fn stop_server(&self) {
        run(&text(&self.scene.lab.path("service-stop")), &[]);
    }

    fn runs(&self) -> bool {
        self.server().try_connect().is_ok()
    }

    /// As soon as LVM has merged what the last one brought back.
    fn rollback_again(&self, set: &str) -> Value {
        self.scene.lab.storage.wait_until_merged();
        self.rollback(set)
    }

    fn sets(&self) -> usize {
        self.tool().json(&["snapshot", "list"]).as_array().unwrap().len()
    }

    fn unfinished(&self) -> usize {
        std::fs::read_dir(self.tool().state.join("rollback")).map_or(0, |entries| entries.count())
    }
}

/// On a terminal the question stays as it was asked, and nothing is drawn over it, until the answer is there.
#[test]
fn the_question_of_a_rollback_is_not_wiped() {
    let Some(scene) = Rehearsal::new(false) else { return };
    scene.hold("asked");
    let screen = scene.scene.lab.path("screen");
    let command = format!(
        "{} --config {} snapshot rollback asked --stop-server",
        std::env::var("SNAPBACK_TEST_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_snapback").to_owned()),
        text(&scene.tool().config)
    );
    let mut asked = std::process::Command::new("script")
        .args(["-qefc", &command, &text(&screen)])
        .env("TERM", "xterm")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let seen = || String::from_utf8_lossy(&std::fs::read(&screen).unwrap_or_default()).into_owned();
    let question = "Roll back? Type `yes`: ";
    crate::common::wait_for("the question", || seen().contains(question));
    // Ten times as long as a bar takes to draw itself again.
    std::thread::sleep(std::time::Duration::from_secs(1));
    let screen = seen();
    assert!(
        screen.ends_with(question),
        "something is drawn behind the question: {screen:?}"
    );
    assert!(screen.contains("what is lost to the server"), "{screen:?}");
    std::io::Write::write_all(asked.stdin.as_mut().unwrap(), b"y\n").unwrap();
    assert_eq!(asked.wait().unwrap().code(), Some(6), "`no` has a status of its own");
    assert!(
        seen().contains("the answer was not `yes`: nothing was done"),
        "{:?}",
        seen()
    );
    // A wish to end is not waited for, and nothing was begun.
    let screen = scene.scene.lab.path("ended");
    let mut ended = std::process::Command::new("script")
        .args(["-qefc", &command, &text(&screen)])
        .env("TERM", "xterm")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let seen = || String::from_utf8_lossy(&std::fs::read(&screen).unwrap_or_default()).into_owned();
    crate::common::wait_for("the question", || seen().contains(question));
    std::io::Write::write_all(ended.stdin.as_mut().unwrap(), b"\x03").unwrap();
    assert_eq!(ended.wait().unwrap().code(), Some(130), "{}", seen());
    assert!(!seen().contains("snapback cleanup"), "{}", seen());
    assert!(scene.server().try_connect().is_ok(), "the server was stopped");
}

#[test]
fn a_server_that_does_not_come_up_leaves_the_data_back_and_says_so() {
    let Some(lab) = Rehearsal::new(false) else { return };
    let (_, before) = lab.hold("set");
    lab.destroy();
    let refuse = lab.scene.lab.path("refuse");
    std::fs::write(&refuse, "").unwrap();
    let output = lab
        .tool()
        .run(&["snapshot", "rollback", "set", "--yes", "--stop-server"]);
    let said = both(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("the data is back") && said.contains("`snapback cleanup` ends"),
        "{said}"
    );
    assert!(!said.contains("clean-up failed"), "{said}");
    std::fs::remove_file(&refuse).unwrap();
    run(&text(&lab.scene.lab.path("service-start")), &[]);
    crate::common::wait_for("the server", || lab.runs());
    assert_eq!((lab.sums(), lab.unfinished()), (before, 1));
    for command in ["check", "backup"] {
        let said = both(&lab.tool().run(&[command]));
        assert!(said.contains("was begun and is not finished"), "{command}: {said}");
    }
    lab.tool().ok(&["cleanup"]);
    assert_eq!(lab.unfinished(), 0);
    assert!(!both(&lab.tool().run(&["check"])).contains("is not finished"));
    lab.stop_server();
}

#[test]
fn back_to_the_held_set_and_forth_again() {
    let Some(lab) = Rehearsal::new(false) else { return };
    back_and_forth(&lab);
}

#[test]
fn back_to_the_held_set_of_a_mysql_server_with_exactly_its_gtids() {
    let gtids = [("gtid-mode", "ON"), ("enforce-gtid-consistency", "ON")];
    let Some(lab) = Rehearsal::of(Flavour::MySql, false, &gtids) else {
        return;
    };
    back_and_forth(&lab);
}

/// All transactions that a server has, by their GTIDs, in its own normal form; MySQL only.
fn gtids(server: &Server) -> Option<String> {
    let of_mysql = server.flavour == Flavour::MySql;
    of_mysql.then(|| server.one::<String>("SELECT @@GLOBAL.gtid_executed").replace('\n', ""))
}

fn back_and_forth(lab: &Rehearsal) {
    // Under load: what is there after the rollback is proved by replay of what the binary log had from the set's position on.
    let load = lab.scene.start_load();
    let before = load.acknowledged();
    let set = lab.tool().json(&["snapshot", "create", "--label", "before"]);
    load.stop();
    let logs = lab.scene.lab.path("logs");
    std::fs::create_dir(&logs).unwrap();
    let (live, live_gtids) = (lab.sums(), gtids(lab.server()));
    for log in lab.server().binary_logs() {
        run("cp", &[&text(&log), &text(&logs)]);
    }
    let saved: Vec<PathBuf> = lab
        .server()
        .binary_logs()
        .iter()
        .map(|log| logs.join(log.file_name().unwrap()))
        .collect();
    lab.destroy();
    let (destroyed, destroyed_gtids) = (lab.sums(), gtids(lab.server()));

    let dry = lab.tool().json(&["snapshot", "rollback", "before", "--dry-run"]);
    assert_eq!(dry["done"], false);
    assert!(dry["plan"]["transactions"].as_u64().unwrap() >= 3, "{dry}");
    assert_eq!(lab.sums(), destroyed, "a dry run changes nothing");
    if let Some(now) = &destroyed_gtids {
        // One server wrote all of them: UUID:1-N.
        let count = |gtids: &str| gtids.rsplit('-').next().unwrap().parse::<u64>().unwrap();
        let since = count(now) - count(set["record"]["position"]["gtid"].as_str().unwrap());
        assert_eq!(dry["plan"]["transactions"], since, "{dry}");
    }

    let done = lab.rollback("before");
    assert_eq!(
        (&done["done"], done["findings"].as_array().unwrap().len()),
        (&Value::Bool(true), 0),
        "{done}"
    );
    let name = if lab.scene.mariadb() { "MariaDB" } else { "9.7" };
    assert!(lab.runs() && done["server"].as_str().unwrap().contains(name), "{done}");
    eprintln!(
        "rollback until the server answers: {} ms",
        done["down_us"].as_u64().unwrap() / 1000
    );
    if let Some(found) = gtids(lab.server()) {
        let of_set = set["record"]["position"]["gtid"].as_str().unwrap().replace('\n', "");
        assert_eq!(found, of_set, "the transactions are those of the set");
        assert_ne!(Some(found), live_gtids, "the load went on after the set");
    }
    let there = load::proven(
        &lab.server().socket,
        lab.scene.mariadb(),
        false,
        crate::setting::THREADS,
    );
    for (thread, (there, before)) in there.iter().zip(&before).enumerate() {
        assert!(
            (0..3).all(|engine| there[engine] >= before[engine]),
            "thread {thread}: {there:?} after {before:?}"
        );
    }
    let position = (
        set["record"]["position"]["file"].as_str().unwrap(),
        set["record"]["position"]["position"].as_u64().unwrap(),
    );
    lab.server().replay(&saved, position.0, position.1);
    assert_eq!(lab.sums(), live, "the set and what came after it are what was live");

    // And the rollback itself is rolled back.
    let kept = done["kept"].as_str().unwrap();
    let uses_up = lab.scene.lab.storage.uses_up();
    let again = lab.rollback_again(kept);
    assert_eq!(again["plan"]["uses_up"], uses_up, "{again}");
    assert_eq!((lab.sums(), gtids(lab.server())), (destroyed.clone(), destroyed_gtids));
    // And once more to the first set, or to what was kept of it.
    let first = if uses_up {
        again["kept"].as_str().unwrap()
    } else {
        "before"
    };
    lab.rollback_again(first);
    assert_ne!(lab.sums(), destroyed);
    assert_eq!((lab.sets(), lab.unfinished()), (if uses_up { 1 } else { 4 }, 0));
    lab.stop_server();
}

/// Thick LVM: without room for a snapshot of what is live, that is given up only where it was said.
#[test]
fn without_room_for_a_way_back_it_is_refused_or_given_up() {
    if !matches!(Kind::chosen(), Kind::Lvm(_)) {
        return;
    }
    let Some(lab) = Rehearsal::new(false) else { return };
    let (_, held) = lab.hold("set");
    lab.destroy();
    let destroyed = lab.sums();
    let group = lab.scene.lab.storage.group();
    run(
        "lvcreate",
        &["-q", "-y", "-W", "n", "-l", "100%FREE", "-n", "rest", group],
    );
    let arguments = ["snapshot", "rollback", "set", "--yes", "--stop-server"];
    let refused = lab.tool().run(&arguments);
    assert_eq!(refused.status.code(), Some(1), "{}", both(&refused));
    assert!(both(&refused).contains("--without-way-back"), "{}", both(&refused));
    assert!(lab.runs());
    assert_eq!(lab.sums(), destroyed);
    assert_eq!((lab.sets(), lab.unfinished()), (1, 0));
    let done = lab.tool().json(&[&arguments[..], &["--without-way-back"]].concat());
    assert_eq!(
        (&done["done"], &done["kept"]),
        (&Value::Bool(true), &Value::Null),
        "{done}"
    );
    assert_eq!(lab.sums(), held);
    assert_eq!((lab.sets(), lab.unfinished()), (0, 0));
    lab.scene.lab.storage.wait_until_merged();
    assert_eq!(lab.scene.lab.storage.snapshots().len(), 0);
    lab.stop_server();
}

#[test]
fn refusals_touch_nothing() {
    let Some(lab) = Rehearsal::new(false) else { return };
    let (_, before) = lab.hold("set");
    let refused = |args: &[&str], status: i32, says: &str| {
        let output = lab.tool().run(&[&["snapshot", "rollback", "set"], args].concat());
        assert_eq!(output.status.code(), Some(status), "{args:?}: {}", both(&output));
        assert!(both(&output).contains(says), "{args:?}: {}", both(&output));
    };
    refused(&[], 2, "no terminal");
    refused(&["--yes"], 1, "the server runs");
    let volume = lab.scene.lab.storage.mount_point().join("db");
    std::fs::write(volume.join("notes"), "mine").unwrap();
    refused(&["--yes", "--stop-server"], 1, "/notes");
    std::fs::remove_file(volume.join("notes")).unwrap();
    assert!(lab.runs());
    assert_eq!(lab.sums(), before);
    assert_eq!((lab.sets(), lab.unfinished()), (1, 0));

    // A server that cannot be stopped is left alone, and so is the data.
    let stop = lab.scene.lab.path("service-stop");
    let script = std::fs::read_to_string(&stop).unwrap();
    std::fs::write(&stop, "#!/bin/sh\nexit 1\n").unwrap();
    refused(&["--yes", "--stop-server"], 1, "service-stop failed");
    std::fs::write(&stop, script).unwrap();
    assert!(lab.runs());

    // Somebody else is on the volume: all is as it was, and the server runs again.
    let mut other = std::process::Command::new("sleep")
        .arg("300")
        .current_dir(&volume)
        .spawn()
        .unwrap();
    refused(&["--yes", "--stop-server"], 1, "is in use by sleep");
    other.kill().unwrap();
    other.wait().unwrap();
    assert!(lab.runs());
    assert_eq!(lab.sums(), before);
    assert_eq!((lab.sets(), lab.unfinished()), (1, 0));
    lab.stop_server();
}

#[test]
fn a_server_that_takes_long_to_end_is_waited_for() {
    let Some(lab) = Rehearsal::new(false) else { return };
    let (_, held) = lab.hold("set");
    lab.destroy();
    // It has given up its locks and still has its directory.
    let program = lab.scene.lab.path("mariadbd");
    std::fs::copy("/bin/sleep", &program).unwrap();
    let volume = lab.scene.lab.storage.mount_point().join("db");
    let mut ending = std::process::Command::new(&program)
        .arg("8")
        .current_dir(&volume)
        .spawn()
        .unwrap();
    let reaper = std::thread::spawn(move || ending.wait().unwrap());
    lab.rollback("set");
    reaper.join().unwrap();
    assert_eq!(lab.sums(), held);
    lab.stop_server();
}

/// A subvolume that is no mount by itself can be renamed under whoever uses it.
#[test]
fn whoever_comes_after_the_last_look_is_seen_and_all_is_as_it_was() {
    let Some(lab) = Rehearsal::new(false) else { return };
    if lab.scene.lab.storage.kind != Kind::Btrfs {
        return lab.stop_server();
    }
    lab.hold("set");
    lab.destroy();
    let live = lab.sums();
    let gate = lab.scene.lab.path("gate");
    let tool = lab.tool().spawn(
        &format!("rollback.unmounted=pause:{}", gate.display()),
        &["snapshot", "rollback", "set", "--yes", "--stop-server"],
    );
    let reached = gate.with_extension("reached");
    wait_for_file(&reached);
    let volume = lab.scene.lab.storage.mount_point().join("db");
    let mut other = std::process::Command::new("sleep")
        .arg("300")
        .current_dir(&volume)
        .spawn()
        .unwrap();
    std::fs::write(&gate, "").unwrap();
    let output = tool.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    assert!(both(&output).contains("is in use by sleep"), "{}", both(&output));
    assert!(lab.runs());
    assert_eq!(lab.sums(), live);
    assert_eq!((lab.sets(), lab.unfinished()), (1, 0));
    other.kill().unwrap();
    other.wait().unwrap();
    lab.rollback("set");
    lab.stop_server();
}

/// In their order; whether `cleanup` goes on (true) or back.
const POINTS: [(&str, bool); 15] = [
    ("rollback.planned", false),
    ("rollback.made", false),
    ("rollback.stopped", false),
    ("rollback.unmounted", false),
    // The record says that names are exchanged, and none has been.
    ("lvm.kept", false),
    ("rollback.away", true),
    ("rollback.other-away", true),
    ("rollback.other-entered", true),
    ("rollback.settling", true),
    ("lvm.merging", true),
    ("rollback.other-committed", true),
    ("rollback.entered", true),
    ("rollback.mounted", true),
    ("rollback.settled", true),
    ("rollback.kept", true),
];

const USUAL: &str = ".stopped,.unmounted,.away,.other-entered,.entered,.settled";

#[test]
fn death_at_every_step_leaves_the_old_or_the_new_whole() {
    let Some(lab) = Rehearsal::new(true) else { return };
    // Each stops and starts a server: CI has one of each kind of step, scripts/test all (`all`), or those that are named.
    let chosen = std::env::var("SNAPBACK_TEST_POINTS").unwrap_or_else(|_| USUAL.to_owned());
    let (mut set, _) = lab.hold("set");
    lab.join_volumes(&set);
    let mut held = lab.state();
    lab.destroy();
    let mut live = lab.state();
    let uses_up = lab.scene.lab.storage.uses_up();
    let elsewhere = |point: &str| point.starts_with("lvm.") && !uses_up;
    let named =
        |point: &str| !elsewhere(point) && (chosen == "all" || chosen.split(',').any(|one| point.ends_with(one)));
    for (point, forward) in POINTS.iter().filter(|(point, _)| named(point)) {
        let sets = lab.sets();
        let output = lab.tool().with_failpoint(
            &format!("{point}=kill"),
            &["snapshot", "rollback", &set, "--yes", "--stop-server"],
        );
        assert_eq!(
            output.status.signal(),
            Some(9),
            "{point} was not reached: {}",
            both(&output)
        );
        if between(point) {
            assert!(
                !exists(&lab.server().datadir),
                "{point}: a server could start on a half-rolled set"
            );
            let refused = lab.tool().run(&["snapshot", "rollback", &set, "--yes"]);
            assert!(both(&refused).contains("cleanup"), "{point}: {}", both(&refused));
        }
        let report = lab.tool().json(&["cleanup"]);
        let expected = if *forward { "finished" } else { "undone" };
        assert_eq!(report["rollbacks"][0]["result"], expected, "{point}: {report}");
        eprintln!("killed at {point}: {expected}");
        assert!(lab.runs(), "{point}: the server was not started again");
        let found = lab.state();
        assert_eq!(
            found,
            if *forward { held.clone() } else { live.clone() },
            "{point}: neither old nor new"
        );
        assert_eq!(lab.unfinished(), 0, "{point}");
        assert_eq!(
            lab.sets(),
            sets + usize::from(*forward && !uses_up),
            "{point}: what was live is kept once"
        );
        assert_eq!(
            lab.tool().json(&["cleanup"])["rollbacks"].as_array().unwrap().len(),
            0,
            "{point}"
        );
        // All that is there belongs to a set.
        assert_eq!(
            lab.scene.lab.storage.snapshots().len(),
            expected_names(&lab),
            "{point}: {:?}",
            lab.scene.lab.storage.snapshots()
        );
        if *forward && uses_up {
            lab.scene.lab.storage.wait_until_merged();
            lab.tool().ok(&["snapshot", "delete", "latest"]);
            set = lab.hold("set").0;
            lab.join_volumes(&set);
            held = lab.state();
        }
        if *forward {
            lab.destroy();
            live = lab.state();
        }
    }
    lab.stop_server();
}

/// Two snapshots for each set; on ZFS what is kept is a dataset besides.
fn expected_names(lab: &Rehearsal) -> usize {
    let sets = lab.sets();
    match lab.scene.lab.storage.kind {
        Kind::Zfs => 2 * sets + 2 * (sets - 1),
        _ => 2 * sets,
    }
}

fn between(point: &str) -> bool {
    let first = POINTS.iter().position(|(one, _)| *one == "rollback.away").unwrap();
    let last = POINTS
        .iter()
        .position(|(one, _)| *one == "rollback.other-committed")
        .unwrap();
    POINTS[first..=last].iter().any(|(one, _)| *one == point)
}

#[test]
fn a_step_that_fails_is_undone_at_once() {
    let Some(lab) = Rehearsal::new(true) else { return };
    let (set, _) = lab.hold("set");
    lab.join_volumes(&set);
    let held = lab.state();
    lab.destroy();
    let live = lab.state();
    let mut points = vec![
        "rollback.record",
        "rollback.away",
        "rollback.other-away",
        "rollback.other-entered",
    ];
    if lab.scene.lab.storage.uses_up() {
        points.push("lvm.kept");
    }
    for point in points {
        let output: Output = lab.tool().with_failpoint(
            &format!("{point}=error@1"),
            &["snapshot", "rollback", &set, "--yes", "--stop-server"],
        );
        assert_eq!(output.status.code(), Some(1), "{point}: {}", both(&output));
        assert!(lab.runs(), "{point}: {}", both(&output));
        assert_eq!(lab.state(), live, "{point}");
        assert_eq!((lab.sets(), lab.unfinished()), (1, 0), "{point}");
        assert_eq!(lab.scene.lab.storage.snapshots().len(), 2, "{point}");
    }
    // A server that does not start afterwards: the data is back, cleanup starts it once it can.
    std::fs::write(lab.scene.lab.path("refuse"), "").unwrap();
    let output = lab
        .tool()
        .run(&["snapshot", "rollback", &set, "--yes", "--stop-server"]);
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    assert!(both(&output).contains("service-start failed"), "{}", both(&output));
    std::fs::remove_file(lab.scene.lab.path("refuse")).unwrap();
    let report = lab.tool().json(&["cleanup"]);
    assert_eq!(report["rollbacks"][0]["result"], "finished", "{report}");
    assert_eq!(lab.state(), held);
    lab.stop_server();
}
