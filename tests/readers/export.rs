//! `export --tar`: GNU tar makes the same tree of it, borg and restic take it, and damage never gives a well-formed archive.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::missing;
use crate::scene::{Scene, said};
use crate::tree;

fn program(name: &str) -> bool {
    let there = Command::new(name).arg("--version").output().is_ok();
    if !there {
        missing(name);
    }
    there
}

/// Extracts as a careful person does.
pub fn extract(archive: &Path, into: &Path) -> std::process::Output {
    std::fs::create_dir(into).unwrap();
    let mut tar = Command::new("tar");
    tar.args([
        "-x",
        "--xattrs",
        "--xattrs-include=*",
        "--acls",
        "--numeric-owner",
        "-p",
        "-f",
    ]);
    tar.arg(archive).arg("-C").arg(into).output().unwrap()
}

#[test]
fn gnu_tar_makes_the_same_tree() {
    let Some(scene) = Scene::new() else { return };
    std::fs::write(scene.path("all.tar"), scene.ok(&["export", "latest", "--tar"])).unwrap();
    let output = extract(&scene.path("all.tar"), &scene.path("out"));
    assert!(output.status.success(), "{}", said(&output));
    // It wonders about times before 1970 and far ahead, and about nothing else.
    let odd = said(&output);
    let odd: Vec<&str> = odd.lines().filter(|line| !line.contains("time stamp")).collect();
    assert!(odd.is_empty(), "{odd:?}");
    scene.assert_whole(&scene.path("out"));
    // Holes take no room in the archive.
    let size = std::fs::metadata(scene.path("all.tar")).unwrap().len();
    assert!(size < 20 << 20, "{size} bytes");
}

