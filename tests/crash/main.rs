//! Power cuts, full disks and failing calls at every step of a backup: the repository stays good, and a backup is whole or is not there.
#![allow(missing_docs)]

#[path = "../common/stored.rs"]
mod stored;

#[cfg(feature = "failpoints")]
mod disk;
mod memory;
#[cfg(feature = "failpoints")]
mod sweep;
