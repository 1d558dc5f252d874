//! A repository with two backups of two trees, taken by the built binary.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::common::{missing, text};
use crate::tree;

pub struct Scene {
    pub dir: tempfile::TempDir,
    /// Of the backups, the older first.
    pub ids: Vec<String>,
}

impl Scene {
    /// `None` without root, when that may be missing.
    pub fn new() -> Option<Scene> {
        if !rustix::process::geteuid().is_root() {
            missing("root");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("snapback-test-").tempdir().unwrap();
        let mut scene = Scene { dir, ids: Vec::new() };
        tree::build(&scene.path("first"), 1);
        tree::build(&scene.path("second/inside"), 100);
        let yaml = format!(
            "repository: {}\nstate_dir: {}\nhost: h1\nserver: none\nfiles: [{}, {}]\n",
            text(&scene.path("repository")),
            text(&scene.path("state")),
            text(&scene.path("first")),
            text(&scene.path("second/inside")),
        );
        std::fs::write(scene.path("snapback.yaml"), yaml).unwrap();
        scene.ok(&["init"]);
        scene.back_up();
        std::fs::write(scene.path("first/added"), tree::noise(77, 100_000)).unwrap();
        scene.back_up();
        Some(scene)
    }

    pub fn back_up(&mut self) {
        // Live trees give a warning (status 5).
        let output = self.run(&["--json", "backup"]);
        assert!(matches!(output.status.code(), Some(0 | 5)), "{output:?}");
        let backup: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        self.ids.push(backup["id"].as_str().unwrap().to_owned());
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        text(&self.path(name))
    }

    /// The trees, and where each is below a directory that has them at their original paths.
    pub fn trees(&self) -> [PathBuf; 2] {
        [self.path("first"), self.path("second/inside")]
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_snapback"));
        command
            .arg("--config")
            .arg(self.path("snapback.yaml"))
            .stdin(Stdio::null());
        command.env_remove("SNAPBACK_CONFIG");
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command().args(args).output().unwrap()
    }

    pub fn ok(&self, args: &[&str]) -> Vec<u8> {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", said(&output));
        output.stdout
    }

    /// What is below `top` at the trees' original paths equals the trees.
    pub fn assert_whole(&self, top: &Path) {
        for tree in self.trees() {
            let there = top.join(tree.strip_prefix("/").unwrap());
            tree::assert_same(&tree::listing(&there), &tree::listing(&tree));
        }
    }

    /// Flips a bit in the middle of the largest pack: chunks.
    pub fn damage(&self) {
        let packs = files(&self.path("repository/packs"));
        let largest = packs.iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
        let mut bytes = std::fs::read(largest).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        std::fs::write(largest, bytes).unwrap();
    }
}

pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .collect()
}
