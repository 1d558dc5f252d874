//! Real parts for tests: storage on a loop image, private servers, a write load with a record of what was acknowledged, the built binary.
#![allow(dead_code, missing_docs, clippy::print_stderr, clippy::print_stdout)]

pub mod load;
pub mod server;
pub mod storage;
mod template;
pub mod tool;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub use load::Load;
pub use server::{Flavour, Server};
pub use storage::{Kind, Storage};
pub use tool::Tool;

/// Whether a missing facility fails the test (as CI demands) or lets it be skipped.
pub fn required() -> bool {
    std::env::var("SNAPBACK_TEST_REQUIRE").is_ok_and(|value| value == "1")
}

/// How many rounds (tries, seconds) a campaign has: `few` in CI, what `SNAPBACK_THOROUGH` says in the thorough mode.
pub fn rounds(few: u64) -> u64 {
    std::env::var("SNAPBACK_THOROUGH").map_or(few, |rounds| rounds.parse().expect("SNAPBACK_THOROUGH is a number"))
}

/// Says why a test cannot run here; panics where every facility is required.
pub fn missing(facility: &str) {
    assert!(
        !required(),
        "{facility} is missing, and SNAPBACK_TEST_REQUIRE=1 forbids to skip"
    );
    eprintln!("SKIP: {facility} is missing");
}

/// Runs a program and panics with its output when it fails.
pub fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {args:?}: {}", both(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn both(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// A place for one test: storage of its own for the data, a directory on the ordinary filesystem for the repository, state and logs.
pub struct Lab {
    pub storage: Storage,
    pub dir: tempfile::TempDir,
}

impl Lab {
    /// `None` when the machine has no such storage or we are not root (and skipping is allowed).
    pub fn new() -> Option<Lab> {
        if !rustix::process::geteuid().is_root() {
            missing("root");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("snapback-test-").tempdir().unwrap();
        let storage = Storage::new(dir.path(), 6 << 30)?;
        Some(Lab { storage, dir })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

pub fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The longest that a test waits for what a process of its own does: beside an emulated guest everything takes long.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(280);

/// Waits until something is so.
pub fn wait_for(what: &str, done: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Waits until a file is there: what a failpoint makes when it is reached, or a command when it has begun.
pub fn wait_for_file(path: &Path) {
    wait_for(&format!("{} did not appear", path.display()), || path.exists());
}
