//! `snapback::database` against real MariaDB and MySQL servers.

mod binlog;
mod broken;
mod busy;
mod examine;
mod harness;
mod hold;
mod safety;
mod server;
