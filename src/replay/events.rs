//! Events of the scheduler: an applier makes those that it creates or alters `SLAVESIDE_DISABLED`, as on a replica. What comes out here is no replica, so they become
//! what they were on their server.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Plan;
use crate::database::Flavour;
use crate::database::mysql::scratch::Scratch;
use crate::database::mysql::session::{Row, Session};
use crate::finding::Finding;
use crate::{Error, Result};

/// The longest that one statement about an event may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// What an event is on its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Enabled,
    Disabled,
    /// Disabled because the server is a replica, or as if it were.
    OnReplica,
}

/// The events of a private server before a replay.
pub(super) struct Events<'a> {
    plan: &'a Plan,
    server: &'a Scratch,
    flavour: Flavour,
    before: BTreeMap<(String, String), State>,
}

impl<'a> Events<'a> {
    /// Looks what they are.
    ///
    /// # Errors
    /// The server cannot be asked.
    pub fn before(plan: &'a Plan, server: &'a Scratch, flavour: Flavour) -> Result<Events<'a>> {
        let mut before = BTreeMap::new();
        if !plan.events.is_empty() {
            let rows = all(&mut server.session(PATIENCE)?)?;
            before.extend(rows.iter().map(|row| (name_of(row), state_of(row))));
        }
        Ok(Events {
            plan,
            server,
            flavour,
            before,
        })
    }

    /// Makes those that the replay disabled what they were on their server. Gives a warning about those of which the log does not tell.
    ///
    /// # Errors
    /// The server cannot be asked, or does not do it.
    pub fn settle(self) -> Result<Option<Finding>> {
        if self.plan.events.is_empty() {
            return Ok(None);
        }
        let mut session = self.server.session(PATIENCE)?;
        session.run("SET SESSION sql_log_bin = 0")?;
        let mut unknown = Vec::new();
        let own = self.plan.record.server.as_ref().map_or(0, |facts| facts.server_id);
        for row in all(&mut session)? {
            let name = name_of(&row);
            if state_of(&row) != State::OnReplica {
                continue;
            }
            match then(self.before.get(&name).copied(), &self.plan.events, &name.1, own) {
                Some(State::OnReplica) => {}
                Some(State::Enabled) => self.make(&mut session, &row, "ENABLE")?,
                Some(State::Disabled) => self.make(&mut session, &row, "DISABLE")?,
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

    fn make(&self, session: &mut Session, row: &Row, word: &str) -> Result<()> {
        let (schema, name) = name_of(row);
        let own = self.plan.record.server.as_ref().map_or(0, |facts| facts.server_id);
        match self.flavour {
            // ALTER EVENT would give it the session's definer, SQL mode and character set.
            Flavour::MariaDb => session.run(&format!(
                "UPDATE mysql.event SET status = '{word}D', originator = {own} WHERE db = {} AND name = {}",
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
                    "ALTER DEFINER = {}@{} EVENT {}.{} {word}",
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

fn all(session: &mut Session) -> Result<Vec<Row>> {
    Ok(session.rows(
        "SELECT EVENT_SCHEMA, EVENT_NAME, STATUS, DEFINER, SQL_MODE, TIME_ZONE, CHARACTER_SET_CLIENT, COLLATION_CONNECTION \
         FROM information_schema.EVENTS",
    )?)
}

fn state_of(row: &Row) -> State {
    match row.text("STATUS").as_str() {
        "ENABLED" => State::Enabled,
        "DISABLED" => State::Disabled,
        _ => State::OnReplica,
    }
}

/// What an event was behind these statements, each with the server that it was given on; `own` is the one that was backed up.
fn then(before: Option<State>, statements: &[(u32, String)], name: &str, own: u64) -> Option<State> {
    let mut state = before;
    for (server, text) in statements.iter().filter(|(_, text)| mentions(text, name)) {
        let text = text.to_ascii_uppercase();
        // What it does, or what is said of it, is no state.
        let head = [" DO ", " DO\n", " COMMENT "]
            .iter()
            .filter_map(|word| text.find(word))
            .min()
            .map_or(text.as_str(), |end| &text[..end]);
        let words: Vec<&str> = head.split_whitespace().collect();
        let said = match words.iter().position(|word| *word == "ENABLE" || *word == "DISABLE") {
            Some(at) if words[at] == "ENABLE" => Some(State::Enabled),
            Some(at) if words.get(at + 1) == Some(&"ON") => Some(State::OnReplica),
            Some(_) => Some(State::Disabled),
            None if words.first() == Some(&"DROP") => None,
            None if words.first() == Some(&"CREATE") => Some(State::Enabled),
            None => state,
        };
        // On a replica those of its source do not run.
        state = match said {
            Some(State::Enabled) if u64::from(*server) != own => Some(State::OnReplica),
            said => said,
        };
    }
    state
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

    #[test]
    fn the_state_is_what_the_statements_made_of_it() {
        let of = |before, texts: &[(u32, &str)]| {
            let statements: Vec<(u32, String)> = texts.iter().map(|(id, text)| (*id, (*text).to_owned())).collect();
            then(before, &statements, "e", 7)
        };
        let create = "CREATE DEFINER=`r`@`%` EVENT t.e ON SCHEDULE EVERY 1 DAY";
        let with = |rest: &str| format!("{create} {rest} DO CALL disable ( )");
        assert_eq!(of(None, &[(7, &with(""))]), Some(State::Enabled));
        assert_eq!(of(None, &[(7, &with("DISABLE"))]), Some(State::Disabled));
        assert_eq!(of(None, &[(7, &with("DISABLE ON SLAVE"))]), Some(State::OnReplica));
        assert_eq!(of(None, &[(8, &with(""))]), Some(State::OnReplica));
        assert_eq!(of(None, &[(8, &with("DISABLE"))]), Some(State::Disabled));
        let alter = (7, "ALTER EVENT e ON SCHEDULE EVERY 2 DAY");
        assert_eq!(of(Some(State::Disabled), &[alter]), Some(State::Disabled));
        assert_eq!(of(None, &[alter]), None);
        assert_eq!(
            of(Some(State::Enabled), &[(7, "DROP EVENT e"), (7, &with(""))]),
            Some(State::Enabled)
        );
    }
}
