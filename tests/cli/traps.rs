//! A pipe, a device, a link, a huge file where a file of the repository, the state or the configuration belongs: it is said, nothing waits, nothing grows.

use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::{Cli, said_of};

/// What may lie there, and what is said of it.
const TRAPS: [(&str, &str); 4] = [
    ("a pipe", "named pipe"),
    ("a device", "symbolic link"),
    ("a socket", "socket"),
    ("a huge file", ""),
];

fn lay(trap: &str, at: &Path) {
    if at.is_dir() {
        std::fs::remove_dir_all(at).unwrap();
    } else {
        let _ = std::fs::remove_file(at);
    }
    std::fs::create_dir_all(at.parent().unwrap()).unwrap();
    match trap {
        "a pipe" => assert!(Command::new("mkfifo").arg(at).status().unwrap().success()),
        "a device" => symlink("/dev/zero", at).unwrap(),
        "a socket" => drop(std::os::unix::net::UnixListener::bind(at).unwrap()),
        _ => std::fs::File::create(at).unwrap().set_len(40 << 30).unwrap(),
    }
}

/// Runs with 2 GiB of memory and 10 s of time.
fn run(cli: &Cli, args: &[&str]) -> Output {
    let script = "ulimit -v 2097152; exec timeout --signal=KILL 10 \"$@\"";
    let output = Command::new("sh")
        .args([
            "-c",
            script,
            "sh",
            env!("CARGO_BIN_EXE_snapback"),
            "--quiet",
            "--config",
        ])
        .arg(cli.path("snapback.yaml"))
        .args(args)
        .env_remove("SNAPBACK_CONFIG")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        output.status.code().is_some_and(|code| code < 124),
        "{args:?}: {}",
        said_of(&output)
    );
    output
}

/// The only file below a directory of the repository.
fn only(cli: &Cli, below: &str) -> PathBuf {
    let mut found = super::walk(&cli.path("repository").join(below));
    found.retain(|path| path.is_file());
    assert!(!found.is_empty(), "{below}");
    found.remove(0)
}

fn scene() -> Cli {
    let cli = Cli::new("server: none\n");
    std::fs::create_dir(cli.path("www")).unwrap();
    std::fs::write(cli.path("www/file"), vec![7; 100_000]).unwrap();
    cli.ok(&["init"]);
    cli.back_up();
    cli
}

#[test]
fn what_the_repository_needs_is_named_with_what_is_there_instead() {
    for (trap, said) in TRAPS {
        for (place, commands) in [
            ("config", &[&["list"][..], &["verify"]][..]),
            ("manifests", &[&["list"], &["verify", "--all"], &["prune"]]),
            ("packs", &[&["verify"], &["restore", "latest", "--target", "TO"]]),
        ] {
            let cli = scene();
            let at = if place == "config" {
                cli.path("repository/config")
            } else {
                only(&cli, place)
            };
            lay(trap, &at);
            let (to, name) = (cli.text("to"), at.file_name().unwrap().to_string_lossy().into_owned());
            for args in commands {
                let args: Vec<&str> = args
                    .iter()
                    .map(|arg| if *arg == "TO" { &to[..] } else { arg })
                    .collect();
                let output = run(&cli, &args);
                let all = said_of(&output);
                let fails = args[0] != "list" || place == "config" || all.contains(said);
                assert!(
                    fails && output.status.code() != Some(0),
                    "{trap} as {place}, {args:?}: {all}"
                );
                // Of two packs one is needed by any one command.
                assert!(
                    place == "packs" || all.contains(&name),
                    "{trap} as {place}, {args:?}: {all}"
                );
                assert!(
                    place == "packs" || all.contains(said),
                    "{trap} as {place}, {args:?}: {all}"
                );
            }
        }
    }
}

#[test]
fn what_does_not_matter_is_passed_over() {
    let cli = scene();
    for (trap, _) in TRAPS {
        for place in [
            "repository/running/h1-00112233445566778899aabbccddeeff",
            "repository/doomed/00112233445566778899aabbccddeeff",
            "repository/packs/.snapback-00.tmp",
            "repository/binlogs/h1/id-1/1-binlog.000001/0-5",
        ] {
            lay(trap, &cli.path(place));
            for args in [&["list"][..], &["verify"], &["cleanup"]] {
                let output = run(&cli, args);
                let all = said_of(&output);
                let fits = output.status.code() == Some(0)
                    || args[0] == "cleanup"
                    || all.contains(place.rsplit('/').next().unwrap());
                assert!(fits, "{trap} as {place}, {args:?}: {all}");
            }
            let www = cli.text("www");
            let output = run(&cli, &["backup", "--files", &www]);
            assert_eq!(output.status.code(), Some(0), "{trap} as {place}: {}", said_of(&output));
            std::fs::remove_file(cli.path(place)).unwrap();
        }
    }
}

