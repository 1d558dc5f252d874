//! `--replica-start`: the restored server is started through its service and follows its source before we end.
//!
//! A copy of a replica has its original's replication, and would go on with it as soon as it starts: a private server without any replication takes it out before.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::statements::{self, Purpose};
use super::{Seed, Wanted};
use crate::booted::OnRestored;
use crate::config::Config;
use crate::database::mysql::connect::ConnectOptions;
use crate::database::mysql::facts::dialect;
use crate::database::mysql::scratch::{self, Place, Wishes};
use crate::database::mysql::session::{Row, Session};
use crate::database::{Flavour, ServerFacts};
use crate::drill::server_user;
use crate::monitor::Monitor;
use crate::record::Record;
use crate::sys::signal::Cancel;
use crate::{Error, Result, replay, restore, service};

/// How often the new replica is asked how it does.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// So long a source that does not answer, or refuses, is tried again.
const PATIENCE: Duration = Duration::from_secs(15);

/// The longest until both threads run.
const LIMIT: Duration = Duration::from_secs(120);

/// The `server_id` of a server that was given none (MySQL and MariaDB manuals, "server_id").
const DEFAULT_ID: u64 = 1;

/// A replica that follows its source.
#[derive(Debug, Clone, Serialize)]
pub struct Following {
    /// The server's version.
    pub version: String,
    /// The id that it has.
    pub server_id: u64,
    /// Seconds that it is behind, as the server says; `None` while it does not say.
    pub behind_seconds: Option<u64>,
}

/// Refuses before anything is restored.
///
/// # Errors
/// There is no password; the configuration does not say how the server is started or asked; one answers already; a copy of a replica, and no program that fits it.
pub fn ready(config: &Config, record: &Record, wanted: &Wanted) -> Result<()> {
    if wanted.password.is_none() {
        return Err(Error::usage(
            "--replica-start needs the replication account's password: --replica-password-file, or SNAPBACK_REPLICA_PASSWORD",
        ));
    }
    if !config.service.is_set() {
        return Err(Error::usage(
            "--replica-start needs to know how the server is started: set `service: {name: UNIT}` in the configuration",
        ));
    }
    let options = ConnectOptions::new(server(config)?)?;
    if Session::admin(&options).is_ok() {
        return Err(Error::usage(format!(
            "a server answers at {}: stop it, so that the restored one can be started in its place",
            options.address()
        )));
    }
    if let Some(facts) = record.server.as_ref().filter(|_| !record.replica.is_empty()) {
        scratch::find(config.scratch.mysqld.as_deref(), facts)?;
    }
    Ok(())
}

fn server(config: &Config) -> Result<&crate::config::Server> {
    let server = config.server.as_ref();
    server.ok_or_else(|| {
        Error::usage("--replica-start needs `server` in the configuration: where the started server answers")
    })
}

impl Seed {
    /// Starts the server on what was restored, makes it a replica, and waits until it follows. The file with the statements is gone then.
    ///
    /// # Errors
    /// It does not start, is on another datadir, refuses a statement, or does not follow; the file is left.
    pub fn start(
        &mut self,
        config: &Config,
        record: &Record,
        restored: &restore::Report,
        monitor: &dyn Monitor,
        cancel: &Cancel,
    ) -> Result<Following> {
        let file = self.file.clone();
        self.begin(config, record, restored, monitor, cancel)
            .and_then(|following| self.remove_file().map(|()| following))
            .map_err(|error| {
                // Nothing is removed: the restore was done before.
                let why = match error {
                    Error::Interrupted(signal) => format!("ended by signal {signal}"),
                    other => other.to_string(),
                };
                let left = file.map(|file| format!("; the statements are in {}", file.display()));
                Error::failed(format!(
                    "the backup is restored, but it is no replica of {} yet: {why}{}",
                    self.source,
                    left.unwrap_or_default()
                ))
            })
    }

