//! The definitions of all commands and flags; help, completions and man pages come from here.

use std::path::{Path, PathBuf};

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::config::{Config, Server};
use crate::units::Bytes;
use crate::{Error, Result};

use super::checksums::ChecksumArguments;
use super::words::{
    ConsistencyArgument, FeatureArgument, FlavourArgument, LevelArgument, OnBusyArgument, StrategyArgument,
};
use super::{absolute, local_path, original_path};

const STATUSES: &str = "\
Exit status:
  0      done
  1      failed; there is no backup, or nothing was restored
  2      wrong usage or configuration
  3      the server was busy and was left alone
  4      what is stored is damaged or did not verify
  5      done, with warnings that a person must read (--strict makes it 1)
  6      the answer to a question was not `yes`; nothing was done
  128+n  ended by signal n, after cleaning up

Examples:
  snapback init --repository /srv/backups
  snapback init --print-grants --option-file /etc/snapback/my.cnf | mariadb
  snapback check
  snapback backup --tag why=before-upgrade
  snapback restore latest --datadir /var/lib/mysql-copy
  snapback verify --all --level data";

/// Backs up a live MySQL or MariaDB host from a storage snapshot; the lock is held for milliseconds.
#[derive(Debug, Parser)]
#[command(name = "snapback", version, after_help = STATUSES, max_term_width = 120, disable_help_subcommand = true)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(super) struct Global {
    /// The configuration file [default: /etc/snapback/snapback.yaml]
    #[arg(value_parser = local_path(), long, global = true, env = "SNAPBACK_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The repository's directory, over the configuration's
    #[arg(value_parser = local_path(), long, global = true, env = "SNAPBACK_REPOSITORY", value_name = "DIR")]
    pub repository: Option<PathBuf>,
    /// Where runs write down what they make, over the configuration's
    #[arg(value_parser = local_path(), long, global = true, value_name = "DIR", hide_short_help = true)]
    pub state_dir: Option<PathBuf>,
    /// Say more (twice: even more), on stderr
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// No progress; errors and warnings are still said
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// The result as JSON on stdout; progress and messages stay on stderr
    #[arg(long, global = true)]
    pub json: bool,
    /// Exit status 1 instead of 5 for warnings
    #[arg(long, global = true)]
    pub strict: bool,
    /// Colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: Color,
}

