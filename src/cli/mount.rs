//! `snapback mount`.

use std::path::PathBuf;

use clap::Args;

use super::local_path;
use super::{Context, Exit, output};
use crate::Result;
use crate::backup::open_repository;
use crate::mount::{Request, mount};

#[derive(Debug, Args)]
pub(super) struct Mount {
    /// An empty directory
    #[arg(value_parser = local_path())]
    pub directory: PathBuf,
    /// Only backups of this host
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
    /// Let other users look as well, as far as the modes and ACLs of the files and of the directories above the trees let them
    #[arg(long)]
    pub allow_other: bool,
}

pub(super) fn run(arguments: &Mount, context: &Context<'_>) -> Result<Exit> {
    let repository = open_repository(&context.config()?)?;
    let request = Request {
        at: arguments.directory.clone(),
        host: arguments.host.clone(),
        allow_other: arguments.allow_other,
    };
    let report = mount(&repository, &request, &context.progress, context.cancel)?;
    if context.global.json {
        output::json(&report)?;
    }
    if report.failed_reads > 0 {
        output::say(format_args!(
            "{} reads failed because something stored is damaged: `snapback verify --all --level data` names it",
            report.failed_reads
        ));
        return Ok(Exit::Damaged);
    }
    Ok(Exit::Done)
}
