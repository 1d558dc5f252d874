//! What is left to do with restored data: log indexes that hold old paths, and what a person does next.

use std::path::{Path, PathBuf};

use super::lost::{DAMAGED, Lost};
use super::pieces::{Piece, moved_to};
use super::workspace::Workspace;
use super::{Destination, Placed, Request};
use crate::database::{Flavour, PathRole};
use crate::record::Record;
use crate::{Error, Result};

/// The largest log index that is rewritten, in bytes.
const LARGEST_INDEX: u64 = 16 << 20;

/// The indexes of binary and relay logs hold the live paths (trap 19): a server that starts elsewhere must not find them.
pub(super) fn rewrite_indexes(
    record: &Record,
    pieces: &[Piece],
    spaces: &[Workspace],
    request: &Request,
) -> Result<()> {
    let (Some(server), Destination::Datadir(_)) = (&record.server, &request.destination) else {
        return Ok(());
    };
    for variable in ["log_bin_index", "relay_log_index"] {
        let Some(index) = server.variables.get(variable).filter(|value| !value.is_empty()) else {
            continue;
        };
        let live = server.datadir.join(index);
        let Some(at) = moved_to(pieces, &live) else { continue };
        let Some(space) = spaces.iter().find(|space| at.starts_with(space.destination())) else {
            continue;
        };
        let inside = space.inside(at.strip_prefix(space.destination()).unwrap_or(&at));
        rewrite(space, &inside, &server.datadir, pieces)?;
    }
    Ok(())
}

fn rewrite(space: &Workspace, index: &Path, datadir: &Path, pieces: &[Piece]) -> Result<()> {
    use std::io::{Read, Seek, Write};
    let fail = |error: std::io::Error| Error::Sys(crate::sys::Error::path("rewrite", space.path().join(index), error));
    if !space.beneath().exists(index)? {
        return Ok(());
    }
    let mut file = space.beneath().open_file(index)?;
    let mut text = String::new();
    if file.metadata().map_err(fail)?.len() > LARGEST_INDEX
        || (&file).take(LARGEST_INDEX).read_to_string(&mut text).is_err()
    {
        return Ok(());
    }
    let new: String = text
        .lines()
        .map(|line| relocated(line, datadir, pieces) + "\n")
        .collect();
    if new != text {
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(new.as_bytes()))
            .map_err(fail)?;
        file.sync_all().map_err(fail)?;
    }
    Ok(())
}

/// A relative name means the datadir, and still does.
fn relocated(line: &str, datadir: &Path, pieces: &[Piece]) -> String {
    let path = Path::new(line);
    if !path.is_absolute() {
        return line.to_owned();
    }
    let moved = moved_to(pieces, path).unwrap_or_else(|| path.to_owned());
    let own = moved_to(pieces, datadir);
    match own.and_then(|own| Some(moved.strip_prefix(own).ok()?.to_owned())) {
        Some(below) => format!("./{}", below.display()),
        None => moved.display().to_string(),
    }
}

/// What a person does now.
pub(super) fn next_steps(record: &Record, placed: &[Placed], request: &Request, lost: &Lost) -> Vec<String> {
    if !lost.is_empty() {
        return lost_steps(record, lost);
    }
    let mut steps = Vec::new();
    let Some(server) = &record.server else { return steps };
    let at = |original: &Path| {
        placed
            .iter()
            .find(|placed| placed.original == original)
            .map(|placed| placed.at.clone())
    };
    let Some(datadir) = at(&server.datadir) else {
        return steps;
    };
    if !crate::sys::host::is_root() {
        steps.push(format!("as root: chown -R mysql:mysql {}", datadir.display()));
    }
    steps.push(start(record, &datadir, placed, request));
    if server.flavour == Flavour::MySql && matches!(request.destination, Destination::Datadir(_)) && !request.keep_uuid
    {
        steps.push("the copy has no auto.cnf: the server makes itself a new server_uuid; give it its own server_id beside the old server".to_owned());
    }
    if let Some(position) = &record.position {
        let exact = if record.exact {
            "exactly"
        } else {
            "about (the position is not exact)"
        };
        steps.push(format!(
            "the data is {exact} at {} position {}",
            position.file, position.position
        ));
        let reader = if server.flavour == Flavour::MariaDb {
            "mariadb-binlog"
        } else {
            "mysqlbinlog"
        };
        steps.push(format!(
            "to go on from there: {reader} --start-position={} {} [later files...] | the client",
            position.position, position.file
        ));
        steps.push(format!(
            "to make it a replica of {}:\n{}",
            server.hostname,
            source_statements(record)
        ));
    }
    for channel in &record.replica {
        steps.push(format!(
            "it was a replica; to follow the same source again:\n{}",
            channel_statements(server.flavour, channel)
        ));
    }
    steps
}

/// What is not whole must be looked at before anything is started on it.
fn lost_steps(record: &Record, lost: &Lost) -> Vec<String> {
    let list = lost.list.as_deref().unwrap_or(Path::new("the list of losses"));
    let mut steps = vec![
        format!("read {}: it names what is lost", list.display()),
        format!(
            "what has its own name is whole; what is left of a damaged file is NAME{DAMAGED}, with its lost ranges as holes. \
             Another backup may have it whole: `snapback verify --all`, then restore with --include"
        ),
    ];
    if record.server.is_some() {
        steps.push(
            "do not start a server on it before every file that it needs is there: it may make a new one in the place of a missing one"
                .to_owned(),
        );
    }
    steps
}

