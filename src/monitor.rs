//! How the library reports while it works. It never prints; `cli` draws what it hears here.

use crate::finding::Finding;

/// A long piece of work with a known or growing size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// What is done, as a present participle: `copying`, `restoring`, `verifying`.
    pub name: &'static str,
    /// Bytes in all, 0 while unknown.
    pub bytes: u64,
    /// Files (or objects) in all, 0 while unknown.
    pub items: u64,
}

/// Hears what a run does. Every method may be called from any thread and must return quickly.
pub trait Monitor: Send + Sync {
    /// The run enters a phase (see [`crate::timeline`] for the names).
    fn phase(&self, _name: &'static str) {}
    /// Something a person may want to know now.
    fn message(&self, _text: &str) {}
    /// Something was found that goes into the result as well.
    fn finding(&self, _finding: &Finding) {}
    /// A long piece of work begins.
    fn begin(&self, _work: Work) {}
    /// The size of the current work became better known.
    fn resize(&self, _bytes: u64, _items: u64) {}
    /// So much more of the current work is done.
    fn advance(&self, _bytes: u64, _items: u64) {}
    /// The current work is over.
    fn end(&self) {}
}

/// A monitor that hears nothing, for tests and `--quiet`.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Monitor for Silent {}
