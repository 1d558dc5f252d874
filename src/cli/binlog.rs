//! `snapback binlog`: archive, list, show, forget.

use clap::{Args, Subcommand};
use serde_json::json;

use super::arguments::ServerArguments;
use super::{Context, Exit, output};
use crate::backup::open_repository;
use crate::binlog_archive::lines::History;
use crate::binlog_archive::{Archive, Report, forget, logs, stored};
use crate::database::Flavour;
use crate::database::mysql::binlog::history::{self, Change};
use crate::job::Unfit;
use crate::replay::{self, Until};
use crate::units::Bytes;
use crate::{Error, Result};

#[derive(Debug, Args)]
pub(super) struct Binlog {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Store what the server's binary logs have and the repository has not
    #[command(
        after_help = "The account needs REPLICATION SLAVE (to read) and REPLICATION CLIENT or BINLOG MONITOR (to list).\nEnds with status 5 when the archive has got a gap: take a backup then.\n\nExamples:\n  snapback binlog archive --once\n  snapback binlog archive --follow --interval 5s\n  snapback binlog archive --from latest    # logs that the server has no longer"
    )]
    Archive(Archiving),
    /// Which logs are archived, how far, and where there are gaps
    List(Listing),
    /// Transactions and statements of the archived logs: what to give to `restore --until-before`
    #[command(
        after_help = "Examples:\n  snapback binlog show --table shop.orders --since '2026-11-25 14:00:00'\n  snapback binlog show --grep 'drop table'"
    )]
    Show(Showing),
    /// Remove archived logs that no kept backup needs
    Forget(Forgetting),
}

#[derive(Debug, Args)]
pub(super) struct Archiving {
    /// Everything that is there now (the default)
    #[arg(long, conflicts_with = "follow")]
    pub once: bool,
    /// Again and again, until a signal
    #[arg(long)]
    pub follow: bool,
    /// The logs that this backup has among its files (an id, or `latest`), instead of the server's
    #[arg(long, value_name = "BACKUP", conflicts_with_all = ["follow", "once"])]
    pub from: Option<String>,
    /// With --from: whose backup [default: this host's]
    #[arg(long, value_name = "NAME", requires = "from")]
    pub host: Option<String>,
    /// With --follow: the pause between two rounds, which is what a lost host may cost
    #[arg(long, value_name = "SPAN", default_value = "10s", requires = "follow")]
    pub interval: jiff::SignedDuration,
    #[command(flatten)]
    pub server: ServerArguments,
}

