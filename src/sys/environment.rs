//! What a started program finds: nothing of ours. Root's environment has passwords and cloud keys, and variables that change what a program loads or reads
//! (`LD_PRELOAD`, `LVM_SYSTEM_DIR`, `MYSQL_HOME`); whoever started us may have left descriptors open.
#![allow(unsafe_code)]

use std::process::Command;

/// Where a started program looks for others.
pub const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// The variable with a password that the clients of MySQL and MariaDB read, and we too.
const CLIENT_PASSWORD: &str = "MYSQL_PWD";

/// Empties the environment of a command; what is left is the language of messages, the path and a home.
pub fn clean(command: &mut Command) {
    command
        .env_clear()
        .env("LC_ALL", "C")
        .env("PATH", PATH)
        .env("HOME", "/");
}

/// Takes our own secrets out of what a command inherits: for the operator's own command, which keeps all else.
pub fn without_secrets(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if is_secret(&name.to_string_lossy()) {
            command.env_remove(name);
        }
    }
}

/// Whether a variable has a password of ours.
pub fn is_secret(name: &str) -> bool {
    name == CLIENT_PASSWORD || name.starts_with("SNAPBACK_") && name.ends_with("PASSWORD")
}

/// Keeps what we were started with, besides standard input and outputs, from the programs that we start. (All that we open ourselves closes on exec.)
pub fn keep_descriptors() {
    // SAFETY: no pointers; it only sets the flag close-on-exec. Linux before 5.11 does not know it, and then all stays as it was.
    unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_finds_nothing_of_ours() {
        let mut command = Command::new("/usr/bin/env");
        clean(command.env("MYSQL_PWD", "hush"));
        let said = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let mut lines: Vec<&str> = said.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["HOME=/", "LC_ALL=C", &format!("PATH={PATH}")]);
    }

    #[test]
    fn the_operators_own_command_keeps_all_but_our_passwords() {
        const INNER: &str = "SNAPBACK_TEST_INNER";
        if std::env::var_os(INNER).is_some() {
            let mut command = Command::new("/usr/bin/env");
            without_secrets(&mut command);
            command.status().unwrap();
            return;
        }
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["the_operators_own_command", "--nocapture"])
            .env(INNER, "1")
            .env("MYSQL_PWD", "hush")
            .env("SNAPBACK_REPLICA_PASSWORD", "hush")
            .env("SNAPBACK_MYSQL_PASSWORD", "hush")
            .env("KEPT", "this")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("KEPT=this") && !said.contains("hush"), "{said}");
    }

    /// The one list of places that start programs: a further one has to be looked at, and to be written here.
    #[test]
    fn every_place_that_starts_a_program_cleans_its_environment() {
        let mut left = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
        let mut starts = Vec::new();
        while let Some(at) = left.pop() {
            if at.is_dir() {
                left.extend(std::fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().path()));
                continue;
            }
            let text = std::fs::read_to_string(&at).unwrap();
            let code = text.split("mod tests {").next().unwrap_or_default();
            let places = code.matches("process::Command::new(").count();
            if places > 0 && at.file_name() != Some("tests.rs".as_ref()) {
                let cleaned =
                    code.matches("environment::clean(").count() + code.matches("environment::without_secrets(").count();
                assert_eq!(places, cleaned, "{}", at.display());
                starts.push(at.file_name().unwrap().to_owned());
            }
        }
        starts.sort();
        assert_eq!(starts, ["command.rs", "guarded.rs", "pipeline.rs", "view.rs"]);
    }

    #[test]
    fn our_passwords_are_known_by_their_names() {
        for name in [
            "MYSQL_PWD",
            "SNAPBACK_MYSQL_PASSWORD",
            "SNAPBACK_REPLICA_PASSWORD",
            "SNAPBACK_PASSWORD",
        ] {
            assert!(is_secret(name), "{name}");
        }
        for name in ["PATH", "SNAPBACK_CONFIG", "AWS_SECRET_ACCESS_KEY"] {
            assert!(!is_secret(name), "{name}");
        }
    }
}
