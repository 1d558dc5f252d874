//! Accounts that are let in in ways of their own, or not at all: what is said of them, on real servers.

use crate::common::server::engines_prefix;
use crate::common::{Flavour, Server, Tool, both, text};

/// Accounts with this password.
const PASSWORD: &str = "hush";

struct Scene {
    server: Server,
    dir: tempfile::TempDir,
}

impl Scene {
    fn new(flavour: Flavour, options: &[(&str, &str)]) -> Option<Scene> {
        if !flavour.available() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let server = Server::create(flavour, &dir.path().join("data"), &dir.path().join("work"), options);
        Some(Scene { server, dir })
    }

    /// Asks the server as this account: status and words.
    fn ask(&self, user: &str) -> (i32, String) {
        let socket = text(&self.server.socket);
        let tool = Tool::bare(
            self.dir.path(),
            &format!("server: {{socket: {socket}, user: {user}}}\n"),
        );
        let mut command = tool.command(&["init", "--print-grants"]);
        let output = command.env("SNAPBACK_MYSQL_PASSWORD", PASSWORD).output().unwrap();
        let said = both(&output);
        for word in ["panicked", "backtrace", "no answer within", "itself is at fault"] {
            assert!(!said.contains(word), "{said}");
        }
        assert!(!said.contains(PASSWORD), "{said}");
        (output.status.code().unwrap_or(-1), said)
    }

    fn account(&self, with: &str) {
        self.server.exec(&format!("CREATE USER b@localhost {with}"));
        self.server.exec("GRANT ALL ON *.* TO b@localhost");
    }
}

#[test]
fn an_account_with_ed25519_is_let_in() {
    let Some(prefix) = engines_prefix() else { return };
    let plugins = text(&prefix.join("lib/mysql/plugin"));
    let Some(scene) = Scene::new(Flavour::MariaDb, &[("plugin-dir", &plugins)]) else {
        return;
    };
    scene.server.exec("INSTALL SONAME 'auth_ed25519'");
    scene.account(&format!("IDENTIFIED VIA ed25519 USING PASSWORD('{PASSWORD}')"));
    let (status, said) = scene.ask("b");
    assert_eq!(status, 0, "{said}");
    scene
        .server
        .exec("ALTER USER b@localhost IDENTIFIED VIA ed25519 USING PASSWORD('other')");
    let (status, said) = scene.ask("b");
    assert!(status == 1 && said.contains("Access denied"), "{said}");
}

fn an_account_that_requires_tls(flavour: Flavour) {
    let Some(scene) = Scene::new(flavour, &[]) else { return };
    scene.account(&format!("IDENTIFIED BY '{PASSWORD}' REQUIRE SSL"));
    let (status, said) = scene.ask("b");
    assert_eq!(status, 1, "{said}");
    assert!(
        said.contains("REQUIRE SSL") && said.contains("ssl-mode=REQUIRED"),
        "{said}"
    );
    scene.server.exec("ALTER USER b@localhost REQUIRE NONE");
    assert_eq!(scene.ask("b").0, 0);
}

#[test]
fn mariadb_an_account_that_requires_tls_is_told_of() {
    an_account_that_requires_tls(Flavour::MariaDb);
}

#[test]
fn mysql_an_account_that_requires_tls_is_told_of() {
    an_account_that_requires_tls(Flavour::MySql);
}

fn no_connection_is_left(flavour: Flavour) {
    let Some(scene) = Scene::new(flavour, &[("max-connections", "10")]) else {
        return;
    };
    // Not `GRANT ALL`: an administrator gets one more.
    scene
        .server
        .exec(&format!("CREATE USER c@localhost IDENTIFIED BY '{PASSWORD}'"));
    let connect = || {
        mysql::Conn::new(
            mysql::OptsBuilder::new()
                .socket(Some(text(&scene.server.socket)))
                .user(Some("c"))
                .pass(Some(PASSWORD)),
        )
    };
    let mut open = Vec::new();
    while let Ok(connection) = connect() {
        open.push(connection);
        assert!(open.len() < 20);
    }
    let (status, said) = scene.ask("c");
    assert_eq!(status, 3, "{said}");
    assert!(said.contains("max_connections"), "{said}");
    drop(open);
    scene.server.exec("ALTER USER c@localhost WITH MAX_USER_CONNECTIONS 1");
    let one = (0..50).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(100));
        connect().ok()
    });
    assert!(one.is_some());
    let (status, said) = scene.ask("c");
    assert_eq!(status, 3, "{said}");
    assert!(said.contains("MAX_USER_CONNECTIONS"), "{said}");
}

