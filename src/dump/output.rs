//! Where a dump goes. A file or a directory appears under its name when it is whole; a stream that is not says so in a way that no server takes.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::sys;
use crate::units::Id;
use crate::{Error, Result};

/// Where to.
pub enum Target<'t> {
    /// A stream: standard output.
    Stream(&'t mut dyn Write),
    /// A new file.
    File(PathBuf),
    /// A new directory with a file for each schema, and `accounts.sql`.
    Directory(PathBuf),
}

/// A target that is written.
pub(super) struct Output<'t> {
    to: To<'t>,
    header: String,
    bytes: u64,
    finished: bool,
}

enum To<'t> {
    Stream(&'t mut dyn Write),
    File {
        path: PathBuf,
        file: BufWriter<File>,
    },
    Directory {
        path: PathBuf,
        file: Option<(PathBuf, BufWriter<File>)>,
        made: bool,
    },
}

impl<'t> Output<'t> {
    /// Refuses what is there already; makes `PATH.partial`.
    pub fn open(target: Target<'t>) -> Result<Output<'t>> {
        let to = match target {
            Target::Stream(stream) => To::Stream(stream),
            Target::File(path) => {
                refuse_existing(&path)?;
                let file = create(&partial(&path))?;
                To::File { path, file }
            }
            Target::Directory(path) => {
                refuse_existing(&path)?;
                let partial = partial(&path);
                std::fs::DirBuilder::new()
                    .mode(0o700)
                    .create(&partial)
                    .map_err(|error| sys::Error::path("make the directory", &partial, error))?;
                To::Directory {
                    path,
                    file: None,
                    made: true,
                }
            }
        };
        Ok(Output {
            to,
            header: String::new(),
            bytes: 0,
            finished: false,
        })
    }

    /// The lines that come first, in every file.
    pub fn header(&mut self, text: &str) -> Result<()> {
        self.header = text.to_owned();
        match self.to {
            To::Directory { .. } => Ok(()),
            _ => self.write(text.as_bytes()),
        }
    }

    /// A schema begins.
    pub fn begin(&mut self, schema: &str) -> Result<()> {
        self.next(&file_name(schema))
    }

    /// The accounts begin. Beside files that `myloader` reads the name does not end as its own do.
    pub fn begin_accounts(&mut self, for_myloader: bool) -> Result<()> {
        // No schema's file has such a name: its `%` would be written otherwise.
        self.next(if for_myloader { "%accounts" } else { "%accounts.sql" })
    }

    /// Where another program may write what belongs to the dump.
    pub fn directory(&self) -> Result<PathBuf> {
        match &self.to {
            To::Directory { path, .. } => Ok(partial(path)),
            _ => Err(Error::usage(
                "this dump program writes into a directory only: say --output-dir DIR",
            )),
        }
    }

    /// So many bytes came by other hands; where the backup comes from is written beside them.
    pub fn written_by_another(&mut self, bytes: u64) -> Result<()> {
        self.bytes += bytes;
        self.next("%backup")
    }

    fn next(&mut self, name: &str) -> Result<()> {
        let To::Directory { path, file, .. } = &mut self.to else {
            return Ok(());
        };
        let at = partial(path).join(name);
        if let Some((path, done)) = file.take() {
            durable(done, &path)?;
        }
        *file = Some((at.clone(), create(&at)?));
        let header = self.header.clone();
        self.write(header.as_bytes())
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let (written, path) = match &mut self.to {
            To::Stream(stream) => (stream.write_all(bytes), Path::new("standard output")),
            To::File { path, file } => (file.write_all(bytes), path.as_path()),
            To::Directory {
                file: Some((path, file)),
                ..
            } => (file.write_all(bytes), path.as_path()),
            To::Directory { file: None, .. } => (Ok(()), Path::new("")),
        };
        written.map_err(|error| sys::Error::path("write the dump to", path, error))?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// It is whole: its bytes, and where it is.
    pub fn finish(&mut self, id: Id) -> Result<(u64, Option<PathBuf>)> {
        let last = format!("-- snapback: the dump of backup {} is complete\n", id.short());
        if !matches!(self.to, To::Directory { .. }) {
            self.write(last.as_bytes())?;
        }
        let path = match &mut self.to {
            To::Stream(stream) => {
                stream
                    .flush()
                    .map_err(|error| sys::Error::path("write the dump to", "standard output", error))?;
                None
            }
            To::File { path, file } => {
                let partial = partial(path);
                flush(file, &partial)?;
                appear(&partial, path)?;
                Some(path.clone())
            }
            To::Directory { path, file, .. } => {
                if let Some((path, done)) = file.take() {
                    durable(done, &path)?;
                }
                let partial = partial(path);
                sync_directory(&partial)?;
                appear(&partial, path)?;
                Some(path.clone())
            }
        };
        self.finished = true;
        Ok((self.bytes, path))
    }

    /// It is not whole: what was made goes, and a stream ends with what is no SQL.
    pub fn abandon(&mut self, why: &Error) {
        if self.finished {
            return;
        }
        self.finished = true;
        match &mut self.to {
            To::Stream(stream) => {
                let why = why.to_string().replace(['\n', '\r'], " ");
                // Also behind a string that was cut.
                let _ = write!(stream, "\n-- snapback: {why}\nTHIS DUMP IS INCOMPLETE;\n");
                let _ = stream.flush();
            }
            To::File { path, .. } => drop(std::fs::remove_file(partial(path))),
            To::Directory { path, made, .. } if *made => drop(std::fs::remove_dir_all(partial(path))),
            To::Directory { .. } => {}
        }
    }
}

impl Drop for Output<'_> {
    fn drop(&mut self) {
        self.abandon(&Error::failed("the dump was broken off"));
    }
}

fn refuse_existing(path: &Path) -> Result<()> {
    for path in [path, &partial(path)] {
        if std::fs::symlink_metadata(path).is_ok() {
            return Err(Error::usage(format!(
                "{} is there already: nothing is overwritten",
                path.display()
            )));
        }
    }
    Ok(())
}

fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

/// For its owner alone: a dump holds data.
fn create(path: &Path) -> Result<BufWriter<File>> {
    let file = File::options().write(true).create_new(true).mode(0o600).open(path);
    let file = file.map_err(|error| sys::Error::path("make", path, error))?;
    Ok(BufWriter::with_capacity(1 << 20, file))
}

fn durable(mut file: BufWriter<File>, path: &Path) -> Result<()> {
    flush(&mut file, path)
}

fn flush(file: &mut BufWriter<File>, path: &Path) -> Result<()> {
    let flushed = file.flush().and_then(|()| file.get_ref().sync_all());
    Ok(flushed.map_err(|error| sys::Error::path("write", path, error))?)
}

fn sync_directory(path: &Path) -> Result<()> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    Ok(synced.map_err(|error| sys::Error::path("sync", path, error))?)
}

