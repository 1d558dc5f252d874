//! Starting programs: an absolute path found once, an argument list, `LC_ALL=C`, a time limit, success by exit status.
#![allow(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::user::{Account, become_user};
use super::{Error, Result, signal};

mod groups;
mod stream;

pub use groups::kill_all;
pub use stream::Fed;

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

/// How long a killed program's end is waited for: one that hangs in the kernel ends only when its device answers, which may be never.
const DEATH_LIMIT: Duration = Duration::from_secs(5);

/// What a program that was started before a wish to end gets from then on; one that is started after it undoes something.
const GRACE_BEFORE: Duration = Duration::from_millis(300);
/// When, after a wish to end, the last program must have ended.
const GRACE_AFTER: Duration = Duration::from_millis(1500);

/// A program that was found on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program(PathBuf);

impl Program {
    /// Finds a program in the system's directories, then in `PATH`: the first that nobody but root can change ([`trust::check`](super::trust::check)), where we are
    /// root.
    ///
    /// # Errors
    /// It is not installed, or others can change it.
    pub fn find(name: &str) -> Result<Program> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let directories = DIRECTORIES
            .iter()
            .map(PathBuf::from)
            .chain(std::env::split_paths(&path).filter(|directory| directory.is_absolute()));
        let mut refused = None;
        for path in directories.map(|directory| directory.join(name)) {
            if !is_executable(&path) {
                continue;
            }
            match Program::trusted(&path) {
                Ok(program) => return Ok(program),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        Err(refused.unwrap_or_else(|| Error::Program {
            program: name.to_owned(),
            status: "not installed".to_owned(),
            stderr: format!("looked in {} and PATH", DIRECTORIES.join(", ")),
        }))
    }

    /// A program that somebody named, if nobody but root can change it, where we are root.
    ///
    /// # Errors
    /// It is not there, or others can change it, its directory, or one above: the message says who, and what to do.
    pub fn trusted(path: impl Into<PathBuf>) -> Result<Program> {
        let path = path.into();
        if !super::host::is_root() {
            return Ok(Program(path));
        }
        // As typed, from where we are.
        let path = std::path::absolute(&path).map_err(|error| Error::path("look at", &path, error))?;
        match super::trust::check(&path)? {
            Ok(_) => Ok(Program(path)),
            Err(distrust) => Err(Error::Program {
                program: path.display().to_string(),
                status: "root does not run it".to_owned(),
                stderr: distrust.to_string(),
            }),
        }
    }

    /// A program at this path, without a look at who could change it: for tests.
    #[cfg(test)]
    pub(crate) fn at(path: impl Into<PathBuf>) -> Program {
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
    spared: bool,
    environment: Vec<(OsString, OsString)>,
    user: Option<Account>,
}

impl Command {
    /// A call that may take 30 s.
    pub fn new(program: &Program) -> Command {
        Command {
            program: program.clone(),
            arguments: Vec::new(),
            limit: Duration::from_secs(30),
            spared: false,
            environment: Vec::new(),
            user: None,
        }
    }

    /// Adds variables to its environment, which has nothing of ours otherwise.
    pub fn envs<N: Into<OsString>, V: Into<OsString>>(mut self, all: impl IntoIterator<Item = (N, V)>) -> Command {
        let all = all.into_iter().map(|(name, value)| (name.into(), value.into()));
        self.environment.extend(all);
        self
    }

    /// Runs it as another user; `None`: as we are.
    pub fn user(mut self, user: Option<Account>) -> Command {
        self.user = user;
        self
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

    /// The longest that it may run; then it and its process group are killed (but see [`spared`](Command::spared)).
    pub fn limit(mut self, limit: Duration) -> Command {
        self.limit = limit;
        self
    }

    /// Never kills it: past its limit that is reported ([`Error::StillRunning`]), and it runs on, also when this process and its pipes are gone.
    /// For what changes device-mapper's tables: killed between suspend and resume, it leaves a device on which everybody hangs.
    pub fn spared(mut self) -> Command {
        self.spared = true;
        self
    }

    /// Runs it with no input and returns its standard output.
    ///
    /// # Errors
    /// It could not be started ([`Error::Start`]), did not exit with 0, or took too long.
    pub fn run(&self) -> Result<Vec<u8>> {
        self.start(|_| {})?.finish()
    }

    /// Starts it with no input; `prepare` may change how.
    pub(super) fn start(&self, prepare: impl FnOnce(&mut std::process::Command)) -> Result<Running> {
        let mut running = self.spawn(prepare)?;
        running.stdout = running.child.stdout.take().map(|pipe| drain(pipe, STDOUT_LIMIT));
        running.stderr = running.child.stderr.take().map(|pipe| drain(pipe, STDERR_TAIL));
        Ok(running)
    }

    /// The same, with its pipes still to be read.
    fn spawn(&self, prepare: impl FnOnce(&mut std::process::Command)) -> Result<Running> {
        let mut command = std::process::Command::new(&self.program.0);
        super::environment::clean(&mut command);
        command
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        if self.spared {
            // SAFETY: one system call between fork and exec.
            unsafe { command.pre_exec(ignore_closed_pipes) };
        }
        if let Some(user) = self.user {
            // SAFETY: system calls only between fork and exec.
            unsafe { command.pre_exec(move || become_user(Some(user))) };
        }
        prepare(&mut command);
        let child = command.spawn().map_err(|source| Error::Start {
            program: self.line(),
            source,
        })?;
        if !self.spared {
            groups::add(&child);
        }
        Ok(Running {
            stdout: None,
            stderr: None,
            child,
            begun: Instant::now(),
            until: Instant::now() + self.limit,
            command: self.clone(),
        })
    }

    /// As it would be typed.
    fn line(&self) -> String {
        let mut line = self.program.0.display().to_string();
        for argument in &self.arguments {
            line.push(' ');
            line.push_str(&argument.to_string_lossy());
        }
        line
    }

    fn error(&self, status: String, stderr: String) -> Error {
        Error::Program {
            program: self.line(),
            status,
            stderr: if stderr.is_empty() {
                "it said nothing".to_owned()
            } else {
                stderr
            },
        }
    }
}

/// SIGPIPE would kill a program that outlives the reader of its output.
fn ignore_closed_pipes() -> std::io::Result<()> {
    // SAFETY: a system call without pointers.
    match unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) } {
        libc::SIG_ERR => Err(std::io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// A program that was started.
#[derive(Debug)]
pub(super) struct Running {
    command: Command,
    child: Child,
    begun: Instant,
    until: Instant,
    stdout: Option<mpsc::Receiver<Vec<u8>>>,
    stderr: Option<mpsc::Receiver<Vec<u8>>>,
}

impl Running {
    /// Its process number.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its limit begins again: for a program that was held up on purpose.
    pub(super) fn restart_limit(&mut self) {
        self.until = Instant::now() + self.command.limit;
    }

    /// Waits for its end and returns its standard output.
    pub(super) fn finish(mut self) -> Result<Vec<u8>> {
        self.wait_for_end()
    }

    fn wait_for_end(&mut self) -> Result<Vec<u8>> {
        let status = self.wait();
        let limit = self.command.limit.as_secs_f32();
        let (stdout, stderr) = (self.stdout.take(), self.stderr.take());
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
        let status = match status {
            Ok(End::Exit(status)) if status.success() => return Ok(collect(stdout)),
            // Its pipes are still open.
            Ok(End::Spared) => {
                return Err(Error::StillRunning {
                    program: self.command.line(),
                    seconds: limit,
                });
            }
            Ok(End::Exit(status)) => status.to_string(),
            Ok(End::Killed) if self.is_unwanted() => "killed: a signal asked to end".to_owned(),
            Ok(End::Killed) => format!("killed: it took longer than {limit} s"),
            Ok(End::Hanging) => format!("it took longer than {limit} s, was killed and hangs in the kernel"),
            Err(error) => format!("it could not be waited for: {error}"),
        };
        let mut said = text(collect(stderr));
        // Some give their reasons where results go.
        if said.is_empty() {
            let mut rest = collect(stdout);
            said = text(rest.split_off(rest.len().saturating_sub(STDERR_TAIL)));
        }
        Err(self.command.error(status, said))
    }

    fn wait(&mut self) -> std::io::Result<End> {
        if let Some(status) = self.wait_until(self.until)? {
            return Ok(End::Exit(status));
        }
        if self.command.spared {
            return Ok(End::Spared);
        }
        self.kill_group();
        let dead = self.wait_until(Instant::now() + DEATH_LIMIT)?;
        Ok(dead.map_or(End::Hanging, |_| End::Killed))
    }

    /// While the child is not reaped its number, which is its group's, cannot belong to a stranger.
    fn kill_group(&self) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }

    /// Kills it and its group, unless it has ended.
    fn kill(&mut self) {
        if matches!(self.reap(), Ok(None)) {
            self.kill_group();
            let _ = self.wait_until(Instant::now() + DEATH_LIMIT);
        }
    }

    /// Its status, once it has ended. Nobody kills its group after that.
    fn reap(&mut self) -> std::io::Result<Option<ExitStatus>> {
        groups::reap(&mut self.child)
    }

    /// Whether a wish to end has come, and it has had its time since. What is spared is never unwanted.
    fn is_unwanted(&self) -> bool {
        let left = signal::within_wish(Duration::MAX, self.begun.elapsed(), GRACE_BEFORE, GRACE_AFTER);
        !self.command.spared && left.is_zero()
    }

    fn failed(&mut self, status: &str) -> Error {
        let said = String::from_utf8_lossy(&collect(self.stderr.take())).trim().to_owned();
        self.command.error(status.to_owned(), said)
    }

    fn wait_until(&mut self, until: Instant) -> std::io::Result<Option<ExitStatus>> {
        let mut pause = Duration::from_millis(1);
        loop {
            let status = self.reap()?;
            if status.is_some() || Instant::now() >= until || (until == self.until && self.is_unwanted()) {
                return Ok(status);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }
}

/// How the wait for a program ended.
enum End {
    Exit(ExitStatus),
    /// It took too long.
    Killed,
    /// It took too long, and does not even die.
    Hanging,
    /// It took too long, and was left alone.
    Spared,
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
mod tests;
