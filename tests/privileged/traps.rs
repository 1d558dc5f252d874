//! The server's user puts pipes, links and huge files where the server keeps small texts: nothing waits, nothing grows.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::common::{Flavour, both, run, text};
use crate::setting::Scene;

/// Runs with 3 GiB of memory and 20 s of time.
fn bounded(scene: &Scene, args: &[&str]) -> Output {
    let inner = scene.tool.command(args);
    let script = "ulimit -v 3145728; exec timeout --signal=KILL 20 \"$@\"";
    let mut command = Command::new("sh");
    command
        .args(["-c", script, "sh"])
        .arg(inner.get_program())
        .args(inner.get_args());
    command
        .env_remove("SNAPBACK_FAILPOINTS")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn what_lies_in_the_datadir_is_looked_at_before_it_is_opened() {
    for flavour in [Flavour::MariaDb, Flavour::MySql] {
        let Some(scene) = Scene::new(flavour, &[], true, "") else {
            return;
        };
        let datadir = &scene.server.datadir;
        std::fs::create_dir(datadir.join("traps")).unwrap();
        let pid = scene.server.socket.with_file_name("pid");
        let places = [datadir.join("traps/x.isl"), datadir.join("auto.cnf"), pid];
        for at in &places {
            let before = std::fs::read(at).ok();
            for trap in ["pipe", "zero", "huge"] {
                let _ = std::fs::remove_file(at);
                lay(trap, at);
                let output = bounded(&scene, &["check"]);
                let status = output.status.code();
                assert!(
                    status.is_some_and(|status| status <= 5),
                    "{trap} as {at:?}: {}",
                    both(&output)
                );
                if at == &places[0] {
                    let said = both(&output);
                    assert!(said.contains("x.isl") || said.contains("/dev/zero"), "{trap}: {said}");
                }
            }
            std::fs::remove_file(at).unwrap();
            if let Some(before) = before {
                std::fs::write(at, before).unwrap();
            }
        }
        let output = bounded(&scene, &["backup"]);
        assert!(output.status.success(), "{}", both(&output));
    }
}

fn lay(trap: &str, at: &Path) {
    match trap {
        "pipe" => drop(run("mkfifo", &[&text(at)])),
        "zero" => symlink("/dev/zero", at).unwrap(),
        _ => std::fs::File::create(at).unwrap().set_len(40 << 30).unwrap(),
    }
}

/// The server's user makes one of them itself; the others are what somebody put into the repository.
#[test]
fn no_right_that_lies_in_the_datadir_comes_back() {
    for flavour in [Flavour::MariaDb, Flavour::MySql] {
        let Some(scene) = Scene::new(flavour, &[], true, "") else {
            return;
        };
        let datadir = &scene.server.datadir;
        std::fs::create_dir(datadir.join("rights")).unwrap();
        std::fs::copy("/bin/true", datadir.join("rights/program")).unwrap();
        run("chmod", &["6755", &text(&datadir.join("rights/program"))]);
        run("mknod", &[&text(&datadir.join("rights/memory")), "c", "1", "1"]);
        scene.tool.json(&["backup"]);
        let to = scene.lab.path("restored");
        let output = scene.tool.run(&["restore", "latest", "--datadir", &text(&to)]);
        let said = both(&output);
        assert_eq!(output.status.code(), Some(5), "{said}");
        for words in ["1 devices", "1 set-user-ID", "rights/memory", "rights/program"] {
            assert!(said.contains(words), "{words}: {said}");
        }
        let program = to.join("rights/program").metadata().unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::mode(&program) & 0o7777, 0o755);
        assert!(to.join("rights/memory").symlink_metadata().is_err());
    }
}

/// A size costs its owner nothing: the server's user makes files of any size, and as many as it likes.
#[test]
fn huge_holes_in_the_datadir_are_named_or_cost_next_to_nothing() {
    let Some(scene) = Scene::new(Flavour::MariaDb, &[], true, "") else {
        return;
    };
    let traps = scene.server.datadir.join("traps");
    std::fs::create_dir(&traps).unwrap();
    for size in [8191u64 << 50, 255 << 40] {
        std::fs::File::create(traps.join("giant"))
            .unwrap()
            .set_len(size)
            .unwrap();
        let output = bounded(&scene, &["backup"]);
        let said = both(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("traps/giant") && said.contains("remove the file"),
            "{said}"
        );
        scene.assert_nothing_left();
    }
    std::fs::remove_file(traps.join("giant")).unwrap();
    for number in 0..5 {
        let file = std::fs::File::create(traps.join(format!("large-{number}"))).unwrap();
        file.set_len(15 << 40).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"data", 7 << 40).unwrap();
    }
    let output = bounded(&scene, &["backup"]);
    assert!(output.status.success(), "{}", both(&output));
    let to = scene.lab.path("restored");
    let output = bounded(&scene, &["restore", "latest", "--datadir", &text(&to)]);
    assert!(output.status.success(), "{}", both(&output));
    let file = std::fs::File::open(to.join("traps/large-4")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 15 << 40);
    let mut data = [0; 4];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut data, 7 << 40).unwrap();
    assert_eq!(&data, b"data");
}
