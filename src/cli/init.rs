//! `snapback init`.

use std::path::Path;
use std::sync::Arc;

use super::arguments::Init;
use super::{Context, Exit, output};
use crate::config::{Config, starter};
use crate::database::mysql::{Account, Feature, Login};
use crate::database::{Strategy, mysql};
use crate::finding::Finding;
use crate::repository::Repository;
use crate::store::DirectoryStore;
use crate::sys::fs::Beneath;
use crate::{Error, Result};

pub(super) fn run(arguments: &Init, context: &Context<'_>) -> Result<Exit> {
    if arguments.print_grants {
        print_grants(arguments, context)
    } else {
        make(context)
    }
}

/// The SQL goes to stdout, and so into a client; a password that it has is written into an option file, or said on stderr, once.
fn print_grants(arguments: &Init, context: &Context<'_>) -> Result<Exit> {
    let mut features: Vec<Feature> = arguments.features.iter().map(|feature| (*feature).into()).collect();
    if features.is_empty() {
        features.extend(Feature::USUAL);
    }
    // Whatever else it is for, it is checked and used by a backup's privileges first.
    if !features.contains(&Feature::Backup) {
        features.insert(0, Feature::Backup);
    }
    if let Some(file) = &arguments.option_file {
        refuse_taken(file)?;
    }
    let password = format!("Aa1!{}", crate::units::Id::random());
    let mut account = Account {
        strategy: arguments.lock.map_or(Strategy::Auto, Into::into),
        features,
        login: Login::Password(password.clone()),
    };
    let (sql, way) = match arguments.flavour {
        Some(flavour) => {
            let mut config = Config::default();
            arguments.server.apply(&mut config);
            (mysql::account_sql(flavour.into(), &account), given_way(&config))
        }
        None => {
            let mut config = context.config()?;
            arguments.server.apply(&mut config);
            let server = config
                .server
                .as_ref()
                .ok_or_else(|| Error::usage("no server is configured: name one with --flavour"))?;
            let way = mysql::connect::ConnectOptions::new(server)?.option_lines();
            let mut server = mysql::Server::connect(server)?;
            if arguments.option_file.is_none() && server.lets_in_by_socket()? {
                account.login = Login::Socket(crate::sys::host::user_name(crate::sys::host::user_id()));
            }
            (server.account_sql(&account), way)
        }
    };
    match (&account.login, &arguments.option_file) {
        (Login::Socket(user), _) => output::say(format_args!(
            "the account has no password: the server lets {user} in over the socket. Set `server: {{user: snapback}}` in the configuration"
        )),
        (Login::Password(_), Some(file)) => {
            write_new(&super::absolute(file)?, &option_file(&password, &way), false)?;
            output::say(format_args!(
                "wrote {} with a random password (mode 0600). Set `server: {{defaults_file: {}}}` in the configuration",
                file.display(),
                super::absolute(file)?.display()
            ));
        }
        (Login::Password(_), None) => output::say_text(&format!(
            "the password is random and said only here: put this into an option file of mode 0600, such as /etc/snapback/my.cnf, and set \
             `server: {{defaults_file: /etc/snapback/my.cnf}}` in the configuration (--option-file FILE writes it)\n\n{}",
            option_file(&password, &way)
        )),
    }
    output::text(&sql);
    Ok(Exit::Done)
}

/// What `server.defaults_file` reads, with the way in that was used.
fn option_file(password: &str, way: &str) -> String {
    format!("[snapback]\nuser=snapback\npassword={password}\n{way}")
}

/// The way to a server that is not asked, as far as the command line names it.
fn given_way(config: &Config) -> String {
    let Some(server) = &config.server else {
        return String::new();
    };
    let socket = server.socket.iter().map(|path| format!("socket={}\n", path.display()));
    let host = server.host.iter().map(|host| format!("host={host}\n"));
    let port = server.port.iter().map(|port| format!("port={port}\n"));
    socket.chain(host).chain(port).collect()
}

/// A file that is there has the password of an account that may be in use: said before a new password is made.
fn refuse_taken(file: &Path) -> Result<()> {
    if std::fs::symlink_metadata(file).is_err() {
        return Ok(());
    }
    Err(Error::usage(format!(
        "{} is there already, and is left as it is: it goes with the password that its account has. For new privileges alone leave --option-file out, and run the GRANT \
         lines only; for a new password move the file away, or name another one, and run all of the SQL again",
        file.display()
    )))
}

/// Writes a file that is not there yet, for its owner alone. Somebody else may own its directory (`make`: which is made): no link of
/// theirs is followed.
fn write_new(path: &Path, text: &str, make: bool) -> Result<()> {
    let (directory, name) = Beneath::open_holder(path, make)?;
    Ok(directory.create_durably(name, text.as_bytes(), 0o600)?)
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
        write_new(&super::absolute(&path)?, &starter(&config.repository), true)?;
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
        output::line("`snapback init --print-grants --option-file FILE` prints the SQL for the server's account");
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
