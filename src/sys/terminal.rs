//! A question on the terminal that a wish to end does not wait for.

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::signal::Cancel;
use crate::{Error, Result};

/// How often it is looked whether the run was asked to end, in nanoseconds.
const LOOK_EVERY: i64 = 20_000_000;

/// A line of the standard input, without waiting beyond a wish to end; empty at its end.
///
/// # Errors
/// [`Error::Interrupted`] once a signal has asked; nothing can be read.
pub fn read_line(cancel: &Cancel) -> Result<String> {
    let failed = |reason: &dyn std::fmt::Display| Error::failed(format!("cannot read the answer: {reason}"));
    let stdin = std::io::stdin();
    let wait = Timespec {
        tv_sec: 0,
        tv_nsec: LOOK_EVERY,
    };
    loop {
        cancel.check()?;
        let mut polled = [PollFd::new(&stdin, PollFlags::IN)];
        match poll(&mut polled, Some(&wait)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => break,
            Err(error) => return Err(failed(&error)),
        }
    }
    let mut answer = String::new();
    // A terminal hands over whole lines.
    stdin.read_line(&mut answer).map_err(|error| failed(&error))?;
    cancel.check()?;
    Ok(answer)
}
