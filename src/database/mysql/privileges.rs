//! The least set of privileges, and what of it an account lacks (trap 13).

use super::flavour::Dialect;
use super::grants::Grants;
use crate::database::{OnBusy, Strategy};
use crate::finding::Finding;

/// Where a privilege must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// On everything.
    Global,
    /// On the schema performance_schema.
    PerformanceSchema,
}

/// One privilege that a run needs, and what for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// As GRANT wants it.
    pub name: &'static str,
    /// Privileges that include it, or other names that SHOW GRANTS has for it.
    pub(super) also: &'static [&'static str],
    pub(super) scope: Scope,
    /// What it is for.
    pub why: &'static str,
    /// Without it the run is refused.
    pub required: bool,
}

/// What a run will do, as far as privileges go.
#[derive(Debug, Clone, Copy)]
pub struct Intent {
    /// The resolved strategy.
    pub strategy: Strategy,
    /// What is done about blockers.
    pub on_busy: OnBusy,
    /// Whether `innodb_flush_log_at_trx_commit` will be raised.
    pub raise_durability: bool,
}

pub(super) const fn need(name: &'static str, also: &'static [&'static str], why: &'static str, required: bool) -> Need {
    Need {
        name,
        also,
        scope: Scope::Global,
        why,
        required,
    }
}

/// The privileges for what a run will do on a server.
///
/// MariaDB split SUPER and REPLICATION CLIENT in 10.5 (<https://mariadb.com/kb/en/grant/>); MySQL has dynamic privileges
/// since 8.0 (<https://dev.mysql.com/doc/refman/8.4/en/privileges-provided.html>). The sets were tried on both servers.
pub fn needs(dialect: Dialect, intent: Intent) -> Vec<Need> {
    let locks = !matches!(intent.strategy, Strategy::Lockless | Strategy::None);
    let kills = locks && matches!(intent.on_busy, OnBusy::KillReads | OnBusy::KillAll);
    let mut needs = vec![need(
        "PROCESS",
        &[],
        "to see statements in the way and InnoDB's files",
        true,
    )];
    if locks {
        needs.push(need("RELOAD", &[], "to lock and flush", true));
    }
    match dialect.is_mariadb() {
        true => mariadb(&mut needs, dialect, locks, kills, intent.raise_durability),
        false => mysql(
            &mut needs,
            dialect,
            intent.strategy,
            locks,
            kills,
            intent.raise_durability,
        ),
    }
    needs
}

fn mariadb(needs: &mut Vec<Need>, dialect: Dialect, locks: bool, kills: bool, raise: bool) {
    let split = dialect.version >= (10, 5, 2);
    if locks && split {
        needs.push(need(
            "BINLOG MONITOR",
            &["REPLICATION CLIENT"],
            "to read the position",
            true,
        ));
        needs.push(need(
            "REPLICA MONITOR",
            &["SLAVE MONITOR", "REPLICATION SLAVE ADMIN", "REPLICATION REPLICA ADMIN"],
            "to read a replica's position",
            true,
        ));
    } else if locks {
        needs.push(need("REPLICATION CLIENT", &["SUPER"], "to read the position", true));
    }
    if kills {
        let (name, also): (_, &[_]) = if split {
            ("CONNECTION ADMIN", &["SUPER"])
        } else {
            ("SUPER", &[])
        };
        needs.push(need(name, also, "to end statements in the way (on_busy)", true));
    }
    if raise {
        needs.push(need(
            "SUPER",
            &[],
            "to raise innodb_flush_log_at_trx_commit from 0 for the run",
            true,
        ));
    }
}

fn mysql(needs: &mut Vec<Need>, dialect: Dialect, strategy: Strategy, locks: bool, kills: bool, raise: bool) {
    let dynamic = dialect.version >= (8, 0, 0);
    if locks {
        needs.push(need("REPLICATION CLIENT", &["SUPER"], "to read the position", true));
        needs.push(Need {
            scope: Scope::PerformanceSchema,
            ..need("SELECT", &[], "to see locks in the way", true)
        });
    }
    if strategy == Strategy::Instance {
        needs.push(need("BACKUP_ADMIN", &[], "for LOCK INSTANCE FOR BACKUP", true));
    }
    if kills {
        let (name, also): (_, &[_]) = if dynamic {
            ("CONNECTION_ADMIN", &["SUPER"])
        } else {
            ("SUPER", &[])
        };
        needs.push(need(name, also, "to end statements in the way (on_busy)", true));
    }
    if raise {
        let (name, also): (_, &[_]) = if dynamic {
            ("SYSTEM_VARIABLES_ADMIN", &["SUPER"])
        } else {
            ("SUPER", &[])
        };
        needs.push(need(
            name,
            also,
            "to raise innodb_flush_log_at_trx_commit from 0 for the run",
            true,
        ));
    }
    if locks && dynamic {
        needs.push(need(
            "XA_RECOVER_ADMIN",
            &[],
            "to record prepared XA transactions",
            false,
        ));
    }
}

/// What the account lacks: a blocker for each required privilege, a note for each other.
pub fn missing(grants: &Grants, needs: &[Need], dialect: Dialect) -> Vec<Finding> {
    let account = quote_account(grants.account());
    let finding = |need: &Need| {
        let message = format!(
            "the account {} lacks {}, which it needs {}",
            grants.account(),
            need.text(),
            need.why
        );
        let remedy = format!("GRANT {} ON {} TO {account};", need.granted(dialect), need.object());
        match need.required {
            true => Finding::blocker("missing-privilege", message),
            false => Finding::note("missing-privilege", message),
        }
        .remedy(remedy)
    };
    needs.iter().filter(|need| !grants.meet(need)).map(finding).collect()
}

impl Need {
    pub(super) fn object(&self) -> &'static str {
        match self.scope {
            Scope::Global => "*.*",
            Scope::PerformanceSchema => "performance_schema.*",
        }
    }

    pub(super) fn text(&self) -> String {
        match self.scope {
            Scope::Global => self.name.to_owned(),
            Scope::PerformanceSchema => format!("{} on {}", self.name, self.object()),
        }
    }

    /// Before 10.5.9 MariaDB had REPLICA MONITOR under its older name only.
    pub(super) fn granted(&self, dialect: Dialect) -> &'static str {
        match self.name {
            "REPLICA MONITOR" if dialect.version < (10, 5, 9) => "REPLICATION SLAVE ADMIN",
            name => name,
        }
    }
}

