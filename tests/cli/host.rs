//! What the host and others can do to a run, and what reaches the terminal: names, environment, descriptors, whose files are used, a full disk.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::{Cli, said_of};

/// A name that a terminal would obey, and that begins a line of its own.
const BAD: &str = "x\x1b]0;owned\x07\x1b[2Jy\nerror: all backups are fine\u{9b}31m\u{202e}";

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

impl Cli {
    /// On a terminal of its own, by script(1); what that showed.
    fn on_terminal(&self, args: &[&str]) -> String {
        let line = format!(
            "{} --config {} {}",
            env!("CARGO_BIN_EXE_snapback"),
            self.text("snapback.yaml"),
            args.join(" ")
        );
        let output = Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .env("TERM", "xterm")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn to(&self, stdout: &str, args: &[&str]) -> Output {
        let full = std::fs::File::options().write(true).open(stdout).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_snapback"));
        command.arg("--config").arg(self.path("snapback.yaml")).args(args);
        command
            .env_remove("SNAPBACK_CONFIG")
            .stdin(Stdio::null())
            .stdout(full)
            .output()
            .unwrap()
    }
}

/// Nothing of [`BAD`] moves the cursor or begins a line.
fn assert_harmless(what: &str, text: &str) {
    for part in ["\x1b]0;", "\x07", "\x1b[2J", "\u{9b}", "\u{202e}"] {
        assert!(!text.contains(part), "{what}: {text:?}");
    }
    for line in text.lines() {
        assert!(!line.starts_with("error: all backups"), "{what}: {text:?}");
    }
}

#[test]
fn names_of_others_reach_neither_the_terminal_nor_a_log_as_they_are() {
    let cli = Cli::with_files();
    std::fs::write(cli.path("www").join(BAD), "x").unwrap();
    symlink(BAD, cli.path("www/link")).unwrap();
    let (tag, www) = (format!("'why={BAD}'"), cli.text("www"));
    let quoted_bad = format!("'{BAD}'");
    let backup = ["backup", "-v", "--no-server", "--files", &www, "--tag", &tag];
    let out = cli.text("out");
    let commands: Vec<Vec<&str>> = vec![
        backup.to_vec(),
        vec!["list"],
        vec!["show", "latest"],
        vec!["show", "latest", "--files"],
        vec!["show", "latest", "--files", "--json"],
        vec!["list", "--json"],
        vec!["restore", "latest", "--target", &out],
        vec!["show", &quoted_bad],
        vec!["forget", &quoted_bad],
        vec!["restore", "latest", "--target", &quoted_bad, "--include", &quoted_bad],
        vec!["--no-such-flag", &quoted_bad],
        vec!["check", "--no-server", "--files", &quoted_bad],
    ];
    for args in &commands {
        let said = cli.on_terminal(args);
        assert!(!said.is_empty(), "{args:?}");
        assert_harmless(&format!("{args:?}"), &said);
    }
    // Through pipes as well; the value is what it was.
    let files = cli.run(&["show", "latest", "--files"]);
    assert_harmless("show --files", &String::from_utf8_lossy(&files.stdout));
    let json = cli.ok(&["list", "--json"]);
    assert_harmless("list --json", &json);
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value[0]["tags"]["why"], BAD);
    let bad = cli.path(&format!("{BAD}.yaml"));
    std::fs::write(&bad, format!("repository: here\n'{BAD}': 1\n")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_snapback"));
    let output = command.arg("--config").arg(bad).arg("list").output().unwrap();
    let said = said_of(&output);
    assert!(said.contains("\\x1b]0;owned"), "{said}");
    assert_harmless("configuration", &said);
}

#[test]
fn a_result_that_cannot_be_written_is_a_failure() {
    let cli = Cli::with_files();
    let www = cli.text("www");
    cli.ok(&["backup", "--no-server", "--files", &www]);
    let out = cli.text("out");
    let commands: &[&[&str]] = &[
        &["list"],
        &["list", "--json"],
        &["show", "latest"],
        &["show", "latest", "--files"],
        &["show", "latest", "--files", "--json"],
        &["check", "--no-server", "--files", &www],
        &["verify", "--all", "--json"],
        &["verify", "--all"],
        &["backup", "--no-server", "--files", &www],
        &["backup", "--no-server", "--files", &www, "--json"],
        &["forget", "--keep-last", "5"],
        &["prune", "--json"],
        &["repair", "--dry-run"],
        &["cleanup"],
        &["hold", "latest"],
        &["restore", "latest", "--target", &out],
        &["export", "latest", "--tar"],
        &["snapshot", "list", "--json"],
        &["init", "--print-grants", "--flavour", "mariadb"],
        &["completions", "bash"],
        &["man"],
        &["--help"],
        &["--version"],
        &["backup", "--help"],
    ];
    for args in commands {
        let output = cli.to("/dev/full", args);
        let said = said_of(&output);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains("No space left"), "{args:?}: {said}");
    }
    // A reader that has gone away is no error.
    let line = format!(
        "{} --config {} show latest --files | true; echo ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_snapback"),
        cli.text("snapback.yaml")
    );
    let output = Command::new("bash").args(["-c", &line]).output().unwrap();
    assert_eq!(said_of(&output).trim(), "0");
}

