//! Whose datadir is it: that the server which answers works on the files that we see at the paths which it names.
//!
//! A path proves nothing: a server in a container has a datadir, a pid file and a socket of the same names as the host's own. So the kernel is asked who
//! answers, and which directory (device and inode) that process works in and has files open in.

use std::path::Path;

use super::session::Session;
use crate::database::{Error, Result, ServerFacts, WrittenPath};
use crate::finding::Finding;
use crate::sys::fs::{TEXT_LIMIT, read_plain};
use crate::sys::peer::Unknown;
use crate::sys::process::Process;

/// Files that a server keeps open in its datadir as long as it runs: InnoDB's, Aria's, MySQL's dictionary.
const KEPT_OPEN: [&str; 3] = ["ibdata1", "aria_log_control", "mysql.ibd"];
/// What servers call themselves.
const SERVERS: [&str; 2] = ["mariadbd", "mysqld"];

/// The configuration's word for a case in which nothing can be proved.
const ACCEPT: &str = "server.accept_unproved";

/// What the kernel says of the server that answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// This process, which works on the datadir that we see.
    Proved(Process),
    /// This process, a server, works on another directory.
    Another(Process),
    /// It cannot be seen who answers (another host), and why.
    Unseen(Unknown),
    /// This process is no server as far as can be seen (a proxy), or works on nothing that can be seen.
    Stranger(Process),
}

/// Who answers, and whether it works on this datadir.
pub fn answer(session: &Session, datadir: &Path) -> Answer {
    match session.peer() {
        Ok(process) => judge(process, datadir),
        Err(why) => Answer::Unseen(why),
    }
}

fn judge(process: Process, datadir: &Path) -> Answer {
    let works_here = process.works_in(datadir);
    let opened: Vec<bool> = KEPT_OPEN
        .iter()
        .filter_map(|name| process.has_open(&datadir.join(name)))
        .collect();
    let has_files = opened.is_empty() || opened.contains(&true);
    match works_here {
        Some(true) if has_files => Answer::Proved(process),
        // A proxy passes bytes on; it is no server, and tells nothing of the one behind it.
        Some(_) if is_server(process) => Answer::Another(process),
        _ => Answer::Stranger(process),
    }
}

/// By what it has open where it works, or by its name.
fn is_server(process: Process) -> bool {
    let directory = process.directory();
    let mut kept = KEPT_OPEN.iter();
    SERVERS.contains(&process.name().as_str()) || kept.any(|name| process.has_open(&directory.join(name)) == Some(true))
}

/// What stands in the way of believing the server's paths.
///
/// # Errors
/// The datadir is not visible here, or has another server's uuid in it.
pub fn findings(answer: Answer, facts: &ServerFacts, address: &str, accept: bool) -> Result<Vec<Finding>> {
    let datadir = facts.datadir.display();
    if !facts.datadir.is_dir() {
        return Err(Error::Unsupported(format!(
            "the server at {address} says that its datadir is {datadir}, which is not visible here; \
             snapback runs on the database host itself, and sees the datadir at the path that the server uses"
        )));
    }
    if uuid_matches(facts) == Some(false) {
        return Err(Error::Unsupported(format!(
            "the datadir {datadir} does not belong to the server at {address}: its auto.cnf has another server_uuid"
        )));
    }
    Ok(match answer {
        Answer::Proved(_) => Vec::new(),
        Answer::Another(process) => vec![another(process, facts, address)],
        Answer::Unseen(why) => vec![unseen(&why.to_string(), facts, address, accept)],
        Answer::Stranger(process) => vec![unseen(&stranger(process), facts, address, accept)],
    })
}

fn another(process: Process, facts: &ServerFacts, address: &str) -> Finding {
    let datadir = facts.datadir.display();
    let place = match process.shares_mounts() {
        Some(false) => ", in a mount namespace of its own (a container?),",
        _ => "",
    };
    let message = format!(
        "the server at {address} (process {}){place} works on another directory than what is {datadir} here: a backup would be of another server's data",
        process.pid
    );
    Finding::blocker("another-datadir", message).remedy(
        "reach the server that works on this directory (`server.socket`), or run snapback where the server's paths lead to its own files",
    )
}

fn stranger(process: Process) -> String {
    // Its name is its own word.
    let name = process.name().escape_debug().to_string();
    format!(
        "process {} ({name}) answers, which does not work there and is no server that snapback sees",
        process.pid
    )
}

fn unseen(why: &str, facts: &ServerFacts, address: &str, accept: bool) -> Finding {
    let datadir = facts.datadir.display();
    let message = format!("nothing proves that the datadir {datadir} is that of the server at {address}: {why}");
    match accept {
        true => Finding::warning("datadir-unproved", format!("{message}; `{ACCEPT}` accepts that"))
            .remedy("reach the server through its Unix socket, and take the key away"),
        false => Finding::blocker("datadir-unproved", message).remedy(format!(
            "reach the server through its Unix socket, on its own host, as root. `{ACCEPT}: true` goes on without proof: the data may be another server's \
             than the position"
        )),
    }
}

