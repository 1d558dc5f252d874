//! Prune, compaction and repair beside running backups and other prunes: what is needed stays, what is not goes.
#![allow(missing_docs)]

mod alone;
mod cuts;
mod hooked;
mod order;
mod races;
mod repair;
mod scene;
mod sequences;
#[path = "../common/stored.rs"]
mod stored;
