//! Exit statuses.

use std::process::ExitCode;

use crate::error::Kind;
use crate::finding::{Finding, Severity};

/// How the program ends; `snapback --help` documents the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    Done,
    Failed,
    Usage,
    Busy,
    Damaged,
    Warnings,
    /// The answer to a question was no: nothing was done.
    Declined,
    Signal(i32),
    /// That of a command that ran for us.
    Status(u8),
}

impl Exit {
    pub fn of(kind: Kind) -> Exit {
        match kind {
            Kind::Failed => Exit::Failed,
            Kind::Usage => Exit::Usage,
            Kind::Busy => Exit::Busy,
            Kind::Damaged => Exit::Damaged,
            Kind::Interrupted(signal) => Exit::Signal(signal),
        }
    }

    /// Done, with or without warnings.
    pub fn after(findings: &[Finding]) -> Exit {
        let warned = findings.iter().any(|finding| finding.severity >= Severity::Warning);
        if warned { Exit::Warnings } else { Exit::Done }
    }

    pub fn with_strictness(self, strict: bool) -> Exit {
        if strict && self == Exit::Warnings {
            Exit::Failed
        } else {
            self
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Busy => 3,
            Exit::Damaged => 4,
            Exit::Warnings => 5,
            Exit::Declined => 6,
            Exit::Status(status) => status,
            Exit::Signal(signal) => 128u8.saturating_add(u8::try_from(signal).unwrap_or(0)),
        })
    }
}
