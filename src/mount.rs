//! Backups as read-only trees: `DIR/<host>/<time>-<id>/<original path>`, and `DIR/<host>/latest`
//! (`latest-JOB` for each where the host has several jobs). Every byte that is read is verified.
//!
//! Memory is bounded whatever the repository holds: inode numbers are places in file tables, so there is no map of inodes; a few file tables
//! stay open ([`crate::repository::Lookup`]), and a few sections and chunks.

mod catalogue;
mod content;
mod filesystem;
mod node;
mod recent;
mod tree;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fuser::{Config, MountOption, Session, SessionACL};
use serde::Serialize;

use crate::monitor::Monitor;
use crate::repository::Repository;
use crate::sys;
use crate::sys::mount::Unmounted;
use crate::sys::signal::Cancel;
use crate::{Error, Result};

use catalogue::Catalogue;
use filesystem::BackupFs;
use tree::Trees;

/// Threads that answer the kernel.
const THREADS: usize = 4;
/// How often signals and messages are looked for.
const TICK: Duration = Duration::from_millis(20);
/// Messages that wait to be shown; more of them are only counted.
const MESSAGES: usize = 64;

/// What is mounted, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// An empty directory.
    pub at: PathBuf,
    /// Only backups of this host.
    pub host: Option<String>,
    /// Other users may look as well, as far as the files' own modes and ACLs let them.
    pub allow_other: bool,
}

/// What a mount showed.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Where it was.
    pub at: PathBuf,
    /// Backups that were shown.
    pub backups: u64,
    /// Reads that failed because something stored is damaged or missing.
    pub failed_reads: u64,
    /// How long it was mounted.
    pub seconds: f64,
    /// Somebody still had files open when it ended.
    pub detached: bool,
}

/// Mounts, and returns when a signal asks to end, or when somebody else has unmounted.
///
/// # Errors
/// It cannot be mounted, or not be unmounted.
pub fn mount(repository: &Repository, request: &Request, monitor: &dyn Monitor, cancel: &Cancel) -> Result<Report> {
    let at = mount_point(&request.at)?;
    let (sender, messages) = crossbeam_channel::bounded(MESSAGES);
    let failed = Arc::new(AtomicU64::new(0));
    let catalogue = Catalogue::open(repository, request.host.clone(), sender.clone())?;
    let shown = catalogue.len();
    for (id, reason) in crate::forget::unfit(repository)? {
        monitor.message(&format!("backup {} is not good: {reason}", id.short()));
    }
    let files = BackupFs::new(
        Trees::new(repository.clone(), catalogue, cancel.clone()),
        request.allow_other,
        sender,
        Arc::clone(&failed),
    );
    let cannot = |error: std::io::Error| Error::failed(format!("cannot mount at {}: {error}", at.display()));
    let session = Session::new(files, &at, &options(request)).map_err(cannot)?;
    let begun = Instant::now();
    let background = session.spawn().map_err(cannot)?;
    monitor.message(&format!(
        "{shown} {} at {}: Ctrl-C or `umount` ends it",
        if shown == 1 { "backup is" } else { "backups are" },
        at.display()
    ));
    while !background.guard.is_finished() && cancel.sleep(TICK).is_ok() {
        messages.try_iter().for_each(|text: String| monitor.message(&text));
    }
    let detached = end(background, &at)?;
    messages.try_iter().for_each(|text: String| monitor.message(&text));
    if detached {
        monitor.message("something still uses the mount: it is detached, and what is open there fails from now on");
    }
    Ok(Report {
        at,
        backups: shown,
        failed_reads: failed.load(Ordering::Relaxed),
        seconds: begun.elapsed().as_secs_f64(),
        detached,
    })
}

/// Unmounts, unless somebody has done so; returns whether somebody still used it.
fn end(background: fuser::BackgroundSession, at: &Path) -> Result<bool> {
    if background.guard.is_finished() {
        // The kernel closes the connection just after its last request; before that a second unmount would be tried, in vain.
        std::thread::sleep(TICK);
        let joined = background.join();
        return joined
            .map(|()| false)
            .map_err(|error| Error::failed(format!("the mount failed: {error}")));
    }
    match background.umount_and_join() {
        Ok(()) => Ok(false),
        // In use: some more patience, then out of sight.
        Err(_) => Ok(sys::mount::unmount_or_detach(at)? == Unmounted::Detached),
    }
}

fn options(request: &Request) -> Config {
    let mut config = Config::default();
    // The kernel checks modes: with `allow_other` everybody's files would be everybody's otherwise.
    config.mount_options = vec![
        MountOption::FSName("snapback".to_owned()),
        MountOption::Subtype("snapback".to_owned()),
        MountOption::DefaultPermissions,
        MountOption::RO,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoAtime,
    ];
    config.acl = if request.allow_other {
        SessionACL::All
    } else {
        SessionACL::Owner
    };
    config.n_threads = Some(THREADS);
    config
}

/// The directory, absolute; empty, so that nothing is hidden by the mount.
fn mount_point(at: &Path) -> Result<PathBuf> {
    if !Path::new("/dev/fuse").exists() {
        return Err(Error::failed(
            "cannot mount: there is no /dev/fuse on this host: load the kernel's module (`modprobe fuse`), or give the container the device; \
             `snapback restore --include` needs neither",
        ));
    }
    let fail = |error: std::io::Error| {
        let why = match error.raw_os_error() {
            Some(libc::ENOTCONN) => "a mount whose snapback was killed is still there: `umount` it first".to_owned(),
            _ => error.to_string(),
        };
        Error::usage(format!("cannot mount at {}: {why}", at.display()))
    };
    let mut inside = std::fs::read_dir(at).map_err(fail)?;
    if inside.next().is_some() {
        return Err(Error::usage(format!(
            "cannot mount at {}: the directory is not empty, and a mount would hide what is in it",
            at.display()
        )));
    }
    // It is mounted, and unmounted, by its path.
    sys::trust::require(at)?;
    std::fs::canonicalize(at).map_err(fail)
}
