//! What a user sees: help, errors, statuses, JSON; with files only, so that no server is needed.
#![allow(missing_docs, clippy::print_stderr)]

mod keep;
#[path = "../common/stored.rs"]
mod stored;

mod ending;
mod host;
mod hosts;
mod in_place;
mod places;
mod processes;
mod traps;
mod truth;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

struct Cli {
    dir: tempfile::TempDir,
}

impl Cli {
    fn new(yaml: &str) -> Cli {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let text = format!(
            "repository: {}\nstate_dir: {}\nhost: h1\n{yaml}",
            at("repository"),
            at("state")
        );
        std::fs::write(dir.path().join("snapback.yaml"), text).unwrap();
        Cli { dir }
    }

    /// With a tree to back up, no server, and a repository.
    fn with_files() -> Cli {
        let cli = Cli::new("server: none\n");
        stored::sample(&cli.path("www"));
        // With set-user-ID it would come back only by `--special` (tests/readers/rights.rs).
        std::fs::set_permissions(
            cli.path("www/small"),
            std::os::unix::fs::PermissionsExt::from_mode(0o751),
        )
        .unwrap();
        cli.ok(&["init"]);
        cli
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_snapback"));
        command.arg("--config").arg(self.path("snapback.yaml")).args(args);
        command
            .env_remove("SNAPBACK_CONFIG")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", said_of(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    fn fails(&self, args: &[&str], status: i32) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(status), "{args:?}: {}", said_of(&output));
        said_of(&output)
    }

    fn back_up(&self) -> serde_json::Value {
        let www = self.text("www");
        serde_json::from_str(&self.ok(&["--json", "backup", "--files", &www, "--tag", "why=test"])).unwrap()
    }
}

fn said_of(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn help_has_examples_and_statuses() {
    let cli = Cli::new("");
    let help = cli.ok(&["--help"]);
    for word in [
        "Exit status",
        "Examples",
        "backup",
        "restore",
        "verify",
        "cleanup",
        "completions",
    ] {
        assert!(help.contains(word), "{word}: {help}");
    }
    for command in [
        "init",
        "check",
        "backup",
        "show",
        "restore",
        "verify",
        "forget",
        "hold",
        "prune",
        "repair",
        "cleanup",
        "completions",
        "man",
    ] {
        assert!(cli.ok(&[command, "--help"]).contains("Example"), "{command}");
    }
}

#[test]
fn a_typing_error_in_the_configuration_names_file_key_and_line() {
    let cli = Cli::new("lock:\n  acquire_timout: 2s\n");
    let said = cli.fails(&["list"], 2);
    assert!(
        said.contains("snapback.yaml") && said.contains("acquire_timout") && said.contains('5'),
        "{said}"
    );
}

#[test]
fn wrong_usage_has_status_2() {
    let cli = Cli::new("server: none\n");
    cli.fails(&["restore", "latest"], 2);
    cli.fails(&["restore", "latest", "--datadir", "/a", "--target", "/b"], 2);
    let said = cli.fails(&["restore", "latest", "--datadir", "/a", "--replay-workers", "2"], 2);
    assert!(said.contains("--until"), "{said}");
    cli.fails(&["backup", "--tag", "novalue"], 2);
    cli.fails(&["frobnicate"], 2);
    let said = cli.fails(&["list"], 2);
    assert!(said.contains("snapback init"), "{said}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_snapback"));
    let output = command
        .args(["--config", "/nonexistent.yaml", "list"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(said_of(&output).contains("/nonexistent.yaml"));
}

#[test]
fn init_writes_a_configuration_that_works_and_overwrites_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let run = |args: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_snapback"))
            .args(args)
            .output()
            .unwrap()
    };
    let (config, repository) = (at("etc/snapback.yaml"), at("repository"));
    let output = run(&["init", "--config", &config, "--repository", &repository]);
    assert!(output.status.success(), "{}", said_of(&output));
    let written = std::fs::read(&config).unwrap();
    let again = run(&["init", "--config", &config]);
    assert_eq!(again.status.code(), Some(2), "{}", said_of(&again));
    assert!(said_of(&again).contains("already"), "{}", said_of(&again));
    assert_eq!(std::fs::read(&config).unwrap(), written);
    assert!(run(&["--config", &config, "list"]).status.success());
}

