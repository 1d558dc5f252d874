//! A repository on a filesystem that really is full, at every amount of room that a backup may find.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::common::{Tool, both, missing, run, text};

/// A small filesystem of the kind, mounted; gone when it is dropped.
struct Small {
    dir: tempfile::TempDir,
    device: Option<String>,
}

impl Small {
    fn new(kind: &str, bytes: u64) -> Option<Small> {
        if !rustix::process::geteuid().is_root() {
            missing("root");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("snapback-test-").tempdir().unwrap();
        let mut small = Small { dir, device: None };
        std::fs::create_dir(small.top()).unwrap();
        if kind == "tmpfs" {
            run(
                "mount",
                &[
                    "-t",
                    "tmpfs",
                    "-o",
                    &format!("size={bytes}"),
                    "tmpfs",
                    &text(&small.top()),
                ],
            );
        } else {
            let image = small.dir.path().join("image");
            File::create(&image).and_then(|file| file.set_len(bytes)).unwrap();
            run(&format!("mkfs.{kind}"), &["-q", "-F", "-m", "0", &text(&image)]);
            let device = run("losetup", &["--find", "--show", &text(&image)]).trim().to_owned();
            small.device = Some(device.clone());
            run("mount", &[&device, &text(&small.top())]);
        }
        Some(small)
    }

    fn top(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    /// Takes all room but so many bytes away.
    fn leave(&self, bytes: u64) -> u64 {
        let _ = std::fs::remove_file(self.top().join("ballast"));
        run("sync", &["-f", &text(&self.top())]);
        let free = room(&self.top());
        let ballast = File::create(self.top().join("ballast")).unwrap();
        let mut length = free.saturating_sub(bytes).max(1);
        // The filesystem takes some blocks for itself.
        while rustix::fs::fallocate(&ballast, rustix::fs::FallocateFlags::empty(), 0, length).is_err() {
            ballast.set_len(0).unwrap();
            length = length.checked_sub(8 << 10).expect("there is no room at all");
        }
        room(&self.top())
    }

    fn make_room(&self) {
        std::fs::remove_file(self.top().join("ballast")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.top()).output();
        if let Some(device) = &self.device {
            let _ = Command::new("losetup").args(["--detach", device]).output();
        }
    }
}

fn room(path: &Path) -> u64 {
    snapback::sys::fs::room(path).unwrap().available
}

fn full_at_every_size(kind: &str, bytes: u64, step: u64) {
    let Some(small) = Small::new(kind, bytes) else { return };
    let tool = Tool::bare(small.dir.path(), "server: none\n");
    let www = small.dir.path().join("www");
    std::fs::create_dir(&www).unwrap();
    std::fs::write(www.join("first"), noise(1, 400_000)).unwrap();
    let repository = text(&small.top().join("repository"));
    let snapback = |args: &[&str]| tool.run(&[&["--repository", &repository], args].concat());
    let files = text(&www);
    let backup = || snapback(&["backup", "--no-server", "--files", &files]);
    let ok = |args: &[&str]| {
        let output = snapback(args);
        assert!(output.status.success(), "{args:?}: {}", both(&output));
        output.stdout
    };
    let listed = || {
        serde_json::from_slice::<Vec<serde_json::Value>>(&ok(&["list", "--json"]))
            .unwrap()
            .len()
    };
    // The configuration names another repository, which is said (status 5).
    let made = snapback(&["init"]);
    assert!(matches!(made.status.code(), Some(0 | 5)), "{}", both(&made));
    assert!(backup().status.success());
    // Two files, so that both workers write.
    std::fs::write(www.join("second"), noise(2, 500_000)).unwrap();
    std::fs::write(www.join("third"), noise(3, 300_000)).unwrap();

    let (mut left, mut failures) = (0, 0);
    loop {
        let before = small.leave(left);
        let output = backup();
        if output.status.success() {
            break;
        }
        failures += 1;
        let said = both(&output);
        assert_eq!(output.status.code(), Some(1), "with {left} bytes of room: {said}");
        assert!(
            said.to_lowercase().contains("space"),
            "with {left} bytes of room: {said}"
        );
        assert!(said.contains("repository"), "it does not name the place: {said}");
        assert_eq!(listed(), 1, "with {left} bytes of room there is a backup: {said}");
        ok(&["verify", "--all", "--level", "data"]);
        let after = room(&small.top());
        assert!(
            after + 16_384 >= before,
            "{before} bytes were free, and {after} are: {said}"
        );
        left += step;
    }
    assert!(failures as u64 >= 800_000 / step / 2, "only {failures} failures");
    small.make_room();
    assert!(backup().status.success());
    assert_eq!(listed(), 3);
    ok(&["verify", "--all", "--level", "data"]);
    let target = small.dir.path().join("out");
    ok(&["restore", "latest", "--target", &text(&target)]);
    for name in ["first", "second", "third"] {
        let restored = target.join(www.strip_prefix("/").unwrap()).join(name);
        assert!(
            std::fs::read(restored).unwrap() == std::fs::read(www.join(name)).unwrap(),
            "{name}"
        );
    }
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let blocks = (0u64..).flat_map(|number| *blake3::hash(format!("{seed}/{number}").as_bytes()).as_bytes());
    blocks.take(length).collect()
}

#[test]
fn a_full_tmpfs_fails_a_backup_clean() {
    full_at_every_size("tmpfs", 4 << 20, 64 << 10);
}

#[test]
fn a_full_ext4_fails_a_backup_clean() {
    full_at_every_size("ext4", 12 << 20, 96 << 10);
}