fn start(record: &Record, datadir: &Path, placed: &[Placed], request: &Request) -> String {
    let flavour = record.server.as_ref().map(|server| server.flavour);
    let (program, unit) = match flavour {
        Some(Flavour::MariaDb) => ("mariadbd", "mariadb"),
        _ => ("mysqld", "mysql"),
    };
    if request.destination == Destination::InPlace {
        return format!("start the server: systemctl start {unit}");
    }
    let mut options = vec![format!("--datadir={}", datadir.display())];
    for placed in placed.iter().filter(|placed| placed.at != datadir) {
        let roles = record
            .paths
            .iter()
            .filter(|written| written.path.starts_with(&placed.original));
        options.extend(roles.filter_map(|written| option(written.role, &place(written, placed))));
    }
    options.dedup();
    format!("start a server on it: {program} --user=mysql {}", options.join(" "))
}

fn place(written: &crate::database::WrittenPath, placed: &Placed) -> PathBuf {
    match written.path.strip_prefix(&placed.original) {
        Ok(rest) if !rest.as_os_str().is_empty() => placed.at.join(rest),
        _ => placed.at.clone(),
    }
}

/// The option that tells a server where this is.
fn option(role: PathRole, at: &Path) -> Option<String> {
    let name = match role {
        PathRole::Redo => "innodb-log-group-home-dir",
        PathRole::Undo => "innodb-undo-directory",
        PathRole::Doublewrite => "innodb-doublewrite-dir",
        PathRole::AriaLog => "aria-log-dir-path",
        PathRole::BinaryLog => {
            return Some(format!(
                "--log-bin={}/NAME",
                at.parent().filter(|_| at.extension().is_some()).unwrap_or(at).display()
            ));
        }
        PathRole::InnodbDirectory | PathRole::External => "innodb-directories",
        _ => return None,
    };
    Some(format!("--{name}={}", at.display()))
}

fn source_statements(record: &Record) -> String {
    let (Some(server), Some(position)) = (&record.server, &record.position) else {
        return String::new();
    };
    let (host, file, at) = (&server.hostname, &position.file, position.position);
    match (server.flavour, &position.gtid) {
        (Flavour::MariaDb, Some(gtid)) => format!(
            "  SET GLOBAL gtid_slave_pos = '{gtid}';\n  CHANGE MASTER TO MASTER_HOST='{host}', MASTER_USER='...', MASTER_PASSWORD='...', \
             MASTER_USE_GTID=slave_pos;\n  START SLAVE;"
        ),
        (Flavour::MariaDb, None) => format!(
            "  CHANGE MASTER TO MASTER_HOST='{host}', MASTER_USER='...', MASTER_PASSWORD='...', MASTER_LOG_FILE='{file}', \
             MASTER_LOG_POS={at};\n  START SLAVE;"
        ),
        (Flavour::MySql, Some(_)) => format!(
            "  CHANGE REPLICATION SOURCE TO SOURCE_HOST='{host}', SOURCE_USER='...', SOURCE_PASSWORD='...', \
             SOURCE_AUTO_POSITION=1;\n  START REPLICA;"
        ),
        (Flavour::MySql, None) => format!(
            "  CHANGE REPLICATION SOURCE TO SOURCE_HOST='{host}', SOURCE_USER='...', SOURCE_PASSWORD='...', SOURCE_LOG_FILE='{file}', \
             SOURCE_LOG_POS={at};\n  START REPLICA;"
        ),
    }
}

fn channel_statements(flavour: Flavour, channel: &crate::database::ReplicaChannel) -> String {
    let (host, port, file, at, name) = (
        &channel.source_host,
        channel.source_port,
        &channel.file,
        channel.position,
        &channel.channel,
    );
    match flavour {
        Flavour::MariaDb => {
            let quoted = if name.is_empty() {
                String::new()
            } else {
                format!(" '{name}'")
            };
            format!(
                "  CHANGE MASTER{quoted} TO MASTER_HOST='{host}', MASTER_PORT={port}, MASTER_LOG_FILE='{file}', MASTER_LOG_POS={at};\n  \
                 START SLAVE{quoted};"
            )
        }
        Flavour::MySql => {
            let quoted = if name.is_empty() {
                String::new()
            } else {
                format!(" FOR CHANNEL '{name}'")
            };
            format!(
                "  CHANGE REPLICATION SOURCE TO SOURCE_HOST='{host}', SOURCE_PORT={port}, SOURCE_LOG_FILE='{file}', \
                 SOURCE_LOG_POS={at}{quoted};\n  START REPLICA{quoted};"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pieces::moved;
    use super::*;

    #[test]
    fn an_index_line_follows_the_log() {
        let pieces = [moved("/db", "/new"), moved("/logs", "/new.external/logs")];
        let line = |line: &str| relocated(line, Path::new("/db"), &pieces);
        assert_eq!(line("./bin.000001"), "./bin.000001");
        assert_eq!(line("/db/bin.000001"), "./bin.000001");
        assert_eq!(line("/logs/bin.000001"), "/new.external/logs/bin.000001");
        assert_eq!(line("/elsewhere/bin.000001"), "/elsewhere/bin.000001");
    }
}
