//! Datadirs that are initialised once and copied for every server. They are kept in the build directory, by the server's version.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The datadir that `initialiser` makes, of a server that prints its version.
pub fn kept(server: &Path, initialiser: &Path, arguments: &[&str]) -> PathBuf {
    let output = Command::new(server).arg("--version").output();
    let output = output.unwrap_or_else(|error| panic!("cannot run {}: {error}", server.display()));
    // `NAME  Ver 9.7.4-2 for ...`
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut words = text.split_whitespace().skip_while(|word| *word != "Ver");
    let version = words.nth(1).unwrap_or_else(|| panic!("{text} has no version"));
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let at = kept.join(format!("datadir-{version}"));
    if !at.is_dir() {
        let making = tempfile::tempdir_in(kept).unwrap();
        let status = Command::new(initialiser)
            .args(["--no-defaults", "--user=root"])
            .args(arguments)
            .arg(format!("--datadir={}", making.path().join("data").display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        assert!(status.unwrap().success(), "{} failed", initialiser.display());
        // Every server has an identity of its own.
        drop(std::fs::remove_file(making.path().join("data/auto.cnf")));
        // Another process may have been quicker.
        drop(std::fs::rename(making.path(), &at));
    }
    at.join("data")
}
