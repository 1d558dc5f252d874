//! A host of its own for a runbook: namespaces in which the paths and names of docs/operations.md are what they say.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::server::mysql_prefix;
use crate::common::{Flavour, Lab, run, text};

/// Programs that stand for what a test has not got, and the built binary.
const PROGRAMS: [(&str, &str); 2] = [
    ("systemctl", include_str!("systemctl")),
    ("editor", include_str!("editor")),
];

/// What MySQL, which is not installed, has by these names in its prefix.
const OF_MYSQL: [&str; 4] = ["mysqld", "mysql", "mysqladmin", "mysqldump"];

/// Ends with everything that runs in it.
pub struct Host {
    keeper: Child,
    /// The first process in its PID namespace.
    first: u32,
    programs: PathBuf,
    dir: PathBuf,
    pub flavour: Flavour,
}

impl Host {
    /// A host with MariaDB. `beside`: another host on the same network. `new`: what `/opt/new` is.
    pub fn new(lab: &Lab, name: &str, address: &str, beside: Option<&Host>, new: Option<&Path>) -> Host {
        Host::with(Flavour::MariaDb, lab, name, address, beside, new)
    }

    /// A host with MySQL.
    pub fn with_mysql(lab: &Lab, name: &str, address: &str, beside: Option<&Host>) -> Host {
        Host::with(Flavour::MySql, lab, name, address, beside, None)
    }

    fn with(flavour: Flavour, lab: &Lab, name: &str, address: &str, beside: Option<&Host>, new: Option<&Path>) -> Host {
        let volume = lab.storage.volume(name);
        let programs = lab.path("bin");
        if !programs.exists() {
            install(&programs, flavour);
        }
        let namespaces = ["--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"];
        // The test's own death ends it as well.
        let mut keeper = Command::new("setpriv");
        keeper.args(["--pdeathsig", "KILL"]);
        match beside {
            Some(other) => keeper.args(["nsenter", "--net", "--target", &other.first.to_string(), "unshare"]),
            None => keeper.args(["unshare", "--net"]),
        };
        keeper.args(namespaces).args(["sleep", "infinity"]);
        // It complains of its signal mask when it is killed.
        let keeper = keeper.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let first = child_of(keeper.id());
        let host = Host {
            keeper,
            first,
            programs,
            dir: lab.dir.path().to_owned(),
            flavour,
        };
        let options = match flavour {
            Flavour::MariaDb => "innodb-log-file-size=32M",
            Flavour::MySql => "innodb-redo-log-capacity=32M\nmysqlx=OFF\ngtid-mode=ON\nenforce-gtid-consistency=ON",
        };
        let mut make = host.command(&["sh", "-c", include_str!("host.sh"), "sh", name, address]);
        make.env("LAB", lab.dir.path()).env("VOLUME", volume);
        make.env("OPTIONS", options);
        if let Some(new) = new {
            make.env("NEW", new);
        }
        let made = make.output().unwrap();
        assert!(made.status.success(), "{}", crate::common::both(&made));
        host
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args([
            "--mount",
            "--uts",
            "--pid",
            "--net",
            "--target",
            &self.first.to_string(),
        ]);
        command.args(words).env_clear().stdin(Stdio::null());
        command.env(
            "PATH",
            format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", text(&self.programs)),
        );
        command.env("HOME", "/root").env("LC_ALL", "C.UTF-8");
        if self.flavour == Flavour::MySql {
            command.env("MYSQLD", mysql_prefix().join("bin/mysqld97"));
        }
        command
    }

    /// Runs a script with bash: its exit status, and what it said. What it leaves in the background goes on.
    pub fn bash(&self, script: &str) -> (Option<i32>, String) {
        let said = self.dir.join("said");
        let out = File::create(&said).unwrap();
        // A server that does not come up is waited for in vain.
        let mut command = self.command(&["timeout", "300", "bash", "-c", script]);
        let status = command.stdout(out.try_clone().unwrap()).stderr(out).status().unwrap();
        (status.code(), std::fs::read_to_string(&said).unwrap())
    }

    /// Runs a script that has to succeed.
    pub fn ok(&self, script: &str) -> String {
        let (status, said) = self.bash(&format!("set -e\n{script}"));
        assert_eq!(status, Some(0), "{script}\n{said}");
        said
    }

    /// What a query gives, by the client, without names.
    pub fn sql(&self, statement: &str) -> String {
        let client = match self.flavour {
            Flavour::MariaDb => "mariadb",
            Flavour::MySql => "mysql",
        };
        let output = self.command(&[client, "-NBe", statement]).output().unwrap();
        assert!(output.status.success(), "{statement}: {}", crate::common::both(&output));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}", self.bash("tail -n 30 /run/mysqld/log").1);
        }
        // The first of a PID namespace takes all others with it.
        let _ = run("kill", &["-KILL", &self.first.to_string()]);
        let _ = self.keeper.wait();
    }
}

fn install(programs: &Path, flavour: Flavour) {
    std::fs::create_dir(programs).unwrap();
    for (name, text) in PROGRAMS {
        std::fs::write(programs.join(name), text).unwrap();
        run("chmod", &["755", &crate::common::text(&programs.join(name))]);
    }
    for name in OF_MYSQL.iter().filter(|_| flavour == Flavour::MySql) {
        let wrapper = mysql_prefix().join("bin").join(format!("{name}97"));
        std::os::unix::fs::symlink(wrapper, programs.join(name)).unwrap();
    }
    // It may have been built below a directory that the host has of its own.
    let built = std::env::var("SNAPBACK_TEST_BINARY");
    let built = built.as_deref().unwrap_or(env!("CARGO_BIN_EXE_snapback"));
    std::fs::copy(built, programs.join("snapback")).unwrap();
}

/// The process that `unshare` forked, once it is there.
fn child_of(parent: u32) -> u32 {
    let begun = Instant::now();
    loop {
        let listed = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
        if let Some(child) = listed.unwrap().split_whitespace().next() {
            return child.parse().unwrap();
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "unshare makes no namespaces");
        std::thread::sleep(Duration::from_millis(10));
    }
}
