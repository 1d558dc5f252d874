//! What a backup does not use, and other commands refuse on their day: scratch space, the private server's program, the option files of a stopped server.

use std::fmt::Display;

use crate::config::Config;
use crate::database::ServerFacts;
use crate::database::mysql::scratch;
use crate::database::mysql::stopped::readable;
use crate::drill;
use crate::finding::Finding;

/// A warning for each. `facts`: of the server that answers.
pub(super) fn findings(config: &Config, facts: Option<&ServerFacts>) -> Vec<Finding> {
    let Some(server) = &config.server else {
        return Vec::new();
    };
    let warning = |code: &str, whom: &str, error: &dyn Display| Finding::warning(code, format!("{whom}: {error}"));
    let mut found = Vec::new();
    if let Err(error) = drill::space::usable(config) {
        found.push(warning(
            "scratch-dir",
            "drills, dumps and replays would be refused",
            &error,
        ));
    }
    // The one that is looked for by itself is found, or not, by what it is wanted for.
    if let (Some(program), Some(facts)) = (&config.scratch.mysqld, facts)
        && let Err(error) = scratch::find(Some(program), facts)
    {
        found.push(warning(
            "scratch-mysqld",
            "`scratch.mysqld`, with which drills and dumps start a server, cannot be used",
            &error,
        ));
    }
    if let Err(error) = readable(server) {
        found.push(warning(
            "option-file",
            "a stopped server's data would not be found, by its own option file",
            &error,
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::sys::host;

    #[test]
    fn what_other_commands_would_refuse_is_named_before() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().canonicalize().unwrap();
        std::fs::set_permissions(&at, std::fs::Permissions::from_mode(0o755)).unwrap();
        let codes = |yaml: &str| {
            let config = Config::parse(yaml).unwrap();
            let found = findings(&config, None);
            found.into_iter().map(|finding| finding.code).collect::<Vec<_>>()
        };
        let top = at.display();
        let (scratch, included) = (at.join("s"), at.join("conf.d"));
        let option_file = format!("{top}/my.cnf");
        std::fs::write(&option_file, format!("[mysqld]\n!includedir {}\n", included.display())).unwrap();
        std::fs::create_dir(&included).unwrap();
        std::fs::write(included.join("a.cnf"), "[mysqld]\n").unwrap();
        let yaml = format!(
            "scratch: {{dir: {}}}\nserver: {{option_file: {option_file}}}\n",
            scratch.display()
        );
        assert_eq!(codes(&yaml), ["scratch-dir"], "missing");
        std::fs::create_dir(&scratch).unwrap();
        let mode = |path: &std::path::Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap()
        };
        mode(&scratch, 0o755);
        assert_eq!(codes(&yaml), [""; 0]);
        if host::is_root() {
            mode(&scratch, 0o700);
            assert_eq!(codes(&yaml), ["scratch-dir"], "closed");
            mode(&scratch, 0o777);
            assert_eq!(codes(&yaml), ["scratch-dir"], "everybody's");
            mode(&scratch, 0o755);
            mode(&included, 0o777);
            assert_eq!(codes(&yaml), ["option-file"]);
        }
    }
}
