//! A server whose listening sockets somebody else made: systemd's socket activation (mariadb.socket), where the kernel names pid 1 as the peer.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::common::{Flavour, Lab, Server, Tool, both, text};

/// As systemd does: makes both listeners, hands them to the server as descriptors 3 and 4, and keeps them open itself.
fn activator(lab: &Lab) -> PathBuf {
    let script = lab.path("activator");
    let body = r#"#!/usr/bin/python3
import os, signal, socket, subprocess, sys
def option(name):
    return next(one.split("=", 1)[1] for one in sys.argv if one.startswith("--" + name + "="))
at = option("socket")
if os.path.exists(at):
    os.unlink(at)
local = socket.socket(socket.AF_UNIX)
local.bind(at)
local.listen(64)
port = socket.socket()
port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
port.bind(("127.0.0.1", int(option("port"))))
port.listen(64)
child = os.fork()
if child == 0:
    # Out of the way first: one of them may be 3 or 4 already.
    high = [os.dup(local.fileno()), os.dup(port.fileno())]
    high = [os.dup(one) for one in high]
    os.dup2(high[0], 3)
    os.dup2(high[1], 4)
    os.closerange(5, 64)
    os.environ["LISTEN_FDS"] = "2"
    os.environ["LISTEN_PID"] = str(os.getpid())
    os.execvp("setpriv", ["setpriv", "--pdeathsig", "KILL", "mariadbd"] + sys.argv[1:])
signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status) & 255)
"#;
    std::fs::write(&script, body).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    script
}

fn tool(lab: &Lab, name: &str, address: &str) -> Tool {
    let directory = lab.path(name);
    std::fs::create_dir(&directory).unwrap();
    let tool = Tool::bare(&directory, &format!("server:\n{address}  user: root\n"));
    tool.ok(&["init", "--repository", &text(&tool.repository)]);
    tool
}

fn activated(lab: &Lab, data: &Path) -> Server {
    let program = activator(lab);
    Server::create(Flavour::MariaDb, data, &lab.path("first"), &[]).stop();
    Server::by(Some(&program), Flavour::MariaDb, data, &lab.path("run"), &[])
}

#[test]
fn a_server_that_systemd_listens_for_is_proved_by_who_holds_the_connection() {
    if !Flavour::MariaDb.available() {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    let data = lab.storage.volume("v").join("data");
    let mut server = activated(&lab, &data);
    let by_socket = format!("  socket: {}\n", text(&server.socket));
    let by_port = format!("  host: 127.0.0.1\n  port: {}\n", server.port);
    for (name, address) in [("by-socket", by_socket), ("by-port", by_port)] {
        let tool = tool(&lab, name, &address);
        let checked = both(&tool.run(&["check"]));
        assert!(
            !checked.contains("nothing proves") && !checked.contains("another"),
            "{checked}"
        );
        let backup = tool.json(&["backup"]);
        assert_eq!(backup["consistency"], "application", "{name}: {backup}");
    }
    server.stop();
}

#[test]
fn a_proxy_that_answers_at_a_socket_proves_nothing() {
    if !Flavour::MariaDb.available() {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    let data = lab.storage.volume("v").join("data");
    let server = Server::create(Flavour::MariaDb, &data, &lab.path("real"), &[]);
    let front = lab.path("front");
    let script = format!(
        "import socket,threading\nl=socket.socket(socket.AF_UNIX);l.bind({front:?});l.listen(8)\n\
         def pump(a,b):\n while True:\n  d=a.recv(65536)\n  if not d: b.shutdown(1); return\n  b.sendall(d)\n\
         while True:\n c,_=l.accept();s=socket.socket(socket.AF_UNIX);s.connect({back:?})\n \
         threading.Thread(target=pump,args=(c,s)).start();threading.Thread(target=pump,args=(s,c)).start()\n",
        front = text(&front),
        back = text(&server.socket),
    );
    let mut proxy = std::process::Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "python3", "-c", &script])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while !front.exists() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let tool = tool(&lab, "by-proxy", &format!("  socket: {}\n", text(&front)));
    let refused = both(&tool.run(&["check"]));
    proxy.kill().unwrap();
    proxy.wait().unwrap();
    assert!(
        refused.contains("nothing proves") && refused.contains("python3") && refused.contains("does not work there"),
        "{refused}"
    );
}
