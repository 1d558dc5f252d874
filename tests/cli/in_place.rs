//! Several trees that are restored in place at once. Needs `--features failpoints`.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;

use super::{Cli, said_of};

/// Two trees with files of their own, and a file with a name in each.
fn two_trees() -> Cli {
    let cli = Cli::new("server: none\n");
    for tree in ["www/a", "www/b"] {
        std::fs::create_dir_all(cli.path(tree)).unwrap();
        std::fs::write(cli.path(tree).join("own"), tree).unwrap();
    }
    std::fs::write(cli.path("www/a/first"), "shared").unwrap();
    for name in ["www/b/second", "www/b/third"] {
        std::fs::hard_link(cli.path("www/a/first"), cli.path(name)).unwrap();
    }
    cli.ok(&["init"]);
    cli.back_up();
    cli
}

fn restore(cli: &Cli, failpoints: &str) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_snapback"))
        .arg("--config")
        .arg(cli.path("snapback.yaml"))
        .args(["restore", "latest", "--in-place", "--force"])
        .args(["--include", &cli.text("www/a"), "--include", &cli.text("www/b")])
        .env("SNAPBACK_FAILPOINTS", failpoints)
        .output()
        .unwrap()
}

#[test]
fn names_of_one_file_in_two_trees_become_a_file_in_each() {
    let cli = two_trees();
    std::fs::remove_dir_all(cli.path("www/b")).unwrap();
    std::fs::write(cli.path("www/a/first"), "spoilt").unwrap();
    let output = restore(&cli, "");
    assert!(output.status.success(), "{}", said_of(&output));
    let inode = |name: &str| {
        assert_eq!(std::fs::read(cli.path(name)).unwrap(), b"shared", "{name}");
        std::fs::metadata(cli.path(name)).unwrap().ino()
    };
    assert_eq!(inode("www/b/second"), inode("www/b/third"));
    assert_ne!(inode("www/a/first"), inode("www/b/second"));
}

#[test]
fn when_one_tree_cannot_appear_none_does() {
    let cli = two_trees();
    // Each tree takes two renames: what is there goes aside, the restored one appears.
    for at in 1..=4 {
        for tree in ["www/a", "www/b"] {
            std::fs::write(cli.path(tree).join("own"), "newer").unwrap();
        }
        let output = restore(&cli, &format!("restore.rename=error@{at}"));
        let said = said_of(&output);
        assert_eq!(output.status.code(), Some(1), "rename {at}: {said}");
        assert!(said.contains("nothing has changed"), "rename {at}: {said}");
        for tree in ["www/a", "www/b"] {
            assert_eq!(
                std::fs::read(cli.path(tree).join("own")).unwrap(),
                b"newer",
                "rename {at}, {tree}"
            );
        }
        // Both restored trees are kept, and said to be.
        let kept = || {
            let entries = std::fs::read_dir(cli.path("www"))
                .unwrap()
                .flatten()
                .map(|entry| entry.path());
            entries
                .filter(|path| !path.ends_with("a") && !path.ends_with("b"))
                .collect::<Vec<PathBuf>>()
        };
        assert_eq!(kept().len(), 2, "rename {at}: {:?}", kept());
        for path in kept() {
            assert!(said.contains(&path.display().to_string()), "rename {at}: {said}");
            assert!(
                std::fs::read(path.join("own")).unwrap().starts_with(b"www/"),
                "rename {at}"
            );
        }
    }
    // And are in nobody's way.
    let output = restore(&cli, "");
    assert!(output.status.success(), "{}", said_of(&output));
    assert_eq!(std::fs::read(cli.path("www/b/own")).unwrap(), b"www/b");
}
