//! `snapback snapshot watch`.

use super::super::{Context, Exit, output};
use crate::Result;
use crate::snapshot;

pub(super) fn run(context: &Context<'_>) -> Result<Exit> {
    let watched = snapshot::watch(&context.config()?)?;
    if context.global.json {
        output::json(&watched)?;
    } else {
        for set in &watched.removed {
            output::line(format_args!("removed held set {} ({})", set.id.short(), set.reason));
        }
        for name in &watched.extended {
            output::line(format_args!("extended the copy-on-write space of {name}"));
        }
        watched
            .findings
            .iter()
            .for_each(|finding| output::line(output::finding(finding)));
    }
    Ok(Exit::after(&watched.findings))
}
