//! Hashes with the repository's own key, and the names of its objects.

use std::fmt;

use crate::units::Id;

/// A keyed BLAKE3.
pub(super) type Hash = [u8; 32];

/// One key per use, derived from the repository's (BLAKE3 `derive_key`), so that no stored byte string can stand for another kind.
#[derive(Clone)]
pub(super) struct Keys {
    chunk: Hash,
    pack: Hash,
    manifest: Hash,
    drill: Hash,
    note: Hash,
    binlog: Hash,
}

impl Keys {
    pub fn new(key: &Hash) -> Keys {
        Keys {
            chunk: blake3::derive_key("snapback 1 chunk", key),
            pack: blake3::derive_key("snapback 1 pack", key),
            manifest: blake3::derive_key("snapback 1 manifest", key),
            drill: blake3::derive_key("snapback 1 drill", key),
            note: blake3::derive_key("snapback 1 note", key),
            binlog: blake3::derive_key("snapback 1 binlog", key),
        }
    }

    /// Of a slot's plain bytes.
    pub fn chunk(&self, bytes: &[u8]) -> Hash {
        blake3::keyed_hash(&self.chunk, bytes).into()
    }

    /// Begins a hash over parts of a pack.
    pub fn pack(&self) -> blake3::Hasher {
        blake3::Hasher::new_keyed(&self.pack)
    }

    /// Of a manifest's JSON.
    pub fn manifest(&self, bytes: &[u8]) -> Hash {
        blake3::keyed_hash(&self.manifest, bytes).into()
    }

    /// Of a drill's JSON.
    pub fn drill(&self, bytes: &[u8]) -> Hash {
        blake3::keyed_hash(&self.drill, bytes).into()
    }

    /// Of a binary log segment.
    pub fn binlog(&self, bytes: &[u8]) -> Hash {
        blake3::keyed_hash(&self.binlog, bytes).into()
    }

    /// Of a note's JSON.
    pub fn note(&self, bytes: &[u8]) -> Hash {
        blake3::keyed_hash(&self.note, bytes).into()
    }
}

/// The object that describes the repository.
pub(super) const CONFIG: &str = "config";
/// Below it lie the packs.
pub(super) const PACKS: &str = "packs/";
/// Below it lie the manifests.
pub(super) const MANIFESTS: &str = "manifests/";
/// Below it lie marks: objects of packs that a prune means to delete.
pub(super) const DOOMED: &str = "doomed/";
/// Below it lies a note for each backup that runs.
pub(super) const RUNNING: &str = "running/";
/// Below it lie notes on backups that must be kept.
pub(super) const HOLDS: &str = "holds/";
/// Below it lie notes on backups that lost something.
pub(super) const DAMAGED: &str = "damaged/";
/// Below it lie segments of binary logs.
pub(super) const BINLOGS: &str = "binlogs/";
/// Below it lie the verdicts of restore drills.
pub(super) const DRILLS: &str = "drills/";

/// `packs/<first two digits>/<id>`.
pub(super) fn pack_key(id: Id) -> String {
    let id = id.to_string();
    format!("{PACKS}{}/{id}", &id[..2])
}

/// `packs/<first two digits>/`: where all generations of a pack are.
pub(super) fn pack_prefix(id: Id) -> String {
    format!("{PACKS}{:02x}/", id.0[0])
}

/// One object that holds a pack. Generation 0 is what its backup wrote, `<id>`; later ones are what a prune or a repair kept of it,
/// `<id>.<generation>-<16 random digits>`. No name is ever used twice: whoever means to delete an object deletes that one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PackName {
    pub id: Id,
    pub generation: u32,
    salt: u64,
}

impl PackName {
    /// What a backup writes.
    pub fn first(id: Id) -> PackName {
        PackName {
            id,
            generation: 0,
            salt: 0,
        }
    }

    /// A new name for a later generation.
    pub fn later(id: Id, generation: u32) -> PackName {
        let random = Id::random().0;
        let salt = random[..8].iter().fold(0, |salt, byte| salt << 8 | u64::from(*byte));
        PackName { id, generation, salt }
    }

    /// Its key in the store.
    pub fn key(&self) -> String {
        format!("{}{self}", pack_prefix(self.id))
    }

    /// The object of a key, if it is a pack's.
    pub fn of_key(key: &str) -> Option<PackName> {
        let name = PackName::parse(key.rsplit('/').next()?)?;
        (name.key() == key).then_some(name)
    }

    /// The object of a name.
    pub fn parse(text: &str) -> Option<PackName> {
        let name = match text.split_once('.') {
            None => PackName::first(text.parse().ok()?),
            Some((id, rest)) => {
                let (generation, salt) = rest.split_once('-')?;
                PackName {
                    id: id.parse().ok()?,
                    generation: generation.parse().ok().filter(|generation| *generation > 0)?,
                    salt: u64::from_str_radix(salt, 16).ok()?,
                }
            }
        };
        // Numbers have more than one spelling, names have one.
        (name.to_string() == text).then_some(name)
    }
}

impl fmt::Display for PackName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.generation {
            0 => write!(f, "{}", self.id),
            generation => write!(f, "{}.{generation}-{:016x}", self.id, self.salt),
        }
    }
}

/// `manifests/<host>/<time>-<id>`, the time as `20261123T182455Z`: names sort by time.
pub(super) fn manifest_key(host: &str, time: jiff::Timestamp, id: Id) -> String {
    format!("{MANIFESTS}{host}/{}-{id}", time.strftime("%Y%m%dT%H%M%SZ"))
}

/// `drills/<backup id>/<time>-<id>`, the time as in a manifest's name.
pub(super) fn drill_key(backup: Id, time: jiff::Timestamp, id: Id) -> String {
    format!("{DRILLS}{backup}/{}-{id}", time.strftime("%Y%m%dT%H%M%SZ"))
}

/// Whether a host's name can stand in a key.
pub fn is_valid_host(host: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !host.is_empty() && host.len() <= 128 && !host.starts_with('.') && host.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pack_is_found_again_by_its_key() {
        let id = Id::random();
        let (first, later) = (PackName::first(id), PackName::later(id, 3));
        assert_eq!(first.key(), pack_key(id));
        for name in [first, later] {
            assert_eq!(PackName::of_key(&name.key()), Some(name));
        }
        assert!(
            first < later && later < PackName::later(id, 10),
            "not in the order of generations"
        );
        let id = "00112233445566778899aabbccddeeff";
        for bad in [
            format!("packs/zz/{id}"),
            "packs/x".to_owned(),
            format!("packs/00/{id}.0-0000000000000000"),
            format!("packs/00/{id}.01-0000000000000000"),
            format!("packs/00/{id}.1-1"),
            format!("packs/00/{id}.1-000000000000000A"),
        ] {
            assert_eq!(PackName::of_key(&bad), None, "{bad}");
        }
    }

    #[test]
    fn hosts_stay_inside_their_directory() {
        for bad in ["", "..", "a/b", ".x", "a b", "ü"] {
            assert!(!is_valid_host(bad), "{bad}");
        }
        assert!(is_valid_host("db-1.example.com"));
    }
}
