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
    // Cut between two members as well: the second file is the first with a chunk.
    let mut table = crate::scene::files(&scene.path("repository/packs"));
    table.sort_by_key(|path| path.metadata().unwrap().len());
    for pack in &table {
        std::fs::remove_file(pack).unwrap();
    }
    let output = scene.run(&["export", "latest", "--tar"]);
    assert_eq!(output.status.code(), Some(4));
    std::fs::write(scene.path("cut.tar"), output.stdout).unwrap();
    assert!(!extract(&scene.path("cut.tar"), &scene.path("nothing")).status.success());
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
