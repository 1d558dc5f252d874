//! The network between the tool and its server goes away while the lock is held: the tool ends, says why, and the server is free again.
//! Needs `--features failpoints`.

use std::process::Output;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common::server::signal;
use crate::common::{Flavour, Server, both, run, text, wait_for_file};
use crate::setting::Scene;

const PASSWORD: &str = "hush";
/// Longer than it ever took; without an end of its own it was minutes.
const BY_ITSELF: Duration = Duration::from_secs(15);
/// docs/cli.md promises 2 s; the machine may be busy.
const AFTER_TERM: Duration = Duration::from_secs(3);

/// A network namespace, and two ends of a cable.
struct Network {
    name: String,
    near: String,
    server: String,
}

impl Network {
    fn new() -> Network {
        let number = std::process::id() % 10_000;
        let network = Network {
            name: format!("snapback-test-{number}"),
            near: format!("sbn{number}"),
            server: format!("10.99.{}.2", number % 250),
        };
        let (far, name) = (format!("sbf{number}"), network.name.as_str());
        let host = format!("10.99.{}.1/30", number % 250);
        let inside = |words: &[&str]| run("ip", &[&["-n", name], words].concat());
        run("ip", &["netns", "add", name]);
        run(
            "ip",
            &["link", "add", &network.near, "type", "veth", "peer", "name", &far],
        );
        run("ip", &["link", "set", &far, "netns", name]);
        run("ip", &["addr", "add", &host, "dev", &network.near]);
        run("ip", &["link", "set", &network.near, "up"]);
        inside(&["addr", "add", &format!("{}/30", network.server), "dev", &far]);
        inside(&["link", "set", &far, "up"]);
        inside(&["link", "set", "lo", "up"]);
        network
    }

    fn set(&self, state: &str) {
        run("ip", &["link", "set", &self.near, state]);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for words in [["link", "del", self.near.as_str()], ["netns", "del", &self.name]] {
            let _ = std::process::Command::new("ip").args(words).output();
        }
    }
}

/// The server moves into the namespace, and is asked over TCP.
fn scene(network: &Network) -> Option<Scene> {
    use std::os::unix::fs::PermissionsExt;
    let mut scene = Scene::new(Flavour::MariaDb, &[], true, "")?;
    scene.server.stop();
    let wrapper = scene.lab.path("mariadbd-inside");
    let script = format!(
        "#!/bin/sh\nexec nsenter --net=/run/netns/{} mariadbd \"$@\"\n",
        network.name
    );
    std::fs::write(&wrapper, script).unwrap();
    std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let (datadir, work) = (scene.server.datadir.clone(), scene.lab.path("run"));
    let options = [("bind-address", network.server.as_str())];
    scene.server = Server::by(Some(&wrapper), Flavour::MariaDb, &datadir, &work, &options);
    scene
        .server
        .exec(&format!("CREATE USER far@'%' IDENTIFIED BY '{PASSWORD}'"));
    scene.server.exec("GRANT ALL ON *.* TO far@'%'");
    let file = scene.lab.path("far.cnf");
    let (host, port) = (&network.server, scene.server.port);
    let text_of = format!("[client]\nuser=far\npassword={PASSWORD}\nhost={host}\nport={port}\nssl-mode=disabled\n");
    std::fs::write(&file, text_of).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let yaml = std::fs::read_to_string(&scene.tool.config).unwrap();
    let head = yaml.split("server:").next().unwrap();
    let yaml = format!(
        "{head}server: {{defaults_file: {}, accept_unproved: true}}\nlock: {{hold_limit: 1s, acquire_timeout: 1s}}\n",
        text(&file)
    );
    std::fs::write(&scene.tool.config, yaml).unwrap();
    Some(scene)
}

/// Cuts the cable while the lock is held. How the tool ended, and how long after the cut, or after SIGTERM.
fn cut(scene: &Scene, network: &Network, strategy: &str, term: bool) -> (Output, Duration) {
    let (gate, reached) = (scene.lab.path("gate"), scene.lab.path("gate.reached"));
    for old in [&gate, &reached] {
        let _ = std::fs::remove_file(old);
    }
    let armed = format!("lock.granted=pause:{}@1", text(&gate));
    let tool = scene.tool.spawn(&armed, &["--quiet", "backup", "--lock", strategy]);
    let pid = tool.id();
    wait_for_file(&reached);
    network.set("down");
    std::fs::write(&gate, "").unwrap();
    if term {
        std::thread::sleep(Duration::from_millis(200));
        signal(pid, Signal::TERM);
    }
    let begun = Instant::now();
    let output = tool.wait_with_output().unwrap();
    (output, begun.elapsed())
}

#[test]
fn a_partition_in_mid_hold_ends_the_backup_and_leaves_no_lock() {
    if !Flavour::MariaDb.available() {
        return;
    }
    let network = Network::new();
    let Some(scene) = scene(&network) else { return };
    scene.tool.json(&["backup"]);
    for strategy in ["ftwrl", "backup-stage"] {
        for term in [false, true] {
            let (output, took) = cut(&scene, &network, strategy, term);
            eprintln!("{strategy}, SIGTERM {term}: {took:?}: {}", both(&output).trim());
            let (status, bound) = match term {
                true => (143, AFTER_TERM),
                false => (1, BY_ITSELF),
            };
            assert_eq!(output.status.code(), Some(status), "{strategy}: {}", both(&output));
            assert!(took < bound, "{strategy}: {took:?}: {}", both(&output));
            // The cable is still cut: the server has let go of the lock by itself, or does so within its limit.
            std::thread::sleep(Duration::from_secs(2));
            scene.assert_writable();
            network.set("up");
            scene.cleanup();
            scene.assert_nothing_left();
        }
    }
    // The network is there again, and all is as before.
    scene.tool.json(&["backup"]);
}