#[test]
fn a_fault_of_the_program_is_an_error() {
    let cli = Cli::with_files();
    // On the main thread, and on one of those that write.
    for point in ["repository.packs-durable", "store.write"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_snapback"));
        command.arg("--config").arg(cli.path("snapback.yaml"));
        command.args(["--quiet", "backup", "--no-server", "--files", &cli.text("www")]);
        command
            .env("SNAPBACK_FAILPOINTS", format!("{point}=panic"))
            .env("RUST_BACKTRACE", "0");
        let output = command.stdin(Stdio::null()).output().unwrap();
        let said = said_of(&output);
        assert_eq!(output.status.code(), Some(1), "{point}: {said}");
        assert!(
            said.contains("error: snapback itself is at fault") && !said.contains("panicked at"),
            "{said}"
        );
        assert!(said.contains(&format!("failpoint {point}")), "{said}");
    }
    cli.run(&["cleanup"]);
    cli.ok(&["backup", "--no-server", "--files", &cli.text("www")]);
}

#[test]
fn programs_get_nothing_of_our_environment_and_no_descriptors() {
    let cli = Cli::new("");
    let config = cli.path("snapback.yaml");
    let (script, seen) = (cli.path("hook"), cli.path("seen"));
    let text = format!(
        "#!/bin/sh\nenv | sort >>{0}\nls -l /proc/$$/fd | grep -v '/hook$\\| 10 ->' >>{0}\n",
        seen.display()
    );
    std::fs::write(&script, text).unwrap();
    mode(&script, 0o755);
    let more = format!(
        "server: none\nfiles: [{1}]\nhooks: {{before_quiesce: [{{command: [{0}]}}], after_release: [{{command: [{0}]}}], environment: [WANTED]}}\n",
        script.display(),
        cli.text("www")
    );
    super::stored::sample(&cli.path("www"));
    std::fs::write(&config, std::fs::read_to_string(&config).unwrap() + &more).unwrap();
    cli.ok(&["init"]);
    let line = "exec 7</dev/zero 8>/dev/null; exec \"$@\"";
    let output = Command::new("sh")
        .args(["-c", line, "sh", env!("CARGO_BIN_EXE_snapback"), "--config"])
        .arg(cli.path("snapback.yaml"))
        .args(["--quiet", "backup"])
        .env("MYSQL_PWD", "hush-one")
        .env("SNAPBACK_REPLICA_PASSWORD", "hush-two")
        .env("SNAPBACK_MYSQL_PASSWORD", "hush-three")
        .env("AWS_SECRET_ACCESS_KEY", "hush-four")
        .env("LVM_SYSTEM_DIR", "/hush-five")
        .env("LD_LIBRARY_PATH", "/hush-six")
        .env("WANTED", "this")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said_of(&output));
    let said = std::fs::read_to_string(&seen).unwrap();
    assert!(
        said.contains("WANTED=this") && said.contains("SNAPBACK_HOOK=after_release"),
        "{said}"
    );
    for bad in ["hush", "LD_", "backup.lock", "/dev/zero", ".jsonl", "socket:"] {
        assert!(!said.contains(bad), "{bad}: {said}");
    }
}

#[test]
fn root_uses_nothing_that_others_could_change() {
    if !is_root() {
        return;
    }
    let cli = Cli::with_files();
    let config = cli.path("snapback.yaml");
    let refused = |what: &str, status: i32| {
        let output = cli.run(&["backup", "--no-server", "--files", &cli.text("www")]);
        let said = said_of(&output);
        assert_eq!(output.status.code(), Some(status), "{what}: {said}");
        said
    };
    mode(&config, 0o666);
    let said = refused("a configuration that all can write", 2);
    assert!(said.contains("0666") && said.contains("chmod go-w"), "{said}");
    mode(&config, 0o600);
    std::os::unix::fs::chown(&config, Some(65_534), None).unwrap();
    let said = refused("a configuration of somebody else's", 2);
    assert!(said.contains("chown root"), "{said}");
    std::os::unix::fs::chown(&config, Some(0), None).unwrap();
    mode(cli.dir.path(), 0o777);
    refused("a directory above it", 2);
    mode(cli.dir.path(), 0o755);

    // Everything else at once, by `check` and before anything is done.
    let (hook, stop) = (cli.path("hook"), cli.path("stop"));
    for file in [&hook, &stop] {
        std::fs::write(file, format!("#!/bin/sh\ntouch {}\n", cli.text("witness"))).unwrap();
        mode(file, 0o777);
    }
    std::fs::create_dir(cli.path("state2")).unwrap();
    mode(&cli.path("state2"), 0o777);
    let more = format!(
        "state_dir: {}\nhooks: {{before_quiesce: [{{command: [{}]}}]}}\nservice: {{stop: [{1}], start: [{2}]}}\n",
        cli.text("state2"),
        hook.display(),
        stop.display()
    );
    let text = std::fs::read_to_string(&config).unwrap();
    let kept: String = text
        .lines()
        .filter(|line| !line.starts_with("state_dir"))
        .map(|line| format!("{line}\n"))
        .collect();
    std::fs::write(&config, kept + &more).unwrap();
    for command in ["check", "backup"] {
        let output = cli.run(&[command, "--no-server", "--files", &cli.text("www")]);
        let said = said_of(&output) + &String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{command}: {said}");
        for key in ["hooks.before_quiesce", "service.start", "state_dir"] {
            assert!(said.contains(&format!("`{key}`")), "{command}: {key}: {said}");
        }
    }
    assert!(!cli.path("witness").exists());
}

#[test]
fn nobody_else_can_lock_out_a_backup() {
    if !is_root() {
        return;
    }
    let cli = Cli::with_files();
    mode(cli.dir.path(), 0o755);
    std::fs::create_dir(cli.path("state")).unwrap();
    mode(&cli.path("state"), 0o755);
    cli.ok(&["backup", "--no-server", "--files", &cli.text("www")]);
    let lock = cli.text("state/backup.lock");
    let output = Command::new("setpriv")
        .args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "flock",
            "-n",
            &lock,
            "true",
        ])
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(said_of(&output).contains("Permission denied"), "{}", said_of(&output));
}
