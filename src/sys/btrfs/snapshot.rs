//! A read-only snapshot whose content is known to be fixed before its ioctl returns.
//!
//! `BTRFS_IOC_SNAP_CREATE_V2` commits a transaction. The kernel (fs/btrfs/transaction.c, the same order since Linux 3.11) keeps every
//! writer out (`TRANS_STATE_COMMIT_DOING`), copies the root of the origin, from then on writes all that the origin shares elsewhere, enters the copy into the tree
//! of roots, and only then works off delayed references, writes out all metadata and the super blocks. Whoever is kept out joins the next
//! transaction, which the copy does not see. So once the snapshot's entry can be seen in the tree of roots, nothing that is written later can be in it: there is no
//! need to hold a database for the rest of the call (docs/benchmarks.md has what that gives).

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use linux_raw_sys::{btrfs as raw, ioctl as request};

use super::super::ioctl::call;
use super::super::priority;
use super::{children, path_below, put_name, zeroed};

/// How often the tree of roots is looked at; a look takes some 5 µs.
const LOOK_EVERY: Duration = Duration::from_micros(50);

/// A snapshot of which everything is prepared but the one decisive call. A thread of its own waits to make it.
#[derive(Debug)]
pub struct SnapshotCall {
    go: Option<Sender<()>>,
    answer: Receiver<io::Result<()>>,
    thread: Option<JoinHandle<()>>,
    watch: Watch,
}

impl SnapshotCall {
    /// Prepares a read-only snapshot `name` in `directory` of the subvolume whose top `source` is. Quota groups are left
    /// alone: nothing is inherited.
    ///
    /// # Errors
    /// The name does not fit; no thread or descriptor can be had.
    pub fn prepare(source: OwnedFd, directory: OwnedFd, name: &OsStr) -> io::Result<SnapshotCall> {
        let mut arguments = Arguments::new(source, name, u64::from(raw::BTRFS_SUBVOL_RDONLY))?;
        let watch = Watch::new(directory.try_clone()?, name)?;
        let (go, gone) = mpsc::channel();
        let (sender, answer) = mpsc::channel();
        let thread = std::thread::Builder::new().name("snapshot".to_owned()).spawn(move || {
            if gone.recv().is_ok() {
                let _raised = priority::raise();
                let _ = sender.send(arguments.create(&directory));
            }
        })?;
        Ok(SnapshotCall {
            go: Some(go),
            answer,
            thread: Some(thread),
            watch,
        })
    }

    /// The decisive call. When this returns, the snapshot's content is fixed at one instant inside it; whether the snapshot is there to stay tells
    /// [`finish`](SnapshotCall::finish).
    ///
    /// # Errors
    /// There is no snapshot.
    pub fn fix(&mut self) -> io::Result<()> {
        let _ = self.go.take().map(|go| go.send(()));
        loop {
            match self.answer.recv_timeout(LOOK_EVERY) {
                Ok(answer) => return self.ended(answer),
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Err(RecvTimeoutError::Timeout) if self.watch.has_appeared() => return Ok(()),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Waits until the call has returned: the snapshot is on disk.
    ///
    /// # Errors
    /// The filesystem failed after the content was fixed: there is no snapshot.
    pub fn finish(&mut self) -> io::Result<()> {
        self.go = None;
        match self.answer.recv() {
            Ok(answer) => self.ended(answer),
            // Ended before, or never begun.
            Err(mpsc::RecvError) => self.ended(Ok(())),
        }
    }

    /// The directory in which the snapshot is made.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.watch.directory.as_fd()
    }

    fn ended(&mut self, answer: io::Result<()>) -> io::Result<()> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(_)) => Err(io::Error::other("the thread that made the snapshot ended badly")),
            _ => answer,
        }
    }
}

impl Drop for SnapshotCall {
    fn drop(&mut self) {
        let _ = self.finish();
    }
}

/// A writable snapshot `name` in `directory` of the subvolume whose top `source` is; nobody waits for it.
///
/// # Errors
/// There is none then.
pub fn clone_writable(source: OwnedFd, directory: &OwnedFd, name: &OsStr) -> io::Result<()> {
    Arguments::new(source, name, 0)?.create(directory)
}

/// The argument of the ioctl and the descriptor whose number is in it.
struct Arguments {
    raw: Box<raw::btrfs_ioctl_vol_args_v2>,
    // Only held open: `raw` has its number.
    _source: OwnedFd,
}

// SAFETY: the only pointer in the arguments is null and never followed (no quota group is inherited); the rest is owned.
unsafe impl Send for Arguments {}

impl Arguments {
    fn new(source: OwnedFd, name: &OsStr, flags: u64) -> io::Result<Arguments> {
        let mut arguments: Box<raw::btrfs_ioctl_vol_args_v2> = Box::new(zeroed());
        arguments.fd = i64::from(source.as_raw_fd());
        arguments.flags = flags;
        // SAFETY: every member of this union is plain integers; all of it was initialised to zero.
        let space = unsafe { &mut arguments.__bindgen_anon_2.name };
        put_name(space, name)?;
        Ok(Arguments {
            raw: arguments,
            _source: source,
        })
    }

    fn create(&mut self, directory: &OwnedFd) -> io::Result<()> {
        // SAFETY: btrfs_ioctl_vol_args_v2 is the documented structure; its descriptor is open as long as `self`, the name
        // ends with a zero byte, and BTRFS_SUBVOL_QGROUP_INHERIT is not set, so that no pointer in it is looked at.
        unsafe { call::<{ request::BTRFS_IOC_SNAP_CREATE_V2 }, _>(directory.as_fd(), self.raw.as_mut())? };
        Ok(())
    }
}

/// Looks for the entry of one snapshot in the tree of roots.
#[derive(Debug)]
struct Watch {
    directory: OwnedFd,
    /// The directory's inode number, which the entry holds.
    holder: u64,
    name: std::path::PathBuf,
    /// Numbers of subvolumes only grow: what is below was there before.
    least: u64,
}

impl Watch {
    fn new(directory: OwnedFd, name: &OsStr) -> io::Result<Watch> {
        let newest = children(directory.as_fd(), 0)?.into_iter().map(|(id, _)| id).max();
        Ok(Watch {
            holder: rustix::fs::fstat(&directory)?.st_ino,
            directory,
            name: Path::new(name).to_owned(),
            least: newest.map_or(0, |id| id + 1),
        })
    }

    /// False as well when it cannot be found out: then the call's return tells.
    fn has_appeared(&self) -> bool {
        let directory = self.directory.as_fd();
        children(directory, self.least).is_ok_and(|found| {
            found.iter().any(|(id, holder)| {
                *holder == self.holder && path_below(directory, *id, *holder).is_ok_and(|path| path == self.name)
            })
        })
    }
}
