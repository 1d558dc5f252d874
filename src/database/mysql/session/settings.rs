//! What a session stands on. A server makes a session out of its global variables and of `init_connect`, neither of which is ours: a limit on rows cuts a list, a SQL
//! mode changes what quotes mean, a character set changes what a path is. So each session sets what matters, before anything else, and sees that it holds.

use super::{Answer, Row};

/// Which servers know a variable: all, or one flavour from this version on (in the form of its versioned comments).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Everywhere,
    /// MariaDB runs `/*M!VERSION ... */` alone, and passes over MySQL's comments from 5.7 on.
    MariaDb(u32),
    MySql(u32),
}

impl Known {
    fn guard(self, text: &str) -> String {
        match self {
            Known::Everywhere => text.to_owned(),
            Known::MariaDb(version) => format!("/*M!{version} {text} */"),
            Known::MySql(version) => format!("/*!{version} {text} */"),
        }
    }
}

/// A variable and its value. In this order: a `max_join_size` that is set takes `sql_big_selects` away.
const SETTINGS: &[(&str, &str, Known)] = &[
    // No ANSI_QUOTES, ORACLE, NO_BACKSLASH_ESCAPES, PAD_CHAR_TO_FULL_LENGTH: our statements and what is read for a dump are those of a default server.
    ("sql_mode", "NO_ENGINE_SUBSTITUTION", Known::Everywhere),
    ("character_set_client", "utf8mb4", Known::Everywhere),
    ("character_set_connection", "utf8mb4", Known::Everywhere),
    ("character_set_results", "utf8mb4", Known::Everywhere),
    ("autocommit", "1", Known::Everywhere),
    ("completion_type", "NO_CHAIN", Known::Everywhere),
    ("sql_select_limit", "18446744073709551615", Known::Everywhere),
    ("max_join_size", "18446744073709551615", Known::Everywhere),
    ("sql_big_selects", "1", Known::Everywhere),
    ("sql_safe_updates", "0", Known::Everywhere),
    ("sql_auto_is_null", "0", Known::Everywhere),
    ("sql_quote_show_create", "1", Known::Everywhere),
    ("group_concat_max_len", "1048576", Known::Everywhere),
    ("time_zone", "+00:00", Known::Everywhere),
    // In seconds: as long as a statement may take outside of a lock.
    ("lock_wait_timeout", "300", Known::Everywhere),
    ("net_write_timeout", "300", Known::Everywhere),
    ("max_execution_time", "0", Known::MySql(50708)),
    ("max_statement_time", "0", Known::MariaDb(100_101)),
];

/// Asks for the connection's id, sets everything, and asks what the server made of it: one round trip. A transaction or table locks that `init_connect` began end.
pub(super) fn statements() -> String {
    let (mut set, mut ask) = (Vec::new(), Vec::new());
    for (at, (name, value, known)) in SETTINGS.iter().enumerate() {
        let comma = if at == 0 { "" } else { ", " };
        let value = match value.bytes().all(|byte| byte.is_ascii_digit()) {
            true => (*value).to_owned(),
            false => format!("'{value}'"),
        };
        set.push(known.guard(&format!("{comma}{name} = {value}")));
        ask.push(known.guard(&format!("{comma}@@session.{name} AS {name}")));
    }
    format!(
        "SELECT CONNECTION_ID() AS id; ROLLBACK; UNLOCK TABLES; SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ; SET SESSION {}; SELECT {}",
        set.concat(),
        ask.concat()
    )
}

/// The connection's id, from the answers to [`statements`].
///
/// # Errors
/// The server did not answer, or has another value than was set.
pub(super) fn check(answers: &[Answer]) -> Result<u64, String> {
    let id = answers.first().and_then(|answer| answer.rows.first()?.number("id"));
    let id = id.ok_or("the server gave no connection id")?;
    let told = answers.last().and_then(|answer| answer.rows.first());
    let told = told.ok_or("the server does not tell what it made of our session's settings")?;
    match SETTINGS.iter().find_map(|setting| deviation(told, *setting)) {
        Some(deviation) => Err(deviation),
        None => Ok(id),
    }
}

fn deviation(told: &Row, (name, wanted, known): (&str, &str, Known)) -> Option<String> {
    let found = match told.get(name) {
        Some(found) => found,
        None if known == Known::Everywhere => "nothing",
        None => return None,
    };
    let number = |text: &str| text.parse::<f64>().ok();
    let same = found.eq_ignore_ascii_case(wanted) || number(found).is_some() && number(found) == number(wanted);
    (!same).then(|| {
        format!(
            "our session has {name} = {found} although {wanted} was set: what it is told could be cut or changed (is a proxy between? reach the server itself)"
        )
    })
}

/// What a server with these settings answers to the last statement: names and values, for tests.
#[cfg(test)]
pub(crate) fn good_answer() -> Vec<(&'static str, &'static str)> {
    SETTINGS.iter().map(|(name, value, _)| (*name, *value)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn answers(settings: &[(&str, Option<&str>)]) -> Vec<Answer> {
        let answer = |row: Row| Answer {
            rows: vec![row],
            at: Instant::now(),
        };
        vec![answer(Row::of(&[("id", Some("7"))])), answer(Row::of(settings))]
    }

    fn good() -> Vec<(&'static str, Option<&'static str>)> {
        good_answer()
            .into_iter()
            .map(|(name, value)| (name, Some(value)))
            .collect()
    }

    #[test]
    fn each_setting_that_does_not_hold_is_named() {
        assert_eq!(check(&answers(&good())), Ok(7));
        for at in 0..SETTINGS.len() {
            let mut settings = good();
            settings[at].1 = Some("3");
            let error = check(&answers(&settings)).unwrap_err();
            assert!(error.contains(&format!("{} = 3", SETTINGS[at].0)), "{error}");
        }
        // One flavour knows the variable, the other does not.
        let known = |name: &str| {
            let rest: Vec<_> = good().into_iter().filter(|(one, _)| *one != name).collect();
            check(&answers(&rest))
        };
        assert_eq!(known("max_execution_time"), Ok(7));
        assert!(known("sql_select_limit").is_err());
        assert!(check(&answers(&good())[..1]).is_err());
    }

    #[test]
    fn numbers_are_compared_as_such() {
        let mut settings = good();
        settings.last_mut().unwrap().1 = Some("0.000000");
        assert_eq!(check(&answers(&settings)), Ok(7));
    }

    #[test]
    fn each_flavour_is_asked_for_what_it_knows_alone() {
        let text = statements();
        assert!(text.contains("/*M!100101 , max_statement_time = 0 */"), "{text}");
        assert!(
            text.contains("/*!50708 , @@session.max_execution_time AS max_execution_time */"),
            "{text}"
        );
        // No quotes but single ones, which mean the same in every SQL mode.
        assert!(!text.contains(['"', '\\', '`']), "{text}");
    }
}
