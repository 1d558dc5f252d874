//! What is said is true: no location that becomes a directory, no time without its zone.

use std::process::{Command, Stdio};

use super::{Cli, said_of};

#[test]
fn a_location_on_another_host_becomes_no_directory() {
    let cli = Cli::with_files();
    cli.back_up();
    let at = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_snapback"))
            .arg("--config")
            .arg(cli.path("snapback.yaml"))
            .args(args)
            .env_remove("SNAPBACK_CONFIG")
            .current_dir(cli.dir.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        (output.status.code(), said_of(&output))
    };
    for args in [
        &["init", "--repository", "s3://bucket/x"][..],
        &["list", "--repository", "sftp:user@h:/x"],
        &["backup", "--files", "ssh://h/etc"],
        &["backup", "--files", "/etc", "--exclude", "h:/etc/x"],
        &["restore", "latest", "--datadir", "root@h:/var/lib/mysql"],
        &["restore", "latest", "--target", "s3://bucket/x"],
        &["dump", "latest", "--output", "s3://bucket/x.sql"],
        &["dump", "latest", "--output-dir", "s3:bucket"],
        &["verify", "--boot", "--scratch", "h:/x"],
        &["mount", "h:/x"],
        &["man", "--dir", "s3://m"],
        &["list", "--state-dir", "s3://m"],
        &["list", "--config", "https://h/snapback.yaml"],
    ] {
        let (status, said) = at(args);
        assert_eq!(status, Some(2), "{args:?}: {said}");
        assert!(
            said.contains("names a location") && said.contains("mount"),
            "{args:?}: {said}"
        );
    }
    // The environment and the configuration say it no better.
    let output = Command::new(env!("CARGO_BIN_EXE_snapback"))
        .args(["init", "--config", &cli.text("new.yaml")])
        .env("SNAPBACK_REPOSITORY", "b2:bucket:x")
        .current_dir(cli.dir.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said_of(&output));
    std::fs::write(cli.path("remote.yaml"), "repository: s3://bucket/x\n").unwrap();
    let (status, said) = at(&["list", "--config", "remote.yaml"]);
    assert!(
        status == Some(2) && said.contains("`repository`") && said.contains("`s3:`"),
        "{said}"
    );
    let made = |name: &str| name.contains(':') || name == "new.yaml";
    let names = std::fs::read_dir(cli.dir.path()).unwrap();
    let names: Vec<String> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(!names.iter().any(|name| made(name)), "{names:?}");
    // A name with a colon is one all the same.
    let (status, said) = at(&["init", "--config", "odd.yaml", "--repository", "./odd:name"]);
    assert_eq!(status, Some(0), "{said}");
    assert!(cli.path("odd:name").is_dir());
}

#[test]
fn times_that_are_shown_and_times_that_are_given_have_a_zone() {
    let cli = Cli::with_files();
    cli.back_up();
    let list = cli.ok(&["list"]);
    let row = list.lines().nth(1).unwrap();
    let time = row.split_whitespace().nth(2).unwrap();
    assert!(time.ends_with('Z'), "{list}");
    let show = cli.ok(&["show"]);
    assert!(show.contains(time), "{show}");
    for flag in ["--until", "--until-before"] {
        let output = Command::new(env!("CARGO_BIN_EXE_snapback"))
            .arg("--config")
            .arg(cli.path("snapback.yaml"))
            .args([
                "restore",
                "latest",
                "--datadir",
                &cli.text("then"),
                flag,
                "2026-11-29 16:54:05",
            ])
            .env("TZ", "America/New_York")
            .output()
            .unwrap();
        let said = said_of(&output);
        let means = format!("{flag} means 2026-11-29 21:54:05Z, 2026-11-29 16:54:05 -05:00 on this host");
        assert!(said.contains(&means), "{said}");
        assert!(!cli.path("then").exists());
    }
    // Hours that a clock shows twice or never are no times.
    for (at, word) in [
        ("2026-11-01 01:30:00", "twice"),
        ("2026-03-08 02:30:00", "never showed"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_snapback"))
            .arg("--config")
            .arg(cli.path("snapback.yaml"))
            .args(["binlog", "show", "--since", at])
            .env("TZ", "America/New_York")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(said_of(&output).contains(word), "{}", said_of(&output));
    }
}
