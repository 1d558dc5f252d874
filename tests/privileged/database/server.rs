//! Private servers for the tests of `snapback::database`: own datadir, socket and loopback port, gone with the value.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use mysql::{Conn, OptsBuilder};
use snapback::config;
use snapback::database::Flavour;
use snapback::database::mysql::Server;

use crate::template;

/// A running server.
pub struct TestServer {
    pub flavour: Flavour,
    pub dir: tempfile::TempDir,
    pub port: u16,
    child: Child,
}

/// A datadir that is initialised once and copied for every server.
fn template(flavour: Flavour) -> &'static Path {
    static MARIADB: OnceLock<PathBuf> = OnceLock::new();
    static MYSQL: OnceLock<PathBuf> = OnceLock::new();
    match flavour {
        Flavour::MariaDb => MARIADB.get_or_init(|| {
            let initialise = ["--skip-test-db", "--auth-root-authentication-method=normal"];
            template::kept(Path::new("mariadbd"), Path::new("mariadb-install-db"), &initialise)
        }),
        Flavour::MySql => MYSQL.get_or_init(|| template::kept(&mysqld(), &mysqld(), &["--initialize-insecure"])),
    }
}

fn mysqld() -> PathBuf {
    if let Some(path) = std::env::var_os("SNAPBACK_MYSQLD") {
        return path.into();
    }
    let cache = std::env::var_os("SNAPBACK_CACHE").unwrap_or_else(|| "/var/cache/snapback-lab".into());
    Path::new(&cache).join("mysql-9.7/bin/mysqld97")
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl TestServer {
    pub fn start(flavour: Flavour, extra: &[&str]) -> TestServer {
        let dir = tempfile::Builder::new().prefix("snapback-test-").tempdir().unwrap();
        fs::create_dir(dir.path().join("data")).unwrap();
        TestServer::start_on(flavour, dir, extra)
    }

    /// Starts on a fresh datadir in `data`, which is there and empty.
    pub fn start_on(flavour: Flavour, dir: tempfile::TempDir, extra: &[&str]) -> TestServer {
        let from = template(flavour).join(".");
        let copied = Command::new("cp")
            .arg("-a")
            .arg(from)
            .arg(dir.path().join("data"))
            .status()
            .unwrap();
        assert!(copied.success());
        TestServer::start_in(flavour, dir, extra)
    }

    pub fn start_in(flavour: Flavour, dir: tempfile::TempDir, extra: &[&str]) -> TestServer {
        let port = free_port();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let program = match flavour {
            Flavour::MariaDb => PathBuf::from("mariadbd"),
            Flavour::MySql => mysqld(),
        };
        let mut command = Command::new(program);
        command
            .args(["--no-defaults", "--user=root", "--bind-address=127.0.0.1"])
            .arg(format!("--datadir={}", at("data")))
            .arg(format!("--socket={}", at("s.sock")))
            .arg(format!("--pid-file={}", at("pid")))
            .arg(format!("--log-error={}", at("error.log")))
            .args([format!("--port={port}"), format!("--server-id={port}")])
            .args(["--log-bin=bin", "--innodb-buffer-pool-size=32M"]);
        if flavour == Flavour::MySql {
            command.args(["--mysqlx=OFF", "--secure-file-priv="]);
        }
        let child = command
            .args(extra)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut server = TestServer {
            flavour,
            dir,
            port,
            child,
        };
        server.wait_until_up();
        server
    }

    fn wait_until_up(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if Conn::new(self.opts()).is_ok() {
                return;
            }
            let ended = self.child.try_wait().unwrap();
            if ended.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(self.dir.path().join("error.log")).unwrap_or_default();
                panic!("the {:?} server did not come up ({ended:?}):\n{log}", self.flavour);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("s.sock")
    }

    pub fn datadir(&self) -> PathBuf {
        self.dir.path().join("data").canonicalize().unwrap()
    }

    pub fn opts(&self) -> OptsBuilder {
        OptsBuilder::new()
            .user(Some("root"))
            .socket(self.socket().to_str())
            .prefer_socket(false)
    }

    /// A plain client.
    pub fn client(&self) -> Conn {
        Conn::new(self.opts()).unwrap()
    }

    pub fn sql(&self, statements: &str) {
        self.client()
            .query_drop(statements)
            .unwrap_or_else(|error| panic!("{statements}: {error}"));
    }

    pub fn value(&self, statement: &str) -> String {
        self.client()
            .query_first::<String, _>(statement)
            .unwrap()
            .unwrap_or_default()
    }

    /// How the tool is told of it.
    pub fn config(&self) -> config::Server {
        config::Server {
            socket: Some(self.socket()),
            ..config::Server::default()
        }
    }

    /// The tool's view of it.
    pub fn connect(&self) -> Server {
        Server::connect(&self.config()).unwrap()
    }

    /// Kills the server without any warning.
    pub fn kill(&mut self) {
        // A server that runs through a loader has the same process id.
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Shuts it down in an orderly way and keeps the directory.
    pub fn stop(mut self) -> tempfile::TempDir {
        drop(self.client().query_drop("SHUTDOWN"));
        self.child.wait().unwrap();
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap());
        drop(self);
        dir
    }

    /// Waits until no client but this one is connected: a closed connection is gone a moment later.
    pub fn wait_until_alone(&self) {
        let count = "SELECT COUNT(*) FROM information_schema.PROCESSLIST \
                     WHERE ID <> CONNECTION_ID() AND COMMAND <> 'Daemon' AND USER NOT IN ('system user', 'event_scheduler')";
        let deadline = Instant::now() + Duration::from_secs(3);
        while self.value(count) != "0" {
            assert!(Instant::now() < deadline, "connections are left");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        let ended = self.child.try_wait();
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            let log = fs::read_to_string(self.dir.path().join("error.log")).unwrap_or_default();
            eprintln!(
                "--- the {:?} server of port {} (ended by itself: {ended:?})\n{log}",
                self.flavour, self.port
            );
        }
    }
}
