//! Asking a run to end: SIGINT, SIGTERM, SIGHUP, or a caller's own wish.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

/// Shared by everything that a run does; says whether and by which signal the run was asked to end.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicI32>);

impl Cancel {
    /// A token that nobody has asked to end.
    pub fn new() -> Cancel {
        Cancel::default()
    }

    /// Asks the run to end as if by this signal.
    pub fn cancel(&self, signal: i32) {
        self.0.store(signal, Ordering::SeqCst);
    }

    /// The signal that asked, if one did.
    pub fn asked(&self) -> Option<i32> {
        match self.0.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(signal),
        }
    }

    /// # Errors
    /// [`crate::Error::Interrupted`] once a signal has asked.
    pub fn check(&self) -> crate::Result<()> {
        self.asked()
            .map_or(Ok(()), |signal| Err(crate::Error::Interrupted(signal)))
    }

    /// The token's number, for `signal_hook::flag::register_usize` and the like.
    pub fn raw(&self) -> Arc<AtomicI32> {
        Arc::clone(&self.0)
    }
}