#[derive(Debug, Args)]
pub(super) struct Listing {
    /// Whose logs [default: this host's]
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Showing {
    /// Only what changes this table (`db.table`), or has its name in a statement; without a dot: whose name has this in it
    #[arg(long, value_name = "TABLE")]
    pub table: Option<String>,
    /// Only statements with this text in their first 200 bytes, in any case
    #[arg(long, value_name = "TEXT")]
    pub grep: Option<String>,
    /// Only what was committed from then on
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only what was committed up to then
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Whose logs [default: this host's]
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Forgetting {
    /// Only say what would be removed
    #[arg(long)]
    pub dry_run: bool,
    /// Whose logs [default: this host's]
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
}

pub(super) fn run(arguments: &Binlog, context: &Context<'_>) -> Result<Exit> {
    match &arguments.command {
        Command::Archive(arguments) => archive(arguments, context),
        Command::List(arguments) => list(arguments, context),
        Command::Show(arguments) => show(arguments, context),
        Command::Forget(arguments) => forget_logs(arguments, context),
    }
}

fn archive(arguments: &Archiving, context: &Context<'_>) -> Result<Exit> {
    let mut config = context.config()?;
    arguments.server.apply(&mut config);
    let repository = open_repository(&config)?;
    if let Some(id) = &arguments.from {
        return from_backup(id, arguments.host.as_ref(), &config, &repository, context);
    }
    if !arguments.follow {
        let archive = Archive::open(&repository, &config)?;
        let report = archive.once(context.cancel)?;
        if context.global.json {
            output::json(&report)?;
        } else {
            output::line(&report);
        }
        report
            .warnings
            .iter()
            .for_each(|finding| output::say(output::finding(finding)));
        return Ok(Exit::after(&report.warnings));
    }
    let mut warned = false;
    let mut heard = |report: &Report| {
        report
            .warnings
            .iter()
            .for_each(|finding| output::say(output::finding(finding)));
        warned |= !report.warnings.is_empty();
        // A line of JSON, or of text, for each round that brought something.
        if report.segments > 0 && context.global.json {
            output::heed(output::json_line("", report).map_err(std::io::Error::other));
        } else if report.segments > 0 {
            output::line(report);
        }
    };
    let interval = arguments.interval.unsigned_abs();
    let archive = Archive::open_when_up(&repository, &config, interval, &context.progress, context.cancel)?;
    let Some(archive) = archive else {
        return Ok(Exit::Done);
    };
    archive.follow(interval, &context.progress, context.cancel, &mut heard)?;
    Ok(if warned { Exit::Warnings } else { Exit::Done })
}

fn from_backup(
    id: &str,
    host: Option<&String>,
    config: &crate::config::Config,
    repository: &crate::repository::Repository,
    context: &Context<'_>,
) -> Result<Exit> {
    let whose = context.whose(config, host, None)?;
    let backup = context.choose(repository, id, &whose, Unfit::Say)?;
    let workers = super::restore::workers(None);
    let report = replay::in_space(config, 0, |work| {
        stored::from_backup(repository, &backup, work, workers, &context.progress, context.cancel)
    })?;
    if context.global.json {
        output::json(&report)?;
    } else {
        output::line(format_args!(
            "backup {} has {} logs; {} of them were not archived, or not as far: {}",
            backup.manifest().id.short(),
            report.logs,
            report.added.len(),
            Bytes::b(report.bytes)
        ));
        report
            .added
            .iter()
            .for_each(|file| output::line(format_args!("  {file}")));
    }
    Ok(Exit::Done)
}

/// The servers of a host's archive, each with its logs.
fn archived(repository: &crate::repository::Repository, host: &str) -> Result<Vec<(String, History)>> {
    let segments = repository.binlogs(host)?;
    let servers: std::collections::BTreeSet<String> = segments.into_iter().map(|segment| segment.server).collect();
    servers
        .into_iter()
        .map(|server| Ok((server.clone(), History::read(repository, host, &server)?)))
        .collect()
}

fn list(arguments: &Listing, context: &Context<'_>) -> Result<Exit> {
    let config = context.config()?;
    let repository = open_repository(&config)?;
    let host = context.whose(&config, arguments.host.as_ref(), None)?.host;
    let (mut rows, mut values, mut gaps) = (Vec::new(), Vec::new(), 0);
    for (server, history) in archived(&repository, &host)? {
        for (index, placed) in history.logs.iter().enumerate() {
            let log = &placed.log;
            let (gap, fork) = (history.gap_before(index), history.fork_before(index));
            gaps += u32::from(gap.is_some() || fork.is_some());
            let begun = jiff::Timestamp::from_second(i64::from(log.created)).unwrap_or_default();
            let state = if log.closed() { "complete" } else { "open" };
            values.push(json!({
                "server": server, "file": log.file, "created": begun, "end": log.end(), "complete": log.closed(),
                "segments": log.segments.len(), "gap_before": gap, "fork_before": fork, "id": log.head,
            }));
            let gap = gap.map(|gap| format!("gap: {gap}"));
            let fork = fork.map(|fork| format!("another line of history: it {fork}"));
            rows.push(vec![
                server.clone(),
                log.file.clone(),
                log.head
                    .as_deref()
                    .map_or("-", |head| &head[..head.len().min(8)])
                    .to_owned(),
                begun.to_string(),
                log.end().to_string(),
                state.to_owned(),
                gap.or(fork).unwrap_or_default(),
            ]);
        }
    }
    if context.global.json {
        output::json(&values)?;
    } else {
        output::line(output::table(&["server", "file", "id", "begun", "end", "", ""], rows));
    }
    Ok(if gaps > 0 { Exit::Warnings } else { Exit::Done })
}

/// Seconds since 1970; says how the text is understood.
fn second(flag: &str, text: Option<&String>) -> Result<Option<i64>> {
    text.map(|text| match replay::parse(text)? {
        Until::Time(time) => {
            output::say(super::show::understood(flag, time));
            Ok(time.as_second())
        }
        _ => Err(Error::usage(format!("`{text}` is no time"))),
    })
    .transpose()
}

fn show(arguments: &Showing, context: &Context<'_>) -> Result<Exit> {
    let config = context.config()?;
    let repository = open_repository(&config)?;
    let host = context.whose(&config, arguments.host.as_ref(), None)?.host;
    let (since, until) = (
        second("--since", arguments.since.as_ref())?,
        second("--until", arguments.until.as_ref())?,
    );
    let servers = archived(&repository, &host)?;
    replay::in_space(&config, 0, |work| {
        let mut found = Vec::new();
        for (server, history) in &servers {
            // A server's name begins with its UUID only with MySQL.
            let flavour = if server.starts_with("id-") {
                Flavour::MariaDb
            } else {
                Flavour::MySql
            };
            for log in history.logs.iter().map(|placed| &placed.log) {
                context.cancel.check()?;
                // All in it is earlier than what is asked for.
                if let (Some(since), Some(latest)) = (since, logs::latest(&repository, log)?)
                    && i64::from(latest) < since
                {
                    continue;
                }
                let path = log.write_into(&repository, work)?;
                history::read(&path, flavour, &mut |change| {
                    if matches(&change, arguments, since, until) {
                        if context.global.json {
                            found.push(change);
                        } else {
                            print(&change);
                        }
                    }
                    true
                })?;
                let _ = std::fs::remove_file(&path);
            }
        }
        if context.global.json {
            output::json(&found)?;
        }
        Ok(Exit::Done)
    })
}

fn matches(change: &Change, arguments: &Showing, since: Option<i64>, until: Option<i64>) -> bool {
    let time = i64::from(change.time);
    let has = |text: &str, part: &str| text.to_lowercase().contains(&part.to_lowercase());
    let table = |name: &String| match name.split_once('.') {
        Some((_, bare)) => {
            change.tables.iter().any(|table| table.eq_ignore_ascii_case(name))
                || change.statements.iter().any(|text| has_word(text, bare))
        }
        None => change
            .tables
            .iter()
            .chain(&change.statements)
            .any(|text| has(text, name)),
    };
    since.is_none_or(|since| time >= since)
        && until.is_none_or(|until| time <= until)
        && arguments.table.as_ref().is_none_or(table)
        && arguments
            .grep
            .as_ref()
            .is_none_or(|part| change.statements.iter().any(|text| has(text, part)))
}

/// Whether a statement has this name, and not as a part of a longer one.
fn has_word(text: &str, name: &str) -> bool {
    let (text, name) = (text.to_lowercase(), name.to_lowercase());
    let inside = |character: Option<char>| character.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$');
    text.match_indices(&name).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + name.len()..]);
        !inside(before.chars().next_back()) && !inside(after.chars().next())
    })
}

