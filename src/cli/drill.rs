//! `snapback verify --boot`, and what `list` and `show` say of drills.

mod details;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::{Value, json};

use super::arguments::Verify;
use super::local_path;
use super::{Context, Exit, absolute, output, show};
use crate::Result;
use crate::backup::open_repository;
use crate::config::Config;
use crate::drill::{self, Outcome, Pick};
use crate::error::Kind;
use crate::job::Unfit;
use crate::repository::{Drill, Manifest, Repository};
use crate::units::Id;

pub(super) const EXAMPLES: &str = "\
Exit status 4 when something is damaged, does not boot, or a table does not pass; 1 when a drill is inconclusive: the machine failed, or lacks what the data need.

--boot reads and verifies every byte that the backup needs, so --level does not go with it. It needs as much room as the server's data, below --scratch, for a
while; nothing of the live server is touched. The verdict is kept in the repository: `list` and `show` have it.

Examples:
  snapback verify
  snapback verify --all --level data
  snapback verify --boot --scratch /srv/scratch
  snapback verify --boot --pick oldest-undrilled --mysqld /opt/mysql-8.4/bin/mysqld";

/// Flags of `verify --boot`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Drills")]
pub(super) struct DrillArguments {
    /// Restore to scratch space, boot a private server, check every table
    #[arg(long, conflicts_with = "level")]
    pub boot: bool,
    /// Which backup, when none is named [default: newest]
    #[arg(long, value_name = "HOW", requires = "boot", conflicts_with_all = ["id", "all"])]
    pub pick: Option<PickArgument>,
    /// Where the backup is restored to for the time of the drill [default: /var/tmp]
    #[arg(value_parser = local_path(), long, value_name = "DIR", requires = "boot")]
    pub scratch: Option<PathBuf>,
    /// The server program [default: the live server's, or an installed one of the same series]
    #[arg(value_parser = local_path(), long, value_name = "PATH", requires = "boot")]
    pub mysqld: Option<PathBuf>,
}

/// How a backup is chosen.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum PickArgument {
    /// The newest
    Newest,
    /// Any
    Random,
    /// The oldest without a verdict, else the one whose verdict is the oldest
    OldestUndrilled,
}

impl From<PickArgument> for Pick {
    fn from(word: PickArgument) -> Pick {
        match word {
            PickArgument::Newest => Pick::Newest,
            PickArgument::Random => Pick::Random,
            PickArgument::OldestUndrilled => Pick::OldestUndrilled,
        }
    }
}

impl DrillArguments {
    fn apply(&self, config: &mut Config) -> Result<()> {
        if let Some(directory) = &self.scratch {
            config.scratch.dir = absolute(directory)?;
        }
        if let Some(program) = &self.mysqld {
            config.scratch.mysqld = Some(absolute(program)?);
        }
        Ok(config.check()?)
    }
}

pub(super) fn run(arguments: &Verify, context: &Context<'_>) -> Result<Exit> {
    let mut config = context.config()?;
    arguments.drill.apply(&mut config)?;
    config.host = arguments.host.clone().or(config.host.take());
    let repository = open_repository(&config)?;
    let workers = super::restore::workers(arguments.workers);
    let (mut drills, mut refused, mut unkept) = (Vec::new(), Vec::new(), Vec::new());
    for id in wanted(arguments, &repository, &config, context)? {
        match drill::drill(&repository, &id, &config, workers, &context.progress, context.cancel) {
            Ok(done) => {
                if !context.global.json {
                    details::print(&done.drill);
                }
                if let Some(error) = done.unkept {
                    let said = format!("the verdict stands, but could not be kept in the repository: {error}");
                    output::error(&crate::Error::failed(said));
                    unkept.push(json!({"backup": done.drill.backup, "reason": error.to_string()}));
                }
                drills.push(done.drill);
            }
            // One backup that cannot be drilled here does not keep the others from it.
            Err(error) if arguments.all && matches!(error.kind(), Kind::Failed | Kind::Usage) => {
                output::error(&error);
                refused.push(json!({"backup": id, "reason": error.to_string()}));
            }
            Err(error) => return Err(error),
        }
    }
    let worst = drills.iter().map(outcome).max().unwrap_or(Outcome::Ok);
    if context.global.json {
        let good = worst < Outcome::Inconclusive && refused.is_empty();
        output::json(&json!({"good": good, "drills": drills, "refused": refused, "unkept": unkept}))?;
    }
    Ok(match worst {
        Outcome::Failed => Exit::Damaged,
        // Nothing was proved, as when no drill took place.
        Outcome::Inconclusive => Exit::Failed,
        _ if !refused.is_empty() || !unkept.is_empty() => Exit::Failed,
        Outcome::Warnings => Exit::Warnings,
        Outcome::Ok => Exit::Done,
    })
}

