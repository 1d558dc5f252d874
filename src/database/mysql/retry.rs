//! How often a lock is tried, how long each try may wait, and the pauses between.

use std::time::Duration;

use crate::database::{LockLimits, OnBusy};

/// How long a try may wait where waiting longer cannot help.
const BRIEF: Duration = Duration::from_millis(250);
/// The pause after such a try: enough for the applier to commit what it had begun.
const BREATH: Duration = Duration::from_millis(50);

/// The tries of one quiesce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// The limits of each try.
    pub limits: LockLimits,
    tries_per_attempt: u32,
    attempts: u32,
}

impl Schedule {
    /// As the limits say.
    pub fn plain(limits: &LockLimits) -> Schedule {
        Schedule {
            limits: limits.clone(),
            tries_per_attempt: 1,
            attempts: if limits.on_busy == OnBusy::Fail {
                1
            } else {
                limits.attempts.max(1)
            },
        }
    }

    /// For FTWRL beside an applier that commits in order with several workers (MySQL's default): a worker that waits for its
    /// turn to commit keeps FTWRL waiting, while the one whose turn it is waits for FTWRL. That ends only with our wait, so
    /// the time of an attempt is spent on many brief tries, one of which meets no such pair.
    pub fn brief(limits: &LockLimits) -> Schedule {
        let plain = Schedule::plain(limits);
        let tries = limits.acquire_timeout.as_millis().div_ceil(BRIEF.as_millis()).max(1);
        Schedule {
            limits: LockLimits {
                acquire_timeout: limits.acquire_timeout.min(BRIEF),
                ..limits.clone()
            },
            tries_per_attempt: u32::try_from(tries).unwrap_or(u32::MAX),
            ..plain
        }
    }

    /// The pause after this many tries, and whether it ends an attempt; `None` when it was the last.
    pub fn pause_after(&self, tries: u32) -> Option<(Duration, bool)> {
        if tries >= self.attempts.saturating_mul(self.tries_per_attempt) {
            return None;
        }
        if !tries.is_multiple_of(self.tries_per_attempt) {
            return Some((BREATH, false));
        }
        let doublings = (tries / self.tries_per_attempt - 1).min(16);
        Some((self.limits.backoff.saturating_mul(1 << doublings), true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(acquire_ms: u64, on_busy: OnBusy) -> LockLimits {
        LockLimits {
            acquire_timeout: Duration::from_millis(acquire_ms),
            hold_limit: Duration::from_secs(1),
            attempts: 3,
            backoff: Duration::from_millis(500),
            blocker_age: Duration::ZERO,
            on_busy,
        }
    }

    #[test]
    fn pauses_double_and_end() {
        let schedule = Schedule::plain(&limits(2000, OnBusy::Wait));
        let pauses: Vec<_> = (1..=3).map(|tries| schedule.pause_after(tries)).collect();
        let ms = Duration::from_millis;
        assert_eq!(pauses, [Some((ms(500), true)), Some((ms(1000), true)), None]);
        assert_eq!(Schedule::plain(&limits(2000, OnBusy::Fail)).pause_after(1), None);
    }

    #[test]
    fn brief_tries_fill_the_time_of_an_attempt() {
        let schedule = Schedule::brief(&limits(1000, OnBusy::Wait));
        assert_eq!(schedule.limits.acquire_timeout, BRIEF);
        assert_eq!(schedule.pause_after(1), Some((BREATH, false)));
        assert_eq!(schedule.pause_after(4), Some((Duration::from_millis(500), true)));
        assert_eq!(schedule.pause_after(8), Some((Duration::from_millis(1000), true)));
        assert_eq!(schedule.pause_after(12), None);
        let schedule = Schedule::brief(&limits(100, OnBusy::Fail));
        assert_eq!(schedule.limits.acquire_timeout, Duration::from_millis(100));
        assert_eq!(schedule.pause_after(1), None);
    }
}
