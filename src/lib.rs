//! snapback backs up a live MySQL or MariaDB host from a storage snapshot.
//!
//! This file is the table of contents. Arrows point one way:
//! `cli -> backup, snapshot, rollback, forget, restore, verify, drill, export, mount, cleanup -> detect, database, volume, copy, repository -> store -> sys`.
//! Only [`cli`] prints or exits; only [`sys`] holds `unsafe` or starts programs.

pub mod cli;

pub mod backup;
pub mod binlog_archive;
mod booted;
pub mod check;
pub mod cleanup;
pub mod drill;
pub mod dump;
pub mod export;
pub mod forget;
pub mod mount;
pub mod replay;
pub mod restore;
pub mod rollback;
pub mod seed;
pub mod service;
pub mod snapshot;
pub mod table;
pub mod verify;

pub mod copy;
pub mod database;
pub mod detect;
pub mod repository;
pub mod store;
pub mod volume;

pub mod config;
pub mod error;
pub mod finding;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod held;
pub mod hooks;
pub mod job;
pub mod journal;
pub mod monitor;
pub mod record;
pub mod retention;
pub mod sys;
pub mod timeline;
pub mod units;

pub use error::{Error, Result};
