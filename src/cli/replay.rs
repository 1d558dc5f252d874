//! `restore --until`: a backup and the archived logs, to a point in time.

use clap::Args;

use super::arguments::Restore;
use super::{Context, Exit, absolute, output};
use crate::config::Config;
use crate::replay::{self, Asked, Until};
use crate::repository::Repository;
use crate::{Error, Result};

#[derive(Debug, Args)]
#[command(next_help_heading = "Point in time")]
pub(super) struct ReplayArguments {
    /// Replay the archived binary logs up to and with: a time, FILE:POS, a GTID, or `end`
    #[arg(long, value_name = "POINT", group = "point", conflicts_with_all = ["target", "in_place", "into_server", "include", "keep_going", "replica_of", "until_before"])]
    pub until: Option<String>,
    /// The same, up to and without: the transaction at FILE:POS, with this GTID, or of this second
    #[arg(long, value_name = "POINT", group = "point", conflicts_with_all = ["target", "in_place", "into_server", "include", "keep_going", "replica_of"])]
    pub until_before: Option<String>,
    /// Transactions that the server's applier may replay at the same time, where it can; 1: one after the other through the server's client [default: as many as processors, at most 8]
    #[arg(long, value_name = "N", requires = "point", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub replay_workers: Option<u16>,
    /// Where the point is in several lines of history (after a rollback, a restore, a RESET): the one with the log whose id, as `binlog list` shows it, begins so
    #[arg(long, value_name = "ID", requires = "point")]
    pub line: Option<String>,
    /// Go on where the archived logs are not the whole history of the server (filters, replication that is not logged)
    #[arg(long, requires = "point")]
    pub accept_incomplete: bool,
}

impl ReplayArguments {
    /// The point that is asked for, if one is.
    pub fn asked(&self) -> Result<Option<Asked>> {
        let (text, before) = match (&self.until, &self.until_before) {
            (Some(text), _) => (text, false),
            (None, Some(text)) => (text, true),
            (None, None) => return Ok(None),
        };
        let until = replay::parse(text)?;
        if before && until == Until::End {
            return Err(Error::usage("nothing is before `end`: say --until end"));
        }
        Ok(Some(Asked {
            before,
            line: self.line.clone(),
            incomplete: self.accept_incomplete,
            ..Asked::of(until)
        }))
    }
}

pub(super) fn run(
    arguments: &Restore,
    asked: &Asked,
    mut config: Config,
    repository: &Repository,
    context: &Context<'_>,
) -> Result<Exit> {
    arguments.scratch.apply(&mut config)?;
    let whose = context.whose(&config, arguments.host.as_ref(), arguments.whose.job.as_ref())?;
    let id = match arguments.id.as_str() {
        "latest" => None,
        _ => {
            let backup = context.choose(repository, &arguments.id, &whose, arguments.failed.unfit())?;
            Some(backup.manifest().id.to_string())
        }
    };
    let datadir = arguments
        .destination
        .datadir
        .as_ref()
        .ok_or_else(|| Error::usage("--until needs --datadir"))?;
    let workers = super::restore::workers(arguments.workers);
    let replayers = arguments.replay.replay_workers.map(usize::from);
    if let Until::Time(time) = asked.until {
        let flag = if asked.before { "--until-before" } else { "--until" };
        output::say(super::show::understood(flag, time));
    }
    let at = absolute(datadir)?;
    let (restored, replayed) = replay::restore_and_replay(
        &config,
        repository,
        &at,
        replay::request(at.clone(), workers, arguments.keep_uuid),
        |work| {
            let plan = replay::plan(repository, &whose, id.as_deref(), asked, work, context.cancel)?;
            Ok(plan.with_workers(replayers))
        },
        &context.progress,
        context.cancel,
    )?;
    if context.global.json {
        let mut json = serde_json::json!(restored);
        json["replay"] = serde_json::json!(replayed);
        // What a restore says of the position is that of the backup.
        json["next_steps"] = serde_json::json!(before_position(&restored.next_steps));
        output::json(&json)?;
    } else {
        let how = match replayed.workers {
            1 => "one after the other".to_owned(),
            workers => format!("by {workers} workers"),
        };
        output::line(format_args!(
            "restored {} to {} and replayed {} transactions from {}:{} to {}:{} in {:.1} s, {how}",
            output::bold(restored.id.short()),
            datadir.display(),
            replayed.changes,
            replayed.from_file,
            replayed.from_position,
            replayed.file,
            replayed.position,
            replayed.seconds
        ));
        if let Some(time) = &replayed.last_change {
            output::line(format_args!("  the last one was committed at {time}"));
        }
        if let Some(gtid) = &replayed.gtid {
            output::line(format_args!("  its GTIDs are {gtid}"));
        }
        output::line(output::bold("what to do next"));
        for step in before_position(&restored.next_steps) {
            output::step(format_args!("  {step}"));
        }
    }
    replayed
        .warnings
        .iter()
        .for_each(|finding| output::say(output::finding(finding)));
    let all = [restored.warnings, replayed.warnings].concat();
    Ok(Exit::after(&all))
}

/// Steps up to those that tell of the backup's own position.
fn before_position(steps: &[String]) -> Vec<&String> {
    steps
        .iter()
        .take_while(|step| !step.starts_with("the data is"))
        .collect()
}
