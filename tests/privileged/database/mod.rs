//! `snapback::database` against real MariaDB and MySQL servers.

mod harness;
mod hold;
mod server;
