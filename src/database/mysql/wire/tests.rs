//! Servers that are none, or not the right one.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::database::Error;
use crate::database::mysql::connect::{ConnectOptions, Secret, Target, Tls, TlsMode};
use crate::database::mysql::session::{Session, settings};
use crate::sys::host;

const PASSWORD: &str = "S3cretPass";
const NONCE: &[u8] = b"12345678abcdefghijkl";
const OK: &[u8] = b"\0\0\0\x02\0\0\0";
/// The user `nobody`.
const STRANGER: u32 = 65534;

/// The server's side of one connection.
struct Talk {
    stream: TcpStream,
    sequence: u8,
}

impl Talk {
    fn send(&mut self, payload: &[u8]) {
        let mut bytes = (payload.len() as u32).to_le_bytes()[..3].to_vec();
        bytes.push(self.sequence);
        bytes.extend(payload);
        self.sequence = self.sequence.wrapping_add(1);
        // The client may have gone away, which is what these tests want.
        let _ = self.stream.write_all(&bytes);
    }

    /// `None` when the client has gone away.
    fn receive(&mut self) -> Option<Vec<u8>> {
        let mut head = [0; 4];
        self.stream.read_exact(&mut head).ok()?;
        self.sequence = head[3].wrapping_add(1);
        let length = usize::from(head[0]) | usize::from(head[1]) << 8 | usize::from(head[2]) << 16;
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).ok()?;
        Some(payload)
    }

    fn greet(&mut self, plugin: &str) -> Option<Vec<u8>> {
        let mut greeting = b"\x0a10.11.19-MariaDB\0\x07\0\0\0".to_vec();
        greeting.extend(&NONCE[..8]);
        // All but TLS.
        greeting.extend(b"\0\xff\xf7\x21\x02\0\xff\xff\x15");
        greeting.extend([0; 10]);
        greeting.extend(&NONCE[8..]);
        greeting.push(0);
        greeting.extend(plugin.as_bytes());
        greeting.push(0);
        self.send(&greeting);
        self.receive()
    }

    fn change(&mut self, plugin: &str) -> Option<Vec<u8>> {
        let mut request = vec![0xfe];
        request.extend(plugin.as_bytes());
        request.push(0);
        request.extend(NONCE);
        request.push(0);
        self.send(&request);
        self.receive()
    }

    /// The head of a result with one column.
    fn column(&mut self) {
        self.send(&[1]);
        self.send(b"\x03def\0\0\0\x01x\x01x\x0c\x21\0\xff\0\0\0\xfd\0\0\0\0\0");
        self.send(b"\xfe\0\0\x02\0");
    }

    /// Lets the client in, answers what every session asks first, and takes the next question.
    fn let_in(&mut self) -> Option<()> {
        self.greeted()?;
        self.receive().map(drop)
    }

    /// Lets the client in and answers what every session asks first.
    fn greeted(&mut self) -> Option<()> {
        self.greet("mysql_native_password")?;
        self.send(OK);
        self.receive()?;
        let settings = settings::good_answer();
        self.table(&[("id", "7")], true);
        self.table(&settings, false);
        Some(())
    }

    /// A result of one row; `more`: another one follows.
    fn table(&mut self, cells: &[(&str, &str)], more: bool) {
        self.send(&[u8::try_from(cells.len()).unwrap()]);
        let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
        for (name, _) in cells {
            let tail = b"\x0c\x21\0\xff\0\0\0\xfd\0\0\0\0\0".to_vec();
            self.send(&[b"\x03def\0\0\0".to_vec(), text(name), text(name), tail].concat());
        }
        self.send(b"\xfe\0\0\x02\0");
        let values: Vec<u8> = cells.iter().flat_map(|(_, value)| text(value)).collect();
        self.send(&values);
        self.send(&[0xfe, 0, 0, if more { 0x0a } else { 0x02 }, 0]);
    }
}

struct Fake {
    port: u16,
    thread: JoinHandle<()>,
}

/// Serves one connection as this user (a thread has users of its own).
fn serve(user: u32, talk: impl FnOnce(&mut Talk) + Send + 'static) -> Fake {
    let (port, bound) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        if user != host::user_id() {
            rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(user)).unwrap();
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        port.send(listener.local_addr().unwrap().port()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        talk(&mut Talk { stream, sequence: 0 });
    });
    Fake {
        port: bound.recv().unwrap(),
        thread,
    }
}

fn options(port: u16) -> ConnectOptions {
    ConnectOptions {
        target: Target::Tcp("127.0.0.1".into(), port),
        user: "u".into(),
        password: Some(Secret::new(PASSWORD)),
        tls: Tls {
            mode: TlsMode::Preferred,
            ca: None,
            identity: None,
            server_public_key: None,
        },
        connect_timeout: Duration::from_secs(2),
    }
}

