//! Checking what is stored: structure, or every byte.

use crate::Result;
use crate::monitor::Monitor;
use crate::repository::{Repository, verify as stored};
use crate::sys::signal::Cancel;

pub use stored::{Damage, Level, Report};

/// Which backups to check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// `latest`, an id or a prefix of one.
    One(String),
    /// All of them.
    All,
}
