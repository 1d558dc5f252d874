//! `snapback::database` against real MariaDB and MySQL servers.

mod busy;
mod harness;
mod hold;
mod safety;
mod server;