/// When to colour.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl Color {
    pub fn write_global(self) {
        match self {
            Color::Auto => anstream::ColorChoice::Auto,
            Color::Always => anstream::ColorChoice::Always,
            Color::Never => anstream::ColorChoice::Never,
        }
        .write_global();
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Write a starter configuration and make the repository
    #[command(
        after_help = "Examples:\n  snapback init --repository /srv/backups\n  snapback init --print-grants --option-file /etc/snapback/my.cnf | mariadb\n  snapback init --print-grants --flavour mysql --lock lockless --for backup,kill"
    )]
    Init(Init),
    /// Say what a backup would do: paths, volumes, lock, and what stands in the way. Touches nothing
    #[command(
        after_help = "Exit status 1 when something stands in the way, 5 when there are warnings.\n\nExamples:\n  snapback check\n  snapback check --lock lockless\n  snapback check --json | jq .findings"
    )]
    Check(super::check::Check),
    /// Take one backup
    #[command(
        after_help = "Examples:\n  snapback backup\n  snapback backup --lock ftwrl --on-busy fail --tag why=nightly\n  snapback backup --bandwidth 100MB --json | jq .lock.held_us\n  snapback backup --checksums all"
    )]
    Backup(Backup),
    /// List the backups, oldest first
    List(List),
    /// Show one backup: promise, position, lock, timeline, roots
    #[command(
        after_help = "Examples:\n  snapback show latest\n  snapback show 3f2a --files\n  snapback show latest --json | jq .record.position"
    )]
    Show(Show),
    /// Restore a backup; every chunk is verified as it is written
    #[command(
        after_help = "Nothing is overwritten: the destination must be empty or new. In place, --force moves aside what is there.\n\nExamples:\n  snapback restore latest --datadir /var/lib/mysql-copy\n  snapback restore 3f2a --target /tmp/look --include /etc/mysql\n  snapback restore latest --in-place --force\n  snapback restore latest --target /srv/rescue --keep-going\n  snapback restore latest --into-server /run/mysqld/mysqld.sock --table shop.orders --as rescue.orders\n  snapback restore latest --datadir /var/lib/mysql --replica-of db1 --replica-user repl --replica-password-file /root/repl\n  snapback restore latest --datadir /var/lib/mysql-then --until-before binlog.000042:1337"
    )]
    Restore(Box<Restore>),
    /// Check what is stored, and name what is damaged; --boot: restore it, boot a private server on it, check every table
    #[command(after_help = super::drill::EXAMPLES)]
    Verify(Verify),
    /// Write a backup to stdout as a tar archive, with all metadata
    #[command(
        after_help = "When something stored is damaged the archive ends early, in the middle, and the exit status says so.\n\nExamples:\n  snapback export latest --tar > backup.tar\n  snapback export latest --tar | ssh other 'tar -x --xattrs --xattrs-include=* --acls -C /srv/copy'\n  snapback export 3f2a --tar --include /etc/mysql | tar -tv"
    )]
    Export(super::export::Export),
    /// Write a backup as SQL, by the server's own dump tool, from a private server on a restored copy
    #[command(after_help = super::dump::EXAMPLES)]
    Dump(super::dump::Dump),
    /// Archive binary logs as they are written, list them, find the statement that hurt
    Binlog(super::binlog::Binlog),
    /// Show backups as read-only trees (FUSE): DIR/<host>/<time>-<id>/<original path>, DIR/<host>/latest
    #[command(
        after_help = "Stays in the foreground; Ctrl-C, SIGTERM or `umount DIR` end it. A damaged chunk reads as an input/output error and is named here.\nWhat a killed mount leaves goes with `umount DIR`.\n\nExamples:\n  snapback mount /mnt/backups\n  cp -a /mnt/backups/db1/latest/etc/mysql/my.cnf /tmp/\n  snapback mount /mnt/backups --host db1 --allow-other"
    )]
    Mount(super::mount::Mount),
    /// Forget backups that no rule keeps, or those that are named; says why each one stays or goes
    #[command(
        after_help = "The newest good backup of each group, held ones, and the one that a running backup compares with always stay. Without rules the\nconfiguration's are used. What forgotten backups needed is given back by `snapback prune`. Exit status 4 when a manifest cannot be read.\n\nExamples:\n  snapback forget --dry-run\n  snapback forget --keep-daily 14 --keep-monthly 12 --prune\n  snapback forget 3f2a\n  snapback forget 3f2a --even-last"
    )]
    Forget(super::forget::Forget),
    /// Keep a backup, whatever the rules say
    #[command(
        after_help = "Examples:\n  snapback hold 3f2a --reason 'before the migration'\n  snapback hold 3f2a --release"
    )]
    Hold(super::hold::Hold),
    /// Give back what no backup needs: mark it now, delete it in a prune after the grace
    #[command(
        after_help = "Takes no lock: backups, restores and other prunes may run meanwhile, from any host. It may be ended at any point.\nExit status 4 when something that is needed is damaged; nothing at all is pruned while a manifest cannot be read.\n\nExamples:\n  snapback prune --dry-run\n  snapback prune --max-unused 25"
    )]
    Prune(super::prune::Prune),
    /// After damage: save what reads well, write down what is lost, let the next backup store it again
    #[command(
        after_help = "Reads every pack that a backup refers to. Removes no backup and no object. Exit status 4 when a backup lost something.\n\nExamples:\n  snapback repair --dry-run\n  snapback repair"
    )]
    Repair(super::repair::Repair),
    /// Held snapshots, the way back from maintenance: taken like a backup, without the copy
    #[command(after_help = super::snapshot::EXAMPLES)]
    Snapshot(super::snapshot::Snapshot),
    /// Remove what dead runs left on this host: snapshots, settings, unfinished files
    #[command(
        after_help = "Runs that are alive are left alone. Only what snapback wrote down before making it is touched. What another\ninstallation made (another state directory, another host) is named and left alone.\n\nExamples:\n  snapback cleanup --dry-run\n  snapback cleanup"
    )]
    Cleanup(Cleanup),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  snapback completions bash > /usr/share/bash-completion/completions/snapback")]
    Completions(Completions),
    /// Print the manual page, or write one per command
    #[command(after_help = "Examples:\n  snapback man | man -l -\n  snapback man --dir /usr/local/share/man/man1")]
    Man(Man),
}

