//! Other ways out of a repository give the same tree as a restore, in content, metadata and holes: the independent reader, tar archives, mounts;
//! and golden repositories stay readable. Needs root (owners, devices, FUSE).
#![allow(missing_docs, clippy::print_stderr)]

#[allow(unused_imports)]
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/stored.rs"]
mod stored;

mod export;
mod golden;
mod mount;
mod python;
mod rights;
mod scene;
mod tree;