#[test]
fn the_configuration_and_the_state_are_plain_files() {
    let cli = scene();
    let whole = std::fs::read(cli.path("snapback.yaml")).unwrap();
    for (trap, said) in TRAPS {
        for place in [
            "state/runs/00112233445566778899aabbccddeeff.jsonl",
            "state/held/00112233445566778899aabbccddeeff.json",
        ] {
            lay(trap, &cli.path(place));
            let output = run(&cli, &["cleanup"]);
            assert!(
                output.status.code().is_some(),
                "{trap} as {place}: {}",
                said_of(&output)
            );
            std::fs::remove_file(cli.path(place)).unwrap();
        }
        if trap == "a device" {
            continue;
        }
        lay(trap, &cli.path("snapback.yaml"));
        let all = said_of(&run(&cli, &["list"]));
        assert!(all.contains("snapback.yaml") && all.contains(said), "{trap}: {all}");
        std::fs::remove_file(cli.path("snapback.yaml")).unwrap();
        std::fs::write(cli.path("snapback.yaml"), &whole).unwrap();
    }
    // A link to a plain file is what Debian's /etc is made of.
    std::fs::rename(cli.path("snapback.yaml"), cli.path("real.yaml")).unwrap();
    symlink("real.yaml", cli.path("snapback.yaml")).unwrap();
    cli.ok(&["list"]);
}

#[test]
fn nothing_is_written_or_removed_through_a_link_in_the_repository() {
    let cli = scene();
    let outside = cli.path("outside");
    std::fs::create_dir(&outside).unwrap();
    let prefixes: Vec<PathBuf> = std::fs::read_dir(cli.path("repository/packs"))
        .unwrap()
        .flatten()
        .map(|one| one.path())
        .collect();
    for prefix in &prefixes {
        std::fs::rename(prefix, outside.join(prefix.file_name().unwrap())).unwrap();
        symlink(outside.join(prefix.file_name().unwrap()), prefix).unwrap();
    }
    for number in 0..256 {
        let prefix = cli.path("repository/packs").join(format!("{number:02x}"));
        if std::fs::symlink_metadata(&prefix).is_err() {
            std::fs::create_dir_all(outside.join("new")).unwrap();
            symlink(outside.join("new"), prefix).unwrap();
        }
    }
    let www = cli.text("www");
    std::fs::write(cli.path("www/more"), vec![8; 100_000]).unwrap();
    let all = said_of(&run(&cli, &["backup", "--files", &www]));
    assert!(all.contains("symbolic link"), "{all}");
    assert_eq!(std::fs::read_dir(outside.join("new")).unwrap().count(), 0);
}

/// In memory: such files need a filesystem that allows them.
#[test]
fn huge_holes_beside_the_database_are_left_out_and_said() {
    let dir = tempfile::Builder::new()
        .prefix("snapback-test-")
        .tempdir_in("/dev/shm")
        .unwrap();
    let cli = Cli::new("server: none\n");
    let config = std::fs::read_to_string(cli.path("snapback.yaml")).unwrap();
    let files = format!("files: [{}]", dir.path().display());
    let lines = config.lines().filter(|line| !line.starts_with("files:"));
    let config: Vec<&str> = lines.chain([files.as_str()]).collect();
    std::fs::write(cli.path("snapback.yaml"), config.join("\n")).unwrap();
    cli.ok(&["init"]);
    for (name, size) in [("giant", i64::MAX as u64), ("large", 255 << 40), ("fair", 15 << 40)] {
        let file = std::fs::File::create(dir.path().join(name)).unwrap();
        if file.set_len(size).is_err() {
            file.set_len(1 << 60).unwrap();
        }
    }
    std::fs::hard_link(dir.path().join("giant"), dir.path().join("giant-too")).unwrap();
    let output = run(&cli, &["backup"]);
    let said = said_of(&output);
    assert_eq!(output.status.code(), Some(5), "{said}");
    for name in ["giant", "giant-too", "large"] {
        let words = format!("{} is left out", dir.path().join(name).display());
        assert!(said.contains(&words), "{words}: {said}");
    }
    let output = run(&cli, &["restore", "latest", "--target", &cli.text("out")]);
    assert_eq!(output.status.code(), Some(0), "{}", said_of(&output));
    let fair = cli.path("out").join(dir.path().strip_prefix("/").unwrap()).join("fair");
    assert_eq!(fair.metadata().unwrap().len(), 15 << 40);
}

/// Makes `depth` directories of one name inside each other.
fn dig(top: &Path, name: &str, depth: usize) {
    use std::os::fd::AsRawFd;
    let mut at = std::fs::File::open(top).unwrap();
    for _ in 0..depth {
        let here = Path::new("/proc/self/fd").join(at.as_raw_fd().to_string()).join(name);
        std::fs::create_dir(&here).unwrap();
        at = std::fs::File::open(&here).unwrap();
    }
}

