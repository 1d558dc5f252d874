//! A private MariaDB or MySQL: own datadir, socket and loopback port; ended by pid, and by the kernel when the test dies.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use mysql::{Conn, OptsBuilder};

use super::{both, missing, run, template, text};

/// The option that moves the redo log.
pub const REDO: &str = "innodb-log-group-home-dir";
/// The option that moves the system tablespace.
pub const SYSTEM: &str = "innodb-data-home-dir";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    MariaDb,
    MySql,
}

/// Where `scripts/lab/engines` puts a MariaDB with engines that the core package lacks; `None` where it is not there and skipping is allowed.
pub fn engines_prefix() -> Option<PathBuf> {
    let prefix = cache().join("mariadb-engines/usr");
    if !prefix.join("lib/mysql/plugin/ha_rocksdb.so").exists() {
        missing("MariaDB with every engine (scripts/lab/engines)");
        return None;
    }
    Some(prefix)
}

fn cache() -> PathBuf {
    std::env::var_os("SNAPBACK_CACHE").map_or_else(|| PathBuf::from("/var/cache/snapback-lab"), PathBuf::from)
}

/// Where `scripts/lab/mysql97` puts MySQL 9.7.
pub fn mysql_prefix() -> PathBuf {
    cache().join("mysql-9.7")
}

impl Flavour {
    pub fn available(self) -> bool {
        let there = match self {
            Flavour::MariaDb => Command::new("mariadbd").arg("--version").output().is_ok(),
            Flavour::MySql => mysql_prefix().join("bin/mysqld97").exists(),
        };
        if !there {
            missing(match self {
                Flavour::MariaDb => "mariadbd (Debian package mariadb-server-core)",
                Flavour::MySql => "MySQL 9.7 (scripts/lab/mysql97)",
            });
        }
        there
    }

    fn program(self, name: &str) -> Command {
        match self {
            Flavour::MariaDb => Command::new(match name {
                "mysqld" => "mariadbd",
                "mysqlbinlog" => "mariadb-binlog",
                _ => "mariadb",
            }),
            Flavour::MySql => Command::new(mysql_prefix().join("bin").join(format!("{name}97"))),
        }
    }

    /// The command-line client.
    pub fn client_program(self) -> Command {
        self.program("mysql")
    }

    /// The program that prints binary logs.
    pub fn binlog_program(self) -> Command {
        self.program("mysqlbinlog")
    }
}

pub struct Server {
    pub flavour: Flavour,
    pub datadir: PathBuf,
    pub socket: PathBuf,
    pub port: u16,
    /// Another program than the flavour's own.
    program: Option<PathBuf>,
    work: PathBuf,
    options: BTreeMap<String, String>,
    child: Option<Child>,
}

impl Server {
    /// Initialises `datadir` and starts a server on it. `work` takes socket, log and pid file.
    pub fn create(flavour: Flavour, datadir: &Path, work: &Path, options: &[(&str, &str)]) -> Server {
        let moved = options.iter().filter(|(key, _)| [REDO, SYSTEM].contains(key));
        let moved: Vec<String> = moved.map(|(key, value)| format!("--{key}={value}")).collect();
        match template(flavour) {
            Some(template) if moved.is_empty() => {
                std::fs::create_dir_all(datadir.parent().unwrap()).unwrap();
                run("cp", &["-a", &text(&template), &text(datadir)]);
            }
            // What lies elsewhere is made where it will be.
            _ => initialise(flavour, datadir, &moved),
        }
        Server::on(flavour, datadir, work, options)
    }

    /// Starts a server on an existing datadir.
    pub fn on(flavour: Flavour, datadir: &Path, work: &Path, options: &[(&str, &str)]) -> Server {
        Server::by(None, flavour, datadir, work, options)
    }

