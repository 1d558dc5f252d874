//! Whether a server runs on a directory.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::{Error, Result, sys};

/// How long a killed server may take to be gone.
const DYING: Duration = Duration::from_secs(10);

/// Files that a running server holds a lock on (fcntl(2)): InnoDB's system tablespace, Aria's control file.
const LOCKED: [&str; 2] = ["ibdata1", "aria_log_control"];

/// What servers call themselves.
const SERVERS: [&str; 3] = ["mariadbd", "mysqld", "mysqld_safe"];

/// Whether a process of this name (comm) is a server.
pub(super) fn is_server(name: &str) -> bool {
    SERVERS.contains(&name)
}

/// The process that has locked a server's files in this directory, and which of them: a server, whatever it calls itself.
pub(super) fn lock_holder(directory: &Path) -> Option<(i32, &'static str)> {
    LOCKED
        .iter()
        .find_map(|name| Some((sys::fs::locked_by(&directory.join(name))?, *name)))
}

/// How a server was seen to run on this directory; `None` when none was seen.
pub(super) fn server_on(directory: &Path) -> Option<String> {
    let directory = directory.canonicalize().ok()?;
    if let Some((process, name)) = lock_holder(&directory) {
        return Some(format!("process {process} holds {name}"));
    }
    // A server changes to its data directory when it starts.
    let process = sys::host::process_in(&directory, &SERVERS)?;
    Some(format!("process {} runs in it", process))
}

/// Waits for the end of a server that was killed: it holds its files until its last thread has ended.
///
/// # Errors
/// One still runs.
pub(super) fn wait_for_end(datadir: &Path) -> Result<()> {
    let until = Instant::now() + DYING;
    while let Some(how) = server_on(datadir) {
        if Instant::now() > until {
            return Err(Error::failed(format!(
                "a server still runs on {} ({how})",
                datadir.display()
            )));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
