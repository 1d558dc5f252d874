//! `snapback snapshot mount`, `exec`, `diff` and `backup`: a held set is read.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::super::arguments::tag;
use super::super::local_path;
use super::super::{Context, Exit, output, show};
use super::{One, list};
use crate::Result;
use crate::snapshot::{self, Way, What};
use crate::units::Bytes;

#[derive(Debug, Args)]
pub(super) struct Mount {
    /// `latest`, an id or a unique prefix of one, or a label
    #[arg(value_name = "SET")]
    pub set: String,
    /// An empty directory
    #[arg(value_parser = local_path(), value_name = "DIR")]
    pub directory: PathBuf,
    /// Let other users look as well, as far as the files' modes and those of the directories above the trees let them
    #[arg(long)]
    pub allow_other: bool,
}

#[derive(Debug, Args)]
pub(super) struct Exec {
    /// `latest`, an id or a unique prefix of one, or a label
    #[arg(value_name = "SET")]
    pub set: String,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(super) struct Backup {
    /// `latest`, an id or a unique prefix of one, or a label
    #[arg(value_name = "SET")]
    pub set: String,
    /// A tag (may be repeated)
    #[arg(long, value_name = "KEY=VALUE", value_parser = tag)]
    pub tag: Vec<(String, String)>,
    /// Bytes per second that are read at most, e.g. 100MB
    #[arg(long, value_name = "BYTES")]
    pub bandwidth: Option<Bytes>,
}

pub(super) fn mount(arguments: &Mount, context: &Context<'_>) -> Result<Exit> {
    let (config, id) = list::chosen(context, &arguments.set)?;
    snapshot::mount(&config, id, &arguments.directory, arguments.allow_other)?;
    let at = arguments.directory.display();
    if context.global.json {
        output::json(&json!({"id": id, "at": arguments.directory}))?;
    } else {
        output::line(format_args!(
            "held set {} is at {at} until `umount -R {at}`",
            id.short()
        ));
    }
    Ok(Exit::Done)
}

pub(super) fn exec(arguments: &Exec, context: &Context<'_>) -> Result<Exit> {
    let (config, id) = list::chosen(context, &arguments.set)?;
    let status = snapshot::exec(&config, id, &arguments.command, context.cancel)?;
    Ok(Exit::Status(status))
}

pub(super) fn diff(one: &One, context: &Context<'_>) -> Result<Exit> {
    let (config, id) = list::chosen(context, &one.set)?;
    let diff = snapshot::diff(&config, id, context.cancel)?;
    if context.global.json {
        output::json(&diff)?;
        return Ok(Exit::Done);
    }
    let size = |size: Option<u64>| size.map_or("-".to_owned(), |size| Bytes::b(size).to_string());
    let rows = diff.changes.iter().map(|change| {
        let what = match change.what {
            What::Added => "added",
            What::Removed => "removed",
            What::Changed => "changed",
        };
        let sizes = match (change.size_then, change.size_now) {
            (Some(then), Some(now)) if then == now => size(Some(now)),
            (then, now) => format!("{} -> {}", size(then), size(now)),
        };
        let mut row = vec![what.to_owned(), sizes];
        if diff.way == Way::Extents {
            row.push(
                change
                    .written
                    .map_or("-".to_owned(), |bytes| format!("{} written", Bytes::b(bytes))),
            );
        }
        row.push(change.path.display().to_string());
        row
    });
    if !diff.changes.is_empty() {
        output::line(output::table(&[], rows.collect()));
    }
    let written = match diff.way {
        Way::Extents => format!(", of which {} were written", Bytes::b(diff.written.unwrap_or_default())),
        Way::Metadata => String::new(),
    };
    let way = match diff.way {
        Way::Extents => "by size, times and extents",
        Way::Metadata => "by size and times",
    };
    output::line(format_args!(
        "{} of {} files differ since {} ({way}); those that are there now have {}{written}",
        diff.changes.len(),
        diff.files,
        id.short(),
        Bytes::b(diff.bytes)
    ));
    Ok(Exit::Done)
}

pub(super) fn backup(arguments: &Backup, context: &Context<'_>) -> Result<Exit> {
    let (mut config, id) = list::chosen(context, &arguments.set)?;
    config.copy.bandwidth = arguments.bandwidth.or(config.copy.bandwidth);
    let tags = arguments.tag.iter().cloned().collect();
    let outcome = snapshot::backup(&config, id, &tags, &context.progress, context.cancel)?;
    if context.global.json {
        output::json(&super::super::backup::as_json(&outcome))?;
    } else {
        show::summary(&outcome.manifest, &outcome.record);
    }
    Ok(Exit::after(&outcome.record.warnings))
}
