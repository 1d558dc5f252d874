//! `snapback cleanup`.

use super::arguments::Cleanup;
use super::{Context, Exit, output};
use crate::Result;
use crate::cleanup::{Report, Request, cleanup};
use crate::finding::Severity;

pub(super) fn run(arguments: &Cleanup, context: &Context<'_>) -> Result<Exit> {
    let mut config = context.config()?;
    arguments.server.apply(&mut config);
    let request = Request {
        dry_run: arguments.dry_run,
        orphans: arguments.orphans,
        snapshots: arguments.snapshots.clone(),
    };
    let report = cleanup(&config, &request, &context.progress, context.cancel)?;
    if context.global.json {
        output::json(&report)?;
    } else {
        print(&report, arguments.dry_run);
    }
    let unfinished = report.rollbacks.iter().any(|one| one.result == "failed");
    let failed = unfinished || report.runs.iter().any(|run| !run.failed.is_empty());
    Ok(if failed {
        Exit::Failed
    } else {
        Exit::after(&report.findings)
    })
}

fn print(report: &Report, dry_run: bool) {
    let verb = if dry_run { "would remove" } else { "removed" };
    for one in &report.rollbacks {
        let would = if dry_run { "would be " } else { "" };
        output::line(match &one.error {
            Some(error) => format!(
                "rollback {}: {}: {error}",
                one.rollback.short(),
                output::red(one.result)
            ),
            None => format!("rollback {}: {would}{}", one.rollback.short(), one.result),
        });
    }
    for run in &report.runs {
        if run.alive {
            output::line(format_args!("run {} is alive: left alone", run.run.short()));
        }
        run.removed
            .iter()
            .for_each(|thing| output::line(undone(thing, dry_run)));
        run.failed
            .iter()
            .for_each(|thing| output::line(format_args!("{} {thing}", output::red("could not undo"))));
    }
    report
        .removed_orphans
        .iter()
        .for_each(|name| output::line(format_args!("{verb} snapshot {name}")));
    report.removed_sets.iter().for_each(|set| {
        output::line(format_args!("{verb} held set {} ({})", set.id.short(), set.reason));
    });
    report
        .removed_directories
        .iter()
        .for_each(|at| output::line(format_args!("{verb} directory {}", at.display())));
    report
        .findings
        .iter()
        .for_each(|finding| output::line(output::finding(finding)));
    if report.repository_leftovers > 0 {
        output::line(format_args!(
            "{verb} {} unfinished files in the repository",
            report.repository_leftovers
        ));
    }
    let nothing = report.rollbacks.is_empty()
        && report
            .runs
            .iter()
            .all(|run| run.removed.is_empty() && run.failed.is_empty())
        && report.removed_orphans.is_empty()
        && report.removed_sets.is_empty()
        && report.removed_directories.is_empty()
        && report.repository_leftovers == 0;
    let wrong = report.findings.iter().any(|finding| finding.severity > Severity::Note);
    if nothing && !wrong {
        output::line("nothing to clean up");
    }
}

/// A setting is put back, everything else is removed.
fn undone(thing: &str, dry_run: bool) -> String {
    let verb = match (thing.starts_with("setting "), dry_run) {
        (true, true) => "would put",
        (true, false) => "put",
        (false, true) => "would remove",
        (false, false) => "removed",
    };
    format!("{verb} {thing}")
}

#[cfg(test)]
mod tests {
    use super::undone;

    #[test]
    fn settings_are_put_back_and_the_rest_removed() {
        assert_eq!(undone("setting x back to 0", true), "would put setting x back to 0");
        assert_eq!(undone("setting x back to 0", false), "put setting x back to 0");
        assert_eq!(undone("snapshot /s", true), "would remove snapshot /s");
        assert_eq!(undone("snapshot /s", false), "removed snapshot /s");
    }
}
