//! One monotonic clock for a run, and the phases measured on it in microseconds.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::units::micros;

/// One measured phase: where it began after the start of the run, and how long it took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// The phase's name, as in docs/architecture.md: `detect`, `settle`, `quiesce`, `snapshot` ...
    pub name: String,
    /// Microseconds from the start of the run.
    pub start_us: u64,
    /// Microseconds that it took.
    pub us: u64,
}

/// The clock of a run. Durations come from the monotonic clock; only names use wall time (trap 30).
#[derive(Debug)]
pub struct Timeline {
    origin: Instant,
    phases: Vec<Phase>,
}

impl Timeline {
    /// Starts the clock.
    pub fn start() -> Timeline {
        Timeline {
            origin: Instant::now(),
            phases: Vec::new(),
        }
    }

    /// Runs `work` and records it as a phase, also when it fails.
    pub fn measure<T>(&mut self, name: &str, work: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let result = work();
        self.record(name, begun, Instant::now());
        result
    }

    /// Records a phase that was timed elsewhere.
    pub fn record(&mut self, name: &str, begun: Instant, ended: Instant) {
        self.phases.push(Phase {
            name: name.to_owned(),
            start_us: micros(begun.saturating_duration_since(self.origin)),
            us: micros(ended.saturating_duration_since(begun)),
        });
    }

    /// When the run began.
    pub fn origin(&self) -> Instant {
        self.origin
    }

    /// The phases so far, by start.
    pub fn phases(&self) -> Vec<Phase> {
        let mut phases = self.phases.clone();
        phases.sort_by_key(|phase| phase.start_us);
        phases
    }
}