fn wanted(arguments: &Verify, repository: &Repository, config: &Config, context: &Context<'_>) -> Result<Vec<String>> {
    if arguments.all {
        let manifests = repository.list()?.into_iter().filter_map(|listed| listed.manifest.ok());
        let databases = manifests.filter(|manifest| manifest.record.has_server());
        return Ok(databases.map(|manifest| manifest.id.to_string()).collect());
    }
    let whose = context.whose(config, arguments.host.as_ref(), arguments.whose.job.as_ref())?;
    // `latest` may be of files only.
    if arguments.id == "latest" || arguments.drill.pick.is_some() {
        let how = arguments.drill.pick.map_or(Pick::Newest, Pick::from);
        return Ok(vec![drill::choose(repository, &whose, how)?.to_string()]);
    }
    let backup = context.choose(repository, &arguments.id, &whose, Unfit::Say)?;
    Ok(vec![backup.manifest().id.to_string()])
}

fn outcome(drill: &Drill) -> Outcome {
    // Also of a verdict whose details only a later program knows.
    serde_json::from_value(drill.verdict["result"].clone()).unwrap_or(Outcome::Failed)
}

fn coloured(outcome: Outcome) -> String {
    match outcome {
        Outcome::Ok => output::green("ok"),
        Outcome::Warnings => output::yellow("warnings"),
        Outcome::Inconclusive => output::yellow("inconclusive"),
        Outcome::Failed => output::red("failed"),
    }
}

/// The last drill of each backup.
pub(super) type Last = BTreeMap<Id, crate::repository::Result<Drill>>;

/// Reads them.
pub(super) fn last(repository: &Repository) -> Result<Last> {
    Ok(repository.last_drills()?)
}

/// `ok 3d ago`, for a table.
pub(super) fn cell(drill: Option<&crate::repository::Result<Drill>>) -> String {
    match drill {
        None => String::new(),
        Some(Err(_)) => output::red("unreadable"),
        Some(Ok(drill)) => format!(
            "{} {}",
            coloured(outcome(drill)),
            ago(drill.time, jiff::Timestamp::now())
        ),
    }
}

/// For `list --json`.
pub(super) fn brief(drill: &crate::repository::Result<Drill>) -> Value {
    match drill {
        Ok(drill) => json!({
            "id": drill.id, "time": drill.time, "result": outcome(drill), "failed_at": drill.verdict["failed_at"],
            "reasons": drill.verdict["reasons"].as_array().cloned().unwrap_or_default(),
        }),
        Err(error) => json!({"result": "unreadable", "reasons": [error.to_string()]}),
    }
}

/// For `show`: every drill in a line, the last one with details.
pub(super) fn history(drills: &[crate::repository::Result<Drill>]) {
    for (number, drill) in drills.iter().enumerate() {
        match drill {
            Err(error) => output::say(output::red(error)),
            Ok(drill) => {
                output::line(format_args!(
                    "drill at {}: {}",
                    show::time(drill.time),
                    coloured(outcome(drill))
                ));
                if number + 1 == drills.len()
                    && let Some(verdict) = drill::verdict_of(drill)
                {
                    details::details(&verdict);
                }
            }
        }
    }
}

/// The manifest as it is stored, with the last drill beside it.
#[derive(Serialize)]
pub(super) struct ShownJson<'m> {
    #[serde(flatten)]
    manifest: &'m Manifest,
    drill: Option<&'m Drill>,
}

impl<'m> ShownJson<'m> {
    pub fn new(manifest: &'m Manifest, drills: &'m [crate::repository::Result<Drill>]) -> ShownJson<'m> {
        ShownJson {
            manifest,
            drill: drills.iter().rev().find_map(|drill| drill.as_ref().ok()),
        }
    }
}

fn ago(time: jiff::Timestamp, now: jiff::Timestamp) -> String {
    let seconds = now.duration_since(time).as_secs().max(0);
    let (number, unit) = match seconds {
        0..60 => return "now".to_owned(),
        60..3600 => (seconds / 60, "min"),
        3600..86_400 => (seconds / 3600, "h"),
        _ => (seconds / 86_400, "d"),
    };
    format!("{number}{unit} ago")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_well() {
        let now = jiff::Timestamp::from_second(1_790_000_000).unwrap();
        let of = |seconds: i64| ago(now - jiff::SignedDuration::from_secs(seconds), now);
        assert_eq!(
            [of(-5), of(59), of(60), of(7200), of(3 * 86_400 + 1)],
            ["now", "now", "1min ago", "2h ago", "3d ago"]
        );
    }
}
