//! `snapback show`, and what other commands print of a backup.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use serde::Serialize;

use super::arguments::Show;
use super::{Context, Exit, output, timeline};
use crate::Result;
use crate::backup::open_repository;
use crate::database::Flavour;
use crate::job::{Job, Unfit};
use crate::record::{ChecksumRecord, Record};
use crate::repository::{Backup, EntryKind, Manifest};
use crate::restore::record_of;
use crate::units::{Bytes, human_micros};

pub(super) fn run(arguments: &Show, context: &Context<'_>) -> Result<Exit> {
    let config = context.config()?;
    let repository = open_repository(&config)?;
    let whose = context.whose(&config, arguments.host.as_ref(), arguments.whose.job.as_ref())?;
    let backup = context.choose(&repository, &arguments.id, &whose, Unfit::Say)?;
    if arguments.files {
        return files(&backup, context);
    }
    let manifest = backup.manifest();
    let drills = repository.drills(manifest.id)?;
    if context.global.json {
        output::json(&super::drill::ShownJson::new(manifest, &drills))?;
        return Ok(Exit::Done);
    }
    let record = record_of(manifest)?;
    summary(manifest, &record);
    let id = manifest.id;
    for hold in repository.holds()?.iter().filter(|hold| hold.backup == id) {
        output::line(format_args!(
            "  held      {}",
            hold.reason.as_deref().unwrap_or("no reason given")
        ));
    }
    for lost in repository.losses_of(id)?.iter().flat_map(|loss| &loss.objects) {
        let files = format_args!("{} files are not whole", lost.files).to_string();
        output::line(format_args!(
            "  {}   {}: {}; {files}",
            output::red("damaged"),
            lost.object,
            lost.reason
        ));
    }
    super::drill::history(&drills);
    details(&record);
    timeline::lines(&record.phases, record.lock.as_ref())
        .iter()
        .for_each(output::line);
    Ok(Exit::Done)
}

/// What a person wants to know first.
pub(super) fn summary(manifest: &Manifest, record: &Record) {
    let exact = match (record.exact, &record.position) {
        (true, Some(_)) => ", position exact",
        (false, Some(_)) => ", position NOT exact",
        (_, None) => "",
    };
    let line = |name: &str, text: String| output::line(format_args!("  {name:<9} {text}"));
    let id = output::bold(manifest.id.short());
    output::line(format_args!(
        "backup {id} of {} at {}: {}{exact}",
        manifest.host,
        time(manifest.time),
        word(&record.consistency)
    ));
    let job = Job::of_record(&manifest.host, record);
    line("job", format!("{} ({})", job.short(), job.about()));
    if let Some(server) = &record.server {
        line(
            "server",
            format!("{} {} at {}", flavour(server.flavour), server.version, server.address),
        );
    }
    if let Some(lock) = &record.lock {
        let attempts = if lock.attempts == 1 {
            String::new()
        } else {
            format!(", {} attempts", lock.attempts)
        };
        line(
            "lock",
            match lock.held_us {
                0 => format!("{}: none held", word(&lock.strategy)),
                held => format!(
                    "{}, held {}, had after {}{attempts}",
                    word(&lock.strategy),
                    human_micros(held),
                    human_micros(lock.acquire_us)
                ),
            },
        );
    }
    if let Some(position) = &record.position {
        let gtid = position
            .gtid
            .as_ref()
            .map(|gtid| format!("  gtid {gtid}"))
            .unwrap_or_default();
        line("position", format!("{}:{}{gtid}", position.file, position.position));
    }
    for channel in &record.replica {
        line(
            "replica",
            format!(
                "of {}:{} at {}:{}",
                channel.source_host, channel.source_port, channel.file, channel.position
            ),
        );
    }
    for volume in &record.volumes {
        line(
            "snapshot",
            format!(
                "{} of {} in {}",
                word(&volume.provider),
                volume.source,
                human_micros(volume.create_us)
            ),
        );
    }
    if let Some(set) = &record.checksums {
        line(
            "checksums",
            format!(
                "of {} tables, read by {} {} in {:.1} s",
                set.count(),
                set.program.display(),
                set.version,
                set.seconds
            ),
        );
    }
    let copy = &record.copy;
    let rate = if copy.seconds > 0.0 {
        format!(" ({}/s)", Bytes::b((copy.bytes_read as f64 / copy.seconds) as u64))
    } else {
        String::new()
    };
    line(
        "copied",
        format!(
            "{} files, {} in {:.1} s{rate}",
            copy.files,
            Bytes::b(copy.bytes_total),
            copy.seconds
        ),
    );
    let parent = manifest
        .parent
        .map(|parent| format!(" since {}", parent.short()))
        .unwrap_or_default();
    line(
        "stored",
        format!(
            "{} new{parent}, {} after compression",
            Bytes::b(copy.bytes_new),
            Bytes::b(manifest.sizes.stored)
        ),
    );
    if !manifest.tags.is_empty() {
        line(
            "tags",
            manifest
                .tags
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect::<Vec<_>>()
                .join(" "),
        );
    }
}

