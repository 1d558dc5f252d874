//! `snapback init`.

use std::path::Path;
use std::sync::Arc;

use super::arguments::Init;
use super::{Context, Exit, output};
use crate::config::{Config, starter};
use crate::database::{Strategy, mysql};
use crate::finding::Finding;
use crate::repository::Repository;
use crate::store::DirectoryStore;
use crate::{Error, Result};

pub(super) fn run(arguments: &Init, context: &Context<'_>) -> Result<Exit> {
    if arguments.print_grants {
        print_grants(arguments, context)
    } else {
        make(context)
    }
}

fn print_grants(arguments: &Init, context: &Context<'_>) -> Result<Exit> {
    let strategy: Strategy = arguments.lock.map_or(Strategy::Auto, Into::into);
    let sql = match arguments.flavour {
        Some(flavour) => mysql::grants_sql(flavour.into(), strategy),
        None => {
            let mut config = context.config()?;
            arguments.server.apply(&mut config);
            let server = config
                .server
                .as_ref()
                .ok_or_else(|| Error::usage("no server is configured: name one with --flavour"))?;
            mysql::Server::connect(server)?.grants_sql(strategy)
        }
    };
    output::text(&sql);
    Ok(Exit::Done)
}

fn make(context: &Context<'_>) -> Result<Exit> {
    let path = context.config_path();
    let there = path.exists();
    let mut warnings = Vec::new();
    let config: Config = if there {
        let config = context.config()?;
        warnings.extend(another_repository(&path, &config)?);
        config
    } else {
        Config {
            repository: repository(context)?,
            ..Config::default()
        }
    };
    if config.repository.as_os_str().is_empty() {
        return Err(no_repository());
    }
    let store = DirectoryStore::create(&config.repository).map_err(crate::repository::Error::from)?;
    let made = Repository::create(Arc::new(store))?;
    if !there {
        // Else it would be refused when it is read.
        crate::sys::trust::require(&path)?;
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent)
                .map_err(|error| crate::sys::Error::path("make the directory", parent, error))?;
        }
        crate::sys::fs::create_durably(&path, starter(&config.repository).as_bytes(), 0o600)?;
    }
    if context.global.json {
        output::json(&serde_json::json!({
            "repository": config.repository, "id": made.id(), "config": path, "config_written": !there,
            "warnings": warnings,
        }))?;
        return Ok(Exit::after(&warnings));
    }
    output::line(format_args!(
        "made the repository {} in {}",
        made.id().short(),
        config.repository.display()
    ));
    let (written, next) = if there {
        ("uses", "")
    } else {
        ("wrote", ": look at it, then run `snapback check`")
    };
    output::line(format_args!("{written} the configuration {}{next}", path.display()));
    if !there {
        output::line("`snapback init --print-grants` prints the SQL for the server's account");
    }
    warnings
        .iter()
        .for_each(|warning| output::line(output::finding(warning)));
    Ok(Exit::after(&warnings))
}

/// The configuration stays as it is, so that the next backup goes where it says, and not into the new repository.
fn another_repository(path: &Path, config: &Config) -> Result<Option<Finding>> {
    let configured = Config::load(path)?.repository;
    let another = !configured.as_os_str().is_empty() && configured != config.repository;
    Ok(another.then(|| {
        Finding::warning(
            "another-repository",
            format!(
                "the configuration {} names the repository {}: backups go there, not to {}",
                path.display(),
                configured.display(),
                config.repository.display()
            ),
        )
        .remedy("change `repository:` in it, or give --repository with every command")
    }))
}

fn repository(context: &Context<'_>) -> Result<std::path::PathBuf> {
    context
        .global
        .repository
        .as_deref()
        .map_or_else(|| Err(no_repository()), super::absolute)
}

fn no_repository() -> Error {
    Error::usage(
        "where shall backups be kept? give --repository DIR: best a directory on other storage than the server's data",
    )
}
