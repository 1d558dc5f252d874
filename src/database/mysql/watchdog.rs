//! Ends the wait for the lock and the hold of it, from a connection of its own, whatever the main thread is doing.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::same_server::SameServer;
use super::session::Session;
use crate::database::{Error, Result};
use crate::sys::line::Cutter;
use crate::sys::signal::Cancel;

/// How often a signal is looked for while the lock is awaited or held.
const TICK: Duration = Duration::from_millis(10);

/// How long the server may take to answer a KILL. Then the connection is cut off here, and one more is tried.
const ANSWER: Duration = Duration::from_secs(2);

/// Why the watchdog ended the lock session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fired {
    /// The wait took longer than `acquire_timeout`.
    AcquireTimeout,
    /// The hold took longer than `hold_limit`.
    HoldLimit,
    /// A signal asked the run to end.
    Cancelled,
}

#[derive(Debug, Clone, Copy)]
struct Deadline {
    at: Instant,
    why: Fired,
}

#[derive(Debug, Default)]
struct State {
    armed: Option<Deadline>,
    fired: Option<Fired>,
    failed: Option<String>,
    stop: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread that watches one lock session.
pub struct Watchdog {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Starts watching the lock session; nothing is armed yet. The watchdog's own connection is opened here,
    /// before any lock, so that it can neither be refused nor wait later.
    ///
    /// # Errors
    /// The second connection or the thread cannot be had.
    pub fn start(server: &SameServer, target: &Session, cancel: &Cancel) -> Result<Watchdog> {
        let session = server.patient(ANSWER)?;
        let shared = Arc::new(Shared::default());
        let watcher = Watcher {
            shared: Arc::clone(&shared),
            session,
            server: server.clone(),
            target: target.id(),
            cutter: target.cutter(),
            cancel: cancel.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("lock-watchdog".into())
            .spawn(move || watcher.watch())
            .map_err(|source| crate::sys::Error::Kernel {
                operation: "start the watchdog thread",
                source,
            })?;
        Ok(Watchdog {
            shared,
            thread: Some(thread),
        })
    }

    /// From now on the session is ended at `limit` from now, for this reason. Replaces what was armed before.
    ///
    /// # Errors
    /// What was armed before has come first: the session is being ended, though it may answer for a moment yet.
    pub fn arm(&self, limit: Duration, why: Fired) -> std::result::Result<(), Fired> {
        let mut state = self.shared.lock();
        if let Some(fired) = state.fired {
            return Err(fired);
        }
        state.armed = Some(Deadline {
            at: Instant::now() + limit,
            why,
        });
        self.shared.changed.notify_all();
        Ok(())
    }

    /// Nothing is watched from now on.
    pub fn disarm(&self) {
        self.shared.lock().armed = None;
    }

    /// Whether and why the session was ended.
    pub fn fired(&self) -> Option<Fired> {
        self.shared.lock().fired
    }

    /// Ends the thread; says what went wrong in it.
    ///
    /// # Errors
    /// The session should have been ended and could not be.
    pub fn stop(mut self) -> Result<()> {
        self.join();
        match self.shared.lock().failed.take() {
            None => Ok(()),
            Some(reason) => Err(Error::Statement {
                statement: "KILL".into(),
                code: 0,
                reason,
            }),
        }
    }

    fn join(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by the panic hook; the lock is released by the caller in any case.
            drop(thread.join());
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.join();
    }
}

struct Watcher {
    shared: Arc<Shared>,
    session: Session,
    server: SameServer,
    target: u64,
    cutter: Cutter,
    cancel: Cancel,
}

impl Watcher {
    fn watch(mut self) {
        while let Some(why) = self.next() {
            crate::failpoint!("lock.kill");
            if let Err(error) = self.kill() {
                self.shared.lock().failed = Some(format!("{why:?}: {error}"));
            }
        }
    }

    /// Waits until the session must end; `None` when the watch is over. The reason is set before anything is done about it:
    /// the main thread may see its connection break before this thread sees its KILL answered.
    fn next(&self) -> Option<Fired> {
        let mut state = self.shared.lock();
        loop {
            if state.stop {
                return None;
            }
            let wait = match state.armed {
                None => None,
                Some(deadline) => match self.due(deadline) {
                    Ok(left) => Some(left.min(TICK)),
                    Err(why) => {
                        state.armed = None;
                        return Some(*state.fired.get_or_insert(why));
                    }
                },
            };
            state = match wait {
                None => self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(wait) => {
                    let woken = self.shared.changed.wait_timeout(state, wait);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// What is left of the time, or why it is over.
    fn due(&self, deadline: Deadline) -> std::result::Result<Duration, Fired> {
        if self.cancel.asked().is_some() {
            return Err(Fired::Cancelled);
        }
        deadline.at.checked_duration_since(Instant::now()).ok_or(deadline.why)
    }

    /// Ends the session at the server. A server that does not answer may be behind a broken network: then the connection is
    /// cut off on this side, so that the main thread waits for nothing any more, and a new connection tries once more.
    fn kill(&mut self) -> Result<()> {
        if self.session.kill(self.target).is_ok() {
            return Ok(());
        }
        self.cutter.cut();
        self.session = self.server.patient(ANSWER)?;
        self.session.kill(self.target)
    }
}
