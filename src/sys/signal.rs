//! Asking a run to end: SIGINT, SIGTERM, SIGHUP, or a caller's own wish.
//!
//! SIGPIPE stays ignored, as Rust's runtime starts with it: a run must not die because a pager was closed. Writers see
//! `BrokenPipe` instead and end quietly; started programs get the default action back.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level;

/// When the process was first asked to end: nanoseconds of the monotonic clock, 0 as long as nobody has asked.
static WISH: AtomicU64 = AtomicU64::new(0);

/// How many steps run that must not be cut short, whoever wishes.
static CRITICAL: AtomicUsize = AtomicUsize::new(0);
/// What a wish is written to, for the thread of [`wait_for_wish`]; -1 before there is one.
static BELL: AtomicI32 = AtomicI32::new(-1);

/// How long ago a signal first asked the process to end; `None` when none did, and while a step runs that must not be cut
/// short ([`Cancel::critical`]), whose end then counts as the wish. Only the token of [`Cancel::of_process`] is the process's.
pub fn asked_for() -> Option<Duration> {
    match WISH.load(Ordering::SeqCst) {
        0 => None,
        _ if CRITICAL.load(Ordering::SeqCst) > 0 => None,
        wish => Some(Duration::from_nanos(monotonic().saturating_sub(wish))),
    }
}

/// What is left of `span` for something that has run for `spent`: a wish to end leaves `before` to what was begun before
/// it, and to what was begun after it the time until `after` from the wish.
pub fn within_wish(left: Duration, spent: Duration, before: Duration, after: Duration) -> Duration {
    match asked_for() {
        None => left,
        Some(asked) if spent > asked => left.min(before.saturating_sub(asked)),
        Some(asked) => left.min(after.saturating_sub(asked)),
    }
}

/// Makes the bell, before [`wait_for_wish`]; once for a process.
///
/// # Errors
/// The kernel has none.
pub fn hang_bell() -> super::Result<()> {
    let fail = |error: rustix::io::Errno| super::Error::kernel("make an eventfd", error);
    let bell = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).map_err(fail)?;
    BELL.store(std::os::fd::IntoRawFd::into_raw_fd(bell), Ordering::SeqCst);
    Ok(())
}

/// Returns once a signal has asked the process to end.
pub fn wait_for_wish() {
    let mut count = 0u64;
    while WISH.load(Ordering::SeqCst) == 0 {
        // SAFETY: `count` has room for the eight bytes of an eventfd; a bell that is not there fails at once.
        let read = unsafe { libc::read(BELL.load(Ordering::SeqCst), (&raw mut count).cast(), 8) };
        if read != 8 {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Ends the process at once: nothing is flushed, nobody is waited for. The programs that may be killed are killed first.
/// `words` go to standard error where that takes them without waiting.
pub fn end_now(status: i32, words: &str) -> ! {
    super::command::kill_all();
    let mut errors = libc::pollfd {
        fd: 2,
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: one valid pollfd; a pipe that is ready takes PIPE_BUF (4096) bytes without waiting; `_exit` never returns.
    unsafe {
        if libc::poll(&mut errors, 1, 0) == 1 && errors.revents & libc::POLLOUT != 0 {
            libc::write(2, words.as_ptr().cast(), words.len().min(4096));
        }
        libc::_exit(status)
    }
}

static ONE: u64 = 1;

/// The monotonic clock in nanoseconds; async-signal-safe.
fn monotonic() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid place for the answer; clock_gettime(2) may be called in a signal handler.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Shared by everything that a run does; says whether and by which signal the run was asked to end.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<State>);

#[derive(Debug, Default)]
struct State {
    asked: AtomicI32,
    critical: AtomicUsize,
    /// Whether a wish is one of the whole process.
    process: bool,
}

impl Cancel {
    /// A token that nobody has asked to end.
    pub fn new() -> Cancel {
        Cancel::default()
    }

    /// The token of the process: a wish to it also bounds every wait that holds no token ([`asked_for`]).
    pub fn of_process() -> Cancel {
        Cancel(Arc::new(State {
            process: true,
            ..State::default()
        }))
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

    /// Runs a step that must not be cut short: neither a second SIGINT meanwhile nor an overdue wish ends the process.
    pub fn critical<T>(&self, step: impl FnOnce() -> T) -> T {
        let _section = Section::enter(&self.0);
        step()
    }
}

impl State {
    /// True for the first wish.
    fn ask(&self, signal: i32) -> bool {
        let first = self
            .asked
            .compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok();
        if first && self.process {
            WISH.store(monotonic().max(1), Ordering::SeqCst);
            // SAFETY: eight bytes for an eventfd; write(2) may be called in a signal handler, and -1 fails.
            unsafe { libc::write(BELL.load(Ordering::SeqCst), (&raw const ONE).cast(), 8) };
        }
        first
    }
}

struct Section<'a>(&'a State);

impl<'a> Section<'a> {
    fn enter(state: &'a State) -> Section<'a> {
        state.critical.fetch_add(1, Ordering::SeqCst);
        if state.process {
            CRITICAL.fetch_add(1, Ordering::SeqCst);
        }
        Section(state)
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        self.0.critical.fetch_sub(1, Ordering::SeqCst);
        if self.0.process {
            // The time of what follows counts from here.
            if WISH.load(Ordering::SeqCst) != 0 {
                WISH.store(monotonic().max(1), Ordering::SeqCst);
            }
            CRITICAL.fetch_sub(1, Ordering::SeqCst);
        }
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
