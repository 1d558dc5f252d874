//! `innodb_flush_log_at_trx_commit` raised from 0 for a run, and put back (trap 14).

use super::connect::ConnectOptions;
use super::facts::Variables;
use super::grounds::{self, Grounds};
use super::same_server::SameServer;
use super::session::{Answer, Session};
use crate::config::Server;
use crate::database::{Error, Result};
use crate::journal::{Journal, Made, Setting};

use std::time::Duration;

const VARIABLE: &str = "innodb_flush_log_at_trx_commit";

/// Writes out what was committed without a flush: rows while the setting was 0. MariaDB also commits what needs no undo without one, whatever the setting: the row of
/// a new sequence, and a sequence's next value (measured with 10.11: CREATE SEQUENCE, SIGKILL, and the row is gone). Asks for the setting that MariaDB flushes
/// by: at 0 it flushes nothing.
pub const ASK_AND_FLUSH: &str =
    "SELECT @@global.innodb_flush_log_at_trx_commit AS setting; FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS";

/// The same, with the setting raised again in the same round trip, right before the flush: another session may have put it back since, and may do so in between. So it is
/// done twice, which costs nothing where the first has flushed all. Asks how far the redo log had come, so that it can be seen afterwards that it is durable up to there.
pub const RAISE_AND_FLUSH: &str = "SHOW GLOBAL STATUS WHERE Variable_name = 'Innodb_lsn_current'; \
     SET GLOBAL innodb_flush_log_at_trx_commit = 1; FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS; \
     SET GLOBAL innodb_flush_log_at_trx_commit = 1; FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS; \
     SELECT @@global.innodb_flush_log_at_trx_commit AS setting";

/// What the answers to one of these say about the flush that followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flush {
    /// The setting beside it was not 0.
    pub by_setting: bool,
    /// How far the redo log had come; `None` where it was not asked.
    pub due: Option<u64>,
}

impl Flush {
    /// From the answers.
    pub fn of(answers: &[Answer]) -> Flush {
        let rows = || answers.iter().flat_map(|answer| &answer.rows);
        Flush {
            by_setting: rows().filter_map(|row| row.get("setting")).all(|value| value != "0"),
            due: rows().find_map(|row| row.number("Value")),
        }
    }

    /// Whether everything that was committed before the flush is in the redo log's file, by what was read after it: the log is durable up to where it was, whatever
    /// the setting is now; or the setting was right before and after.
    pub fn is_proved(self, after: &Grounds) -> bool {
        let durable = self.due.zip(after.flushed).is_some_and(|(due, flushed)| flushed >= due);
        durable || self.by_setting && after.commits_are_written()
    }
}

/// Raises the setting from 0 to 1. The journal has the old value before the server changes.
///
/// # Errors
/// The journal cannot be written, or the server refuses.
pub fn raise(session: &mut Session, journal: &Journal, same: &SameServer, old: u8) -> crate::Result<Setting> {
    let setting = Setting {
        server: same.options.address(),
        identity: grounds::identity(|name| same.first().get(name)),
        variable: VARIABLE.to_owned(),
        old: old.to_string(),
        new: "1".to_owned(),
    };
    journal.record(&Made::Setting(setting.clone()))?;
    match session.run(&format!("SET GLOBAL {VARIABLE} = {}", setting.new)) {
        Ok(()) => Ok(setting),
        // The server said no: nothing is to be put back. Of a connection that broke nobody knows.
        Err(error @ Error::Statement { code: 1.., .. }) => {
            let told = journal.undone(&Made::Setting(setting));
            Err(crate::Error::from(error).and_rollback(told.map_err(Into::into)))
        }
        Err(error) => Err(error.into()),
    }
}

/// Raises the setting where it is 0 now, whoever set it.
///
/// # Errors
/// As [`raise`].
pub fn raise_again(
    session: &mut Session,
    journal: &Journal,
    same: &SameServer,
    setting: &mut Option<Setting>,
) -> crate::Result<()> {
    if session.value(&format!("SELECT @@global.{VARIABLE}"))?.as_deref() != Some("0") {
        return Ok(());
    }
    match setting {
        Some(setting) => session.run(&format!("SET GLOBAL {VARIABLE} = {}", setting.new))?,
        None => *setting = Some(raise(session, journal, same, 0)?),
    }
    Ok(())
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
    let variables = Variables::read(&mut session)?;
    let now = grounds::identity(|name| variables.get(name));
    if setting.identity.is_some() && setting.identity != now {
        return Err(Error::Unsupported(format!(
            "another server listens at {} now than the one on which {} was changed: nothing was set there",
            setting.server, setting.variable
        )));
    }
    restore(&mut session, setting)
}

#[cfg(test)]
mod tests {
    use super::super::flavour::Dialect;
    use super::super::grounds::Watch;
    use super::super::session::Row;
    use super::*;

    fn after(setting: &str, flushed: &str) -> Grounds {
        let dialect = Dialect {
            flavour: crate::database::Flavour::MariaDb,
            version: (10, 11, 14),
        };
        let state = Row::of(&[("Variable_name", Some("Innodb_lsn_flushed")), ("Value", Some(flushed))]);
        Watch::new(&Variables::of(&[(VARIABLE, setting)]), dialect)
            .understand(&[Row::of(&[(VARIABLE, Some(setting))])], &[state])
    }

    #[test]
    fn a_flush_is_proved_by_the_log_or_by_the_setting_on_both_sides() {
        let answer = |row: Row| Answer {
            rows: vec![row],
            at: std::time::Instant::now(),
        };
        let asked = |setting, due| {
            let setting = answer(Row::of(&[("setting", Some(setting))]));
            let due = answer(Row::of(&[
                ("Variable_name", Some("Innodb_lsn_current")),
                ("Value", Some(due)),
            ]));
            Flush::of(&[due, setting])
        };
        // Set back at once, and durable all the same.
        assert!(asked("0", "500").is_proved(&after("0", "500")));
        assert!(!asked("0", "500").is_proved(&after("0", "499")));
        // 2: written, and not said to be durable.
        assert!(asked("2", "500").is_proved(&after("2", "499")));
        for (before, now) in [("0", "1"), ("1", "0")] {
            assert!(!asked(before, "500").is_proved(&after(now, "499")), "{before} {now}");
        }
    }
}
