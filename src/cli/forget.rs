//! `snapback forget`, and the same after a backup.

use jiff::Timestamp;

use super::arguments::{job, tag};
use super::{Context, Exit, output, prune, show};
use crate::backup::{host_name, open_repository};
use crate::config::Config;
use crate::error::Kind;
use crate::forget::{Report, Request, forget};
use crate::repository::Repository;
use crate::retention::{Age, GroupBy, Policy};
use crate::{Error, Result};

#[derive(Debug, clap::Args)]
pub(super) struct Forget {
    /// These backups, by id or prefix; without one, all that no rule keeps
    #[arg(value_name = "ID")]
    pub ids: Vec<String>,
    #[command(flatten)]
    pub rules: Rules,
    /// Only backups of this host [default: this one's; with IDs: any]
    #[arg(long, value_name = "NAME", conflicts_with = "all_hosts")]
    pub host: Option<String>,
    /// Only backups of this job, by its first digits as `list` shows them
    #[arg(long, value_name = "JOB", value_parser = job, conflicts_with = "all_hosts")]
    pub job: Option<String>,
    /// Backups of all hosts
    #[arg(long)]
    pub all_hosts: bool,
    /// A named backup may be one whose manifest cannot be read
    #[arg(long, requires = "ids")]
    pub damaged: bool,
    /// Only say what would be forgotten, and why
    #[arg(long)]
    pub dry_run: bool,
    /// Then give back what nobody needs any more, as `snapback prune`
    #[arg(long)]
    pub prune: bool,
}

/// Rules over the configuration's; one given here replaces them all.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "What stays")]
pub(super) struct Rules {
    /// The newest N
    #[arg(long, value_name = "N")]
    pub keep_last: Option<u32>,
    /// The last one of each of N hours that have one
    #[arg(long, value_name = "N")]
    pub keep_hourly: Option<u32>,
    /// ... of N days (UTC)
    #[arg(long, value_name = "N")]
    pub keep_daily: Option<u32>,
    /// ... of N weeks (ISO)
    #[arg(long, value_name = "N")]
    pub keep_weekly: Option<u32>,
    /// ... of N months
    #[arg(long, value_name = "N")]
    pub keep_monthly: Option<u32>,
    /// ... of N years
    #[arg(long, value_name = "N")]
    pub keep_yearly: Option<u32>,
    /// All that are not older than the newest by more, e.g. 14d, "3 months"
    #[arg(long, value_name = "SPAN")]
    pub keep_within: Option<jiff::Span>,
    /// All with this tag (may be repeated)
    #[arg(long = "keep-tag", value_name = "KEY=VALUE", value_parser = tag)]
    pub keep_tags: Vec<(String, String)>,
    /// Which backups compete: those of one job, or all of a host
    #[arg(long, value_name = "WHAT")]
    pub group_by: Option<GroupByArgument>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(super) enum GroupByArgument {
    /// Same machine, same server and datadir (without a database: same trees)
    Job,
    /// Same host
    Host,
}

impl Rules {
    fn policy(&self, configured: &Policy) -> Result<Policy> {
        let own = Policy {
            keep_last: self.keep_last.unwrap_or(0),
            keep_hourly: self.keep_hourly.unwrap_or(0),
            keep_daily: self.keep_daily.unwrap_or(0),
            keep_weekly: self.keep_weekly.unwrap_or(0),
            keep_monthly: self.keep_monthly.unwrap_or(0),
            keep_yearly: self.keep_yearly.unwrap_or(0),
            keep_within: self.keep_within.map(Age),
            keep_tags: self
                .keep_tags
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect(),
            ..Policy::default()
        };
        let given = own != Policy::default();
        let mut policy = if given { own } else { configured.clone() };
        policy.group_by = match self.group_by {
            None => configured.group_by,
            Some(GroupByArgument::Job) => GroupBy::Job,
            Some(GroupByArgument::Host) => GroupBy::Host,
        };
        match policy.wrong() {
            Some((key, what)) => Err(Error::usage(format!("`{key}` {what}"))),
            None => Ok(policy),
        }
    }
}

pub(super) fn run(arguments: &Forget, context: &Context<'_>) -> Result<Exit> {
    let config = context.config()?;
    let repository = open_repository(&config)?;
    let own = || arguments.host.clone().unwrap_or_else(|| host_name(&config));
    let request = Request {
        ids: arguments.ids.clone(),
        damaged: arguments.damaged,
        policy: arguments.rules.policy(&config.retention)?,
        // A job is named by itself, whatever its host is called.
        host: (!arguments.all_hosts && (arguments.job.is_none() || arguments.host.is_some())).then(own),
        job: arguments.job.clone(),
        dry_run: arguments.dry_run,
        now: Timestamp::now(),
    };
    let report = forget(&repository, &request, context.cancel)?;
    if context.global.json && !arguments.prune {
        output::json(&report)?;
    } else if !context.global.json {
        print(&report);
    }
    let mut exit = if report.unreadable.is_empty() {
        Exit::Done
    } else {
        Exit::Damaged
    };
    if arguments.prune {
        let options = crate::repository::prune::Options {
            dry_run: arguments.dry_run,
            ..Default::default()
        };
        let pruned = repository.prune(&options, &context.progress, context.cancel)?;
        if context.global.json {
            output::json(&serde_json::json!({"forget": report, "prune": pruned}))?;
        } else {
            prune::print(&pruned);
        }
        if exit == Exit::Done {
            exit = prune::exit(&pruned);
        }
    }
    Ok(exit)
}

/// Applies the configured policy to this host's backups after a good one. A failure does not undo the backup: it is a warning.
pub(super) fn after_backup(config: &Config, repository: &Repository, context: &Context<'_>) -> Result<Option<Report>> {
    let request = Request {
        ids: Vec::new(),
        damaged: false,
        policy: config.retention.clone(),
        host: Some(host_name(config)),
        job: None,
        dry_run: false,
        now: Timestamp::now(),
    };
    match forget(repository, &request, context.cancel) {
        Ok(report) => Ok(Some(report)),
        Err(error) if matches!(error.kind(), Kind::Interrupted(_)) => Err(error),
        Err(error) => {
            output::error(&Error::failed(format!(
                "the backup is complete, but nothing was forgotten: {error}"
            )));
            Ok(None)
        }
    }
}

pub(super) fn print(report: &Report) {
    for group in &report.groups {
        let job = if group.job.is_empty() {
            String::new()
        } else {
            format!(": {}", group.job)
        };
        output::line(output::bold(format_args!("{}{job}", group.host)));
        let rows = group.backups.iter().map(|line| {
            let tags: Vec<String> = line.tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
            vec![
                line.verdict.id.short(),
                show::time(line.time),
                if line.verdict.keep { "keep" } else { "forget" }.to_owned(),
                line.verdict.reasons.join(", "),
                tags.join(" "),
            ]
        });
        output::line(output::table(
            &["id", "time (UTC)", "what", "why", "tags"],
            rows.collect(),
        ));
    }
    for key in &report.unreadable {
        output::say(format_args!(
            "{} {key} cannot be read; it is not forgotten unless `snapback forget --damaged ID` says so",
            output::red("damaged")
        ));
    }
    let verb = if report.dry_run { "would forget" } else { "forgot" };
    let count = match report.forgotten.len() {
        1 => "1 backup".to_owned(),
        many => format!("{many} backups"),
    };
    output::line(format_args!("{verb} {count}"));
    if !report.dry_run && !report.forgotten.is_empty() {
        output::line(output::dim("`snapback prune` gives back the room"));
    }
}
