//! What a file takes on the disk when it is restored. Its size says that only of one without holes.

use super::{Content, Fetcher, Piece};
use crate::Result;
use crate::sys::signal::Cancel;

impl Fetcher {
    /// Bytes that a restore writes of this file; holes, and zeros of a file that had holes, are left out. A section that cannot be read counts as a whole.
    ///
    /// # Errors
    /// A signal asked to end.
    pub fn occupied(&mut self, content: &Content, cancel: &Cancel) -> Result<u64> {
        if !content.sparse {
            return Ok(content.size);
        }
        let mut sum = 0_u64;
        for (index, at) in content.sections.iter().enumerate() {
            cancel.check()?;
            if content.is_hole(index) {
                continue;
            }
            let bytes = content.section_bytes(index);
            sum = sum.saturating_add(match self.section(at, content.section_chunks(index)) {
                Ok(section) => written(&section.pieces, bytes, content.class.bytes() as u64),
                Err(_) => bytes,
            });
        }
        Ok(sum)
    }
}

/// Of a section of `bytes` in chunks of `class` bytes.
fn written(pieces: &[Piece], bytes: u64, class: u64) -> u64 {
    let lengths = (0..bytes).step_by(class as usize).map(|from| class.min(bytes - from));
    let stored = pieces.iter().zip(lengths);
    stored
        .filter(|(piece, _)| matches!(piece, Piece::Data { .. }))
        .map(|(_, length)| length)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Id;

    #[test]
    fn data_counts_and_holes_do_not_and_the_last_chunk_is_as_long_as_it_is() {
        let data = Piece::Data {
            hash: [0; 32],
            pack: Id::random(),
            slot: 0,
        };
        assert_eq!(written(&[Piece::Hole, data, Piece::Zero], 3 << 14, 1 << 14), 1 << 14);
        assert_eq!(written(&[data, data], (1 << 14) + 5, 1 << 14), (1 << 14) + 5);
        assert_eq!(written(&[Piece::Hole], 1 << 14, 1 << 14), 0);
    }
}
