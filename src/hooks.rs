//! Hooks: the administrator's commands around a snapshot or a rollback (`hooks:` in the configuration).
//!
//! None runs while the server is locked, except those that say `in_lock: true`, and these within a limit of their own. A hook gets the facts
//! of the run in its environment, with the variables that `hooks.environment` names and nothing else of ours, and no input. Its output is kept for the message
//! when it fails.

use crate::config::{Hook, Hooks};
use crate::database::Position;
use crate::finding::Finding;
use crate::monitor::Monitor;
use crate::sys::command::{Command, Program};
use crate::sys::trust;
use crate::units::Id;
use crate::{Error, Result};

/// When hooks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// Before the server is quieted; a failure fails the run.
    BeforeQuiesce,
    /// Between the lock and the snapshots: those of `before_quiesce` with `in_lock`.
    InLock,
    /// After the lock is gone, also after a failure.
    AfterRelease,
    /// Before a rollback changes anything; a failure fails it.
    BeforeRollback,
    /// After a rollback, also after a failure.
    AfterRollback,
}

impl Point {
    /// As `SNAPBACK_HOOK` and the configuration have it.
    pub fn name(self) -> &'static str {
        match self {
            Point::BeforeQuiesce => "before_quiesce",
            Point::InLock => "in_lock",
            Point::AfterRelease => "after_release",
            Point::BeforeRollback => "before_rollback",
            Point::AfterRollback => "after_rollback",
        }
    }

    /// Its hooks, in their order.
    pub fn of(self, hooks: &Hooks) -> Vec<&Hook> {
        let all = match self {
            Point::BeforeQuiesce | Point::InLock => &hooks.before_quiesce,
            Point::AfterRelease => &hooks.after_release,
            Point::BeforeRollback => &hooks.before_rollback,
            Point::AfterRollback => &hooks.after_rollback,
        };
        all.iter()
            .filter(|hook| hook.in_lock == (self == Point::InLock))
            .collect()
    }
}

/// What a hook is told.
#[derive(Debug, Clone)]
pub struct Facts<'f> {
    /// `SNAPBACK_RUN`.
    pub run: Id,
    /// `SNAPBACK_COMMAND`: `backup`, `snapshot` or `rollback`.
    pub command: &'static str,
    /// `SNAPBACK_HOST`.
    pub host: String,
    /// `SNAPBACK_POSITION_FILE`, `SNAPBACK_POSITION`, `SNAPBACK_GTID`, where it is known.
    pub position: Option<&'f Position>,
    /// `SNAPBACK_STATUS`, for hooks that come after: `ok` or `failed`.
    pub succeeded: Option<bool>,
}

impl Facts<'_> {
    fn environment(&self, point: Point) -> Vec<(&'static str, String)> {
        let mut all = vec![
            ("SNAPBACK_HOOK", point.name().to_owned()),
            ("SNAPBACK_RUN", self.run.to_string()),
            ("SNAPBACK_COMMAND", self.command.to_owned()),
            ("SNAPBACK_HOST", self.host.clone()),
        ];
        if let Some(position) = self.position {
            all.push(("SNAPBACK_POSITION_FILE", position.file.clone()));
            all.push(("SNAPBACK_POSITION", position.position.to_string()));
            all.extend(position.gtid.clone().map(|gtid| ("SNAPBACK_GTID", gtid)));
        }
        if let Some(succeeded) = self.succeeded {
            all.push(("SNAPBACK_STATUS", if succeeded { "ok" } else { "failed" }.to_owned()));
        }
        all
    }
}

/// Runs the hooks of a point, in their order; stops at the first that fails.
///
/// # Errors
/// One could not be started, did not end with status 0, or took longer than its limit and was killed, with its process group.
pub fn run(hooks: &Hooks, point: Point, facts: &Facts<'_>, monitor: &dyn Monitor) -> Result<()> {
    point
        .of(hooks)
        .into_iter()
        .try_for_each(|hook| run_one(hook, &hooks.environment, point, facts, monitor))
}

/// As [`run`], for hooks that come after: all of them run, and a failure is a warning.
pub fn run_after(hooks: &Hooks, point: Point, facts: &Facts<'_>, monitor: &dyn Monitor) -> Vec<Finding> {
    let failed = point
        .of(hooks)
        .into_iter()
        .filter_map(|hook| run_one(hook, &hooks.environment, point, facts, monitor).err());
    failed
        .map(|error| Finding::warning("hook", error.to_string()))
        .collect()
}

