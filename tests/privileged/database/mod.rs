//! `snapback::database` against real MariaDB and MySQL servers.

mod binlog;
mod busy;
mod harness;
mod hold;
mod safety;
mod server;
