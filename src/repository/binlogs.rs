//! Segments of binary logs: write-once objects, `binlogs/<host>/<server>/<created>-<file>/<from>-<to>[c]`. A server's log file is the bytes of its
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
    /// The file's name.
    pub file: String,
    /// The first byte's offset.
    pub from: u64,
    /// The end's.
    pub to: u64,
    /// The server went on to its next file at the end of this segment.
    pub closed: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    format: u32,
    repository: Id,
    time: jiff::Timestamp,
    #[serde(flatten)]
    segment: Segment,
}

impl Segment {
    /// The object that it is.
    ///
    /// # Errors
    /// A name in it cannot be part of a key.
    pub fn key(&self) -> Result<String> {
        let plain = |text: &str| is_valid_host(text);
        if !plain(&self.file) || !plain(&self.server) {
            return Err(Error::Unusable(format!(
                "the binary log `{}` of server `{}` has a name that a repository cannot hold: letters, digits, `.`, `_`, `-`",
                self.file, self.server
            )));
        }
        let closed = if self.closed { "c" } else { "" };
        Ok(format!(
            "{BINLOGS}{}/{}/{:010}-{}/{:016}-{:016}{closed}",
            self.host, self.server, self.created, self.file, self.from, self.to
        ))
    }

    fn of_key(key: &str) -> Option<Segment> {
        let mut parts = key.strip_prefix(BINLOGS)?.split('/');
        let (host, server, file, range) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let (created, file) = file.split_once('-')?;
        let (range, closed) = range.strip_suffix('c').map_or((range, false), |range| (range, true));
        let (from, to) = range.split_once('-')?;
        let segment = Segment {
            host: host.to_owned(),
            server: server.to_owned(),
            created: created.parse().ok()?,
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
    pub fn put_binlog(&self, segment: &Segment, bytes: &[u8]) -> Result<u64> {
        let header = Header {
            format: FORMAT,
            repository: self.id,
            time: jiff::Timestamp::now(),
            segment: segment.clone(),
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
        let key = segment.key()?;
        let size = self.store.size(&key)?;
        let mut head = vec![0; size.min(HEAD) as usize];
        sealed::read_exactly(&*self.store, &key, 0, &mut head)?;
        self.content(&key, segment, &head).map(drop)
    }

    /// What comes behind the header, when that fits.
    fn content<'b>(&self, key: &str, segment: &Segment, object: &'b [u8]) -> Result<&'b [u8]> {
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
        Ok(&rest[length..])
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
        let packed = self.content(&key, segment, content)?;
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
            file: "binlog.000001".to_owned(),
            from: 0,
            to: 5,
            closed: false,
        };
        repository.put_binlog(&segment, b"hello").unwrap();
        repository.put_binlog(&segment, b"other").unwrap();
        repository.look_at_binlog(&segment).unwrap();
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
                    b""
                )
                .is_err()
        );
    }
}
