//! One entry as a member of the archive.

use super::ahead::Ahead;
use super::tar::{Archive, BLOCK, Header, Kind};
use super::{acl, cannot_write};
use crate::Result;
use crate::monitor::Monitor;
use crate::repository::{Content, Entry, EntryKind, Metadata, Piece, SECTION_BYTES};

/// Data regions that a sparse file's map may have (16 MiB of memory); a file with more is written with its holes as zeros.
const MOST_REGIONS: usize = 1 << 20;

/// Writes one member.
///
/// # Errors
/// Something is missing or damaged, or the stream cannot be written.
pub(super) fn write(
    archive: &mut Archive<'_>,
    entry: &Entry,
    name: &[u8],
    ahead: &mut Ahead<'_>,
    monitor: &dyn Monitor,
) -> Result<()> {
    let mut header = header(name, &entry.metadata);
    match &entry.kind {
        EntryKind::File(content) => return file(archive, header, content, ahead, monitor),
        EntryKind::Directory => {
            header.kind = Kind::Directory;
            header.name.push(b'/');
        }
        EntryKind::Symlink(target) => {
            header.kind = Kind::Symlink;
            header.link.clone_from(target);
        }
        EntryKind::HardLink(first) => {
            header.kind = Kind::HardLink;
            header.link.clone_from(first);
            header.records.clear();
        }
        EntryKind::Fifo => header.kind = Kind::Fifo,
        EntryKind::CharDevice(major, minor) => {
            header.kind = Kind::CharDevice;
            header.device = (*major, *minor);
        }
        EntryKind::BlockDevice(major, minor) => {
            header.kind = Kind::BlockDevice;
            header.device = (*major, *minor);
        }
    }
    archive.begin(&header).map_err(cannot_write)
}

fn header(name: &[u8], metadata: &Metadata) -> Header {
    Header {
        name: name.to_vec(),
        kind: Kind::File,
        link: Vec::new(),
        size: 0,
        mode: metadata.mode,
        uid: metadata.uid,
        gid: metadata.gid,
        mtime_ns: metadata.mtime_ns,
        device: (0, 0),
        records: metadata.xattrs.iter().map(attribute).collect(),
    }
}

/// ACLs as the text that every tar knows, everything else as it is.
fn attribute((name, value): &(Vec<u8>, Vec<u8>)) -> (Vec<u8>, Vec<u8>) {
    let known = acl::ACLS.iter().find(|(attribute, _)| *attribute == name.as_slice());
    match known.and_then(|(_, record)| Some((record, acl::text(value)?))) {
        Some((record, text)) => (record.to_vec(), text.into_bytes()),
        None => ([b"SCHILY.xattr.".as_slice(), name].concat(), value.clone()),
    }
}

fn file(
    archive: &mut Archive<'_>,
    mut header: Header,
    content: &Content,
    ahead: &mut Ahead<'_>,
    monitor: &dyn Monitor,
) -> Result<()> {
    let map = if content.sparse { map(content, ahead)? } else { None };
    let sparse = map.is_some();
    if let Some(map) = &map {
        let data: u64 = map.iter().map(|(_, length)| length).sum();
        let text = map_text(map);
        let base = header.name.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let stand_in = [b"GNUSparseFile.0/".as_slice(), base].concat();
        let real = std::mem::replace(&mut header.name, stand_in);
        for (key, value) in [
            ("GNU.sparse.major", b"1".to_vec()),
            ("GNU.sparse.minor", b"0".to_vec()),
            ("GNU.sparse.name", real),
            ("GNU.sparse.realsize", content.size.to_string().into_bytes()),
        ] {
            header.records.push((key.as_bytes().to_vec(), value));
        }
        header.size = text.len() as u64 + data;
        archive.begin(&header).map_err(cannot_write)?;
        archive.data(&text).map_err(cannot_write)?;
    } else {
        header.size = content.size;
        archive.begin(&header).map_err(cannot_write)?;
    }
    let chosen = |piece: &Piece| !sparse || is_data(piece);
    let name = header.name;
    let mut take = |bytes: &[u8]| {
        monitor.advance(bytes.len() as u64, 0);
        archive.data(bytes).map_err(cannot_write)
    };
    ahead
        .read(content, chosen, &mut take)
        .map_err(|error| named(error, &name))
}

/// Damage says which file needs what is damaged.
fn named(error: crate::Error, name: &[u8]) -> crate::Error {
    match error {
        crate::Error::Repository(crate::repository::Error::Damaged { object, reason }) => {
            crate::repository::Error::damaged(object, format!("{reason}; needed for {}", name.escape_ascii())).into()
        }
        other => other,
    }
}

/// In a file with holes zero chunks are holes too, as a restore has it.
fn is_data(piece: &Piece) -> bool {
    matches!(piece, Piece::Data { .. })
}

/// The file's data regions: offset and length. `None` when there are too many.
fn map(content: &Content, ahead: &mut Ahead<'_>) -> Result<Option<Vec<(u64, u64)>>> {
    let mut map: Vec<(u64, u64)> = Vec::new();
    for index in 0..content.sections.len() {
        let (start, covered) = (index as u64 * SECTION_BYTES, content.section_bytes(index));
        let mut at = 0;
        for piece in &ahead.section(content, index)?.pieces {
            let length = (covered - at).min(content.class.bytes() as u64);
            if is_data(piece) {
                match map.last_mut() {
                    Some((offset, before)) if *offset + *before == start + at => *before += length,
                    _ => map.push((start + at, length)),
                }
            }
            at += length;
        }
        if map.len() > MOST_REGIONS {
            return Ok(None);
        }
    }
    if map.last().is_none_or(|(offset, length)| offset + length < content.size) {
        map.push((content.size, 0));
    }
    Ok(Some(map))
}

/// The map at the beginning of the member: decimal lines, padded to a block. A hole at the end is an empty region there.
fn map_text(map: &[(u64, u64)]) -> Vec<u8> {
    let mut text = format!("{}\n", map.len());
    for (offset, length) in map {
        text.push_str(&format!("{offset}\n{length}\n"));
    }
    let mut bytes = text.into_bytes();
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}
