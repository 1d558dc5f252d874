//! `snapback restore --into-server`.

use std::path::Path;

use clap::Args;

use super::arguments::Restore;
use super::{Context, Exit, absolute, output};
use crate::config::Config;
use crate::dump::{TableName, table_name};
use crate::repository::{Backup, Repository};
use crate::table::{Request, What, restore};
use crate::units::Bytes;
use crate::{Error, Result};

/// One table or schema, into a running server.
#[derive(Debug, Args)]
#[command(next_help_heading = "Into a running server")]
pub(super) struct TableArguments {
    /// This table, as SCHEMA.TABLE
    #[arg(long, value_name = "NAME", value_parser = table_name, requires = "into_server")]
    pub table: Option<TableName>,
    /// This schema
    #[arg(long, value_name = "NAME", requires = "into_server", conflicts_with = "table")]
    pub schema: Option<String>,
    /// Under this name: SCHEMA.TABLE, or SCHEMA with --schema [default: as it was]
    #[arg(long = "as", value_name = "NAME", requires = "into_server")]
    pub new_name: Option<String>,
}

pub(super) fn run(
    arguments: &Restore,
    socket: &Path,
    repository: &Repository,
    backup: &Backup,
    mut config: Config,
    context: &Context<'_>,
) -> Result<Exit> {
    let wanted = &arguments.into;
    let what = match (&wanted.table, &wanted.schema) {
        (Some(from), _) => What::Table {
            from: from.clone(),
            to: match &wanted.new_name {
                Some(name) => table_name(name).map_err(Error::usage)?,
                None => from.clone(),
            },
        },
        (None, Some(from)) => What::Schema {
            from: from.clone(),
            to: wanted.new_name.clone().unwrap_or_else(|| from.clone()),
        },
        (None, None) => return Err(Error::usage("--into-server goes with --table or --schema")),
    };
    arguments.scratch.apply(&mut config)?;
    let request = Request {
        what,
        socket: absolute(socket)?,
        force: arguments.force,
        workers: super::restore::workers(arguments.workers),
    };
    let report = restore(repository, backup, &config, &request, &context.progress, context.cancel)?;
    if context.global.json {
        output::json(&report)?;
    } else {
        output::line(format_args!(
            "restored {} from {}: {} of SQL in {:.1} s (loading {:.1} s)",
            report.restored,
            report.id.short(),
            Bytes::b(report.bytes),
            report.seconds,
            report.load_seconds
        ));
        report
            .remarks
            .iter()
            .for_each(|remark| output::say(format_args!("note: {remark}")));
    }
    for finding in &report.findings {
        output::say(output::finding(finding));
    }
    Ok(Exit::after(&report.findings))
}
