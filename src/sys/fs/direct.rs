//! Reading around the page cache (O_DIRECT): faster where the disk is fast, and the server's cache stays the server's.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::OFlags;

use super::read_up_to;

/// What offsets, lengths and addresses of direct reads are multiples of; no filesystem at hand asks for more (statx(2), STATX_DIOALIGN).
const ALIGNMENT: usize = 4096;

/// A buffer that direct reads can go to.
pub struct ReadBuffer {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl ReadBuffer {
    /// A buffer of `length` bytes.
    pub fn new(length: usize) -> ReadBuffer {
        let bytes = vec![0; length + ALIGNMENT];
        // The heap's place does not change while nothing is pushed.
        let start = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        ReadBuffer { bytes, start, length }
    }

    /// Its bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.length]
    }
}

/// From here on this file is read around the page cache, where its filesystem knows how; returns whether it does.
pub fn read_directly(file: &File) -> bool {
    let flags = rustix::fs::fcntl_getfl(file);
    flags.is_ok_and(|flags| rustix::fs::fcntl_setfl(file, flags | OFlags::DIRECT).is_ok())
}

/// As [`read_up_to`], on a file that may be read directly: `wanted` bytes at `offset`, or as many as there are.
///
/// # Errors
/// The file cannot be read. A filesystem that refuses such a read is asked again in the ordinary way.
pub fn read_some_directly(file: &File, buffer: &mut ReadBuffer, wanted: usize, offset: u64) -> io::Result<usize> {
    let into = buffer.bytes();
    let rounded = wanted.next_multiple_of(ALIGNMENT).min(into.len());
    let mut got = 0;
    // A read that ends between two blocks has met the end of the file.
    while got < wanted && got.is_multiple_of(ALIGNMENT) {
        match file.read_at(&mut into[got..rounded], offset + got as u64) {
            Ok(0) => break,
            Ok(more) => got += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                let flags = rustix::fs::fcntl_getfl(file)?;
                rustix::fs::fcntl_setfl(file, flags - OFlags::DIRECT)?;
                return Ok(got + read_up_to(file, &mut into[got..wanted], offset + got as u64)?);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(got.min(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_and_place_reads_as_it_does_with_the_cache() {
        // Beside the test's program: on a disk, where /tmp may be in memory.
        let program = std::env::current_exe().unwrap();
        let directory = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
        let path = directory.path().join("file");
        let content: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
        let mut buffer = ReadBuffer::new(16 << 10);
        assert_eq!(buffer.bytes().as_ptr() as usize % ALIGNMENT, 0);
        for length in [0, 1, 511, 4095, 4096, 4097, 16_384, 99_999] {
            std::fs::write(&path, &content[..length]).unwrap();
            let file = File::open(&path).unwrap();
            let direct = read_directly(&file);
            for offset in [0, 4096, 16_384, 96 << 10] {
                for wanted in [1, 100, 4096, 5000, 16 << 10] {
                    let got = read_some_directly(&file, &mut buffer, wanted, offset as u64).unwrap();
                    let expected = content[..length].get(offset..).unwrap_or_default();
                    let expected = &expected[..wanted.min(expected.len())];
                    assert_eq!(
                        &buffer.bytes()[..got],
                        expected,
                        "direct {direct}, {length} bytes, {wanted} at {offset}"
                    );
                }
            }
            // An odd place is refused by the kernel, and read all the same.
            let got = read_some_directly(&file, &mut buffer, 100, 3).unwrap();
            let expected = content[..length].get(3..).unwrap_or_default();
            assert_eq!(&buffer.bytes()[..got], &expected[..100.min(expected.len())]);
        }
    }
}
