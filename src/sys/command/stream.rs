//! A program whose output is passed on while it runs, and one that is fed while it runs.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{ChildStdout, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Command, Running, STDERR_TAIL, drain};
use crate::sys::signal::Cancel;
use crate::sys::{Error, Result};

/// How long a program is waited for before a wish to end is looked for.
const ROUND: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// What a pipe that is ready takes without blocking (PIPE_BUF), in bytes.
const AT_ONCE: usize = 4096;

impl Command {
    /// Runs it with no input and gives its output to `take` as it comes. There is no limit of time.
    ///
    /// # Errors
    /// It did not exit with 0; or the taker failed or a signal asked to end: then it and its process group are killed.
    pub fn stream(&self, cancel: &Cancel, take: &mut dyn FnMut(&[u8]) -> crate::Result<()>) -> crate::Result<()> {
        let mut running = self.spawn(|_| {})?;
        running.stderr = running.child.stderr.take().map(|pipe| drain(pipe, STDERR_TAIL));
        let passed = running
            .child
            .stdout
            .take()
            .map_or(Ok(()), |mut pipe| pass_on(&mut pipe, cancel, take));
        if let Err(error) = passed {
            running.kill();
            return Err(error);
        }
        running.restart_limit();
        running.finish()?;
        Ok(())
    }

    /// Starts it with what is written into [`Fed`] as its input.
    ///
    /// # Errors
    /// It could not be started.
    pub fn feed(&self) -> Result<Fed> {
        let mut running = self.spawn(|command| {
            command.stdin(Stdio::piped()).stdout(Stdio::null());
        })?;
        running.stderr = running.child.stderr.take().map(|pipe| drain(pipe, STDERR_TAIL));
        Ok(Fed(running))
    }
}

fn pass_on(
    pipe: &mut ChildStdout,
    cancel: &Cancel,
    take: &mut dyn FnMut(&[u8]) -> crate::Result<()>,
) -> crate::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        cancel.check()?;
        if is_ready(pipe, PollFlags::IN)? {
            let failed = |error| Error::kernel("read a program's output", error);
            match pipe.read(&mut buffer).map_err(failed)? {
                0 => return Ok(()),
                length => take(&buffer[..length])?,
            }
        }
    }
}

fn is_ready(pipe: &impl AsFd, flags: PollFlags) -> Result<bool> {
    match poll(&mut [PollFd::new(pipe, flags)], Some(&ROUND)) {
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(Error::kernel("wait for a program", error)),
        Ok(ready) => Ok(ready > 0),
    }
}

/// A program that is being fed. Dropping it kills it, before it sees the end of its input: a client must not take a cut one for the whole.
#[derive(Debug)]
pub struct Fed(Running);

impl Fed {
    /// Gives it more.
    ///
    /// # Errors
    /// It failed and does not read any more, with what it said; or a signal asked to end.
    pub fn write(&mut self, mut bytes: &[u8], cancel: &Cancel) -> crate::Result<()> {
        while let Some(pipe) = self.0.child.stdin.as_mut().filter(|_| !bytes.is_empty()) {
            cancel.check()?;
            if is_ready(pipe, PollFlags::OUT)? {
                match pipe.write(&bytes[..bytes.len().min(AT_ONCE)]) {
                    Ok(written) => bytes = &bytes[written..],
                    Err(_) => return self.end(cancel, "it does not read any more"),
                }
            }
        }
        Ok(())
    }

    /// Closes its input and waits for its end.
    ///
    /// # Errors
    /// It did not exit with 0; or a signal asked to end.
    pub fn finish(mut self, cancel: &Cancel) -> crate::Result<()> {
        drop(self.0.child.stdin.take());
        let failed = |error| Error::kernel("wait for a program", error);
        while self.0.reap().map_err(failed)?.is_none() {
            cancel.sleep(Duration::from_millis(5))?;
        }
        self.0.wait_for_end()?;
        Ok(())
    }

    /// It broke its pipe: its status says more than that.
    fn end(&mut self, cancel: &Cancel, otherwise: &str) -> crate::Result<()> {
        let _ = cancel.sleep(Duration::from_millis(500));
        self.0.kill();
        self.0.wait_for_end()?;
        Err(self.0.failed(otherwise).into())
    }
}

impl Drop for Fed {
    fn drop(&mut self) {
        self.0.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::super::Program;
    use super::*;

    fn shell(script: &str) -> Command {
        Command::new(&Program::find("sh").unwrap()).args(["-c", script])
    }

    #[test]
    fn output_is_passed_on_and_a_bad_status_is_an_error() {
        let (mut all, cancel) = (Vec::new(), Cancel::new());
        let mut take = |bytes: &[u8]| -> crate::Result<()> {
            all.extend_from_slice(bytes);
            Ok(())
        };
        shell("echo one; sleep 0.3; echo two")
            .stream(&cancel, &mut take)
            .unwrap();
        let error = shell("echo three; echo why >&2; exit 3")
            .stream(&cancel, &mut take)
            .unwrap_err();
        assert!(error.to_string().contains("why"), "{error}");
        assert_eq!(all, b"one\ntwo\nthree\n");
    }

    #[test]
    fn a_wish_to_end_and_a_failed_taker_end_it() {
        let begun = std::time::Instant::now();
        let cancel = Cancel::new();
        let enough = shell("echo; sleep 600").stream(&cancel, &mut |_| Err(crate::Error::failed("enough")));
        assert_eq!(enough.unwrap_err().to_string(), "enough");
        cancel.cancel(15);
        assert!(shell("sleep 600").stream(&cancel, &mut |_| Ok(())).is_err());
        assert!(begun.elapsed().as_secs() < 300);
    }

    #[test]
    fn what_is_fed_arrives_and_a_program_that_is_dropped_did_not_see_its_end() {
        let (dir, cancel) = (tempfile::tempdir().unwrap(), Cancel::new());
        let at = |name: &str| dir.path().join(name);
        let script = |name: &str| shell(&format!("cat > {0} && touch {0}.whole", at(name).display()));
        let mut fed = script("a").feed().unwrap();
        fed.write(&[7; 100_000], &cancel).unwrap();
        fed.finish(&cancel).unwrap();
        assert_eq!(std::fs::read(at("a")).unwrap().len(), 100_000);
        assert!(at("a.whole").exists());
        let mut fed = script("b").feed().unwrap();
        fed.write(b"hel", &cancel).unwrap();
        drop(fed);
        assert!(!at("b.whole").exists());
        let mut fed = shell("echo why >&2; exit 4").feed().unwrap();
        let error = fed.write(&[7; 1_000_000], &cancel).unwrap_err();
        assert!(error.to_string().contains("why"), "{error}");
    }
}
