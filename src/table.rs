//! One table, or one schema, back into a running server: the backup is booted on scratch space, what is wanted gets its new name there, and the server's own dump tool feeds
//! the server's own client. Any engine, foreign keys and partitions included; nothing that is there is overwritten unless told so.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::booted::{Boot, Booted};
use crate::config::{Config, Server};
use crate::database::mysql::connect::ConnectOptions;
use crate::database::mysql::scratch::{Tool, find_tool, write_client_file};
use crate::database::mysql::session::Session;
use crate::dump::{Dump, How, Part, TableName, quoted};
use crate::finding::Finding;
use crate::monitor::{Monitor, Work};
use crate::repository::{Backup, Repository};
use crate::sys::command::Command;
use crate::sys::signal::Cancel;
use crate::units::Id;
use crate::{Error, Result};

/// How long a server may be silent within one statement of ours.
const PATIENCE: Duration = Duration::from_secs(300);

/// What goes back, and to where.
#[derive(Debug, Clone)]
pub struct Request {
    /// What.
    pub what: What,
    /// The running server's socket; account and password are those of the configuration.
    pub socket: PathBuf,
    /// Replace what is there.
    pub force: bool,
    /// Threads of the restore.
    pub workers: usize,
}

/// A table or a schema, with the name that it gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A table with its triggers; under another name without them.
    Table {
        /// As the backup has it.
        from: TableName,
        /// As the server gets it.
        to: TableName,
    },
    /// A schema with all that is in it; under another name its tables and views.
    Schema {
        /// As the backup has it.
        from: String,
        /// As the server gets it.
        to: String,
    },
}

/// What was done.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The backup.
    pub id: Id,
    /// What came back, under its new name.
    pub restored: String,
    /// Bytes of SQL.
    pub bytes: u64,
    /// Wall time of all.
    pub seconds: f64,
    /// Wall time of dump and load.
    pub load_seconds: f64,
    /// What a person must know.
    pub remarks: Vec<String>,
    /// What did not come back.
    pub findings: Vec<Finding>,
}

/// Restores one table or schema into a running server.
///
/// # Errors
/// There is something of that name (without force), the backup does not have it, or one of the servers or programs failed: then a part of it may be there.
pub fn restore(
    repository: &Repository,
    backup: &Backup,
    config: &Config,
    request: &Request,
    monitor: &dyn Monitor,
    cancel: &Cancel,
) -> Result<Report> {
    let begun = Instant::now();
    let server = Server {
        socket: Some(request.socket.clone()),
        host: None,
        ..config.server.clone().unwrap_or_default()
    };
    let target = ConnectOptions::new(&server)?;
    // Before minutes of work.
    ready(&target, request)?;
    let boot = Boot {
        repository,
        backup,
        config,
        workers: request.workers,
        monitor,
        cancel,
    };
    boot.with(|booted| {
        let (mut part, create, remarks) = rename(&booted, &request.what)?;
        let dump_request = crate::dump::Request::default();
        let taker = Session::patient(&target, PATIENCE)?
            .value("SELECT VERSION()")?
            .unwrap_or_default();
        let dump = Dump::new(&booted, &dump_request, monitor, cancel)?.for_server(&taker);
        let findings = dump.survey(&mut booted.server.session(PATIENCE)?, &mut part, &[])?;
        // For root alone: it may have the password of the live server's account.
        let file = write_client_file(booted.space, "target.cnf", &target, None)?;
        let client = find_tool(Tool::Client, None, booted.binary)?;
        // As long ago as the restore took, somebody may have made it, or listen in the server's place.
        ready(&target, request)?;
        monitor.phase("load");
        monitor.begin(Work {
            name: "loading",
            bytes: 0,
            items: 0,
        });
        let loading = Instant::now();
        let mut bytes = 0;
        let how = How {
            replace: request.force,
            // Triggers may name the schema that they are made in: under another name they would be made in the old one.
            tables_only: is_renamed(&request.what),
        };
        let mut fed = Command::new(&client)
            .arg(format!("--defaults-file={}", file.display()))
            .args(["--binary-mode", "--default-character-set=utf8mb4"])
            .feed()?;
        fed.write(create.as_bytes(), cancel)?;
        let dumped = dump.feed(&part, how, &mut |sql| {
            bytes += sql.len() as u64;
            fed.write(sql, cancel)
        });
        monitor.end();
        // Dropped, it is killed: a client must not take a cut dump for the whole.
        dumped?;
        fed.finish(cancel)?;
        Ok(Report {
            id: backup.manifest().id,
            restored: name_of(&request.what),
            bytes,
            seconds: begun.elapsed().as_secs_f64(),
            load_seconds: loading.elapsed().as_secs_f64(),
            remarks,
            findings,
        })
    })
}

