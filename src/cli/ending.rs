//! The end that always comes: a thread that ends the process when a wish to end has waited for too long.
//!
//! Every command looks for the wish by itself and undoes what it made. What cannot look (a pipe that nobody reads, a
//! question on a terminal, a program or device that hangs) is ended from here. Sockets close with the process, so a server
//! drops our lock; keepers and guardians thaw and stop what is theirs; the journal names the rest for `cleanup`.

use std::time::Duration;

use crate::sys::signal::{self, Cancel};

/// How old a wish may become. The process is gone within 2 s of it.
const PATIENCE: Duration = Duration::from_millis(1800);
/// How often it is looked whether a step that must not be cut short has ended.
const TICK: Duration = Duration::from_millis(20);

/// Starts the thread.
///
/// # Errors
/// There is no bell, or no thread.
pub(super) fn watch(cancel: &Cancel) -> crate::Result<()> {
    signal::hang_bell()?;
    let cancel = cancel.clone();
    std::thread::Builder::new()
        .name("ending".into())
        .spawn(move || end_late(&cancel))
        .map_err(|source| crate::sys::Error::Kernel {
            operation: "start the thread that ends late commands",
            source,
        })?;
    Ok(())
}

fn end_late(cancel: &Cancel) {
    signal::wait_for_wish();
    loop {
        if signal::asked_for().is_some_and(|asked| asked >= PATIENCE) {
            let signal = cancel.asked().unwrap_or(0);
            let words = format!(
                "error: ended by signal {signal}, before all was undone: `snapback cleanup` removes what this run has left\n"
            );
            signal::end_now(128 + signal, &words);
        }
        std::thread::sleep(TICK);
    }
}
