//! While a private server works, what it works on is watched, as it is while it is copied: what a recovery writes fills copy-on-write space and pools, which are extended, or
//! given up, there.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::super::run::Run;
use super::super::snapshots::Taken;
use crate::sys::signal::Cancel;
use crate::{Result, copy};

/// How often the health of the clones is asked for.
const HEALTH: Duration = Duration::from_secs(2);
/// How soon the end of the work, or a wish to end, is seen.
const PAUSE: Duration = Duration::from_millis(10);

/// Does some work. It is asked to end when the run is, and when something of the storage is lost.
///
/// # Errors
/// The work's, or the loss.
pub(super) fn watched<'m, T>(
    run: &mut Run<'m>,
    taken: &Taken<'_>,
    work: impl FnOnce(&mut Run<'m>, &Cancel) -> Result<T>,
) -> Result<T> {
    let (asked, monitor) = (run.cancel, run.monitor);
    beside(&|| taken.health(None, monitor), asked, |end| work(run, end))
}

/// The same, wherever the health is asked for.
fn beside<T>(
    health: &(dyn Fn() -> copy::Result<()> + Sync),
    asked: &Cancel,
    work: impl FnOnce(&Cancel) -> Result<T>,
) -> Result<T> {
    let (end, over) = (Cancel::new(), AtomicBool::new(false));
    let (done, watched) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(health, asked, &end, &over));
        let done = {
            let _over = Over(&over);
            work(&end)
        };
        (done, watcher.join().unwrap_or(Ok(())))
    });
    match done {
        Err(cause) if asked.asked().is_some() => Err(cause),
        // An error of a server on a snapshot that is lost says less than its loss.
        Err(cause) => Err(watched.and_then(|()| health()).map_or_else(Into::into, |()| cause)),
        // What was read from what is lost by now proves nothing.
        Ok(done) => Ok(watched.and_then(|()| health()).map(|()| done)?),
    }
}

/// Also when the work panics.
struct Over<'o>(&'o AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn watch(health: &dyn Fn() -> copy::Result<()>, asked: &Cancel, end: &Cancel, over: &AtomicBool) -> copy::Result<()> {
    let mut last = Instant::now();
    while !over.load(Ordering::Acquire) {
        if let Some(signal) = asked.asked() {
            end.cancel(signal);
            return Ok(());
        }
        if last.elapsed() >= HEALTH {
            if let Err(lost) = health() {
                end.cancel(libc::SIGTERM);
                return Err(lost);
            }
            last = Instant::now();
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched_until(health: &dyn Fn() -> copy::Result<()>, asked: &Cancel) -> (copy::Result<()>, Option<i32>) {
        let (end, over) = (Cancel::new(), AtomicBool::new(false));
        let watched = watch(health, asked, &end, &over);
        (watched, end.asked())
    }

    #[test]
    fn a_loss_and_a_wish_to_end_reach_the_work() {
        let lost = || Err(copy::Error::SnapshotLost("full".into()));
        let (watched, end) = watched_until(&lost, &Cancel::new());
        assert!(matches!(watched, Err(copy::Error::SnapshotLost(_))));
        assert!(end.is_some());
        let asked = Cancel::new();
        asked.cancel(libc::SIGHUP);
        let (watched, end) = watched_until(&lost, &asked);
        assert!(watched.is_ok());
        assert_eq!(end, Some(libc::SIGHUP), "the same signal");
    }

    /// Works until it is asked to end; whether it was. Too long for any other end to be taken for it.
    fn until_asked(end: &Cancel) -> bool {
        let begun = Instant::now();
        while end.asked().is_none() && begun.elapsed() < Duration::from_secs(120) {
            std::thread::sleep(PAUSE);
        }
        end.asked().is_some()
    }

    #[test]
    fn work_is_ended_by_a_loss_and_by_a_wish_and_the_loss_is_what_is_said() {
        let lost = || Err(copy::Error::SnapshotLost("its space is full".into()));
        let ended = std::cell::Cell::new(false);
        let work = |end: &Cancel| -> Result<()> {
            ended.set(until_asked(end));
            Err(crate::Error::failed("the server went away"))
        };
        let said = beside(&lost, &Cancel::new(), work).unwrap_err().to_string();
        assert!(ended.get(), "nobody ended the work on what is lost");
        assert!(
            said.contains("its space is full") && !said.contains("went away"),
            "{said}"
        );
        let asked = Cancel::new();
        asked.cancel(libc::SIGHUP);
        ended.set(false);
        let said = beside(&|| Ok(()), &asked, work).unwrap_err().to_string();
        assert!(ended.get() && said.contains("went away"), "{said}");
        // What was lost when the work was done as well.
        assert!(beside(&lost, &Cancel::new(), |_| Ok(())).is_err());
        assert!(beside(&|| Ok(()), &Cancel::new(), |_| Ok(())).is_ok());
    }

    #[test]
    fn the_watch_ends_with_the_work_also_when_it_panics() {
        let over = AtomicBool::new(false);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _over = Over(&over);
            panic!("as work may");
        }));
        assert!(panicked.is_err());
        watch(&|| Ok(()), &Cancel::new(), &Cancel::new(), &over).unwrap();
    }
}
