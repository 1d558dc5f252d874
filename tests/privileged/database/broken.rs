//! A server whose connections break at any step: an error with words, no panic, nothing left locked.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use snapback::database::mysql::Server;
use snapback::database::{Database, Flavour, Strategy};

use super::harness::{Run, plan};
use super::server::TestServer;

/// Passes bytes between a socket of its own and the server's, and cuts everything after so many messages.
struct Cutter {
    socket: PathBuf,
    left: Arc<AtomicI64>,
    stop: Arc<AtomicBool>,
}

impl Cutter {
    fn start(dir: &Path, server: PathBuf, messages: i64) -> Cutter {
        let socket = dir.join(format!("cut{messages}.sock"));
        let listener = UnixListener::bind(&socket).unwrap();
        let cutter = Cutter {
            socket,
            left: Arc::new(AtomicI64::new(messages)),
            stop: Arc::default(),
        };
        let (left, stop) = (Arc::clone(&cutter.left), Arc::clone(&cutter.stop));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let upstream = UnixStream::connect(&server).unwrap();
                pass(&client, &upstream, &left);
                pass(&upstream, &client, &left);
            }
        });
        cutter
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        drop(UnixStream::connect(&self.socket));
    }
}

fn pass(from: &UnixStream, to: &UnixStream, left: &Arc<AtomicI64>) {
    let (mut from, mut to, left) = (from.try_clone().unwrap(), to.try_clone().unwrap(), Arc::clone(left));
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if left.fetch_sub(1, Ordering::SeqCst) <= 0 || to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        drop(from.shutdown(Shutdown::Both));
        drop(to.shutdown(Shutdown::Both));
    });
}

#[test]
fn a_connection_that_breaks_at_any_step_is_an_error_and_leaves_nothing_locked() {
    for (flavour, strategy) in [
        (Flavour::MariaDb, Strategy::BackupStage),
        (Flavour::MariaDb, Strategy::Ftwrl),
        (Flavour::MySql, Strategy::Instance),
    ] {
        let server = TestServer::start(flavour, &["--innodb-flush-log-at-trx-commit=0"]);
        server.sql("CREATE DATABASE t; CREATE TABLE t.i (a INT)");
        let dir = tempfile::tempdir().unwrap();
        let (mut whole, mut messages) = (false, 0);
        while !whole {
            let cutter = Cutter::start(dir.path(), server.socket(), messages);
            let config = snapback::config::Server {
                socket: Some(cutter.socket.clone()),
                ..server.config()
            };
            let outcome = backup(&config, strategy);
            whole = cutter.left.load(Ordering::SeqCst) > 0;
            drop(cutter);
            assert!(
                !whole || outcome.is_ok(),
                "{flavour:?}: nothing was cut, yet {outcome:?}"
            );
            if let Err(error) = &outcome {
                assert!(!error.is_empty());
            }
            // Writers go on at once, and every connection of ours is gone.
            let begun = Instant::now();
            server.sql("INSERT INTO t.i VALUES (1); CREATE TABLE t.x (a INT); DROP TABLE t.x");
            assert!(
                begun.elapsed() < Duration::from_secs(1),
                "{flavour:?} cut after {messages}: still locked"
            );
            messages += 1;
        }
        println!("{flavour:?} {strategy:?}: cut at each of {messages} messages");
        assert!(messages > 30);
        server.wait_until_alone();
    }
}

fn backup(config: &snapback::config::Server, strategy: Strategy) -> Result<(), String> {
    let text = |error: snapback::Error| error.to_string();
    let mut server = Server::connect(config).map_err(|error| error.to_string())?;
    server.examine(&plan(strategy)).map_err(|error| error.to_string())?;
    let run = Run::new();
    let held = run.quiesce(&mut server, &plan(strategy)).map_err(text)?;
    held.release().map(drop).map_err(|error| error.to_string())
}

#[test]
fn what_is_no_server_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    for (number, greeting) in [
        &b""[..],
        b"\0",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        &[0xff; 64],
        b"\x01\0\0\0\x0a",
        b"\x05\0\0\0\xff\x10\x04#0",
    ]
    .iter()
    .enumerate()
    {
        let socket = dir.path().join(format!("{number}.sock"));
        let listener = UnixListener::bind(&socket).unwrap();
        let greeting = greeting.to_vec();
        let thread = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            drop(client.write_all(&greeting));
        });
        let config = snapback::config::Server {
            socket: Some(socket),
            ..Default::default()
        };
        let error = Server::connect(&config).err().unwrap();
        println!("{error}");
        assert!(
            error.to_string().starts_with("cannot connect to the server at socket"),
            "{error}"
        );
        thread.join().unwrap();
    }
    let config = snapback::config::Server {
        socket: Some("/nonexistent/s.sock".into()),
        ..Default::default()
    };
    let error = Server::connect(&config).err().unwrap();
    assert!(error.to_string().contains("/nonexistent/s.sock"), "{error}");
}

#[test]
fn a_server_that_says_nothing_is_given_up_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    let file = dir.path().join("my.cnf");
    std::fs::write(&file, "[snapback]\nconnect-timeout=1\n").unwrap();
    let config = snapback::config::Server {
        socket: Some(socket),
        defaults_file: Some(file),
        ..Default::default()
    };
    let begun = Instant::now();
    let error = Server::connect(&config).err().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(3));
    assert!(
        error.to_string().contains("did not answer completely within 1s"),
        "{error}"
    );
}