#[test]
fn grants_are_printed_for_both_servers_without_one() {
    let cli = Cli::new("server: none\n");
    let mariadb = cli.ok(&["init", "--print-grants", "--flavour", "mariadb"]);
    assert!(
        mariadb.contains("BINLOG MONITOR") && mariadb.contains("CREATE USER"),
        "{mariadb}"
    );
    let mysql = cli.ok(&["init", "--print-grants", "--flavour", "mysql"]);
    assert!(mysql.contains("BACKUP_ADMIN"), "{mysql}");
    assert!(!cli.path("repository").exists(), "printing grants made something");
    // Never a password that is known: random, said once on stderr, or written into a file of its own.
    let run = |more: &[&str]| cli.run(&[&["init", "--print-grants", "--flavour", "mysql"], more].concat());
    let password = |sql: &str| {
        sql.split("IDENTIFIED BY '")
            .nth(1)
            .unwrap()
            .split('\'')
            .next()
            .unwrap()
            .to_owned()
    };
    let (one, two) = (run(&[]), run(&[]));
    let of = |output: &Output| password(&String::from_utf8_lossy(&output.stdout));
    assert!(of(&one) != of(&two) && of(&one).len() > 30);
    assert!(String::from_utf8_lossy(&one.stderr).contains(&format!("password={}", of(&one))));
    let file = cli.text("my.cnf");
    let written = run(&["--option-file", &file, "--for", "backup,kill"]);
    let sql = String::from_utf8_lossy(&written.stdout).into_owned();
    assert!(
        sql.contains("CONNECTION_ADMIN") && !sql.contains("\nGRANT REPLICATION SLAVE"),
        "{sql}"
    );
    let kept = std::fs::read_to_string(&file).unwrap();
    assert!(kept.contains(&format!("password={}", of(&written))) && kept.contains("user=snapback"));
    assert!(!String::from_utf8_lossy(&written.stderr).contains(&of(&written)));
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let again = run(&["--option-file", &file]);
    assert!(
        !again.status.success() && again.stdout.is_empty(),
        "an option file was overwritten"
    );
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(said.contains("is there already") && said.contains("GRANT"), "{said}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), kept);
    let kill = String::from_utf8_lossy(&run(&["--for", "kill"]).stdout).into_owned();
    assert!(
        kill.contains("BACKUP_ADMIN") && kill.contains("CONNECTION_ADMIN"),
        "{kill}"
    );
}

#[test]
fn a_path_in_a_backup_is_taken_as_it_is_called() {
    let cli = Cli::with_files();
    cli.back_up();
    let (up, here) = (cli.text("www/deep/../deep"), cli.text("www/./deep"));
    let out = cli.text("out");
    for command in [
        &["restore", "latest", "--target", &out, "--include", &up][..],
        &["export", "latest", "--tar", "--include", &up],
    ] {
        let output = cli.run(command);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("show --files"), "{said}");
    }
    cli.ok(&["restore", "latest", "--target", &out, "--include", &here]);
}

#[test]
fn files_go_round() {
    let cli = Cli::with_files();
    let first = cli.back_up();
    assert_eq!(first["lock"], serde_json::Value::Null);
    assert_eq!(first["roots"][0]["source"], "live");
    let second = cli.back_up();
    assert_eq!(second["parent"], first["id"]);
    assert_eq!(second["copy"]["bytes_new"], 0);
    let listed: serde_json::Value = serde_json::from_str(&cli.ok(&["list", "--json"])).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    assert_eq!(listed[0]["tags"]["why"], "test");
    for key in ["id", "time", "consistency", "host", "tags", "bytes"] {
        assert!(!listed[0][key].is_null(), "list lacks {key}");
    }
    let prefix = &first["id"].as_str().unwrap()[..8];
    assert!(cli.ok(&["show", prefix]).contains("timeline"));
    assert!(
        cli.ok(&["show", "latest", "--files"])
            .contains("/www/deep/er/log.000001")
    );
    cli.ok(&["verify", "--all", "--level", "data"]);
    cli.ok(&["restore", prefix, "--target", &cli.text("out")]);
    let out = cli.path("out").join(cli.path("www").strip_prefix("/").unwrap());
    assert_eq!(stored::fingerprint(&out), stored::fingerprint(&cli.path("www")));
}

#[test]
fn one_path_can_be_restored_with_or_without_the_first_name_of_its_file() {
    let cli = Cli::with_files();
    cli.back_up();
    let wanted = cli.text("www/deep");
    // `deep/noise-too` comes first in the table, so `noise` is the further name.
    cli.ok(&["restore", "latest", "--target", &cli.text("out"), "--include", &wanted]);
    let out = cli.path("out").join(Path::new(&wanted).strip_prefix("/").unwrap());
    assert_eq!(
        std::fs::read(out.join("noise-too")).unwrap(),
        std::fs::read(cli.path("www/noise")).unwrap()
    );
    cli.ok(&[
        "restore",
        "latest",
        "--target",
        &cli.text("other"),
        "--include",
        &cli.text("www/noise"),
    ]);
    let other = cli.path("other").join(cli.path("www/noise").strip_prefix("/").unwrap());
    assert_eq!(
        std::fs::read(other).unwrap(),
        std::fs::read(cli.path("www/noise")).unwrap()
    );
    cli.fails(
        &[
            "restore",
            "latest",
            "--target",
            &cli.text("third"),
            "--include",
            &cli.text("www/none"),
        ],
        2,
    );
}

