//! Hooks: the administrator's commands around a snapshot or a rollback (`hooks:` in the configuration).
//!
//! None runs while the server is locked, except those that say `in_lock: true`, and these within a limit of their own. A hook gets the facts
//! of the run in its environment, no input, and its output is kept for the message when it fails.

use crate::config::{Hook, Hooks};
use crate::database::Position;
use crate::finding::Finding;
use crate::monitor::Monitor;
use crate::sys::command::{Command, Program};
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
        .try_for_each(|hook| run_one(hook, point, facts, monitor))
}

/// As [`run`], for hooks that come after: all of them run, and a failure is a warning.
pub fn run_after(hooks: &Hooks, point: Point, facts: &Facts<'_>, monitor: &dyn Monitor) -> Vec<Finding> {
    let failed = point
        .of(hooks)
        .into_iter()
        .filter_map(|hook| run_one(hook, point, facts, monitor).err());
    failed
        .map(|error| Finding::warning("hook", error.to_string()))
        .collect()
}

fn run_one(hook: &Hook, point: Point, facts: &Facts<'_>, monitor: &dyn Monitor) -> Result<()> {
    let (program, arguments) = hook
        .command
        .split_first()
        .ok_or_else(|| Error::usage(format!("hooks.{} has an empty command", point.name())))?;
    // Under the lock every moment counts, and whoever reads the message may be slow.
    if point != Point::InLock {
        monitor.message(&format!("{} hook: {}", point.name(), hook.command.join(" ")));
    }
    let command = Command::new(&Program::at(program))
        .args(arguments)
        .limit(hook.limit())
        .envs(facts.environment(point));
    match command.run() {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::failed(format!("the {} hook failed: {error}", point.name()))),
    }
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
        let begun = std::time::Instant::now();
        let said = run(&hooks("sleep 600", "200ms"), Point::AfterRelease, &facts(None), &Silent);
        assert!(said.is_err());
        assert!(begun.elapsed() < std::time::Duration::from_secs(60));
    }
}
