//! Held sets: taken under load, kept over deaths, read, copied later, removed.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{Flavour, Server, both, load, run, server, text, wait_for_file};
use crate::setting::Scene;

fn scene(extra: &str) -> Option<Scene> {
    Scene::new(Flavour::MariaDb, &[], false, extra)
}

fn create(scene: &Scene, args: &[&str]) -> Value {
    let mut all = vec!["snapshot", "create"];
    all.extend(args);
    scene.tool.json(&all)
}

fn sets(scene: &Scene) -> Vec<Value> {
    let listed = scene.tool.json(&["snapshot", "list"]);
    listed.as_array().unwrap().clone()
}

/// What an error says; the command fails.
fn refused(scene: &Scene, args: &[&str]) -> String {
    let output = scene.tool.run(args);
    assert!(!output.status.success(), "{args:?} was allowed: {}", both(&output));
    both(&output)
}

/// What is mounted of a set, or of the view in our directory: others may run on this machine.
fn mounts(scene: &Scene, held: &Value) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let short = &held["id"].as_str().unwrap()[..8];
    let lab = text(scene.lab.dir.path());
    let ours = |line: &&str| line.contains(short) || (line.contains("tmpfs snapback") && line.contains(&lab));
    table.lines().filter(ours).map(str::to_owned).collect()
}

/// A set's snapshots are never taken for somebody's orphans. Only asked: other orphans on this machine are not ours to remove.
fn assert_no_orphan(scene: &Scene, held: &Value) {
    let would = scene.tool.json(&["cleanup", "--orphans", "--dry-run"]);
    let name = held["volumes"][0]["snapshot"]["name"].as_str().unwrap();
    let orphans = would["orphans"].as_array().unwrap();
    assert!(orphans.iter().all(|orphan| orphan != name), "{would}");
}

/// Where a set is shown, the datadir is below its original path.
fn below(scene: &Scene) -> String {
    text(scene.server.datadir.strip_prefix("/").unwrap())
}

