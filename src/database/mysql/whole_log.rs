//! Whether the binary log is the whole history of a server: what changes the data and is not in it, no replay brings back.

use super::facts::Variables;
use super::flavour::Dialect;
use super::session::{Row, Session};
use crate::database::Result;
use crate::finding::Finding;

/// The code of the finding.
pub const NOT_WHOLE: &str = "log-not-whole";

/// What changes the data without being logged, as far as the server tells; empty: nothing is known.
///
/// # Errors
/// The server cannot be asked.
pub fn unlogged(session: &mut Session, dialect: Dialect, variables: &Variables) -> Result<Vec<String>> {
    // Who may archive need not be allowed to see channels.
    let channels = session.rows(dialect.show_replicas()).unwrap_or_default();
    let status = session.rows(dialect.show_position())?;
    let mut found = filters(&status);
    let logs_updates = ["log_replica_updates", "log_slave_updates"];
    let logs_updates = logs_updates.iter().any(|name| variables.is_on(name));
    if !channels.is_empty() && !logs_updates {
        let name = if dialect.is_mariadb() {
            "log_slave_updates"
        } else {
            "log_replica_updates"
        };
        found.push(format!("{name}=OFF: what this replica applies is not in its log"));
    }
    if variables.is_galera() && !logs_updates {
        found.push("log_slave_updates=OFF: what other nodes of the cluster write is not in this one's log".to_owned());
    }
    Ok(found)
}

fn filters(status: &[Row]) -> Vec<String> {
    let columns = [
        ("Binlog_Do_DB", "binlog_do_db"),
        ("Binlog_Ignore_DB", "binlog_ignore_db"),
    ];
    let one = |(column, option): (&str, &str)| {
        let value = status.first()?.text(column);
        (!value.is_empty()).then(|| format!("{option}={value}: what it leaves out is not in the log"))
    };
    columns.into_iter().filter_map(one).collect()
}

/// What a person must read about it.
pub fn finding(unlogged: &[String]) -> Option<Finding> {
    (!unlogged.is_empty()).then(|| {
        Finding::warning(
            NOT_WHOLE,
            format!(
                "the binary log is not the whole history of this server, and a point in time would lack what is missing: {}",
                unlogged.join("; ")
            ),
        )
        .remedy("let the server log everything, or archive the logs of its source; a backup by itself has all")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_of_the_log_are_said_by_name() {
        let row = |do_db, ignore| {
            Row::of(&[
                ("File", Some("b.1")),
                ("Binlog_Do_DB", do_db),
                ("Binlog_Ignore_DB", ignore),
            ])
        };
        assert!(filters(&[row(Some(""), None)]).is_empty());
        let found = filters(&[row(Some("shop"), Some("cache,tmp"))]);
        assert_eq!(found.len(), 2);
        assert!(found[0].contains("binlog_do_db=shop") && found[1].contains("binlog_ignore_db=cache,tmp"));
    }
}
