//! Progress: a bar on a terminal, plain lines in a log, nothing with `--quiet`.

use std::io::IsTerminal;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output;
use crate::Result;
use crate::finding::{Finding, Severity};
use crate::monitor::{Monitor, Work};
use crate::sys::signal::Cancel;
use crate::sys::terminal;
use crate::units::Bytes;

/// A log gets a line about long work this often.
const LINE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Bars,
    Lines,
    Quiet,
}

/// Draws what the library reports.
pub(super) struct Progress {
    mode: Mode,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    bar: Option<ProgressBar>,
    work: Option<Work>,
    bytes: u64,
    items: u64,
    begun: Option<Instant>,
    said: Option<Instant>,
}

impl Progress {
    pub fn new(quiet: bool) -> Progress {
        let mode = match (quiet, std::io::stderr().is_terminal()) {
            (true, _) => Mode::Quiet,
            (false, true) => Mode::Bars,
            (false, false) => Mode::Lines,
        };
        Progress {
            mode,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks on the terminal, with no bar drawn over the question until the answer is there; only `yes` is one.
    ///
    /// # Errors
    /// Nothing can be read, or the run is asked to end.
    pub fn confirm(&self, question: &str, cancel: &Cancel) -> Result<bool> {
        self.state().clear();
        output::ask(format_args!("{question} Type `yes`: "));
        let answer = terminal::read_line(cancel);
        if answer.is_err() {
            // Behind the question.
            output::say("");
        }
        Ok(answer?.trim() == "yes")
    }

    fn line(state: &State) -> String {
        let work = state.work.unwrap_or(Work {
            name: "working",
            bytes: 0,
            items: 0,
        });
        let of = |done: u64, all: u64| {
            if all > 0 {
                format!("{} of {}", Bytes::b(done), Bytes::b(all))
            } else {
                Bytes::b(done).to_string()
            }
        };
        if counts_items(state) {
            return format!("{}: {} of {}", work.name, state.items, work.items);
        }
        format!(
            "{}: {}, {} objects",
            work.name,
            of(state.bytes, work.bytes),
            state.items
        )
    }
}

impl State {
    fn draw(&mut self, bar: Option<ProgressBar>) {
        self.clear();
        output::set_bar(bar.as_ref());
        self.bar = bar;
    }

    fn clear(&mut self) {
        output::set_bar(None);
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.state().clear();
    }
}

impl Monitor for Progress {
    fn phase(&self, name: &'static str) {
        if self.mode == Mode::Lines {
            output::say(name);
        } else if self.mode == Mode::Bars {
            let mut state = self.state();
            if state.bar.is_none() {
                state.draw(Some(spinner()));
            }
            state.bar.iter().for_each(|bar| bar.set_message(name));
        }
    }

    fn message(&self, text: &str) {
        if self.mode != Mode::Quiet {
            output::say(text);
        }
    }

    fn finding(&self, finding: &Finding) {
        // Warnings are said even when all else is quiet.
        if finding.severity >= Severity::Warning || self.mode == Mode::Lines {
            output::say(output::finding(finding));
        }
    }

    fn begin(&self, work: Work) {
        let mut state = self.state();
        let now = Instant::now();
        let draw = |work: Work| {
            if work.bytes == 0 && work.items > 0 {
                items_bar(work)
            } else {
                bytes_bar(work)
            }
        };
        let bar = (self.mode == Mode::Bars).then(|| draw(work));
        state.draw(bar);
        *state = State {
            bar: state.bar.take(),
            work: Some(work),
            bytes: 0,
            items: 0,
            begun: Some(now),
            said: Some(now),
        };
    }

    fn resize(&self, bytes: u64, items: u64) {
        let mut state = self.state();
        if let Some(work) = &mut state.work {
            (work.bytes, work.items) = (bytes, items);
        }
        if let Some(bar) = &state.bar {
            bar.set_length(bytes);
        }
    }

    fn advance(&self, bytes: u64, items: u64) {
        let mut state = self.state();
        state.bytes += bytes;
        state.items += items;
        match &state.bar {
            Some(bar) => bar.set_position(if counts_items(&state) { state.items } else { state.bytes }),
            None if self.mode == Mode::Lines && state.said.is_some_and(|said| said.elapsed() >= LINE) => {
                state.said = Some(Instant::now());
                output::say(Progress::line(&state));
            }
            None => {}
        }
    }

    fn end(&self) {
        let mut state = self.state();
        state.clear();
        if self.mode == Mode::Lines && state.work.is_some() {
            let took = state
                .begun
                .map(|begun| begun.elapsed().as_secs_f64())
                .unwrap_or_default();
            output::say(format_args!("{} in {took:.1} s", Progress::line(&state)));
        }
        state.work = None;
    }
}

fn spinner() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// Work without bytes, such as checks of tables.
fn counts_items(state: &State) -> bool {
    state.work.is_some_and(|work| work.bytes == 0 && work.items > 0)
}

fn items_bar(work: Work) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(work.items), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:30}] {pos}/{len} {elapsed}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(work.name);
    bar
}

fn bytes_bar(work: Work) -> ProgressBar {
    let length = (work.bytes > 0).then_some(work.bytes);
    let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr());
    let template = "{msg} [{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} eta {eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(work.name);
    bar
}
