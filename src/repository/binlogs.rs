//! Segments of binary logs: write-once objects, `binlogs/<host>/<server>/<created>[.<head>]-<file>/<from>-<to>[c]`. A server's log file is the bytes of its
//! segments, one after the other. docs/repository-format.md has the object to the byte.

use serde::{Deserialize, Serialize};

use super::keys::{BINLOGS, is_valid_host};
use super::manifest::FORMAT;
use super::{Error, Repository, Result, sealed};
use crate::units::Id;

const MAGIC: &[u8; 8] = b"SNPBBL01";
const DIGEST: usize = 32;
/// No segment of ours is larger, in bytes; one event may be a GiB.
const LARGEST: u64 = 2 << 30;
/// No header of ours is longer, in bytes.
const HEAD: u64 = 8 << 10;
/// zstd's level: the archive must not slow the host down.
const LEVEL: i32 = 1;

/// Which bytes of which log a segment has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Segment {
    /// The host, as backups name it.
    pub host: String,
    /// MySQL's `server_uuid`, or `id-<server_id>`.
    pub server: String,
    /// When the server began the file, in seconds since 1970 by its clock: after RESET a name is used again.
    pub created: u32,
    /// What the file begins with, as a digest: a name and a second may be used again. Archives of before 0.2 have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<String>,
    /// The file's name.
    pub file: String,
    /// The first byte's offset.
    pub from: u64,
    /// The end's.
    pub to: u64,
    /// The server went on to its next file at the end of this segment.
    pub closed: bool,
}

/// How a log was found to stand to the one that the archive had before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Join {
    /// The server went on from there to this log: nothing lies between.
    Follows,
    /// Something lies between that is not archived.
    Gap,
    /// The server began its logs anew, and its history with them.
    Reset,
}

/// Where the archive was when a log was begun in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The other log, as its segments name it.
    pub created: u32,
    /// The same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<String>,
    /// The same.
    pub file: String,
    /// The offset in it behind which this log comes. What the archive has behind that is another line of history.
    pub end: u64,
    /// How.
    pub join: Join,
}

/// What a segment's header says of its log besides; segments of before 0.2 say nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentNote {
    /// The trace of the log up to the segment's end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// In the first segment of a log: what it comes behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<Link>,
    /// The latest time of an event in it, in seconds since 1970 by the server's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest: Option<u32>,
    /// The earliest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earliest: Option<u32>,
    /// What the server was like then. The repository does not look into it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<serde_json::Value>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    format: u32,
    repository: Id,
    time: jiff::Timestamp,
    #[serde(flatten)]
    segment: Segment,
    #[serde(default)]
    note: SegmentNote,
}

impl Segment {
    /// The object that it is.
    ///
    /// # Errors
    /// A name in it cannot be part of a key.
    pub fn key(&self) -> Result<String> {
        let plain = |text: &str| is_valid_host(text);
        let head = self.head.as_deref().unwrap_or("0");
        if head.is_empty() || !head.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err(Error::Unusable(format!("`{head}` is no head of a binary log")));
        }
        if !plain(&self.file) || !plain(&self.server) {
            return Err(Error::Unusable(format!(
                "the binary log `{}` of server `{}` has a name that a repository cannot hold: letters, digits, `.`, `_`, `-`",
                self.file, self.server
            )));
        }
        let closed = if self.closed { "c" } else { "" };
        let head = self.head.as_ref().map(|head| format!(".{head}")).unwrap_or_default();
        Ok(format!(
            "{BINLOGS}{}/{}/{:010}{head}-{}/{:016}-{:016}{closed}",
            self.host, self.server, self.created, self.file, self.from, self.to
        ))
    }

    fn of_key(key: &str) -> Option<Segment> {
        let mut parts = key.strip_prefix(BINLOGS)?.split('/');
        let (host, server, file, range) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let (created, file) = file.split_once('-')?;
        let (created, head) = match created.split_once('.') {
            Some((created, head)) => (created, Some(head.to_owned())),
            None => (created, None),
        };
        let (range, closed) = range.strip_suffix('c').map_or((range, false), |range| (range, true));
        let (from, to) = range.split_once('-')?;
        let segment = Segment {
            host: host.to_owned(),
            server: server.to_owned(),
            created: created.parse().ok()?,
            head,
            file: file.to_owned(),
            from: from.parse().ok()?,
            to: to.parse().ok()?,
            closed,
        };
        // Nothing of ours ends before it begins, or is larger than what can be read.
        let fits = segment
            .to
            .checked_sub(segment.from)
            .is_some_and(|bytes| bytes <= LARGEST);
        (fits && segment.key().ok()? == key).then_some(segment)
    }
}

