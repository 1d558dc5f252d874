//! Level `clean`: what is copied was recovered, checked and shut down by a private server; it starts without any recovery, and is exact.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::common::{Flavour, Kind, Server, both, run, text};
use crate::setting::Scene;

const CLEAN: [&str; 3] = ["backup", "--consistency", "clean"];

/// With a directory outside of the datadir that holds tables.
fn scene(flavour: Flavour) -> Option<(Scene, PathBuf)> {
    let (mut scene, _) = Scene::with_scratch(flavour)?;
    let far = scene.server.datadir.with_file_name("far");
    std::fs::create_dir(&far).unwrap();
    scene.server.stop();
    let (datadir, work) = (scene.server.datadir.clone(), scene.lab.path("run"));
    let known = text(&far);
    let options: &[(&str, &str)] = match flavour {
        Flavour::MariaDb => &[],
        Flavour::MySql => &[("innodb-directories", &known)],
    };
    scene.server = Server::on(flavour, &datadir, &work, options);
    scene.server.exec("CREATE DATABASE away");
    let far_table = |engine: &str, table: &str| {
        let sql = format!(
            "CREATE TABLE away.{table} (a INT PRIMARY KEY) ENGINE={engine} DATA DIRECTORY='{}'",
            far.display()
        );
        scene.server.exec(&sql);
        scene.server.exec(&format!("INSERT INTO away.{table} VALUES (1), (2)"));
    };
    far_table("InnoDB", "inno");
    if scene.mariadb() {
        far_table("MyISAM", "my");
    }
    Some((scene, far))
}

fn assert_nothing_left(scene: &Scene) {
    let scratch = scene.lab.path("scratch");
    assert!(
        std::fs::read_dir(&scratch).unwrap().next().is_none(),
        "scratch space is left"
    );
    scene.assert_nothing_left();
}

/// What a server says when it has something to recover.
fn recovers(log: &str) -> Option<&str> {
    let words = [
        "crash recovery",
        "Aria engine: starting recovery",
        "Doing recovery",
        "scanned up to",
    ];
    log.lines().find(|line| words.iter().any(|word| line.contains(word)))
}

fn clean(flavour: Flavour) {
    let Some((mut scene, far)) = scene(flavour) else { return };
    let load = scene.start_load();
    let before = load.acknowledged();
    let backup = scene.tool.json(&CLEAN);
    load.stop();
    assert_eq!(backup["consistency"], "clean");
    assert_eq!(backup["exact"], true);
    assert_nothing_left(&scene);
    let shown = scene.tool.json(&["show", "latest"]);
    let recovery = &shown["record"]["recovery"];
    eprintln!("{flavour:?}: {recovery}\n{}", shown["record"]["lock"]["held_us"]);
    assert_eq!(
        recovery["recovery"]["crash_recovery"], true,
        "the snapshot had something to recover: {recovery}"
    );
    assert!(recovery["tables"].as_u64().unwrap() > 20, "{recovery}");

    let drilled = scene.tool.json_with(&["verify", "--boot"], &[0]);
    let verdict = &drilled["drills"][0]["verdict"];
    assert_eq!(verdict["recovery"]["crash_recovery"], false, "{verdict}");
    assert_eq!(verdict["position"]["agrees"], true, "{verdict}");

    // Beside the live server, and then it is proven to be the same.
    let datadir = scene.lab.path("copy");
    scene.tool.json(&["restore", "latest", "--datadir", &text(&datadir)]);
    let moved = scene.lab.path("copy.external").join(far.strip_prefix("/").unwrap());
    let known = text(&moved);
    let options: &[(&str, &str)] = match flavour {
        Flavour::MariaDb => &[],
        Flavour::MySql => &[("innodb-directories", &known)],
    };
    let restored = Server::on(flavour, &datadir, &scene.lab.path("copy-run"), options);
    let log = std::fs::read_to_string(scene.lab.path("copy-run").join("log")).unwrap();
    assert_eq!(recovers(&log), None, "{log}");
    assert_eq!(restored.one::<u64>("SELECT COUNT(*) FROM away.inno"), 2);
    assert_eq!(
        restored.one::<u64>("SELECT COUNT(*) FROM mysql.user WHERE user LIKE 'snapback%'"),
        0
    );
    scene.prove_same(&backup, &before, restored);

    // What a restore in place starts is the live server's: the same paths, links and dictionary as before.
    scene.server.stop();
    let report = scene.tool.json(&["restore", "latest", "--in-place", "--force"]);
    let told = report["next_steps"].to_string();
    for entry in std::fs::read_dir(&far).unwrap().flatten() {
        // MySQL looks into every directory here, and that is said.
        let aside = text(&entry.path());
        if aside.contains(".snapback-before-") {
            assert_eq!(
                told.contains(&format!("move {aside} out of")),
                !scene.mariadb(),
                "{told}"
            );
            run("rm", &["-r", &aside]);
        }
    }
    scene.server.start();
    assert_eq!(scene.server.one::<u64>("SELECT COUNT(*) FROM away.inno"), 2);
    if scene.mariadb() {
        assert_eq!(scene.server.one::<u64>("SELECT COUNT(*) FROM away.my"), 2);
    }
    let log = std::fs::read_to_string(scene.lab.path("run").join("log")).unwrap();
    assert_eq!(recovers(&log), None, "{log}");
}

