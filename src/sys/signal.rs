//! Asking a run to end: SIGINT, SIGTERM, SIGHUP, or a caller's own wish.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

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

}

/// Lets SIGINT, SIGTERM and SIGHUP ask the run to end; the same signal a second time ends the process at once (`cleanup` finishes then).
///
/// # Errors
/// The handlers cannot be installed.
pub fn install(cancel: &Cancel) -> std::io::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let cancel = cancel.clone();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            if cancel.asked().is_some() {
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
            cancel.cancel(signal);
        }
    })?;
    Ok(())
}