    /// The same with this program.
    pub fn by(
        program: Option<&Path>,
        flavour: Flavour,
        datadir: &Path,
        work: &Path,
        options: &[(&str, &str)],
    ) -> Server {
        std::fs::create_dir_all(work).unwrap();
        let mut all: BTreeMap<String, String> = defaults(flavour);
        all.extend(
            options
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
        );
        let mut server = Server {
            flavour,
            datadir: datadir.to_owned(),
            socket: work.join("s"),
            port: free_port(),
            program: program.map(Path::to_path_buf),
            work: work.to_owned(),
            options: all,
            child: None,
        };
        server.start();
        server
    }

    pub fn start(&mut self) {
        let log = File::create(self.work.join("log")).unwrap();
        // setpriv lets the kernel end the server when this process dies; MySQL goes through a wrapper that execs.
        let inner = self.flavour.program("mysqld");
        let program = self
            .program
            .as_ref()
            .map_or(inner.get_program(), |program| program.as_os_str());
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(program);
        command.args(["--no-defaults", "--user=root"]);
        command.arg(format!("--datadir={}", text(&self.datadir)));
        command.arg(format!("--socket={}", text(&self.socket)));
        command.arg(format!("--port={}", self.port));
        command.arg(format!("--pid-file={}", text(&self.work.join("pid"))));
        command.args(self.options.iter().map(|(key, value)| format!("--{key}={value}")));
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.child = Some(command.spawn().unwrap());
        self.wait_until_it_answers();
    }

    fn wait_until_it_answers(&mut self) {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(120) {
            if self.try_connect().is_ok() {
                return;
            }
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().unwrap()) {
                panic!("the server ended ({status}):\n{}", self.log());
            }
            // It does not end by itself then, and never answers.
            assert!(
                !self.log().contains("due to corruption"),
                "the data is torn:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("the server does not answer:\n{}", self.log());
    }

    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.work.join("log")).unwrap_or_default();
        text.lines()
            .rev()
            .take(40)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .collect::<Vec<_>>()
            .join("\n")
    }

    pub fn try_connect(&self) -> mysql::Result<Conn> {
        let opts = OptsBuilder::new()
            .socket(Some(text(&self.socket)))
            .user(Some("root"))
            .prefer_socket(true);
        Conn::new(opts)
    }

    pub fn connect(&self) -> Conn {
        self.try_connect().unwrap()
    }

    pub fn exec(&self, sql: &str) {
        self.connect()
            .query_drop(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    pub fn one<T: mysql::prelude::FromValue>(&self, sql: &str) -> T {
        self.connect()
            .query_first(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
            .unwrap_or_else(|| panic!("{sql}: no row"))
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Ends it as an administrator does, and waits.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            signal(child.id(), rustix::process::Signal::TERM);
            child.wait().unwrap();
        }
    }

    /// Ends it as a power cut does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// A client program that reads statements.
    pub fn client(&self) -> Command {
        let mut client = self.flavour.program("mysql");
        client
            .args(["--no-defaults", "--binary-mode", "-uroot"])
            .arg(format!("--socket={}", text(&self.socket)));
        client
    }

    /// CHECKSUM TABLE over every table of the schema, by name.
    pub fn checksums(&self, schema: &str) -> BTreeMap<String, Option<u64>> {
        let mut conn = self.connect();
        let tables: Vec<String> =
            conn.query(format!("SELECT table_name FROM information_schema.tables WHERE table_schema='{schema}' AND table_type='BASE TABLE'")).unwrap();
        let sum = |table: &String| -> (String, Option<u64>) {
            let row: (String, Option<u64>) = conn
                .query_first(format!("CHECKSUM TABLE `{schema}`.`{table}`"))
                .unwrap()
                .unwrap();
            (table.clone(), row.1)
        };
        tables.iter().map(sum).collect()
    }

    /// Binary log files, oldest first, with their directory.
    pub fn binary_logs(&self) -> Vec<PathBuf> {
        let index: String = self.one("SELECT @@log_bin_index");
        let text = std::fs::read_to_string(index).unwrap();
        text.lines()
            .map(|line| {
                if line.starts_with('/') {
                    PathBuf::from(line)
                } else {
                    self.datadir.join(line)
                }
            })
            .collect()
    }

    /// Replays another server's binary logs from a position on. The other server's writers are at rest.
    pub fn replay(&self, logs: &[PathBuf], file: &str, position: u64) {
        let from = logs
            .iter()
            .position(|path| path.file_name().is_some_and(|name| name == file));
        let from = from.unwrap_or_else(|| panic!("{file} is not among {logs:?}"));
        let mut print = self.flavour.binlog_program();
        print
            .args(["--no-defaults", "--disable-log-bin"])
            .arg(format!("--start-position={position}"));
        if self.flavour == Flavour::MySql {
            print.arg("--skip-gtids");
        }
        let mut print = print
            .args(&logs[from..])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let applied = self.client().stdin(print.stdout.take().unwrap()).output().unwrap();
        let printed = print.wait_with_output().unwrap();
        assert!(printed.status.success(), "printing the binary log: {}", both(&printed));
        assert!(
            applied.status.success(),
            "replaying from {file}:{position}: {}",
            both(&applied)
        );
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the server's log ({})\n{}", self.datadir.display(), self.log());
        }
        self.kill();
    }
}

