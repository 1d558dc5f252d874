//! Work on many tables of a scratch server over several connections. When the server ends in the middle, those that were being worked on are told from those that nobody came to.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Scratch;
use super::check::Table;
use crate::database::Result;
use crate::database::mysql::connect::ConnectOptions;
use crate::database::mysql::session::Session;
use crate::monitor::Monitor;
use crate::sys::signal::Cancel;

/// What one server could do before all was done, or it ended.
#[derive(Debug)]
pub(super) struct Round<T> {
    /// Tables with what came of them.
    pub done: Vec<(Table, T)>,
    /// Tables that were being worked on when the server ended.
    pub suspects: Vec<Table>,
    /// Tables that nobody came to.
    pub left: Vec<Table>,
    /// The time was over.
    pub late: bool,
}

/// Does `work` on these tables over so many connections, until all are done, the server ends, or `until` has passed (the server is killed then).
/// An error of `work` means that the connection broke.
///
/// # Errors
/// A signal asked to end.
pub(super) fn run<T: Send>(
    scratch: &mut Scratch,
    tables: Vec<Table>,
    connections: usize,
    until: Instant,
    (monitor, cancel): (&dyn Monitor, &Cancel),
    work: impl Fn(&mut Session, &Table) -> Result<T> + Sync,
) -> crate::Result<Round<T>> {
    let shared = Shared {
        queue: Mutex::new(tables.into()),
        found: Mutex::new(Found {
            done: Vec::new(),
            suspects: Vec::new(),
        }),
        stop: AtomicBool::new(false),
        working: AtomicUsize::new(connections.max(1)),
        limit: until
            .saturating_duration_since(Instant::now())
            .max(Duration::from_secs(1)),
        monitor,
        work,
    };
    let address = scratch.address().clone();
    let late = std::thread::scope(|scope| {
        for _ in 0..connections.max(1) {
            scope.spawn(|| shared.work(&address));
        }
        while shared.working.load(Ordering::SeqCst) > 0 {
            std::thread::sleep(Duration::from_millis(5));
            let late = Instant::now() > until;
            if late || cancel.asked().is_some() {
                shared.stop.store(true, Ordering::SeqCst);
                // The statements that run end with it.
                scratch.kill();
                return late;
            }
        }
        false
    });
    cancel.check()?;
    let mut left: Vec<Table> = shared.queue().drain(..).collect();
    let mut found = shared.found();
    let (done, mut suspects) = (std::mem::take(&mut found.done), std::mem::take(&mut found.suspects));
    if late {
        // They are not to blame.
        left.append(&mut suspects);
    }
    Ok(Round {
        done,
        suspects,
        left,
        late,
    })
}

struct Found<T> {
    done: Vec<(Table, T)>,
    suspects: Vec<Table>,
}

/// What the connections share.
struct Shared<'s, T, W> {
    queue: Mutex<VecDeque<Table>>,
    found: Mutex<Found<T>>,
    stop: AtomicBool,
    working: AtomicUsize,
    limit: Duration,
    monitor: &'s dyn Monitor,
    work: W,
}

impl<T, W: Fn(&mut Session, &Table) -> Result<T>> Shared<'_, T, W> {
    fn queue(&self) -> MutexGuard<'_, VecDeque<Table>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn found(&self) -> MutexGuard<'_, Found<T>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One connection's work: until the queue is empty, or the server does not answer.
    fn work(&self, address: &ConnectOptions) {
        if let Ok(mut session) = super::session(address, self.limit) {
            while !self.stop.load(Ordering::SeqCst) {
                let Some(table) = self.queue().pop_front() else { break };
                match (self.work)(&mut session, &table) {
                    Ok(done) => {
                        self.found().done.push((table, done));
                        self.monitor.advance(0, 1);
                    }
                    Err(_) => {
                        self.found().suspects.push(table);
                        break;
                    }
                }
            }
        }
        self.working.fetch_sub(1, Ordering::SeqCst);
    }
}
