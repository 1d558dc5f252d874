//! Somebody else owns the directory that root restores into, and exchanges names there: nothing outside changes.
//! `SNAPBACK_THOROUGH=N`: so many races. Needs `--features failpoints`.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Tool, both, text};

pub const NOBODY: u32 = 65_534;

/// Root's directory, somebody's home, and a backup whose tree belongs to that somebody.
struct Scene {
    dir: tempfile::TempDir,
    tool: Tool,
}

impl Scene {
    fn new() -> Scene {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let tree = dir.path().join("tree");
        for at in ["", "db"] {
            std::fs::create_dir(tree.join(at)).unwrap();
            std::fs::write(tree.join(at).join("evil.sh"), "rows").unwrap();
        }
        for at in ["", "db", "evil.sh", "db/evil.sh"] {
            chown(tree.join(at), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        std::fs::set_permissions(&tree, std::fs::Permissions::from_mode(0o777)).unwrap();
        let tool = Tool::bare(dir.path(), &format!("server: none\nfiles: [{}]\n", text(&tree)));
        tool.ok(&["init", "--repository", &text(&tool.repository)]);
        tool.ok(&["backup"]);
        let scene = Scene { dir, tool };
        std::fs::create_dir(scene.outside()).unwrap();
        std::fs::write(scene.outside().join("own"), "root's").unwrap();
        scene.new_home();
        scene
    }

    /// Root's, which nothing may change.
    fn outside(&self) -> PathBuf {
        self.dir.path().join("profile.d")
    }

    fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    fn new_home(&self) {
        let _ = std::fs::remove_dir_all(self.home());
        std::fs::create_dir(self.home()).unwrap();
        chown(self.home(), Some(NOBODY), Some(NOBODY)).unwrap();
    }

    fn restore(&self, failpoints: &str) -> Command {
        let to = text(&self.home().join("to"));
        let tree = text(&self.dir.path().join("tree"));
        let mut command = self
            .tool
            .command(&["restore", "latest", "--target", &to, "--include", &tree]);
        command.env("SNAPBACK_FAILPOINTS", failpoints);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn untouched(&self) {
        let names: Vec<_> = std::fs::read_dir(self.outside())
            .unwrap()
            .flatten()
            .map(|one| one.file_name())
            .collect();
        assert_eq!(names, ["own"]);
        let found = std::fs::metadata(self.outside()).unwrap();
        assert_eq!((found.uid(), found.mode() & 0o7777), (0, 0o755));
        let found = std::fs::metadata(self.outside().join("own")).unwrap();
        assert_eq!((found.uid(), found.mode() & 0o7777, found.nlink()), (0, 0o644, 1));
        assert_eq!(std::fs::read(self.outside().join("own")).unwrap(), b"root's");
    }

    /// Lets a restore come to a point, does something to its workspace there, and lets it go on.
    fn at(&self, point: &str, exchange: impl Fn(&Path)) -> Output {
        self.new_home();
        let gate = self.dir.path().join("gate");
        let reached = self.dir.path().join("gate.reached");
        for old in [&gate, &reached] {
            let _ = std::fs::remove_file(old);
        }
        let restore = self
            .restore(&format!("{point}=pause:{}@1", text(&gate)))
            .spawn()
            .unwrap();
        let until = Instant::now() + Duration::from_secs(30);
        while !reached.exists() {
            assert!(Instant::now() < until, "{point} was not reached");
            std::thread::sleep(Duration::from_millis(5));
        }
        let names = std::fs::read_dir(self.home()).unwrap().flatten().map(|one| one.path());
        let mut names: Vec<PathBuf> = names.collect();
        names.sort();
        exchange(&names[0]);
        std::fs::write(&gate, "").unwrap();
        restore.wait_with_output().unwrap()
    }
}

fn take_away(path: &Path) -> PathBuf {
    let gone = path.with_file_name("gone");
    std::fs::rename(path, &gone).unwrap();
    gone
}

fn theirs(path: &Path) {
    std::fs::create_dir(path).unwrap();
    chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
}

#[test]
fn a_workspace_that_was_exchanged_is_noticed() {
    let scene = Scene::new();
    let outside = scene.outside();
    let refused = |point: &str, what: &str, exchange: &dyn Fn(&Path)| {
        let output = scene.at(point, exchange);
        assert_eq!(output.status.code(), Some(1), "{point}, {what}: {}", both(&output));
        scene.untouched();
        both(&output)
    };
    for point in ["fs.made-ours", "restore.publish", "restore.renamed"] {
        refused(point, "a link", &|at| {
            take_away(at);
            symlink(&outside, at).unwrap();
        });
        let said = refused(point, "a directory of theirs", &|at| {
            take_away(at);
            theirs(at);
        });
        assert!(said.contains("somebody else"), "{point}: {said}");
        refused(point, "nothing", &|at| {
            take_away(at);
        });
    }
    // Open to others, or not empty: not what was made.
    refused("fs.made-ours", "an open one", &|at| {
        std::fs::set_permissions(at, std::fs::Permissions::from_mode(0o755)).unwrap();
    });
    refused("fs.made-ours", "a full one", &|at| {
        std::fs::write(at.join("x"), "").unwrap()
    });
    let output = scene.at("restore.renamed", |_| {});
    assert!(output.status.success(), "{}", both(&output));
}

#[test]
fn nobody_else_comes_into_a_workspace() {
    let scene = Scene::new();
    // The tree itself may be changed by everybody; what it is restored in, not before it has its name.
    let output = scene.at("restore.publish", |at| {
        let found = std::fs::metadata(at).unwrap();
        assert_eq!((found.uid(), found.mode() & 0o777), (0, 0o700), "{at:?}");
    });
    assert!(output.status.success(), "{}", both(&output));
}

#[test]
fn links_of_somebody_else_are_not_followed() {
    let scene = Scene::new();
    let door = scene.home().join("door");
    let tree = text(&scene.dir.path().join("tree"));
    let restore = |to: &Path| {
        scene
            .tool
            .run(&["restore", "latest", "--target", &text(to), "--include", &tree])
    };
    symlink(scene.outside(), &door).unwrap();
    let said = both(&restore(&door.join("to")));
    assert!(said.contains("symbolic link") && said.contains("nobody"), "{said}");
    scene.untouched();
    let said = both(&restore(&scene.home().join("../profile.d/to")));
    assert!(said.contains("`..`"), "{said}");
    scene.untouched();
    // One's own links are, and links in root's directories.
    symlink(scene.home(), scene.dir.path().join("way")).unwrap();
    let output = restore(&scene.dir.path().join("way/to"));
    assert!(output.status.success(), "{}", both(&output));
}

/// What a dead restore left is removed only if nobody else can have put it there.
#[test]
fn what_somebody_else_calls_a_workspace_stays() {
    let scene = Scene::new();
    let named = std::cell::RefCell::new(PathBuf::new());
    scene.at("restore.publish", |at| at.clone_into(&mut named.borrow_mut()));
    let left = named.into_inner();
    scene.new_home();
    theirs(&left);
    std::fs::write(left.join("x"), "").unwrap();
    let output = scene.restore("").output().unwrap();
    let said = both(&output);
    assert!(said.contains("move it away") && left.join("x").exists(), "{said}");
    // Ours goes, wherever its name led before.
    chown(&left, Some(0), Some(0)).unwrap();
    let output = scene.restore("").output().unwrap();
    assert!(output.status.success() && !left.exists(), "{}", both(&output));
}

/// This test's program as the other user: exchanges whatever looks like a workspace, or like what is restored.
#[test]
#[ignore = "started by the race"]
fn racer() {
    let (Ok(home), Ok(outside)) = (std::env::var("RACE_HOME"), std::env::var("RACE_OUTSIDE")) else {
        return;
    };
    let until = Instant::now() + Duration::from_secs(20);
    let mut number = std::env::var("RACE_SEED").unwrap().parse::<u64>().unwrap();
    while Instant::now() < until {
        for entry in std::fs::read_dir(&home).into_iter().flatten().flatten() {
            let (at, name) = (entry.path(), entry.file_name().into_string().unwrap_or_default());
            if !name.starts_with("to") {
                continue;
            }
            number += 1;
            for _ in 0..(number * 7_919) % 3_000 {
                std::hint::spin_loop();
            }
            let gone = Path::new(&home).join(format!("gone-{number}"));
            if std::fs::rename(&at, &gone).is_err() {
                continue;
            }
            let _ = match number % 4 {
                0 | 1 => symlink(&outside, &at),
                2 => std::fs::create_dir(&at),
                _ => symlink(&gone, &at),
            };
            if number % 3 == 0 {
                let _ = std::fs::rename(&at, Path::new(&home).join(format!("theirs-{number}")));
                let _ = std::fs::rename(&gone, &at);
            }
        }
    }
}

/// Starts the racer in somebody's home.
pub fn race(home: &Path, outside: &Path, seed: u64) -> Child {
    Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "swapped::racer", "--ignored"])
        .env("RACE_HOME", home)
        .env("RACE_OUTSIDE", outside)
        .env("RACE_SEED", seed.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn races_for_the_workspace_change_nothing_outside() {
    let rounds = std::env::var("SNAPBACK_THOROUGH")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(20);
    let scene = Scene::new();
    let (mut refused, mut done) = (0, 0);
    for round in 0..rounds {
        scene.new_home();
        let mut racer = race(&scene.home(), &scene.outside(), round);
        let output = scene.restore("").output().unwrap();
        let _ = racer.kill();
        let _ = racer.wait();
        scene.untouched();
        match output.status.code() {
            Some(0) => done += 1,
            Some(1) => {
                refused += 1;
            }
            other => panic!("round {round}: {other:?}: {}", both(&output)),
        }
    }
    eprintln!("{refused} refused, {done} done");
}
