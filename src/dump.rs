//! Logical dumps: a backup is restored to scratch space, a private server boots on it, and the server's own dump tool reads that one. The live server has no part in it.

mod accounts;
mod mydumper;
mod output;
mod select;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::Result;
use crate::booted::{Boot, Booted};
use crate::config::Config;
use crate::database::Flavour;
use crate::database::mysql::scratch::{Tool, find_tool, write_client_file};
use crate::monitor::{Monitor, Work};
use crate::repository::{Backup, Repository};
use crate::sys::command::{Command, Program};
use crate::sys::signal::Cancel;
use crate::sys::user::Account;
use crate::units::Id;

pub use crate::database::{TableName, table_name};
use output::Output;
pub use output::Target;
pub(crate) use select::{Part, schema, table};

/// How long the scratch server may be silent within a statement of ours.
const PATIENCE: Duration = Duration::from_secs(300);

/// What is dumped, and how.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// These schemas only.
    pub databases: Vec<String>,
    /// These tables only.
    pub tables: Vec<TableName>,
    /// Accounts and what they may do; `None`: when everything is dumped.
    pub accounts: Option<bool>,
    /// The dump program; by default the server's own.
    pub program: Option<PathBuf>,
    /// The dump program is mydumper; into a directory only.
    pub mydumper: bool,
    /// Threads of the restore.
    pub workers: usize,
}

/// What a dump did.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The backup.
    pub id: Id,
    /// Its host.
    pub host: String,
    /// The dump program.
    pub program: PathBuf,
    /// The server that it read, as that says it.
    pub server: String,
    /// The schemas of which something was dumped.
    pub schemas: Vec<String>,
    /// Accounts and roles.
    pub accounts: usize,
    /// Bytes of SQL.
    pub bytes: u64,
    /// Wall time of all, and of the dump tool alone.
    pub seconds: f64,
    /// See `seconds`.
    pub dump_seconds: f64,
    /// Where it is; `None` for a stream.
    pub output: Option<PathBuf>,
}

/// Dumps a backup.
///
/// # Errors
/// Nothing appears at a file or directory then; in a stream, SQL that no server takes shows that it is not whole.
pub fn dump(
    repository: &Repository,
    backup: &Backup,
    config: &Config,
    request: &Request,
    target: Target<'_>,
    monitor: &dyn Monitor,
    cancel: &Cancel,
) -> Result<Report> {
    let begun = Instant::now();
    // Before minutes of work: what is in the way is refused.
    let mut output = Output::open(target)?;
    let boot = Boot {
        repository,
        backup,
        config,
        workers: request.workers,
        monitor,
        cancel,
    };
    let manifest = backup.manifest();
    let done = boot.with(|booted| {
        let dump = Dump::new(&booted, request, monitor, cancel)?;
        output.header(&header(backup, &booted))?;
        dump.write(&booted, request, &mut output)
    });
    let (bytes, path) = match done.as_ref() {
        Ok(_) => output.finish(manifest.id)?,
        Err(error) => {
            output.abandon(error);
            (0, None)
        }
    };
    let done = done?;
    Ok(Report {
        id: manifest.id,
        host: manifest.host.clone(),
        program: done.program,
        server: done.server,
        schemas: done.schemas,
        accounts: done.accounts,
        bytes,
        seconds: begun.elapsed().as_secs_f64(),
        dump_seconds: done.seconds,
        output: path,
    })
}

/// What the tool did.
struct Done {
    program: PathBuf,
    server: String,
    schemas: Vec<String>,
    accounts: usize,
    seconds: f64,
}

/// How something is put into a server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct How {
    /// Tables that are there are replaced; else they are in the way.
    pub replace: bool,
    /// No triggers, routines and events.
    pub tables_only: bool,
}

/// The tool, ready to read a booted server.
pub(crate) struct Dump<'d> {
    program: Program,
    client: PathBuf,
    /// Whom it runs as: the server's own user, which has nothing to win by what it makes of it.
    user: Option<Account>,
    flavour: Flavour,
    monitor: &'d dyn Monitor,
    cancel: &'d Cancel,
}

