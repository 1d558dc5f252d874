//! Real processes that are killed, run at once, or leave their lock behind. Needs `--features failpoints`.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Cli, said_of, stored};

impl Cli {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_snapback"));
        command.arg("--config").arg(self.path("snapback.yaml")).args(args);
        command.env_remove("SNAPBACK_CONFIG").stdin(Stdio::null());
        command
    }

    fn start(&self, failpoints: &str) -> Child {
        self.command(&["backup", "--no-server", "--files", &self.text("www")])
            .env("SNAPBACK_FAILPOINTS", failpoints)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn listed(&self) -> Vec<String> {
        let listed: serde_json::Value = serde_json::from_str(&self.ok(&["list", "--json"])).unwrap();
        let ids = listed.as_array().unwrap().iter();
        ids.map(|one| one["id"].as_str().unwrap().to_owned()).collect()
    }

    /// Another state of the tree for each number; returns it.
    fn change(&self, number: usize) -> Tree {
        std::fs::write(self.path("www/small"), format!("change {number}")).unwrap();
        std::fs::write(self.path("www/noise"), stored::noise(number as u64, 300_000)).unwrap();
        stored::fingerprint(&self.path("www"))
    }

    fn restored(&self, id: &str) -> Tree {
        self.ok(&["restore", id, "--target", &self.text("out")]);
        let tree = stored::fingerprint(&below(&self.path("out"), &self.path("www")));
        std::fs::remove_dir_all(self.path("out")).unwrap();
        tree
    }

    /// What is committed verifies and is one of the trees that there were; half manifests are not seen.
    fn assert_good(&self, trees: &[Tree], what: &str) {
        self.ok(&["verify", "--all", "--level", "data"]);
        for id in self.listed() {
            assert!(
                trees.contains(&self.restored(&id)),
                "{what}: {id} is none of the trees that were backed up"
            );
        }
    }
}

type Tree = std::collections::BTreeMap<PathBuf, String>;

fn below(directory: &Path, original: &Path) -> PathBuf {
    directory.join(original.strip_prefix("/").unwrap())
}

fn killed_after(child: &mut Child, span: Duration) -> bool {
    std::thread::sleep(span);
    child.kill().unwrap();
    child.wait().unwrap().signal() == Some(9)
}

#[test]
fn a_backup_that_is_killed_at_any_moment_is_whole_or_is_not_there() {
    let cli = Cli::with_files();
    let mut trees = vec![cli.change(0)];
    let begun = Instant::now();
    assert!(cli.start("").wait().unwrap().success());
    let span = begun.elapsed();
    let (moments, mut met) = (14, 0);
    for moment in 0..moments {
        trees.push(cli.change(moment + 1));
        let mut child = cli.start("");
        met += usize::from(killed_after(&mut child, span * moment as u32 / moments as u32));
        cli.ok(&["verify", "--all", "--level", "data"]);
    }
    // How many is a matter of the machine's load; the steps are the next test's.
    assert!(met > 1, "{met} of {moments} were killed before they were done");
    // The dead runs' lock is nobody's, and what they left unfinished goes.
    trees.push(cli.change(100));
    cli.back_up();
    cli.ok(&["cleanup"]);
    cli.assert_good(&trees, "after the kills");
    assert_eq!(cli.restored("latest"), *trees.last().unwrap());
}

#[test]
fn a_backup_that_is_killed_at_any_step_is_whole_or_is_not_there() {
    let cli = Cli::with_files();
    let mut trees = vec![cli.change(0)];
    cli.back_up();
    let mut steps: Vec<String> = [
        "backup.planned",
        "repository.packs-durable",
        "repository.before-manifest",
        "repository.after-manifest",
    ]
    .map(|step| format!("{step}=kill"))
    .into();
    // The journal's own writes come first at these points, the packs', the manifest's and the journal's end later.
    for (point, times) in [
        ("journal.record", 1..=1),
        ("store.write", 1..=5),
        ("fs.publish", 1..=6),
        ("fs.sync-file", 1..=6),
        ("fs.sync-directory", 1..=6),
    ] {
        steps.extend(times.map(|time| format!("{point}=kill@{time}")));
    }
    let (mut met, mut committed) = (0, 0);
    for (number, step) in steps.iter().enumerate() {
        trees.push(cli.change(number + 1));
        let before = cli.listed().len();
        let output = cli.start(step).wait_with_output().unwrap();
        let was_killed = output.status.signal() == Some(9);
        assert!(was_killed || output.status.success(), "{step}: {}", said_of(&output));
        met += usize::from(was_killed);
        let after = cli.listed().len();
        committed += usize::from(was_killed && after > before);
        if step.contains("before-manifest") || step.contains("packs-durable") {
            assert_eq!(
                (was_killed, after),
                (true, before),
                "{step}: there is a backup before its manifest"
            );
        }
        if step.contains("after-manifest") {
            assert_eq!((was_killed, after), (true, before + 1), "{step}");
        }
        cli.ok(&["verify", "--all", "--level", "data"]);
    }
    assert!(
        met > steps.len() / 2,
        "only {met} of {} steps were met; this test needs --features failpoints",
        steps.len()
    );
    assert!(committed > 0);
    trees.push(cli.change(1000));
    cli.back_up();
    cli.assert_good(&trees, "after the kills");
}

