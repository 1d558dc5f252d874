//! The crate's error: one variant per domain, each with its own type beside the code that fails.

use std::fmt;

/// Anything that can go wrong in the library.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration or the command line is wrong.
    #[error(transparent)]
    Config(#[from] crate::config::Error),
    /// The host's mounts and paths could not be made sense of.
    #[error(transparent)]
    Detect(#[from] crate::detect::Error),
    /// The database server.
    #[error(transparent)]
    Database(#[from] crate::database::Error),
    /// Volumes and snapshots.
    #[error(transparent)]
    Volume(#[from] crate::volume::Error),
    /// Copying out of the snapshot, or back.
    #[error(transparent)]
    Copy(#[from] crate::copy::Error),
    /// The repository.
    #[error(transparent)]
    Repository(#[from] crate::repository::Error),
    /// The run's journal.
    #[error(transparent)]
    Journal(#[from] crate::journal::Error),
    /// Files, programs and the kernel.
    #[error(transparent)]
    Sys(#[from] crate::sys::Error),
    /// A signal asked the run to end; it cleaned up first.
    #[error("ended by signal {0}; everything that this run made was removed")]
    Interrupted(i32),
    /// A signal asked the run to end, and this failed on the way.
    #[error("ended by signal {signal}: {cause}")]
    Ended {
        /// Its number.
        signal: i32,
        /// What failed; it may name what is left.
        #[source]
        cause: Box<Error>,
    },
    /// The plan has blockers; nothing was touched.
    #[error("{}", Refusal(.0))]
    Refused(Vec<crate::finding::Finding>),
    /// A plain refusal or failure with its remedy in the words.
    #[error("{message}")]
    Other {
        /// What kind of failure this is.
        kind: Kind,
        /// Operation, object, cause, and what to do.
        message: String,
    },
    /// A clean-up step failed after another failure; the cause comes first (style rule 2).
    #[error("{}\nthen the clean-up failed as well: {rollback}\n`snapback cleanup` finishes it", .cause.begun())]
    Rollback {
        /// What went wrong first.
        #[source]
        cause: Box<Error>,
        /// What went wrong while undoing.
        rollback: Box<Error>,
    },
}

/// The library's result.
pub type Result<T> = std::result::Result<T, Error>;

/// What an error means to the caller; `cli` maps it to the exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The operation failed (exit status 1).
    Failed,
    /// Wrong usage or configuration (exit status 2).
    Usage,
    /// The server was busy and was left alone (exit status 3).
    Busy,
    /// What is stored is damaged or did not verify (exit status 4).
    Damaged,
    /// Ended by this signal (exit status 128 + n).
    Interrupted(i32),
}

impl Error {
    /// What the error means to the caller.
    pub fn kind(&self) -> Kind {
        match self {
            Error::Config(_) => Kind::Usage,
            Error::Database(error) => error.kind(),
            Error::Repository(error) => error.kind(),
            Error::Copy(error) => error.kind(),
            Error::Interrupted(signal) | Error::Ended { signal, .. } => Kind::Interrupted(*signal),
            Error::Other { kind, .. } => *kind,
            Error::Rollback { cause, .. } => cause.kind(),
            Error::Detect(_) | Error::Volume(_) | Error::Journal(_) | Error::Sys(_) | Error::Refused(_) => Kind::Failed,
        }
    }

    /// A failure in plain words.
    pub fn failed(message: impl Into<String>) -> Error {
        Error::Other {
            kind: Kind::Failed,
            message: message.into(),
        }
    }

    /// Wrong usage in plain words.
    pub fn usage(message: impl Into<String>) -> Error {
        Error::Other {
            kind: Kind::Usage,
            message: message.into(),
        }
    }

    /// This error, with what failed while it was being cleaned up after.
    pub fn and_rollback(self, rollback: Result<()>) -> Error {
        match rollback {
            Ok(()) => self,
            Err(rollback) => Error::Rollback {
                cause: Box::new(self),
                rollback: Box::new(rollback),
            },
        }
    }
}

impl Error {
    /// What to say of it where something of the clean-up failed afterwards: not that all was removed.
    pub fn begun(&self) -> String {
        match self {
            Error::Interrupted(signal) => format!("ended by signal {signal}"),
            other => other.to_string(),
        }
    }
}

struct Refusal<'a>(&'a [crate::finding::Finding]);

impl fmt::Display for Refusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused; nothing was touched")?;
        for finding in self.0 {
            write!(f, "\n  {}", finding.message)?;
            if let Some(remedy) = &finding.remedy {
                write!(f, "\n    -> {remedy}")?;
            }
        }
        Ok(())
    }
}
