//! The statements, in each server's words.

use serde::{Serialize, Serializer};

use super::{By, Start, Wanted, has_new_words};
use crate::database::{Flavour, ServerFacts};

/// Stands for the password in what is printed.
pub(super) const PLACEHOLDER: &str = "'<password>'";

/// What a statement is for. Who runs all of them on any server needs not know; who starts the server leaves out what it does not need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It is always needed.
    Follow,
    /// The copy's own replication goes.
    Forget,
    /// The server gets its id.
    Id,
    /// The binary log is emptied.
    EmptyLog,
}

/// One of the statements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// With a placeholder for the password.
    pub text: String,
    pub(super) purpose: Purpose,
}

/// As its text.
impl Serialize for Statement {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.text.serialize(serializer)
    }
}

fn of(purpose: Purpose, text: impl Into<String>) -> Statement {
    let text = text.into();
    Statement { text, purpose }
}

/// Text as a literal of SQL; the statements begin with a `sql_mode` in which a backslash escapes.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

pub(super) fn make(
    facts: &ServerFacts,
    channels: &[&str],
    start: &Start,
    by: By,
    wanted: &Wanted,
    server_id: u32,
) -> Vec<Statement> {
    let mut all = vec![of(Purpose::Follow, "SET SESSION sql_mode = ''")];
    all.extend(
        forget(facts, channels)
            .into_iter()
            .map(|text| of(Purpose::Forget, text)),
    );
    match facts.flavour {
        Flavour::MariaDb => mariadb(&mut all, start, by, wanted, server_id),
        Flavour::MySql => mysql(&mut all, facts, start, by, wanted, server_id),
    }
    all
}

/// What a copy brought of its original's replication goes: it would follow as somebody else.
pub(super) fn forget(facts: &ServerFacts, channels: &[&str]) -> Vec<String> {
    match facts.flavour {
        Flavour::MariaDb => {
            let named = channels.iter().filter(|name| !name.is_empty());
            let named = named.map(|name| format!("RESET SLAVE {} ALL", literal(name)));
            let all = ["STOP ALL SLAVES", "RESET SLAVE ALL"].map(str::to_owned);
            all.into_iter().chain(named).collect()
        }
        Flavour::MySql => {
            let replica = replica_word(facts);
            vec![format!("STOP {replica}"), format!("RESET {replica} ALL")]
        }
    }
}

fn replica_word(facts: &ServerFacts) -> &'static str {
    if has_new_words(facts) { "REPLICA" } else { "SLAVE" }
}

fn mariadb(all: &mut Vec<Statement>, start: &Start, by: By, wanted: &Wanted, server_id: u32) {
    // Not kept over a restart: the option file must have it too.
    all.push(of(Purpose::Id, format!("SET GLOBAL server_id = {server_id}")));
    let mut change = source(wanted, "MASTER");
    match (by, &start.gtid) {
        (By::Gtid, Some(gtid)) => {
            // The copy's binary log is the original's; its GTIDs would stand beside those of the position.
            all.push(of(Purpose::EmptyLog, "RESET MASTER"));
            all.push(of(
                Purpose::Follow,
                format!("SET GLOBAL gtid_slave_pos = {}", literal(gtid)),
            ));
            change.push("MASTER_USE_GTID=slave_pos".to_owned());
        }
        _ => {
            change.extend(at(start, "MASTER"));
            change.push("MASTER_USE_GTID=no".to_owned());
        }
    }
    all.push(of(Purpose::Follow, format!("CHANGE MASTER TO {}", change.join(", "))));
    all.push(of(Purpose::Follow, "START SLAVE"));
}

fn mysql(all: &mut Vec<Statement>, facts: &ServerFacts, start: &Start, by: By, wanted: &Wanted, server_id: u32) {
    let new = has_new_words(facts);
    let (replica, word) = (replica_word(facts), if new { "SOURCE" } else { "MASTER" });
    let scope = if facts.version_number >= (8, 0, 0) {
        "PERSIST"
    } else {
        "GLOBAL"
    };
    all.push(of(Purpose::Id, format!("SET {scope} server_id = {server_id}")));
    let mut change = source(wanted, word);
    // An account's password is not sent in the clear, and caching_sha2_password insists on that.
    change.push(format!("{word}_SSL=1"));
    match (by, &start.gtid) {
        (By::Gtid, Some(gtid)) => {
            // Exactly the recorded set, whatever was in the copy's binary log.
            let empty = match facts.version_number >= (8, 2, 0) {
                true => "RESET BINARY LOGS AND GTIDS",
                false => "RESET MASTER",
            };
            all.push(of(Purpose::EmptyLog, empty));
            all.push(of(
                Purpose::Follow,
                format!("SET GLOBAL gtid_purged = {}", literal(gtid)),
            ));
            change.push(format!("{word}_AUTO_POSITION=1"));
        }
        _ => {
            change.extend(at(start, word));
            change.push(format!("{word}_AUTO_POSITION=0"));
        }
    }
    let to = if new {
        "CHANGE REPLICATION SOURCE TO"
    } else {
        "CHANGE MASTER TO"
    };
    all.push(of(Purpose::Follow, format!("{to} {}", change.join(", "))));
    all.push(of(Purpose::Follow, format!("START {replica}")));
}

fn source(wanted: &Wanted, word: &str) -> Vec<String> {
    let user = wanted.user.as_deref().map_or("'<user>'".to_owned(), literal);
    vec![
        format!("{word}_HOST={}", literal(&wanted.host)),
        format!("{word}_PORT={}", wanted.port),
        format!("{word}_USER={user}"),
        format!("{word}_PASSWORD={PLACEHOLDER}"),
    ]
}

fn at(start: &Start, word: &str) -> [String; 2] {
    [
        format!("{word}_LOG_FILE={}", literal(&start.file)),
        format!("{word}_LOG_POS={}", start.position),
    ]
}
