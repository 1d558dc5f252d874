//! Logical dumps: a backup is restored to scratch space, a private server boots on it, and the server's own dump tool reads that one. The live server has no part in it.

mod accounts;
mod mydumper;
mod options;
mod output;
mod select;
mod survey;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::Result;
use crate::booted::{Boot, Booted};
use crate::config::Config;
use crate::database::Flavour;
use crate::database::mysql::flavour::Version;
use crate::database::mysql::scratch::{Tool, find_tool, write_client_file};
use crate::database::mysql::session::Session;
use crate::finding::Finding;
use crate::monitor::{Monitor, Work};
use crate::repository::{Backup, Repository};
use crate::sys::command::{Command, Program};
use crate::sys::signal::Cancel;
use crate::sys::user::Account;
use crate::units::Id;

pub use crate::database::{TableName, table_name};
pub use options::dump_option;
use output::Output;
pub use output::Target;
pub(crate) use select::{Part, schema, table};
use survey::{Asked, Survey};

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
    /// These tables and views are left out.
    pub ignored: Vec<TableName>,
    /// Options for the dump program, as [`dump_option`] lets them pass.
    pub options: Vec<String>,
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
    /// What the dump has not.
    pub findings: Vec<Finding>,
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
        findings: done.findings,
    })
}

/// What the tool did.
struct Done {
    program: PathBuf,
    server: String,
    schemas: Vec<String>,
    accounts: usize,
    seconds: f64,
    findings: Vec<Finding>,
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
    /// The lower of the server's and the tool's.
    version: Version,
    options: Vec<String>,
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
        let of_tool = match request.mydumper {
            true => None,
            false => tool_version(&program),
        };
        // mydumper writes into a directory that is root's, which it finds by our descriptor.
        let user = booted.user.filter(|_| !request.mydumper);
        let client = write_client_file(booted.space, "client.cnf", booted.server.address(), user)?;
        Ok(Dump {
            program,
            client,
            user,
            flavour: booted.binary.flavour,
            version: booted.binary.version.min(of_tool.unwrap_or_default()),
            options: request.options.clone(),
            monitor,
            cancel,
        })
    }

    /// For a server that calls itself so, and may be older than tool and copy.
    pub(crate) fn for_server(self, version: &str) -> Dump<'d> {
        let (_, of_taker) = crate::database::mysql::flavour::recognise(version, "");
        Dump {
            version: self.version.min(of_taker),
            ..self
        }
    }

    fn write(&self, booted: &Booted<'_>, request: &Request, output: &mut Output<'_>) -> Result<Done> {
        let begun = Instant::now();
        let mut session = booted.server.session(PATIENCE)?;
        let mut parts = select::parts(&mut session, request)?;
        let everything = request.databases.is_empty() && request.tables.is_empty();
        let mut findings = match everything {
            true => select::no_schemas(&mut session)?,
            false => Vec::new(),
        };
        for part in &mut parts {
            findings.extend(self.survey(&mut session, part, &request.ignored)?);
        }
        let said: Vec<String> = findings.iter().map(|finding| remark(&finding.message)).collect();
        output.add_to_header(&said.concat())?;
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
            findings,
        })
    }

    /// Finds what of a part cannot be dumped, or not wholly.
    ///
    /// # Errors
    /// A table that was named cannot be read, or the server cannot be asked.
    pub(crate) fn survey(&self, session: &mut Session, part: &mut Part, ignored: &[TableName]) -> Result<Vec<Finding>> {
        let own = ignored.iter().filter(|name| name.schema == part.schema);
        let own: Vec<String> = own.map(|name| name.table.clone()).collect();
        let asked = Asked {
            flavour: self.flavour,
            version: self.version,
            can_history: !self.options.iter().any(|option| option == "--skip-dump-history"),
            ignored: &own,
        };
        survey::survey(session, part, &asked)
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

    /// Tables that are versioned by transaction come first and by themselves: the tool ends at one where it is asked for history, and views may need them.
    fn run(&self, part: &Part, named: bool, how: How, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let survey = &part.survey;
        if !survey.with_history || survey.by_transaction.is_empty() {
            return self.call(part, named, how, take);
        }
        let first = Part {
            tables: Some(survey.by_transaction.clone()),
            survey: Survey::default(),
            ..part.clone()
        };
        self.call(&first, named, how, take)?;
        let mut rest = part.clone();
        rest.survey.left_out.extend(survey.by_transaction.clone());
        if let Some(tables) = &mut rest.tables {
            tables.retain(|table| !survey.by_transaction.contains(table));
            if tables.is_empty() {
                return Ok(());
            }
        }
        self.call(&rest, named, how, take)
    }

    fn call(&self, part: &Part, named: bool, how: How, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
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
        if part.survey.with_history {
            command = command.arg("--dump-history");
        }
        // The user's come after ours, and win.
        command = command.args(&self.options);
        let left_out = part.survey.left_out.iter();
        command = command.args(left_out.map(|name| format!("--ignore-table={}.{name}", part.schema)));
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

/// What the tool says of its own version.
fn tool_version(program: &Program) -> Option<Version> {
    crate::database::mysql::scratch::tool_version(program)
}

/// A line of the dump for whoever reads it.
fn remark(text: &str) -> String {
    format!("-- snapback: {}\n", text.replace(['\n', '\r'], " "))
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