#[test]
fn a_part_is_exported_with_the_content_of_links_whose_first_name_is_not_in_it() {
    let Some(scene) = Scene::new() else { return };
    let (deep, last) = (scene.text("first/zz-noise"), scene.text("first/small"));
    let archive = scene.ok(&["export", "latest", "--tar", "--include", &deep, "--include", &last]);
    std::fs::write(scene.path("part.tar"), archive).unwrap();
    assert!(extract(&scene.path("part.tar"), &scene.path("out")).status.success());
    let out = scene.path("out").join(scene.path("first").strip_prefix("/").unwrap());
    let mut names: Vec<_> = std::fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["small", "zz-noise"]);
    assert_eq!(
        std::fs::read(out.join("zz-noise")).unwrap(),
        std::fs::read(scene.path("first/noise")).unwrap()
    );
    let wrong = scene.run(&["export", "latest", "--tar", "--include", "/no/such"]);
    assert_eq!(
        (wrong.status.code(), wrong.stdout.len()),
        (Some(2), 0),
        "{}",
        said(&wrong)
    );
    for args in [&["export", "latest"][..], &["--json", "export", "latest", "--tar"]] {
        assert_eq!(scene.run(args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn damage_cuts_the_archive() {
    let Some(scene) = Scene::new() else { return };
    scene.damage();
    let output = scene.run(&["export", "latest", "--tar"]);
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    assert!(said(&output).contains("needed for"), "{}", said(&output));
    std::fs::write(scene.path("cut.tar"), output.stdout).unwrap();
    let tar = extract(&scene.path("cut.tar"), &scene.path("out"));
    assert!(!tar.status.success(), "a cut archive was taken for whole");
}

/// Wherever a bit is wrong, in chunks, sections or the file table: the archive is whole and right, or no tar takes it.
#[test]
fn no_damage_anywhere_gives_an_archive_that_ends_well() {
    let dir = tempfile::tempdir().unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/v1/repository");
    let copy = dir.path().join("repository");
    assert!(
        Command::new("cp")
            .arg("-r")
            .arg(golden)
            .arg(&copy)
            .status()
            .unwrap()
            .success()
    );
    let archive = dir.path().join("tar");
    let export = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_snapback"));
        command.args(["-q", "--config", "/dev/null", "--repository"]).arg(&copy);
        let output = command.args(["export", "b2b2", "--tar"]).output().unwrap();
        std::fs::write(&archive, output.stdout).unwrap();
        output.status.code()
    };
    let listed = || Command::new("tar").arg("-tf").arg(&archive).output().unwrap();
    assert_eq!(export(), Some(0));
    let (whole, names) = (std::fs::read(&archive).unwrap(), listed().stdout);
    let (mut between, mut within) = (0, 0);
    for pack in crate::scene::files(&copy.join("packs")) {
        let good = std::fs::read(&pack).unwrap();
        for at in [good.len() / 4, good.len() / 2, good.len() * 3 / 4] {
            let mut bad = good.clone();
            bad[at] ^= 16;
            std::fs::write(&pack, bad).unwrap();
            let status = export();
            if status == Some(0) {
                assert!(
                    std::fs::read(&archive).unwrap() == whole,
                    "byte {at} of {}",
                    pack.display()
                );
                continue;
            }
            let bytes = std::fs::read(&archive).unwrap();
            let begun = bytes.len() >= 512 && bytes[bytes.len() - 512..].starts_with(b"THIS-ARCHIVE-IS-INCOMPLETE");
            let tar = listed();
            let python = "import sys, tarfile; tarfile.open(sys.argv[1]).getmembers()";
            let python = Command::new("python3")
                .args(["-c", python])
                .arg(&archive)
                .output()
                .unwrap();
            assert!(
                !python.status.success(),
                "Python takes it: byte {at} of {}",
                pack.display()
            );
            assert!(
                status == Some(4) && !tar.status.success(),
                "byte {at} of {}: {status:?}",
                pack.display()
            );
            assert!(tar.stdout.len() < names.len() + 40);
            *(if begun { &mut between } else { &mut within }) += 1;
        }
        std::fs::write(&pack, good).unwrap();
    }
    assert!(
        between > 0 && within > 0,
        "cut between members {between} times, within {within} times"
    );
}

#[test]
fn borg_and_restic_take_it_from_a_pipe() {
    let Some(scene) = Scene::new() else { return };
    if !program("borg") || !program("restic") {
        return;
    }
    let run = |mut program: Command, stdin: Stdio, directory: &str| {
        let output = program
            .stdin(stdin)
            .env("HOME", scene.path(""))
            .env("BORG_REPO", scene.path("borg"))
            .env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes")
            .env("RESTIC_REPOSITORY", scene.path("restic"))
            .env("RESTIC_PASSWORD", "test")
            .current_dir(scene.path(directory))
            .output()
            .unwrap();
        assert!(output.status.success(), "{program:?}: {}", said(&output));
        output.stdout
    };
    let pipe = |program: Command| {
        let mut export = scene.command();
        export.args(["-q", "export", "latest", "--tar"]).stdout(Stdio::piped());
        let mut export = export.spawn().unwrap();
        let stdin = export.stdout.take().unwrap().into();
        run(program, stdin, "");
        assert!(export.wait().unwrap().success());
    };
    let with = |name: &str, args: &[&str]| {
        let mut command = Command::new(name);
        command.args(args);
        command
    };
    run(with("borg", &["init", "--encryption", "none"]), Stdio::null(), "");
    pipe(with("borg", &["import-tar", "::one", "-"]));
    std::fs::create_dir(scene.path("borg-out")).unwrap();
    let extract = ["extract", "--numeric-ids", "--sparse", "::one"];
    run(with("borg", &extract), Stdio::null(), "borg-out");
    let at = scene
        .path("borg-out")
        .join(scene.path("first").strip_prefix("/").unwrap());
    let (there, original) = (tree::listing(&at), tree::listing(&scene.path("first")));
    let content = |line: &String| {
        line.split(' ')
            .find(|word| word.starts_with("blake3="))
            .map(str::to_owned)
    };
    for (name, line) in &original {
        assert_eq!(there.get(name).and_then(content), content(line), "{name}");
    }

    run(with("restic", &["init"]), Stdio::null(), "");
    pipe(with("restic", &["backup", "--stdin", "--stdin-filename", "backup.tar"]));
    let back = run(with("restic", &["dump", "latest", "backup.tar"]), Stdio::null(), "");
    assert!(
        back == scene.ok(&["export", "latest", "--tar"]),
        "restic gives back another archive"
    );
}