/// What a session says about such a server, which must end soon after the limit.
fn error_of(fake: Fake, limit: Duration, statement: &str) -> String {
    let begun = Instant::now();
    let error = match Session::open(&options(fake.port), limit) {
        Ok(mut session) => session.rows(statement).unwrap_err(),
        Err(error) => error,
    };
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    fake.thread.join().unwrap();
    error.to_string()
}

#[test]
fn the_password_is_not_told_to_a_server_that_nothing_proves() {
    let (seen, said) = mpsc::channel();
    let fake = serve(host::user_id(), move |talk| {
        talk.greet("mysql_native_password");
        talk.change("caching_sha2_password");
        talk.send(b"\x01\x04");
        seen.send(talk.receive()).unwrap();
    });
    let error = error_of(fake, Duration::from_secs(5), "");
    assert_eq!(said.recv().unwrap(), None, "not even a wish for the server's key");
    for word in [
        "no TLS",
        "the password was not sent",
        "socket",
        "ssl-ca",
        "server-public-key-path",
    ] {
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn a_process_of_a_stranger_proves_nothing() {
    if !host::is_root() {
        return;
    }
    for (user, good) in [(0, true), (STRANGER, false)] {
        let fake = serve(user, |talk| drop(talk.receive()));
        let target = Target::Tcp("127.0.0.1".into(), fake.port);
        let line = crate::sys::line::Line::tcp("127.0.0.1", fake.port, Duration::from_secs(5)).unwrap();
        // Until it is accepted nobody has it.
        let begun = Instant::now();
        let proved = loop {
            let proved = super::peer::prove(&target, &line);
            if proved.is_ok() == good || begun.elapsed() > Duration::from_secs(5) {
                break proved;
            }
        };
        assert_eq!(proved.is_ok(), good, "{proved:?}");
        drop(line);
        fake.thread.join().unwrap();
    }
}

#[test]
fn nor_is_a_key_used_that_the_configuration_does_not_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("no.pem");
    std::fs::write(&path, "no key").unwrap();
    let (seen, said) = mpsc::channel();
    let fake = serve(host::user_id(), move |talk| {
        talk.greet("caching_sha2_password");
        talk.send(b"\x01\x04");
        seen.send(talk.receive()).unwrap();
    });
    let mut options = options(fake.port);
    options.tls.server_public_key = Some(path);
    let error = Session::open(&options, Duration::from_secs(5)).unwrap_err().to_string();
    assert!(error.contains("RSA public key"), "{error}");
    fake.thread.join().unwrap();
    assert_eq!(said.recv().unwrap(), None);
}

#[test]
fn exchanges_that_give_the_password_away_are_refused() {
    for plugin in [
        "mysql_clear_password",
        "dialog",
        "mysql_old_password",
        "",
        "sha256_password",
    ] {
        let (seen, said) = mpsc::channel();
        let fake = serve(host::user_id(), move |talk| {
            talk.greet("mysql_native_password");
            seen.send(talk.change(plugin)).unwrap();
        });
        let error = error_of(fake, Duration::from_secs(5), "");
        assert_eq!(said.recv().unwrap(), None, "{plugin}");
        assert!(error.contains(&format!("the exchange `{plugin}`")), "{error}");
    }
}

#[test]
fn exchanges_that_do_not_are_made_and_never_show_it() {
    for (plugin, length) in [
        ("mysql_native_password", 20),
        ("caching_sha2_password", 32),
        ("client_ed25519", 64),
    ] {
        let (seen, said) = mpsc::channel();
        let fake = serve(host::user_id(), move |talk| {
            talk.greet("mysql_native_password");
            seen.send(talk.change(plugin)).unwrap();
            if plugin == "caching_sha2_password" {
                talk.send(b"\x01\x03");
            }
            talk.send(b"\xff\x15\x04#28000no");
        });
        let error = error_of(fake, Duration::from_secs(5), "");
        assert!(error.contains("no (error 1045)"), "{plugin}: {error}");
        let proof = said.recv().unwrap().unwrap();
        assert_eq!(proof.len(), length, "{plugin}");
        assert!(
            !proof
                .windows(4)
                .any(|four| PASSWORD.as_bytes().windows(4).any(|p| p == four))
        );
    }
}

#[test]
fn a_server_that_never_greets_is_left() {
    let fake = serve(host::user_id(), |talk| drop(talk.receive()));
    let error = error_of(fake, Duration::from_millis(300), "");
    assert!(error.contains("did not answer completely within 300ms"), "{error}");
    let fake = serve(host::user_id(), |talk| {
        while talk.stream.write_all(&[1]).is_ok() {
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    error_of(fake, Duration::from_millis(300), "");
}

#[test]
fn rows_that_trickle_have_one_limit_together() {
    let fake = serve(host::user_id(), |talk| {
        if talk.let_in().is_some() {
            talk.column();
            while talk.stream.write_all(b"\x02\0\0\x05\x01x").is_ok() {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    });
    let error = error_of(fake, Duration::from_millis(500), "SELECT x");
    assert!(error.contains("did not answer completely within 500ms"), "{error}");
    assert!(error.contains("`SELECT x`") && error.contains("127.0.0.1:"), "{error}");
}

#[test]
fn endless_answers_have_a_bound() {
    let ends = |answer: fn(&mut Talk), words: &str| {
        let fake = serve(host::user_id(), move |talk| {
            if talk.let_in().is_some() {
                answer(talk);
                // Until the client goes away.
                let _ = talk.receive();
            }
        });
        let error = error_of(fake, Duration::from_secs(60), "SELECT x");
        assert!(error.contains(words), "{error}");
    };
    let rows = |talk: &mut Talk| {
        talk.column();
        while !talk.gone_after_row() {}
    };
    ends(rows, "its answer is longer than");
    ends(
        |talk| while !talk.gone_after(b"\xff\xff\xff\0", 0xff) {},
        "a packet of more than",
    );
    ends(
        |talk| talk.send(b"\xff\xff\xff\x01\x02\x03\0\0\0\x01x"),
        "progress, which nobody asked for",
    );
    ends(|talk| talk.send(b"\xfb/etc/passwd"), "asked for a file of this host");
    ends(|talk| talk.send(b"\xfd\xff\xff\xff"), "no number of columns");
    ends(|talk| talk.send(b""), "an empty packet");
    ends(
        |talk| {
            for _ in 0..5000 {
                talk.send(b"\0\0\0\x0a\0\0\0");
            }
        },
        "more than 4096 results",
    );
}

impl Talk {
    fn gone_after_row(&mut self) -> bool {
        self.gone_after(&[0xff, 0xff, 0x03, 0, 0xfd, 0xfb, 0xff, 0x03], b'x')
    }

    /// Sends a head and 256 KiB or so of one byte.
    fn gone_after(&mut self, head: &[u8], byte: u8) -> bool {
        let length = usize::from(head[0]) | usize::from(head[1]) << 8 | usize::from(head[2]) << 16;
        let mut bytes = head.to_vec();
        bytes.resize(4 + length, byte);
        self.stream.write_all(&bytes).is_err()
    }
}

#[test]
fn what_a_server_says_of_an_error_is_shortened() {
    let fake = serve(host::user_id(), |talk| {
        let mut error = b"\xff\x28\x04#08004".to_vec();
        error.resize(1 << 20, b'x');
        talk.send(&error);
    });
    let error = Session::open(&options(fake.port), Duration::from_secs(5)).unwrap_err();
    fake.thread.join().unwrap();
    assert!(matches!(error, Error::Connect { code: 1064, .. }), "{error:?}");
    assert!(error.to_string().len() < 8 << 10);
}

#[test]
fn a_stranger_at_a_socket_is_told_nothing() {
    if !host::is_root() {
        return;
    }
    // A directory in which everybody may make a socket, as /tmp.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let (ready, made) = mpsc::channel();
    std::os::unix::fs::chown(dir.path(), Some(STRANGER), None).unwrap();
    let at = path.clone();
    let stranger = std::thread::spawn(move || {
        rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(STRANGER)).unwrap();
        let listener = std::os::unix::net::UnixListener::bind(at).unwrap();
        ready.send(()).unwrap();
        drop(listener.accept());
        drop(listener.accept());
    });
    made.recv().unwrap();
    let line = || crate::sys::line::Line::unix(&path, Duration::from_secs(5)).unwrap();
    let target = Target::Socket(path.clone());
    assert_eq!(
        super::peer::prove(&target, &line()),
        Ok(()),
        "only root and nobody can make a socket there"
    );
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
    let error = super::peer::prove(&target, &line()).unwrap_err();
    assert!(error.contains("it runs as nobody"), "{error}");
    stranger.join().unwrap();
}

#[test]
fn a_statement_with_a_secret_goes_only_to_a_proved_server() {
    if !host::is_root() {
        return;
    }
    let secret = "CHANGE MASTER TO MASTER_PASSWORD='Else1Pass'";
    for (user, good) in [(0, true), (STRANGER, false)] {
        let (seen, said) = mpsc::channel();
        let fake = serve(user, move |talk| {
            let asked = talk.greeted().and_then(|()| talk.receive());
            talk.send(OK);
            seen.send(asked).unwrap();
        });
        let mut session = Session::open(&options(fake.port), Duration::from_secs(5)).unwrap();
        let answer = session.run_secret(secret, "CHANGE MASTER TO MASTER_PASSWORD='<password>'");
        drop(session);
        let asked = said.recv().unwrap().unwrap_or_default();
        fake.thread.join().unwrap();
        let told = String::from_utf8_lossy(&asked).contains("Else1Pass");
        assert_eq!((answer.is_ok(), told), (good, good), "{answer:?}");
        if let Err(error) = answer {
            let error = error.to_string();
            assert!(error.contains("nobody") && error.contains("was not sent"), "{error}");
            assert!(!error.contains("Else1Pass"), "{error}");
        }
    }
}
