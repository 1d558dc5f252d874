//! `snapback completions` and `snapback man`: both come from the definitions in `arguments.rs`.

use clap::CommandFactory;

use super::arguments::{Arguments, Completions, Man};
use super::{Exit, output};
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
            clap_mangen::generate_to(Arguments::command(), dir)
                .map_err(|error| Error::failed(format!("cannot write manual pages to {}: {error}", dir.display())))?;
            Ok(Exit::Done)
        }
        None => {
            let mut page = Vec::new();
            let render = clap_mangen::Man::new(Arguments::command()).render(&mut page);
            render.map_err(|error| Error::failed(format!("cannot make the manual page: {error}")))?;
            output::raw(&page);
            Ok(Exit::Done)
        }
    }
}
