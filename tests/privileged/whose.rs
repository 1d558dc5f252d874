//! Whose data: two instances of one host, and a server in a mount namespace of its own whose paths have the host's names.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::common::server::mysql_prefix;
use crate::common::{Flavour, Lab, Server, Tool, both, text};

/// A tool of its own for a server, with the repository of the others.
fn tool(lab: &Lab, server: &Server, name: &str, more: &str) -> Tool {
    let directory = lab.path(name);
    std::fs::create_dir(&directory).unwrap();
    let tool = Tool {
        config: directory.join("snapback.yaml"),
        repository: lab.path("shared"),
        state: directory.join("state"),
    };
    let yaml = format!(
        "repository: {}\nstate_dir: {}\nserver:\n  socket: {}\n  user: root\n{more}",
        text(&tool.repository),
        text(&tool.state),
        text(&server.socket)
    );
    std::fs::write(&tool.config, yaml).unwrap();
    if !tool.repository.exists() {
        tool.ok(&["init", "--repository", &text(&tool.repository)]);
    }
    tool
}

fn two_instances(flavour: Flavour) {
    if !flavour.available() {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    let server = |name: &str| {
        let data = lab.storage.volume(name).join("data");
        Server::create(flavour, &data, &lab.path(&format!("{name}-run")), &[("server-id", "1")])
    };
    let (one, two) = (server("one"), server("two"));
    let (of_one, of_two) = (tool(&lab, &one, "one", ""), tool(&lab, &two, "two", ""));
    let id = |json: serde_json::Value| json["id"].as_str().unwrap().to_owned();
    let first = id(of_one.json(&["backup"]));
    // One knows nothing of the other, and says whose there are.
    let refused = both(&of_two.run(&["show", "latest"]));
    assert!(
        refused.contains("--job") && refused.contains(&text(&one.datadir)),
        "{refused}"
    );
    let backups = [first, id(of_two.json(&["backup"])), id(of_two.json(&["backup"]))];
    assert_eq!(id(of_one.json(&["show", "latest"])), backups[0]);
    assert_eq!(id(of_two.json(&["show", "latest"])), backups[2]);
    assert!(of_two.json(&["show", &backups[1]])["parent"].is_null());
    assert_eq!(of_two.json(&["show", &backups[2]])["parent"], backups[1].as_str());
    // A lost state directory changes nothing: the server itself tells who it is.
    std::fs::remove_dir_all(&of_one.state).unwrap();
    assert_eq!(id(of_one.json(&["show", "latest"])), backups[0]);
    of_two.ok(&["forget", "--keep-last", "1"]);
    let left = of_one.json(&["list"]);
    let left: Vec<&str> = left
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["id"].as_str().unwrap())
        .collect();
    assert_eq!(left, [backups[0].as_str(), backups[2].as_str()]);
}

#[test]
fn two_mariadb_instances_have_nothing_of_each_other() {
    two_instances(Flavour::MariaDb);
}

#[test]
fn two_mysql_instances_have_nothing_of_each_other() {
    two_instances(Flavour::MySql);
}

/// A program that starts the server in a mount namespace of its own, where `at` is `real`.
fn contained(lab: &Lab, flavour: Flavour, real: &Path, at: &Path) -> PathBuf {
    let program = match flavour {
        Flavour::MariaDb => "mariadbd".to_owned(),
        Flavour::MySql => text(&mysql_prefix().join("bin/mysqld97")),
    };
    let script = lab.path("contained");
    let inner = format!("mount --bind {} {} && exec {program} \"$@\"", text(real), text(at));
    let all = format!("#!/bin/sh\nexec unshare -m --propagation private sh -c '{inner}' sh \"$@\"\n");
    std::fs::write(&script, all).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    script
}

fn a_container_of_the_same_paths(flavour: Flavour) {
    if !flavour.available() {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    let data = lab.storage.volume("host").join("data");
    let mut host = Server::create(flavour, &data, &lab.path("host-run"), &[]);
    let of_host = tool(&lab, &host, "of-host", "");
    let backup = of_host.json(&["backup"])["id"].as_str().unwrap().to_owned();

    let real = lab.storage.volume("real").join("data");
    Server::create(flavour, &real, &lab.path("real-run"), &[]).stop();
    let program = contained(&lab, flavour, &real, &data);
    let inner = Server::by(Some(&program), flavour, &data, &lab.path("inner-run"), &[]);
    inner.exec("CREATE DATABASE only_in_the_container");
    let of_inner = tool(&lab, &inner, "of-inner", "");
    let refused = |what: &str| {
        for command in ["check", "backup"] {
            let output = of_inner.run(&[command]);
            let said = both(&output);
            assert!(!output.status.success(), "{what}: {command}: {said}");
            // MySQL's copies have a uuid as well, which tells them apart even sooner.
            assert!(
                said.contains("works on another directory")
                    || said.contains("another server_uuid")
                    || said.contains("nothing proves"),
                "{what}: {command}: {said}"
            );
        }
    };
    refused("the host's own server runs");
    // Over TCP the port's owner is asked.
    let yaml = std::fs::read_to_string(&of_inner.config).unwrap();
    let port = format!("  host: 127.0.0.1\n  port: {}\n", inner.port);
    let by_port = yaml.replace(&format!("  socket: {}\n", text(&inner.socket)), &port);
    std::fs::write(&of_inner.config, by_port).unwrap();
    refused("over TCP");
    std::fs::write(&of_inner.config, yaml).unwrap();
    // The host's own is proved by both ways, and nobody's data changed hands.
    of_host.json(&["backup"]);

    host.stop();
    refused("the host's datadir is stale");
    // The container's path of that name is no reason to refuse.
    of_host.json(&["restore", &backup, "--in-place", "--force"]);
    assert_eq!(
        inner
            .one::<u64>("SELECT COUNT(*) FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = 'only_in_the_container'"),
        1
    );
}

#[test]
fn a_mariadb_in_a_namespace_of_its_own_is_not_taken_for_the_hosts() {
    a_container_of_the_same_paths(Flavour::MariaDb);
}

#[test]
fn a_mysql_in_a_namespace_of_its_own_is_not_taken_for_the_hosts() {
    a_container_of_the_same_paths(Flavour::MySql);
}
