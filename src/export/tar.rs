//! Headers of POSIX tar archives (pax), to the byte.
//!
//! Our own, for the crates that write tar know neither GNU's sparse files 1.0 nor names that are not UTF-8 in pax records, and what is left
//! of them then is a header of 512 bytes.

use std::io::{self, Write};

pub(super) const BLOCK: usize = 512;
/// The archive's length is a multiple of this.
const RECORD: u64 = 20 * BLOCK as u64;

/// The name of a member that never comes.
const INCOMPLETE: &[u8] = b"THIS-ARCHIVE-IS-INCOMPLETE";

/// A member's kind, as the header says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

impl Kind {
    fn flag(self) -> u8 {
        match self {
            Kind::File => b'0',
            Kind::HardLink => b'1',
            Kind::Symlink => b'2',
            Kind::CharDevice => b'3',
            Kind::BlockDevice => b'4',
            Kind::Directory => b'5',
            Kind::Fifo => b'6',
        }
    }
}

/// What a header says of a member. Whatever does not fit its field goes into a pax record before it.
#[derive(Debug, Clone)]
pub(super) struct Header {
    pub name: Vec<u8>,
    pub kind: Kind,
    pub link: Vec<u8>,
    /// Bytes that follow.
    pub size: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime_ns: i128,
    pub device: (u32, u32),
    /// Further pax records: attributes, ACLs, sparse files.
    pub records: Vec<(Vec<u8>, Vec<u8>)>,
}

/// An archive that is being written.
pub(super) struct Archive<'o> {
    out: &'o mut dyn Write,
    bytes: u64,
    /// Bytes of the open member, with its padding, that are still to come.
    left: u64,
    padding: usize,
}

