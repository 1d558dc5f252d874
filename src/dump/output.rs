//! Where a dump goes. A file or a directory appears under its name when it is whole; a stream that is not says so in a way that no server takes.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::sys;
use crate::sys::fs::{Beneath, sync_file};
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
        place: Place,
        file: Part,
    },
    Directory {
        place: Place,
        directory: Beneath,
        file: Option<Part>,
    },
}

/// A file of the dump that is being written, and its path for messages.
struct Part {
    path: PathBuf,
    file: BufWriter<File>,
}

/// A name in a directory that is held: somebody else may own it, and exchange what is in it.
struct Place {
    holder: Beneath,
    /// As the person named it.
    path: PathBuf,
    name: OsString,
    partial: OsString,
}

impl<'t> Output<'t> {
    /// Refuses what is there already; makes `PATH.partial`.
    pub fn open(target: Target<'t>) -> Result<Output<'t>> {
        let to = match target {
            Target::Stream(stream) => To::Stream(stream),
            Target::File(path) => {
                let place = Place::open(path)?;
                let file = create(&place.holder, &place.partial)?;
                To::File { place, file }
            }
            Target::Directory(path) => {
                let place = Place::open(path)?;
                let directory = place.holder.make_ours(&place.partial)?;
                To::Directory {
                    place,
                    directory,
                    file: None,
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

    /// Further lines of the same kind.
    pub fn add_to_header(&mut self, text: &str) -> Result<()> {
        self.header.push_str(text);
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
    pub fn directory(&self) -> Result<&Beneath> {
        match &self.to {
            To::Directory { directory, .. } => Ok(directory),
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
        let To::Directory { directory, file, .. } = &mut self.to else {
            return Ok(());
        };
        if let Some(mut done) = file.take() {
            done.flush()?;
        }
        *file = Some(create(directory, OsStr::new(name))?);
        let header = self.header.clone();
        self.write(header.as_bytes())
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let (written, path) = match &mut self.to {
            To::Stream(stream) => (stream.write_all(bytes), Path::new("standard output")),
            To::File { place, file } => (file.file.write_all(bytes), place.path.as_path()),
            To::Directory { file: Some(part), .. } => (part.file.write_all(bytes), part.path.as_path()),
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
            To::File { place, file } => {
                file.flush()?;
                place.appear(file.identity()?)?;
                Some(place.path.clone())
            }
            To::Directory { place, directory, file } => {
                if let Some(mut done) = file.take() {
                    done.flush()?;
                }
                directory.sync_names()?;
                place.appear(directory.itself()?.identity)?;
                Some(place.path.clone())
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
            To::File { place, file } => {
                if file.identity().is_ok_and(|file| place.has(&place.partial, file)) {
                    let _ = place.holder.remove_file(Path::new(&place.partial));
                }
            }
            To::Directory { place, directory, .. } => drop(place.holder.remove_held(&place.partial, directory)),
        }
    }
}

impl Drop for Output<'_> {
    fn drop(&mut self) {
        self.abandon(&Error::failed("the dump was broken off"));
    }
}

impl Part {
    fn identity(&self) -> Result<(u64, u64)> {
        let found = self.file.get_ref().metadata();
        let found = found.map_err(|error| sys::Error::path("look at", &self.path, error))?;
        Ok((found.dev(), found.ino()))
    }

    /// Makes it durable.
    fn flush(&mut self) -> Result<()> {
        let flushed = self.file.flush();
        flushed.map_err(|error| sys::Error::path("write", &self.path, error))?;
        Ok(sync_file(self.file.get_ref(), &self.path)?)
    }
}

impl Place {
    /// Holds the directory; refuses what is there already.
    fn open(path: PathBuf) -> Result<Place> {
        let (holder, name) = Beneath::open_holder(&path, false)?;
        let mut partial = name.to_owned();
        partial.push(".partial");
        let place = Place {
            holder,
            name: name.to_owned(),
            partial,
            path,
        };
        for name in [&place.name, &place.partial] {
            if place.holder.exists(Path::new(name))? {
                return Err(Error::usage(format!(
                    "{} is there already: nothing is overwritten",
                    place.path.with_file_name(name).display()
                )));
            }
        }
        Ok(place)
    }

    /// What was made gets its name; never over something that came meanwhile, and it is seen to be what was made.
    fn appear(&self, made: (u64, u64)) -> Result<()> {
        crate::failpoint!("dump.appear");
        self.holder.rename(Path::new(&self.partial), Path::new(&self.name))?;
        crate::failpoint!("dump.appeared");
        if !self.has(&self.name, made) {
            return Err(Error::failed(format!(
                "what is at {} is not the dump: somebody else exchanged it meanwhile; choose a place where only root can write",
                self.path.display()
            )));
        }
        Ok(self.holder.sync_names()?)
    }

    fn has(&self, name: &OsStr, made: (u64, u64)) -> bool {
        let found = self.holder.look(Path::new(name));
        found.is_ok_and(|found| found.is_some_and(|found| found.identity == made))
    }
}

/// For its owner alone: a dump holds data.
fn create(directory: &Beneath, name: &OsStr) -> Result<Part> {
    let file = directory.create_file(Path::new(name), 0o600)?;
    Ok(Part {
        path: directory.path().join(name),
        file: BufWriter::with_capacity(1 << 20, file),
    })
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
