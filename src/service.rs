//! Stopping the server and starting it again through its service, and whether it runs.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::config::{self, Config};
use crate::database::mysql::connect::ConnectOptions;
use crate::database::mysql::session::Session;
use crate::database::{PathRole, WrittenPath};
use crate::restore::{lock_holder, server_on};
use crate::sys::command::{Command, Program};
use crate::sys::trust;
use crate::{Error, Result};

/// How often it is looked at whether the server has ended, or answers.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How a server was seen to run on these paths; `None` when none was.
pub fn running(datadir: &Path, paths: &[WrittenPath]) -> Option<String> {
    locked(datadir, paths).iter().find_map(|directory| server_on(directory))
}

/// The processes that have locked the server's files on these paths.
pub fn lock_holders(datadir: &Path, paths: &[WrittenPath]) -> Vec<i32> {
    let directories = locked(datadir, paths);
    directories
        .iter()
        .filter_map(|directory| lock_holder(directory))
        .collect()
}

/// Directories in which a server locks files.
fn locked(datadir: &Path, paths: &[WrittenPath]) -> Vec<PathBuf> {
    let elsewhere = paths
        .iter()
        .filter(|written| matches!(written.role, PathRole::SystemTablespace | PathRole::AriaLog));
    let directories = elsewhere.map(|written| match written.path.is_dir() {
        true => written.path.clone(),
        false => written.path.parent().map(Path::to_owned).unwrap_or_default(),
    });
    std::iter::once(datadir.to_owned()).chain(directories).collect()
}

/// Stops the server and waits until it has ended.
///
/// # Errors
/// No service is configured, its command failed, or the server still runs when the limit is over.
pub fn stop(service: &config::Service, runs: impl Fn() -> Option<String>) -> Result<()> {
    command(service, "stop", &service.stop)?.run()?;
    let until = Instant::now() + service.limit.unsigned();
    while let Some(how) = runs() {
        if Instant::now() > until {
            return Err(Error::failed(format!(
                "the server was stopped through its service, but still runs ({how}): is it the right one (`service`)?"
            )));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// Starts the server and waits until it answers; returns its version.
///
/// # Errors
/// No service is configured, its command failed, or the server does not answer within the limit.
pub fn start(config: &Config) -> Result<String> {
    let service = &config.service;
    command(service, "start", &service.start)?.run()?;
    let server = config
        .server
        .as_ref()
        .ok_or_else(|| Error::usage("the configuration names no server that could be asked whether it answers"))?;
    let until = Instant::now() + service.limit.unsigned();
    loop {
        let options = ConnectOptions::new(server)?;
        let answer = Session::admin(&options).and_then(|mut session| session.value("SELECT @@version"));
        match answer {
            Ok(version) => return Ok(version.unwrap_or_default()),
            Err(error) if Instant::now() > until => {
                return Err(Error::failed(format!(
                    "the server was started through its service, but does not answer: {error}; its error log says why"
                )));
            }
            Err(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
}

fn command(service: &config::Service, verb: &str, words: &[String]) -> Result<Command> {
    let (program, arguments) = match (&service.name, words.split_first()) {
        (Some(name), _) => (Program::find("systemctl")?, vec![verb.to_owned(), name.clone()]),
        (None, Some((program, rest))) => {
            trust::require_command(words)?;
            (Program::trusted(program)?, rest.to_vec())
        }
        (None, None) => {
            return Err(Error::usage(
                "the configuration does not say how the server is stopped and started: set `service: {name: UNIT}`",
            ));
        }
    };
    Ok(Command::new(&program).args(arguments).limit(service.limit.unsigned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_commands(stop: &[&str]) -> config::Service {
        config::Service {
            stop: stop.iter().map(|word| (*word).to_owned()).collect(),
            start: vec!["/bin/true".to_owned()],
            limit: config::Span(jiff::SignedDuration::from_secs(1)),
            ..config::Service::default()
        }
    }

    #[test]
    fn a_server_that_runs_on_after_its_stop_is_an_error() {
        let service = by_commands(&["/bin/true"]);
        assert!(stop(&service, || None).is_ok());
        let error = stop(&service, || Some("process 7 holds ibdata1".to_owned())).unwrap_err();
        assert!(error.to_string().contains("process 7 holds ibdata1"), "{error}");
        assert!(stop(&by_commands(&["/bin/false"]), || None).is_err());
        let unset = stop(&config::Service::default(), || None).unwrap_err();
        assert!(unset.to_string().contains("service: {name: UNIT}"), "{unset}");
    }
}
