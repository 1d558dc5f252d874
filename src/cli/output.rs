//! Printing: results to stdout, everything else to stderr. A reader that has gone away is no error.

use std::fmt::Display;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use indicatif::ProgressBar;
use serde::Serialize;

use crate::finding::{Finding, Severity};
use crate::{Error, Result};

const BOLD: &str = "\x1b[1m";
const RED: &str = "\x1b[1;31m";
const YELLOW: &str = "\x1b[1;33m";
const GREEN: &str = "\x1b[32m";
const DIM: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";

/// The bar that is drawn now: it steps aside for whatever is printed, on both streams, since they share the terminal.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Names the bar that is drawn from now on, if there is one.
pub(super) fn set_bar(bar: Option<&ProgressBar>) {
    *BAR.lock().unwrap_or_else(PoisonError::into_inner) = bar.cloned();
}

fn beside_bar(print: impl FnOnce()) {
    let bar = BAR.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match bar {
        Some(bar) => bar.suspend(print),
        None => print(),
    }
}

/// Prints a line of the result.
pub(super) fn line(text: impl Display) {
    // `anstream` takes the colours out where they do not belong.
    beside_bar(|| drop(writeln!(anstream::stdout(), "{text}")));
}

/// Prints the result for machines.
pub(super) fn json(value: &impl Serialize) -> Result<()> {
    let text =
        serde_json::to_string_pretty(value).map_err(|error| Error::failed(format!("cannot write JSON: {error}")))?;
    beside_bar(|| drop(writeln!(std::io::stdout(), "{text}")));
    Ok(())
}

/// Says something on stderr.
pub(super) fn say(text: impl Display) {
    beside_bar(|| drop(writeln!(anstream::stderr(), "{text}")));
}

/// Says something on stderr and leaves the cursor behind it. Whoever asks has no bar drawn.
pub(super) fn ask(text: impl Display) {
    let mut stderr = anstream::stderr();
    let _ = write!(stderr, "{text}").and_then(|()| stderr.flush());
}

/// Says what went wrong.
pub(super) fn error(error: &Error) {
    say(format_args!("{RED}error:{RESET} {error}"));
}

pub(super) fn bold(text: impl Display) -> String {
    format!("{BOLD}{text}{RESET}")
}

pub(super) fn dim(text: impl Display) -> String {
    format!("{DIM}{text}{RESET}")
}

pub(super) fn green(text: impl Display) -> String {
    format!("{GREEN}{text}{RESET}")
}

pub(super) fn red(text: impl Display) -> String {
    format!("{RED}{text}{RESET}")
}

pub(super) fn yellow(text: impl Display) -> String {
    format!("{YELLOW}{text}{RESET}")
}

/// A finding with its remedy, on one or two lines.
pub(super) fn finding(finding: &Finding) -> String {
    let word = match finding.severity {
        Severity::Blocker => format!("{RED}blocker:{RESET}"),
        Severity::Warning => format!("{YELLOW}warning:{RESET}"),
        Severity::Note => format!("{DIM}note:{RESET}"),
    };
    let remedy = finding
        .remedy
        .as_ref()
        .map(|remedy| format!("\n    -> {remedy}"))
        .unwrap_or_default();
    format!("{word} {}{remedy}", finding.message)
}

/// A table without borders.
pub(super) fn table(headers: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    if !headers.is_empty() {
        table.set_header(headers);
    }
    table.add_rows(rows);
    let text = table.to_string();
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}
