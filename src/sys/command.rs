//! Starting programs: an absolute path found once, an argument list, `LC_ALL=C`, a time limit, success by exit status.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::{Error, Result};

/// Where system programs live, before what `PATH` adds.
const DIRECTORIES: [&str; 6] = [
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
    "/usr/local/sbin",
    "/usr/local/bin",
];

/// What of standard error is kept for the message, in bytes from its end.
const STDERR_TAIL: usize = 4 << 10;

/// The most that is kept of standard output, in bytes.
const STDOUT_LIMIT: usize = 64 << 20;

/// A program that was found on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program(PathBuf);

impl Program {
    /// Finds a program in the system's directories, then in `PATH`.
    ///
    /// # Errors
    /// It is not installed.
    pub fn find(name: &str) -> Result<Program> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        DIRECTORIES
            .iter()
            .map(PathBuf::from)
            .chain(std::env::split_paths(&path).filter(|directory| directory.is_absolute()))
            .map(|directory| directory.join(name))
            .find(|path| is_executable(path))
            .map(Program)
            .ok_or_else(|| Error::Program {
                program: name.to_owned(),
                status: "not installed".to_owned(),
                stderr: format!("looked in {} and PATH", DIRECTORIES.join(", ")),
            })
    }

    /// A program at a path that is known already.
    pub fn at(path: impl Into<PathBuf>) -> Program {
        Program(path.into())
    }

    /// Its absolute path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// One call of a program. Arguments never hold secrets (trap 38).
#[derive(Debug, Clone)]
pub struct Command {
    program: Program,
    arguments: Vec<OsString>,
    limit: Duration,
}

impl Command {
    /// A call that may take 30 s.
    pub fn new(program: &Program) -> Command {
        Command {
            program: program.clone(),
            arguments: Vec::new(),
            limit: Duration::from_secs(30),
        }
    }

    /// Adds one argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Command {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Command {
        let arguments = arguments.into_iter().map(|argument| argument.as_ref().to_owned());
        self.arguments.extend(arguments);
        self
    }

    /// The longest that it may run; then it and its process group are killed.
    pub fn limit(mut self, limit: Duration) -> Command {
        self.limit = limit;
        self
    }

    /// Runs it with no input and returns its standard output.
    ///
    /// # Errors
    /// It could not be started, did not exit with 0, or took too long.
    pub fn run(&self) -> Result<Vec<u8>> {
        self.start(|_| {})?.finish()
    }

    /// Starts it with no input; `prepare` may change how.
    pub(super) fn start(&self, prepare: impl FnOnce(&mut std::process::Command)) -> Result<Running> {
        let mut command = std::process::Command::new(&self.program.0);
        command
            .args(&self.arguments)
            .env("LC_ALL", "C")
            .env_remove(super::PASSWORD_VARIABLE)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        prepare(&mut command);
        let mut child = command
            .spawn()
            .map_err(|error| self.error("it could not be started".to_owned(), error.to_string()))?;
        Ok(Running {
            stdout: child.stdout.take().map(|pipe| drain(pipe, STDOUT_LIMIT)),
            stderr: child.stderr.take().map(|pipe| drain(pipe, STDERR_TAIL)),
            child,
            until: Instant::now() + self.limit,
            command: self.clone(),
        })
    }

    fn error(&self, status: String, stderr: String) -> Error {
        let mut program = self.program.0.display().to_string();
        for argument in &self.arguments {
            program.push(' ');
            program.push_str(&argument.to_string_lossy());
        }
        Error::Program {
            program,
            status,
            stderr: if stderr.is_empty() {
                "it said nothing".to_owned()
            } else {
                stderr
            },
        }
    }
}

/// A program that was started.
#[derive(Debug)]
pub(super) struct Running {
    command: Command,
    child: Child,
    until: Instant,
    stdout: Option<mpsc::Receiver<Vec<u8>>>,
    stderr: Option<mpsc::Receiver<Vec<u8>>>,
}

impl Running {
    /// Its process number.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end and returns its standard output.
    pub(super) fn finish(mut self) -> Result<Vec<u8>> {
        let status = self.wait();
        let (stdout, stderr) = (collect(self.stdout.take()), collect(self.stderr.take()));
        let stderr = || String::from_utf8_lossy(&stderr).trim().to_owned();
        let limit = self.command.limit.as_secs_f32();
        match status {
            Ok(Some(status)) if status.success() => Ok(stdout),
            Ok(Some(status)) => Err(self.command.error(status.to_string(), stderr())),
            Ok(None) => Err(self
                .command
                .error(format!("killed: it took longer than {limit} s"), stderr())),
            Err(error) => Err(self
                .command
                .error("it could not be waited for".to_owned(), error.to_string())),
        }
    }

    /// `None` when the time limit was reached; the process group is dead then.
    fn wait(&mut self) -> std::io::Result<Option<ExitStatus>> {
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= self.until {
                // The child is not reaped yet, so its number, which is its group's, cannot belong to a stranger.
                if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
                    let _ = kill_process_group(group, Signal::KILL);
                }
                self.child.wait()?;
                return Ok(None);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }
}

/// Reads a pipe to its end on a thread of its own and keeps the last `limit` bytes.
fn drain(mut pipe: impl Read + Send + 'static, limit: usize) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let (mut kept, mut buffer) = (Vec::new(), [0; 8 << 10]);
        while let Ok(read @ 1..) = pipe.read(&mut buffer) {
            kept.extend_from_slice(&buffer[..read]);
            if kept.len() > 2 * limit {
                kept.drain(..kept.len() - limit);
            }
        }
        let surplus = kept.len().saturating_sub(limit);
        kept.drain(..surplus);
        let _ = sender.send(kept);
    });
    receiver
}

/// A daemon that the program left behind may keep the pipe open for ever: its end is waited for a second only.
fn collect(pipe: Option<mpsc::Receiver<Vec<u8>>>) -> Vec<u8> {
    pipe.and_then(|pipe| pipe.recv_timeout(Duration::from_secs(1)).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        Command::new(&Program::find("sh").unwrap()).args(["-c", script])
    }

    #[test]
    fn output_comes_back_and_input_is_empty() {
        assert_eq!(shell("cat; echo $LC_ALL").run().unwrap(), b"C\n");
    }

    #[test]
    fn the_password_is_not_handed_on() {
        let mut removed = false;
        let look = |command: &mut std::process::Command| {
            removed = command
                .get_envs()
                .any(|(name, value)| name == crate::sys::PASSWORD_VARIABLE && value.is_none());
        };
        shell("true").start(look).unwrap().finish().unwrap();
        assert!(removed);
    }

    #[test]
    fn success_is_the_exit_status_and_not_a_silent_stderr() {
        assert!(shell("echo careful >&2").run().is_ok());
        let error = shell("echo broken >&2; exit 3").run().unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("broken"), "{error}");
    }

    #[test]
    fn a_slow_program_dies_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let begun = Instant::now();
        let script = format!("sleep 60 & echo $! > {}; wait", pid.display());
        let error = shell(&script)
            .limit(Duration::from_millis(300))
            .run()
            .unwrap_err()
            .to_string();
        assert!(error.contains("took longer"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(20));
        let stat = format!("/proc/{}/stat", std::fs::read_to_string(pid).unwrap().trim());
        let gone = || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
        let until = Instant::now() + Duration::from_secs(5);
        while !gone() {
            assert!(Instant::now() < until, "the child's child lives on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = Program::find("snapback-no-such-program").unwrap_err().to_string();
        assert!(error.contains("snapback-no-such-program"), "{error}");
    }
}
