//! Whose a snapshot with our mark is. Every mark has the run's identifier, on every kind of storage; so that is where the installation is named.
//!
//! The last six bytes of a run's identifier are a digest of the other ten under a key that is made of the machine (`/etc/machine-id`, machine-id(5)) and the path
//! of the state directory. An installation knows its own marks again although its state directory was lost; it can show nothing of others', nor of those that
//! older versions made, whose identifiers were random throughout.

use std::path::{Path, PathBuf};

use crate::sys;
use crate::units::Id;

/// Bytes of an identifier that are random.
const RANDOM: usize = 10;

/// Where the machine's identity is: 32 hexadecimal digits.
const MACHINE: [&str; 2] = ["/etc/machine-id", "/var/lib/dbus/machine-id"];

/// One installation: a state directory on a machine.
#[derive(Clone, Copy)]
pub struct Owner(Option<[u8; 32]>);

impl Owner {
    /// The installation that keeps its state here. Where the machine has no identity, it can prove nothing to be its own.
    pub fn of(state_dir: &Path) -> Owner {
        Owner::on(machine().as_deref(), &real(state_dir))
    }

    fn on(machine: Option<&str>, state_dir: &Path) -> Owner {
        use std::os::unix::ffi::OsStrExt;
        let key = machine.map(|machine| {
            let identity = [machine.as_bytes(), b"\0", state_dir.as_os_str().as_bytes()].concat();
            blake3::derive_key("snapback 2026-11-30 installation that marks snapshots", &identity)
        });
        Owner(key)
    }

    /// A new identifier for a run of this installation.
    pub fn new_run(&self) -> Id {
        let mut id = Id::random();
        if let Some(digest) = self.digest(&id) {
            id.0[RANDOM..].copy_from_slice(&digest);
        }
        id
    }

    /// Whether a run is proved to be one of this installation.
    pub fn owns(&self, run: Id) -> bool {
        self.digest(&run).is_some_and(|digest| digest == run.0[RANDOM..])
    }

    fn digest(&self, id: &Id) -> Option<[u8; 16 - RANDOM]> {
        let digest = blake3::keyed_hash(&self.0?, &id.0[..RANDOM]);
        digest.as_bytes()[..16 - RANDOM].try_into().ok()
    }
}

fn machine() -> Option<String> {
    let read = |path: &str| {
        let bytes = sys::fs::read_plain_linked(Path::new(path), sys::fs::TEXT_LIMIT).ok()?;
        let text = String::from_utf8(bytes).ok()?.trim().to_owned();
        (text.len() == 32 && text.bytes().all(|digit| digit.is_ascii_hexdigit())).then_some(text)
    };
    MACHINE.into_iter().find_map(read)
}

/// The path without links, as far as it is there: it may have been lost.
fn real(path: &Path) -> PathBuf {
    let there = path
        .ancestors()
        .find_map(|above| Some((above, above.canonicalize().ok()?)));
    match there {
        Some((above, real)) => match path.strip_prefix(above) {
            Ok(rest) if !rest.as_os_str().is_empty() => real.join(rest),
            _ => real,
        },
        None => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_tells_its_installation_and_no_other() {
        let (machine, other) = ("0123456789abcdef0123456789abcdef", "f123456789abcdef0123456789abcdef");
        let own = Owner::on(Some(machine), Path::new("/var/lib/snapback"));
        let again = Owner::on(Some(machine), Path::new("/var/lib/snapback"));
        let strangers = [
            Owner::on(Some(machine), Path::new("/var/lib/snapback2")),
            Owner::on(Some(other), Path::new("/var/lib/snapback")),
            Owner::on(None, Path::new("/var/lib/snapback")),
        ];
        for _ in 0..1000 {
            let run = own.new_run();
            assert!(own.owns(run) && again.owns(run));
            assert!(!strangers.iter().any(|one| one.owns(run)));
            // As versions before made them.
            assert!(!own.owns(Id::random()));
        }
        assert!(!strangers[2].owns(strangers[2].new_run()));
        assert_ne!(own.new_run(), own.new_run());
    }

    #[test]
    fn a_state_directory_that_was_lost_is_the_same_one() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("var/state");
        let before = real(&state);
        std::fs::create_dir_all(&state).unwrap();
        assert_eq!(real(&state), before);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&state, &link).unwrap();
        assert_eq!(real(&link), before);
    }
}
