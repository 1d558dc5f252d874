//! Snapshots whose `lvcreate` waits at the brink of suspending the origin.

use std::cell::Cell;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::super::{Error, Prepared, Result, Snapshot};
use super::flush::flush;
use super::report::{self, Lv, changing};
use super::{CowSize, locate, own, room};
use crate::finding::Finding;
use crate::sys::brink::{Brink, DM_DEV_SUSPEND, Report, unsupported};
use crate::sys::command::Command;

/// The longest that `lvcreate` may take to get to the brink, and from there to its end.
const LIMIT: Duration = Duration::from_secs(120);
/// The longest that the suspension of the origin may take; the lock's own limit is shorter.
const SUSPEND_LIMIT: Duration = Duration::from_secs(60);

/// Offsets in struct dm_ioctl, and its flag for suspending and not resuming (linux/dm-ioctl.h). LVM names a device by its number, others by its name.
const FLAGS: usize = 28;
const SUSPEND: u32 = 1 << 1;
const DEVICE: usize = 40;
const NAME: usize = 48;
const NAME_LENGTH: usize = 128;

pub struct PreparedLvm {
    one: Snapshot,
    /// The origin's number.
    device: (u32, u32),
    step: Step,
    /// Said in the manifest.
    notes: Vec<Finding>,
}

/// How far a snapshot is.
enum Step {
    /// Waits at the brink.
    Waiting(Brink),
    /// This kernel cannot hold a command: it runs under the lock as a whole.
    Plain(Command),
    /// Done, or given up.
    Over,
}

impl PreparedLvm {
    pub fn prepare(
        planned: &[Snapshot],
        cow_size: CowSize,
        expected: u64,
        alive: Option<BorrowedFd<'_>>,
    ) -> Result<PreparedLvm> {
        let [snapshot] = planned else {
            return Err(Error::failed(
                "snapshot",
                "several logical volumes",
                "LVM cannot take them at one instant",
            ));
        };
        let origin = super::origin(&snapshot.volume)?;
        if snapshot.identity.as_deref() != Some(&format!("{}{}", super::OF, origin.uuid)) {
            return Err(Error::failed(
                "snapshot",
                &snapshot.volume.source,
                "it was replaced by another volume since the plan was made",
            ));
        }
        let command = create(snapshot, &origin, cow_size, expected)?;
        let number = locate::device_of(&snapshot.volume.top)?;
        let mut prepared = PreparedLvm {
            one: snapshot.clone(),
            device: number,
            step: Step::Over,
            notes: Vec::new(),
        };
        let mut brink = match Brink::start(&command, &[DM_DEV_SUSPEND], alive) {
            Ok(brink) => brink,
            Err(error) if unsupported(&error) => {
                prepared.notes.push(no_brink(&error));
                prepared.step = Step::Plain(command);
                return Ok(prepared);
            }
            Err(error) => return Err(error.into()),
        };
        let device = origin.device.trim_start_matches("/dev/mapper/").to_owned();
        let blind = Cell::new(false);
        let decisive = |report: &Report| {
            blind.set(!report.is_readable() || crate::sys::failpoint::asked("lvm.unreadable"));
            blind.get() || suspends(report, &device, number)
        };
        match brink.reach(decisive, LIMIT) {
            // It takes its snapshot without a lock, which is worth nothing.
            Ok(true) if blind.get() => {
                prepared.give_up(brink)??;
                let forbidden = io::Error::from_raw_os_error(libc::EPERM);
                prepared.notes.push(no_brink(&crate::sys::Error::kernel(
                    "read its calls' arguments",
                    forbidden,
                )));
                prepared.step = Step::Plain(command);
                Ok(prepared)
            }
            Ok(true) => {
                prepared.step = Step::Waiting(brink);
                Ok(prepared)
            }
            // It took its snapshot without a lock, or failed and says why.
            Ok(false) => {
                prepared.give_up(brink)??;
                Err(Error::failed(
                    "snapshot",
                    &snapshot.volume.source,
                    format!(
                        "lvcreate did not suspend {device} within {} s; what it made was removed",
                        LIMIT.as_secs()
                    ),
                ))
            }
            Err(error) => {
                drop(prepared.give_up(brink)?);
                Err(error.into())
            }
        }
    }
}

/// The call that freezes the origin.
fn suspends(report: &Report, device: &str, (major, minor): (u32, u32)) -> bool {
    // The kernel's encoding of a device number (linux/kdev_t.h, new_encode_dev).
    let number = (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12);
    let same = report.number_at(DEVICE) == number || report.text_at(NAME, NAME_LENGTH) == device;
    report.number_at(FLAGS) & SUSPEND != 0 && same
}

