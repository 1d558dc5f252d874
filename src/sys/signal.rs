//! Asking a run to end: SIGINT, SIGTERM, SIGHUP, or a caller's own wish.
//!
//! SIGPIPE stays ignored, as Rust's runtime starts with it: a run must not die because a pager was closed. Writers see
//! `BrokenPipe` instead and end quietly; started programs get the default action back.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level;

/// Shared by everything that a run does; says whether and by which signal the run was asked to end.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<State>);

#[derive(Debug, Default)]
struct State {
    asked: AtomicI32,
    critical: AtomicUsize,
}

impl Cancel {
    /// A token that nobody has asked to end.
    pub fn new() -> Cancel {
        Cancel::default()
    }

    /// Asks the run to end as if by this signal. The first who asks is remembered.
    pub fn cancel(&self, signal: i32) {
        let _ = self.0.ask(signal);
    }

    /// The signal that asked, if one did.
    pub fn asked(&self) -> Option<i32> {
        match self.0.asked.load(Ordering::SeqCst) {
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

    /// Sleeps, but not beyond a wish to end (noticed within 20 ms).
    ///
    /// # Errors
    /// [`crate::Error::Interrupted`] once a signal has asked.
    pub fn sleep(&self, duration: Duration) -> crate::Result<()> {
        let until = Instant::now() + duration;
        loop {
            self.check()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(Duration::from_millis(20)));
        }
    }

    /// Runs a step that must not be cut short: a second SIGINT meanwhile does not end the process.
    pub fn critical<T>(&self, step: impl FnOnce() -> T) -> T {
        let _section = Section::enter(&self.0);
        step()
    }
}

impl State {
    /// True for the first wish.
    fn ask(&self, signal: i32) -> bool {
        self.asked
            .compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }
}

struct Section<'a>(&'a State);

impl<'a> Section<'a> {
    fn enter(state: &'a State) -> Section<'a> {
        state.critical.fetch_add(1, Ordering::SeqCst);
        Section(state)
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        self.0.critical.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Lets SIGINT, SIGTERM and SIGHUP ask `cancel`. A SIGINT after the first wish has its default action: it ends the process
/// (the server drops the lock with the connection; `cleanup` removes the rest). A SIGHUP that was ignored at the start
/// (`nohup`) stays ignored.
///
/// # Errors
/// A handler could not be installed.
pub fn install(cancel: &Cancel) -> super::Result<()> {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        if signal == SIGHUP && is_ignored(signal) {
            continue;
        }
        let state = Arc::clone(&cancel.0);
        let handler = move || {
            let again = !state.ask(signal);
            if again && signal == SIGINT && state.critical.load(Ordering::SeqCst) == 0 {
                let _ = low_level::emulate_default_handler(signal);
            }
        };
        // SAFETY: the handler only touches atomics and calls `emulate_default_handler`, which is async-signal-safe.
        unsafe { low_level::register(signal, handler) }
            .map_err(|error| super::Error::kernel("install a signal handler", error))?;
    }
    Ok(())
}

fn is_ignored(signal: i32) -> bool {
    let mut old = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null new action makes this a query; `old` is a valid place for the answer, and all-zero is a valid value.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), old.as_mut_ptr()) == 0
            && old.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_wish_is_remembered() {
        let cancel = Cancel::new();
        assert!(cancel.check().is_ok());
        cancel.cancel(SIGTERM);
        cancel.clone().cancel(SIGINT);
        assert!(matches!(cancel.check(), Err(crate::Error::Interrupted(SIGTERM))));
    }

    #[test]
    fn a_sleep_ends_early_when_asked() {
        let cancel = Cancel::new();
        let other = cancel.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(30));
            other.cancel(SIGTERM);
        });
        let begun = Instant::now();
        assert!(cancel.sleep(Duration::from_secs(20)).is_err());
        assert!(begun.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn an_installed_handler_asks() {
        let cancel = Cancel::new();
        install(&cancel).unwrap();
        low_level::raise(SIGTERM).unwrap();
        cancel.critical(|| low_level::raise(SIGINT).unwrap());
        assert_eq!(
            cancel.asked(),
            Some(SIGTERM),
            "and a second signal in a critical step did not end us"
        );
    }

    /// Runs itself again as the process that is interrupted.
    #[test]
    fn a_second_interrupt_ends_the_process_but_not_in_a_critical_step() {
        use std::os::unix::process::ExitStatusExt;
        const ROLE: &str = "SNAPBACK_TEST_INTERRUPTED";
        if let Ok(role) = std::env::var(ROLE) {
            let cancel = Cancel::new();
            install(&cancel).unwrap();
            let twice = || (0..2).for_each(|_| low_level::raise(SIGINT).unwrap());
            if role == "critical" {
                cancel.critical(twice)
            } else {
                twice()
            }
            assert_eq!((role.as_str(), cancel.asked()), ("critical", Some(SIGINT)));
            return;
        }
        let run = |role: &str| {
            let name = "sys::signal::tests::a_second_interrupt_ends_the_process_but_not_in_a_critical_step";
            let child = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", name])
                .env(ROLE, role)
                .output();
            child.unwrap().status
        };
        assert_eq!(run("plain").signal(), Some(SIGINT));
        assert!(run("critical").success());
    }
}
