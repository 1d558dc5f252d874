//! A server that is stopped: what its option files say it writes where, and what its files say of how it ended.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::facts::{Variables, facts};
use super::option_file::{Entry, OptionFile};
use super::{binlog, datadir, paths};
use crate::config::Server;
use crate::database::{Error, Flavour, Position, Result, ServerFacts, WrittenPath};
use crate::finding::Finding;
use crate::sys;

/// Where the servers look for their own option file (mysys/my_default.c).
const OPTION_FILES: [&str; 2] = ["/etc/my.cnf", "/etc/mysql/my.cnf"];
/// Groups that every server reads; besides, those of its series such as `[mariadb-10.11]`.
const GROUPS: [&str; 5] = ["mysqld", "server", "mysqld_safe", "mariadb", "mariadbd"];
/// What a server writes its version into, at an upgrade or a new datadir.
const VERSION_FILES: [&str; 2] = ["mariadb_upgrade_info", "mysql_upgrade_info"];

/// What is known of a stopped server.
#[derive(Debug)]
pub struct Stopped {
    /// As far as files tell.
    pub facts: ServerFacts,
    /// Every path that it writes.
    pub paths: Vec<WrittenPath>,
    /// Whether it was stopped well: its files need no recovery.
    pub clean: bool,
    /// The end of its binary log; exact where it was stopped well.
    pub position: Option<Position>,
    /// Oddities.
    pub findings: Vec<Finding>,
}

/// Reads what a stopped server left. Changes nothing.
///
/// # Errors
/// No option file or datadir is found, or they cannot be read; says what to set.
pub fn look(server: &Server) -> Result<Stopped> {
    let file = option_file(server)?;
    let options = OptionFile::read(&file)?;
    // The series is known by the datadir, and the datadir may stand in the series' group: the plain groups first.
    let plain = settings(&options, &GROUPS)?;
    let home = home(&plain, &file)?;
    let version = version(&home)?;
    let series = series_groups(&version);
    let groups: Vec<&str> = GROUPS.into_iter().chain(series.iter().map(String::as_str)).collect();
    let settings = settings(&options, &groups)?;
    if self::home(&settings, &file)? != home {
        let reason = "has another datadir in the group of the server's series than in the others";
        return Err(wrong(&file, reason));
    }
    judge(&file, &home, version, settings)
}

fn judge(file: &Path, home: &Path, version: String, settings: BTreeMap<String, String>) -> Result<Stopped> {
    let mut settings = settings;
    let log = binary_log(home, &settings);
    settings.insert("datadir".to_owned(), home.display().to_string());
    settings.insert("version".to_owned(), version);
    settings.insert(
        "log_bin".to_owned(),
        if log.is_some() { "ON" } else { "OFF" }.to_owned(),
    );
    settings
        .entry("innodb_data_file_path".to_owned())
        .or_insert_with(|| "ibdata1:12M:autoextend".to_owned());
    if let Some(log) = &log {
        settings.insert("log_bin_basename".to_owned(), log.base.display().to_string());
        settings.insert("log_bin_index".to_owned(), log.index.display().to_string());
    }
    let unsafe_stop = settings
        .get("innodb_fast_shutdown")
        .is_some_and(|speed| matches!(speed.as_str(), "2" | "3"));
    let variables = Variables::from(settings);
    let facts = facts(&variables, &format!("stopped, as {} says", file.display()))?;
    let footprint = paths::assemble(&variables, home, &[], &[], datadir::scan(home)?);
    let temporary = temporary_tablespace(home, &variables);
    let log_open = log.as_ref().map_or(Ok(false), |log| log.is_open())?;
    let clean = !unsafe_stop && !temporary && !log_open;
    let position = match &log {
        Some(log) => Some(binlog::position(
            facts.flavour,
            &log.index,
            log.base.parent().unwrap_or(home),
        )?),
        None => None,
    };
    let mut findings = footprint.findings;
    if facts.flavour == Flavour::MySql {
        let said = "a stopped MySQL does not say where its tablespaces lie: those outside of the directories that its option file names are missed";
        findings.push(Finding::note("tablespaces-not-listed", said));
    }
    Ok(Stopped {
        facts,
        paths: footprint.paths,
        clean,
        position,
        findings,
    })
}

