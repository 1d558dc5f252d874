//! How the threads of a copy or a restore end together: the first failure, or a signal, stops them all.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{Error, Result};
use crate::sys::signal::Cancel;

/// Asked by every thread between small steps.
pub struct Stop<'c> {
    cancel: &'c Cancel,
    raised: AtomicBool,
    cause: Mutex<Option<Error>>,
}

impl<'c> Stop<'c> {
    /// Nothing has failed yet.
    pub fn new(cancel: &'c Cancel) -> Stop<'c> {
        Stop {
            cancel,
            raised: AtomicBool::new(false),
            cause: Mutex::new(None),
        }
    }

    /// # Errors
    /// A signal asked the run to end, or another thread failed ([`cause`](Stop::cause) then tells why).
    pub fn check(&self) -> Result<()> {
        match self.cancel.asked() {
            Some(signal) => Err(Error::Interrupted(signal)),
            None if self.raised.load(Ordering::Acquire) => Err(Error::Interrupted(0)),
            None => Ok(()),
        }
    }

    /// Sleeps, but not beyond an end (noticed within 20 ms).
    ///
    /// # Errors
    /// The threads end.
    pub fn sleep(&self, duration: std::time::Duration) -> Result<()> {
        let until = std::time::Instant::now() + duration;
        loop {
            self.check()?;
            let left = until.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(std::time::Duration::from_millis(20)));
        }
    }

    /// Ends all threads for this reason; the first reason is kept.
    pub fn fail(&self, error: Error) {
        let mut cause = self.cause.lock().unwrap_or_else(PoisonError::into_inner);
        self.raised.store(true, Ordering::Release);
        // A thread that only saw another one end may speak before that one does.
        if matches!(*cause, None | Some(Error::Interrupted(0))) {
            *cause = Some(error);
        }
    }

    /// Runs one thread's work; its failure ends the others.
    pub fn guard<T>(&self, work: impl FnOnce() -> Result<T>) -> Option<T> {
        work().map_err(|error| self.fail(error)).ok()
    }

    /// # Errors
    /// Why the threads ended, if it was for a failure or a signal. Call it when all of them are done.
    pub fn cause(self) -> Result<()> {
        self.cause
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cause_is_told() {
        let cancel = Cancel::new();
        let stop = Stop::new(&cancel);
        assert!(stop.check().is_ok());
        stop.fail(Error::SnapshotLost("full".into()));
        stop.guard(|| stop.check());
        assert!(matches!(stop.cause(), Err(Error::SnapshotLost(_))));
    }

    #[test]
    fn whoever_only_saw_the_end_is_not_the_cause() {
        let cancel = Cancel::new();
        let stop = Stop::new(&cancel);
        stop.fail(Error::Interrupted(0));
        stop.fail(Error::SnapshotLost("full".into()));
        assert!(matches!(stop.cause(), Err(Error::SnapshotLost(_))));
    }

    #[test]
    fn a_signal_is_told() {
        let cancel = Cancel::new();
        let stop = Stop::new(&cancel);
        cancel.cancel(15);
        assert!(stop.guard(|| stop.check()).is_none());
        assert!(matches!(stop.cause(), Err(Error::Interrupted(15))));
    }
}