/// Paths of the server that lead elsewhere in its own mount namespace than here: none of them may be snapshotted in its name.
pub fn misled(answer: Answer, paths: &[WrittenPath]) -> Vec<Finding> {
    let Answer::Proved(process) = answer else {
        return Vec::new();
    };
    if process.shares_mounts() != Some(false) {
        return Vec::new();
    }
    let elsewhere = paths
        .iter()
        .filter(|written| written.needed && process.sees_same(&written.path) == Some(false));
    let finding = |written: &WrittenPath| {
        let message = format!(
            "{} is not what the server (process {}) finds there in its own mount namespace",
            written.path.display(),
            process.pid
        );
        Finding::blocker("another-namespace", message)
            .remedy("give the server and snapback the same files at that path (bind mounts)")
    };
    elsewhere.map(finding).collect()
}

/// Whether a later session ends at the same process, which still works there. Nothing is known where nothing was proved.
///
/// # Errors
/// Another process answers: the server was started anew, or the address leads elsewhere now.
pub fn still(answer: Answer, session: &Session, datadir: &Path) -> Result<()> {
    let Answer::Proved(before) = answer else { return Ok(()) };
    match self::answer(session, datadir) {
        Answer::Proved(now) if now == before => Ok(()),
        _ => Err(changed(before)),
    }
}

/// The same under a lock, where the process's thousands of open files are not looked at: of TCP it is asked whether the process lives.
///
/// # Errors
/// As [`still`].
pub fn still_under_lock(answer: Answer, session: &Session, datadir: &Path) -> Result<()> {
    let Answer::Proved(before) = answer else { return Ok(()) };
    let same = session.is_local_peer(before).unwrap_or_else(|| before.is_there());
    match same && before.works_in(datadir) == Some(true) {
        true => Ok(()),
        false => Err(changed(before)),
    }
}

fn changed(before: Process) -> Error {
    Error::LockLost {
        reason: format!(
            "another server answers than at the beginning (process {} then): it was started anew, or its address leads elsewhere",
            before.pid
        ),
    }
}

/// Whether MySQL's auto.cnf holds the server's uuid; `None` where there is no such file or uuid.
fn uuid_matches(facts: &ServerFacts) -> Option<bool> {
    let uuid = facts.server_uuid.as_deref()?;
    let text = read_plain(&facts.datadir.join("auto.cnf"), TEXT_LIMIT).ok()?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let told = text.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "server-uuid").then(|| value.trim().to_owned())
    })?;
    Some(told.eq_ignore_ascii_case(uuid))
}

#[cfg(test)]
mod tests {
    use super::super::scratch::tests::facts;
    use super::*;
    use crate::database::Flavour;
    use crate::finding::Severity;

    fn own() -> Process {
        Process::of(i32::try_from(std::process::id()).unwrap()).unwrap()
    }

    #[test]
    fn a_datadir_that_is_not_here_is_refused() {
        let facts = ServerFacts {
            datadir: "/nonexistent/d".into(),
            ..facts(Flavour::MariaDb)
        };
        let error = findings(Answer::Unseen(Unknown::Elsewhere), &facts, "h:1", true).unwrap_err();
        assert!(error.to_string().contains("not visible here"), "{error}");
    }

    #[test]
    fn what_is_not_proved_is_a_blocker_unless_it_is_accepted() {
        let dir = tempfile::tempdir().unwrap();
        let facts = ServerFacts {
            datadir: dir.path().to_owned(),
            server_uuid: Some("u-1".to_owned()),
            ..facts(Flavour::MySql)
        };
        let severity = |answer, accept| {
            findings(answer, &facts, "a", accept)
                .unwrap()
                .first()
                .map(|one| one.severity)
        };
        assert_eq!(
            severity(Answer::Unseen(Unknown::NoHolder), false),
            Some(Severity::Blocker)
        );
        assert_eq!(
            severity(Answer::Unseen(Unknown::NoHolder), true),
            Some(Severity::Warning)
        );
        assert_eq!(severity(Answer::Another(own()), true), Some(Severity::Blocker));
        assert_eq!(severity(Answer::Proved(own()), false), None);
        // The uuid of a copy proves nothing, but another one disproves.
        std::fs::write(dir.path().join("auto.cnf"), "[auto]\nserver-uuid=u-1\n").unwrap();
        assert_eq!(
            severity(Answer::Unseen(Unknown::NoHolder), false),
            Some(Severity::Blocker)
        );
        std::fs::write(dir.path().join("auto.cnf"), "[auto]\nserver-uuid=u-2\n").unwrap();
        assert!(findings(Answer::Proved(own()), &facts, "a", true).is_err());
    }

    #[test]
    fn a_process_is_judged_by_its_directory_and_its_open_files() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(judge(own(), &here), Answer::Proved(own()));
        // Not a server by its name: a proxy, perhaps.
        assert_eq!(judge(own(), Path::new("/")), Answer::Stranger(own()));
    }
}