/// Never over something that came meanwhile.
fn appear(partial: &Path, path: &Path) -> Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, partial, CWD, path, RenameFlags::NOREPLACE)
        .map_err(|error| sys::Error::path("give its name to", path, error))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    sync_directory(parent.unwrap_or(Path::new(".")))
}

/// A schema's file. What a file name cannot hold, or would mean something, is written as `%` and two digits.
fn file_name(schema: &str) -> String {
    let mut name = String::new();
    for (number, byte) in schema.bytes().enumerate() {
        let plain =
            byte.is_ascii_alphanumeric() || b"_-$ ".contains(&byte) || (byte == b'.' && number > 0) || byte >= 0x80;
        match plain {
            // Bytes of one character stay together.
            true if byte < 0x80 => name.push(char::from(byte)),
            _ => name.push_str(&format!("%{byte:02x}")),
        }
    }
    name + ".sql"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_when_it_is_whole_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dump.sql");
        let there = || std::fs::read_dir(dir.path()).unwrap().count();
        let mut output = Output::open(Target::File(path.clone())).unwrap();
        output.write(b"SELECT").unwrap();
        assert!(!path.exists());
        drop(output);
        assert_eq!(there(), 0, "a partial file is left");
        let mut output = Output::open(Target::File(path.clone())).unwrap();
        output.write(b"SELECT 1;\n").unwrap();
        output.finish(Id::random()).unwrap();
        drop(output);
        assert_eq!(there(), 1);
        assert!(std::fs::read_to_string(&path).unwrap().contains("is complete"));
        assert!(Output::open(Target::File(path)).is_err(), "it would be overwritten");
    }

    #[test]
    fn a_directory_has_a_file_for_each_schema() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dump");
        let mut output = Output::open(Target::Directory(path.clone())).unwrap();
        output.header("-- head\n").unwrap();
        for schema in ["shop", "a/b"] {
            output.begin(schema).unwrap();
            output.write(schema.as_bytes()).unwrap();
        }
        output.begin_accounts(false).unwrap();
        assert!(!path.exists());
        output.finish(Id::random()).unwrap();
        drop(output);
        let text = |name: &str| std::fs::read_to_string(path.join(name)).unwrap();
        assert_eq!(text("shop.sql"), "-- head\nshop");
        assert_eq!(text("a%2fb.sql"), "-- head\na/b");
        assert_eq!(text("%accounts.sql"), "-- head\n");
    }

    #[test]
    fn a_cut_stream_says_so() {
        let mut stream = Vec::new();
        let mut output = Output::open(Target::Stream(&mut stream)).unwrap();
        output.write(b"INSERT INTO t VALUES ('a").unwrap();
        output.abandon(&Error::failed("no room"));
        drop(output);
        let text = String::from_utf8(stream).unwrap();
        assert!(
            text.ends_with("THIS DUMP IS INCOMPLETE;\n") && text.contains("no room"),
            "{text}"
        );
    }
}
