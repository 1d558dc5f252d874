//! `hooks:`: commands that run around a snapshot or a rollback.

use serde::{Deserialize, Serialize};

use super::Span;

/// The hooks of each point, in their order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hooks {
    /// Before anything is locked (or, with `in_lock`, between the lock and the snapshots). One that fails fails the run.
    pub before_quiesce: Vec<Hook>,
    /// When the lock is gone, also after a failure. One that fails is a warning.
    pub after_release: Vec<Hook>,
    /// Before a rollback changes anything. One that fails fails it.
    pub before_rollback: Vec<Hook>,
    /// After a rollback. One that fails is a warning.
    pub after_rollback: Vec<Hook>,
    /// Variables of snapback's own environment that hooks get; by default none.
    pub environment: Vec<String>,
}

/// One hook.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// A program by its absolute path, and its arguments.
    #[serde(deserialize_with = "super::service::words")]
    pub command: Vec<String>,
    /// The longest that it may run; then it is killed, and has failed. 30 s unless it is set; `in_lock` needs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// Run it while the server is locked: everybody who writes waits for it.
    #[serde(default)]
    pub in_lock: bool,
}

impl Hook {
    /// The longest that it may run.
    pub fn limit(&self) -> std::time::Duration {
        self.timeout.map_or(std::time::Duration::from_secs(30), Span::unsigned)
    }
}

impl Hooks {
    /// What is wrong with them, after the key's name. `hold_limit` is the lock's.
    pub(super) fn wrong(&self, hold_limit: Span) -> Option<(&'static str, &'static str)> {
        let points = [
            ("hooks.before_quiesce", &self.before_quiesce),
            ("hooks.after_release", &self.after_release),
            ("hooks.before_rollback", &self.before_rollback),
            ("hooks.after_rollback", &self.after_rollback),
        ];
        if !self.environment.iter().all(|name| is_variable(name)) {
            return Some((
                "hooks.environment",
                "must be a list of names of variables: letters, digits and `_`, not SNAPBACK_...",
            ));
        }
        for (key, hooks) in points {
            for hook in hooks {
                let program = hook.command.first();
                if !program.is_some_and(|program| program.starts_with('/')) {
                    return Some((key, "must have commands that begin with a program's absolute path"));
                }
                if hook.limit().is_zero() {
                    return Some((key, "must have timeouts of more than 0"));
                }
                if hook.in_lock && key != "hooks.before_quiesce" {
                    return Some((key, "runs without a lock: `in_lock` is for before_quiesce"));
                }
                if hook.in_lock && hook.timeout.is_none_or(|timeout| timeout.0 >= hold_limit.0) {
                    return Some((
                        key,
                        "needs a `timeout` shorter than lock.hold_limit where it says `in_lock`",
                    ));
                }
            }
        }
        None
    }
}

/// The facts that a hook is told begin with SNAPBACK_.
fn is_variable(name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !name.is_empty() && name.chars().all(word) && !name.starts_with(|c: char| c.is_ascii_digit()) && {
        !name.starts_with("SNAPBACK_") || crate::sys::environment::is_secret(name)
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    fn wrong(yaml: &str) -> String {
        Config::parse(yaml).unwrap_err().to_string()
    }

    #[test]
    fn hooks_that_could_hold_up_the_server_are_refused() {
        let config = Config::parse("hooks: {before_quiesce: [{command: [/bin/a, b]}]}").unwrap();
        assert_eq!(config.hooks.before_quiesce[0].limit().as_secs(), 30);
        Config::parse("hooks: {before_quiesce: [{command: [/bin/a], timeout: 1s, in_lock: true}]}").unwrap();
        for (yaml, word) in [
            ("hooks: {before_quiesce: [{command: [a]}]}", "absolute"),
            ("hooks: {after_release: [{command: []}]}", "absolute"),
            ("hooks: {environment: ['A=b']}", "hooks.environment"),
            ("hooks: {environment: [SNAPBACK_RUN]}", "hooks.environment"),
            (
                "hooks: {before_quiesce: [{command: [/bin/a], in_lock: true}]}",
                "hold_limit",
            ),
            (
                "hooks: {before_quiesce: [{command: [/bin/a], in_lock: true, timeout: 6s}]}",
                "hold_limit",
            ),
            (
                "hooks: {after_release: [{command: [/bin/a], in_lock: true, timeout: 1s}]}",
                "in_lock",
            ),
            (
                "hooks: {after_rollback: [{command: [/bin/a], timeout: 0s}]}",
                "more than 0",
            ),
        ] {
            let said = wrong(yaml);
            assert!(said.contains(word), "{yaml}: {said}");
        }
    }
}
