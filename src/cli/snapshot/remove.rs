//! `snapback snapshot delete` and `expire`.

use clap::Args;
use serde_json::json;

use super::super::{Context, Exit, output};
use super::{One, list};
use crate::Result;
use crate::snapshot;

#[derive(Debug, Args)]
pub(super) struct Expire {
    /// Only say what would be removed
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct Delete {
    #[command(flatten)]
    one: One,
    /// Forget the record also where a snapshot is out of reach (its storage is not mounted, active or imported): that one stays
    #[arg(long)]
    force: bool,
}

pub(super) fn delete(arguments: &Delete, context: &Context<'_>) -> Result<Exit> {
    let (config, id) = list::chosen(context, &arguments.one.set)?;
    let stay = match arguments.force {
        true => snapshot::forget(&config, id)?,
        false => snapshot::delete(&config, id).map(|()| Vec::new())?,
    };
    if context.global.json {
        output::json(&json!({"id": id, "deleted": true, "stay": stay}))?;
    } else if !stay.is_empty() {
        output::line(format_args!(
            "held set {} is forgotten; out of reach, and not removed: {}. `snapback cleanup --orphans` removes that when its storage is back",
            id.short(),
            stay.join(", ")
        ));
    } else {
        output::line(format_args!("held set {} is gone", id.short()));
    }
    Ok(Exit::Done)
}

pub(super) fn expire(arguments: &Expire, context: &Context<'_>) -> Result<Exit> {
    let config = context.config()?;
    let (removed, findings) = snapshot::expire(&config, jiff::Timestamp::now(), arguments.dry_run)?;
    if context.global.json {
        output::json(&json!({"removed": removed, "findings": findings}))?;
    } else {
        let verb = if arguments.dry_run { "would remove" } else { "removed" };
        for set in &removed {
            let label = set
                .label
                .as_deref()
                .map(|label| format!(" {label}"))
                .unwrap_or_default();
            output::line(format_args!("{verb} held set {}{label}", set.id.short()));
        }
        findings
            .iter()
            .for_each(|finding| output::line(output::finding(finding)));
        if removed.is_empty() && findings.is_empty() {
            output::line("nothing has expired");
        }
    }
    Ok(Exit::after(&findings))
}