#[test]
fn a_living_run_refuses_the_next_one_and_a_dead_one_does_not() {
    let cli = Cli::with_files();
    let gate = cli.text("gate");
    let mut first = cli.start(&format!("repository.before-manifest=pause:{gate}"));
    let until = Instant::now() + Duration::from_secs(60);
    while !cli.path("gate.reached").exists() {
        let ended = first.try_wait().unwrap();
        assert!(
            ended.is_none() && Instant::now() < until,
            "this test needs --features failpoints: {ended:?}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    let www = cli.text("www");
    let said = cli.fails(&["backup", "--no-server", "--files", &www], 1);
    assert!(
        said.contains("another backup is running") && said.contains(&format!("process {}", first.id())),
        "{said}"
    );
    assert!(cli.listed().is_empty());
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(
        cli.path("state/backup.lock").exists(),
        "the dead run's lock file is there"
    );
    cli.back_up();
    cli.ok(&["verify", "--all", "--level", "data"]);
}

#[test]
fn two_writers_at_once_are_both_good() {
    // With one host's name and with two, each with a state directory of its own: they share nothing but the repository.
    for hosts in [["h1", "h1"], ["h1", "h2"]] {
        let cli = Cli::with_files();
        let tree = cli.change(1);
        for round in 0..3 {
            let writers: Vec<Child> = hosts
                .iter()
                .enumerate()
                .map(|(number, host)| {
                    let config = cli.path(&format!("writer-{number}.yaml"));
                    let (repository, state) = (cli.text("repository"), cli.text(&format!("state-{number}")));
                    let text = format!("repository: {repository}\nstate_dir: {state}\nhost: {host}\nserver: none\n");
                    std::fs::write(&config, text).unwrap();
                    let mut command = Command::new(env!("CARGO_BIN_EXE_snapback"));
                    command
                        .arg("--config")
                        .arg(config)
                        .args(["backup", "--files", &cli.text("www")]);
                    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
                })
                .collect();
            for writer in writers {
                let output = writer.wait_with_output().unwrap();
                assert!(output.status.success(), "round {round}: {}", said_of(&output));
            }
        }
        assert_eq!(cli.listed().len(), 6);
        cli.assert_good(&[tree], "two writers");
    }
}

#[test]
fn a_restore_that_goes_on_over_damage_has_status_4_and_a_list() {
    let cli = Cli::with_files();
    cli.back_up();
    let packs = super::walk(&cli.path("repository/packs"));
    let largest = packs
        .iter()
        .max_by_key(|path| std::fs::metadata(path).unwrap().len())
        .unwrap();
    let mut bytes = std::fs::read(largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(largest, bytes).unwrap();
    let said = cli.fails(&["restore", "latest", "--target", &cli.text("out"), "--keep-going"], 4);
    let list = cli.path("out.snapback-lost.json");
    for word in [
        "not everything could be restored",
        "lost; the rest is",
        "snapback-damaged",
        &list.display().to_string(),
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
    let got = stored::fingerprint(&below(&cli.path("out"), &cli.path("www")));
    let was = stored::fingerprint(&cli.path("www"));
    let other: Vec<_> = got.keys().filter(|path| !was.contains_key(*path)).collect();
    assert!(
        !other.is_empty()
            && other
                .iter()
                .all(|path| path.to_str().unwrap().ends_with(".snapback-damaged")),
        "{other:?}"
    );
    assert!(
        got.iter()
            .all(|(path, line)| other.contains(&path) || was[path] == *line)
    );
    let told: serde_json::Value = serde_json::from_slice(&std::fs::read(&list).unwrap()).unwrap();
    assert!(
        told["files"][0]["ranges"][0]["object"]
            .as_str()
            .unwrap()
            .starts_with("packs/"),
        "{told}"
    );
    // A second restore to another place, as JSON.
    let output = cli.run(&[
        "--json",
        "restore",
        "latest",
        "--target",
        &cli.text("again"),
        "--keep-going",
    ]);
    assert_eq!(output.status.code(), Some(4));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["lost"]["files"][0]["ranges"], told["files"][0]["ranges"]);
    // One file, in place: what is left of it does not take its name, nor does it move what is there.
    let noise = cli.text("www/deep/er/log.000001");
    std::fs::remove_file(&noise).unwrap();
    let said = cli.fails(&["restore", "latest", "--in-place", "--include", &noise], 4);
    assert!(said.contains("--keep-going"), "{said}");
    cli.fails(
        &["restore", "latest", "--in-place", "--include", &noise, "--keep-going"],
        4,
    );
    assert!(!Path::new(&noise).exists());
    let left = std::fs::metadata(format!("{noise}.snapback-damaged")).unwrap();
    assert_eq!(left.len(), 2_500_000);
    assert!(Path::new(&format!("{noise}.snapback-lost.json")).exists());
    // Without damage the flag changes nothing.
    let whole = Cli::with_files();
    whole.back_up();
    let small = whole.text("www/small");
    std::fs::remove_file(&small).unwrap();
    whole.ok(&["restore", "latest", "--in-place", "--include", &small]);
    assert_eq!(std::fs::read(&small).unwrap(), b"hello");
    whole.ok(&["restore", "latest", "--target", &whole.text("out"), "--keep-going"]);
    assert!(!whole.path("out.snapback-lost.json").exists());
}