/// A datadir that others are copied from. In the guest, where making one takes a quarter of a minute, for both servers: it goes with the guest, and the host has made MySQL's
/// (scripts/lab/guest-tests). On the host for MySQL, where making one takes ten times as long as copying it.
fn template(flavour: Flavour) -> Option<PathBuf> {
    static TEMPLATE: OnceLock<PathBuf> = OnceLock::new();
    match (flavour, std::env::var_os("SNAPBACK_TEST_BINARY").is_some()) {
        (Flavour::MySql, true) => Some(mysql_prefix().join("template")),
        (Flavour::MySql, false) => {
            let program = mysql_prefix().join("bin/mysqld97");
            Some(template::kept(&program, &program, &["--initialize-insecure"]))
        }
        (Flavour::MariaDb, true) => {
            let made = TEMPLATE.get_or_init(|| {
                let path = PathBuf::from(format!("/var/tmp/snapback-template-{}", std::process::id()));
                initialise(flavour, &path, &[]);
                path
            });
            Some(made.clone())
        }
        (Flavour::MariaDb, false) => None,
    }
}

/// Makes a datadir.
pub fn initialise(flavour: Flavour, datadir: &Path, options: &[String]) {
    std::fs::create_dir_all(datadir).unwrap();
    let mut command = match flavour {
        Flavour::MariaDb => {
            let mut command = Command::new("mariadb-install-db");
            command.args([
                "--no-defaults",
                "--user=root",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
            ]);
            command
        }
        Flavour::MySql => {
            let mut command = flavour.program("mysqld");
            command.args([
                "--no-defaults",
                "--initialize-insecure",
                "--user=root",
                "--secure-file-priv=",
            ]);
            command
        }
    };
    command.arg(format!("--datadir={}", text(datadir))).args(options);
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "cannot initialise {}: {}",
        datadir.display(),
        both(&output)
    );
}

fn defaults(flavour: Flavour) -> BTreeMap<String, String> {
    let common = [
        ("bind-address", "127.0.0.1"),
        ("server-id", "1"),
        ("log-bin", "binlog"),
        ("binlog-format", "ROW"),
        ("sync-binlog", "1"),
        ("innodb-flush-log-at-trx-commit", "1"),
        ("innodb-buffer-pool-size", "128M"),
        ("max-connections", "200"),
    ];
    let own: &[(&str, &str)] = match flavour {
        Flavour::MariaDb => &[("skip-name-resolve", "1"), ("innodb-log-file-size", "64M")],
        Flavour::MySql => &[
            ("mysqlx", "OFF"),
            ("secure-file-priv", ""),
            ("innodb-redo-log-capacity", "128M"),
        ],
    };
    common
        .iter()
        .chain(own)
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .unwrap()
        .port()
}

pub fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let _ = rustix::process::kill_process(pid, signal);
}
