//! The whole path on real servers and a real Btrfs, through the built binary. Needs root and loop devices; where a facility is missing
//! the tests say so, and fail when SNAPBACK_TEST_REQUIRE=1.
#![allow(clippy::print_stderr, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod accounts;
mod activated;
mod brink;
mod campaigns;
mod changing;
mod checksums;
mod clean;
mod diff;
mod drill;
mod dump;
mod engines;
mod exactness;
mod failing;
mod failures;
mod files;
mod galera;
mod held;
mod held_space;
mod installations;
mod kill_phases;
mod lines;
mod lock_safety;
mod lvm;
mod measure;
mod outputs;
mod partition;
mod point_in_time;
mod points;
mod replay;
mod replicas;
mod restore_elsewhere;
mod rollback;
mod rollback_steps;
mod round_trip;
mod runbooks;
mod service;
mod setting;
mod several_volumes;
mod swapped;
mod traps;
mod truth;
mod untrusted;
mod watch;
mod whose;
mod zfs;
