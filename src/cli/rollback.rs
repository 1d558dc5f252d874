//! `snapback snapshot rollback`.

use std::io::IsTerminal;

use super::{Context, Exit, output};
use crate::config::Config;
use crate::rollback::{Outcome, Plan, Request, rollback};
use crate::units::human_micros;
use crate::{Error, Result};

pub(super) const EXAMPLES: &str = "\
Shows what will be lost, and asks. What is live now is kept as a held set of its own, so that a rollback can be rolled back. On thick LVM the set
that comes back is used up. All volumes of the set or none: what a killed rollback left is finished or undone by `snapback cleanup`.

Examples:
  snapback snapshot rollback latest --dry-run
  snapback snapshot rollback before-upgrade --stop-server
  snapback snapshot rollback 3f2a --stop-server --yes

Exit status 6 when the answer to its question was not `yes`: nothing was done.";

#[derive(Debug, clap::Args)]
pub(super) struct Rollback {
    /// `latest`, an id, a unique prefix of one, or a label
    pub id: String,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Only show what would be lost
    #[arg(long, conflicts_with = "yes")]
    pub dry_run: bool,
    /// Stop the server through its service (`service` in the configuration), and start it afterwards
    #[arg(long)]
    pub stop_server: bool,
    /// Files on the volumes that are no part of the set go back as well
    #[arg(long)]
    pub with_files: bool,
    /// Where there is no room to keep what is live now (thick LVM), give it up: this cannot be rolled back then
    #[arg(long)]
    pub without_way_back: bool,
}

pub(super) fn run(arguments: &Rollback, context: &Context<'_>) -> Result<Exit> {
    let config: Config = context.config()?;
    if !arguments.yes && !arguments.dry_run && (context.global.json || !std::io::stdin().is_terminal()) {
        return Err(Error::usage(
            "there is no terminal to ask on: --yes does without, --dry-run only shows what would be lost",
        ));
    }
    let request = Request {
        set: arguments.id.clone(),
        dry_run: arguments.dry_run,
        stop_server: arguments.stop_server,
        with_files: arguments.with_files,
        without_way_back: arguments.without_way_back,
    };
    let confirm = |plan: &Plan| {
        if !context.global.json {
            show(plan);
        }
        Ok(arguments.yes || context.progress.confirm("Roll back?", context.cancel)?)
    };
    let outcome = rollback(&config, &request, &context.progress, context.cancel, &confirm)?;
    if context.global.json {
        output::json(&outcome)?;
    } else if arguments.dry_run {
        show(&outcome.plan);
        let blocked = outcome
            .plan
            .findings
            .iter()
            .any(|finding| finding.severity == crate::finding::Severity::Blocker);
        return Ok(if blocked { Exit::Failed } else { Exit::Done });
    } else {
        tell(&outcome);
    }
    if !outcome.done && !arguments.dry_run {
        return Ok(Exit::Declined);
    }
    Ok(Exit::after(&outcome.findings))
}

fn show(plan: &Plan) {
    let label = plan
        .label
        .as_ref()
        .map(|label| format!(" ({label})"))
        .unwrap_or_default();
    output::line(format_args!(
        "{} {}{label}, {} of {}",
        output::bold("back to held set"),
        plan.set.short(),
        plan.level,
        super::show::time(plan.time)
    ));
    if let Some(position) = &plan.position {
        output::line(format_args!("  at {}:{}", position.file, position.position));
    }
    for volume in &plan.volumes {
        output::line(format_args!("  {} <- {}", volume.source, volume.snapshot));
        output::line(output::dim(match &volume.kept {
            Some(kept) => format!("    what is live is kept as {kept}"),
            None => "    what is live is not kept: this cannot be rolled back".to_owned(),
        }));
    }
    output::line(output::bold("what is lost to the server"));
    output::line(match plan.transactions {
        Some(0) => "  no transaction since".to_owned(),
        Some(1) => "  1 transaction since".to_owned(),
        Some(count) => format!("  {count} transactions since"),
        None => "  transactions since: not known (no binary log, or the log of that position is gone)".to_owned(),
    });
    if !plan.others.is_empty() {
        output::line("  these go back as well:");
        plan.others
            .iter()
            .for_each(|path| output::line(format_args!("    {}", path.display())));
    }
    if plan.uses_up {
        output::line("  the held set itself: its snapshots are merged, and it is gone");
    }
    if !plan.newer.is_empty() {
        let names: Vec<String> = plan.newer.iter().map(|id| id.short()).collect();
        output::line(format_args!("  newer held sets stay: {}", names.join(", ")));
    }
    if let Some(how) = &plan.server {
        output::line(format_args!("the server runs ({how})"));
    }
    plan.findings
        .iter()
        .for_each(|finding| output::line(output::finding(finding)));
}

fn tell(outcome: &Outcome) {
    if !outcome.done {
        output::line("the answer was not `yes`: nothing was done");
        return;
    }
    let took = human_micros(outcome.down_us);
    match &outcome.server {
        Some(version) => output::line(format_args!(
            "{} in {took}: the server answers ({version})",
            output::green("rolled back")
        )),
        None => output::line(format_args!(
            "{} in {took}; start the server",
            output::green("rolled back")
        )),
    }
    if let Some(kept) = outcome.kept {
        let id = kept.short();
        output::line(format_args!(
            "what was live before is held set {id}: `snapback snapshot rollback {id}` brings it back, `snapback snapshot delete {id}` gives up its room"
        ));
    }
    outcome
        .findings
        .iter()
        .for_each(|finding| output::line(output::finding(finding)));
}
