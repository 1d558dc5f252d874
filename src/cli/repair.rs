//! `snapback repair`.

use super::{Context, Exit, output};
use crate::Result;
use crate::backup::open_repository;
use crate::repository::repair::Report;

#[derive(Debug, clap::Args)]
pub(super) struct Repair {
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Threads [default: as many as processors, at most 8]
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
}

pub(super) fn run(arguments: &Repair, context: &Context<'_>) -> Result<Exit> {
    let repository = open_repository(&context.config()?)?;
    let workers = super::restore::workers(arguments.workers);
    let report = repository.repair(arguments.dry_run, workers, &context.progress, context.cancel)?;
    if context.global.json {
        output::json(&report)?;
    } else {
        print(&report);
    }
    let whole = report.backups.is_empty() && report.manifests.is_empty();
    Ok(if whole { Exit::Done } else { Exit::Damaged })
}

fn print(report: &Report) {
    for pack in &report.packs {
        output::line(format_args!(
            "{} pack {}: {}",
            output::red("damaged"),
            pack.pack,
            pack.reason
        ));
        let lost = match pack.lost_slots {
            None => "all of it is lost".to_owned(),
            Some(0) => "nothing of it is lost".to_owned(),
            Some(1) => "1 chunk is lost".to_owned(),
            Some(many) => format!("{many} chunks are lost"),
        };
        match &pack.saved_to {
            Some(object) => output::line(format_args!("  {lost}; the rest was saved to {object}")),
            None => output::line(format_args!("  {lost}")),
        }
    }
    for backup in &report.backups {
        let known = if backup.known { " (known before)" } else { "" };
        output::line(format_args!("backup {} lost something{known}:", backup.backup.short()));
        for lost in &backup.objects {
            output::line(format_args!(
                "  {}: {}; files that are not whole: {}",
                lost.object, lost.reason, lost.files
            ));
        }
    }
    for key in &report.manifests {
        output::line(format_args!(
            "{} {key} cannot be read and is left as it is; `snapback forget --damaged ID` gives it up",
            output::red("damaged")
        ));
    }
    let nothing = report.packs.is_empty() && report.backups.is_empty() && report.manifests.is_empty();
    if nothing {
        output::line(output::green("nothing is damaged"));
    } else if report.dry_run {
        output::line("nothing was done: without --dry-run what reads well is saved, and what is lost is written down");
    } else if !report.backups.is_empty() {
        output::line("the next backup stores again what was lost; `restore --keep-going` restores what is left");
    }
}
