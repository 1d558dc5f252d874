//! The binary log of a clone. The server needs it: transactions that are prepared in InnoDB and complete in the log are committed by it, others rolled back. But it begins
//! a further file, which the live server never had: that one goes again, so that the log ends at the recorded position.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::database::mysql::place::Place;
use crate::{Error, Result, sys};

const MAGIC: &[u8] = b"\xfebin";
/// The flags of the format description: behind the magic, and 17 bytes of its header.
const FLAGS: usize = 4 + 17;
/// LOG_EVENT_BINLOG_IN_USE_F; the event's checksum leaves it out.
const IN_USE: u8 = 1;

/// The log as the snapshot has it.
pub(super) struct Logs {
    index: PathBuf,
    content: Vec<u8>,
    base: PathBuf,
    files: BTreeSet<OsString>,
}

impl Logs {
    /// Looks at it, where the server has one.
    pub fn look(clones: &Place<'_>) -> Result<LogsOrNone> {
        if !clones.facts.log_bin {
            return Ok(LogsOrNone(None));
        }
        let path = |variable: &str| {
            let value = clones.facts.variables.get(variable).filter(|value| !value.is_empty());
            let at = value.and_then(|value| clones.moved(&clones.facts.datadir.join(value)));
            at.ok_or_else(|| {
                Error::failed(format!(
                    "{variable} is not among the clones: the binary log cannot be kept as it is"
                ))
            })
        };
        let (index, base) = (path("log_bin_index")?, path("log_bin_basename")?);
        let content = std::fs::read(&index).map_err(|error| sys::Error::path("read", &index, error))?;
        let files = numbered(&base)?;
        Ok(LogsOrNone(Some(Logs {
            index,
            content,
            base,
            files,
        })))
    }

    fn put_back(&self) -> Result<()> {
        for name in numbered(&self.base)?.difference(&self.files) {
            let path = self.base.with_file_name(name);
            std::fs::remove_file(&path).map_err(|error| sys::Error::path("remove", &path, error))?;
        }
        std::fs::write(&self.index, &self.content).map_err(|error| sys::Error::path("write", &self.index, error))?;
        self.files
            .last()
            .map_or(Ok(()), |last| close(&self.base.with_file_name(last)))
    }
}

/// Says of a log file that it was closed, as it was by the server that went on to the next one: else every start would look for what is not in the tables.
fn close(file: &Path) -> Result<()> {
    let fail = |error| sys::Error::path("close the binary log", file, error);
    let open = std::fs::File::options()
        .read(true)
        .write(true)
        .open(file)
        .map_err(fail)?;
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
fn numbered(base: &Path) -> Result<BTreeSet<OsString>> {
    let directory = base.parent().unwrap_or(base);
    let fail = |error| sys::Error::path("list", directory, error);
    let prefix = format!("{}.", base.file_name().unwrap_or_default().to_string_lossy());
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(directory).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
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
        let files = numbered(&at("bin")).unwrap();
        assert_eq!(files, BTreeSet::from(["bin.000001".into(), "bin.000002".into()]));
        let logs = Logs {
            index: at("bin.index"),
            content: b"as it was".to_vec(),
            base: at("bin"),
            files,
        };
        std::fs::write(at("bin.000003"), "new").unwrap();
        logs.put_back().unwrap();
        assert!(!at("bin.000003").exists());
        assert_eq!(std::fs::read(at("bin.index")).unwrap(), b"as it was");
        assert_eq!(std::fs::read(at("bin.000001")).unwrap(), head);
        head[21] = 0x54;
        assert_eq!(std::fs::read(at("bin.000002")).unwrap(), head);
    }
}