/// `pass`: the variables of ours that hooks get.
fn run_one(hook: &Hook, pass: &[String], point: Point, facts: &Facts<'_>, monitor: &dyn Monitor) -> Result<()> {
    let (program, arguments) = hook
        .command
        .split_first()
        .ok_or_else(|| Error::usage(format!("hooks.{} has an empty command", point.name())))?;
    // Under the lock every moment counts, and whoever reads the message may be slow.
    if point != Point::InLock {
        monitor.message(&format!("{} hook: {}", point.name(), hook.command.join(" ")));
    }
    let failed = |error: crate::sys::Error| Error::failed(format!("the {} hook failed: {error}", point.name()));
    trust::require_command(&hook.command).map_err(failed)?;
    let program = Program::trusted(program).map_err(failed)?;
    let given = |name: &String| Some((name.clone(), std::env::var_os(name)?));
    let command = Command::new(&program)
        .args(arguments)
        .limit(hook.limit())
        .envs(pass.iter().filter_map(given))
        .envs(facts.environment(point));
    command.run().map(drop).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::Silent;

    fn hooks(script: &str, timeout: &str) -> Hooks {
        let yaml = format!("hooks: {{after_release: [{{command: [/bin/sh, -c, '{script}'], timeout: {timeout}}}]}}");
        crate::config::Config::parse(&yaml).unwrap().hooks
    }

    fn facts<'f>(position: Option<&'f Position>) -> Facts<'f> {
        Facts {
            run: Id::random(),
            command: "backup",
            host: "h".into(),
            position,
            succeeded: Some(true),
        }
    }

    #[test]
    fn a_hook_is_told_the_facts() {
        let position = Position {
            file: "bin.000003".into(),
            position: 42,
            gtid: Some("0-1-7".into()),
        };
        let script = r#"test "$SNAPBACK_HOOK $SNAPBACK_COMMAND $SNAPBACK_HOST $SNAPBACK_STATUS" = "after_release backup h ok" && test "$SNAPBACK_POSITION_FILE:$SNAPBACK_POSITION $SNAPBACK_GTID" = "bin.000003:42 0-1-7" && test ${#SNAPBACK_RUN} = 32"#;
        run(
            &hooks(script, "30s"),
            Point::AfterRelease,
            &facts(Some(&position)),
            &Silent,
        )
        .unwrap();
    }

    #[test]
    fn a_hook_gets_nothing_else_of_ours() {
        // What the tests run with has a PATH of its own and variables of cargo's.
        assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
        crate::sys::environment::keep_descriptors();
        let mut hooks = hooks("", "30s");
        hooks.environment = vec!["CARGO_PKG_NAME".into(), "SNAPBACK_TEST_NOT_SET".into()];
        let script = "env | cut -d= -f1 | sort | tr \"\\n\" \" \" >&2; ls /proc/self/fd >&2; exit 1";
        hooks.after_release[0].command[2] = script.into();
        let said = run(&hooks, Point::AfterRelease, &facts(None), &Silent)
            .unwrap_err()
            .to_string();
        let names = "CARGO_PKG_NAME HOME LC_ALL PATH PWD SNAPBACK_COMMAND SNAPBACK_HOOK SNAPBACK_HOST SNAPBACK_RUN SNAPBACK_STATUS";
        assert!(said.contains(names), "{said}");
        // 3 is the directory that `ls` lists.
        assert!(said.ends_with("0\n1\n2\n3"), "{said}");
    }

    #[test]
    fn a_hook_that_somebody_else_could_change_is_not_run() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("hook");
        let mode = |mode: u32| std::fs::set_permissions(&script, std::fs::Permissions::from_mode(mode)).unwrap();
        std::fs::write(&script, "#!/bin/sh\nexit 0\n").unwrap();
        mode(0o755);
        let text = script.display().to_string();
        let mut hooks = hooks("", "30s");
        for command in [
            vec![text.clone()],
            vec!["/bin/sh".to_owned(), "-e".to_owned(), text.clone()],
        ] {
            hooks.after_release[0].command = command;
            mode(0o755);
            run(&hooks, Point::AfterRelease, &facts(None), &Silent).unwrap();
            mode(0o757);
            let said = run(&hooks, Point::AfterRelease, &facts(None), &Silent);
            if crate::sys::host::is_root() {
                let said = said.unwrap_err().to_string();
                assert!(said.contains("chmod go-w") && said.contains("0757"), "{said}");
            }
        }
    }

    #[test]
    fn a_hook_that_fails_says_so_and_one_that_hangs_is_ended() {
        let said = run_after(
            &hooks("echo no room >&2; exit 3", "30s"),
            Point::AfterRelease,
            &facts(None),
            &Silent,
        );
        assert!(
            said[0].message.contains("no room") && said[0].message.contains("after_release"),
            "{said:?}"
        );
        let said = run_after(
            &hooks("echo the reason; exit 3", "30s"),
            Point::AfterRelease,
            &facts(None),
            &Silent,
        );
        assert!(said[0].message.contains("the reason"), "also on stdout: {said:?}");
        let begun = std::time::Instant::now();
        let said = run(&hooks("sleep 600", "200ms"), Point::AfterRelease, &facts(None), &Silent);
        assert!(said.is_err());
        assert!(begun.elapsed() < std::time::Duration::from_secs(60));
    }
}
