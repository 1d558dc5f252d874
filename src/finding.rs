//! What an examination of the host found: facts, warnings and blockers, each with a remedy.

use serde::{Deserialize, Serialize};

/// How much a [`Finding`] matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know; changes nothing.
    Note,
    /// The run goes on; a person must read it (exit status 5).
    Warning,
    /// The run is refused.
    Blocker,
}

/// One thing that was found, in words that name the object, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// A stable word for machines, such as `nested-subvolume` or `missing-privilege`.
    pub code: String,
    /// The fact, with the object's name.
    pub message: String,
    /// What a person can do, where there is something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    /// A fact that changes nothing.
    pub fn note(code: &str, message: impl Into<String>) -> Finding {
        Finding {
            severity: Severity::Note,
            code: code.to_owned(),
            message: message.into(),
            remedy: None,
        }
    }

    /// Something that a person must read.
    pub fn warning(code: &str, message: impl Into<String>) -> Finding {
        Finding {
            severity: Severity::Warning,
            ..Finding::note(code, message)
        }
    }

    /// Something that forbids the run.
    pub fn blocker(code: &str, message: impl Into<String>) -> Finding {
        Finding {
            severity: Severity::Blocker,
            ..Finding::note(code, message)
        }
    }

    /// The same with a remedy.
    pub fn remedy(self, remedy: impl Into<String>) -> Finding {
        Finding {
            remedy: Some(remedy.into()),
            ..self
        }
    }
}