pub(super) fn quote_account(account: &str) -> String {
    let quote = |part: &str| format!("'{}'", part.replace('\'', "''"));
    match account.rsplit_once('@') {
        Some((user, host)) => format!("{}@{}", quote(user), quote(host)),
        None => quote(account),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::Flavour;

    const MARIADB: Dialect = Dialect {
        flavour: Flavour::MariaDb,
        version: (10, 11, 19),
    };
    const MYSQL: Dialect = Dialect {
        flavour: Flavour::MySql,
        version: (9, 7, 4),
    };

    fn intent(strategy: Strategy) -> Intent {
        Intent {
            strategy,
            on_busy: OnBusy::Wait,
            raise_durability: false,
        }
    }

    fn lacking(dialect: Dialect, intent: Intent, lines: &[&str]) -> Vec<&'static str> {
        let grants = Grants::parse("a@localhost", lines);
        let needs = needs(dialect, intent);
        needs
            .iter()
            .filter(|need| need.required && !grants.meet(need))
            .map(|need| need.name)
            .collect()
    }

    #[test]
    fn grants_as_the_servers_print_them() {
        let all = ["GRANT ALL PRIVILEGES ON *.* TO `root`@`localhost` WITH GRANT OPTION"];
        assert!(lacking(MARIADB, intent(Strategy::BackupStage), &all).is_empty());
        let least = [
            "GRANT RELOAD, PROCESS, BINLOG MONITOR, SLAVE MONITOR ON *.* TO `s`@`localhost` IDENTIFIED BY PASSWORD '*A ON B'",
            "GRANT `some ON role` TO `s`@`localhost`",
        ];
        assert!(lacking(MARIADB, intent(Strategy::BackupStage), &least).is_empty());
        let kill = Intent {
            on_busy: OnBusy::KillAll,
            raise_durability: true,
            ..intent(Strategy::Ftwrl)
        };
        assert_eq!(lacking(MARIADB, kill, &least), ["CONNECTION ADMIN", "SUPER"]);

        let mysql = [
            "GRANT RELOAD, PROCESS, REPLICATION CLIENT ON *.* TO `s`@`localhost`",
            "GRANT BACKUP_ADMIN ON *.* TO `s`@`localhost`",
            "GRANT SELECT ON `performance\\_schema`.* TO `s`@`localhost`",
        ];
        assert!(lacking(MYSQL, intent(Strategy::Instance), &mysql).is_empty());
        assert_eq!(
            lacking(MYSQL, intent(Strategy::Instance), &mysql[..1]),
            ["SELECT", "BACKUP_ADMIN"]
        );
    }

    #[test]
    fn column_and_table_grants_do_not_count() {
        let lines = [
            "GRANT SELECT (a, b), RELOAD ON `db ON x`.* TO `s`@`h`",
            "GRANT PROCESS ON `d`.`t` TO `s`@`h`",
        ];
        let missing = lacking(MARIADB, intent(Strategy::Lockless), &lines);
        assert_eq!(missing, ["PROCESS"]);
    }

    #[test]
    fn what_is_missing_is_named_with_its_remedy() {
        let grants = Grants::parse("o'x@%", &["GRANT USAGE ON *.* TO `o'x`@`%`"]);
        let findings = missing(&grants, &needs(MARIADB, intent(Strategy::Lockless)), MARIADB);
        assert_eq!(findings.len(), 1);
        assert_eq!(
            findings[0].remedy.as_deref(),
            Some("GRANT PROCESS ON *.* TO 'o''x'@'%';")
        );
    }
}
