//! The signs by which a job is known.

use std::path::{Path, PathBuf};

use super::Installation;
use crate::config::Config;
use crate::database::{Flavour, ServerFacts};
use crate::sys;
use crate::sys::fs::Beneath;

/// Aria's control file: magic (3 bytes), version (1), then the UUID (16) (storage/maria/ma_control_file.c).
const ARIA: &str = "aria_log_control";
const ARIA_MAGIC: [u8; 3] = [0xfe, 0xfe, 0x0c];
const ARIA_UUID: std::ops::Range<usize> = 4..20;
/// It has less than 100 bytes.
const ARIA_LIMIT: u64 = 64 << 10;

/// What lasts of a server: see [`super::Job::data`]. MariaDB's is read in the datadir or, where that is set, in `aria_log_dir_path`.
pub fn data_id(facts: &ServerFacts) -> Option<String> {
    match facts.flavour {
        Flavour::MySql => facts.server_uuid.as_deref().map(mysql),
        Flavour::MariaDb => {
            let elsewhere = facts.variables.get("aria_log_dir_path").map(PathBuf::from);
            let elsewhere = elsewhere.filter(|path| path.is_absolute());
            let places = [Some(facts.datadir.clone()), elsewhere];
            places.into_iter().flatten().find_map(|place| aria_uuid(&place))
        }
    }
}

/// MySQL's.
pub(super) fn mysql(uuid: &str) -> String {
    format!("mysql:{}", uuid.to_ascii_lowercase())
}

/// The UUID in the control file of this directory.
fn aria_uuid(directory: &Path) -> Option<String> {
    let beneath = Beneath::open(directory).ok()?;
    aria_uuid_in(&beneath.read_plain(Path::new(ARIA), ARIA_LIMIT).ok()?)
}

fn aria_uuid_in(file: &[u8]) -> Option<String> {
    let uuid = file.get(ARIA_UUID).filter(|_| file.starts_with(&ARIA_MAGIC))?;
    let digits: String = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(format!("mariadb:{digits}"))
}

/// This machine, hashed (machine-id(5) asks not to show it); where it has no id, the installation stands for it.
pub(super) fn machine(installation: &Installation) -> String {
    let id = sys::identity::machine().unwrap_or_else(|| installation.id.to_string());
    short_hash(&id)
}

/// The same where there may be no installation yet.
pub(super) fn machine_of(installation: Option<&Installation>) -> Option<String> {
    match installation {
        Some(installation) => Some(machine(installation)),
        None => sys::identity::machine().map(|id| short_hash(&id)),
    }
}

/// The configured trees that are not excluded, without links.
pub(super) fn trees(config: &Config) -> Vec<PathBuf> {
    let real = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
    let excluded = |path: &Path| config.exclude.iter().any(|excluded| path.starts_with(excluded));
    let trees = config.files.iter().filter(|path| !excluded(path));
    sorted(&trees.map(real).collect::<Vec<_>>())
}

/// The board, hashed.
pub(super) fn hardware() -> Option<String> {
    sys::identity::hardware().map(|id| short_hash(&id))
}

/// Where the paths are. `None` when one is not there, or its filesystem does not tell.
pub(super) fn place(paths: &[PathBuf]) -> Option<String> {
    let births: Option<Vec<String>> = paths.iter().map(|path| sys::identity::birth(path)).collect();
    births
        .filter(|births| !births.is_empty())
        .map(|births| births.join(" "))
}

pub(super) fn sorted(paths: &[PathBuf]) -> Vec<PathBuf> {
    let mut paths = paths.to_vec();
    paths.sort();
    paths.dedup();
    paths
}

fn short_hash(text: &str) -> String {
    hash(text)[..16].to_owned()
}

/// 64 hexadecimal digits.
pub(super) fn hash(text: &str) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("snapback 2026 job identity");
    hasher.update(text.as_bytes());
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arias_control_file_has_the_uuid_behind_its_magic_and_version() {
        let mut file = vec![0xfe, 0xfe, 0x0c, 1];
        file.extend(1..=16);
        assert_eq!(
            aria_uuid_in(&file).as_deref(),
            Some("mariadb:0102030405060708090a0b0c0d0e0f10")
        );
        assert_eq!(aria_uuid_in(&file[..19]), None);
        file[0] = 0;
        assert_eq!(aria_uuid_in(&file), None);
    }
}
