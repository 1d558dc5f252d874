//! The server's user is nobody's friend: while root works, a program of that user puts links, pipes and directories wherever it can reach. Nothing outside changes, and
//! every command ends. `SNAPBACK_THOROUGH=N` tries each command N times in each way of racing.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Flavour, Server, both, missing, run, text};
use crate::setting::Scene;

/// What the racer is after: in the scratch space, in the server's own directory there, in the datadirs.
const WAYS: [&str; 3] = ["space", "run", "data"];

/// The longest that a command may take, raced or not.
const PATIENCE: Duration = Duration::from_secs(240);

/// The account that private servers run as where the configuration names none.
fn usual() -> (String, u32, u32) {
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let of = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let fields: Vec<&str> = line.split(':').collect();
        Some((name.to_owned(), fields[2].parse().unwrap(), fields[3].parse().unwrap()))
    };
    of("mysql").or_else(|| of("nobody")).unwrap()
}

struct Racer(Child);

impl Drop for Racer {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A scene whose data are the usual account's, and what must not change.
struct Field {
    scene: Scene,
    scratch: PathBuf,
    victims: PathBuf,
    account: (String, u32, u32),
}

/// Owner, group, mode, and content or names, of everything below.
fn picture(directory: &Path) -> BTreeMap<PathBuf, (u32, u32, u32, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut paths = vec![directory.to_owned()];
    while let Some(path) = paths.pop() {
        let found = std::fs::symlink_metadata(&path).unwrap();
        let content = match found.is_dir() {
            true => Vec::new(),
            false => std::fs::read(&path).unwrap(),
        };
        if found.is_dir() {
            paths.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        all.insert(path, (found.uid(), found.gid(), found.mode(), content));
    }
    all
}

impl Field {
    fn new(flavour: Flavour) -> Option<Field> {
        if !Path::new("/usr/bin/perl").exists() {
            missing("perl");
            return None;
        }
        let (mut scene, scratch) = Scene::with_scratch(flavour)?;
        // A server whose socket was exchanged never answers.
        let yaml = std::fs::read_to_string(&scene.tool.config).unwrap();
        let limits = "scratch:\n  boot_limit: 25s\n  check_limit: 60s\n";
        std::fs::write(&scene.tool.config, yaml.replace("scratch:\n", limits)).unwrap();
        let account = usual();
        scene.server.exec("CREATE TABLE ledger.kept (a INT) ENGINE=InnoDB");
        // From now on the live server's data are that account's, too.
        scene.server.stop();
        let owner = format!("{}:{}", account.1, account.2);
        run("chown", &["-R", &owner, &text(&scene.server.datadir)]);
        scene.server.start();
        run("chown", &["-R", &owner, &text(&scene.server.datadir)]);
        scene.tool.json(&["backup"]);
        scene.server.exec("CREATE TABLE ledger.later (a INT) ENGINE=InnoDB");
        scene.tool.json(&["binlog", "archive", "--once"]);
        let mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(&scratch, 0o1777);
        let victims = scene.lab.path("victims");
        std::fs::create_dir_all(victims.join("etc")).unwrap();
        for (name, content, bits) in [
            ("etc/shadow", "root's words", 0o600),
            (
                "etc/evil.cnf",
                "[client]\nplugin-dir=/tmp\n[mysqld]\ninit-file=/etc/shadow\n",
                0o644,
            ),
            ("program", "#!/bin/sh\nid -u >>$(dirname $0)/witness\n", 0o755),
        ] {
            std::fs::write(victims.join(name), content).unwrap();
            mode(&victims.join(name), bits);
        }
        for directory in [&victims, &victims.join("etc")] {
            mode(directory, 0o755);
        }
        Some(Field {
            scene,
            scratch,
            victims,
            account,
        })
    }

    fn race(&self, way: &str, datadirs: &[&Path]) -> Racer {
        let log = self.scene.lab.path("racer.log");
        std::fs::File::create(&log).unwrap();
        chown(&log, Some(self.account.1), None).unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/privileged/untrusted/racer.pl");
        let copy = self.scene.lab.path("racer.pl");
        std::fs::copy(script, &copy).unwrap();
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = Command::new("setpriv");
        command
            .args([
                format!("--reuid={}", self.account.1),
                format!("--regid={}", self.account.2),
            ])
            .args(["--clear-groups", "--pdeathsig", "KILL", "nice", "/usr/bin/perl"])
            .arg(&copy)
            .args([way, &text(&self.scratch), &text(&self.victims), &text(&log)])
            .args(datadirs)
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        Racer(command.spawn().unwrap())
    }

    /// Runs a command in every way of racing; whatever comes of it, it ends and nothing outside has changed. The ends that it came to.
    fn withstands(&self, arguments: &[&str], datadirs: &[&Path]) -> Vec<i32> {
        let tries: u64 = std::env::var("SNAPBACK_THOROUGH").map_or(1, |tries| tries.parse().unwrap());
        let before = picture(&self.victims);
        // What the live server, root's here, made since is that account's as well.
        let owner = format!("{}:{}", self.account.1, self.account.2);
        run("chown", &["-R", &owner, &text(&self.scene.server.datadir)]);
        let mut ends = Vec::new();
        let (account, live) = (&self.account, &self.scene.server.datadir);
        for way in WAYS.iter().flat_map(|way| (0..tries).map(move |_| way)) {
            for datadir in datadirs.iter().filter(|datadir| datadir.starts_with(live)) {
                std::fs::create_dir(datadir).unwrap();
                chown(datadir, Some(account.1), Some(account.2)).unwrap();
            }
            let racer = self.race(way, datadirs);
            let begun = Instant::now();
            let mut tool = self
                .scene
                .tool
                .command(&[&["--quiet"], arguments].concat())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            while tool.try_wait().unwrap().is_none() {
                if begun.elapsed() > PATIENCE {
                    tool.kill().unwrap();
                    panic!("{arguments:?} hangs while it is raced in the way `{way}`");
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let output = tool.wait_with_output().unwrap();
            drop(racer);
            assert_eq!(
                picture(&self.victims),
                before,
                "{arguments:?}, {way}: {}",
                both(&output)
            );
            eprintln!("{way} {arguments:?}: {}", both(&output).trim());
            ends.push(output.status.code().unwrap());
            for datadir in datadirs {
                let _ = std::fs::remove_dir_all(datadir);
            }
            let _ = std::fs::remove_file(self.scene.lab.path("dump.sql"));
            self.scene.tool.run(&["cleanup"]);
            // What the racer made is nobody's any more.
            for entry in std::fs::read_dir(&self.scratch).unwrap().flatten() {
                assert_ne!(entry.metadata().unwrap().uid(), 0, "{:?} is left", entry.path());
                let _ = std::fs::remove_dir_all(entry.path());
                let _ = std::fs::remove_file(entry.path());
            }
        }
        ends
    }
}

#[test]
fn the_servers_user_gains_nothing_by_a_race_with_drills_dumps_and_tables() {
    let Some(field) = Field::new(Flavour::MariaDb) else {
        return;
    };
    let socket = text(&field.scene.server.socket);
    let output = text(&field.scene.lab.path("dump.sql"));
    let drilled = field.withstands(&["verify", "latest", "--boot"], &[]);
    // What cannot be entered is not in the racer's way.
    assert!([0, 5].contains(&drilled[0]), "{drilled:?}");
    field.withstands(&["dump", "latest", "--output", &output], &[]);
    let table = [
        "restore",
        "latest",
        "--into-server",
        &socket,
        "--table",
        "ledger.kept",
        "--force",
    ];
    field.withstands(&table, &[]);
}

#[test]
fn the_servers_user_gains_nothing_by_a_race_with_private_servers_on_clones() {
    let Some(field) = Field::new(Flavour::MariaDb) else {
        return;
    };
    let datadir = field.scene.server.datadir.clone();
    field.withstands(&["check", "--consistency", "clean"], &[&datadir.join("raced")]);
    let clean = field.withstands(&["backup", "--consistency", "clean"], &[&datadir.join("raced")]);
    assert!([0, 5].contains(&clean[0]), "{clean:?}");
    field.withstands(&["backup", "--checksums", "all"], &[&datadir.join("raced")]);
}

#[test]
fn the_servers_user_gains_nothing_by_a_race_with_replays() {
    let Some(field) = Field::new(Flavour::MariaDb) else {
        return;
    };
    for workers in ["1", "4"] {
        let datadir = field.scene.lab.path("again");
        let at = text(&datadir);
        let replay = [
            "restore",
            "latest",
            "--datadir",
            &at,
            "--until",
            "end",
            "--replay-workers",
            workers,
        ];
        // Undisturbed, it goes all the way as that user.
        assert!([0, 5].contains(&field.scene.tool.run(&replay).status.code().unwrap()));
        let found = std::fs::metadata(&datadir).unwrap();
        assert_eq!(found.uid(), field.account.1);
        let copy = Server::on(Flavour::MariaDb, &datadir, &field.scene.lab.path("again-run"), &[]);
        assert_eq!(copy.one::<u64>("SELECT COUNT(*) FROM ledger.later"), 0);
        drop(copy);
        std::fs::remove_dir_all(&datadir).unwrap();
        field.withstands(&replay, &[&datadir]);
    }
}