/// Tables whose checksums are printed; `--json` has all.
const SUMS: usize = 20;

fn checksums(set: &ChecksumRecord) {
    output::line(output::bold("checksums"));
    let all = set.tables.iter().flat_map(|(schema, tables)| {
        let sums = tables.iter();
        sums.map(move |(table, sum)| vec![format!("{schema}.{table}"), sum.to_string()])
    });
    output::line(output::table(&[], all.take(SUMS).collect()));
    if set.count() > SUMS {
        output::line(format_args!("and {} more tables", set.count() - SUMS));
    }
    for (table, reason) in &set.unread {
        output::line(format_args!("none of {table}: {reason}"));
    }
}

fn details(record: &Record) {
    record.checksums.iter().for_each(checksums);
    let roots = record
        .roots
        .iter()
        .map(|root| vec![root.path.display().to_string(), word(&root.role), word(&root.source)]);
    output::line(output::bold("roots"));
    output::line(output::table(&[], roots.collect()));
    if !record.left_out.is_empty() {
        output::line(output::bold("left out"));
        let left = record
            .left_out
            .iter()
            .map(|left| vec![left.path.display().to_string(), left.reason.clone()]);
        output::line(output::table(&[], left.collect()));
    }
    for transaction in &record.prepared_xa {
        output::line(format_args!("prepared XA transaction: {transaction}"));
    }
    record
        .warnings
        .iter()
        .for_each(|finding| output::line(output::finding(finding)));
}

fn files(backup: &Backup, context: &Context<'_>) -> Result<Exit> {
    let record = record_of(backup.manifest())?;
    let path = |root: u32, below: &[u8]| {
        let base = record
            .roots
            .get(root as usize)
            .map(|root| root.path.clone())
            .unwrap_or_default();
        if below.is_empty() {
            base
        } else {
            base.join(OsStr::from_bytes(below))
        }
    };
    // One array, and never all of it in memory.
    let mut separator = "[";
    for entry in backup.entries()? {
        context.cancel.check()?;
        let entry = entry?;
        let (kind, size) = match &entry.kind {
            EntryKind::File(content) => ('-', content.size),
            EntryKind::Directory => ('d', 0),
            EntryKind::Symlink(_) => ('l', 0),
            EntryKind::HardLink(_) => ('h', 0),
            EntryKind::Fifo => ('p', 0),
            EntryKind::CharDevice(..) => ('c', 0),
            EntryKind::BlockDevice(..) => ('b', 0),
        };
        let at = path(entry.root, &entry.path);
        if context.global.json {
            let line = serde_json::json!({
                "path": at, "kind": kind, "size": size, "mode": entry.metadata.mode, "uid": entry.metadata.uid, "gid": entry.metadata.gid,
                "live": entry.live, "torn": entry.torn,
            });
            output::line(format_args!("{separator}{line}"));
            separator = ",";
        } else {
            let Metadata { mode, uid, gid, .. } = &entry.metadata;
            output::line(format_args!(
                "{kind}{mode:04o} {uid:>5} {gid:>5} {size:>14} {}",
                at.display()
            ));
        }
    }
    if context.global.json {
        output::line(if separator == "[" { "[]" } else { "]" });
    }
    Ok(Exit::Done)
}

use crate::repository::Metadata;

/// A time to the second.
pub(super) fn time(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// A server's name.
pub(super) fn flavour(flavour: Flavour) -> &'static str {
    match flavour {
        Flavour::MariaDb => "MariaDB",
        Flavour::MySql => "MySQL",
    }
}

/// An enum's word, as the manifest has it.
pub(super) fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => "?".to_owned(),
    }
}
