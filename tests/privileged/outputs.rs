//! Somebody else owns the directory that root writes a dump, a repository, an option file or a manual into, and exchanges names there:
//! nothing outside changes. `SNAPBACK_THOROUGH=N`: so many races. Needs `--features failpoints`.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Output;

use crate::common::{Flavour, Tool, both, rounds, text, wait_for_file};
use crate::setting::Scene;
use crate::swapped::{NOBODY, race};

/// Somebody's home, and a directory of root's that nothing may change.
struct Ground {
    home: PathBuf,
    outside: PathBuf,
}

impl Ground {
    fn new(dir: &Path) -> Ground {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        let ground = Ground {
            home: dir.join("home"),
            outside: dir.join("outside"),
        };
        std::fs::create_dir(&ground.outside).unwrap();
        std::fs::write(ground.outside.join("own"), "root's").unwrap();
        ground.clear();
        ground
    }

    fn clear(&self) {
        let _ = std::fs::remove_dir_all(&self.home);
        for made in [self.home.clone(), self.home.join("to")] {
            std::fs::create_dir(&made).unwrap();
            chown(&made, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }

    fn untouched(&self) {
        let names = std::fs::read_dir(&self.outside).unwrap().flatten();
        let names: Vec<_> = names.map(|one| one.file_name()).collect();
        assert_eq!(names, ["own"]);
        for (at, mode) in [(self.outside.clone(), 0o755), (self.outside.join("own"), 0o644)] {
            let found = std::fs::metadata(at).unwrap();
            assert_eq!((found.uid(), found.mode() & 0o7777), (0, mode));
        }
        assert_eq!(std::fs::read(self.outside.join("own")).unwrap(), b"root's");
    }
}

/// Each command that makes something at a path that is named.
fn commands(ground: &Ground) -> [Vec<String>; 3] {
    let to = |name: &str| text(&ground.home.join("to").join(name));
    let words = |all: &[&str]| all.iter().map(|&word| word.to_owned()).collect();
    [
        words(&["init", "--repository", &to("a/repository")]),
        words(&[
            "init",
            "--print-grants",
            "--flavour",
            "mariadb",
            "--option-file",
            &to("own"),
        ]),
        words(&["man", "--dir", &to("")]),
    ]
}

fn ran(tool: &Tool, command: &[String]) -> Output {
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    tool.run(&words)
}

#[test]
fn what_is_made_in_somebodys_directory_follows_none_of_his_links() {
    let dir = tempfile::tempdir().unwrap();
    let tool = Tool::bare(dir.path(), "server: none\n");
    let ground = Ground::new(dir.path());
    for command in commands(&ground) {
        ground.clear();
        std::fs::remove_dir(ground.home.join("to")).unwrap();
        symlink(&ground.outside, ground.home.join("to")).unwrap();
        let output = ran(&tool, &command);
        assert!(
            both(&output).contains("symbolic link") || both(&output).contains("is there already"),
            "{command:?}: {}",
            both(&output)
        );
        ground.untouched();
        ground.clear();
        let output = ran(&tool, &command);
        assert!(
            matches!(output.status.code(), Some(0 | 5)),
            "{command:?}: {}",
            both(&output)
        );
    }
    // A page's name that is a link is replaced; what it leads to is not.
    ground.clear();
    let page = ground.home.join("to/snapback.1");
    symlink(ground.outside.join("own"), &page).unwrap();
    tool.ok(&["man", "--dir", &text(&ground.home.join("to"))]);
    ground.untouched();
    assert!(std::fs::symlink_metadata(&page).unwrap().is_file());
    // Nothing is mounted where somebody else could exchange the way.
    let empty = dir.path().join("mine");
    tool.json(&["init", "--repository", &text(&empty)]);
    ground.clear();
    let output = tool.run(&["--repository", &text(&empty), "mount", &text(&ground.home.join("to"))]);
    assert!(both(&output).contains("belongs to nobody"), "{}", both(&output));
}

#[test]
fn races_for_what_is_made_change_nothing_outside() {
    let dir = tempfile::tempdir().unwrap();
    let tool = Tool::bare(dir.path(), "server: none\n");
    let ground = Ground::new(dir.path());
    let mut ends = std::collections::BTreeMap::new();
    for round in 0..rounds(10) {
        for command in commands(&ground) {
            ground.clear();
            let mut racer = race(&ground.home, &ground.outside, round);
            // It has to come to its feet.
            std::thread::sleep(std::time::Duration::from_millis(20));
            for _ in 0..5 {
                let output = ran(&tool, &command);
                *ends.entry((command[1].clone(), output.status.code())).or_insert(0) += 1;
                assert!(matches!(output.status.code(), Some(0 | 1 | 2 | 5)), "{}", both(&output));
            }
            racer.kill().unwrap();
            racer.wait().unwrap();
            ground.untouched();
        }
    }
    eprintln!("{ends:?}");
}

/// Lets a dump come to a point, exchanges what it has made, and lets it go on.
fn exchanged(scene: &Scene, ground: &Ground, how: &str, point: &str, exchange: impl Fn(&Path)) -> Output {
    ground.clear();
    let (gate, reached) = (scene.lab.path("gate"), scene.lab.path("gate.reached"));
    for old in [&gate, &reached] {
        let _ = std::fs::remove_file(old);
    }
    let to = ground.home.join("dump");
    let armed = format!("{point}=pause:{}@1", text(&gate));
    let dump = scene.tool.spawn(&armed, &["dump", "latest", how, &text(&to)]);
    wait_for_file(&reached);
    let made = if point == "dump.appeared" {
        to
    } else {
        ground.home.join("dump.partial")
    };
    std::fs::rename(&made, ground.home.join("gone")).unwrap();
    exchange(&made);
    std::fs::write(&gate, "").unwrap();
    let output = dump.wait_with_output().unwrap();
    ground.untouched();
    output
}

#[test]
fn a_dump_that_somebody_exchanged_is_noticed() {
    let Some((scene, _)) = Scene::with_scratch(Flavour::MariaDb) else {
        return;
    };
    let ground = Ground::new(scene.lab.dir.path());
    scene.tool.json(&["backup"]);
    for (how, target) in [("--output", "own"), ("--output-dir", "")] {
        for point in ["dump.appear", "dump.appeared"] {
            let output = exchanged(&scene, &ground, how, point, |at| {
                symlink(ground.outside.join(target), at).unwrap();
            });
            assert_eq!(output.status.code(), Some(1), "{how} {point}: {}", both(&output));
            assert!(both(&output).contains("somebody else"), "{}", both(&output));
        }
    }
    let output = exchanged(&scene, &ground, "--output-dir", "fs.made-ours", |at| {
        symlink(&ground.outside, at).unwrap();
    });
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    // Undisturbed it is there, and root's alone.
    ground.clear();
    let to = ground.home.join("dump");
    scene.tool.ok(&["dump", "latest", "--output", &text(&to)]);
    let found = std::fs::symlink_metadata(&to).unwrap();
    assert_eq!((found.uid(), found.mode() & 0o7777), (0, 0o600));
}
