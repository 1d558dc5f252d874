//! `snapback restore`.

use super::arguments::Restore;
use super::{Context, Exit, output};
use crate::Result;
use crate::backup::open_repository;
use crate::restore::{Report, Request, restore};
use crate::units::Bytes;

pub(super) fn run(arguments: &Restore, context: &Context<'_>) -> Result<Exit> {
    let repository = open_repository(&context.config()?)?;
    let request = Request {
        destination: arguments.destination.destination()?,
        include: arguments.include.clone(),
        force: arguments.force,
        workers: workers(arguments.workers),
        keep_uuid: arguments.keep_uuid,
    };
    let report = restore(&repository, &arguments.id, &request, &context.progress, context.cancel)?;
    if context.global.json {
        output::json(&report)?;
    } else {
        print(&report);
    }
    Ok(Exit::after(&report.warnings))
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
    if !report.next_steps.is_empty() {
        output::line(output::bold("what to do next"));
        report
            .next_steps
            .iter()
            .enumerate()
            .for_each(|(number, step)| output::line(format_args!("  {}. {step}", number + 1)));
    }
}
