//! What the configuration names and root uses, that somebody else could change: found all at once, for `check` and before a run.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::Config;
use crate::finding::Finding;
use crate::sys::{host, trust};

impl Config {
    /// A blocker for each program, option file and directory of the configuration that another user could change. What drills and dumps alone use is theirs to refuse,
    /// and [`missing_programs`](Config::missing_programs) has what is not there. None for whoever is not root.
    pub fn distrusted(&self) -> Vec<Finding> {
        if !host::is_root() {
            return Vec::new();
        }
        let found = self.trusted().into_iter().filter_map(|(key, path)| finding(key, path));
        let mut findings: Vec<Finding> = Vec::new();
        for finding in found {
            if !findings.contains(&finding) {
                findings.push(finding);
            }
        }
        findings
    }

    /// A finding for each program of a hook or of the service that is not there: a blocker where no backup can be taken without it.
    pub fn missing_programs(&self) -> Vec<Finding> {
        let missing = self.commands().into_iter().filter_map(|(key, words)| {
            let program = Path::new(words.first()?);
            let executable = |found: std::fs::Metadata| found.is_file() && found.permissions().mode() & 0o111 != 0;
            let reason = match std::fs::metadata(program).map(executable) {
                Ok(true) => return None,
                Ok(false) => "which is no program that can be executed".to_owned(),
                Err(error) => format!("which cannot be run: {error}"),
            };
            let said = format!("`{key}` names {}, {reason}", program.display());
            let finding = match key {
                "hooks.before_quiesce" => Finding::blocker("missing-program", said),
                _ => Finding::warning("missing-program", said),
            };
            Some(finding.remedy("install it, or take it out of the configuration"))
        });
        missing.collect()
    }

    /// The commands of hooks and of the service, each with its key.
    fn commands(&self) -> Vec<(&'static str, &[String])> {
        let hooks = &self.hooks;
        let points = [
            ("hooks.before_quiesce", &hooks.before_quiesce),
            ("hooks.after_release", &hooks.after_release),
            ("hooks.before_rollback", &hooks.before_rollback),
            ("hooks.after_rollback", &hooks.after_rollback),
        ];
        let hooks = points
            .into_iter()
            .flat_map(|(key, hooks)| hooks.iter().map(move |hook| (key, hook.command.as_slice())));
        let service = [
            ("service.stop", self.service.stop.as_slice()),
            ("service.start", self.service.start.as_slice()),
        ];
        hooks.chain(service).collect()
    }

    /// Every path that root uses because the configuration says so, with its key.
    fn trusted(&self) -> Vec<(&'static str, &Path)> {
        let commands = self.commands().into_iter();
        let files = commands.flat_map(|(key, words)| trust::files_of(words).into_iter().map(move |path| (key, path)));
        let server = self.server.as_ref();
        let single = [
            ("state_dir", Some(self.state_dir.as_path())),
            (
                "scratch.mysqld",
                self.scratch.mysqld.as_deref().filter(|_| self.wants_private_server()),
            ),
            (
                "server.defaults_file",
                server.and_then(|server| server.defaults_file.as_deref()),
            ),
            (
                "server.option_file",
                server.and_then(|server| server.option_file.as_deref()),
            ),
        ];
        let single = single.into_iter().filter_map(|(key, path)| Some((key, path?)));
        files.chain(single).filter(|(_, path)| path.is_absolute()).collect()
    }
}

/// What is missing or cannot be looked at is told by whoever needs it.
fn finding(key: &str, path: &Path) -> Option<Finding> {
    let distrust = trust::check(path).ok()?.err()?;
    let message = format!(
        "`{key}` names {}, which root uses: {}",
        path.display(),
        distrust.reasons()
    );
    Some(Finding::blocker("untrusted", message).remedy(distrust.remedies()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_others_could_change_is_found_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["hook", "stop", "mysqld", "my.cnf", "good"] {
            std::fs::write(at(name), "#!/bin/sh\n").unwrap();
            let mode = if name == "good" { 0o700 } else { 0o722 };
            std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let top = dir.path().display();
        let yaml = format!(
            "state_dir: {top}/state\nserver: {{defaults_file: {top}/my.cnf, option_file: {top}/good}}\n\
             hooks: {{before_quiesce: [{{command: [{top}/hook]}}, {{command: [/bin/sh, {top}/hook]}}], after_release: [{{command: [{top}/missing]}}]}}\n\
             service: {{stop: [{top}/stop], start: [{top}/good]}}\nscratch: {{mysqld: {top}/mysqld}}\n"
        );
        let found = Config::parse(&yaml).unwrap().distrusted();
        if !host::is_root() {
            assert_eq!(found, []);
            return;
        }
        let of = |key: &str| found.iter().filter(|finding| finding.message.contains(key)).count();
        assert_eq!(found.len(), 3, "a backup does not use scratch.mysqld: {found:?}");
        let clean = Config::parse(&format!("consistency: clean\n{yaml}")).unwrap();
        assert!(
            clean
                .distrusted()
                .iter()
                .any(|finding| finding.message.contains("scratch.mysqld")),
            "this one does"
        );
        for key in ["hooks.before_quiesce", "service.stop", "server.defaults_file"] {
            assert_eq!(of(key), 1, "{key}: {found:?}");
        }
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let found = Config::parse(&yaml).unwrap().distrusted();
        assert!(
            found.iter().any(|finding| finding.message.contains("state_dir")),
            "{found:?}"
        );
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let found = |yaml: &str| {
            let found = Config::parse(yaml).unwrap().missing_programs();
            found.first().map(|finding| (finding.severity, finding.message.clone()))
        };
        use crate::finding::Severity;
        let (severity, said) = found("hooks: {before_quiesce: [{command: [/nonexistent/x]}]}").unwrap();
        assert_eq!(severity, Severity::Blocker);
        assert!(
            said.contains("`hooks.before_quiesce`") && said.contains("/nonexistent/x"),
            "{said}"
        );
        let after = found("hooks: {after_release: [{command: [/etc/passwd]}]}").unwrap();
        assert_eq!(after.0, Severity::Warning, "{after:?}");
        assert!(found("service: {stop: [/bin/true], start: [/nonexistent/y]}").is_some());
        assert_eq!(found("hooks: {before_quiesce: [{command: [/bin/true]}]}"), None);
    }
}
