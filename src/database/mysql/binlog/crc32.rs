//! CRC-32 (IEEE 802.3), as binary logs use it, eight bytes at a time.

const TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0xEDB8_8320
            } else {
                crc >> 1
            };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut slice = 1;
    while slice < 8 {
        let mut byte = 0;
        while byte < 256 {
            let below = tables[slice - 1][byte];
            tables[slice][byte] = (below >> 8) ^ tables[0][(below & 0xFF) as usize];
            byte += 1;
        }
        slice += 1;
    }
    tables
}

/// A checksum in the making.
#[derive(Debug, Clone, Copy)]
pub struct Crc32(u32);

impl Crc32 {
    /// Of nothing yet.
    pub fn new() -> Crc32 {
        Crc32(!0)
    }

    /// Takes more bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            let low = u32::from_le_bytes([word[0], word[1], word[2], word[3]]) ^ self.0;
            let high = u32::from_le_bytes([word[4], word[5], word[6], word[7]]);
            let at = |table: usize, word: u32, byte: u32| TABLES[table][(word >> (8 * byte) & 0xFF) as usize];
            self.0 = at(7, low, 0)
                ^ at(6, low, 1)
                ^ at(5, low, 2)
                ^ at(4, low, 3)
                ^ at(3, high, 0)
                ^ at(2, high, 1)
                ^ at(1, high, 2)
                ^ at(0, high, 3);
        }
        for byte in words.remainder() {
            self.0 = (self.0 >> 8) ^ TABLES[0][((self.0 ^ u32::from(*byte)) & 0xFF) as usize];
        }
    }

    /// The checksum.
    pub fn value(self) -> u32 {
        !self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_check_value() {
        let mut crc = Crc32::new();
        crc.update(b"123456789");
        assert_eq!(crc.value(), 0xCBF4_3926);
    }

    #[test]
    fn pieces_make_the_same_as_the_whole() {
        let bytes: Vec<u8> = (0..100u8).collect();
        let mut whole = Crc32::new();
        whole.update(&bytes);
        for cut in 0..bytes.len() {
            let mut pieces = Crc32::new();
            pieces.update(&bytes[..cut]);
            pieces.update(&bytes[cut..]);
            assert_eq!(pieces.value(), whole.value(), "{cut}");
        }
    }
}
