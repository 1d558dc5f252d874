//! Several hosts in one repository, and several repositories of one host.

use super::Cli;

#[test]
fn latest_is_this_hosts() {
    let cli = Cli::with_files();
    let www = cli.text("www");
    let as_host = |host: &str| {
        let all = ["--json", "backup", "--files", &www, "--host", host];
        let json: serde_json::Value = serde_json::from_str(&cli.ok(&all)).unwrap();
        json["id"].as_str().unwrap().to_owned()
    };
    let shown = |args: &[&str]| {
        let json: serde_json::Value = serde_json::from_str(&cli.ok(&[&["--json", "show"], args].concat())).unwrap();
        json["id"].as_str().unwrap().to_owned()
    };
    let other = as_host("h2");
    // One other host's backups: they are meant, but not in the place of this host's data.
    assert_eq!(shown(&["latest"]), other);
    let before = std::fs::read(cli.path("www/small")).ok();
    let said = cli.fails(&["restore", "latest", "--in-place", "--force"], 2);
    assert!(said.contains("h2") && said.contains("--host"), "{said}");
    let said = cli.fails(&["restore", &other, "--in-place", "--force"], 2);
    assert!(said.contains("--host h2"), "{said}");
    assert_eq!(std::fs::read(cli.path("www/small")).ok(), before);
    as_host("h3");
    let said = cli.fails(&["show", "latest"], 2);
    assert!(said.contains("h1") && said.contains("h2, h3"), "{said}");
    let said = cli.fails(&["verify"], 2);
    assert!(said.contains("h2, h3"), "{said}");
    let own = as_host("h1");
    let newest = as_host("h2");
    assert_eq!(shown(&["latest"]), own);
    assert_eq!(shown(&["latest", "--host", "h2"]), newest);
    cli.fails(&["show", &own, "--host", "h2"], 2);
    cli.fails(&["verify", "--host", "h9"], 2);
    cli.ok(&["verify", "--host", "h2"]);
    let restored: serde_json::Value =
        serde_json::from_str(&cli.ok(&["--json", "restore", "latest", "--target", &cli.text("out")])).unwrap();
    assert_eq!(restored["id"], own.as_str());
    let restored: serde_json::Value =
        serde_json::from_str(&cli.ok(&["--json", "restore", "latest", "--host", "h2", "--in-place", "--force"]))
            .unwrap();
    assert_eq!(restored["id"], newest.as_str());
    assert!(cli.run(&["export", "latest", "--host", "h3", "--tar"]).status.success());
    cli.fails(&["export", "latest", "--host", "h9", "--tar"], 2);
}

#[test]
fn init_says_when_the_configuration_names_another_repository() {
    let cli = Cli::with_files();
    let other = cli.text("other");
    let said = cli.fails(&["init", "--repository", &other], 5);
    for word in ["snapback.yaml", &cli.text("repository"), &other, "backups go there"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    let third = cli.run(&["--json", "init", "--repository", &cli.text("third")]);
    let json: serde_json::Value = serde_json::from_slice(&third.stdout).unwrap();
    assert_eq!(json["warnings"][0]["code"], "another-repository");
}

/// One of several installations that share the repository and call their host the same.
struct Installation<'c> {
    cli: &'c Cli,
    name: &'static str,
}

