//! A node of a Galera cluster (Debian's galera-4): while it is locked it is out of flow control by itself, so that it holds up no other node, and in again
//! afterwards, also when the tool is killed.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::{Flavour, Kind, Lab, Server, Tool, both, load, missing, server};
use crate::setting::{ROWS, Scene};

const PROVIDER: &str = "/usr/lib/galera/libgalera_smm.so";

fn state(server: &Server) -> String {
    server.one(
        "SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME = 'wsrep_local_state_comment'",
    )
}

fn wait_until_synced(server: &Server) {
    let begun = Instant::now();
    while state(server) != "Synced" {
        assert!(
            begun.elapsed() < Duration::from_secs(120),
            "the node is {}",
            state(server)
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_node_leaves_flow_control_while_it_is_locked() {
    if Kind::chosen() != Kind::Btrfs {
        return;
    }
    if !Path::new(PROVIDER).exists() {
        missing("Galera (galera-4)");
        return;
    }
    let port = server::free_port();
    let listens = format!("base_port={port};gmcast.listen_addr=tcp://127.0.0.1:{port};gcache.size=1M");
    let options = [
        ("wsrep-on", "1"),
        ("wsrep-provider", PROVIDER),
        ("wsrep-cluster-address", "gcomm://"),
        ("wsrep-cluster-name", "snapback-test"),
        ("wsrep-node-address", "127.0.0.1"),
        ("wsrep-provider-options", &listens),
        ("innodb-autoinc-lock-mode", "2"),
        ("log-slave-updates", "1"),
    ];
    let Some(lab) = Lab::new() else { return };
    let datadir = lab.storage.volume("db").join("data");
    let server = Server::create(Flavour::MariaDb, &datadir, &lab.path("run"), &options);
    wait_until_synced(&server);
    load::set_up(&server.socket, true, true, ROWS);
    let tool = Tool::new(lab.dir.path(), &server, "");
    let scene = Scene {
        server,
        tool,
        lab,
        only_innodb: true,
    };
    let load = scene.start_load();
    for strategy in ["ftwrl", "backup-stage"] {
        let gate = scene.lab.path(&format!("gate-{strategy}"));
        let reached = scene.lab.path(&format!("gate-{strategy}.reached"));
        let failpoint = format!("backup.locked=pause:{}", gate.display());
        let args = ["--json", "backup", "--lock", strategy, "--hold-limit", "10m"];
        let mut child = scene.tool.spawn(&failpoint, &args);
        while !reached.exists() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let locked = state(&scene.server);
        std::fs::write(&gate, "").unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(matches!(output.status.code(), Some(0 | 5)), "{}", both(&output));
        assert_eq!(locked, "Donor/Desynced", "{strategy}");
        wait_until_synced(&scene.server);

        let output = scene
            .tool
            .with_failpoint("backup.locked=kill", &["backup", "--lock", strategy]);
        assert_eq!(output.status.code(), None, "{}", both(&output));
        wait_until_synced(&scene.server);
        scene.assert_writable();
        scene.cleanup();
    }
    let before = load.acknowledged();
    let backup = scene.tool.json(&["backup"]);
    load.stop();
    assert_eq!(backup["lock"]["strategy"], "backup-stage");
    scene.prove_exact(&backup, &before, "restored");
    scene.assert_nothing_left();
}
