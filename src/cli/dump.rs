//! `snapback dump`.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;

use super::arguments::{FailedArgument, JobArgument};
use super::local_path;
use super::{Context, Exit, absolute, output};
use crate::backup::open_repository;
use crate::dump::{Report, Request, TableName, Target, dump, dump_option, table_name};
use crate::units::Bytes;
use crate::{Error, Result};

pub(super) const EXAMPLES: &str = "\
The backup is restored below --scratch for a while and a private server boots on it; the live server has no part in it. The dump is made by the server's own tool
(mariadb-dump, mysqldump), with routines, triggers and events. Without --databases and --tables everything is dumped, accounts as well.
A file or directory appears when it is whole; a stream that is not ends with what no server takes. What a server cannot read any more (a view without its table, a
discarded tablespace) is left out by name, and the exit status is 5.

Examples:
  snapback dump latest --output /srv/dumps/all.sql
  snapback dump latest --databases shop | zstd > shop.sql.zst
  snapback dump 3f2a --tables shop.orders,shop.customers | mariadb test
  snapback dump latest --output-dir /srv/dumps/by-schema --scratch /srv/scratch
  snapback dump latest --mydumper --output-dir /srv/dumps/for-myloader";

#[derive(Debug, Args)]
pub(super) struct Dump {
    /// `latest`, an id, or a unique prefix of one
    pub id: String,
    /// Whose backup: `latest` is this host's [default: this host's]
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
    #[command(flatten)]
    pub whose: JobArgument,
    #[command(flatten)]
    pub failed: FailedArgument,
    /// Only these schemas
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub databases: Vec<String>,
    /// Only these tables, as SCHEMA.TABLE
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = table_name)]
    pub tables: Vec<TableName>,
    /// Into this new file [default: stdout]
    #[arg(value_parser = local_path(), long, value_name = "FILE", conflicts_with = "output_dir")]
    pub output: Option<PathBuf>,
    /// Into this new directory, a file for each schema
    #[arg(value_parser = local_path(), long, value_name = "DIR")]
    pub output_dir: Option<PathBuf>,
    /// Accounts and privileges, also with --databases or --tables
    #[arg(long, conflicts_with = "no_accounts")]
    pub accounts: bool,
    /// No accounts
    #[arg(long)]
    pub no_accounts: bool,
    /// Without this table or view, as SCHEMA.TABLE
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = table_name)]
    pub ignore_table: Vec<TableName>,
    /// For the dump program, such as --skip-comments; what names files, libraries or servers may not be given
    #[arg(long, value_name = "OPT", value_parser = dump_option, allow_hyphen_values = true, conflicts_with = "mydumper")]
    pub dump_option: Vec<String>,
    #[command(flatten)]
    pub scratch: ScratchArguments,
    /// By mydumper, which has to be installed: several threads, files for each table, for `myloader`
    #[arg(long, requires = "output_dir")]
    pub mydumper: bool,
    /// The dump program [default: the server's own, or an installed one]
    #[arg(value_parser = local_path(), long, value_name = "PATH")]
    pub dump_program: Option<PathBuf>,
    /// Threads of the restore, and of mydumper [default: as many as processors, at most 8]
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
}

/// Where and by which program a backup is booted.
#[derive(Debug, Args)]
pub(super) struct ScratchArguments {
    /// Where the backup is restored to for a while [default: /var/tmp]
    #[arg(value_parser = local_path(), long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
    /// The server program [default: the live server's, or an installed one of the same series]
    #[arg(value_parser = local_path(), long, value_name = "PATH")]
    pub mysqld: Option<PathBuf>,
}

impl ScratchArguments {
    pub fn apply(&self, config: &mut crate::config::Config) -> Result<()> {
        if let Some(directory) = &self.scratch {
            config.scratch.dir = absolute(directory)?;
        }
        if let Some(program) = &self.mysqld {
            config.scratch.mysqld = Some(absolute(program)?);
        }
        Ok(config.check()?)
    }
}

pub(super) fn run(arguments: &Dump, context: &Context<'_>) -> Result<Exit> {
    let mut stdout = std::io::stdout();
    let target = match (&arguments.output, &arguments.output_dir) {
        (Some(file), _) => Target::File(absolute(file)?),
        (None, Some(directory)) => Target::Directory(absolute(directory)?),
        (None, None) if stdout.is_terminal() => {
            return Err(Error::usage(
                "stdout is a terminal: send the dump to a program, or say --output FILE or --output-dir DIR",
            ));
        }
        (None, None) if context.global.json => {
            return Err(Error::usage(
                "--json goes with --output and --output-dir: else stdout is the dump",
            ));
        }
        (None, None) => Target::Stream(&mut stdout),
    };
    let mut config = context.config()?;
    arguments.scratch.apply(&mut config)?;
    let repository = open_repository(&config)?;
    let whose = context.whose(&config, arguments.host.as_ref(), arguments.whose.job.as_ref())?;
    let backup = context.choose(&repository, &arguments.id, &whose, arguments.failed.unfit())?;
    let accounts = match (arguments.accounts, arguments.no_accounts) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    };
    let request = Request {
        databases: arguments.databases.clone(),
        tables: arguments.tables.clone(),
        accounts,
        program: arguments.dump_program.clone().map(|path| absolute(&path)).transpose()?,
        mydumper: arguments.mydumper,
        ignored: arguments.ignore_table.clone(),
        options: arguments.dump_option.clone(),
        workers: super::restore::workers(arguments.workers),
    };
    let report = dump(
        &repository,
        &backup,
        &config,
        &request,
        target,
        &context.progress,
        context.cancel,
    )?;
    if context.global.json {
        output::json(&report)?;
    } else if !context.global.quiet {
        output::say(said(&report));
    }
    for finding in &report.findings {
        output::say(output::finding(finding));
    }
    Ok(Exit::after(&report.findings))
}

fn said(report: &Report) -> String {
    let to = report
        .output
        .as_ref()
        .map(|path| format!(" to {}", path.display()))
        .unwrap_or_default();
    format!(
        "dumped {}{to}: {} schemas, {} accounts, {} of SQL in {:.1} s (the tool {:.1} s)",
        report.id.short(),
        report.schemas.len(),
        report.accounts,
        Bytes::b(report.bytes),
        report.seconds,
        report.dump_seconds
    )
}