fn create(snapshot: &Snapshot, origin: &Lv, cow_size: CowSize, expected: u64) -> Result<Command> {
    let name = snapshot
        .name
        .split_once('/')
        .map_or(snapshot.name.as_str(), |(_, name)| name);
    let command = changing("lvcreate")?
        .limit(LIMIT)
        .args(["--snapshot", "--yes", "--name", name])
        .args(["--addtag", own::TAG, "--addtag", &own::run_tag(snapshot.run)]);
    let command = if origin.kind == "thin" {
        command.args(["--setactivationskip", "y"])
    } else {
        let size = room::planned(origin, cow_size, expected);
        command.args(["--size", &format!("{size}b"), "--permission", "rw"])
    };
    Ok(command.arg(origin.full_name()))
}

fn no_brink(error: &crate::sys::Error) -> Finding {
    Finding::note(
        "no-brink",
        format!("lvcreate ran under the lock as a whole, because it cannot be held at its decisive call here: {error}"),
    )
}

impl Prepared for PreparedLvm {
    fn fix(&mut self) -> Result<(Instant, Instant)> {
        let begun = Instant::now();
        match std::mem::replace(&mut self.step, Step::Over) {
            Step::Waiting(mut brink) => {
                crate::failpoint!("lvm.at-brink", || Error::failed("snapshot", "the volume", "failpoint"));
                if crate::sys::failpoint::asked("lvm.hold-suspended") {
                    brink.step(SUSPEND_LIMIT)?;
                    crate::failpoint!("lvm.suspended");
                }
                let fixed = brink.go(SUSPEND_LIMIT);
                self.step = Step::Waiting(brink);
                Ok((begun, fixed?))
            }
            Step::Plain(command) => {
                self.ended(command.run())?;
                Ok((begun, Instant::now()))
            }
            Step::Over => Err(Error::failed(
                "snapshot",
                &self.one.volume.source,
                "it was given up already",
            )),
        }
    }

    fn let_end(&mut self) -> Result<()> {
        match std::mem::replace(&mut self.step, Step::Over) {
            Step::Waiting(brink) => self.ended(brink.finish()),
            Step::Plain(_) | Step::Over => Ok(()),
        }
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<Snapshot>> {
        let finished = self.complete();
        if finished.is_err() {
            let _ = own::remove(&self.one);
        }
        finished.map(|snapshot| vec![snapshot])
    }

    fn abandon(mut self: Box<Self>) -> Result<()> {
        // Refusing the call at the brink is not clean for thick snapshots: the command finishes, and what it made is removed.
        match std::mem::replace(&mut self.step, Step::Over) {
            // It may fail; then there is nothing to remove, or `remove` says why not.
            Step::Waiting(brink) => self.give_up(brink).map(drop),
            Step::Plain(_) | Step::Over => own::remove(&self.one).map(drop),
        }
    }

    fn notes(&self) -> Vec<Finding> {
        self.notes.clone()
    }
}

impl PreparedLvm {
    /// Lets the command end, removes what it made, and returns what came of it. One that runs on is left to `cleanup`, for which the run is alive until its end.
    fn give_up(&self, brink: Brink) -> Result<Result<()>> {
        match self.ended(brink.finish()) {
            Err(running @ Error::Sys(crate::sys::Error::StillRunning { .. })) => Err(running),
            ended => {
                own::remove(&self.one)?;
                Ok(ended)
            }
        }
    }

    /// What came of the command. One that was killed may have suspended the origin and not resumed it: nobody else will.
    fn ended(&self, result: crate::sys::Result<Vec<u8>>) -> Result<()> {
        let Err(cause) = result else { return Ok(()) };
        // One that runs on will resume it itself, and must not be disturbed.
        if matches!(cause, crate::sys::Error::StillRunning { .. }) {
            return Err(cause.into());
        }
        if own::wake(self.device, &self.one.volume.id)? {
            return Err(Error::failed(
                "snapshot",
                &self.one.volume.source,
                format!("{cause}; it had left the volume suspended, which was resumed"),
            ));
        }
        Err(cause.into())
    }

    fn complete(&mut self) -> Result<Snapshot> {
        self.let_end()?;
        let made = report::one(&self.one.name)?
            .ok_or_else(|| Error::failed("find the snapshot", &self.one.name, "it is not there after it was made"))?;
        if made.kind == "thin" {
            // Its activation is skipped so that nothing but this run activates it.
            changing("lvchange")?
                .args(["--activate", "y", "--ignoreactivationskip", &self.one.name])
                .run()?;
        }
        // It may be held for long, by a record that is durable.
        flush(&made.vg)?;
        Ok(Snapshot {
            identity: Some(made.uuid),
            ..self.one.clone()
        })
    }
}
