//! The binary log of a clone. The server needs it: transactions that are prepared in InnoDB and complete in the log are committed by it, others rolled back. But it begins
//! a further file, which the live server never had: that one goes again, so that the log ends at the recorded position.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::database::mysql::place::Place;
use crate::sys::fs::Beneath;
use crate::sys::user::{Account, acting};
use crate::{Error, Result, sys};

/// The most that an index of logs may have, in bytes: some 100,000 names.
const LONGEST_INDEX: u64 = 16 << 20;

const MAGIC: &[u8] = b"\xfebin";
/// The flags of the format description: behind the magic, and 17 bytes of its header.
const FLAGS: usize = 4 + 17;
/// LOG_EVENT_BINLOG_IN_USE_F; the event's checksum leaves it out.
const IN_USE: u8 = 1;

/// The log as the snapshot has it. The clones are the server's user's: what is done there is done below held directories, and with that user's rights.
pub(super) struct Logs {
    index: Kept,
    content: Vec<u8>,
    base: Kept,
    files: BTreeSet<OsString>,
    user: Option<Account>,
}

/// A file of a clone.
struct Kept {
    tree: Beneath,
    relative: PathBuf,
}

impl Logs {
    /// Looks at it, where the server has one. `user` is whom the private server runs as.
    pub fn look(clones: &Place<'_>, user: Option<Account>) -> Result<LogsOrNone> {
        if !clones.facts.log_bin {
            return Ok(LogsOrNone(None));
        }
        let kept = |variable: &str| -> Result<Kept> {
            let value = clones.facts.variables.get(variable).filter(|value| !value.is_empty());
            let at = value.and_then(|value| clones.moved(&clones.facts.datadir.join(value)));
            let at = at.ok_or_else(|| {
                Error::failed(format!(
                    "{variable} is not among the clones: the binary log cannot be kept as it is"
                ))
            })?;
            Kept::of(clones, &at)
        };
        let (index, base) = (kept("log_bin_index")?, kept("log_bin_basename")?);
        let (content, files) = acting(user, || -> Result<_> {
            Ok((index.tree.read_plain(&index.relative, LONGEST_INDEX)?, numbered(&base)?))
        })??;
        Ok(LogsOrNone(Some(Logs {
            index,
            content,
            base,
            files,
            user,
        })))
    }

    fn put_back(&self) -> Result<()> {
        acting(self.user, || -> Result<()> {
            for name in numbered(&self.base)?.difference(&self.files) {
                self.base.tree.remove_file(&self.base.relative.with_file_name(name))?;
            }
            self.write_index()?;
            self.files.last().map_or(Ok(()), |last| close(&self.base, last))
        })?
    }

    fn write_index(&self) -> Result<()> {
        let Kept { tree, relative } = &self.index;
        // Never into what the server may have put there in its place, a pipe for one.
        let file = tree.open_plain_to_write(relative)?;
        let written = file.set_len(0).and_then(|()| file.write_all_at(&self.content, 0));
        Ok(written.map_err(|error| sys::Error::path("write", relative, error))?)
    }
}

impl Kept {
    fn of(clones: &Place<'_>, at: &Path) -> Result<Kept> {
        let trees = clones.trees.iter().map(|(_, copy)| copy.as_path());
        let tree = trees.filter(|copy| at.starts_with(copy) && copy.is_dir());
        let tree = tree.max_by_key(|copy| copy.as_os_str().len());
        // A tree may be one file.
        let tree = tree.or_else(|| at.parent()).unwrap_or(at);
        Ok(Kept {
            tree: Beneath::open(tree)?,
            relative: at.strip_prefix(tree).unwrap_or(at).to_owned(),
        })
    }
}

/// Says of a log file that it was closed, as it was by the server that went on to the next one: else every start would look for what is not in the tables.
fn close(base: &Kept, name: &OsStr) -> Result<()> {
    let path = base.relative.with_file_name(name);
    let fail = |error| sys::Error::path("close the binary log", &path, error);
    let open = base.tree.open_plain_to_write(&path)?;
    let mut head = [0; FLAGS + 1];
    open.read_exact_at(&mut head, 0).map_err(fail)?;
    // What is encrypted as a whole does not begin so, and is left alone.
    if head.starts_with(MAGIC) && head[FLAGS] & IN_USE != 0 {
        open.write_all_at(&[head[FLAGS] & !IN_USE], FLAGS as u64)
            .map_err(fail)?;
    }
    Ok(())
}

/// `None` without a binary log.
pub(super) struct LogsOrNone(Option<Logs>);

impl LogsOrNone {
    /// Removes what the private server began.
    pub fn put_back(&self) -> Result<()> {
        self.0.as_ref().map_or(Ok(()), Logs::put_back)
    }
}

/// `BASE.000001` and so on.
fn numbered(base: &Kept) -> Result<BTreeSet<OsString>> {
    let directory = base.relative.parent().unwrap_or(Path::new(""));
    let prefix = format!("{}.", base.relative.file_name().unwrap_or_default().to_string_lossy());
    let mut names = BTreeSet::new();
    for (name, _) in base.tree.entries(directory)? {
        let number = name.to_str().and_then(|name| name.strip_prefix(&prefix));
        if number.is_some_and(|number| !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit())) {
            names.insert(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbered_files_belong_to_the_log_and_the_last_is_closed_by_one_bit() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let mut head = MAGIC.to_vec();
        head.resize(100, 0x55);
        for name in ["bin.000001", "bin.000002", "bin.index", "bin.state", "bin.000002.old"] {
            std::fs::write(at(name), &head).unwrap();
        }
        let kept = |name: &str| Kept {
            tree: Beneath::open(dir.path()).unwrap(),
            relative: name.into(),
        };
        let files = numbered(&kept("bin")).unwrap();
        assert_eq!(files, BTreeSet::from(["bin.000001".into(), "bin.000002".into()]));
        let logs = Logs {
            index: kept("bin.index"),
            content: b"as it was".to_vec(),
            base: kept("bin"),
            files,
            user: None,
        };
        std::fs::write(at("bin.000003"), "new").unwrap();
        logs.put_back().unwrap();
        assert!(!at("bin.000003").exists());
        assert_eq!(std::fs::read(at("bin.index")).unwrap(), b"as it was");
        assert_eq!(std::fs::read(at("bin.000001")).unwrap(), head);
        head[21] = 0x54;
        assert_eq!(std::fs::read(at("bin.000002")).unwrap(), head);
    }
    #[test]
    fn what_the_servers_user_puts_in_the_place_of_the_index_is_not_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let (clone, victim) = (dir.path().join("clone"), dir.path().join("victim"));
        std::fs::create_dir(&clone).unwrap();
        std::fs::write(&victim, "root's words").unwrap();
        let kept = |name: &str| Kept {
            tree: Beneath::open(&clone).unwrap(),
            relative: name.into(),
        };
        let logs = Logs {
            index: kept("bin.index"),
            content: b"x".to_vec(),
            base: kept("bin"),
            files: BTreeSet::new(),
            user: None,
        };
        std::os::unix::fs::symlink(&victim, clone.join("bin.index")).unwrap();
        assert!(logs.put_back().is_err());
        assert_eq!(std::fs::read(&victim).unwrap(), b"root's words");
        // Nor is a pipe waited for.
        std::fs::remove_file(clone.join("bin.index")).unwrap();
        let pipe = crate::sys::fs::Special::Fifo;
        let made = Beneath::open(&clone)
            .unwrap()
            .make_special(pipe, Path::new("bin.index"), 0o600);
        made.unwrap();
        assert!(logs.put_back().is_err());
    }
}