    fn begin(
        &mut self,
        config: &Config,
        record: &Record,
        restored: &restore::Report,
        monitor: &dyn Monitor,
        cancel: &Cancel,
    ) -> Result<Following> {
        let facts = record
            .server
            .as_ref()
            .ok_or_else(|| Error::usage("the backup holds no database"))?;
        if let Some(first) = &restored.before_start {
            return Err(Error::failed(first.clone()));
        }
        let trees = restored.trees();
        let datadir = trees.iter().find(|(original, _)| *original == facts.datadir);
        let (_, datadir) = datadir.ok_or_else(|| Error::failed("the datadir was not restored"))?;
        if !record.replica.is_empty() {
            monitor.phase("forget");
            forget(config, record, facts, &trees, datadir, monitor, cancel)?;
        }
        monitor.phase("start");
        let version = service::start(config)?;
        crate::failpoint!("seed.started");
        let mut session = Session::admin(&ConnectOptions::new(server(config)?)?)?;
        is_on(&mut session, datadir)?;
        cancel.check()?;
        monitor.phase("replicate");
        let number = |text: Option<String>| text.and_then(|text| text.parse::<u64>().ok());
        let started = Started {
            forgotten: !record.replica.is_empty(),
            server_id: number(session.value("SELECT @@GLOBAL.server_id")?).unwrap_or(DEFAULT_ID),
            log_bin: number(session.value("SELECT @@GLOBAL.log_bin")?) != Some(0),
        };
        self.leave_out(facts, &started);
        self.apply(&mut session)?;
        let behind_seconds = self.wait(&mut session, facts, cancel)?;
        let id = session.value("SELECT @@GLOBAL.server_id")?;
        Ok(Following {
            version,
            server_id: id.and_then(|id| id.parse().ok()).unwrap_or_default(),
            behind_seconds,
        })
    }

    /// Leaves out the statements that the started server does not need. A `server_id` that it has from its own option file stays, unless one was asked for: neither the
    /// default nor the backed-up server's is its own.
    fn leave_out(&mut self, facts: &ServerFacts, started: &Started) {
        let own = started.server_id != DEFAULT_ID && started.server_id != facts.server_id;
        self.id_is_set = self.id_asked || !own;
        let id_is_set = self.id_is_set;
        self.statements.retain(|statement| match statement.purpose {
            Purpose::Follow => true,
            // What is gone cannot be reset again.
            Purpose::Forget => !started.forgotten,
            Purpose::Id => id_is_set,
            // MariaDB has none to empty then, and says so by an error.
            Purpose::EmptyLog => facts.flavour == Flavour::MySql || started.log_bin,
        });
    }

    fn apply(&self, session: &mut Session) -> Result<()> {
        for statement in &self.statements {
            let whole = self.whole(statement);
            match whole == statement.text {
                true => session.run(&whole)?,
                // What fails is told with the placeholder.
                false => session.run_secret(&whole, &statement.text)?,
            }
        }
        Ok(())
    }

    /// Waits until both threads run; returns how far behind it is.
    fn wait(&self, session: &mut Session, facts: &ServerFacts, cancel: &Cancel) -> Result<Option<u64>> {
        let begun = Instant::now();
        loop {
            let rows = session.rows(dialect(facts).show_replicas())?;
            let row = rows.iter().find(|row| {
                either(row, "Connection_name", "Channel_Name").is_empty()
                    && format!("{}:{}", source(row, "Host"), source(row, "Port")) == self.source
            });
            let state = row.map_or(State::Gone, state);
            match state {
                State::Follows(behind) => return Ok(behind),
                State::Gone => return Err(Error::failed("the server does not know of it any more")),
                State::Ended(error) => return Err(Error::failed(error)),
                State::Tries(Some(error)) if begun.elapsed() > PATIENCE => return Err(Error::failed(error)),
                State::Tries(_) if begun.elapsed() > LIMIT => {
                    return Err(Error::failed(format!(
                        "replication did not begin within {} s",
                        LIMIT.as_secs()
                    )));
                }
                State::Tries(_) => cancel.sleep(LOOK_EVERY)?,
            }
        }
    }
}

/// The restored server as it was started.
struct Started {
    /// The copy's old replication was taken out before.
    forgotten: bool,
    server_id: u64,
    log_bin: bool,
}

/// What a channel does.
#[derive(Debug, PartialEq, Eq)]
enum State {
    /// Both threads run.
    Follows(Option<u64>),
    /// It tries to reach its source; the last error.
    Tries(Option<String>),
    /// A thread has ended.
    Ended(String),
    /// There is none.
    Gone,
}

fn state(row: &Row) -> State {
    let io = either(row, "Slave_IO_Running", "Replica_IO_Running");
    let sql = either(row, "Slave_SQL_Running", "Replica_SQL_Running");
    let error = |column: &str| Some(row.text(column)).filter(|text| !text.is_empty());
    let io_error = error("Last_IO_Error");
    match (io.as_str(), sql.as_str()) {
        ("Yes", "Yes") => {
            let behind = row.number("Seconds_Behind_Master");
            State::Follows(behind.or_else(|| row.number("Seconds_Behind_Source")))
        }
        (_, "No") if error("Last_SQL_Error").is_some() => State::Ended(row.text("Last_SQL_Error")),
        ("No", _) if io_error.is_some() => State::Ended(io_error.unwrap_or_default()),
        _ => State::Tries(io_error),
    }
}

/// A column by its old or its new name.
fn either(row: &Row, old: &str, new: &str) -> String {
    row.get(old).or_else(|| row.get(new)).unwrap_or_default().to_owned()
}