#[test]
fn in_place_overwrites_nothing_unless_forced_and_then_moves_aside() {
    let cli = Cli::with_files();
    cli.back_up();
    let before = stored::fingerprint(&cli.path("www"));
    std::fs::write(cli.path("www/small"), "newer").unwrap();
    cli.fails(&["restore", "latest", "--in-place"], 1);
    assert_eq!(std::fs::read(cli.path("www/small")).unwrap(), b"newer");
    let report: serde_json::Value =
        serde_json::from_str(&cli.ok(&["--json", "restore", "latest", "--in-place", "--force"])).unwrap();
    assert_eq!(stored::fingerprint(&cli.path("www")), before);
    let aside = report["placed"][0]["moved_aside"].as_str().unwrap();
    assert_eq!(std::fs::read(Path::new(aside).join("small")).unwrap(), b"newer");
}

#[test]
fn damage_has_status_4_and_is_named() {
    let cli = Cli::with_files();
    cli.back_up();
    let packs: Vec<PathBuf> = walk(&cli.path("repository/packs"));
    let largest = packs
        .iter()
        .max_by_key(|path| std::fs::metadata(path).unwrap().len())
        .unwrap();
    let mut bytes = std::fs::read(largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(largest, bytes).unwrap();
    let said = cli.fails(&["verify", "--level", "data"], 4);
    assert!(
        said.contains(largest.file_name().unwrap().to_str().unwrap()) && said.contains("/www/"),
        "{said}"
    );
    cli.fails(&["restore", "latest", "--target", &cli.text("out")], 4);
    assert!(!cli.path("out").exists());
}

#[test]
fn a_drill_needs_a_database_and_its_flags_need_a_drill() {
    let cli = Cli::with_files();
    let backup = cli.back_up();
    let id = backup["id"].as_str().unwrap();
    assert!(cli.fails(&["verify", "--boot"], 2).contains("no backup of a database"));
    assert!(cli.fails(&["verify", id, "--boot"], 2).contains("holds no database"));
    cli.fails(&["verify", "--pick", "random"], 2);
    cli.fails(&["verify", "--boot", "--level", "data"], 2);
    cli.fails(&["verify", id, "--boot", "--pick", "random"], 2);
    let listed: serde_json::Value = serde_json::from_str(&cli.ok(&["--json", "list"])).unwrap();
    assert!(listed[0]["drill"].is_null(), "{listed}");
}

#[test]
fn a_repository_without_room_fails_clearly_and_stays_good() {
    let cli = Cli::with_files();
    cli.back_up();
    std::fs::write(cli.path("www/more"), vec![7; 100_000]).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_snapback"));
    command
        .arg("--config")
        .arg(cli.path("snapback.yaml"))
        .args(["backup", "--files", &cli.text("www")]);
    let output = command
        .env("SNAPBACK_FAILPOINTS", "store.write=error")
        .output()
        .unwrap();
    assert_eq!(
        output.status.code(),
        Some(1),
        "this test needs --features failpoints: {}",
        said_of(&output)
    );
    assert!(
        said_of(&output).to_lowercase().contains("space"),
        "{}",
        said_of(&output)
    );
    cli.ok(&["verify", "--all", "--level", "data"]);
    cli.back_up();
}

#[test]
fn completions_and_manual_pages_come_out() {
    let cli = Cli::new("");
    for shell in ["bash", "zsh", "fish"] {
        assert!(cli.ok(&["completions", shell]).contains("snapback"), "{shell}");
    }
    assert!(cli.ok(&["man"]).contains(".TH"));
    let dir = cli.text("man");
    std::fs::create_dir(&dir).unwrap();
    cli.ok(&["man", "--dir", &dir]);
    assert!(cli.path("man/snapback-restore.1").exists());
}

#[test]
fn nothing_is_said_when_quiet() {
    let cli = Cli::with_files();
    let output = cli.run(&["--quiet", "--json", "backup", "--files", &cli.text("www")]);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let output = cli.run(&["--json", "backup", "--files", &cli.text("www")]);
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("copy"),
        "a log gets plain lines"
    );
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] })
        .collect()
}
