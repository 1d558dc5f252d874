//! The command line: arguments, progress, tables, JSON. The only place that prints.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod arguments;
mod backup;
mod binlog;
mod check;
mod checksums;
mod cleanup;
mod completions;
mod drill;
mod dump;
mod ending;
mod exit;
mod export;
mod forget;
mod hold;
mod init;
mod list;
mod mount;
mod output;
mod progress;
mod prune;
mod repair;
mod replay;
mod replica;
mod restore;
mod rollback;
mod show;
mod snapshot;
mod table;
mod timeline;
mod verify;
mod words;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use crate::config::Config;
use crate::error::Kind;
use crate::job::{self, Job, Unfit, Whose};
use crate::repository::{Backup, Repository};
use crate::sys::environment;
use crate::sys::signal::{self, Cancel};
use crate::{Error, Result};

use arguments::{Arguments, Command, Global};
use exit::Exit;
use progress::Progress;

/// Where the configuration is unless somebody says otherwise.
const DEFAULT_CONFIG: &str = "/etc/snapback/snapback.yaml";

/// Runs the program.
pub fn main() -> ExitCode {
    output::report_panics();
    let exit = match Arguments::try_parse() {
        Ok(arguments) => {
            // A panic has been said already; every guard was dropped on the way here.
            let run = std::panic::AssertUnwindSafe(|| begin(arguments));
            std::panic::catch_unwind(run).unwrap_or(Exit::Failed)
        }
        Err(error) => return output::usage(&error).into(),
    };
    output::finish(exit).into()
}

fn begin(arguments: Arguments) -> Exit {
    let global = arguments.global;
    global.color.write_global();
    start_logging(global.verbose);
    if !matches!(&arguments.command, Command::Snapshot(command) if command.is_exec()) {
        environment::keep_descriptors();
    }
    let cancel = Cancel::of_process();
    let verifies = matches!(arguments.command, Command::Verify(_));
    let result = signal::install(&cancel)
        .map_err(Error::from)
        .and_then(|()| ending::watch(&cancel))
        .and_then(|()| run(arguments.command, &global, &cancel));
    match result.map_err(|error| interrupted(error, &cancel)) {
        Ok(exit) => exit.with_strictness(global.strict),
        Err(error) => {
            output::error(&error);
            let told = verifies || error.to_string().contains("snapback verify");
            if error.kind() == Kind::Damaged && !told {
                output::say(
                    "    -> `snapback verify --all` names everything that is damaged, and the backups that need it",
                );
            }
            Exit::of(error.kind())
        }
    }
}

/// What fails after a wish to end fails because of it: its waits are cut short, its programs are killed.
fn interrupted(error: Error, cancel: &Cancel) -> Error {
    match (cancel.asked(), error.kind()) {
        (Some(signal), Kind::Failed | Kind::Busy) => Error::Ended {
            signal,
            cause: Box::new(error),
        },
        _ => error,
    }
}

fn run(command: Command, global: &Global, cancel: &Cancel) -> Result<Exit> {
    let context = Context {
        global,
        cancel,
        progress: Progress::new(global.quiet),
    };
    crate::failpoint!("cli.command");
    match command {
        Command::Init(arguments) => init::run(&arguments, &context),
        Command::Check(arguments) => check::run(&arguments, &context),
        Command::Backup(arguments) => backup::run(&arguments, &context),
        Command::List(arguments) => list::run(&arguments, &context),
        Command::Show(arguments) => show::run(&arguments, &context),
        Command::Restore(arguments) => restore::run(&arguments, &context),
        Command::Verify(arguments) => verify::run(&arguments, &context),
        Command::Export(arguments) => export::run(&arguments, &context),
        Command::Dump(arguments) => dump::run(&arguments, &context),
        Command::Binlog(arguments) => binlog::run(&arguments, &context),
        Command::Mount(arguments) => mount::run(&arguments, &context),
        Command::Forget(arguments) => forget::run(&arguments, &context),
        Command::Hold(arguments) => hold::run(&arguments, &context),
        Command::Prune(arguments) => prune::run(&arguments, &context),
        Command::Repair(arguments) => repair::run(&arguments, &context),
        Command::Snapshot(arguments) => snapshot::run(&arguments, &context),
        Command::Cleanup(arguments) => cleanup::run(&arguments, &context),
        Command::Completions(arguments) => completions::completions(&arguments),
        Command::Man(arguments) => completions::man(&arguments),
    }
}

