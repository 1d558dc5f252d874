//! `snapback export`.

use std::io::{BufWriter, IsTerminal};
use std::path::PathBuf;

use clap::Args;

use super::arguments::{FailedArgument, JobArgument};
use super::{Context, Exit, original_path, output};
use crate::backup::open_repository;
use crate::export::{Request, export};
use crate::{Error, Result};

#[derive(Debug, Args)]
pub(super) struct Export {
    /// `latest`, an id, or a unique prefix of one
    pub id: String,
    /// Whose backup: `latest` is this host's [default: this host's]
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
    #[command(flatten)]
    pub whose: JobArgument,
    #[command(flatten)]
    pub failed: FailedArgument,
    /// As a tar archive on stdout
    #[arg(long, required = true)]
    pub tar: bool,
    /// Only this original path (may be repeated)
    #[arg(value_parser = original_path(), long, value_name = "PATH")]
    pub include: Vec<PathBuf>,
    /// Threads [default: as many as processors, at most 8]
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
}

pub(super) fn run(arguments: &Export, context: &Context<'_>) -> Result<Exit> {
    let stdout = std::io::stdout();
    if stdout.is_terminal() {
        return Err(Error::usage(
            "stdout is a terminal: send the archive to a file or a program, e.g. `snapback export latest --tar > backup.tar`",
        ));
    }
    if context.global.json {
        return Err(Error::usage("--json does not go with export: stdout is the archive"));
    }
    let config = context.config()?;
    let repository = open_repository(&config)?;
    let whose = context.whose(&config, arguments.host.as_ref(), arguments.whose.job.as_ref())?;
    let backup = context.choose(&repository, &arguments.id, &whose, arguments.failed.unfit())?;
    let request = Request {
        include: arguments.include.clone(),
        workers: super::restore::workers(arguments.workers),
    };
    let mut out = BufWriter::with_capacity(1 << 20, stdout.lock());
    let report = export(
        &repository,
        &backup.manifest().id.to_string(),
        &request,
        &mut out,
        &context.progress,
        context.cancel,
    )?;
    if !context.global.quiet {
        output::say(format_args!(
            "exported {}: {} files, an archive of {} in {:.1} s",
            report.id.short(),
            report.files,
            crate::units::Bytes::b(report.bytes),
            report.seconds
        ));
    }
    Ok(Exit::Done)
}
