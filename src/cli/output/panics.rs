//! A fault of the program itself, told as an error.

use std::panic::PanicHookInfo;

use super::{error, say};
use crate::Error;

/// From now on a panic is said as an error, escaped like everything else, and without a backtrace unless RUST_BACKTRACE asks for one.
pub(in crate::cli) fn report_panics() {
    std::panic::set_hook(Box::new(|info| {
        if crate::sys::host::panics_are_expected() {
            return;
        }
        error(&Error::failed(told(info)));
        let backtrace = std::backtrace::Backtrace::capture();
        if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
            say(backtrace);
        }
    }));
}

fn told(info: &PanicHookInfo<'_>) -> String {
    let words = crate::sys::host::panic_words(info.payload());
    let at = info.location().map(|at| format!(" at {}:{}", at.file(), at.line()));
    format!(
        "snapback itself is at fault{}: {words}; please report it. What this run made on the host is undone, or `snapback cleanup` undoes it",
        at.unwrap_or_default()
    )
}