#[test]
fn a_clean_mariadb_backup_needs_no_recovery_and_is_exact() {
    clean(Flavour::MariaDb);
}

#[test]
fn a_clean_mysql_backup_needs_no_recovery_and_is_exact() {
    clean(Flavour::MySql);
}

#[test]
fn a_snapshot_that_does_not_recover_or_has_a_damaged_table_becomes_no_backup() {
    let Some((scene, _)) = scene(Flavour::MariaDb) else {
        return;
    };
    scene.start_load().stop();
    let spoiled = |file: &str, at: u64, word: &str| {
        let gate = scene.lab.path(&format!("gate-{}", word.len()));
        let tool = scene
            .tool
            .spawn(&format!("clean.cloned=pause:{}", gate.display()), &CLEAN);
        let clone = scene.clone_of(&gate);
        let file = std::fs::File::options().write(true).open(clone.join(file)).unwrap();
        file.write_all_at(&[0xf5; 12_288], at).unwrap();
        std::fs::write(&gate, "").unwrap();
        let output = tool.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", both(&output));
        assert!(both(&output).contains(word), "{}", both(&output));
        assert_eq!(scene.backups(), 0);
        assert_nothing_left(&scene);
    };
    spoiled("ib_logfile0", 0, "does not start");
    let size = std::fs::metadata(scene.server.datadir.join("ledger/MyISAM_rows.MYD"))
        .unwrap()
        .len();
    spoiled("ledger/MyISAM_rows.MYD", size / 2, "ledger.MyISAM_rows");
    // The live server is as it was.
    scene.assert_writable();
    scene.tool.json(&CLEAN);
}