#[test]
fn held_set_taken_under_load_is_exact_when_copied_later_and_when_booted_from_its_mount() {
    let Some(scene) = scene("") else { return };
    let load = scene.start_load();
    let before = load.acknowledged();
    let held = create(&scene, &["--label", "before-upgrade", "--expires", "7d"]);
    assert_eq!(held["level"], "application");
    assert_eq!(held["server"], "running");
    assert_eq!(held["record"]["exact"], true);
    assert!(held["record"]["lock"]["held_us"].as_u64().unwrap() > 0);
    // Life goes on; what comes now is not in the set.
    std::thread::sleep(Duration::from_millis(500));
    load.stop();
    assert_eq!(scene.backups(), 0, "a held set is no backup");
    let listed = sets(&scene);
    assert_eq!((listed.len(), &listed[0]["id"]), (1, &held["id"]));
    assert_eq!(listed[0]["label"], "before-upgrade");
    let shown = scene.tool.ok(&["snapshot", "show", "before-upgrade"]);
    let file = held["record"]["position"]["file"].as_str().unwrap();
    assert!(shown.contains(file) && shown.contains("position exact"), "{shown}");

    let backup = scene.tool.json(&["snapshot", "backup", "latest", "--tag", "why=held"]);
    assert_eq!(backup["time"], held["time"]);
    assert_eq!(backup["position"], held["record"]["position"]);
    assert_ne!(backup["id"], held["id"]);
    scene.prove_exact(&backup, &before, "copied");

    let copy = scene.lab.path("booted");
    let datadir = below(&scene);
    scene
        .tool
        .ok(&["snapshot", "exec", "latest", "--", "cp", "-a", &datadir, &text(&copy)]);
    let booted = Server::on(scene.server.flavour, &copy, &scene.lab.path("booted-run"), &[]);
    scene.prove_same(&held["record"], &before, booted);

    // Read-only, and in the way of a removal.
    let at = scene.lab.path("shown");
    std::fs::create_dir(&at).unwrap();
    scene.tool.ok(&["snapshot", "mount", "latest", &text(&at)]);
    let seen = at.join(&datadir);
    assert!(seen.join("ibdata1").exists());
    let written = std::fs::write(seen.join("mine"), "x").unwrap_err();
    assert_eq!(written.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    assert!(std::fs::write(at.join("mine"), "x").is_err());
    // For root alone.
    assert_eq!(at.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    assert!(!mounts(&scene, &held).is_empty());
    let said = refused(&scene, &["snapshot", "delete", "latest"]);
    assert!(said.contains("mounted") || said.contains("busy"), "{said}");
    crate::common::run("umount", &["-R", &text(&at)]);
    // For others, and what is above the tree keeps out whom it kept out.
    scene
        .tool
        .ok(&["snapshot", "mount", "latest", &text(&at), "--allow-other"]);
    assert_eq!(at.metadata().unwrap().permissions().mode() & 0o777, 0o755);
    let mut above = PathBuf::new();
    for name in Path::new(&datadir).parent().unwrap() {
        above.push(name);
        let mode = |path: PathBuf| path.metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(at.join(&above)), mode(Path::new("/").join(&above)), "{above:?}");
    }
    crate::common::run("umount", &["-R", &text(&at)]);
    assert!(sets(&scene)[0]["deleting"].is_null());

    scene.tool.ok(&["snapshot", "delete", "before-upgrade"]);
    assert!(sets(&scene).is_empty());
    scene.assert_nothing_left();
    assert_eq!(mounts(&scene, &held), Vec::<String>::new());
    scene.tool.ok(&["verify", "--all"]);
}

#[test]
fn a_death_before_the_record_leaves_nothing_and_one_after_it_leaves_the_set() {
    let Some(scene) = scene("") else { return };
    for point in ["backup.fixed", "held.before-record"] {
        let output = scene
            .tool
            .with_failpoint(&format!("{point}=kill"), &["snapshot", "create"]);
        assert_eq!(output.status.signal(), Some(9), "{point}: {}", both(&output));
        scene.assert_writable();
        assert!(sets(&scene).is_empty());
        scene.cleanup();
        scene.assert_nothing_left();
    }
    let failed = scene
        .tool
        .with_failpoint("held.before-record=error", &["snapshot", "create"]);
    assert_eq!(failed.status.code(), Some(1), "{}", both(&failed));
    scene.assert_nothing_left();

    let output = scene
        .tool
        .with_failpoint("held.recorded=kill", &["snapshot", "create", "--label", "kept"]);
    assert_eq!(output.status.signal(), Some(9), "{}", both(&output));
    assert_eq!(sets(&scene).len(), 1);
    // At most what it was mounted on is said to be left.
    let checked = scene.tool.json(&["check"]);
    let findings = checked["findings"].as_array().unwrap();
    let mut stale = findings.iter().filter(|finding| finding["code"] == "stale-run");
    assert!(
        stale.all(|finding| !finding["message"].as_str().unwrap().contains("snapshot ")),
        "{checked}"
    );
    let kept = sets(&scene).remove(0);
    assert_no_orphan(&scene, &kept);
    let cleaned = scene.tool.json(&["cleanup"]);
    let removed = cleaned["runs"][0]["removed"].to_string();
    assert!(!removed.contains("snapshot "), "{cleaned}");
    assert_eq!(std::fs::read_dir(scene.tool.state.join("runs")).unwrap().count(), 0);
    assert_eq!(scene.lab.storage.snapshots().len(), 1);
    scene.tool.ok(&["snapshot", "exec", "kept", "--", "ls", &below(&scene)]);
    // Without a journal it is the record that speaks for it.
    assert_no_orphan(&scene, &kept);
    scene.tool.json(&["cleanup"]);
    assert_eq!(scene.lab.storage.snapshots().len(), 1);

    // Half a removal goes on, and nobody reads what is half there.
    let output = scene
        .tool
        .with_failpoint("held.deleting=kill", &["snapshot", "delete", "kept"]);
    assert_eq!(output.status.signal(), Some(9), "{}", both(&output));
    assert_eq!(sets(&scene)[0]["deleting"], true);
    let said = refused(&scene, &["snapshot", "exec", "kept", "--", "true"]);
    assert!(said.contains("removal"), "{said}");
    let cleaned = scene.tool.json(&["cleanup"]);
    assert_eq!(cleaned["removed_sets"].as_array().unwrap().len(), 1, "{cleaned}");
    assert!(sets(&scene).is_empty());
    scene.assert_nothing_left();
}

#[test]
fn what_has_expired_goes_and_what_was_lost_is_told() {
    let Some(scene) = scene("") else { return };
    let stays = create(&scene, &["--label", "stays"]);
    create(&scene, &["--label", "goes", "--expires", "1s"]);
    std::thread::sleep(Duration::from_millis(1100));
    let would = scene.tool.json(&["snapshot", "expire", "--dry-run"]);
    assert_eq!(would["removed"][0]["label"], "goes");
    assert_eq!(sets(&scene).len(), 2);
    let cleaned = scene.tool.json(&["cleanup"]);
    assert_eq!(cleaned["removed_sets"][0]["reason"], "expired", "{cleaned}");
    let left = sets(&scene);
    assert_eq!((left.len(), &left[0]["id"]), (1, &stays["id"]));
    assert_eq!(scene.lab.storage.snapshots().len(), 1);

    for name in scene.lab.storage.snapshots() {
        scene.lab.storage.destroy(&name);
    }
    for args in [
        &["cleanup"][..],
        &["check"],
        &["snapshot", "list"],
        &["snapshot", "watch"],
    ] {
        let output = scene.tool.run(args);
        assert_eq!(output.status.code(), Some(5), "{args:?}: {}", both(&output));
        assert!(both(&output).contains("lost"), "{args:?}: {}", both(&output));
    }
    scene.tool.ok(&["snapshot", "delete", "stays"]);
    scene.assert_nothing_left();
}

#[test]
fn exec_gives_the_commands_status_and_leaves_no_mount_however_it_ends() {
    let Some(scene) = scene("") else { return };
    let held = create(&scene, &[]);
    let datadir = below(&scene);
    let status = |script: &str| {
        let output = scene
            .tool
            .run(&["snapshot", "exec", "latest", "--", "sh", "-c", script]);
        assert_eq!(mounts(&scene, &held), Vec::<String>::new());
        output.status.code()
    };
    assert_eq!(
        status(&format!(
            "test -f \"$SNAPBACK_MOUNT/{datadir}/ibdata1\" && test -f {datadir}/ibdata1"
        )),
        Some(0)
    );
    assert_eq!(status(&format!("! touch {datadir}/x 2>/dev/null && exit 42")), Some(42));
    assert_eq!(status("kill -TERM $$"), Some(143));

    let started = scene.lab.path("started");
    for (signal, code) in [
        (rustix::process::Signal::TERM, Some(143)),
        (rustix::process::Signal::KILL, None),
    ] {
        let _ = std::fs::remove_file(&started);
        let script = format!("echo $$ > {0}.tmp; mv {0}.tmp {0}; exec sleep 600", text(&started));
        let mut child = scene
            .tool
            .spawn("", &["snapshot", "exec", "latest", "--", "sh", "-c", &script]);
        wait_for_file(&started);
        let command = std::fs::read_to_string(&started).unwrap();
        let command = PathBuf::from(format!("/proc/{}/root", command.trim()));
        let said = refused(&scene, &["snapshot", "delete", "latest"]);
        assert!(said.contains("in use"), "{said}");
        server::signal(child.id(), signal);
        assert_eq!(child.wait().unwrap().code(), code);
        let begun = Instant::now();
        while command.exists() {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "the command outlived the tool"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(mounts(&scene, &held), Vec::<String>::new());
    }
    scene.tool.ok(&["snapshot", "delete", "latest"]);
    scene.assert_nothing_left();
}

/// A look at a set that is killed leaves an empty directory; one that is alive, and what its command left behind in its mounts, keep theirs.
#[test]
fn cleanup_removes_the_empty_directories_of_looks_that_were_killed() {
    let Some(scene) = scene("") else { return };
    let held = create(&scene, &[]);
    let short = &held["id"].as_str().unwrap()[..8];
    let ours = || {
        let mut found: Vec<PathBuf> = std::fs::read_dir("/run/snapback")
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|at| text(at).contains(&format!("-{short}-")))
            .collect();
        found.sort();
        found
    };
    let look = |script: &str| {
        let started = scene.lab.path("started");
        let _ = std::fs::remove_file(&started);
        let script = script.replace("STARTED", &format!("echo $$ > {0}.tmp; mv {0}.tmp {0}", text(&started)));
        let child = scene
            .tool
            .spawn("", &["snapshot", "exec", "latest", "--", "sh", "-c", &script]);
        let begun = Instant::now();
        while !started.exists() {
            assert!(begun.elapsed() < Duration::from_secs(60), "the command did not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        (child, std::fs::read_to_string(&started).unwrap().trim().to_owned())
    };
    let ended = |process: &str| {
        let begun = Instant::now();
        while std::fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "process {process} does not end"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    // Killed before and after something was mounted: one with its places, one with its view.
    let died = scene
        .tool
        .with_failpoint("held.readable=kill", &["snapshot", "exec", "latest", "--", "true"]);
    assert_eq!(died.status.code(), None, "{}", both(&died));
    assert_eq!(ours().len(), 2);
    let (mut child, process) = look("STARTED; exec sleep 600");
    child.kill().unwrap();
    child.wait().unwrap();
    ended(&process);
    let dead = ours();
    assert_eq!(dead.len(), 3);
    // The command of this one goes on with a process that outlives it.
    let (mut left, process) = look("setsid sh -c 'STARTED; exec sleep 600' & wait");
    left.kill().unwrap();
    left.wait().unwrap();
    let (alive, _) = look(&format!(
        "STARTED; read -r go < {}; test -f {}/ibdata1",
        text(&gate(&scene)),
        below(&scene)
    ));
    assert_eq!(ours().len(), 5);

    let named = |report: &serde_json::Value, what: &str| -> Vec<PathBuf> {
        let all = report[what].as_array().unwrap().iter();
        let path = |one: &serde_json::Value| PathBuf::from(one.as_str().unwrap());
        all.map(path).filter(|at| text(at).contains(short)).collect()
    };
    let would = scene.tool.json(&["cleanup", "--dry-run"]);
    assert_eq!((named(&would, "removed_directories"), ours().len()), (dead.clone(), 5));
    let report = scene.tool.json(&["cleanup"]);
    assert_eq!(named(&report, "removed_directories"), dead, "{report}");
    let stays = format!("view-{short}-{}", left.id());
    let said = report["findings"].to_string();
    assert!(said.contains(&stays) && said.contains("mounted"), "{said}");
    assert!(!said.contains(&format!("view-{short}-{}", alive.id())), "{said}");
    assert_eq!(ours().len(), 2);
    // Both still see the set.
    let datadir = scene.server.datadir.strip_prefix("/").unwrap();
    let seen = Path::new("/run/snapback").join(&stays).join(datadir).join("ibdata1");
    assert!(Path::new(&format!("/proc/{process}/root{}", seen.display())).exists());
    std::fs::write(gate(&scene), "go\n").unwrap();
    let output = alive.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", both(&output));

    // What is not empty is not ours to remove.
    server::signal(process.parse().unwrap(), rustix::process::Signal::KILL);
    ended(&process);
    let stays = Path::new("/run/snapback").join(stays);
    std::fs::write(stays.join("f"), "").unwrap();
    let report = scene.tool.json_with(&["cleanup"], &[5]);
    assert!(report["findings"].to_string().contains("not empty"), "{report}");
    std::fs::remove_file(stays.join("f")).unwrap();
    let report = scene.tool.json(&["cleanup"]);
    assert_eq!(named(&report, "removed_directories"), [stays]);
    assert_eq!(ours(), Vec::<PathBuf>::new());
    scene.tool.ok(&["snapshot", "delete", "latest"]);
    scene.assert_nothing_left();
}

/// A pipe that a command waits at.
fn gate(scene: &Scene) -> PathBuf {
    let gate = scene.lab.path("gate");
    if !gate.exists() {
        run("mkfifo", &[&text(&gate)]);
    }
    gate
}

#[test]
fn diff_names_what_was_written_since() {
    let Some(scene) = scene("") else { return };
    create(&scene, &[]);
    let schema = load::SCHEMA;
    scene
        .server
        .exec(&format!("CREATE TABLE {schema}.later (n INT) ENGINE=MyISAM"));
    let diff = scene.tool.json(&["snapshot", "diff", "latest"]);
    let find = |name: &str| {
        let changes = diff["changes"].as_array().unwrap();
        changes
            .iter()
            .find(|change| change["path"].as_str().unwrap().ends_with(name))
            .cloned()
    };
    assert_eq!(find("ledger/later.MYD").unwrap()["what"], "added", "{diff}");
    assert!(find("ledger/bulk.frm").is_none(), "{diff}");
    scene.tool.ok(&["snapshot", "delete", "latest"]);
}

/// A hook that writes to the server: under the lock it would wait until its statement gives up.
fn writes(scene: &Scene, name: &str) -> PathBuf {
    let script = scene.lab.path(name);
    let client = format!("mariadb --no-defaults -u root -S {}", text(&scene.server.socket));
    let said = format!(
        "#!/bin/sh\nset -e\n{client} -e \"SET lock_wait_timeout=1; CREATE TABLE {}.{name} (n INT) ENGINE=InnoDB\"\n\
         echo \"$SNAPBACK_HOOK $SNAPBACK_COMMAND $SNAPBACK_STATUS $SNAPBACK_POSITION_FILE\" >> {}\n",
        load::SCHEMA,
        text(&scene.lab.path("hooks.log"))
    );
    std::fs::write(&script, said).unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    script
}

fn configure(scene: &Scene, yaml: &str) {
    let mut text = std::fs::read_to_string(&scene.tool.config).unwrap();
    text.truncate(text.find("hooks:").unwrap_or(text.len()));
    std::fs::write(&scene.tool.config, format!("{text}{yaml}\n")).unwrap();
}

#[test]
fn hooks_run_outside_the_lock_unless_they_say_otherwise() {
    let Some(scene) = scene("") else { return };
    let (before, after, within) = (
        writes(&scene, "before"),
        writes(&scene, "after"),
        writes(&scene, "within"),
    );
    configure(
        &scene,
        &format!(
            "hooks: {{before_quiesce: [{{command: [{}]}}], after_release: [{{command: [{}]}}]}}",
            text(&before),
            text(&after)
        ),
    );
    let held = create(&scene, &[]);
    let log = || std::fs::read_to_string(scene.lab.path("hooks.log")).unwrap();
    let file = held["record"]["position"]["file"].as_str().unwrap();
    assert_eq!(
        log(),
        format!("before_quiesce snapshot  \nafter_release snapshot ok {file}\n")
    );
    // Its tables are there now: the hooks fail.
    let failed = scene.tool.run(&["backup"]);
    assert_eq!(failed.status.code(), Some(1), "{}", both(&failed));
    assert!(
        both(&failed).contains("before_quiesce hook failed"),
        "{}",
        both(&failed)
    );
    assert_eq!(scene.backups(), 0);
    configure(
        &scene,
        &format!("hooks: {{after_release: [{{command: [{}]}}]}}", text(&after)),
    );
    let warned = scene.tool.json_with(&["backup"], &[5]);
    assert_eq!(warned["warnings"][0]["code"], "hook", "{warned}");
    scene.tool.ok(&["snapshot", "delete", "latest"]);

    // The same script under the lock cannot write: that the others could shows that there was none.
    configure(
        &scene,
        &format!(
            "hooks: {{before_quiesce: [{{command: [{}], in_lock: true, timeout: 4s}}]}}",
            text(&within)
        ),
    );
    let failed = scene.tool.run(&["snapshot", "create"]);
    assert_eq!(failed.status.code(), Some(1), "{}", both(&failed));
    assert!(both(&failed).contains("in_lock hook failed"), "{}", both(&failed));
    scene.assert_writable();
    assert!(sets(&scene).is_empty());
    scene.assert_nothing_left();
}

#[test]
fn a_stopped_server_gives_a_clean_set_and_a_killed_one_is_told() {
    let Some(mut scene) = scene("") else { return };
    let base: String = scene.server.one("SELECT @@log_bin_basename");
    let file = scene.lab.path("server.cnf");
    let datadir = text(&scene.server.datadir);
    std::fs::write(&file, format!("[mysqld]\ndatadir={datadir}\nlog_bin={base}\n")).unwrap();
    let config = std::fs::read_to_string(&scene.tool.config).unwrap();
    let known = config.replace(
        "  user: root\n",
        &format!("  user: root\n  option_file: {}\n", text(&file)),
    );
    std::fs::write(&scene.tool.config, &known).unwrap();

    // One that runs and only does not answer is not stopped.
    let socket = text(&scene.server.socket);
    std::fs::write(&scene.tool.config, known.replace(&socket, "/nonexistent/socket")).unwrap();
    let said = refused(&scene, &["snapshot", "create"]);
    assert!(said.contains("not stopped"), "{said}");
    std::fs::write(&scene.tool.config, &known).unwrap();

    scene.start_load().stop();
    let wanted = scene.server.checksums(load::SCHEMA);
    scene.server.stop();
    let held = create(&scene, &["--label", "stopped"]);
    assert_eq!((&held["level"], &held["server"]), (&"clean".into(), &"stopped".into()));
    assert_eq!(held["record"]["exact"], true, "{held}");
    let copy = scene.lab.path("clean");
    scene.tool.ok(&[
        "snapshot",
        "exec",
        "stopped",
        "--",
        "cp",
        "-a",
        &below(&scene),
        &text(&copy),
    ]);
    let booted = Server::on(scene.server.flavour, &copy, &scene.lab.path("clean-run"), &[]);
    assert!(!booted.log().contains("crash recovery"), "{}", booted.log());
    assert_eq!(booted.checksums(load::SCHEMA), wanted);
    drop(booted);
    scene.tool.json(&["snapshot", "backup", "stopped"]);

    scene.server.start();
    // The position is where it went on: the server begins its next log there.
    let position = &held["record"]["position"];
    let end: (String, u64) = {
        use mysql::prelude::Queryable;
        let rows: Vec<(String, u64)> = scene.server.connect().query("SHOW BINARY LOGS").unwrap();
        rows[rows.len() - 2].clone()
    };
    assert_eq!(
        (&position["file"], &position["position"]),
        (&end.0.into(), &end.1.into())
    );

    scene.server.kill();
    let killed = scene.tool.json_with(&["snapshot", "create"], &[5]);
    assert_eq!(
        (&killed["level"], &killed["server"]),
        (&"crash".into(), &"killed".into())
    );
    assert_eq!(killed["record"]["exact"], false);
    for _ in 0..2 {
        scene.tool.ok(&["snapshot", "delete", "latest"]);
    }
    scene.assert_nothing_left();
}

#[test]
fn a_set_whose_storage_is_not_mounted_is_out_of_reach_and_not_deleted() {
    let Some(mut scene) = scene("") else { return };
    create(&scene, &["--label", "keep"]);
    scene.server.stop();
    let (at, device) = (
        text(scene.lab.storage.mount_point()),
        scene.lab.storage.device().to_owned(),
    );
    run("umount", &[&at]);
    let listed = both(&scene.tool.run(&["snapshot", "list"]));
    assert!(
        listed.contains("out of reach") && listed.contains("is not mounted"),
        "{listed}"
    );
    assert!(
        !listed.contains("lost") && !listed.contains("snapshot delete"),
        "{listed}"
    );
    let said = refused(&scene, &["snapshot", "delete", "keep"]);
    assert!(
        said.contains("Nothing was removed") && said.contains("--force"),
        "{said}"
    );
    assert!(sets(&scene)[0]["deleting"].is_null());
    let said = both(&scene.tool.run(&["snapshot", "rollback", "keep", "--dry-run"]));
    assert!(said.contains("out of reach"), "{said}");

    run("mount", &[&device, &at]);
    assert!(sets(&scene)[0]["findings"].as_array().unwrap().is_empty());
    run("umount", &[&at]);
    let forgotten = scene.tool.json(&["snapshot", "delete", "keep", "--force"]);
    run("mount", &[&device, &at]);
    let stay = forgotten["stay"][0].as_str().unwrap();
    assert!(Path::new(stay).exists() && sets(&scene).is_empty(), "{forgotten}");
    run("btrfs", &["subvolume", "delete", stay]);
}
