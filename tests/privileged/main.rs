//! Whole runs of the built binary on real servers and real Btrfs. Needs root; `scripts/test` installs the rest.
#![allow(missing_docs, clippy::print_stderr, clippy::print_stdout)]

#[path = "../common/mod.rs"]
mod common;

mod exactness;
mod failures;
mod files;
mod kill_phases;
mod lock_safety;
mod round_trip;
mod setting;
mod volume_btrfs;
