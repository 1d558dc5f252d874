//! `snapback::database` against real MariaDB and MySQL servers.
// What the servers did is worth reading with --nocapture.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod binlog;
mod broken;
mod busy;
mod exact;
mod examine;
mod harness;
mod hold;
mod replica;
mod safety;
mod server;
#[path = "../../common/template.rs"]
mod template;