fn name_of(what: &What) -> String {
    match what {
        What::Table { to, .. } => format!("{}.{}", to.schema, to.table),
        What::Schema { to, .. } => to.clone(),
    }
}

fn is_renamed(what: &What) -> bool {
    match what {
        What::Table { from, to } => from != to,
        What::Schema { from, to } => from != to,
    }
}

/// The server is the right one (the client that loads the rows would tell its password to any that asks), and has nothing of that name.
fn ready(target: &ConnectOptions, request: &Request) -> Result<()> {
    let mut session = Session::patient(target, PATIENCE)?;
    session.prove_peer("the rows, and by the client the account's password,")?;
    refuse_existing(&mut session, request)
}

fn refuse_existing(session: &mut Session, request: &Request) -> Result<()> {
    if request.force {
        return Ok(());
    }
    let text = |name: &str| format!("'{}'", name.replace('\\', "\\\\").replace('\'', "''"));
    let (schema, table) = match &request.what {
        What::Table { to, .. } => (text(&to.schema), format!(" AND table_name = {}", text(&to.table))),
        What::Schema { to, .. } => (text(to), String::new()),
    };
    let there = session.value(&format!(
        "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = {schema}{table}"
    ))?;
    if there.as_deref() == Some("0") {
        return Ok(());
    }
    Err(Error::usage(format!(
        "{} is there already: --as gives another name, --force replaces it",
        name_of(&request.what)
    )))
}

/// On the copy, which is thrown away, the table gets the name that it shall have: so references to other tables stay right.
fn rename(booted: &Booted<'_>, what: &What) -> Result<(Part, String, Vec<String>)> {
    let mut session = booted.server.session(PATIENCE)?;
    let mut remarks = Vec::new();
    let (part, named) = match what {
        What::Schema { from, to } => {
            let part = crate::dump::schema(&mut session, from)?;
            if from != to {
                remarks.push(format!("`{to}` has the tables and views, without triggers, routines and events; views that name `{from}` still mean that one"));
            }
            (part, to.clone())
        }
        What::Table { from, to } => {
            let part = crate::dump::table(&mut session, from)?;
            if from != to {
                let (old, new) = (full(from), full(to));
                let triggers = session.rows(&format!(
                    "SHOW TRIGGERS FROM {} WHERE `Table` = '{}'",
                    quoted(&from.schema),
                    from.table.replace('\\', "\\\\").replace('\'', "''")
                ))?;
                for trigger in &triggers {
                    let name = trigger.text("Trigger");
                    session.run(&format!("DROP TRIGGER {}.{}", quoted(&from.schema), quoted(&name)))?;
                    remarks.push(format!(
                        "the trigger `{name}` is not restored with a table of another name"
                    ));
                }
                session.run(&format!("CREATE DATABASE IF NOT EXISTS {}", quoted(&to.schema)))?;
                session.run(&format!("RENAME TABLE {old} TO {new}"))?;
            }
            let renamed = Part {
                schema: to.schema.clone(),
                tables: Some(vec![to.table.clone()]),
                ..part
            };
            (renamed, to.schema.clone())
        }
    };
    // A schema of its own has the character set of the one it comes from.
    let old = match what {
        What::Schema { from, .. } => quoted(from),
        What::Table { from, .. } => quoted(&from.schema),
    };
    let create = part.create.replacen(&old, &quoted(&named), 1);
    Ok((part, format!("{create}\nUSE {};\n", quoted(&named)), remarks))
}

fn full(name: &TableName) -> String {
    format!("{}.{}", quoted(&name.schema), quoted(&name.table))
}
