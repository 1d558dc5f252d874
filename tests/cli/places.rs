//! What a backup leaves out or refuses, what dead runs left, and how it is said.

use std::process::Command;

use super::{Cli, said_of, walk};

#[test]
fn the_repository_and_the_state_are_not_backed_up_into_themselves() {
    let cli = Cli::with_files();
    let all = cli.dir.path().display().to_string();
    let checked = cli.ok(&["check", "--files", &all]);
    assert!(checked.contains("is left out of it"), "{checked}");
    let backup: serde_json::Value = serde_json::from_str(&cli.ok(&["--json", "backup", "--files", &all])).unwrap();
    let left: Vec<&str> = backup["left_out"]
        .as_array()
        .unwrap()
        .iter()
        .map(|left| left["path"].as_str().unwrap())
        .collect();
    for own in ["repository", "state"] {
        let at = cli.path(own).canonicalize().unwrap().display().to_string();
        assert!(left.contains(&at.as_str()), "{own}: {left:?}");
    }
    let files: serde_json::Value = serde_json::from_str(&cli.ok(&["--json", "show", "--files"])).unwrap();
    let files: Vec<&str> = files
        .as_array()
        .unwrap()
        .iter()
        .map(|file| file["path"].as_str().unwrap())
        .collect();
    assert!(files.iter().any(|path| path.contains("/www/")), "{files:?}");
    assert!(
        !files
            .iter()
            .any(|path| path.contains("/packs") || path.contains("/runs")),
        "{files:?}"
    );
    let said = cli.fails(&["backup", "--files", &cli.text("repository")], 1);
    assert!(said.contains("into itself"), "{said}");
}

#[test]
fn an_empty_backup_is_refused_and_an_excluded_root_is_left_out() {
    let cli = Cli::with_files();
    let www = cli.text("www");
    for words in [
        &["backup"][..],
        &["backup", "--files", "/nonexistent"],
        &["backup", "--files", &www, "--exclude", &www],
    ] {
        let said = cli.fails(words, 1);
        assert!(said.contains("nothing to back up"), "{words:?}: {said}");
    }
    std::fs::create_dir(cli.path("other")).unwrap();
    let other = cli.text("other");
    let backup: serde_json::Value = serde_json::from_str(&cli.ok(&[
        "--json",
        "backup",
        "--files",
        &www,
        "--files",
        &other,
        "--exclude",
        &www,
    ]))
    .unwrap();
    assert_eq!(backup["roots"].as_array().unwrap().len(), 1, "{backup}");
    assert!(
        cli.ok(&["check", "--files", &www, "--files", &other, "--exclude", &www])
            .contains("`exclude` has")
    );
}

#[test]
fn what_a_dead_run_left_is_said_before_the_next_one() {
    let cli = Cli::with_files();
    let run = "00112233445566778899aabbccddeeff";
    let journal = format!(
        "{{\"event\":\"begun\",\"run\":\"{run}\"}}\n{{\"event\":\"making\",\"thing\":{{\"made\":\"directory\",\"at\":\"{}\"}}}}\n",
        cli.text("left")
    );
    std::fs::create_dir_all(cli.path("state/runs")).unwrap();
    std::fs::write(cli.path("state/runs").join(format!("{run}.jsonl")), journal).unwrap();
    std::fs::create_dir(cli.path("left")).unwrap();
    let said = cli.fails(&["check", "--files", &cli.text("www")], 5);
    assert!(
        said.contains("a run that died") && said.contains("snapback cleanup") && said.contains("/left"),
        "{said}"
    );
    let backup = cli.run(&["--json", "backup", "--files", &cli.text("www")]);
    assert_eq!(backup.status.code(), Some(5), "{}", said_of(&backup));
    // Other snapshots on this machine may be worth a warning.
    cli.run(&["cleanup"]);
    assert!(!cli.path("left").exists());
    cli.ok(&["check", "--files", &cli.text("www")]);
}

#[test]
fn a_dry_cleanup_counts_unfinished_files_of_the_repository() {
    let cli = Cli::with_files();
    let unfinished = cli.path("repository/.snapback-1.tmp");
    let file = std::fs::File::create(&unfinished).unwrap();
    file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(86_400))
        .unwrap();
    // Other snapshots on this machine may be worth a warning.
    let said = said_of(&cli.run(&["cleanup", "--dry-run"]));
    assert!(said.contains("would remove 1 unfinished file"), "{said}");
    assert!(unfinished.exists());
    assert!(said_of(&cli.run(&["cleanup"])).contains("removed 1 unfinished file"));
    assert!(!unfinished.exists());
}

#[test]
fn outputs_read_well() {
    let cli = Cli::with_files();
    let checked = cli.ok(&["check", "--files", &cli.text("www")]);
    assert!(!checked.contains("paths of the server"), "{checked}");
    let help = cli.ok(&["backup", "--help"]);
    let (own, _) = help.split_once("Global options").unwrap();
    assert!(own.contains("--tag") && !own.contains("--strict"), "{help}");
    let bad = Cli::new("lock:\n  acquire_timout: 2s\n");
    let said = bad.fails(&["list"], 2);
    assert_eq!(said.matches("error:").count(), 1, "{said}");

    cli.back_up();
    std::os::unix::fs::symlink(cli.path("real"), cli.path("link")).unwrap();
    std::fs::create_dir(cli.path("real")).unwrap();
    let said = cli.fails(&["restore", "latest", "--target", &cli.text("link")], 2);
    assert!(said.contains("symbolic link to"), "{said}");

    let mut command = Command::new(env!("CARGO_BIN_EXE_snapback"));
    command.arg("--config").arg(cli.path("snapback.yaml"));
    let output = command
        .args(["backup", "--files", "www"])
        .current_dir(cli.dir.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said_of(&output));

    let mut packs = walk(&cli.path("repository/packs"));
    packs.sort_by_key(|pack| std::fs::metadata(pack).unwrap().len());
    std::fs::remove_file(packs.last().unwrap()).unwrap();
    let said = cli.fails(&["restore", "latest", "--target", &cli.text("out")], 4);
    assert!(said.contains("snapback verify --all"), "{said}");
    let said = cli.fails(&["verify"], 4);
    assert!(
        said.contains("cannot be restored whole: ") && !said.contains("->"),
        "{said}"
    );
}
