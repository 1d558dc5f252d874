//! What a started program finds in its environment: nothing of ours. Root's environment has passwords and cloud keys, and variables that change what a program
//! loads or reads (`LD_PRELOAD`, `LVM_SYSTEM_DIR`, `MYSQL_HOME`).

use std::process::Command;

/// Where a started program looks for others.
pub const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Empties the environment of a command; what is left is the language of messages, the path and a home.
pub fn clean(command: &mut Command) {
    command
        .env_clear()
        .env("LC_ALL", "C")
        .env("PATH", PATH)
        .env("HOME", "/");
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
}
