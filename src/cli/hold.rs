//! `snapback hold`.

use serde_json::json;

use super::{Context, Exit, output};
use crate::Result;
use crate::backup::open_repository;

#[derive(Debug, clap::Args)]
pub(super) struct Hold {
    /// `latest`, an id, or a unique prefix of one
    pub id: String,
    /// Why, for whoever asks later
    #[arg(long, value_name = "TEXT", conflicts_with = "release")]
    pub reason: Option<String>,
    /// End all holds of the backup
    #[arg(long)]
    pub release: bool,
}

pub(super) fn run(arguments: &Hold, context: &Context<'_>) -> Result<Exit> {
    let repository = open_repository(&context.config()?)?;
    let id = repository.find(&arguments.id)?.manifest().id;
    let (held, said) = if arguments.release {
        match repository.release(id)? {
            0 => (false, "was not held"),
            _ => (false, "is not held any more"),
        }
    } else {
        repository.hold(id, arguments.reason.clone())?;
        (true, "is held: nothing forgets it until `snapback hold --release`")
    };
    if context.global.json {
        output::json(&json!({"id": id, "held": held}))?;
    } else {
        output::line(format_args!("backup {} {said}", id.short()));
    }
    Ok(Exit::Done)
}
