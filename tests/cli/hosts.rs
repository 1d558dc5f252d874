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
