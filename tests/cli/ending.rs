//! SIGTERM ends every command within 2 s, whatever it waits for.

use std::io::Read;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Cli, stored};

const SIGTERM: i32 = 15;
/// The tool's own limit is 2 s; the machine that runs the tests may be slow.
const MOST: Duration = Duration::from_secs(8);

fn terminate(child: &Child) {
    let process = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
}

/// Sends SIGTERM and returns the status, which must come in time, and what was said.
fn ended(mut child: Child, what: &str) -> String {
    assert!(
        child.try_wait().unwrap().is_none(),
        "{what}: it did not wait for anything"
    );
    terminate(&child);
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begun.elapsed() > MOST {
            child.kill().unwrap();
            panic!("{what}: it does not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let mut said = String::new();
    if let Some(mut errors) = child.stderr.take() {
        errors.read_to_string(&mut said).unwrap();
    }
    assert_eq!(
        status.code(),
        Some(128 + SIGTERM),
        "{what}: {status:?} {:?} {said}",
        status.signal()
    );
    said
}

impl Cli {
    fn stalled(&self, args: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_snapback"));
        command.arg("--config").arg(self.path("snapback.yaml")).args(args);
        command
            .env_remove("SNAPBACK_CONFIG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    }
}

/// A server that accepts and says nothing, for as long as this lives.
struct Silent {
    _listener: TcpListener,
    port: u16,
}

impl Silent {
    fn new() -> Silent {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        Silent {
            _listener: listener,
            port,
        }
    }

    /// An installation whose server this is; it may take a minute to let us in.
    fn installation(&self) -> Cli {
        let cli = Cli::new("");
        let options = cli.path("my.cnf");
        let text = format!(
            "[client]\nhost=127.0.0.1\nport={}\npassword=x\nconnect_timeout=60\n",
            self.port
        );
        std::fs::write(&options, text).unwrap();
        std::fs::set_permissions(&options, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let path = cli.path("snapback.yaml");
        let text =
            std::fs::read_to_string(&path).unwrap() + &format!("server: {{defaults_file: {}}}\n", options.display());
        std::fs::write(path, text).unwrap();
        cli.ok(&["init"]);
        cli
    }
}

#[test]
fn commands_that_ask_a_silent_server_end() {
    let silent = Silent::new();
    let commands: [&[&str]; 10] = [
        &["check"],
        &["backup"],
        &["snapshot", "create"],
        &["binlog", "archive", "--once"],
        &["binlog", "archive"],
        &["init", "--print-grants"],
        // They ask whose job this is.
        &["show", "latest"],
        &["restore", "latest", "--target", "/nowhere"],
        &["dump", "latest"],
        &["export", "--tar", "latest"],
    ];
    let start = |args| {
        let cli = silent.installation();
        (args, cli.stalled(args), cli)
    };
    let started: Vec<_> = commands.into_iter().map(start).collect();
    std::thread::sleep(Duration::from_secs(1));
    for (args, child, cli) in started {
        ended(child, &args.join(" "));
        cli.ok(&["cleanup"]);
    }
}

#[test]
fn a_server_that_is_silent_is_named_after_the_limit() {
    let silent = Silent::new();
    let cli = silent.installation();
    let options = cli.path("my.cnf");
    let text = std::fs::read_to_string(&options)
        .unwrap()
        .replace("timeout=60", "timeout=1");
    std::fs::write(&options, text).unwrap();
    let output = cli.run(&["check"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("did not answer completely within 1s"), "{said}");
    assert!(said.contains(&format!("127.0.0.1:{}", silent.port)), "{said}");
}

/// More than a pipe takes.
fn with_much() -> Cli {
    let cli = Cli::new("server: none\n");
    stored::sample(&cli.path("www"));
    std::fs::write(cli.path("www/noise"), stored::noise(7, 8 << 20)).unwrap();
    for number in 0..3000 {
        std::fs::write(cli.path(&format!("www/with a name that fills pipes {number}")), "x").unwrap();
    }
    cli.ok(&["init"]);
    cli.ok(&["backup", "--no-server", "--files", &cli.text("www")]);
    cli
}

#[test]
fn a_reader_that_has_stalled_holds_nobody() {
    let cli = with_much();
    let commands: [&[&str]; 3] = [&["export", "--tar", "latest"], &["show", "latest", "--files"], &["man"]];
    let started: Vec<_> = commands.iter().map(|args| (args, cli.stalled(args))).collect();
    std::thread::sleep(Duration::from_secs(2));
    for (args, mut child) in started {
        if args[0] == "man" && child.try_wait().unwrap().is_some() {
            // All of it went into the pipe.
            continue;
        }
        ended(child, &args.join(" "));
    }
    cli.ok(&["verify", "--all"]);
}

/// The commands' own looks at the wish are tested where they are; this is about what none of them sees: a wait that is deaf.
#[cfg(feature = "failpoints")]
#[test]
fn every_command_ends_where_it_cannot_look() {
    let cli = Cli::with_files();
    let out = cli.text("out");
    let commands: [&[&str]; 30] = [
        &["init"],
        &["check"],
        &["backup"],
        &["list"],
        &["show"],
        &["restore", "latest", "--target", &out],
        &["verify"],
        &["verify", "--level", "data"],
        &["verify", "--boot"],
        &["export", "--tar", "latest"],
        &["dump", "latest"],
        &["binlog", "archive"],
        &["binlog", "archive", "--once"],
        &["binlog", "list"],
        &["mount", &out],
        &["forget"],
        &["hold", "latest"],
        &["prune"],
        &["repair"],
        &["snapshot", "create"],
        &["snapshot", "list"],
        &["snapshot", "show", "latest"],
        &["snapshot", "delete", "latest"],
        &["snapshot", "mount", "latest", &out],
        &["snapshot", "exec", "latest", "--", "true"],
        &["snapshot", "diff", "latest"],
        &["snapshot", "rollback", "latest"],
        &["snapshot", "watch"],
        &["cleanup"],
        &["completions", "bash"],
    ];
    for some in commands.chunks(6) {
        let mut started = Vec::new();
        for (number, args) in some.iter().enumerate() {
            let point = cli.path(&format!("point{number}"));
            let reached = cli.path(&format!("point{number}.reached"));
            let _ = std::fs::remove_file(&reached);
            let mut command = Command::new(env!("CARGO_BIN_EXE_snapback"));
            command.arg("--config").arg(cli.path("snapback.yaml")).args(*args);
            command
                .env_remove("SNAPBACK_CONFIG")
                .env("SNAPBACK_FAILPOINTS", format!("cli.command=pause:{}", point.display()))
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            let mut child = command.spawn().unwrap();
            let begun = Instant::now();
            while !reached.exists() {
                assert!(child.try_wait().unwrap().is_none(), "{args:?} is no command line");
                assert!(begun.elapsed() < Duration::from_secs(60), "{args:?} does not begin");
                std::thread::sleep(Duration::from_millis(5));
            }
            started.push((args, child));
        }
        for (args, child) in started {
            let said = ended(child, &args.join(" "));
            assert!(said.contains("ended by signal 15"), "{args:?}: {said}");
        }
    }
}