/// Whether the option file that the configuration names, and what it includes, can be read and is nobody else's; nothing is asked where it names none.
///
/// # Errors
/// It cannot, or others could change it: where, who, and what to type.
pub fn readable(server: &Server) -> Result<()> {
    server
        .option_file
        .iter()
        .try_for_each(|file| OptionFile::read(file).map(drop))
}

fn option_file(server: &Server) -> Result<PathBuf> {
    if let Some(named) = &server.option_file {
        return Ok(named.clone());
    }
    let found = OPTION_FILES.iter().map(Path::new).find(|path| path.is_file());
    found.map(Path::to_owned).ok_or_else(|| {
        Error::Unsupported(format!(
            "the server is stopped, and none of its option files ({}) is there to say where its data lie: set `server.option_file`",
            OPTION_FILES.join(", ")
        ))
    })
}

/// The settings of these groups, as variables: a later one wins. One that names files is known exactly; in others what is not UTF-8 does not matter here.
///
/// # Errors
/// The name of a file is not UTF-8.
fn settings(options: &OptionFile, groups: &[&str]) -> Result<BTreeMap<String, String>> {
    const OF_FILES: [&str; 6] = ["dir", "file", "path", "index", "log-bin", "relay-log"];
    let setting = |entry: &Entry| {
        if OF_FILES.iter().any(|part| entry.key.contains(part)) {
            entry.text()?;
        }
        Ok((entry.key.replace('-', "_"), entry.value.clone().unwrap_or_default()))
    };
    options.in_groups(groups).map(setting).collect()
}

fn home(settings: &BTreeMap<String, String>, file: &Path) -> Result<PathBuf> {
    let named = settings.get("datadir").map_or("/var/lib/mysql", String::as_str);
    Path::new(named).canonicalize().map_err(|error| {
        wrong(
            file,
            &format!("says that the datadir is {named}, which cannot be found: {error}"),
        )
    })
}

fn version(home: &Path) -> Result<String> {
    let texts = VERSION_FILES
        .iter()
        .filter_map(|name| sys::fs::read_plain(&home.join(name), sys::fs::TEXT_LIMIT).ok());
    let found = texts
        .map(|text| {
            String::from_utf8_lossy(&text)
                .trim_matches(['\0', '\n', ' '])
                .to_owned()
        })
        .find(|text| !text.is_empty());
    found.ok_or_else(|| {
        Error::Unsupported(format!(
            "the server is stopped, and {} does not say of which version its data are ({} are missing): start the server, or take the set while it runs",
            home.display(),
            VERSION_FILES.join(" and ")
        ))
    })
}

/// `[mariadb-10.11]`, `[mysqld-8.4]` ...
fn series_groups(version: &str) -> Vec<String> {
    let series: Vec<&str> = version.split('.').take(2).collect();
    let series = series.join(".");
    ["mysqld", "mariadb", "mariadbd"]
        .iter()
        .map(|program| format!("{program}-{series}"))
        .collect()
}

/// InnoDB makes `ibtmp1` when it starts and removes it when it was shut down well; one that was killed leaves it.
fn temporary_tablespace(home: &Path, variables: &Variables) -> bool {
    let own = home.join(variables.get("innodb_data_home_dir").unwrap_or("."));
    let file = variables.get("innodb_temp_data_file_path").unwrap_or("ibtmp1");
    own.join(file.split(':').next().unwrap_or(file)).exists()
}

/// The binary log of a stopped server.
struct BinaryLog {
    /// As `log_bin_basename`.
    base: PathBuf,
    index: PathBuf,
}

