//! `snapback verify`.

use super::arguments::Verify;
use super::{Context, Exit, output};
use crate::Result;
use crate::backup::open_repository;
use crate::job::Unfit;
use crate::units::Bytes;
use crate::verify::{Damage, Level, Report, Which, verify};

pub(super) fn run(arguments: &Verify, context: &Context<'_>) -> Result<Exit> {
    if arguments.drill.boot {
        return super::drill::run(arguments, context);
    }
    let config = context.config()?;
    let repository = open_repository(&config)?;
    let which = if arguments.all {
        Which::All
    } else {
        let whose = context.whose(&config, arguments.host.as_ref(), arguments.whose.job.as_ref())?;
        let backup = context.choose(&repository, &arguments.id, &whose, Unfit::Say)?;
        Which::One(backup.manifest().id.to_string())
    };
    let workers = super::restore::workers(arguments.workers);
    let report = verify(
        &repository,
        &which,
        arguments.level.into(),
        workers,
        &context.progress,
        context.cancel,
    )?;
    if context.global.json {
        output::json(&report)?;
    } else {
        print(&report);
    }
    Ok(if report.good { Exit::Done } else { Exit::Damaged })
}

fn print(report: &Report) {
    let level = super::show::word(&report.level);
    let read = if report.bytes > 0 {
        format!(", {} read", Bytes::b(report.bytes))
    } else {
        String::new()
    };
    let backups = match report.backups {
        1 => "1 backup".to_owned(),
        many => format!("{many} backups"),
    };
    output::line(format_args!(
        "verified {level} of {backups}: {} entries, {} packs{read} in {:.1} s",
        report.entries, report.packs, report.seconds
    ));
    if report.binlog_segments > 0 {
        let read = match report.level {
            Level::Data => format!(", {} read", Bytes::b(report.binlog_bytes)),
            Level::Structure => String::new(),
        };
        output::line(format_args!(
            "verified {level} of archived binary logs: {} segments{read}",
            report.binlog_segments
        ));
    }
    if report.unreferenced_packs > 0 {
        output::line(output::dim(format_args!(
            "{} packs are needed by no backup: left by runs that died",
            report.unreferenced_packs
        )));
    }
    report.damage.iter().for_each(damaged);
    for id in &report.taken_back {
        output::line(format_args!(
            "backup {} could not be read once; all of it reads well now, and it counts as good again",
            id.short()
        ));
    }
    let hit = hit(report);
    if !hit.is_empty() {
        output::line(format_args!(
            "backups that cannot be restored whole: {}",
            hit.join(", ")
        ));
    }
    output::line(if report.good {
        output::green("nothing is damaged")
    } else {
        output::red(format_args!("{} objects are damaged", report.damage.len()))
    });
}

/// The backups that miss something, each once.
fn hit(report: &Report) -> Vec<String> {
    let mut ids: Vec<String> = report
        .damage
        .iter()
        .flat_map(|damage| damage.backups.iter().chain(&damage.unreadable))
        .map(|id| id.short())
        .collect();
    ids.sort();
    ids.dedup();
    ids
}

fn damaged(damage: &Damage) {
    output::line(format_args!(
        "{} {}: {}",
        output::red("damaged"),
        damage.object,
        damage.reason
    ));
    if !damage.backups.is_empty() {
        let backups: Vec<String> = damage.backups.iter().map(|id| id.short()).collect();
        output::line(format_args!("  needed by {}", backups.join(", ")));
    }
    for id in &damage.unreadable {
        output::line(format_args!("  nothing of backup {} can be restored", id.short()));
    }
    for lost in &damage.tables {
        let at = |path: &Option<std::path::PathBuf>, end: &str| {
            path.as_ref().map_or(end.to_owned(), |path| path.display().to_string())
        };
        output::line(format_args!(
            "  lost: whatever lay between {} and {} (backup {})",
            at(&lost.after, "the beginning"),
            at(&lost.before, "the end"),
            lost.backup.short()
        ));
    }
    for file in &damage.files {
        output::line(format_args!(
            "  cannot be restored whole: {} (backup {})",
            file.path.display(),
            file.backup.short()
        ));
    }
    if damage.more_files > 0 {
        output::line(format_args!("  and {} more files", damage.more_files));
    }
}