#[derive(Debug, Args)]
pub(super) struct Init {
    /// Print the SQL for an account with the least privileges for what it is for, and make no repository
    #[arg(long)]
    pub print_grants: bool,
    /// For which server; without it the configured one is asked
    #[arg(long, value_name = "SERVER", requires = "print_grants")]
    pub flavour: Option<FlavourArgument>,
    /// For which lock strategy
    #[arg(long, value_name = "STRATEGY", requires = "print_grants")]
    pub lock: Option<StrategyArgument>,
    /// What the account is for [default: backup,binlog,replica]
    #[arg(
        long = "for",
        value_name = "FEATURES",
        value_delimiter = ',',
        requires = "print_grants"
    )]
    pub features: Vec<FeatureArgument>,
    /// Write account and random password into this new option file (mode 0600), for `server.defaults_file`
    #[arg(value_parser = local_path(), long, value_name = "FILE", requires = "print_grants")]
    pub option_file: Option<PathBuf>,
    #[command(flatten)]
    pub server: ServerArguments,
}

/// How the server is reached; over the configuration.
#[derive(Debug, Args)]
#[command(next_help_heading = "Server")]
pub(super) struct ServerArguments {
    /// Option file with [client] and [snapback] groups
    #[arg(value_parser = local_path(), long, value_name = "FILE")]
    pub defaults_file: Option<PathBuf>,
    /// Unix socket
    #[arg(value_parser = local_path(), long, value_name = "PATH", conflicts_with = "server_host")]
    pub socket: Option<PathBuf>,
    /// Host name, for TCP
    #[arg(long, value_name = "NAME")]
    pub server_host: Option<String>,
    /// TCP port
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// Account; the password comes from the option file or SNAPBACK_MYSQL_PASSWORD
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Back up files only
    #[arg(long, conflicts_with_all = ["defaults_file", "socket", "server_host", "port", "user"])]
    pub no_server: bool,
}

impl ServerArguments {
    pub fn apply(&self, config: &mut Config) {
        if self.no_server {
            config.server = None;
        }
        let given = self.defaults_file.is_some()
            || self.socket.is_some()
            || self.server_host.is_some()
            || self.port.is_some()
            || self.user.is_some();
        if !given {
            return;
        }
        let server = config.server.get_or_insert_with(Server::default);
        let over = |from: &Option<PathBuf>, to: &mut Option<PathBuf>| {
            if from.is_some() {
                to.clone_from(from);
            }
        };
        over(&self.defaults_file, &mut server.defaults_file);
        // A way in from the command line replaces the configured one as a whole.
        if self.socket.is_some() || self.server_host.is_some() {
            server.socket.clone_from(&self.socket);
            server.host.clone_from(&self.server_host);
        }
        server.port = self.port.or(server.port);
        server.user = self.user.clone().or(server.user.take());
    }
}

/// What `check` and `backup` share.
#[derive(Debug, Args)]
pub(super) struct Examine {
    /// What the backup promises
    #[arg(long, value_name = "LEVEL")]
    pub consistency: Option<ConsistencyArgument>,
    /// How the server is quieted
    #[arg(long, value_name = "STRATEGY")]
    pub lock: Option<StrategyArgument>,
    /// What to do when a statement is in the lock's way
    #[arg(long, value_name = "WHAT")]
    pub on_busy: Option<OnBusyArgument>,
    /// Attempts to get the lock
    #[arg(long, value_name = "N")]
    pub attempts: Option<u32>,
    /// The longest that one attempt waits for the lock, e.g. 500ms
    #[arg(long, value_name = "SPAN")]
    pub acquire_timeout: Option<jiff::SignedDuration>,
    /// The longest that the lock may be held, e.g. 5s
    #[arg(long, value_name = "SPAN")]
    pub hold_limit: Option<jiff::SignedDuration>,
    /// A further tree to back up (may be repeated)
    #[arg(value_parser = local_path(), long = "files", value_name = "PATH")]
    pub files: Vec<PathBuf>,
    /// A subtree to leave out (may be repeated)
    #[arg(value_parser = local_path(), long, value_name = "PATH")]
    pub exclude: Vec<PathBuf>,
    #[command(flatten)]
    pub server: ServerArguments,
}

impl Examine {
    /// The configuration with these flags over it.
    pub fn apply(&self, config: &mut Config) -> Result<()> {
        self.server.apply(config);
        if let Some(consistency) = self.consistency {
            config.consistency = consistency.into();
        }
        if let Some(strategy) = self.lock {
            config.lock.strategy = strategy.into();
        }
        if let Some(on_busy) = self.on_busy {
            config.lock.on_busy = on_busy.into();
        }
        config.lock.attempts = self.attempts.unwrap_or(config.lock.attempts);
        config.lock.acquire_timeout.0 = self.acquire_timeout.unwrap_or(config.lock.acquire_timeout.0);
        config.lock.hold_limit.0 = self.hold_limit.unwrap_or(config.lock.hold_limit.0);
        for file in &self.files {
            config.files.push(absolute(file)?);
        }
        for excluded in &self.exclude {
            config.exclude.push(absolute(excluded)?);
        }
        Ok(config.check()?)
    }
}

