//! Doors for fuzzing: one function per reader of bytes that this program has not written just now. Not part of the library's interface.
//!
//! Each takes any bytes and must come back without a panic, in bounded memory and time; what it can check beyond that it asserts.
//! `fuzz/` has the coverage-guided targets; the tests below drive the same doors in every test run.

use std::path::Path;

use crate::database::Flavour;

/// A door: its name, and the reader behind it.
pub type Door = (&'static str, fn(&[u8]));

/// All doors.
pub const DOORS: [Door; 9] = [
    ("footer", crate::repository::fuzzing::footer),
    ("section", crate::repository::fuzzing::section),
    ("table", crate::repository::fuzzing::table),
    ("index", crate::repository::fuzzing::index),
    ("manifest", crate::repository::fuzzing::manifest),
    ("config", config),
    ("mountinfo", mountinfo),
    ("option_file", option_file),
    ("binlog", binlog),
];

/// Takes bytes through the door of this name.
///
/// # Panics
/// There is no such door, or the bytes found something.
pub fn through(name: &str, data: &[u8]) {
    let door = DOORS.iter().find(|(known, _)| *known == name);
    let (_, door) = door.unwrap_or_else(|| panic!("there is no door {name}"));
    door(data);
}

/// A configuration file.
fn config(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = crate::config::Config::parse(text);
    }
}

/// A mount table, and questions to it.
fn mountinfo(data: &[u8]) {
    if let Ok(mounts) = crate::detect::Mounts::parse(data) {
        for mount in &mounts.0 {
            let found = mounts.of(&mount.mount_point);
            assert!(found.is_some(), "a mount point lies on no mount");
            let within = mount.within(&mount.mount_point);
            assert!(within.is_none_or(|within| mount.shows(&within).is_some()));
        }
    }
}

/// An option file; what it includes is not followed.
fn option_file(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        crate::database::mysql::option_file::read_lines(text);
    }
}

/// A binary log, as both servers write it.
fn binlog(data: &[u8]) {
    let log = |flavour| crate::database::mysql::binlog::end_of(Path::new("fuzzed"), data, flavour);
    for flavour in [Flavour::MariaDb, Flavour::MySql] {
        if let Ok(Some(end)) = log(flavour) {
            assert!(end <= data.len() as u64, "the position {end} lies behind the end");
        }
    }
}

#[cfg(test)]
mod tests;