impl Installation<'_> {
    fn run(&self, args: &[&str]) -> std::process::Output {
        let (config, at) = (self.cli.path(&format!("{}.yaml", self.name)), self.cli.text("at"));
        let (repository, state) = (
            self.cli.text("repository"),
            self.cli.text(&format!("state-{}", self.name)),
        );
        let yaml =
            format!("repository: {repository}\nstate_dir: {state}\nhost: localhost\nserver: none\nfiles: [{at}]\n");
        std::fs::write(&config, yaml).unwrap();
        // Another directory of the same path, as another machine has it.
        std::fs::rename(self.cli.path(self.name), self.cli.path("at")).unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_snapback"));
        let output = command.arg("--config").arg(&config).args(args).output().unwrap();
        std::fs::rename(self.cli.path("at"), self.cli.path(self.name)).unwrap();
        output
    }

    fn json(&self, args: &[&str]) -> serde_json::Value {
        let output = self.run(&[&["--json"], args].concat());
        assert!(output.status.success(), "{args:?}: {}", super::said_of(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn id(&self, args: &[&str]) -> String {
        self.json(args)["id"].as_str().unwrap().to_owned()
    }
}

#[test]
fn two_machines_of_one_name_and_one_path_have_nothing_of_each_other() {
    let cli = Cli::with_files();
    let machine = |name| {
        std::fs::create_dir(cli.path(name)).unwrap();
        std::fs::write(cli.path(name).join("f"), name).unwrap();
        Installation { cli: &cli, name }
    };
    let (a, b, c) = (machine("a"), machine("b"), machine("c"));
    let of_a: Vec<String> = (0..2).map(|_| a.id(&["backup"])).collect();
    // It knows its own trees, and that these are not theirs.
    let output = b.run(&["show", "latest"]);
    assert_eq!(output.status.code(), Some(2));
    let refused = super::said_of(&output);
    assert!(refused.contains("--job") && refused.contains("localhost"), "{refused}");
    let of_b: Vec<String> = (0..3).map(|_| b.id(&["backup"])).collect();
    assert_eq!(a.id(&["show", "latest"]), of_a[1]);
    assert_eq!(b.id(&["show", "latest"]), of_b[2]);
    assert_eq!(a.json(&["show", "latest"])["parent"], of_a[0].as_str());
    assert!(a.json(&["show", &of_b[0]])["parent"].is_null());

    let listed = cli.json(&["list"]);
    let job_of = |id: &str| {
        let found = listed.as_array().unwrap().iter().find(|one| one["id"] == id).unwrap();
        found["job"].as_str().unwrap().to_owned()
    };
    let (job_a, job_b) = (job_of(&of_a[0]), job_of(&of_b[0]));
    assert_ne!(job_a, job_b);
    assert_eq!(cli.json(&["list", "--job", &job_b]).as_array().unwrap().len(), 3);
    let said = super::said_of(&c.run(&["restore", "latest", "--target", &cli.text("out")]));
    assert!(
        said.contains(&job_a) && said.contains(&job_b) && said.contains("newest"),
        "{said}"
    );
    assert_eq!(c.id(&["show", "latest", "--job", &job_b]), of_b[2]);
    // What is put in the place of this host's data is this host's, or somebody says so.
    let output = c.run(&["restore", &of_a[1], "--in-place", "--force"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        super::said_of(&output).contains(&format!("--job {job_a}")),
        "{}",
        super::said_of(&output)
    );

    assert!(a.run(&["forget", "--keep-last", "1"]).status.success());
    assert_eq!(cli.ids(), [of_a[1].clone(), of_b[2].clone()]);
}

#[test]
fn a_latest_that_is_known_to_be_damaged_is_refused_and_the_good_one_named() {
    let cli = Cli::with_files();
    let good = cli.changed(1);
    let newest = cli.changed(2);
    // A note of a loss that cannot be read counts as one of nobody knows what.
    let notes = cli.path("repository/damaged").join(&newest);
    std::fs::create_dir_all(&notes).unwrap();
    std::fs::write(notes.join("0".repeat(32)), "x").unwrap();
    for command in [
        &["restore", "latest", "--target"][..],
        &["export", "latest", "--tar", "--include"],
    ] {
        let said = cli.fails(&[command, &[&cli.text("out")]].concat(), 2);
        assert!(said.contains(&good[..8]) && said.contains("--accept-failed"), "{said}");
    }
    assert!(!cli.path("out").exists());
    cli.ok(&["restore", &good, "--target", &cli.text("out")]);
    let output = cli.run(&[
        "restore",
        "latest",
        "--accept-failed",
        "--keep-going",
        "--target",
        &cli.text("other"),
    ]);
    assert!(
        super::said_of(&output).contains("not good"),
        "{}",
        super::said_of(&output)
    );
    assert!(cli.path("other").exists());
}