#[derive(Debug, Args)]
pub(super) struct Backup {
    #[command(flatten)]
    pub examine: Examine,
    #[command(flatten)]
    pub checksums: ChecksumArguments,
    /// A tag (may be repeated)
    #[arg(long, value_name = "KEY=VALUE", value_parser = tag)]
    pub tag: Vec<(String, String)>,
    /// The name under which the backup is kept [default: this host's]
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
    /// Bytes per second that are read at most, e.g. 100MB
    #[arg(long, value_name = "BYTES")]
    pub bandwidth: Option<Bytes>,
    /// Then forget what the configured rules (`retention:`) do not keep of this host's backups
    #[arg(long)]
    pub forget: bool,
    /// Threads that read and compress [default: twice as many as processors, at most 16]
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
}

pub(super) fn tag(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a tag is KEY=VALUE".to_owned()),
    }
}

/// Which of several jobs.
#[derive(Debug, Args)]
pub(super) struct JobArgument {
    /// Whose backup, by the job's first digits as `list` shows them: for a host that has several jobs, or another host's
    #[arg(long, value_name = "JOB", value_parser = job)]
    pub job: Option<String>,
}

/// The beginning of a job's short form.
pub(super) fn job(text: &str) -> std::result::Result<String, String> {
    let is_hex = text.bytes().all(|digit| digit.is_ascii_hexdigit());
    match text.len() {
        4..=8 if is_hex => Ok(text.to_owned()),
        _ => Err("a job is named by 4 to 8 hexadecimal digits, as `snapback list` shows them".to_owned()),
    }
}

/// What is handed out although it is known not to be good.
#[derive(Debug, Args)]
pub(super) struct FailedArgument {
    /// Take `latest` although its last drill failed, or it is known to be damaged
    #[arg(long)]
    pub accept_failed: bool,
}

