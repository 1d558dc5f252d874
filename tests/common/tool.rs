//! The built binary, with a configuration of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use super::{Server, both, text};

pub struct Tool {
    pub config: PathBuf,
    pub repository: PathBuf,
    pub state: PathBuf,
}

impl Tool {
    /// Writes a configuration for this server (`extra`: more YAML) and makes the repository.
    pub fn new(dir: &Path, server: &Server, extra: &str) -> Tool {
        let tool = Tool::bare(
            dir,
            &format!("server:\n  socket: {}\n  user: root\n{extra}", text(&server.socket)),
        );
        tool.ok(&["init", "--repository", &text(&tool.repository)]);
        tool
    }

    /// A configuration with this YAML, and no repository yet.
    pub fn bare(dir: &Path, yaml: &str) -> Tool {
        let tool = Tool {
            config: dir.join("snapback.yaml"),
            repository: dir.join("repository"),
            state: dir.join("state"),
        };
        let all = format!(
            "repository: {}\nstate_dir: {}\nhost: testhost\n{yaml}",
            text(&tool.repository),
            text(&tool.state)
        );
        std::fs::write(&tool.config, all).unwrap();
        tool
    }

    pub fn command(&self, args: &[&str]) -> Command {
        // In the lab's guest it is elsewhere than where it was built.
        let built = env!("CARGO_BIN_EXE_snapback");
        // A SIGHUP that is ignored where the tests run (nohup) would stay ignored.
        let mut command = Command::new("env");
        command.arg("--default-signal=HUP");
        command.arg(std::env::var("SNAPBACK_TEST_BINARY").as_deref().unwrap_or(built));
        command.arg("--config").arg(&self.config).args(args);
        command.env_remove("SNAPBACK_FAILPOINTS").stdin(Stdio::null());
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs, expects success, returns standard output.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "snapback {args:?}: {}", both(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs with `--json`, expects one of these exit statuses, returns the object.
    pub fn json_with(&self, args: &[&str], statuses: &[i32]) -> Value {
        let mut all = vec!["--json"];
        all.extend(args);
        let output = self.run(&all);
        let status = output.status.code().unwrap_or(-1);
        assert!(
            statuses.contains(&status),
            "snapback {args:?}: expected {statuses:?}: {}",
            both(&output)
        );
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}: {}", both(&output)))
    }

    /// Runs with `--json`; success, or done with warnings.
    pub fn json(&self, args: &[&str]) -> Value {
        self.json_with(args, &[0, 5])
    }

    /// Runs with a failpoint armed.
    pub fn with_failpoint(&self, failpoint: &str, args: &[&str]) -> Output {
        self.command(args)
            .env("SNAPBACK_FAILPOINTS", failpoint)
            .output()
            .unwrap()
    }

    /// Starts with a failpoint armed and does not wait.
    pub fn spawn(&self, failpoint: &str, args: &[&str]) -> Child {
        let mut command = self.command(args);
        command
            .env("SNAPBACK_FAILPOINTS", failpoint)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    }
}