impl<'o> Archive<'o> {
    pub fn new(out: &'o mut dyn Write) -> Archive<'o> {
        Archive {
            out,
            bytes: 0,
            left: 0,
            padding: 0,
        }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Begins a member; `header.size` bytes must follow.
    pub fn begin(&mut self, header: &Header) -> io::Result<()> {
        let records = records(header);
        if !records.is_empty() {
            let about = field_name(&[b"PaxHeaders/".as_slice(), last_part(&header.name)].concat());
            let block = block(&about, b'x', &[], records.len() as u64, 0o644, (0, 0), 0, (0, 0));
            self.put(&block)?;
            self.put(&records)?;
            self.put(&[0; BLOCK][..padding(records.len() as u64)])?;
        }
        let block = block(
            &field_name(&header.name),
            header.kind.flag(),
            &field_name(&header.link),
            header.size,
            header.mode,
            (header.uid, header.gid),
            (header.mtime_ns.div_euclid(1_000_000_000)) as i64,
            header.device,
        );
        self.put(&block)?;
        self.left = header.size;
        self.padding = padding(header.size);
        Ok(())
    }

    /// The member's next bytes.
    pub fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() as u64 > self.left {
            return Err(io::Error::other("a member is longer than its header says"));
        }
        self.put(bytes)?;
        self.left -= bytes.len() as u64;
        if self.left == 0 && !bytes.is_empty() {
            self.put(&[0; BLOCK][..self.padding])?;
        }
        Ok(())
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// A member is short, or the stream cannot be written.
    pub fn finish(&mut self) -> io::Result<()> {
        if self.left > 0 {
            return Err(io::Error::other("a member is shorter than its header says"));
        }
        let rest = (2 * BLOCK as u64 + self.bytes).next_multiple_of(RECORD) - self.bytes;
        self.put(&vec![0; rest as usize])?;
        self.out.flush()
    }

    /// Leaves an archive that no reader takes for whole: a member that is too short. Between members one is begun for that, since GNU tar and
    /// Python's tarfile read over a part of a header at the end.
    pub fn cut(&mut self) {
        if self.left == 0 {
            let block = block(INCOMPLETE, b'0', &[], BLOCK as u64, 0o600, (0, 0), 0, (0, 0));
            let _ = self.put(&block);
        }
        let _ = self.out.flush();
    }
}

fn padding(length: u64) -> usize {
    (length.next_multiple_of(BLOCK as u64) - length) as usize
}

fn last_part(name: &[u8]) -> &[u8] {
    name.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

/// What a field of 100 bytes holds of a name; the pax record has all of it.
fn field_name(name: &[u8]) -> Vec<u8> {
    name[..name.len().min(100)].to_vec()
}

/// The pax records of a member.
fn records(header: &Header) -> Vec<u8> {
    let mut records = Vec::new();
    let mut add = |key: &[u8], value: &[u8]| record(key, value, &mut records);
    let sparse = header.records.iter().any(|(key, _)| key.starts_with(b"GNU.sparse"));
    let too_long = |name: &[u8]| name.len() > 100 || !name.is_ascii();
    // Names are written as they are. POSIX has `hdrcharset` for those that are not UTF-8; GNU tar does not know it and warns of it, and the
    // others read such names without it.
    if too_long(&header.name) && !sparse {
        add(b"path", &header.name);
    }
    if too_long(&header.link) {
        add(b"linkpath", &header.link);
    }
    if header.size > 0o77_777_777_777 {
        add(b"size", header.size.to_string().as_bytes());
    }
    for (key, id) in [(b"uid", header.uid), (b"gid", header.gid)] {
        if id > 0o7_777_777 {
            add(key, id.to_string().as_bytes());
        }
    }
    let seconds = header.mtime_ns.div_euclid(1_000_000_000);
    if header.mtime_ns.rem_euclid(1_000_000_000) != 0 || !(0..=0o77_777_777_777).contains(&seconds) {
        add(b"mtime", time(header.mtime_ns).as_bytes());
    }
    header.records.iter().for_each(|(key, value)| add(key, value));
    records
}

/// `length key=value\n`, where the length counts its own digits.
fn record(key: &[u8], value: &[u8], into: &mut Vec<u8>) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    into.extend_from_slice(length.to_string().as_bytes());
    into.extend_from_slice(&[b" ", key, b"=", value, b"\n"].concat());
}

/// Seconds with nine decimals; before 1970 with a minus sign.
fn time(nanoseconds: i128) -> String {
    let (sign, all) = (if nanoseconds < 0 { "-" } else { "" }, nanoseconds.unsigned_abs());
    format!("{sign}{}.{:09}", all / 1_000_000_000, all % 1_000_000_000)
}

/// A ustar header. Numbers that do not fit are zero here and in a pax record.
#[allow(clippy::too_many_arguments)]
fn block(
    name: &[u8],
    flag: u8,
    link: &[u8],
    size: u64,
    mode: u32,
    (uid, gid): (u32, u32),
    seconds: i64,
    (major, minor): (u32, u32),
) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut octal = |at: usize, digits: usize, value: u64| {
        let value = if value < 1 << (3 * digits) { value } else { 0 };
        block[at..at + digits].copy_from_slice(format!("{value:0digits$o}").as_bytes());
    };
    octal(100, 7, u64::from(mode & 0o7777));
    octal(108, 7, u64::from(uid));
    octal(116, 7, u64::from(gid));
    octal(124, 11, size);
    octal(136, 11, u64::try_from(seconds).unwrap_or(0));
    octal(329, 7, u64::from(major));
    octal(337, 7, u64::from(minor));
    block[..name.len()].copy_from_slice(name);
    block[156] = flag;
    block[157..157 + link.len()].copy_from_slice(link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    // The sum is taken with spaces in its own place.
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_digits() {
        let of = |value: usize| {
            let mut bytes = Vec::new();
            record(b"k", &vec![b'v'; value], &mut bytes);
            let digits = bytes.split(|byte| *byte == b' ').next().unwrap();
            assert_eq!(std::str::from_utf8(digits).unwrap().parse(), Ok(bytes.len()));
            bytes.len()
        };
        // Around the lengths where one more digit is needed.
        let lengths: Vec<usize> = (0..200).map(of).collect();
        assert!(lengths.windows(2).all(|pair| pair[0] < pair[1]));
        of(990);
        of(99_990);
    }

    #[test]
    fn times_before_1970_have_a_sign() {
        assert_eq!(time(1_500_000_000), "1.500000000");
        assert_eq!(time(-1_500_000_000), "-1.500000000");
    }

    #[test]
    fn a_cut_archive_ends_in_the_middle_of_something() {
        let header = Header {
            name: b"n".to_vec(),
            kind: Kind::File,
            link: vec![],
            size: 600,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime_ns: 0,
            device: (0, 0),
            records: vec![],
        };
        let mut out = Vec::new();
        let mut archive = Archive::new(&mut out);
        archive.begin(&header).unwrap();
        archive.data(&[1; 590]).unwrap();
        assert!(archive.finish().is_err(), "a short member must not end well");
        archive.cut();
        assert_eq!(out.len(), 512 + 590);
        let mut out = Vec::new();
        let mut archive = Archive::new(&mut out);
        archive.begin(&header).unwrap();
        archive.data(&[1; 600]).unwrap();
        assert!(archive.data(&[1]).is_err());
        archive.cut();
        assert_eq!(out.len(), 512 + 1024 + 512);
    }
}
