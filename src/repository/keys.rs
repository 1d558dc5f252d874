//! Hashes with the repository's own key, and the names of its objects.

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
}

impl Keys {
    pub fn new(key: &Hash) -> Keys {
        Keys {
            chunk: blake3::derive_key("snapback 1 chunk", key),
            pack: blake3::derive_key("snapback 1 pack", key),
            manifest: blake3::derive_key("snapback 1 manifest", key),
            drill: blake3::derive_key("snapback 1 drill", key),
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
}

/// The object that describes the repository.
pub(super) const CONFIG: &str = "config";
/// Below it lie the packs.
pub(super) const PACKS: &str = "packs/";
/// Below it lie the manifests.
pub(super) const MANIFESTS: &str = "manifests/";
/// Below it lie the verdicts of restore drills.
pub(super) const DRILLS: &str = "drills/";
/// Below it lies a mark for each pack that a prune means to delete.
pub(super) const DOOMED: &str = "doomed/";

/// `packs/<first two digits>/<id>`.
pub(super) fn pack_key(id: Id) -> String {
    let id = id.to_string();
    format!("{PACKS}{}/{id}", &id[..2])
}

/// The pack of a key, if it is one.
pub(super) fn pack_of(key: &str) -> Option<Id> {
    let id = key.rsplit('/').next()?.parse().ok()?;
    (pack_key(id) == key).then_some(id)
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
        assert_eq!(pack_of(&pack_key(id)), Some(id));
        assert_eq!(pack_of("packs/zz/00112233445566778899aabbccddeeff"), None);
        assert_eq!(pack_of("packs/x"), None);
    }

    #[test]
    fn hosts_stay_inside_their_directory() {
        for bad in ["", "..", "a/b", ".x", "a b", "ü"] {
            assert!(!is_valid_host(bad), "{bad}");
        }
        assert!(is_valid_host("db-1.example.com"));
    }
}
