//! The logs as relay logs: links to them where the private server keeps such, and an index of these.

use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};

use super::channel::CHANNEL;
use crate::Result;
use crate::sys::{self, Error};

/// What is laid out. The server takes it away with the channel.
pub(super) struct Relay {
    index: PathBuf,
    links: Vec<PathBuf>,
}

impl Relay {
    /// Lays them out as the server names a channel's files: `basename` and `index` are those of its other relay logs.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn lay(basename: &Path, index: &Path, logs: &[PathBuf], owner: Option<(u32, u32)>) -> Result<Relay> {
        let directory = basename.parent().unwrap_or(basename);
        let stem = basename.file_name().unwrap_or_default().to_string_lossy();
        let mut relay = Relay {
            index: index_of(index),
            links: Vec::new(),
        };
        let mut text = String::new();
        for (number, log) in (1..).zip(logs) {
            let link = directory.join(format!("{stem}-{CHANNEL}.{number:06}"));
            symlink(log, &link).map_err(|error| Error::path("make the link", &link, error))?;
            text.push_str(&format!("{}\n", link.display()));
            relay.links.push(link);
        }
        sys::fs::create_durably(&relay.index, text.as_bytes(), 0o600)?;
        if let Some((uid, gid)) = owner {
            for path in logs.iter().chain([&relay.index]) {
                chown(path, Some(uid), Some(gid)).map_err(|error| Error::path("give away", path, error))?;
            }
        }
        Ok(relay)
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
        for path in self.links.iter().chain([&self.index]) {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::path("remove", path, error).into());
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// A channel's index has the channel's name before its ending.
fn index_of(index: &Path) -> PathBuf {
    let part = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let (stem, ending) = (part(index.file_stem()), part(index.extension()));
    index.with_file_name(format!("{stem}-{CHANNEL}.{ending}"))
}