fn print(change: &Change) {
    let time = jiff::Timestamp::from_second(i64::from(change.time)).unwrap_or_default();
    let kinds: Vec<&str> = change.kinds.iter().copied().collect();
    let tables: Vec<&str> = change.tables.iter().map(String::as_str).collect();
    output::line(format_args!(
        "{time}  {}:{}  {}  {}  {}  {}",
        change.file,
        change.start,
        change.gtid.as_deref().unwrap_or("-"),
        kinds.join(","),
        tables.join(","),
        change.statements.join("; ").replace('\n', " ")
    ));
}

fn forget_logs(arguments: &Forgetting, context: &Context<'_>) -> Result<Exit> {
    let config = context.config()?;
    let repository = open_repository(&config)?;
    let host = context.whose(&config, arguments.host.as_ref(), None)?.host;
    let forgotten = forget::forget(&repository, &host, arguments.dry_run)?;
    if context.global.json {
        output::json(&json!({"dry_run": arguments.dry_run, "forgotten": forgotten}))?;
    } else {
        let bytes: u64 = forgotten.iter().map(|log| log.bytes).sum();
        let word = if arguments.dry_run {
            "would be removed"
        } else {
            "removed"
        };
        output::line(format_args!("{} logs {word}, {}", forgotten.len(), Bytes::b(bytes)));
        forgotten
            .iter()
            .for_each(|log| output::line(format_args!("  {} {}", log.server, log.file)));
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_meant_and_not_one_with_a_longer_name() {
        assert!(has_word("DROP TABLE `shop`.`Orders` /* generated */", "orders"));
        assert!(has_word("alter table orders add x int", "orders"));
        assert!(!has_word("DROP TABLE orders_old", "orders"));
        assert!(!has_word("DROP TABLE old_orders", "orders"));
        assert!(has_word("INSERT INTO orders_old SELECT * FROM orders", "orders"));
    }
}
