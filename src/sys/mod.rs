//! The only place that holds `unsafe` or starts programs.

pub mod brink;
pub mod btrfs;
pub mod command;
mod confine;
pub mod device_mapper;
pub mod environment;
pub mod failpoint;
pub mod freeze;
pub mod fs;
pub mod guarded;
mod helper;
pub mod host;
pub mod identity;
mod ioctl;
pub mod line;
pub mod mount;
pub mod peer;
pub mod pipeline;
pub mod priority;
pub mod process;
pub mod servers;
pub mod signal;
pub mod terminal;
pub mod trust;
pub mod user;
pub mod view;

use std::io;
use std::path::PathBuf;

/// The environment variable with the server's password: for us, and not for the programs that we start.
pub(crate) const PASSWORD_VARIABLE: &str = "SNAPBACK_MYSQL_PASSWORD";

/// The kernel, a file or a program said no.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An operation on a path failed.
    #[error("cannot {operation} {}: {source}", path.display())]
    Path {
        /// What was tried, as a verb: `open`, `fsync`, `create snapshot at`.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// An operation without a path failed.
    #[error("cannot {operation}: {source}")]
    Kernel {
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A program could not be started.
    #[error("cannot start {program}: {source}")]
    Start {
        /// The program and its arguments (never secrets).
        program: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A program that must not be killed has not ended within its limit: it runs on.
    #[error(
        "{program} has not ended after {seconds} s; it is left running, since killing it could leave a device suspended"
    )]
    StillRunning {
        /// The program and its arguments (never secrets).
        program: String,
        /// Its limit.
        seconds: f32,
    },
    /// A program failed or took too long.
    #[error("{program} failed ({status}): {stderr}")]
    Program {
        /// The program and its arguments (never secrets).
        program: String,
        /// Exit status or cause, in words.
        status: String,
        /// The last of what it said.
        stderr: String,
    },
}

/// A system result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An operation on a path failed.
    pub fn path(operation: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Error {
        Error::Path {
            operation,
            path: path.into(),
            source: source.into(),
        }
    }

    /// An operation without a path failed.
    pub fn kernel(operation: &'static str, source: impl Into<io::Error>) -> Error {
        Error::Kernel {
            operation,
            source: source.into(),
        }
    }

    /// The operating system's error number, where there is one.
    pub fn errno(&self) -> Option<i32> {
        self.io().and_then(io::Error::raw_os_error)
    }

    /// Whether the kernel's answer was of this kind, e.g. `NotFound`, `AlreadyExists`, `StorageFull`.
    pub fn is(&self, kind: io::ErrorKind) -> bool {
        self.io().is_some_and(|source| source.kind() == kind)
    }

    /// What the kernel said; `None` for a program's failure.
    pub fn io(&self) -> Option<&io::Error> {
        match self {
            Error::Path { source, .. } | Error::Kernel { source, .. } | Error::Start { source, .. } => Some(source),
            Error::Program { .. } | Error::StillRunning { .. } => None,
        }
    }

    /// The kernel's answer alone, for callers with an error type of their own that names the object.
    pub fn into_io(self) -> io::Error {
        match self {
            Error::Path { source, .. } | Error::Kernel { source, .. } | Error::Start { source, .. } => source,
            program @ (Error::Program { .. } | Error::StillRunning { .. }) => io::Error::other(program.to_string()),
        }
    }
}
