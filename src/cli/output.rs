//! Printing: results to stdout, everything else to stderr.
//!
//! Everything for people goes through [`escape::shown`] here, at the edge. A reader that has gone away is no error; a disk that is full is one, which
//! [`finish`] tells at the end.

mod escape;
mod panics;

use std::fmt::Display;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use indicatif::ProgressBar;
use serde::Serialize;

use crate::finding::{Finding, Severity};
use crate::{Error, Result};

use super::Exit;
use escape::{Breaks, Mark, shown};
pub(super) use panics::report_panics;

/// The first failure to write a result.
static FAILED: Mutex<Option<io::Error>> = Mutex::new(None);

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

/// Prints a line of the result. A line break in it is shown as `\n`.
pub(super) fn line(text: impl Display) {
    put(&shown(&text.to_string(), Breaks::Escaped));
}

/// Prints a text of our own, which may have several lines.
pub(super) fn text(text: &str) {
    put(&shown(text.trim_end(), Breaks::Kept));
}

/// Prints what a person does next: a line, perhaps with commands of ours on indented ones.
pub(super) fn step(text: impl Display) {
    put(&shown(&text.to_string(), Breaks::Indented));
}

/// Prints the result for machines.
pub(super) fn json(value: &impl Serialize) -> Result<()> {
    put(&escape::json(serde_json::to_string_pretty(value).map_err(no_json)?));
    Ok(())
}

/// Prints a part of a result for machines on one line: `before`, then the value.
pub(super) fn json_line(before: &str, value: &impl Serialize) -> Result<()> {
    let text = escape::json(serde_json::to_string(value).map_err(no_json)?);
    put(&format!("{before}{text}"));
    Ok(())
}

fn no_json(error: serde_json::Error) -> Error {
    Error::failed(format!("cannot write JSON: {error}"))
}

/// Prints bytes as they are.
pub(super) fn raw(bytes: &[u8]) {
    heed(io::stdout().write_all(bytes));
}

/// Notes whether a result could be written.
pub(super) fn heed(written: io::Result<()>) {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            FAILED
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get_or_insert(error);
        }
        _ => {}
    }
}

fn put(line: &str) {
    // `anstream` takes the colours out where they do not belong.
    beside_bar(|| heed(anstream::stdout().write_all(format!("{line}\n").as_bytes())));
}

/// The end of the program: what was not written yet is, and a result that could not be written is a failure.
pub(super) fn finish(exit: Exit) -> Exit {
    heed(io::stdout().flush());
    let failed = FAILED.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(failed) = failed else { return exit };
    error(&Error::failed(format!(
        "cannot write the result to stdout: {failed}; what is there is not all of it"
    )));
    match exit {
        Exit::Done | Exit::Warnings | Exit::Status(0) => Exit::Failed,
        other => other,
    }
}

/// Says something on stderr. What follows a line break in it has a bar before it.
pub(super) fn say(text: impl Display) {
    let text = text.to_string();
    tell(&shown(text.trim_end_matches('\n'), Breaks::Barred));
}

/// Says a text of our own on stderr, which may have several lines (an option file to copy).
pub(super) fn say_text(text: &str) {
    tell(&shown(text.trim_end(), Breaks::Kept));
}

/// Says something on stderr and leaves the cursor behind it. Whoever asks has no bar drawn.
pub(super) fn ask(text: impl Display) {
    let mut stderr = anstream::stderr();
    let said = shown(&text.to_string(), Breaks::Escaped);
    let _ = stderr.write_all(said.as_bytes()).and_then(|()| stderr.flush());
}

fn tell(said: &str) {
    beside_bar(|| drop(anstream::stderr().write_all(format!("{said}\n").as_bytes())));
}

/// Says what went wrong.
pub(super) fn error(error: &Error) {
    let (red, reset) = (Mark::Red.char(), Mark::Reset.char());
    say(format_args!("{red}error:{reset} {}", told(error)));
}

