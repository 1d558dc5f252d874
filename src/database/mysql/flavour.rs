//! Which server this is, and what follows from that.
//!
//! The handshake's version is useless on MariaDB (`5.5.5-` for old replicas' sake): only `@@version` tells.

use crate::database::{Flavour, Strategy};

/// Major, minor, patch.
pub type Version = (u32, u32, u32);

/// Flavour and version from `@@version` and `@@version_comment`.
pub fn recognise(version: &str, comment: &str) -> (Flavour, Version) {
    let names_mariadb = |text: &str| text.to_ascii_lowercase().contains("mariadb");
    let flavour = if names_mariadb(version) || names_mariadb(comment) {
        Flavour::MariaDb
    } else {
        Flavour::MySql
    };
    let mut numbers = version
        .split(|c: char| !c.is_ascii_digit())
        .map(|digits| digits.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    (flavour, (next(), next(), next()))
}

/// What a server of this flavour and version can do and how it calls things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    /// MariaDB or MySQL.
    pub flavour: Flavour,
    /// Its version.
    pub version: Version,
}

impl Dialect {
    /// Whether this is MariaDB.
    pub fn is_mariadb(self) -> bool {
        self.flavour == Flavour::MariaDb
    }

    /// The lightest locking strategy that gives an exact position here.
    pub fn lightest(self) -> Strategy {
        [Strategy::BackupStage, Strategy::Instance]
            .into_iter()
            .find(|strategy| self.supports(*strategy))
            .unwrap_or(Strategy::Ftwrl)
    }

    /// Whether the server knows the statements of a strategy.
    /// BACKUP STAGE: MariaDB 10.4.1; LOCK INSTANCE FOR BACKUP: MySQL 8.0.
    pub fn supports(self, strategy: Strategy) -> bool {
        match strategy {
            Strategy::BackupStage => self.is_mariadb() && self.version >= (10, 4, 1),
            Strategy::Instance => !self.is_mariadb() && self.version >= (8, 0, 0),
            Strategy::Auto | Strategy::Ftwrl | Strategy::Lockless | Strategy::None => true,
        }
    }

    /// The statement that tells the binary log position. MySQL renamed it in 8.2 and removed the old name in 8.4.
    pub fn show_position(self) -> &'static str {
        if !self.is_mariadb() && self.version >= (8, 2, 0) {
            "SHOW BINARY LOG STATUS"
        } else {
            "SHOW MASTER STATUS"
        }
    }

    /// The query for the name under which a server's logs are archived: MySQL's `server_uuid`, or `id-<server_id>`.
    pub fn archive_name(self) -> &'static str {
        match self.is_mariadb() {
            true => "SELECT CONCAT('id-', @@GLOBAL.server_id)",
            false => "SELECT @@GLOBAL.server_uuid",
        }
    }

    /// The statement that tells every channel's state. MySQL renamed it in 8.0.22 and removed the old name in 8.4.
    pub fn show_replicas(self) -> &'static str {
        match self.is_mariadb() {
            true => "SHOW ALL SLAVES STATUS",
            false if self.version >= (8, 0, 22) => "SHOW REPLICA STATUS",
            false => "SHOW SLAVE STATUS",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_both_flavours_are_recognised() {
        for (version, comment, flavour, number) in [
            (
                "10.11.19-MariaDB-0+deb12u1-log",
                "Debian 12",
                Flavour::MariaDb,
                (10, 11, 19),
            ),
            ("11.8.3-MariaDB", "x", Flavour::MariaDb, (11, 8, 3)),
            ("11.8.3", "MariaDB Server", Flavour::MariaDb, (11, 8, 3)),
            ("9.7.4", "MySQL Community Server - GPL", Flavour::MySql, (9, 7, 4)),
            (
                "8.0.36-28.1",
                "Percona XtraDB Cluster (GPL)",
                Flavour::MySql,
                (8, 0, 36),
            ),
            ("8.4", "", Flavour::MySql, (8, 4, 0)),
            ("", "", Flavour::MySql, (0, 0, 0)),
        ] {
            assert_eq!(recognise(version, comment), (flavour, number), "{version}");
        }
    }

    #[test]
    fn strategies_fit_the_server() {
        let of = |flavour, version| Dialect { flavour, version };
        assert_eq!(of(Flavour::MariaDb, (10, 11, 0)).lightest(), Strategy::BackupStage);
        assert_eq!(of(Flavour::MariaDb, (10, 3, 39)).lightest(), Strategy::Ftwrl);
        assert_eq!(of(Flavour::MySql, (9, 7, 4)).lightest(), Strategy::Instance);
        assert_eq!(of(Flavour::MySql, (5, 7, 44)).lightest(), Strategy::Ftwrl);
        assert!(!of(Flavour::MySql, (9, 7, 4)).supports(Strategy::BackupStage));
        assert_eq!(of(Flavour::MySql, (8, 0, 36)).show_position(), "SHOW MASTER STATUS");
        assert_eq!(of(Flavour::MySql, (8, 4, 0)).show_position(), "SHOW BINARY LOG STATUS");
    }
}
