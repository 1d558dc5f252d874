//! Text objects (config, manifests): JSON, a line break, 64 hexadecimal digits over the JSON's bytes, a line break.

use serde::{Serialize, de::DeserializeOwned};

use super::keys::Hash;
use super::{Error, Result};
use crate::store::{self, Store};

/// The largest text object, in bytes: checksums of some 300,000 tables. What is read takes as much memory.
pub(super) const LARGEST: u64 = 32 << 20;
const DIGITS: usize = 64;

/// The object's bytes.
pub(super) fn seal<T: Serialize>(value: &T, hash: impl FnOnce(&[u8]) -> Hash) -> Result<Vec<u8>> {
    let mut bytes =
        serde_json::to_vec_pretty(value).map_err(|error| Error::Unusable(format!("cannot write JSON: {error}")))?;
    let digest = hash(&bytes);
    bytes.push(b'\n');
    bytes.extend_from_slice(blake3::Hash::from_bytes(digest).to_hex().as_bytes());
    bytes.push(b'\n');
    // Nobody would read it.
    if bytes.len() as u64 > LARGEST {
        return Err(Error::Unusable(format!(
            "what is kept about it has {} bytes, and at most {LARGEST} can be: back up fewer tables at once, or without checksums of each",
            bytes.len()
        )));
    }
    Ok(bytes)
}

/// The JSON part, when the digest fits.
///
/// # Errors
/// What does not fit.
pub(super) fn unseal(bytes: &[u8], hash: impl FnOnce(&[u8]) -> Hash) -> std::result::Result<&[u8], String> {
    let tail = bytes
        .len()
        .checked_sub(DIGITS + 2)
        .ok_or("it is too short to hold a digest")?;
    let (json, seal) = bytes.split_at(tail);
    let expected = blake3::Hash::from_bytes(hash(json));
    let fits = seal[0] == b'\n' && seal[1..=DIGITS] == *expected.to_hex().as_bytes() && seal[DIGITS + 1] == b'\n';
    if fits {
        Ok(json)
    } else {
        Err("its digest does not fit its content".to_owned())
    }
}

/// Parses JSON that was unsealed, or whose digest is inside it.
pub(super) fn parse<T: DeserializeOwned>(object: &str, json: &[u8]) -> Result<T> {
    serde_json::from_slice(json).map_err(|error| Error::damaged(object, error.to_string()))
}

/// Reads a whole text object.
pub(super) fn read(store: &dyn Store, key: &str) -> Result<Vec<u8>> {
    let size = store.size(key)?;
    if size > LARGEST {
        return Err(Error::damaged(
            key,
            format!("it has {size} bytes, far more than any of ours"),
        ));
    }
    let mut bytes = vec![0; size as usize];
    read_exactly(store, key, 0, &mut bytes)?;
    Ok(bytes)
}

/// Reads exactly this range.
pub(super) fn read_exactly(store: &dyn Store, key: &str, offset: u64, into: &mut [u8]) -> Result<()> {
    let got = store.get_range(key, offset, into)?;
    if got == into.len() {
        return Ok(());
    }
    Err(Error::damaged(
        key,
        format!(
            "it ends at {}, where {} more bytes are expected",
            offset + got as u64,
            into.len() - got
        ),
    ))
}

/// Writes one small object.
pub(super) fn put(store: &dyn Store, key: &str, bytes: &[u8]) -> store::Result<()> {
    let mut upload = store.put_new(key)?;
    upload.append(bytes)?;
    upload.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(bytes: &[u8]) -> Hash {
        blake3::hash(bytes).into()
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let sealed = seal(&serde_json::json!({"a": [1, 2, 3]}), hash).unwrap();
        assert!(unseal(&sealed, hash).is_ok());
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(unseal(&damaged, hash).is_err(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(unseal(&sealed[..length], hash).is_err(), "cut at {length}");
        }
    }
}