/// An error's words; lines of our own are marked as such.
fn told(error: &Error) -> String {
    let br = Mark::Break.char();
    match error {
        Error::Refused(findings) => {
            let mut text = "refused; nothing was touched".to_owned();
            for finding in findings {
                text += &format!("{br}  {}", finding.message);
                text.extend(finding.remedy.iter().map(|remedy| format!("{br}    -> {remedy}")));
            }
            text
        }
        Error::Rollback { cause, rollback } => format!(
            "{}{br}then the clean-up failed as well: {}{br}`snapback cleanup` finishes it",
            match &**cause {
                interrupted @ Error::Interrupted(_) => interrupted.begun(),
                other => told(other),
            },
            told(rollback)
        ),
        other => other.to_string(),
    }
}

/// Says what the parser of the command line has to say: help goes to stdout, all else to stderr.
pub(super) fn usage(error: &clap::Error) -> Exit {
    if !error.use_stderr() {
        heed(error.print());
        return finish(Exit::Done);
    }
    let plain = |argument: std::ffi::OsString| escape::is_plain(&argument.to_string_lossy());
    if std::env::args_os().all(plain) {
        let _ = error.print();
    } else {
        say(error.render());
    }
    Exit::Usage
}

/// Where diagnostics go: each call has one message.
pub(super) struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        say(String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn bold(text: impl Display) -> String {
    marked(Mark::Bold, text)
}

pub(super) fn dim(text: impl Display) -> String {
    marked(Mark::Dim, text)
}

pub(super) fn green(text: impl Display) -> String {
    marked(Mark::Green, text)
}

pub(super) fn red(text: impl Display) -> String {
    marked(Mark::Red, text)
}

pub(super) fn yellow(text: impl Display) -> String {
    marked(Mark::Yellow, text)
}

fn marked(mark: Mark, text: impl Display) -> String {
    format!("{}{text}{}", mark.char(), Mark::Reset.char())
}

/// A finding with its remedy, on one or two lines.
pub(super) fn finding(finding: &Finding) -> String {
    let word = match finding.severity {
        Severity::Blocker => red("blocker:"),
        Severity::Warning => yellow("warning:"),
        Severity::Note => dim("note:"),
    };
    let br = Mark::Break.char();
    let remedy = finding
        .remedy
        .as_ref()
        .map(|remedy| format!("{br}    -> {remedy}"))
        .unwrap_or_default();
    format!("{word} {}{remedy}", finding.message)
}

/// A table without borders. A cell has one line.
pub(super) fn table(headers: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    if !headers.is_empty() {
        table.set_header(headers);
    }
    let one_line = |cell: String| cell.replace('\n', "\\n").replace('\t', "\\t").replace('\r', "\\r");
    table.add_rows(rows.into_iter().map(|row| row.into_iter().map(one_line)));
    let br = Mark::Break.char().to_string();
    let text = table.to_string();
    text.lines().map(str::trim_end).collect::<Vec<_>>().join(&br)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_lines_stay_lines_and_those_of_others_do_not() {
        let finding = Finding::blocker("x", "a\nerror: b").remedy("type\x1b[2J c");
        let refused = told(&Error::Refused(vec![finding.clone()]));
        assert_eq!(
            shown(&refused, Breaks::Barred),
            "refused; nothing was touched\n  a\n    | error: b\n    -> type\\x1b[2J c"
        );
        let failed = Error::failed("one\ntwo").and_rollback(Err(Error::failed("three")));
        assert_eq!(
            shown(&told(&failed), Breaks::Barred),
            "one\n    | two\nthen the clean-up failed as well: three\n`snapback cleanup` finishes it"
        );
        let ended = Error::Interrupted(15).and_rollback(Err(Error::failed("three")));
        for said in [told(&ended), ended.to_string()] {
            assert!(
                said.starts_with("ended by signal 15") && !said.contains("everything"),
                "{said}"
            );
        }
        let text = shown(&super::finding(&finding), Breaks::Escaped);
        assert_eq!(text, "\x1b[1;31mblocker:\x1b[0m a\\nerror: b\n    -> type\\x1b[2J c");
    }

    #[test]
    fn a_cell_of_a_table_stays_one_line() {
        let rows = vec![
            vec!["a\nb".to_owned(), "c".to_owned()],
            vec!["d".to_owned(), "e\x1b".to_owned()],
        ];
        let text = shown(&table(&["one", "two"], rows), Breaks::Escaped);
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[1].starts_with("a\\nb") && lines[2].ends_with("e\\x1b"), "{text}");
    }
}
