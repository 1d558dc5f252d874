//! The logs as relay logs: links to them where the private server keeps such, and an index of these.
//!
//! The logs stay in the space, which is root's, and the server may read them. Links and index are in its own directories, and are made and removed with its rights: where
//! these are is the server's word.
//!
//! When a channel is made, MySQL (seen with 9.7.4) puts the relay logs in order: what is behind the last transaction that ends with a commit it takes for
//! half received, cuts it off, and removes the logs behind (note MY-015128, "Relay log sanitization: Removed ..."). A `FLUSH TABLES` has no commit, so a log with nothing
//! else was gone. The server is therefore shown the heads of the logs first, with no transaction, and the logs when the channel is there. It also reads them once less.

use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use super::channel::CHANNEL;
use crate::Result;
use crate::database::mysql::binlog;
use crate::sys::user::{Account, acting};
use crate::sys::{self, Error};

/// What is laid out. The server takes it away with the channel.
pub(super) struct Relay {
    index: PathBuf,
    links: Vec<PathBuf>,
    logs: Vec<PathBuf>,
    user: Option<Account>,
}

/// What the links lead to when the channel is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// The logs.
    Logs,
    /// Copies of their heads, beside the logs.
    Heads,
}

impl Relay {
    /// Lays them out as the server names a channel's files: `basename` and `index` are those of its other relay logs.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn lay(
        basename: &Path,
        index: &Path,
        logs: Vec<PathBuf>,
        shown: Shown,
        user: Option<Account>,
    ) -> Result<Relay> {
        let directory = basename.parent().unwrap_or(basename);
        let stem = basename.file_name().unwrap_or_default().to_string_lossy();
        let mut relay = Relay {
            index: index_of(index),
            links: Vec::new(),
            logs,
            user,
        };
        let shown = match shown {
            Shown::Logs => relay.logs.clone(),
            Shown::Heads => relay.logs.iter().map(|log| head_of(log)).collect::<Result<_>>()?,
        };
        for path in relay.logs.iter().chain(&shown) {
            let_read(path, user)?;
        }
        let mut text = String::new();
        for number in 1..=shown.len() {
            let link = directory.join(format!("{stem}-{CHANNEL}.{number:06}"));
            text.push_str(&format!("{}\n", link.display()));
            relay.links.push(link);
        }
        acting(user, || -> Result<()> {
            for (link, log) in relay.links.iter().zip(&shown) {
                symlink(log, link).map_err(|error| Error::path("make the link", link, error))?;
            }
            Ok(sys::fs::create_durably(&relay.index, text.as_bytes(), 0o600)?)
        })??;
        Ok(relay)
    }

    /// Lets the links lead to the logs. There must be no applier yet.
    ///
    /// # Errors
    /// A link cannot be made, or the server has taken one away.
    pub fn show_logs(&self) -> Result<()> {
        acting(self.user, || -> Result<()> {
            for (link, log) in self.links.iter().zip(&self.logs) {
                let failed = |error| Error::path("make the link", link, error);
                std::fs::remove_file(link).map_err(failed)?;
                symlink(log, link).map_err(failed)?;
            }
            Ok(())
        })?
    }

    /// The first one's name.
    pub fn first(&self) -> String {
        self.name(0)
    }

    /// Which of them has this name; `None`: the server's own.
    pub fn number(&self, name: &str) -> Option<usize> {
        (0..self.links.len()).find(|number| self.name(*number) == name)
    }

    fn name(&self, number: usize) -> String {
        let link = self.links.get(number).and_then(|link| link.file_name());
        link.unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Takes away what the server left.
    ///
    /// # Errors
    /// Something stays.
    pub fn remove(self) -> Result<()> {
        acting(self.user, || -> Result<()> {
            for path in self.links.iter().chain([&self.index]) {
                match std::fs::remove_file(path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(Error::path("remove", path, error).into());
                    }
                    _ => {}
                }
            }
            Ok(())
        })?
    }
}

/// Lets the group of a user, who has no other way to it, read a file of ours in the space.
pub(super) fn let_read(path: &Path, user: Option<Account>) -> Result<()> {
    let Some((_, gid)) = user else { return Ok(()) };
    let fail = |error| Error::path("let the server read", path, error);
    chown(path, None, Some(gid)).map_err(fail)?;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o640)).map_err(fail)?)
}

/// Copies what stands before a log's first transaction, its format description, beside it.
fn head_of(log: &Path) -> Result<PathBuf> {
    let end = binlog::head_end(log)?;
    let name = log.file_name().unwrap_or_default().to_string_lossy();
    let copy = log.with_file_name(format!("{name}.head"));
    let failed = |error| Error::path("copy the head of", log, error);
    let mut head = Vec::new();
    let file = std::fs::File::open(log).map_err(failed)?;
    file.take(end).read_to_end(&mut head).map_err(failed)?;
    std::fs::write(&copy, head).map_err(failed)?;
    Ok(copy)
}

/// A channel's index has the channel's name before its ending.
fn index_of(index: &Path) -> PathBuf {
    let part = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let (stem, ending) = (part(index.file_stem()), part(index.extension()));
    index.with_file_name(format!("{stem}-{CHANNEL}.{ending}"))
}