impl<'d> Dump<'d> {
    pub(crate) fn new(
        booted: &Booted<'_>,
        request: &Request,
        monitor: &'d dyn Monitor,
        cancel: &'d Cancel,
    ) -> Result<Dump<'d>> {
        let program = match request.mydumper {
            true => mydumper::find(request.program.as_ref())?,
            false => find_tool(Tool::Dump, request.program.as_deref(), booted.binary)?,
        };
        // mydumper writes into a directory that is root's, which it finds by our descriptor.
        let user = booted.user.filter(|_| !request.mydumper);
        let client = write_client_file(booted.space, "client.cnf", booted.server.address(), user)?;
        Ok(Dump {
            program,
            client,
            user,
            flavour: booted.binary.flavour,
            monitor,
            cancel,
        })
    }

    fn write(&self, booted: &Booted<'_>, request: &Request, output: &mut Output<'_>) -> Result<Done> {
        let begun = Instant::now();
        let mut session = booted.server.session(PATIENCE)?;
        let parts = select::parts(&mut session, request)?;
        let everything = request.databases.is_empty() && request.tables.is_empty();
        self.monitor.phase("dump");
        self.monitor.begin(Work {
            name: "dumping",
            bytes: 0,
            items: 0,
        });
        let mut accounts = 0;
        let dumped = match request.mydumper {
            true => self.by_mydumper(&parts, request.workers, output),
            false => parts.iter().try_for_each(|part| {
                output.begin(&part.schema)?;
                self.part(part, &mut |bytes| output.write(bytes))
            }),
        };
        let written = dumped.and_then(|()| {
            if request.accounts.unwrap_or(everything) {
                output.begin_accounts(request.mydumper)?;
                // After the tables and routines that they are granted.
                let statements = accounts::statements(&mut session, self.flavour)?;
                accounts = statements.accounts;
                output.write(statements.text.as_bytes())?;
            }
            Ok(())
        });
        self.monitor.end();
        written?;
        Ok(Done {
            program: self.program.path().to_owned(),
            server: booted.binary.version_text.clone(),
            schemas: parts.into_iter().map(|part| part.schema).collect(),
            accounts,
            seconds: begun.elapsed().as_secs_f64(),
        })
    }

    fn by_mydumper(&self, parts: &[Part], threads: usize, output: &mut Output<'_>) -> Result<()> {
        let into = output.directory()?;
        let call = mydumper::Call {
            program: &self.program,
            client: &self.client,
            parts,
            threads,
            into,
        };
        let bytes = mydumper::run(&call, self.monitor, self.cancel)?;
        output.written_by_another(bytes)
    }

    /// One schema, or tables of one, for a server that uses the right schema already.
    pub(crate) fn feed(&self, part: &Part, how: How, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.run(part, false, how, take)
    }

    /// The same with the schema's own statements.
    fn part(&self, part: &Part, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let how = How {
            replace: true,
            tables_only: false,
        };
        self.run(part, true, how, take)
    }

    fn run(&self, part: &Part, named: bool, how: How, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut command = Command::new(&self.program)
            .user(self.user)
            // It must be the first.
            .arg(format!("--defaults-file={}", self.client.display()))
            .args(["--single-transaction", "--quick", "--hex-blob"])
            .arg("--default-character-set=utf8mb4");
        if self.flavour == Flavour::MySql {
            // The dump is of data, not of a replica.
            command = command.args(["--set-gtid-purged=OFF", "--no-tablespaces"]);
        }
        command = command.arg(if how.tables_only {
            "--skip-triggers"
        } else {
            "--triggers"
        });
        if !how.replace {
            command = command.arg("--skip-add-drop-table");
        }
        command = match &part.tables {
            None => {
                if !how.tables_only {
                    command = command.args(["--routines", "--events"]);
                }
                let whole = if named { &["--databases", "--"][..] } else { &["--"] };
                command.args(whole).arg(&part.schema)
            }
            Some(tables) => {
                if named {
                    take(format!("\n{}\nUSE {};\n", part.create, quoted(&part.schema)).as_bytes())?;
                }
                command.arg("--").arg(&part.schema).args(tables)
            }
        };
        command.stream(self.cancel, &mut |bytes| {
            crate::failpoint!("dump.write", || crate::Error::failed("failpoint"));
            self.monitor.advance(bytes.len() as u64, 0);
            take(bytes)
        })
    }
}

/// A name as SQL has it.
pub(crate) fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// What a reader of the dump wants to know.
fn header(backup: &Backup, booted: &Booted<'_>) -> String {
    let manifest = backup.manifest();
    let plain = |text: &str| text.replace(['\n', '\r'], " ");
    let mut text = format!(
        "-- snapback: backup {} of {}, taken {}\n",
        manifest.id,
        plain(&manifest.host),
        manifest.time
    );
    if let Some(position) = &booted.record.position {
        let exact = if booted.record.exact { "" } else { " (not exact)" };
        text += &format!(
            "-- snapback: position {}:{}{exact}\n",
            plain(&position.file),
            position.position
        );
        if let Some(gtid) = &position.gtid {
            text += &format!("-- snapback: GTID {}\n", plain(gtid));
        }
    }
    text
}
