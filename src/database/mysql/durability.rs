//! `innodb_flush_log_at_trx_commit` raised from 0 for a run, and put back (trap 14).

use super::connect::ConnectOptions;
use super::session::Session;
use crate::config::Server;
use crate::database::{Error, Result};
use crate::journal::{Journal, Made, Setting};

use std::time::Duration;

const VARIABLE: &str = "innodb_flush_log_at_trx_commit";

/// Writes out what was committed without a flush: rows while the setting was 0, and MariaDB's sequences whatever it is.
pub const FLUSH_ENGINE_LOGS: &str = "FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS";

/// Raises the setting from 0 to 1. The journal has the old value before the server changes.
///
/// # Errors
/// The journal cannot be written, or the server refuses.
pub fn raise(session: &mut Session, journal: &Journal, address: &str, old: u8) -> crate::Result<Setting> {
    let setting = Setting {
        server: address.to_owned(),
        variable: VARIABLE.to_owned(),
        old: old.to_string(),
        new: "1".to_owned(),
    };
    journal.record(&Made::Setting(setting.clone()))?;
    session.run(&format!("SET GLOBAL {VARIABLE} = {}", setting.new))?;
    Ok(setting)
}

/// Puts a setting back, unless somebody else has changed it since; tells whether it did.
///
/// # Errors
/// The setting is none of ours, or the server refuses.
pub fn restore(session: &mut Session, setting: &Setting) -> Result<bool> {
    let number = setting.old.parse::<u8>().ok().filter(|_| setting.variable == VARIABLE);
    let Some(old) = number else {
        return Err(Error::Unsupported(format!(
            "the journal says that {} was `{}`, which snapback never sets",
            setting.variable, setting.old
        )));
    };
    let now = session.value(&format!("SELECT @@global.{VARIABLE}"))?;
    if now.as_deref() != Some(setting.new.as_str()) {
        return Ok(false);
    }
    session.run(&format!("SET GLOBAL {VARIABLE} = {old}"))?;
    Ok(true)
}

/// Puts a setting back for `cleanup`, over a connection of its own; `Ok(false)` when it had been changed since.
///
/// # Errors
/// The server cannot be reached, is another one than the journal names, or refuses.
pub fn restore_setting(server: &Server, setting: &Setting) -> Result<bool> {
    let options = ConnectOptions::new(server)?;
    if options.address() != setting.server {
        return Err(Error::Unsupported(format!(
            "{} was changed on the server at {}, but the configuration names the one at {}: \
             run `SET GLOBAL {} = {}` there by hand",
            setting.variable,
            setting.server,
            options.address(),
            setting.variable,
            setting.old
        )));
    }
    let mut session = Session::open(&options, Duration::from_secs(30))?;
    restore(&mut session, setting)
}
