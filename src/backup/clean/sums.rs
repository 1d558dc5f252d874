//! Checksums that go with a backup. At level `clean` the server that makes the copy clean reads the tables; otherwise one on clones that are thrown away afterwards, and
//! what is copied are the snapshots as they were: before it, where it writes to the snapshots themselves.

use std::collections::BTreeMap;
use std::time::Instant;

use super::super::examine::Examined;
use super::super::run::Run;
use super::super::snapshots::Taken;
use super::super::trees::PlannedTree;
use super::LISTING;
use super::private::Private;
use super::watch::watched;
use crate::config::{Checksums, Config};
use crate::database::mysql::scratch::{Scratch, check, sums};
use crate::database::{ServerFacts, TableName};
use crate::error::Kind;
use crate::finding::Finding;
use crate::monitor::Work;
use crate::record::ChecksumRecord;
use crate::sys::signal::Cancel;
use crate::{Error, Result};

/// Tables that a warning names at most.
const NAMED: usize = 5;

/// The checksums of a backup that is not made clean. Where they cannot be had the backup is made all the same, with a warning.
///
/// # Errors
/// A signal asked to end, or a clone is left.
pub(super) fn apart(
    run: &mut Run<'_>,
    config: &Config,
    facts: &ServerFacts,
    examined: &Examined,
    planned: &[PlannedTree],
    taken: &mut Taken<'_>,
) -> Result<Option<ChecksumRecord>> {
    let read = run
        .phase("clone", |run| taken.clone_database(&run.journal))
        .and_then(|()| {
            crate::failpoint!("clean.cloned");
            let private = Private::new(config, facts, examined, planned, taken)?;
            private.with_space(|space| {
                watched(run, taken, |run, end| {
                    let (mut server, _) = private.start(run, space, false, end)?;
                    take(run, &private, &mut server, end)
                })
            })
        });
    // The server is dead by now. Its clones are no part of the backup.
    let dropped = run.closing_phase("unclone", |run| taken.drop_clones(&run.journal));
    match (read, dropped) {
        (Ok(set), dropped) => dropped.map(|()| Some(set)),
        (Err(error), Err(left)) => Err(error.and_rollback(Err(left))),
        (Err(error), Ok(())) => match error.kind() {
            Kind::Interrupted(_) => Err(error),
            _ if matches!(error, Error::Rollback { .. }) => Err(error),
            _ => {
                let said = format!("the backup has no checksums: {error}");
                run.note([Finding::warning("no-checksums", said)
                    .remedy("a drill (`snapback verify --boot`) shows whether the data recovers")]);
                Ok(None)
            }
        },
    }
}

/// Has a server that came up on the clones read the tables that were asked for.
///
/// # Errors
/// The server ended, the time was over (`scratch.check_limit`), or a signal asked to end.
pub(super) fn take(
    run: &mut Run<'_>,
    private: &Private<'_>,
    server: &mut Scratch,
    end: &Cancel,
) -> Result<ChecksumRecord> {
    let begun = Instant::now();
    let wanted = &private.config.checksums;
    let all = check::tables(&mut server.session(LISTING)?)?;
    let asked = |table: &check::Table| wanted.has(&table.schema, &table.name);
    // By name they may be asked for; among all, they are none of those with rows.
    let all_of_them = *wanted == Checksums::All;
    let without_rows = |table: &check::Table| table.engine == "VIEW" || table.is_in_memory();
    let tables: Vec<check::Table> = all
        .into_iter()
        .filter(|table| asked(table) && !(all_of_them && without_rows(table)))
        .collect();
    let mut unread: BTreeMap<String, String> = missing(wanted, &tables);
    let until = begun + private.config.scratch.check_limit.unsigned();
    let read = run.phase("checksum", |run| {
        run.monitor.begin(Work {
            name: "reading tables for checksums",
            bytes: 0,
            items: tables.len() as u64,
        });
        let read = sums::read(server, tables, private.connections(), until, run.monitor, end);
        run.monitor.end();
        read
    })?;
    if let Some(table) = read.left.first() {
        let reason = match read.late {
            true => "the time was over (scratch.check_limit)".to_owned(),
            false => format!("the private server ended: {}", server.last_words()),
        };
        return Err(Error::failed(format!("at {}: {reason}", table.full_name())));
    }
    let mut set = ChecksumRecord {
        program: private.binary.program.path().to_owned(),
        version: private.binary.version_text.clone(),
        ..ChecksumRecord::default()
    };
    for (table, sum) in read.sums {
        match sum {
            Ok(sum) => {
                set.tables.entry(table.schema).or_default().insert(table.name, sum);
            }
            Err(reason) => {
                unread.insert(table.full_name(), reason);
            }
        }
    }
    if !unread.is_empty() {
        let named: Vec<String> = unread
            .iter()
            .take(NAMED)
            .map(|(table, reason)| format!("{table} ({reason})"))
            .collect();
        let said = format!("{} tables have no checksum: {}", unread.len(), named.join(", "));
        run.note([Finding::warning("no-checksum", said)]);
    }
    set.unread = unread;
    set.seconds = begun.elapsed().as_secs_f64();
    Ok(set)
}

/// Named tables that are not there.
fn missing(wanted: &Checksums, tables: &[check::Table]) -> BTreeMap<String, String> {
    let Checksums::Tables(names) = wanted else {
        return BTreeMap::new();
    };
    let is_there = |name: &TableName| {
        tables
            .iter()
            .any(|table| table.schema == name.schema && table.name == name.table)
    };
    let gone = names.iter().filter(|name| !is_there(name));
    gone.map(|name| {
        (
            format!("{}.{}", name.schema, name.table),
            "there is no such table".to_owned(),
        )
    })
    .collect()
}
