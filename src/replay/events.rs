//! Events of the scheduler: an applier makes those that it creates or alters `SLAVESIDE_DISABLED`, as on a replica. What comes out here is no replica, so they become
//! what they were on their server.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Plan;
use crate::database::Flavour;
use crate::database::mysql::scratch::Scratch;
use crate::database::mysql::session::{Row, Session};
use crate::finding::Finding;
use crate::{Error, Result};

/// The longest that one statement about an event may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// The events of a private server before a replay.
pub(super) struct Events<'a> {
    plan: &'a Plan,
    server: &'a Scratch,
    flavour: Flavour,
    disabled: BTreeSet<(String, String)>,
}

impl<'a> Events<'a> {
    /// Looks which are disabled as on a replica already: these stay so.
    ///
    /// # Errors
    /// The server cannot be asked.
    pub fn before(plan: &'a Plan, server: &'a Scratch, flavour: Flavour) -> Result<Events<'a>> {
        let mut events = Events {
            plan,
            server,
            flavour,
            disabled: BTreeSet::new(),
        };
        if !plan.events.is_empty() {
            let rows = disabled(&mut server.session(PATIENCE)?)?;
            // What a statement of the log touches is decided by that statement.
            let untouched = |name: &(String, String)| plan.events.iter().all(|(_, text)| !mentions(text, &name.1));
            events.disabled = rows.iter().map(name_of).filter(untouched).collect();
        }
        Ok(events)
    }

    /// Enables those that the replay disabled and that their server had enabled. Gives a warning about those of which the log does not tell.
    ///
    /// # Errors
    /// The server cannot be asked, or does not enable one.
    pub fn enable(self) -> Result<Option<Finding>> {
        if self.plan.events.is_empty() {
            return Ok(None);
        }
        let mut session = self.server.session(PATIENCE)?;
        session.run("SET SESSION sql_log_bin = 0")?;
        let mut unknown = Vec::new();
        for row in disabled(&mut session)? {
            let name = name_of(&row);
            if self.disabled.contains(&name) {
                continue;
            }
            match self.was_enabled(&name.1) {
                Some(true) => self.enable_one(&mut session, &row)?,
                Some(false) => {}
                None => unknown.push(format!("{}.{}", name.0, name.1)),
            }
        }
        Ok((!unknown.is_empty()).then(|| {
            Finding::warning(
                "events-disabled",
                format!(
                    "the log does not tell whether these events were enabled, and they are disabled now: {}",
                    unknown.join(", ")
                ),
            )
            .remedy("ALTER EVENT ... ENABLE, where they are wanted")
        }))
    }

    /// By the last statement about it; `None`: there is none that is short enough to be read.
    fn was_enabled(&self, name: &str) -> Option<bool> {
        let own = self.plan.record.server.as_ref().map(|facts| facts.server_id);
        let last = self.plan.events.iter().rev().find(|(_, text)| mentions(text, name));
        last.map(|(server, text)| {
            let text = text.to_ascii_uppercase();
            // On a replica those of its source were disabled.
            own == Some(u64::from(*server)) && !text.contains("DISABLE ON ")
        })
    }

    fn enable_one(&self, session: &mut Session, row: &Row) -> Result<()> {
        let (schema, name) = name_of(row);
        let own = self.plan.record.server.as_ref().map_or(0, |facts| facts.server_id);
        match self.flavour {
            // ALTER EVENT would give it the session's definer, SQL mode and character set.
            Flavour::MariaDb => session.run(&format!(
                "UPDATE mysql.event SET status = 'ENABLED', originator = {own} WHERE db = {} AND name = {}",
                quoted(&schema),
                quoted(&name)
            ))?,
            Flavour::MySql => {
                let (user, host) = row.text("DEFINER").rsplit_once('@').map_or_else(
                    || Err(Error::failed(format!("the event {schema}.{name} has no definer"))),
                    |(user, host)| Ok((user.to_owned(), host.to_owned())),
                )?;
                for (variable, column) in [
                    ("sql_mode", "SQL_MODE"),
                    ("time_zone", "TIME_ZONE"),
                    ("character_set_client", "CHARACTER_SET_CLIENT"),
                    ("collation_connection", "COLLATION_CONNECTION"),
                ] {
                    session.run(&format!("SET SESSION {variable} = {}", quoted(&row.text(column))))?;
                }
                session.run(&format!(
                    "ALTER DEFINER = {}@{} EVENT {}.{} ENABLE",
                    identifier(&user),
                    identifier(&host),
                    identifier(&schema),
                    identifier(&name)
                ))?;
                session.run("SET SESSION sql_mode = DEFAULT, character_set_client = utf8mb4")?;
            }
        }
        Ok(())
    }
}

fn disabled(session: &mut Session) -> Result<Vec<Row>> {
    Ok(session.rows(
        "SELECT EVENT_SCHEMA, EVENT_NAME, DEFINER, SQL_MODE, TIME_ZONE, CHARACTER_SET_CLIENT, COLLATION_CONNECTION \
         FROM information_schema.EVENTS WHERE STATUS IN ('SLAVESIDE_DISABLED', 'REPLICA_SIDE_DISABLED')",
    )?)
}

fn name_of(row: &Row) -> (String, String) {
    (row.text("EVENT_SCHEMA"), row.text("EVENT_NAME"))
}

/// Whether a statement about events has this name in it, and not as a part of a longer one.
fn mentions(text: &str, name: &str) -> bool {
    let (text, name) = (text.to_lowercase(), name.to_lowercase());
    let inside = |character: Option<char>| character.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$');
    text.match_indices(&name).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + name.len()..]);
        !inside(before.chars().next_back()) && !inside(after.chars().next())
    })
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_meant_by_its_whole_name() {
        assert!(mentions("CREATE EVENT `t`.`Clean` ON SCHEDULE EVERY 1 DAY", "clean"));
        assert!(!mentions("CREATE EVENT clean_up ON SCHEDULE EVERY 1 DAY", "clean"));
        assert_eq!(quoted("a'b\\c"), "'a''b\\\\c'");
        assert_eq!(identifier("a`b"), "`a``b`");
    }
}
