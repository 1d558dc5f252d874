//! MySQL and MariaDB.

pub mod account;
mod attempt;
pub mod binlog;
pub mod blockers;
pub mod connect;
pub mod datadir;
pub mod durability;
mod engines;
pub mod facts;
pub mod flavour;
pub mod grants;
mod grounds;
pub mod guard;
pub mod held;
pub mod lockless;
pub mod option_file;
pub mod paths;
pub mod peer;
pub mod place;
pub mod position;
pub mod privileges;
pub mod retry;
mod same_server;
pub mod scratch;
mod server;
pub mod session;
pub mod stopped;
pub mod strategy;
pub mod stream;
pub mod watchdog;
pub mod whole_log;
mod wire;

pub use account::{Account, Feature, Login, account_sql};
pub use durability::restore_setting;
pub use server::{Server, connect};

/// How the configured server is reached, without secrets: `socket /run/...` or `host:port`.
///
/// # Errors
/// Its option file is wrong.
pub fn address(server: &crate::config::Server) -> crate::database::Result<String> {
    Ok(connect::ConnectOptions::new(server)?.address())
}
