//! The bandwidth limit: one budget of bytes per second for all workers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Result;
use super::stop::Stop;

/// What may be read at once after a pause.
const BURST: Duration = Duration::from_millis(100);
/// How long a wish to end, or to hurry, may go unnoticed.
const SLICE: Duration = Duration::from_millis(20);

/// Shared by all workers.
pub struct Throttle {
    bytes_per_second: Option<u64>,
    hurry: Arc<AtomicBool>,
    /// When the budget is free again.
    free: Mutex<Instant>,
}

impl Throttle {
    /// A limit, or none; none any more once `hurry` is set.
    pub fn new(bytes_per_second: Option<u64>, hurry: Arc<AtomicBool>) -> Throttle {
        Throttle {
            bytes_per_second: bytes_per_second.filter(|rate| *rate > 0),
            hurry,
            free: Mutex::new(Instant::now()),
        }
    }

    /// Waits until so many bytes may be read.
    ///
    /// # Errors
    /// The copy ends.
    pub fn take(&self, bytes: usize, stop: &Stop<'_>) -> Result<()> {
        let Some(rate) = self.bytes_per_second else {
            return Ok(());
        };
        let until = self.reserve(Duration::from_secs_f64(bytes as f64 / rate as f64));
        loop {
            stop.check()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.hurry.load(Ordering::Relaxed) {
                return Ok(());
            }
            std::thread::sleep(left.min(SLICE));
        }
    }

    /// Books a span of the budget; returns when it begins.
    fn reserve(&self, span: Duration) -> Instant {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let begin = now.checked_sub(BURST).map_or(*free, |earliest| earliest.max(*free));
        *free = begin + span;
        begin
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::signal::Cancel;

    #[test]
    fn the_rate_is_kept_over_all_threads() {
        let (cancel, throttle) = (Cancel::new(), Throttle::new(Some(10 << 20), Arc::default()));
        let stop = Stop::new(&cancel);
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10).for_each(|_| throttle.take(128 << 10, &stop).unwrap()));
            }
        });
        // 5 MiB at 10 MiB/s, less the burst and the last piece, for which nobody waits.
        assert!(begun.elapsed() > Duration::from_millis(350), "{:?}", begun.elapsed());
    }

    #[test]
    fn hurry_lifts_the_limit() {
        let hurry = Arc::new(AtomicBool::new(false));
        let (cancel, throttle) = (Cancel::new(), Throttle::new(Some(1), Arc::clone(&hurry)));
        let stop = Stop::new(&cancel);
        throttle.take(1 << 20, &stop).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(50));
                hurry.store(true, Ordering::Relaxed);
            });
            throttle.take(1 << 20, &stop).unwrap();
        });
    }

    #[test]
    fn a_wish_to_end_is_noticed_while_waiting() {
        let (cancel, throttle) = (Cancel::new(), Throttle::new(Some(1), Arc::default()));
        let stop = Stop::new(&cancel);
        throttle.take(1 << 20, &stop).unwrap();
        cancel.cancel(2);
        assert!(throttle.take(1, &stop).is_err());
    }
}
