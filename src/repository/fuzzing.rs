//! Doors for fuzzing, see [`crate::fuzzing`]. Hashes would keep nearly all inputs out: where one stands before a reader, it is made to fit.

use std::sync::Arc;

use super::keys::{Keys, PackName};
use super::pack::{self, Kind, PackReader};
use super::section::Section;
use super::wire::Encoder;
use super::{Config, Manifest, sealed, table};
use crate::store::memory::MemoryStore;
use crate::units::Id;

const ID: Id = Id([7; 16]);

fn keys() -> Keys {
    Keys::new(&[9; 32])
}

/// A pack, with its digest made to fit: footer, sweep, and each slot by a reader that salvages.
pub fn footer(data: &[u8]) {
    let (keys, store) = (keys(), MemoryStore::default());
    let generation = data
        .get(12..16)
        .map_or(0, |g| u32::from_le_bytes([g[0], g[1], g[2], g[3]]));
    let name = match generation {
        0 => PackName::first(ID),
        later => PackName::later(ID, later),
    };
    store.tamper(&name.key(), pack::with_fitting_digest(data, ID, &keys));
    let footer = pack::read_footer(&store, &keys, name);
    if let Ok((footer, size)) = &footer {
        assert_eq!(*size, data.len() as u64);
        let swept = pack::sweep(&store, &keys, name, &mut |_| true).unwrap_or_else(|error| panic!("{error}"));
        assert!(swept.slots.len() <= footer.slots.len());
    }
    let Ok(mut reader) = PackReader::new(Arc::new(store), keys, Some(Arc::default())) else {
        return;
    };
    let mut into = Vec::new();
    for slot in 0..4 {
        for kind in [Kind::Data, Kind::Meta] {
            let hash = footer
                .as_ref()
                .ok()
                .and_then(|(footer, _)| footer.slots.get(slot as usize))
                .map_or([0; 32], |slot| slot.hash);
            let _ = reader.read(ID, slot, kind, &hash, &mut into);
        }
    }
}

/// A section: what is decoded has exactly these bytes.
pub fn section(data: &[u8]) {
    if let Ok(section) = Section::decode(data) {
        assert_eq!(section.encode(), data);
    }
}

/// A block of the file table: what is decoded has exactly these bytes.
pub fn table(data: &[u8]) {
    if let Ok(entries) = table::decode_block(data) {
        let mut encoder = Encoder::default();
        entries.iter().for_each(|entry| entry.encode(&mut encoder));
        assert_eq!(encoder.bytes, data);
    }
}

/// The index of the file table and the table of packs.
pub fn index(data: &[u8]) {
    if let Ok(blocks) = table::decode_index(data) {
        assert_eq!(table::encode_index(&blocks), data);
    }
    if let Ok(packs) = table::decode_packs(data) {
        assert_eq!(table::encode_packs(&packs), data);
    }
}

/// The JSON of a manifest and of the repository's own object, and either with its digest line.
pub fn manifest(data: &[u8]) {
    let _ = super::check_version("fuzzed", data);
    if let Ok(manifest) = sealed::parse::<Manifest>("fuzzed", data) {
        let again = sealed::seal(&manifest, |json| keys().manifest(json)).unwrap_or_else(|error| panic!("{error}"));
        let json = sealed::unseal(&again, |json| keys().manifest(json)).unwrap_or_else(|reason| panic!("{reason}"));
        assert_eq!(sealed::parse::<Manifest>("fuzzed", json).ok(), Some(manifest.clone()));
        let _ = crate::restore::record_of(&manifest);
    }
    let _ = sealed::parse::<Config>("fuzzed", data);
    let _ = sealed::unseal(data, |json| blake3::hash(json).into());
}