impl Repository {
    /// Stores a segment; durable after [`Store::sync`](crate::store::Store::sync). One that is there already stays as it is.
    ///
    /// # Errors
    /// The store cannot be written, or the log's name cannot be a key.
    pub fn put_binlog(&self, segment: &Segment, note: &SegmentNote, bytes: &[u8]) -> Result<u64> {
        let header = Header {
            format: FORMAT,
            repository: self.id,
            time: jiff::Timestamp::now(),
            segment: segment.clone(),
            note: note.clone(),
        };
        let unusable = |what: &str, error: String| Error::Unusable(format!("cannot {what}: {error}"));
        let json = serde_json::to_vec(&header).map_err(|error| unusable("write JSON", error.to_string()))?;
        let mut object = MAGIC.to_vec();
        object.extend((json.len() as u32).to_le_bytes());
        object.extend(&json);
        let packed = zstd::bulk::compress(bytes, LEVEL).map_err(|error| unusable("compress", error.to_string()))?;
        object.extend(packed);
        let digest = self.keys.binlog(&object);
        object.extend(digest);
        match sealed::put(&*self.store, &segment.key()?, &object) {
            Ok(()) | Err(crate::store::Error::Present { .. }) => Ok(object.len() as u64),
            Err(error) => Err(error.into()),
        }
    }

    /// All segments of a host, in order of server, file and offset.
    ///
    /// # Errors
    /// The store cannot be listed.
    pub fn binlogs(&self, host: &str) -> Result<Vec<Segment>> {
        self.binlogs_below(&format!("{BINLOGS}{host}/"))
    }

    /// All segments of all hosts, in the same order.
    ///
    /// # Errors
    /// The store cannot be listed.
    pub fn all_binlogs(&self) -> Result<Vec<Segment>> {
        self.binlogs_below(BINLOGS)
    }

    fn binlogs_below(&self, prefix: &str) -> Result<Vec<Segment>> {
        let keys = self.store.list(prefix)?;
        let mut segments: Vec<Segment> = keys.iter().filter_map(|key| Segment::of_key(key)).collect();
        segments.sort();
        Ok(segments)
    }

    /// Whether a segment is there, ours, and says what its name says; its content is not read.
    ///
    /// # Errors
    /// It is damaged or gone.
    pub fn look_at_binlog(&self, segment: &Segment) -> Result<()> {
        self.binlog_note(segment).map(drop)
    }

    /// What a segment's header says of its log; its content is not read.
    ///
    /// # Errors
    /// It is damaged or gone.
    pub fn binlog_note(&self, segment: &Segment) -> Result<SegmentNote> {
        let key = segment.key()?;
        let size = self.store.size(&key)?;
        let mut head = vec![0; size.min(HEAD) as usize];
        sealed::read_exactly(&*self.store, &key, 0, &mut head)?;
        Ok(self.content(&key, segment, &head)?.0)
    }