#[test]
fn a_clean_run_that_dies_leaves_no_server_and_cleanup_removes_its_clones() {
    let Some((scene, _)) = scene(Flavour::MariaDb) else {
        return;
    };
    let gate = scene.lab.path("gate");
    let mut tool = scene
        .tool
        .spawn(&format!("clean.booted=pause:{}", gate.display()), &CLEAN);
    scene.clone_of(&gate);
    let scratch = scene.lab.path("scratch");
    let space = std::fs::read_dir(&scratch).unwrap().next().unwrap().unwrap().path();
    let pid: u32 = std::fs::read_to_string(space.join("run/pid"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    // It sees the clones in place of the live files, and writes nowhere else.
    let mounts = std::fs::read_to_string(format!("/proc/{pid}/mounts")).unwrap();
    assert!(
        mounts.contains(&format!(" {} ", scene.server.datadir.display())),
        "{mounts}"
    );
    tool.kill().unwrap();
    tool.wait().unwrap();
    let begun = Instant::now();
    while std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(
            begun.elapsed() < Duration::from_secs(120),
            "the server outlives the tool"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    scene.cleanup();
    assert_nothing_left(&scene);
    for (point, sign, status) in [("clean.booted", 2, 130), ("clean.cloned", 15, 143)] {
        let output = scene.tool.with_failpoint(&format!("{point}=signal:{sign}"), &CLEAN);
        assert_eq!(output.status.code(), Some(status), "{}", both(&output));
        assert_nothing_left(&scene);
    }
    let output = scene.tool.with_failpoint("clean.clone=error", &CLEAN);
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    assert_nothing_left(&scene);
    assert_eq!(scene.backups(), 0);
}

/// The last: both are there, and mounted.
#[test]
fn a_kill_around_a_clone_leaves_nothing_after_cleanup() {
    use std::os::unix::process::ExitStatusExt;
    let Some(scene) = Scene::new(Flavour::MariaDb, &[], false, "") else {
        return;
    };
    for point in ["clean.clone", "volume.cloned", "clean.cloned"] {
        let output = scene.tool.with_failpoint(&format!("{point}=kill"), &CLEAN);
        assert_eq!(
            output.status.signal(),
            Some(9),
            "{point} was not reached: {}",
            both(&output)
        );
        scene.assert_writable();
        scene.cleanup();
        scene.assert_nothing_left();
    }
    assert_eq!(scene.backups(), 0);
}

/// A thick snapshot is written to itself, so it fills with what the private server writes as well. Checksums beside a plain copy are read after it.
#[test]
fn copy_on_write_space_is_watched_while_a_private_server_works() {
    if !matches!(Kind::chosen(), Kind::Lvm(_)) {
        return;
    }
    let Some(scene) = Scene::new(
        Flavour::MariaDb,
        &[],
        false,
        "lvm: {cow_size: 200MiB, cow_limit: 600MiB}\n",
    ) else {
        return;
    };
    let report = |what: &str| {
        let ours = scene.lab.storage.snapshots().pop()?;
        let name = format!("{}/{ours}", scene.lab.storage.group());
        let printed = run(
            "lvs",
            &["--noheadings", "--units", "m", "--nosuffix", "-o", what, &name],
        );
        // Nothing is said of one that overflowed.
        Some(printed.trim().parse::<f64>().unwrap_or(100.0))
    };
    // Changes so much of what the snapshot holds while a private server is up, until what is waited for has come.
    let filled = |args: &[&str], gate: &str, mebibytes: usize, come: &dyn Fn() -> bool| {
        let at = scene.lab.path(gate);
        let mut child = scene.tool.spawn(&format!("clean.booted=pause:{}", at.display()), args);
        // It may have ended; then its output, which the caller shows, says why.
        let mut wait = |done: &dyn Fn() -> bool| {
            while child.try_wait().unwrap().is_none() && !done() {
                std::thread::sleep(Duration::from_millis(200));
            }
        };
        wait(&|| scene.lab.path(&format!("{gate}.reached")).exists());
        let ballast = scene.lab.storage.mount_point().join("db/ballast");
        std::fs::write(ballast, vec![7u8; mebibytes << 20]).unwrap();
        run("sync", &[]);
        wait(come);
        std::fs::write(&at, "").unwrap();
        child.wait_with_output().unwrap()
    };
    let output = filled(&CLEAN, "grown", 150, &|| report("lv_size") > Some(200.0));
    assert!(matches!(output.status.code(), Some(0 | 5)), "{}", both(&output));
    scene.assert_nothing_left();
    scene.tool.ok(&["verify", "latest", "--level", "data"]);

    let full = || report("data_percent") >= Some(100.0);
    let yaml = std::fs::read_to_string(&scene.tool.config).unwrap();
    std::fs::write(&scene.tool.config, yaml.replace(", cow_limit: 600MiB", "")).unwrap();
    let output = filled(&CLEAN, "full", 300, &full);
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    assert!(both(&output).contains("overflowed"), "{}", both(&output));
    scene.assert_nothing_left();
    assert_eq!(scene.backups(), 1);
    // What was copied before is a backup.
    let output = filled(&["backup", "--checksums", "all"], "sums", 300, &full);
    assert_eq!(output.status.code(), Some(5), "{}", both(&output));
    let said = both(&output);
    assert!(said.contains("no checksums") && said.contains("overflowed"), "{said}");
    scene.assert_nothing_left();
    assert_eq!(scene.backups(), 2);
    scene.assert_writable();
}

/// As an `lvcreate` of the clone leaves it that was killed together with the tool.
#[test]
fn a_thin_snapshot_that_was_suspended_for_its_clone_is_resumed_by_cleanup() {
    if Kind::chosen() != Kind::LvmThin {
        return;
    }
    let Some(scene) = Scene::new(Flavour::MariaDb, &[], false, "") else {
        return;
    };
    let output = scene.tool.with_failpoint("clean.clone=kill", &CLEAN);
    assert!(!output.status.success());
    let [ours] = &scene.lab.storage.snapshots()[..] else {
        panic!("{:?}", scene.lab.storage.snapshots());
    };
    let name = format!("{}/{ours}", scene.lab.storage.group());
    let path = run("lvs", &["--noheadings", "-o", "lv_dm_path", &name]);
    run("dmsetup", &["suspend", path.trim()]);
    scene.cleanup();
    scene.assert_nothing_left();
}

#[test]
fn what_stands_in_the_way_of_a_clean_backup_is_said_before() {
    let Some((scene, _)) = scene(Flavour::MariaDb) else {
        return;
    };
    let said = |args: &[&str], word: &str| {
        let output = scene.tool.run(&[&["check", "--consistency", "clean"], args].concat());
        assert!(
            !output.status.success() && both(&output).contains(word),
            "{args:?}: {}",
            both(&output)
        );
    };
    said(&["--lock", "lockless"], "level `clean`");
    said(&["--lock", "none"], "crash");
    let yaml = std::fs::read_to_string(&scene.tool.config).unwrap();
    std::fs::write(&scene.tool.config, format!("{yaml}  mysqld: /bin/true\n")).unwrap();
    said(&[], "/bin/true");
}
