//! `mount`: the whole tree as it was, random reads, damage as EIO, and an end that leaves nothing.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common::{Flavour, Server, missing, server::signal, text};
use crate::scene::Scene;
use crate::tree;

pub struct Mounted {
    child: Option<Child>,
    pub at: PathBuf,
}

fn is_mounted(at: &std::path::Path) -> bool {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
    table.lines().any(|line| line.split(' ').nth(1) == at.to_str())
}

impl Mounted {
    pub fn new(scene: &Scene, more: &[&str]) -> Option<Mounted> {
        Mounted::with(scene.command(), scene.path(""), more)
    }

    /// Mounts at `mnt` in a directory, where the log is as well; `None` when that cannot be done here.
    pub fn with(mut command: Command, dir: PathBuf, more: &[&str]) -> Option<Mounted> {
        if !std::path::Path::new("/dev/fuse").exists() {
            missing("/dev/fuse");
            return None;
        }
        let (at, log) = (dir.join("mnt"), dir.join("mount.log"));
        std::fs::create_dir_all(&at).unwrap();
        command.arg("mount").arg(&at).args(more);
        let stderr = File::create(&log).unwrap();
        let child = command.stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
        let mounted = Mounted { child: Some(child), at };
        let begun = Instant::now();
        while !is_mounted(&mounted.at) {
            let log = std::fs::read_to_string(&log).unwrap();
            assert!(begun.elapsed() < Duration::from_secs(240), "not mounted: {log}");
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(mounted)
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Ends it by a signal; its exit status.
    pub fn end(&mut self, with: Signal) -> Option<i32> {
        signal(self.pid(), with);
        self.child.take().unwrap().wait().unwrap().code()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.end(Signal::TERM);
        }
        let _ = rustix::mount::unmount(&self.at, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_mount_shows_the_trees_as_they_were_and_goes_with_a_signal() {
    let Some(scene) = Scene::new() else { return };
    for how in [Signal::TERM, Signal::INT] {
        let Some(mut mounted) = Mounted::new(&scene, &[]) else {
            return;
        };
        let host = mounted.at.join("h1");
        let mut names: Vec<String> = std::fs::read_dir(&host)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names.len(), 3, "{names:?}");
        let name_of = |id: &str| names.iter().find(|name| name.ends_with(&id[..8])).unwrap();
        let latest = std::fs::read_link(host.join("latest")).unwrap();
        assert_eq!(latest.to_str(), Some(name_of(&scene.ids[1]).as_str()));
        scene.assert_whole(&host.join("latest"));
        let inside = |name: &str| host.join(name).join(scene.path("first").strip_prefix("/").unwrap());
        assert!(inside("latest").join("added").exists() && !inside(name_of(&scene.ids[0])).join("added").exists());
        assert!(!host.join("latest/none").exists() && !mounted.at.join("none").exists());
        assert!(
            std::fs::write(inside("latest").join("new"), "x").is_err(),
            "it can be written"
        );
        assert_eq!(
            mounted.end(how),
            Some(0),
            "{}",
            std::fs::read_to_string(scene.path("mount.log")).unwrap()
        );
        assert!(!is_mounted(&mounted.at));
        let log = std::fs::read_to_string(scene.path("mount.log")).unwrap();
        assert_eq!(log.lines().count(), 1, "more was said than where it is: {log}");
    }
    // And by `umount`.
    let Some(mut mounted) = Mounted::new(&scene, &["--host", "other"]) else {
        return;
    };
    assert_eq!(std::fs::read_dir(&mounted.at).unwrap().count(), 0);
    assert!(Command::new("umount").arg(&mounted.at).status().unwrap().success());
    assert_eq!(mounted.child.take().unwrap().wait().unwrap().code(), Some(0));
}

#[test]
fn random_reads_by_several_threads_equal_the_file() {
    let Some(scene) = Scene::new() else { return };
    let Some(mut mounted) = Mounted::new(&scene, &[]) else {
        return;
    };
    let below = mounted
        .at
        .join("h1/latest")
        .join(scene.path("first").strip_prefix("/").unwrap());
    let names = ["large-sparse", "noise", "deep/er/log.000001", "sparse"];
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (below, scene) = (&below, &scene);
            scope.spawn(move || {
                let mut random = 0x9E37_79B9_u64 ^ (thread + 1) << 32;
                let open = |top: PathBuf| names.map(|name| File::open(top.join(name)).unwrap());
                let (here, there) = (open(scene.path("first")), open(below.clone()));
                for _ in 0..300 {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let which = (random % 4) as usize;
                    let size = here[which].metadata().unwrap().len();
                    let (offset, length) = (random / 7 % (size + 10), (random / 3 % 300_000) as usize);
                    let read = |file: &File| {
                        let (mut bytes, mut got) = (vec![0; length], 0);
                        while let Ok(more @ 1..) = file.read_at(&mut bytes[got..], offset + got as u64) {
                            got += more;
                        }
                        bytes.truncate(got);
                        bytes
                    };
                    assert!(
                        read(&here[which]) == read(&there[which]),
                        "{} at {offset}",
                        names[which]
                    );
                }
            });
        }
    });
    assert_eq!(mounted.end(Signal::TERM), Some(0));
}