/// By its setting, or by the names that servers give it by themselves; the one whose index is there.
fn binary_log(home: &Path, settings: &BTreeMap<String, String>) -> Option<BinaryLog> {
    if settings.contains_key("skip_log_bin") {
        return None;
    }
    let host = sys::host::name();
    let named = settings.get("log_bin").filter(|value| !value.is_empty());
    let names = match named {
        Some(name) => vec![name.clone()],
        None => [
            "binlog".to_owned(),
            format!("{host}-bin"),
            "mysql-bin".to_owned(),
            "mysqld-bin".to_owned(),
        ]
        .to_vec(),
    };
    let logs = names.into_iter().map(|name| {
        let base = home.join(name);
        let index = match settings.get("log_bin_index").filter(|value| !value.is_empty()) {
            Some(index) if Path::new(index).extension().is_none() => home.join(format!("{index}.index")),
            Some(index) => home.join(index),
            None => PathBuf::from(format!("{}.index", base.display())),
        };
        BinaryLog { base, index }
    });
    logs.into_iter().find(|log| log.index.is_file())
}

impl BinaryLog {
    /// Whether the newest file still has the mark of one that is being written (LOG_EVENT_BINLOG_IN_USE_F), which a good end takes away.
    fn is_open(&self) -> Result<bool> {
        /// Magic, then the event header: time 4, type 1, server 4, length 4, position 4, flags 2.
        const FLAGS: usize = 4 + 17;
        let text = super::binlog::read_index(&self.index)?;
        let Some(newest) = text.lines().rev().find(|line| !line.trim().is_empty()) else {
            return Ok(false);
        };
        let name = Path::new(newest.trim()).file_name().unwrap_or_default();
        let path = self.base.parent().unwrap_or(Path::new("/")).join(name);
        let mut header = [0; FLAGS + 2];
        let mut file = sys::fs::open_plain_linked(&path)?;
        Ok(match file.read_exact(&mut header) {
            Ok(()) => header[FLAGS] & 1 != 0,
            // Not even a header: it had no time to end.
            Err(_) => true,
        })
    }
}

fn wrong(path: &Path, reason: &str) -> Error {
    Error::OptionFile {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(dir: &Path, more: &str) -> Server {
        let file = dir.join("my.cnf");
        let data = dir.join("data");
        let _ = std::fs::create_dir(&data);
        let text = format!(
            "[client]\nsocket=/x\n[mysqld]\ndatadir={}\n{more}\n[mariadb-10.11]\nserver_id=7\n[mariadb-11.4]\nserver_id=8\n",
            data.display()
        );
        std::fs::write(&file, text).unwrap();
        Server {
            option_file: Some(file),
            ..Server::default()
        }
    }

    #[test]
    fn what_the_option_file_says_of_a_stopped_server_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let server = server(dir.path(), "");
        let said = look(&server).unwrap_err().to_string();
        assert!(said.contains("version"), "{said}");
        let data = dir.path().join("data").canonicalize().unwrap();
        std::fs::write(data.join("mariadb_upgrade_info"), "10.11.14-MariaDB\0").unwrap();
        std::fs::write(data.join("ibdata1"), "").unwrap();
        let found = look(&server).unwrap();
        assert!(found.clean);
        assert_eq!(
            (found.facts.datadir.as_path(), found.facts.server_id),
            (data.as_path(), 7)
        );
        assert_eq!(found.facts.version_number, (10, 11, 14));
        assert_eq!(found.position, None);
        assert!(found.paths.iter().any(|path| path.path == data && path.needed));
        // InnoDB's temporary tablespace is what a killed server leaves.
        std::fs::write(data.join("ibtmp1"), "").unwrap();
        assert!(!look(&server).unwrap().clean);
    }

    #[test]
    fn a_binary_log_that_was_not_closed_tells_of_a_kill() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("bin");
        std::fs::write(dir.path().join("bin.index"), "./bin.000001\n./bin.000002\n").unwrap();
        let settings = BTreeMap::from([("log_bin".to_owned(), base.display().to_string())]);
        let log = binary_log(dir.path(), &settings).unwrap();
        let mut header = vec![0u8; 64];
        std::fs::write(dir.path().join("bin.000002"), &header).unwrap();
        assert!(!log.is_open().unwrap());
        header[21] = 1;
        std::fs::write(dir.path().join("bin.000002"), &header).unwrap();
        assert!(log.is_open().unwrap());
        std::fs::write(dir.path().join("bin.000002"), [0xfe]).unwrap();
        assert!(log.is_open().unwrap());
    }
}