fn source(row: &Row, what: &str) -> String {
    either(row, &format!("Master_{what}"), &format!("Source_{what}"))
}

/// The server that answers must be the one that was restored.
fn is_on(session: &mut Session, datadir: &Path) -> Result<()> {
    let on = PathBuf::from(session.value("SELECT @@GLOBAL.datadir")?.unwrap_or_default());
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    match real(&on) == real(datadir) {
        true => Ok(()),
        false => Err(Error::failed(format!(
            "the server that was started is on {}, not on {}: nothing was changed in it; see `datadir` in its option file",
            on.display(),
            datadir.display()
        ))),
    }
}

/// Takes what a copy brought of its original's replication out of it, on a private server.
fn forget(
    config: &Config,
    record: &Record,
    facts: &ServerFacts,
    trees: &[(PathBuf, PathBuf)],
    datadir: &Path,
    monitor: &dyn Monitor,
    cancel: &Cancel,
) -> Result<()> {
    let binary = scratch::find(config.scratch.mysqld.as_deref(), facts)?;
    let place = Place {
        facts,
        paths: &record.paths,
        datadir,
        trees,
    };
    let wishes = Wishes {
        memory: config.scratch.memory.as_u64(),
        boot_limit: config.scratch.boot_limit.unsigned(),
        options: config.scratch.options.clone(),
        replication: true,
        ..Wishes::default()
    };
    replay::in_space(config, 0, |space| {
        let on = OnRestored {
            place: &place,
            work: space,
            user: server_user::on_restored(config, datadir)?,
            monitor,
            cancel,
        };
        let server = on.start(&binary, &wishes)?;
        let mut session = server.session(Duration::from_secs(300))?;
        let show = dialect(facts).show_replicas();
        let rows = session.rows(show)?;
        let channels: Vec<&str> = rows.iter().filter_map(|row| row.get("Connection_name")).collect();
        for statement in statements::forget(facts, &channels) {
            session.run(&statement)?;
        }
        if !session.rows(show)?.is_empty() {
            return Err(Error::failed("the copy's old replication cannot be taken out of it"));
        }
        on.stop(server)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_started_server_gets_what_it_needs() {
        let record = super::super::tests::record(Flavour::MariaDb, Some("0-1-7"), vec![]);
        let facts = record.server.clone().unwrap();
        let of = |asked: Option<u32>, server_id: u64, log_bin: bool, forgotten: bool| {
            let wanted = Wanted {
                server_id: asked,
                ..super::super::tests::wanted("db1")
            };
            let mut seed = super::super::seed(&record, &wanted).unwrap();
            let started = Started {
                forgotten,
                server_id,
                log_bin,
            };
            seed.leave_out(&facts, &started);
            let has = |begin: &str| {
                seed.statements
                    .iter()
                    .any(|statement| statement.text.starts_with(begin))
            };
            assert!(has("CHANGE MASTER") && has("START SLAVE") && has("SET GLOBAL gtid_slave_pos"));
            assert_eq!(seed.id_is_set, has("SET GLOBAL server_id"));
            (seed.id_is_set, has("RESET MASTER"), has("RESET SLAVE"))
        };
        let theirs = facts.server_id;
        assert_ne!(theirs, 41);
        assert_eq!(of(None, 41, true, false), (false, true, true));
        assert_eq!(of(Some(77), 41, true, false), (true, true, true));
        assert_eq!(of(None, DEFAULT_ID, true, false), (true, true, true));
        assert_eq!(of(None, theirs, true, true), (true, true, false));
        assert_eq!(of(None, 41, false, true), (false, false, false));
    }

    #[test]
    fn a_thread_that_ended_is_told_from_one_that_tries() {
        let row = |io: &str, sql: &str, io_error: &str, sql_error: &str| {
            Row::of(&[
                ("Replica_IO_Running", Some(io)),
                ("Replica_SQL_Running", Some(sql)),
                ("Last_IO_Error", Some(io_error)),
                ("Last_SQL_Error", Some(sql_error)),
                ("Seconds_Behind_Source", Some("7")),
            ])
        };
        assert_eq!(state(&row("Yes", "Yes", "", "")), State::Follows(Some(7)));
        assert_eq!(state(&row("Connecting", "Yes", "", "")), State::Tries(None));
        let refused = State::Tries(Some("Access denied".to_owned()));
        assert_eq!(state(&row("Connecting", "Yes", "Access denied", "")), refused);
        let purged = State::Ended("logs are purged".to_owned());
        assert_eq!(state(&row("No", "Yes", "logs are purged", "")), purged);
        let duplicate = State::Ended("duplicate key".to_owned());
        assert_eq!(state(&row("Yes", "No", "", "duplicate key")), duplicate);
        assert_eq!(state(&row("No", "No", "", "")), State::Tries(None));
    }
}