#[test]
fn a_damaged_chunk_is_an_io_error_with_a_message_and_the_rest_reads_well() {
    let Some(scene) = Scene::new() else { return };
    scene.damage();
    let Some(mut mounted) = Mounted::new(&scene, &[]) else {
        return;
    };
    let top = mounted.at.join("h1/latest");
    let mut failed = 0;
    for tree in scene.trees() {
        let below = top.join(tree.strip_prefix("/").unwrap());
        for path in crate::scene::files(&tree) {
            let kind = path.symlink_metadata().unwrap().file_type();
            if !kind.is_file() {
                continue;
            }
            match std::fs::read(below.join(path.strip_prefix(&tree).unwrap())) {
                Ok(bytes) => assert!(bytes == std::fs::read(&path).unwrap(), "{} reads wrong", path.display()),
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{}", path.display());
                    failed += 1;
                }
            }
        }
    }
    assert!((1..5).contains(&failed), "{failed} files failed");
    assert_eq!(mounted.end(Signal::TERM), Some(4));
    let log = std::fs::read_to_string(scene.path("mount.log")).unwrap();
    assert!(log.contains("cannot read h1/") && log.contains("packs/"), "{log}");
}

#[test]
fn what_a_killed_mount_leaves_is_named_and_goes_with_umount() {
    let Some(scene) = Scene::new() else { return };
    let Some(mut mounted) = Mounted::new(&scene, &[]) else {
        return;
    };
    // Not empty, and not a directory: refused.
    for (name, word) in [("first", "not empty"), ("none", "cannot mount")] {
        let output = scene.run(&["mount", &scene.text(name)]);
        assert_eq!(output.status.code(), Some(2));
        assert!(
            crate::scene::said(&output).contains(word),
            "{}",
            crate::scene::said(&output)
        );
    }
    assert_eq!(mounted.end(Signal::KILL), None);
    assert!(is_mounted(&mounted.at));
    let output = scene.run(&["mount", &text(&mounted.at)]);
    assert!(
        crate::scene::said(&output).contains("umount"),
        "{}",
        crate::scene::said(&output)
    );
    assert!(Command::new("umount").arg(&mounted.at).status().unwrap().success());
    assert!(!is_mounted(&mounted.at));
}

#[test]
fn an_open_file_does_not_keep_the_mount() {
    let Some(scene) = Scene::new() else { return };
    let Some(mut mounted) = Mounted::new(&scene, &[]) else {
        return;
    };
    let path = mounted
        .at
        .join("h1/latest")
        .join(scene.path("first/noise").strip_prefix("/").unwrap());
    let held = File::open(path).unwrap();
    assert_eq!(mounted.end(Signal::TERM), Some(0));
    assert!(!is_mounted(&mounted.at));
    drop(held);
}

#[test]
fn mariadb_starts_on_an_overlay_above_a_mounted_backup() {
    let Some(scene) = Scene::new() else { return };
    if !Flavour::MariaDb.available() {
        return;
    }
    let (datadir, work) = (scene.path("db"), scene.path("work"));
    std::fs::create_dir(&work).unwrap();
    let mut server = Server::create(Flavour::MariaDb, &datadir, &work, &[]);
    server.exec("CREATE DATABASE kept");
    server.exec("CREATE TABLE kept.t (a INT PRIMARY KEY) ENGINE=InnoDB");
    server.exec("INSERT INTO kept.t SELECT seq FROM kept.seq_1_to_5000");
    server.stop();
    let output = scene.run(&["backup", "--files", &text(&datadir)]);
    assert!(
        matches!(output.status.code(), Some(0 | 5)),
        "{}",
        crate::scene::said(&output)
    );
    let Some(mut mounted) = Mounted::new(&scene, &["--allow-other"]) else {
        return;
    };
    let lower = mounted.at.join("h1/latest").join(datadir.strip_prefix("/").unwrap());
    let lower = std::fs::canonicalize(lower).unwrap();
    // The server's holes are finer than chunks: everything but where exactly they are.
    let but_holes = |dir: &std::path::Path| -> Vec<(String, String)> {
        let lines = tree::listing(dir).into_iter();
        lines
            .map(|(name, line)| (name, line.split(" data=").next().unwrap().to_owned()))
            .collect()
    };
    assert_eq!(but_holes(&lower), but_holes(&datadir));
    for name in ["upper", "overlay-work", "merged", "again"] {
        std::fs::create_dir(scene.path(name)).unwrap();
    }
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.display(),
        scene.text("upper"),
        scene.text("overlay-work")
    );
    let merged = scene.path("merged");
    let status = Command::new("mount")
        .args(["-t", "overlay", "overlay", "-o", &options])
        .arg(&merged)
        .output()
        .unwrap();
    assert!(status.status.success(), "{}", crate::scene::said(&status));
    let mut again = Server::on(Flavour::MariaDb, &merged, &scene.path("again"), &[]);
    let count: u64 = again.one("SELECT COUNT(*) FROM kept.t");
    again.exec("INSERT INTO kept.t VALUES (999999)");
    again.stop();
    rustix::mount::unmount(&merged, rustix::mount::UnmountFlags::empty()).unwrap();
    assert_eq!(count, 5000);
    assert_eq!(mounted.end(Signal::TERM), Some(0));
}
