//! `restore --replica-of`: what makes the restored server a replica.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::local_path;
use super::output;
use crate::database::mysql::connect::Secret;
use crate::seed::{By, Coordinates, Seed, Wanted};
use crate::{Error, Result, sys};

/// The environment variable with the replication account's password.
const PASSWORD: &str = "SNAPBACK_REPLICA_PASSWORD";

#[derive(Debug, Args)]
#[command(next_help_heading = "Replica")]
pub(super) struct ReplicaArguments {
    /// Write the statements that make the restored server a replica of this one to DATADIR.snapback-replica.sql
    #[arg(long, value_name = "HOST[:PORT]", conflicts_with_all = ["target", "include", "keep_uuid"])]
    pub replica_of: Option<String>,
    /// The replication account; its password comes from --replica-password-file or SNAPBACK_REPLICA_PASSWORD
    #[arg(long, value_name = "NAME", requires = "replica_of")]
    pub replica_user: Option<String>,
    /// A file with the password on its first line, that only its owner may read
    #[arg(value_parser = local_path(), long, value_name = "FILE", requires = "replica_user")]
    pub replica_password_file: Option<PathBuf>,
    /// For a backup of a replica: is HOST the backed-up server itself, or its source? [default: told by HOST's name]
    #[arg(long, value_name = "WHOSE", requires = "replica_of")]
    pub replica_coordinates: Option<CoordinatesArgument>,
    /// Start by GTIDs or by file and position [default: gtid where the backup has them]
    #[arg(long, value_name = "HOW", requires = "replica_of")]
    pub replica_by: Option<ByArgument>,
    /// The new replica's server_id [default: a random large one]
    #[arg(long, value_name = "N", requires = "replica_of")]
    pub replica_server_id: Option<u32>,
    /// Start the server through its service, run the statements, and wait until it follows
    #[arg(long, requires = "replica_user", conflicts_with = "keep_going")]
    pub replica_start: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum CoordinatesArgument {
    /// HOST is the backed-up server
    Own,
    /// HOST is the source that the backed-up server followed
    Source,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum ByArgument {
    /// GTIDs
    Gtid,
    /// File and position
    Position,
}

impl ReplicaArguments {
    /// What is wanted; `None` when no replica is.
    pub fn wanted(&self) -> Result<Option<Wanted>> {
        let Some(source) = &self.replica_of else {
            return Ok(None);
        };
        let (host, port) = address(source)?;
        Ok(Some(Wanted {
            host,
            port,
            coordinates: self.replica_coordinates.map(|whose| match whose {
                CoordinatesArgument::Own => Coordinates::Own,
                CoordinatesArgument::Source => Coordinates::Source,
            }),
            by: self.replica_by.map(|by| match by {
                ByArgument::Gtid => By::Gtid,
                ByArgument::Position => By::Position,
            }),
            user: self.replica_user.clone(),
            password: self.password()?,
            server_id: self.replica_server_id,
        }))
    }

    fn password(&self) -> Result<Option<Secret>> {
        use std::os::unix::fs::MetadataExt;
        let Some(path) = &self.replica_password_file else {
            return Ok(std::env::var(PASSWORD).ok().map(Secret::new));
        };
        let failed =
            |error: sys::Error| Error::usage(format!("cannot use the password in {}: {error}", path.display()));
        sys::trust::require(path).map_err(failed)?;
        let file = sys::fs::open_plain_linked(path).map_err(failed)?;
        let found = file
            .metadata()
            .map_err(|error| failed(sys::Error::path("stat", path, error)))?;
        if found.mode() & 0o077 != 0 {
            return Err(Error::usage(format!(
                "{} holds a password and others may read it: chmod 600 {0}",
                path.display()
            )));
        }
        let bytes = sys::fs::read_all(&file, path, sys::fs::TEXT_LIMIT).map_err(failed)?;
        let text = String::from_utf8(bytes).map_err(|_| Error::usage(format!("{} is not UTF-8", path.display())))?;
        Ok(Some(Secret::new(text.lines().next().unwrap_or_default())))
    }
}

/// `host`, `host:port`, `[v6]:port`.
fn address(text: &str) -> Result<(String, u16)> {
    let wrong = || Error::usage(format!("--replica-of `{text}` is no HOST or HOST:PORT"));
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':').ok_or_else(wrong)?)),
        None if text.matches(':').count() > 1 => (text, None),
        None => text
            .split_once(':')
            .map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map_or(Ok(3306), str::parse).map_err(|_| wrong())?;
    if host.is_empty() {
        return Err(wrong());
    }
    Ok((host.to_owned(), port))
}

pub(super) fn print(seed: &Seed) {
    let made = match seed.following {
        Some(_) => "made a replica of",
        None => "to make it a replica of",
    };
    output::line(output::bold(format_args!("{made} {}", seed.source)));
    for statement in &seed.statements {
        output::line(format_args!("  {};", statement.text));
    }
    if let Some(file) = &seed.file {
        output::line(format_args!(
            "  they are in {} (only its owner may read it): start the server without its old replication, then give it that file by its client",
            file.display()
        ));
    }
    if let Some(following) = &seed.following {
        let behind = match following.behind_seconds {
            Some(seconds) => format!("{seconds} s behind"),
            None => "how far behind it does not say yet".to_owned(),
        };
        output::line(format_args!(
            "  the server ({}) was started and follows: {behind}",
            following.version
        ));
    }
    if seed.id_is_set {
        output::line(format_args!("  put server-id={} into its option file", seed.server_id));
    }
    seed.warnings
        .iter()
        .for_each(|finding| output::say(output::finding(finding)));
}

#[cfg(test)]
mod tests {
    use super::address;

    #[test]
    fn addresses_with_and_without_ports() {
        let of = |text: &str| address(text).ok();
        assert_eq!(of("db1"), Some(("db1".to_owned(), 3306)));
        assert_eq!(of("db1:3307"), Some(("db1".to_owned(), 3307)));
        assert_eq!(of("[::1]:3307"), Some(("::1".to_owned(), 3307)));
        assert_eq!(of("fe80::1"), Some(("fe80::1".to_owned(), 3306)));
        assert_eq!(of("db1:x"), None);
        assert_eq!(of(":3306"), None);
    }
}
