//! Our mark: the names by which snapshots of ours are known for ever.

use super::{Error, Result, Snapshot};
use crate::units::Id;

/// The identity of a writable clone: it is followed by its snapshot's.
pub const CLONE_OF: &str = "clone-of:";

const PREFIX: &str = "snapback-";

/// The name of a run's snapshot of the volume that the provider numbers so: `snapback-<run>-<number>`.
pub fn name(run: Id, number: u64) -> String {
    format!("{PREFIX}{run}-{number}")
}

/// The run that a name belongs to, if it is one of ours.
pub fn run_of(name: &str) -> Option<Id> {
    let (run, number) = name.strip_prefix(PREFIX)?.split_once('-')?;
    let plain = !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit());
    run.parse().ok().filter(|_| plain)
}

/// The writable clone of a finished snapshot, under the name of a snapshot: numbered with a zero before.
///
/// # Errors
/// The snapshot was not made yet.
pub fn clone_of(snapshot: &Snapshot, name: &str) -> Result<Snapshot> {
    let fail = |reason: &str| Error::failed("clone", &snapshot.name, reason);
    let (head, number) = name
        .rsplit_once('-')
        .ok_or_else(|| fail("that is no name of a snapshot of ours"))?;
    let identity = snapshot.identity.as_deref().filter(|identity| !identity.contains(':'));
    let identity = identity.ok_or_else(|| fail("it was not made yet"))?;
    Ok(Snapshot {
        name: format!("{head}-0{number}"),
        identity: Some(format!("{CLONE_OF}{identity}")),
        ..snapshot.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_is_numbered_beside_its_snapshot_and_tells_it() {
        let run = Id::random();
        let snapshot = |identity: &str| Snapshot {
            run,
            volume: super::super::Volume {
                provider: super::super::ProviderKind::LvmThin,
                id: "vg-0/db".into(),
                source: "vg-0/db".into(),
                fs_type: "ext4".into(),
                top: "/db".into(),
                filesystem: "x".into(),
            },
            name: format!("vg-0/{}", name(run, 12)),
            identity: Some(identity.to_owned()),
        };
        let made = snapshot("a-b");
        let clone = clone_of(&made, &made.name).unwrap();
        assert_eq!(clone.name, format!("vg-0/snapback-{run}-012"));
        assert_eq!(run_of(clone.name.rsplit('/').next().unwrap()), Some(run));
        assert_eq!(clone.identity.as_deref(), Some("clone-of:a-b"));
        let planned = snapshot("of:a-b");
        assert!(clone_of(&planned, &planned.name).is_err());
    }

    #[test]
    fn our_names_are_known_and_no_others() {
        let run = Id::random();
        assert_eq!(run_of(&name(run, 12)), Some(run));
        for stranger in [
            "snapback-",
            "snapback-2026-1",
            "my-snapback",
            "snapshot",
            &format!("snapback-{run}"),
            &format!("snapback-{run}-"),
            &format!("snapback-{run}-1-old"),
            &format!("snapback-{run}-1.bak"),
            &format!("xsnapback-{run}-1"),
        ] {
            assert_eq!(run_of(stranger), None, "{stranger}");
        }
    }
}
