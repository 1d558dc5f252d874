//! The timeline of a run: each phase with its bar, and the lock's steps enlarged.

use super::output;
use crate::database::LockFigures;
use crate::timeline::Phase;
use crate::units::human_micros;

/// Characters of a bar.
const WIDTH: u64 = 40;

/// The phases of the run, then the steps of the lock.
pub(super) fn lines(phases: &[Phase], lock: Option<&LockFigures>) -> Vec<String> {
    let mut lines = vec![output::bold("timeline")];
    lines.extend(bars(phases));
    if let Some(lock) = lock.filter(|lock| !lock.steps.is_empty()) {
        lines.push(output::bold("lock, enlarged"));
        lines.extend(bars(&lock.steps));
    }
    lines
}

fn bars(phases: &[Phase]) -> Vec<String> {
    let start = phases.iter().map(|phase| phase.start_us).min().unwrap_or(0);
    let end = phases.iter().map(|phase| phase.start_us + phase.us).max().unwrap_or(0);
    let span = end.saturating_sub(start).max(1);
    let name_width = phases.iter().map(|phase| phase.name.len()).max().unwrap_or(0);
    let line = |phase: &Phase| {
        let from = (phase.start_us - start) * WIDTH / span;
        let length = (phase.us * WIDTH / span).max(1).min(WIDTH - from.min(WIDTH - 1));
        let bar = format!(
            "{}{}",
            " ".repeat(from.min(WIDTH - 1) as usize),
            "█".repeat(length as usize)
        );
        let (name, took) = (&phase.name, human_micros(phase.us));
        format!("  {name:name_width$}  {took:>9}  |{bar:<40}|")
    };
    phases.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_has_a_bar_inside_the_frame() {
        let phase = |name: &str, start_us, us| Phase {
            name: name.to_owned(),
            start_us,
            us,
        };
        let phases = [phase("detect", 0, 10), phase("copy", 10, 990), phase("drop", 1000, 0)];
        for line in bars(&phases) {
            let bar = line.split('|').nth(1).unwrap();
            assert_eq!(bar.chars().count(), 40, "{line}");
            assert!(bar.contains('█'), "{line}");
        }
        assert_eq!(bars(&[]).len(), 0);
    }
}