impl FailedArgument {
    /// What is done about a `latest` that is not good.
    pub fn unfit(&self) -> crate::job::Unfit {
        match self.accept_failed {
            true => crate::job::Unfit::Say,
            false => crate::job::Unfit::Refuse,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Only of this host
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
    /// Only of this job, by its first digits
    #[arg(long, value_name = "JOB", value_parser = job)]
    pub job: Option<String>,
    /// Only with this tag (may be repeated)
    #[arg(long, value_name = "KEY=VALUE", value_parser = tag)]
    pub tag: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// `latest`, an id, or a unique prefix of one
    #[arg(default_value = "latest")]
    pub id: String,
    /// Whose backup: `latest` is the newest of this host [default: this host]
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
    #[command(flatten)]
    pub whose: JobArgument,
    /// List every file instead
    #[arg(long)]
    pub files: bool,
}

#[derive(Debug, Args)]
pub(super) struct Restore {
    /// `latest`, an id, or a unique prefix of one
    pub id: String,
    /// Whose backup: `latest` is the newest of this host; in place, another host's needs this flag [default: this host]
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
    #[command(flatten)]
    pub whose: JobArgument,
    #[command(flatten)]
    pub failed: FailedArgument,
    #[command(flatten)]
    pub destination: DestinationArguments,
    /// Only this original path (may be repeated)
    #[arg(value_parser = original_path(), long, value_name = "PATH")]
    pub include: Vec<PathBuf>,
    /// In place: this tree of the backup may appear, although neither the configuration nor a backup that was taken here names it (may be repeated)
    #[arg(long, value_name = "PATH", requires = "in_place")]
    pub allow_path: Vec<PathBuf>,
    /// In place: move aside what is there. Into a server: replace it
    #[arg(long, conflicts_with_all = ["datadir", "target"])]
    pub force: bool,
    #[command(flatten)]
    pub into: super::table::TableArguments,
    /// Keep MySQL's server_uuid: the restored server replaces the old one
    #[arg(long, requires = "datadir")]
    pub keep_uuid: bool,
    /// Go on over damage: restore all that is intact, list the rest, end with status 4
    #[arg(long)]
    pub keep_going: bool,
    /// In trees of `files:`: restore devices, set-user-ID bits and privileged attributes, which whoever can write the repository chooses
    #[arg(long, conflicts_with_all = ["datadir", "into_server"])]
    pub special: bool,
    /// Threads [default: as many as processors, at most 8]
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
    #[command(flatten)]
    pub replica: super::replica::ReplicaArguments,
    #[command(flatten)]
    pub replay: super::replay::ReplayArguments,
    #[command(flatten)]
    pub scratch: super::dump::ScratchArguments,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct DestinationArguments {
    /// A new directory that a server can start on
    #[arg(value_parser = local_path(), long, value_name = "DIR")]
    pub datadir: Option<PathBuf>,
    /// Every root below this new directory, at its original path
    #[arg(value_parser = local_path(), long, value_name = "DIR")]
    pub target: Option<PathBuf>,
    /// Into the running server at this socket, with --table or --schema
    #[arg(value_parser = local_path(), long, value_name = "SOCKET")]
    pub into_server: Option<PathBuf>,
    /// Back where everything was; the server must be stopped
    #[arg(long)]
    pub in_place: bool,
}

#[derive(Debug, Args)]
pub(super) struct Verify {
    /// `latest`, an id, or a unique prefix of one
    #[arg(default_value = "latest")]
    pub id: String,
    /// Whose backup: `latest` is the newest of this host [default: this host]
    #[arg(long, value_name = "NAME", conflicts_with = "all")]
    pub host: Option<String>,
    #[command(flatten)]
    pub whose: JobArgument,
    /// Every backup, and every stored object
    #[arg(long, conflicts_with = "id")]
    pub all: bool,
    /// structure: everything is there and fits together. data: every byte is read as well
    #[arg(long, default_value = "structure")]
    pub level: LevelArgument,
    #[command(flatten)]
    pub drill: super::drill::DrillArguments,
    /// Threads [default: as many as processors, at most 8]
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
}

#[derive(Debug, Args)]
pub(super) struct Cleanup {
    /// Only say what would be removed
    #[arg(long)]
    pub dry_run: bool,
    /// Also snapshots of this installation that its state directory does not know any more
    #[arg(long)]
    pub orphans: bool,
    /// Also this snapshot with our mark, which is not proved to be of this installation (may be repeated)
    #[arg(long = "snapshot", value_name = "NAME")]
    pub snapshots: Vec<String>,
    #[command(flatten)]
    pub server: ServerArguments,
}

#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell
    pub shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(super) struct Man {
    /// Write snapback.1, snapback-backup.1 ... here
    #[arg(value_parser = local_path(), long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

impl DestinationArguments {
    pub fn destination(&self) -> Result<crate::restore::Destination> {
        use crate::restore::Destination;
        match (&self.datadir, &self.target, self.in_place) {
            (Some(datadir), None, false) => Ok(Destination::Datadir(no_link(datadir)?)),
            (None, Some(target), false) => Ok(Destination::Target(no_link(target)?)),
            (None, None, true) => Ok(Destination::InPlace),
            _ => Err(Error::usage("give one of --datadir, --target, --in-place")),
        }
    }
}

/// A restore publishes by a rename, which would take a link's place instead of filling the directory that it leads to.
fn no_link(path: &Path) -> Result<PathBuf> {
    match std::fs::read_link(path) {
        Ok(to) => Err(Error::usage(format!(
            "{} is a symbolic link to {}: name the directory itself",
            path.display(),
            to.display()
        ))),
        Err(_) => Ok(path.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::Strategy;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_are_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn flags_win_over_the_configuration() {
        let arguments = Arguments::parse_from([
            "snapback",
            "backup",
            "--lock",
            "ftwrl",
            "--socket",
            "/s",
            "--hold-limit",
            "2s",
            "--tag",
            "a=b",
        ]);
        let Command::Backup(backup) = arguments.command else {
            panic!("another command")
        };
        let mut config = Config {
            repository: "/r".into(),
            ..Config::default()
        };
        config.server = Some(Server {
            host: Some("h".into()),
            user: Some("u".into()),
            ..Server::default()
        });
        backup.examine.apply(&mut config).unwrap();
        assert_eq!(config.lock.strategy, Strategy::Ftwrl);
        let server = config.server.unwrap();
        assert_eq!(
            (server.socket, server.host, server.user),
            (Some("/s".into()), None, Some("u".into()))
        );
        assert_eq!(backup.tag, [("a".to_owned(), "b".to_owned())]);
    }
}