#[test]
fn a_directory_deeper_than_paths_are_long_is_left_out_by_name() {
    for (name, depth) in [("aaaa", 1500), ("a", 2100)] {
        let cli = Cli::with_files();
        dig(&cli.path("www"), name, depth);
        let www = cli.text("www");
        let output = run(&cli, &["backup", "--files", &www]);
        let said = said_of(&output);
        assert_eq!(output.status.code(), Some(5), "{said}");
        assert!(said.contains("is left out: cannot"), "{said}");
        let shown = cli.ok(&["show", "latest", "--json"]);
        assert!(shown.contains("File name too long"), "left out in the record as well");
        cli.ok(&["verify"]);
        let output = run(&cli, &["restore", "latest", "--target", &cli.text("out")]);
        assert_eq!(output.status.code(), Some(0), "{}", said_of(&output));
        assert!(cli.path("out").join(&www[1..]).join("small").exists());
    }
}

#[cfg(feature = "failpoints")]
#[test]
fn a_file_whose_data_cannot_be_read_is_left_out_whole() {
    let cli = Cli::with_files();
    std::fs::hard_link(cli.path("www/small"), cli.path("www/zz-small")).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_snapback"));
    command.arg("--config").arg(cli.path("snapback.yaml"));
    command.args(["backup", "--files", &cli.text("www")]);
    let output = command.env("SNAPBACK_FAILPOINTS", "copy.read=error").output().unwrap();
    let said = said_of(&output);
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("small is left out: cannot read it at offset 0"), "{said}");
    cli.ok(&["restore", "latest", "--target", &cli.text("out")]);
    let out = cli.path("out").join(&cli.text("www")[1..]);
    assert!(out.is_dir() && !out.join("small").exists() && !out.join("zz-small").exists());
    assert!(cli.ok(&["show", "latest", "--json"]).contains("cannot be read"));
}

#[test]
fn a_sparse_file_is_counted_by_its_data_where_room_is_asked_for() {
    let cli = Cli::with_files();
    let file = std::fs::File::create(cli.path("www/sparse")).unwrap();
    file.write_all_at(&vec![7; 16 << 20], 0).unwrap();
    file.set_len(1 << 40).unwrap();
    let www = cli.text("www");
    run(&cli, &["backup", "--files", &www]);
    // A filesystem of so many MiB that goes with its namespace.
    let restored = |mib: u32| {
        let place = cli.path("small-disk");
        std::fs::create_dir_all(&place).unwrap();
        let script = format!(
            "mount -t tmpfs -o size={mib}m none {0} && {1} --config {2} restore latest --target {0}/out; status=$?; ls -A {0} >&2; exit $status",
            place.display(),
            env!("CARGO_BIN_EXE_snapback"),
            cli.text("snapback.yaml"),
        );
        std::process::Command::new("unshare")
            .args(["--mount", "sh", "-c", &script])
            .output()
            .unwrap()
    };
    let refused = restored(8);
    let said = said_of(&refused);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("8.0 MiB free") && said.contains("make room"), "{said}");
    assert!(
        !said.contains("out\n") && !said.contains("partial"),
        "something was written: {said}"
    );
    let output = restored(24);
    assert_eq!(output.status.code(), Some(0), "{}", said_of(&output));
}

#[test]
fn a_set_that_would_hold_nothing_is_refused() {
    let cli = Cli::with_files();
    // The test's own directory lies on a filesystem without snapshots; where it does not, there is nothing to test.
    let output = run(&cli, &["snapshot", "create", "--files", &cli.text("www")]);
    let said = said_of(&output);
    if output.status.code() == Some(0) {
        cli.ok(&["snapshot", "delete", "latest"]);
        return;
    }
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("nothing to hold"), "{said}");
    assert!(!cli.ok(&["snapshot", "list"]).contains("crash"), "a set is there");
}

#[test]
fn a_file_with_a_lease_is_left_out_and_the_rest_is_copied() {
    let cli = Cli::with_files();
    let leased = cli.path("www/small");
    let program = "import fcntl, os, signal, sys, time; signal.signal(signal.SIGIO, signal.SIG_IGN)\n\
                   fd = os.open(sys.argv[1], os.O_RDWR); fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n\
                   print('held', flush=True); time.sleep(60)";
    let mut holder = Command::new("python3")
        .args(["-c", program])
        .arg(&leased)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut held = [0; 4];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut held).unwrap();
    let output = run(&cli, &["backup", "--files", &cli.text("www")]);
    holder.kill().unwrap();
    holder.wait().unwrap();
    let said = said_of(&output);
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("small is left out"), "{said}");
    cli.ok(&["restore", "latest", "--target", &cli.text("out")]);
    let out = cli.path("out").join(&cli.text("www")[1..]);
    assert!(out.is_dir() && !out.join("small").exists());
}
