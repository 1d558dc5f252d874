//! `snapback completions` and `snapback man`: both come from the definitions in `arguments.rs`.

use clap::CommandFactory;

use super::arguments::{Arguments, Completions, Man};
use super::{Exit, output};
use crate::sys::fs::Beneath;
use crate::{Error, Result};

pub(super) fn completions(arguments: &Completions) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "snapback", &mut script);
    output::raw(&script);
    Ok(Exit::Done)
}

pub(super) fn man(arguments: &Man) -> Result<Exit> {
    match &arguments.dir {
        Some(dir) => {
            // Somebody else may own it: what is there under a page's name is replaced, and no link is followed.
            let dir = Beneath::open_way(dir, false)?;
            let mut command = Arguments::command().disable_help_subcommand(true);
            command.build();
            pages(command, &dir)?;
            Ok(Exit::Done)
        }
        None => {
            output::raw(&page(&clap_mangen::Man::new(Arguments::command()))?);
            Ok(Exit::Done)
        }
    }
}

/// A page for a command and each one below it.
fn pages(command: clap::Command, dir: &Beneath) -> Result<()> {
    let shown = command.get_subcommands().filter(|below| !below.is_hide_set());
    shown.cloned().try_for_each(|below| pages(below, dir))?;
    let manual = clap_mangen::Man::new(command);
    Ok(dir.replace_durably(manual.get_filename().as_ref(), &page(&manual)?, 0o644)?)
}

fn page(manual: &clap_mangen::Man) -> Result<Vec<u8>> {
    let mut page = Vec::new();
    let render = manual.render(&mut page);
    render.map_err(|error| Error::failed(format!("cannot make the manual page: {error}")))?;
    Ok(page)
}
