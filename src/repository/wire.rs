//! The binary encoding of meta objects: little-endian integers, LEB128 variable-length integers, length-prefixed bytes.
//!
//! The decoder trusts nothing: every count is checked against the bytes that are there before anything is reserved for it.

/// Why bytes do not decode.
pub(super) type Malformed = String;

/// Appends values.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    pub bytes: Vec<u8>,
}

impl Encoder {
    pub fn byte(&mut self, value: u8) {
        self.bytes.push(value);
    }

    /// LEB128: seven bits per byte, the lowest first; the high bit says that more follow.
    pub fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// A length and so many bytes.
    pub fn blob(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        self.raw(bytes);
    }
}

/// Takes values off the front of a slice.
#[derive(Debug, Clone, Copy)]
pub(super) struct Decoder<'b> {
    rest: &'b [u8],
}

impl<'b> Decoder<'b> {
    pub fn new(bytes: &'b [u8]) -> Decoder<'b> {
        Decoder { rest: bytes }
    }

    pub fn raw(&mut self, length: usize) -> Result<&'b [u8], Malformed> {
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or_else(|| format!("it ends {} bytes too early", length - self.rest.len()))?;
        self.rest = rest;
        Ok(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let mut array = [0; N];
        array.copy_from_slice(self.raw(N)?);
        Ok(array)
    }

    pub fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.raw(1)?[0])
    }

    /// Only the shortest form of a number is accepted, so that equal content has equal bytes.
    pub fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if (shift == 63 && bits > 1) || (byte == 0 && shift > 0) {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number is not in its shortest form".to_owned())
    }

    pub fn number<T: TryFrom<u64>>(&mut self) -> Result<T, Malformed> {
        let value = self.varint()?;
        T::try_from(value).map_err(|_| format!("the number {value} is too large"))
    }

    pub fn blob(&mut self, most: usize) -> Result<&'b [u8], Malformed> {
        let length: usize = self.number()?;
        if length > most {
            return Err(format!("a field of {length} bytes is longer than the {most} allowed"));
        }
        self.raw(length)
    }

    /// A count of things that take at least `each` bytes; never more than the bytes that are left can hold.
    pub fn count(&mut self, each: usize) -> Result<usize, Malformed> {
        let count: usize = self.number()?;
        if count > self.rest.len() / each.max(1) {
            return Err(format!(
                "it says {count} items, but only {} bytes are left",
                self.rest.len()
            ));
        }
        Ok(count)
    }

    /// Bytes that are not decoded yet.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn end(&self) -> Result<(), Malformed> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(format!("{left} bytes too many at its end")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_and_blobs_come_back(numbers: Vec<u64>, blob: Vec<u8>) {
            let mut encoder = Encoder::default();
            numbers.iter().for_each(|number| encoder.varint(*number));
            encoder.blob(&blob);
            let mut decoder = Decoder::new(&encoder.bytes);
            for number in &numbers {
                prop_assert_eq!(decoder.varint(), Ok(*number));
            }
            prop_assert_eq!(decoder.blob(usize::MAX), Ok(&blob[..]));
            prop_assert!(decoder.end().is_ok());
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes: Vec<u8>) {
            let mut decoder = Decoder::new(&bytes);
            while !decoder.is_empty() && decoder.varint().is_ok() && decoder.blob(1000).is_ok() && decoder.count(3).is_ok() {}
        }
    }

    #[test]
    fn a_number_has_one_form() {
        assert!(Decoder::new(&[0x80, 0]).varint().is_err());
        assert!(Decoder::new(&[0xff; 11]).varint().is_err());
        assert_eq!(Decoder::new(&[0]).varint(), Ok(0));
    }
}
