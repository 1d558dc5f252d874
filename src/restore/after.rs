//! What a person does next with restored data.

use std::path::Path;

use super::lost::{DAMAGED, Lost};
use super::{Destination, Placed, Request, start};
use crate::database::mysql::place::Place;
use crate::database::{Flavour, PathRole, ReplicaChannel};
use crate::record::Record;
use crate::sys::host;

/// What a person does now.
pub(super) fn next_steps(
    record: &Record,
    placed: &[Placed],
    request: &Request,
    copy: Option<&Place<'_>>,
    owner: Option<(u32, u32)>,
    lost: &Lost,
) -> Vec<String> {
    if !lost.is_empty() {
        return lost_steps(record, lost);
    }
    let mut steps = Vec::new();
    let Some(server) = &record.server else { return steps };
    let Some(datadir) = placed.iter().find(|placed| placed.original == server.datadir) else {
        return steps;
    };
    if let Some(owner) = owner.filter(|(uid, _)| !host::is_root() && *uid != host::user_id()) {
        let owner = host::owner_name(owner);
        steps.push(format!("as root: chown -R {owner} {}", datadir.at.display()));
    }
    steps.extend(placed.iter().filter_map(|placed| in_the_way(record, placed)));
    let mut database = placed.iter().filter(|placed| !is_beside(record, placed));
    let copied = matches!(request.destination, Destination::Datadir(_));
    if database.all(|placed| start::is_same(&placed.at, &placed.original)) {
        steps.push(start::in_place(record, server.flavour, request.start_with.as_deref()));
    } else if let Some(copy) = copy {
        steps.push(start::elsewhere(record, copy, owner));
    } else {
        steps.push(
            "do not start a server on it beside the old one: links and log indexes are as they were and lead to that one's files; \
             `restore --datadir` turns them to the copy"
                .to_owned(),
        );
    }
    if copied {
        steps.push(match server.flavour {
            Flavour::MySql if !request.keep_uuid => {
                "the copy has no auto.cnf: the server makes itself a new server_uuid; give it its own server_id beside the old server".to_owned()
            }
            _ => "give it its own server_id beside the old server".to_owned(),
        });
    } else if request.new_uuid && server.flavour == Flavour::MySql {
        steps.push("auto.cnf stayed behind: the server makes itself a new server_uuid".to_owned());
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
            position.position,
            start::quoted(&position.file)
        ));
        steps.push(format!(
            "to make it a replica of {}:\n{}",
            server.hostname.replace(char::is_control, " "),
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

/// What was moved aside must not be where the server looks for its own: MySQL opens every tablespace file below its datadir and
/// `innodb_directories` and refuses two of one number (MySQL manual, "innodb_directories"), and either server takes a directory in its datadir
/// for a schema.
pub(super) fn in_the_way(record: &Record, placed: &Placed) -> Option<String> {
    let aside = placed.moved_aside.as_deref()?;
    let searched = record.paths.iter().filter(|path| {
        let mysql = record
            .server
            .as_ref()
            .is_some_and(|server| server.flavour == Flavour::MySql);
        match path.role {
            PathRole::Datadir => true,
            PathRole::InnodbDirectory | PathRole::Undo | PathRole::SystemTablespace => mysql,
            _ => false,
        }
    });
    let searched: Vec<&Path> = searched.map(|path| path.path.as_path()).collect();
    let directory = searched
        .iter()
        .find(|path| aside != **path && aside.starts_with(path))?;
    Some(format!(
        "before the server is started: move {} out of {}, where it would take it for its own",
        aside.display(),
        directory.display()
    ))
}

/// Whether a restored tree is no part of the server's.
fn is_beside(record: &Record, placed: &Placed) -> bool {
    let of_files = |root: &&crate::record::RootRecord| root.role == crate::record::RootRole::Files;
    record
        .roots
        .iter()
        .filter(of_files)
        .any(|root| placed.original.starts_with(&root.path))
}

fn source_statements(record: &Record) -> String {
    let (Some(server), Some(position)) = (&record.server, &record.position) else {
        return String::new();
    };
    let (host, file, at) = (literal(&server.hostname), literal(&position.file), position.position);
    match (server.flavour, position.gtid.as_deref().map(literal)) {
        (Flavour::MariaDb, Some(gtid)) => format!(
            "  SET GLOBAL gtid_slave_pos = {gtid};\n  CHANGE MASTER TO MASTER_HOST={host}, MASTER_USER='...', MASTER_PASSWORD='...', \
             MASTER_USE_GTID=slave_pos;\n  START SLAVE;"
        ),
        (Flavour::MariaDb, None) => format!(
            "  CHANGE MASTER TO MASTER_HOST={host}, MASTER_USER='...', MASTER_PASSWORD='...', MASTER_LOG_FILE={file}, \
             MASTER_LOG_POS={at};\n  START SLAVE;"
        ),
        (Flavour::MySql, Some(_)) => format!(
            "  CHANGE REPLICATION SOURCE TO SOURCE_HOST={host}, SOURCE_USER='...', SOURCE_PASSWORD='...', \
             SOURCE_AUTO_POSITION=1;\n  START REPLICA;"
        ),
        (Flavour::MySql, None) => format!(
            "  CHANGE REPLICATION SOURCE TO SOURCE_HOST={host}, SOURCE_USER='...', SOURCE_PASSWORD='...', SOURCE_LOG_FILE={file}, \
             SOURCE_LOG_POS={at};\n  START REPLICA;"
        ),
    }
}

/// A text of the backup's record as a literal of SQL, on one line: it is shown to somebody who will run it.
fn literal(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('\'', "''");
    format!("'{}'", text.replace('\n', "\\n").replace('\r', "\\r"))
}

/// The source's address and, in the restored tables, its user and password are known already. A channel that goes by GTIDs goes on with
/// them: the server knows from its data what it has executed, and refuses (MySQL) or forgets GTIDs (MariaDB) when it is told a file.
fn channel_statements(flavour: Flavour, channel: &ReplicaChannel) -> String {
    let (host, port, name) = (
        literal(&channel.source_host),
        channel.source_port,
        literal(&channel.channel),
    );
    let (file, at) = (literal(&channel.file), channel.position);
    let word = match flavour {
        Flavour::MariaDb => "MASTER",
        Flavour::MySql => "SOURCE",
    };
    let from = match (flavour, channel.uses_gtid) {
        (Flavour::MariaDb, true) => "MASTER_USE_GTID=slave_pos".to_owned(),
        (Flavour::MySql, true) => "SOURCE_AUTO_POSITION=1".to_owned(),
        (_, false) => format!("{word}_LOG_FILE={file}, {word}_LOG_POS={at}"),
    };
    let delay = match channel.delay {
        0 => String::new(),
        seconds => format!(", {word}_DELAY={seconds}"),
    };
    let change = format!("{word}_HOST={host}, {word}_PORT={port}, {from}{delay}");
    match (flavour, channel.channel.is_empty()) {
        (Flavour::MariaDb, true) => format!("  CHANGE MASTER TO {change};\n  START SLAVE;"),
        (Flavour::MariaDb, false) => format!("  CHANGE MASTER {name} TO {change};\n  START SLAVE {name};"),
        (Flavour::MySql, true) => format!("  CHANGE REPLICATION SOURCE TO {change};\n  START REPLICA;"),
        (Flavour::MySql, false) => {
            format!("  CHANGE REPLICATION SOURCE TO {change} FOR CHANNEL {name};\n  START REPLICA FOR CHANNEL {name};")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_record_says_stays_a_literal() {
        let channel = ReplicaChannel {
            channel: "c'; DROP DATABASE a; -- ".to_owned(),
            source_host: "h\n  DROP DATABASE b;".to_owned(),
            source_port: 3306,
            file: "f\\".to_owned(),
            position: 4,
            gtid: None,
            uses_gtid: false,
            delay: 0,
            running: true,
        };
        for flavour in [Flavour::MariaDb, Flavour::MySql] {
            let said = channel_statements(flavour, &channel);
            assert_eq!(said.lines().count(), 2, "{said}");
            assert!(said.contains("'c''; DROP DATABASE a; -- '"), "{said}");
            assert!(
                said.contains("HOST='h\\n  DROP DATABASE b;'") && said.contains("LOG_FILE='f\\\\'"),
                "{said}"
            );
        }
    }

    #[test]
    fn a_channel_goes_on_as_it_went() {
        let channel = |uses_gtid| ReplicaChannel {
            channel: "c".to_owned(),
            source_host: "h".to_owned(),
            source_port: 3306,
            file: "b.2".to_owned(),
            position: 4,
            gtid: Some("0-1-7".to_owned()),
            uses_gtid,
            delay: 0,
            running: true,
        };
        let said = |flavour, uses_gtid| channel_statements(flavour, &channel(uses_gtid));
        let by_gtid = said(Flavour::MariaDb, true);
        assert!(
            by_gtid.contains("USE_GTID=slave_pos") && !by_gtid.contains("LOG_FILE"),
            "{by_gtid}"
        );
        let by_gtid = said(Flavour::MySql, true);
        assert!(
            by_gtid.contains("AUTO_POSITION=1 FOR CHANNEL 'c'") && !by_gtid.contains("LOG_FILE"),
            "{by_gtid}"
        );
        for flavour in [Flavour::MariaDb, Flavour::MySql] {
            let by_file = said(flavour, false);
            assert!(
                by_file.contains("LOG_FILE='b.2'") && !by_file.contains("GTID"),
                "{by_file}"
            );
            assert!(!by_file.contains("AUTO_POSITION"), "{by_file}");
        }
    }

    #[test]
    fn a_name_is_escaped_and_a_delay_stays() {
        let channel = ReplicaChannel {
            channel: "it's \\ one".to_owned(),
            source_host: "h".to_owned(),
            source_port: 3306,
            file: "b.2".to_owned(),
            position: 4,
            gtid: None,
            uses_gtid: false,
            delay: 3600,
            running: true,
        };
        let maria = channel_statements(Flavour::MariaDb, &channel);
        assert!(
            maria.contains(r"CHANGE MASTER 'it''s \\ one' TO MASTER_HOST='h'"),
            "{maria}"
        );
        assert!(
            maria.contains("MASTER_DELAY=3600") && maria.contains(r"START SLAVE 'it''s \\ one';"),
            "{maria}"
        );
        let mysql = channel_statements(Flavour::MySql, &channel);
        assert!(mysql.contains("SOURCE_DELAY=3600 FOR CHANNEL 'it"), "{mysql}");
    }
}
