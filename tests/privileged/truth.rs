//! What `check` says is so: whose data is in `files:`, what the repository shares with the data, and how much room there is.

use serde_json::Value;

use crate::common::{Flavour, Kind, Lab, Tool, both, run, text};
use crate::setting::Scene;

fn codes(report: &Value) -> Vec<&str> {
    let findings = report["findings"].as_array().unwrap();
    findings.iter().map(|one| one["code"].as_str().unwrap()).collect()
}

fn said<'r>(report: &'r Value, code: &str) -> &'r str {
    let findings = report["findings"].as_array().unwrap();
    let found = findings.iter().find(|one| one["code"] == code);
    found.unwrap_or_else(|| panic!("no {code}: {report}"))["message"]
        .as_str()
        .unwrap()
}

/// A mount that ends with the test.
struct Bound(String);

impl Bound {
    fn new(from: &str, at: &str) -> Bound {
        std::fs::create_dir(at).unwrap();
        run("mount", &["--bind", from, at]);
        Bound(at.to_owned())
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        run("umount", &[&self.0]);
    }
}

#[test]
fn a_running_servers_data_is_not_taken_for_files() {
    for flavour in [Flavour::MariaDb, Flavour::MySql] {
        let Some(mut scene) = Scene::new(flavour, &[], true, "") else {
            return;
        };
        let datadir = text(&scene.server.datadir);
        let parent = text(scene.server.datadir.parent().unwrap());
        let link = text(&scene.lab.path("link"));
        std::os::unix::fs::symlink(&datadir, &link).unwrap();
        let alias = Bound::new(&datadir, &text(&scene.lab.path("alias")));
        let schema = format!("{datadir}/{}", crate::common::load::SCHEMA);
        let within = Bound::new(&schema, &text(&scene.lab.path("schema")));
        for files in [
            &datadir,
            &parent,
            &link,
            &alias.0,
            &schema,
            &within.0,
            &text(scene.lab.dir.path()),
        ] {
            let output = scene.tool.run(&["backup", "--no-server", "--files", files]);
            let message = both(&output);
            assert_eq!(output.status.code(), Some(1), "{files}: {message}");
            assert!(
                message.contains("running server") && message.contains("`server:`"),
                "{files}: {message}"
            );
            let check = scene.tool.json_with(&["check", "--no-server", "--files", files], &[1]);
            assert!(codes(&check).contains(&"server-in-files"), "{files}: {check}");
        }
        assert_eq!(scene.backups(), 0);
        // Left out, it is no longer there; neither is one that runs elsewhere.
        let quiet = text(&scene.lab.path("quiet"));
        std::fs::create_dir(&quiet).unwrap();
        scene.tool.json(&[
            "check",
            "--no-server",
            "--files",
            &parent,
            "--files",
            &quiet,
            "--exclude",
            &datadir,
        ]);
        // With the server itself it is the server's data: once, at its instant, by whichever name.
        for files in [&datadir, &parent, &alias.0, &within.0] {
            let check = scene.tool.json(&["check", "--files", files]);
            assert!(!codes(&check).contains(&"server-in-files"), "{files}: {check}");
            let backup = scene.tool.json(&["backup", "--files", files, "--tag", "of=files"]);
            let shown = scene.tool.ok(&["show", backup["id"].as_str().unwrap(), "--files"]);
            let copies = shown.lines().filter(|line| line.ends_with("/ibdata1")).count();
            assert_eq!(copies, 1, "{files}: {shown}");
        }
        scene.server.stop();
        scene.tool.json(&["backup", "--no-server", "--files", &datadir]);
    }
}

#[test]
fn a_repository_beside_its_data_is_told() {
    let Some(scene) = Scene::new(Flavour::MariaDb, &[], true, "") else {
        return;
    };
    assert!(!codes(&scene.tool.json(&["check"])).contains(&"repository-same-volume"));
    let beside = scene.lab.storage.volume("backups").join("repository");
    let beside = text(&beside);
    scene.tool.json(&["init", "--repository", &beside]);
    let check = scene.tool.json_with(&["check", "--repository", &beside], &[5]);
    let word = match scene.lab.storage.kind {
        Kind::Btrfs => "the same filesystem",
        Kind::Lvm(_) | Kind::LvmThin => "the same volume group",
        Kind::Zfs | Kind::Zvol => "the same ZFS pool",
    };
    assert!(said(&check, "repository-same-volume").contains(word), "{check}");
    let backup = scene.tool.json_with(&["backup", "--repository", &beside], &[5]);
    assert!(backup["warnings"].to_string().contains(word), "{backup}");
}

#[test]
fn room_that_is_not_there_is_not_promised() {
    let Some(lab) = Lab::new() else { return };
    let www = lab.storage.volume("www");
    std::fs::write(www.join("noise"), noise(90 << 20)).unwrap();
    let image = lab.path("small.img");
    std::fs::File::create(&image)
        .and_then(|file| file.set_len(64 << 20))
        .unwrap();
    run("mkfs.ext4", &["-q", "-F", &text(&image)]);
    let at = lab.path("small");
    std::fs::create_dir(&at).unwrap();
    run("mount", &["-o", "loop", &text(&image), &text(&at)]);
    let small = Small(text(&at));
    let tool = Tool::bare(lab.dir.path(), &format!("server: none\nfiles: [{}]\n", text(&www)));
    let repository = text(&at.join("repository"));
    tool.json(&["init", "--repository", &repository]);
    let check = tool.json_with(&["check", "--repository", &repository], &[5]);
    assert!(
        said(&check, "repository-room").contains("may not fit")
            || said(&check, "repository-room").contains("does not fit")
    );
    assert!(check["room"]["expected"].as_u64().unwrap() >= 90 << 20, "{check}");
    let printed = tool.run(&["check", "--repository", &repository]);
    assert!(!both(&printed).contains("a backup can be taken"), "{}", both(&printed));
    // And so it is.
    assert_eq!(
        tool.run(&["backup", "--repository", &repository]).status.code(),
        Some(1)
    );
    drop(small);
}

/// What no compression makes smaller.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length / 8).flat_map(|_| next()).collect()
}

struct Small(String);

impl Drop for Small {
    fn drop(&mut self) {
        run("umount", &[&self.0]);
    }
}
