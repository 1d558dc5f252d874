//! Two programs, the first one's output being the second one's input. Both must end well.
#![allow(unsafe_code)]

use std::io::Read;
use std::process::{Child, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use super::command::Program;
use super::signal::Cancel;
use super::user::{Account, become_user};
use super::{Error, Result};

/// What of standard error is kept for the message, in bytes from its end.
const TAIL: usize = 4 << 10;

/// A program with its arguments (never secrets).
#[derive(Debug)]
pub struct Stage<'s> {
    /// Which.
    pub program: &'s Program,
    /// Its arguments.
    pub arguments: &'s [String],
    /// Whom it runs as; `None`: as we do.
    pub user: Option<Account>,
}

/// Runs both to their end. When a signal asks us to end, both are killed.
///
/// # Errors
/// One could not be started, or did not exit with 0: the second one's words come first, for the first only meets a closed pipe then.
pub fn run(from: &Stage<'_>, to: &Stage<'_>, cancel: &Cancel) -> crate::Result<()> {
    let mut first = Member::start(from, Stdio::null(), Stdio::piped())?;
    let pipe = first.child.stdout.take().map_or_else(Stdio::null, Stdio::from);
    let mut second = Member::start(to, pipe, Stdio::null())?;
    let applied = second.wait(cancel)?;
    if !applied.success() {
        // It may wait on the pipe for ever.
        first.kill();
    }
    let printed = first.wait(cancel)?;
    second.judge(applied)?;
    Ok(first.judge(printed)?)
}

struct Member {
    line: String,
    child: Child,
    words: Option<JoinHandle<Vec<u8>>>,
    ended: bool,
}

impl Member {
    fn start(stage: &Stage<'_>, input: Stdio, output: Stdio) -> Result<Member> {
        use std::os::unix::process::CommandExt;
        let line = format!("{} {}", stage.program.path().display(), stage.arguments.join(" "));
        let mut command = std::process::Command::new(stage.program.path());
        super::environment::clean(&mut command);
        let user = stage.user;
        // SAFETY: system calls only between fork and exec.
        unsafe { command.pre_exec(move || become_user(user)) };
        let mut child = command
            .args(stage.arguments)
            .stdin(input)
            .stdout(output)
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|source| Error::Start {
                program: line.clone(),
                source,
            })?;
        let words = child.stderr.take().map(|pipe| std::thread::spawn(move || tail(pipe)));
        Ok(Member {
            line,
            child,
            words,
            ended: false,
        })
    }

    fn wait(&mut self, cancel: &Cancel) -> crate::Result<ExitStatus> {
        loop {
            let seen = self.child.try_wait();
            if let Some(status) = seen.map_err(|source| Error::Kernel {
                operation: "wait for a program",
                source,
            })? {
                self.ended = true;
                return Ok(status);
            }
            cancel.sleep(Duration::from_millis(20))?;
        }
    }

    fn judge(&mut self, status: ExitStatus) -> Result<()> {
        let words = self
            .words
            .take()
            .and_then(|words| words.join().ok())
            .unwrap_or_default();
        if status.success() {
            return Ok(());
        }
        Err(Error::Program {
            program: self.line.clone(),
            status: status.to_string(),
            stderr: String::from_utf8_lossy(&words).trim().to_owned(),
        })
    }

    fn kill(&mut self) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if !self.ended {
            self.kill();
            let _ = self.child.wait();
        }
    }
}

fn tail(mut pipe: impl Read) -> Vec<u8> {
    let (mut kept, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(length) = pipe.read(&mut buffer) {
        if length == 0 {
            break;
        }
        kept.extend_from_slice(&buffer[..length]);
        let over = kept.len().saturating_sub(TAIL);
        kept.drain(..over);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Vec<String> {
        vec!["-c".to_owned(), script.to_owned()]
    }

    fn both(from: &str, to: &str) -> crate::Result<()> {
        let program = Program::find("sh").unwrap();
        let (from, to) = (shell(from), shell(to));
        run(
            &Stage {
                program: &program,
                arguments: &from,
                user: None,
            },
            &Stage {
                program: &program,
                arguments: &to,
                user: None,
            },
            &Cancel::new(),
        )
    }

    #[test]
    fn both_must_end_well_and_a_writer_does_not_hang_on_a_dead_reader() {
        both("echo x", "read a && [ $a = x ]").unwrap();
        let error = both("echo why >&2; exit 3", "cat >/dev/null").unwrap_err().to_string();
        assert!(error.contains("why"), "{error}");
        let error = both(
            "trap '' PIPE; while :; do echo y; sleep 0.01; done",
            "echo no >&2; exit 1",
        )
        .unwrap_err()
        .to_string();
        assert!(error.contains("no"), "{error}");
    }
}