/// What every command needs.
struct Context<'c> {
    global: &'c Global,
    cancel: &'c Cancel,
    progress: Progress,
}

impl Context<'_> {
    /// The configuration, with the global flags over it. A default file that is not there is an empty one.
    fn config(&self) -> Result<Config> {
        let path = self.config_path();
        let named = self.global.config.is_some();
        let mut config = if named || path.exists() {
            Config::load(&path)?
        } else {
            Config::default()
        };
        if let Some(repository) = &self.global.repository {
            config.repository = absolute(repository)?;
        }
        if let Some(state_dir) = &self.global.state_dir {
            config.state_dir = absolute(state_dir)?;
        }
        Ok(config)
    }

    /// Whose backups are meant: the host and the job that flags name, else this host's job.
    fn whose(&self, config: &Config, named: Option<&String>, job: Option<&String>) -> Result<Whose> {
        let own = || config.host.clone().unwrap_or_else(crate::sys::host::name);
        let asking = Job::asking(config)?;
        // A server whose answer was not waited for does not say that the job is unknown.
        self.cancel.check()?;
        Ok(Whose {
            host: named.cloned().unwrap_or_else(own),
            named: named.is_some(),
            wanted: job.map(|job| job.to_ascii_lowercase()),
            asking,
        })
    }

    /// Opens the backup that is meant, and says what there is to say of the choice.
    fn choose(&self, repository: &Repository, which: &str, whose: &Whose, unfit: Unfit) -> Result<Backup> {
        let chosen = job::choose(repository, which, whose, unfit)?;
        chosen.findings.iter().for_each(|one| output::say(output::finding(one)));
        Ok(chosen.backup)
    }

    fn config_path(&self) -> PathBuf {
        self.global.config.clone().unwrap_or_else(|| DEFAULT_CONFIG.into())
    }
}

/// Parses a path of this host; a location on another one is refused, and never becomes a directory of that name.
fn local_path() -> impl clap::builder::TypedValueParser<Value = PathBuf> {
    use clap::builder::{OsStringValueParser, TypedValueParser};
    OsStringValueParser::new().try_map(|text| {
        let path = PathBuf::from(text);
        crate::sys::fs::require_local(&path).map(|()| path)
    })
}

/// The original path of something in a backup: known by its name alone, so `..` has no meaning there.
fn original_path() -> impl clap::builder::TypedValueParser<Value = PathBuf> {
    use clap::builder::{OsStringValueParser, TypedValueParser};
    OsStringValueParser::new().try_map(|text| {
        let path = PathBuf::from(text);
        match path.components().any(|part| part == std::path::Component::ParentDir) {
            true => Err("a path in a backup has no `..`: give it as `show --files` prints it"),
            // Without `.` and doubled slashes.
            false => Ok(path.components().collect::<PathBuf>()),
        }
    })
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| Error::usage(format!("{}: {error}", path.display())))
}

/// Diagnostics for developers, on stderr: `-v` says what is done, `-vv` more; SNAPBACK_LOG filters as tracing's EnvFilter does.
fn start_logging(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "snapback=debug",
        _ => "snapback=trace",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("SNAPBACK_LOG").unwrap_or_else(|_| level.into());
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Escapes of its own would be escaped.
        .with_ansi(false)
        .with_writer(|| output::Log)
        .with_target(false);
    let _ = subscriber.try_init();
}
