//! `snapback restore`.

use std::path::PathBuf;

use super::arguments::Restore;
use super::{Context, Exit, output, replay, replica};
use crate::backup::open_repository;
use crate::job;
use crate::restore::{Lost, Report, Request, record_of, restore};
use crate::seed::{self, Seed};
use crate::units::Bytes;
use crate::{Error, Result};

pub(super) fn run(arguments: &Restore, context: &Context<'_>) -> Result<Exit> {
    let config = context.config()?;
    let repository = open_repository(&config)?;
    let whose = context.whose(&config, arguments.host.as_ref(), arguments.whose.job.as_ref())?;
    if let Some(asked) = arguments.replay.asked()? {
        return replay::run(arguments, &asked, config, &repository, context);
    }
    let backup = context.choose(&repository, &arguments.id, &whose, arguments.failed.unfit())?;
    if arguments.destination.in_place {
        job::in_place(backup.manifest(), &whose)?;
        let record = record_of(backup.manifest())?;
        job::own_places(&config, &record, &arguments.include, &arguments.allow_path)?;
    }
    if let Some(socket) = &arguments.destination.into_server {
        return super::table::run(arguments, socket, &repository, &backup, config, context);
    }
    let request = Request {
        destination: arguments.destination.destination()?,
        include: arguments.include.clone(),
        force: arguments.force,
        workers: workers(arguments.workers),
        keep_uuid: arguments.keep_uuid,
        new_uuid: arguments.replica.replica_of.is_some(),
        keep_going: arguments.keep_going,
        special: arguments.special,
        unfinished: None,
        start_with: config.service.starting(),
        stop_with: config.service.stopping().filter(|_| arguments.destination.in_place),
    };
    let wanted = arguments.replica.wanted()?;
    let record = record_of(backup.manifest())?;
    let mut seed = match &wanted {
        Some(wanted) => Some(seed::seed(&record, wanted)?),
        None => None,
    };
    if let Some(wanted) = wanted.as_ref().filter(|_| arguments.replica.replica_start) {
        seed::ready(&config, &record, wanted)?;
    }
    let mut report = restore(
        &repository,
        &backup.manifest().id.to_string(),
        &request,
        &context.progress,
        context.cancel,
    )?;
    if let Some(seed) = &mut seed {
        let datadir = record.server.as_ref().map(|server| &server.datadir);
        let placed = report.placed.iter().find(|placed| Some(&placed.original) == datadir);
        seed.write_beside(&placed.ok_or_else(|| Error::failed("the datadir was not restored"))?.at)?;
        if arguments.replica.replica_start {
            let following = seed.start(&config, &record, &report, &context.progress, context.cancel)?;
            seed.following = Some(following);
            // What a person does next is done.
            report.next_steps.clear();
        }
    }
    if context.global.json {
        output::json(&as_json(&report, seed.as_ref()))?;
    } else {
        print(&report);
        seed.iter().for_each(replica::print);
    }
    let warned = seed.as_ref().is_some_and(|seed| !seed.warnings.is_empty());
    Ok(match report.lost.is_empty() {
        true if warned => Exit::Warnings,
        true => Exit::after(&report.warnings),
        false => Exit::Damaged,
    })
}

fn as_json(report: &Report, seed: Option<&Seed>) -> serde_json::Value {
    let mut json = serde_json::json!(report);
    if let Some(seed) = seed {
        json["replica"] = serde_json::json!(seed);
    }
    json
}

/// As many as asked for, else as processors, at most 8.
pub(super) fn workers(asked: Option<usize>) -> usize {
    asked
        .filter(|workers| *workers > 0)
        .unwrap_or_else(|| crate::sys::host::processors().min(8))
        .min(256)
}

fn print(report: &Report) {
    let rate = Bytes::b((report.bytes as f64 / report.seconds.max(1e-6)) as u64);
    let id = output::bold(report.id.short());
    output::line(format_args!(
        "restored {id}: {} files, {} in {:.1} s ({rate}/s)",
        report.files,
        Bytes::b(report.bytes),
        report.seconds
    ));
    for placed in &report.placed {
        output::line(format_args!(
            "  {} -> {}",
            placed.original.display(),
            placed.at.display()
        ));
        if let Some(aside) = &placed.moved_aside {
            output::line(format_args!("    what was there is now {}", aside.display()));
        }
    }
    if !report.lost.is_empty() {
        lost(&report.lost);
    }
    if !report.next_steps.is_empty() {
        output::line(output::bold("what to do next"));
        report
            .next_steps
            .iter()
            .enumerate()
            .for_each(|(number, step)| output::step(format_args!("  {}. {step}", number + 1)));
    }
}

/// Files that are printed; the list has all of them.
const NAMED: usize = 20;

fn lost(lost: &Lost) {
    output::line(output::red("not everything could be restored"));
    for file in lost.files.iter().take(NAMED) {
        let bytes: u64 = file.ranges.iter().map(|range| range.length).sum();
        let original = file.original.display();
        match &file.at {
            Some(at) => output::line(format_args!(
                "  {original}: {} of {} lost; the rest is {}",
                Bytes::b(bytes),
                Bytes::b(file.size),
                at.display()
            )),
            None => output::line(format_args!("  {original}: nothing of it is left")),
        }
        for range in file.ranges.iter().take(3) {
            output::line(output::dim(format_args!(
                "    {} bytes from {}: {}: {}",
                range.length, range.offset, range.object, range.reason
            )));
        }
    }
    if lost.files.len() > NAMED {
        output::line(format_args!("  and {} more files", lost.files.len() - NAMED));
    }
    for table in &lost.tables {
        let at =
            |path: &Option<PathBuf>, end: &str| path.as_ref().map_or(end.to_owned(), |path| path.display().to_string());
        output::line(format_args!(
            "  whatever lay between {} and {}: {}: {}",
            at(&table.after, "the beginning"),
            at(&table.before, "the end"),
            table.object,
            table.reason
        ));
    }
    if lost.entries > 0 {
        output::line(format_args!(
            "  {} files, directories and links in all are not known any more",
            lost.entries
        ));
    }
    for directory in lost.bare_directories.iter().take(NAMED) {
        output::line(format_args!("  {}: owner and mode are lost", directory.display()));
    }
}