    /// What comes behind the header, when that fits.
    fn content<'b>(&self, key: &str, segment: &Segment, object: &'b [u8]) -> Result<(SegmentNote, &'b [u8])> {
        let damaged = |reason: &str| Error::damaged(key, reason);
        let rest = object
            .strip_prefix(MAGIC)
            .ok_or_else(|| damaged("it is no segment of a binary log"))?;
        let (length, rest) = rest
            .split_first_chunk::<4>()
            .ok_or_else(|| damaged("it is too short"))?;
        let length = u32::from_le_bytes(*length) as usize;
        let json = rest.get(..length).ok_or_else(|| damaged("its header is cut off"))?;
        let header: Header = sealed::parse(key, json)?;
        if header.segment != *segment || header.repository != self.id {
            return Err(damaged("it belongs to another repository or another name"));
        }
        Ok((header.note, &rest[length..]))
    }

    /// A segment's bytes.
    ///
    /// # Errors
    /// It is damaged or gone.
    pub fn read_binlog(&self, segment: &Segment) -> Result<Vec<u8>> {
        let key = segment.key()?;
        let damaged = |reason: &str| Error::damaged(&*key, reason);
        let size = self.store.size(&key)?;
        if size > LARGEST {
            return Err(damaged("it is far larger than any of ours"));
        }
        let mut object = vec![0; size as usize];
        sealed::read_exactly(&*self.store, &key, 0, &mut object)?;
        let tail = object
            .len()
            .checked_sub(DIGEST)
            .ok_or_else(|| damaged("it is too short"))?;
        let (content, digest) = object.split_at(tail);
        if self.keys.binlog(content) != digest {
            return Err(damaged("its digest does not fit its content"));
        }
        let packed = self.content(&key, segment, content)?.1;
        let wanted = segment.to.checked_sub(segment.from).filter(|bytes| *bytes <= LARGEST);
        let wanted = wanted.ok_or_else(|| damaged("its name says more than a segment holds"))? as usize;
        let bytes = zstd::bulk::decompress(packed, wanted).map_err(|error| damaged(&error.to_string()))?;
        if bytes.len() != wanted {
            return Err(damaged("it has fewer bytes than its name says"));
        }
        Ok(bytes)
    }

    /// Removes a segment.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn remove_binlog(&self, segment: &Segment) -> Result<()> {
        Ok(self.store.delete(&segment.key()?)?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::memory::MemoryStore;

    #[test]
    fn a_segment_reads_back_and_no_flipped_or_moved_byte_does() {
        let store = MemoryStore::default();
        let repository = Repository::create(Arc::new(store.clone())).unwrap();
        let segment = Segment {
            host: "h".to_owned(),
            server: "id-1".to_owned(),
            created: 1_790_000_000,
            head: Some("0123456789abcdef_1".to_owned()),
            file: "binlog.000001".to_owned(),
            from: 0,
            to: 5,
            closed: false,
        };
        let note = SegmentNote {
            trace: Some("00".to_owned()),
            latest: Some(7),
            ..SegmentNote::default()
        };
        repository.put_binlog(&segment, &note, b"hello").unwrap();
        repository
            .put_binlog(&segment, &SegmentNote::default(), b"other")
            .unwrap();
        assert_eq!(repository.binlog_note(&segment).unwrap(), note);
        assert_eq!(repository.read_binlog(&segment).unwrap(), b"hello", "overwritten");
        assert_eq!(repository.binlogs("h").unwrap(), std::slice::from_ref(&segment));
        let key = segment.key().unwrap();
        let bytes = store.objects()[&key].to_vec();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            store.tamper(&key, flipped);
            assert!(repository.read_binlog(&segment).is_err(), "byte {at}");
        }
        let moved = Segment {
            from: 5,
            to: 10,
            closed: true,
            ..segment.clone()
        };
        assert!(repository.look_at_binlog(&moved).unwrap_err().is_absent());
        store.tamper(&moved.key().unwrap(), bytes);
        assert!(repository.look_at_binlog(&moved).is_err());
        assert!(repository.read_binlog(&moved).is_err());
        assert!(
            repository
                .put_binlog(
                    &Segment {
                        file: "a/b".to_owned(),
                        ..segment
                    },
                    &SegmentNote::default(),
                    b""
                )
                .is_err()
        );
    }
}
