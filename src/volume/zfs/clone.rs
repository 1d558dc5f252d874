//! Clones of snapshots: of a volume, to read it or for a private server; of a dataset, for a private server. They go before their snapshot.

use super::super::{Error, Result, Snapshot, mark};
use super::report::{PROPERTY, zfs};
use super::{OF, pool_of};

/// Properties that say how a dataset's files and their metadata are read and written. A clone has those of its parent and not those of what it was cloned from.
const OF_FILES: &str = "acltype,xattr,compression,recordsize";

/// What else the clone of a dataset gets: nothing mounts it but we, and it can be written to.
const OF_CLONE: [&str; 4] = ["canmount=noauto", "mountpoint=legacy", "readonly=off", "atime=off"];

/// A name beside the pool's own datasets: `POOL/snapback-RUN-NUMBER`, by the snapshot's GUID, so that two of one run differ.
pub fn beside(snapshot: &Snapshot) -> Result<String> {
    let guid = snapshot.identity.as_deref().and_then(|guid| guid.parse::<u64>().ok());
    let guid = guid.filter(|_| !snapshot.identity.as_deref().unwrap_or(OF).starts_with(OF));
    let number = guid.ok_or_else(|| Error::failed("clone", &snapshot.name, "its GUID is not known"))?;
    Ok(format!(
        "{}/{}",
        pool_of(&snapshot.name),
        mark::name(snapshot.run, number)
    ))
}

/// The writable clone of a snapshot.
pub fn planned(snapshot: &Snapshot) -> Result<Snapshot> {
    mark::clone_of(snapshot, &beside(snapshot)?)
}

/// Makes a clone with our mark and these properties (`NAME=VALUE`).
pub fn make(snapshot: &Snapshot, name: &str, properties: &[impl AsRef<str>]) -> Result<()> {
    let marked = zfs("clone")?.args(["-o", &format!("{PROPERTY}={}", snapshot.run)]);
    let set = properties
        .iter()
        .fold(marked, |command, property| command.args(["-o", property.as_ref()]));
    set.args([&*snapshot.name, name]).run()?;
    Ok(())
}

/// What the clone of a dataset is made with.
pub fn of_dataset(dataset: &str) -> Result<Vec<String>> {
    let output = zfs("get")?
        .args(["-H", "-p", "-o", "property,value", OF_FILES, dataset])
        .run()?;
    let text = String::from_utf8_lossy(&output).into_owned();
    let same = text.lines().map(|line| line.replacen('\t', "=", 1));
    Ok(OF_CLONE.iter().map(|one| (*one).to_owned()).chain(same).collect())
}
