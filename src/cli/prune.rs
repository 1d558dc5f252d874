//! `snapback prune`.

use super::{Context, Exit, output, show};
use crate::Result;
use crate::backup::open_repository;
use crate::repository::prune::{Amount, Options, Report};
use crate::units::Bytes;

#[derive(Debug, clap::Args)]
pub(super) struct Prune {
    /// How long an object stays after it was marked. Clocks of hosts that prune may differ by this less an hour
    #[arg(long, value_name = "SPAN", default_value = "24h")]
    pub grace: jiff::SignedDuration,
    /// A pack of which more than this percentage is unused is copied without it
    #[arg(long, value_name = "PERCENT", default_value = "50", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub max_unused: u8,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
}

pub(super) fn run(arguments: &Prune, context: &Context<'_>) -> Result<Exit> {
    let repository = open_repository(&context.config()?)?;
    let options = Options {
        grace: arguments.grace,
        max_unused: arguments.max_unused,
        dry_run: arguments.dry_run,
        ..Options::default()
    };
    let report = repository.prune(&options, &context.progress, context.cancel)?;
    if context.global.json {
        output::json(&report)?;
    } else {
        print(&report);
    }
    Ok(exit(&report))
}

pub(super) fn exit(report: &Report) -> Exit {
    if !report.failed.is_empty() {
        return Exit::Failed;
    }
    if report.damaged.is_empty() && report.uncertain.is_empty() {
        Exit::Done
    } else {
        Exit::Damaged
    }
}

pub(super) fn print(report: &Report) {
    let would = |done: &str, plan: &str| {
        if report.dry_run {
            plan.to_owned()
        } else {
            done.to_owned()
        }
    };
    let line = |what: &str, amount: Amount, rest: &str| {
        if amount.objects > 0 {
            let packs = if amount.objects == 1 { "pack" } else { "packs" };
            output::line(format_args!(
                "{what} {} in {} {packs}{rest}",
                Bytes::b(amount.bytes),
                amount.objects
            ));
        }
    };
    let going = [
        report.unreferenced,
        report.deleted,
        report.waiting,
        report.replaced,
        report.running,
    ];
    output::line(format_args!(
        "{} {} {} of {} packs; {} stored",
        report.backups,
        if report.backups == 1 {
            "backup needs"
        } else {
            "backups need"
        },
        report.stored.objects
            - going
                .iter()
                .map(|amount| amount.objects)
                .sum::<u64>()
                .min(report.stored.objects),
        report.stored.objects,
        Bytes::b(report.stored.bytes)
    ));
    line(&would("deleted", "would delete"), report.deleted, "");
    line(
        &would("marked", "would mark"),
        report.unreferenced,
        " that no backup needs",
    );
    line(
        &would("copied", "would copy"),
        report.copied,
        ": what is needed of packs that are mostly unused",
    );
    line(&would("marked", "would mark"), report.replaced, " that were copied");
    line("waiting:", report.waiting, ", marked earlier");
    line("left alone:", report.running, " of backups that are running");
    if report.unused_bytes > 0 {
        output::line(output::dim(format_args!(
            "{} unused in packs that stay",
            Bytes::b(report.unused_bytes)
        )));
    }
    if report.notes_removed > 0 {
        output::line(format_args!(
            "{} {} notes about backups that are gone",
            would("removed", "would remove"),
            report.notes_removed
        ));
    }
    for object in &report.damaged {
        output::line(format_args!(
            "{} {object}: it stays, since something in it is needed and cannot be read; `snapback repair` writes down what is lost",
            output::red("damaged")
        ));
    }
    for one in &report.uncertain {
        output::line(format_args!(
            "{} backup {} keeps all of its packs: {}; `snapback repair` writes down what is lost",
            output::red("damaged"),
            one.backup.short(),
            one.reason
        ));
    }
    if let Some(first) = report.failed.first() {
        output::line(format_args!(
            "{} copies of mostly unused packs could not be written ({first}); what was deleted and marked is, and the next prune tries again",
            report.failed.len()
        ));
    }
    match report.next {
        Some(next) if !report.dry_run => output::line(format_args!(
            "a prune after {} deletes what is marked",
            show::time(next)
        )),
        _ => {}
    }
}
