//! The server's own log printer and client: beside its program, else installed.

use crate::database::Flavour;
use crate::database::mysql::scratch::Binary;
use crate::sys::command::Program;
use crate::{Error, Result};

/// Which program.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// Prints logs as statements.
    Printer,
    /// Gives statements to a server.
    Client,
}

/// Finds it: `mysqld-9.7` has a `mysqlbinlog-9.7` beside it, `/opt/x/sbin/mysqld` one in `/opt/x/bin`.
pub(super) fn find(server: &Binary, kind: Kind) -> Result<Program> {
    let names: &[&str] = match (server.flavour, kind) {
        (Flavour::MariaDb, Kind::Printer) => &["mariadb-binlog", "mysqlbinlog"],
        (Flavour::MariaDb, Kind::Client) => &["mariadb", "mysql"],
        (Flavour::MySql, Kind::Printer) => &["mysqlbinlog"],
        (Flavour::MySql, Kind::Client) => &["mysql"],
    };
    let path = server.program.path();
    let own = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let suffix = ["mariadbd", "mysqld"]
        .iter()
        .find_map(|name| own.strip_prefix(name))
        .unwrap_or_default();
    let directory = path.parent().map(std::path::Path::to_owned).unwrap_or_default();
    let beside = names.iter().flat_map(|name| {
        let name = format!("{name}{suffix}");
        [directory.join(&name), directory.join("../bin").join(name)]
    });
    for path in beside {
        if let Some(program) = path.is_file().then(|| Program::trusted(path).ok()).flatten() {
            return Ok(program);
        }
    }
    let installed = names.iter().find_map(|name| Program::find(name).ok());
    installed.ok_or_else(|| {
        Error::failed(format!(
            "no {} is beside {} or installed: install the server's client programs",
            names[0],
            path.display()
        ))
    })
}