#[test]
fn mariadb_is_busy_when_no_connection_is_left() {
    no_connection_is_left(Flavour::MariaDb);
}

#[test]
fn mysql_is_busy_when_no_connection_is_left() {
    no_connection_is_left(Flavour::MySql);
}

/// A server's words reach nobody's terminal as they are: here its error, with the name that was asked for.
#[test]
fn what_a_server_says_is_escaped() {
    let Some(scene) = Scene::new(Flavour::MariaDb, &[]) else {
        return;
    };
    let (status, said) = scene.ask("\"x\\e[2J\\nerror: all is well\"");
    assert_eq!(status, 1, "{said}");
    assert!(said.contains("\\x1b[2J") && !said.contains('\x1b'), "{said}");
    assert!(!said.lines().any(|line| line.starts_with("error: all")), "{said}");
}

/// An account of MySQL 9.7 whose password is asked for (`caching_sha2_password`, not in the server's cache), over TCP: it goes only where
/// the server is proved.
#[test]
fn mysql_over_tcp_gets_a_password_only_when_it_is_proved() {
    use std::os::unix::fs::PermissionsExt;
    let Some(scene) = Scene::new(Flavour::MySql, &[]) else {
        return;
    };
    scene.server.exec(&format!(
        "CREATE USER far@'%' IDENTIFIED WITH caching_sha2_password BY '{PASSWORD}'"
    ));
    scene.server.exec("GRANT ALL ON *.* TO far@'%' WITH GRANT OPTION");
    let at = |name: &str| scene.dir.path().join(name);
    for name in ["public_key.pem", "ca.pem"] {
        std::fs::copy(scene.server.datadir.join(name), at(name)).unwrap();
    }
    for (name, body) in [
        ("no-key.pem", "AAAA"),
        ("empty.pem", ""),
        ("cut.pem", "MIIBIjANBgkqhkiG9w0BAQEF"),
    ] {
        let text = format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n");
        std::fs::write(at(name), text).unwrap();
    }
    let key = |name: &str| format!("ssl-mode=disabled\nserver-public-key-path={}", text(&at(name)));
    let ask = |options: &str| {
        // What it remembers of passwords goes.
        scene.server.exec("FLUSH PRIVILEGES");
        let file = at("far.cnf");
        let port = scene.server.port;
        let words = format!("[client]\nuser=far\npassword={PASSWORD}\nhost=127.0.0.1\nport={port}\n{options}\n");
        std::fs::write(&file, words).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let tool = Tool::bare(
            scene.dir.path(),
            &format!("server: {{defaults_file: {}}}\n", text(&file)),
        );
        let output = tool.run(&["init", "--print-grants"]);
        let said = both(&output);
        assert!(!said.contains(PASSWORD), "{said}");
        (output.status.code().unwrap_or(-1), said)
    };
    let (status, said) = ask("ssl-mode=disabled");
    assert_eq!(status, 1, "{said}");
    for word in [
        "the password was not sent",
        "socket",
        "ssl-ca",
        "server-public-key-path",
    ] {
        assert!(said.contains(word), "{said}");
    }
    for good in [
        key("public_key.pem"),
        // Its certificate is its own work, and the process is root's.
        "ssl-mode=preferred".to_owned(),
        "ssl-mode=required".to_owned(),
        format!("ssl-mode=verify_ca\nssl-ca={}", text(&at("ca.pem"))),
    ] {
        let (status, said) = ask(&good);
        assert_eq!(status, 0, "{good}: {said}");
    }
    for name in ["no-key.pem", "empty.pem", "cut.pem"] {
        let (status, said) = ask(&key(name));
        assert_eq!(status, 1, "{said}");
        assert!(said.contains("is no RSA public key"), "{said}");
        assert!(!said.contains("at fault") && !said.contains("panicked"), "{said}");
        let errors = said.lines().filter(|line| line.starts_with("error")).count();
        assert_eq!(errors, 1, "{said}");
    }
}
