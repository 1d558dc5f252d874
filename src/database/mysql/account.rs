//! The account: what each command needs of it, the SQL that makes it, and what it lacks for commands other than a backup.

use super::flavour::Dialect;
use super::grants::Grants;
use super::privileges::{Intent, Need, Scope, need, needs, quote_account};
use crate::database::{Flavour, OnBusy, Strategy};
use crate::finding::Finding;

/// The account that the SQL makes.
const ACCOUNT: &str = "'snapback'@'localhost'";

/// What an account is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    /// `check`, `backup`, `snapshot`.
    Backup,
    /// `binlog archive`.
    Binlog,
    /// `restore --replica-start`.
    Replica,
    /// `restore --into-server`.
    IntoServer,
    /// `--on-busy kill-reads` and `kill-all`.
    Kill,
    /// Raising innodb_flush_log_at_trx_commit from 0 for a run.
    Durability,
}

impl Feature {
    /// What README's commands need.
    pub const USUAL: [Feature; 3] = [Feature::Backup, Feature::Binlog, Feature::Replica];
    const ALL: [Feature; 6] = [
        Feature::Backup,
        Feature::Binlog,
        Feature::Replica,
        Feature::IntoServer,
        Feature::Kill,
        Feature::Durability,
    ];

    /// As `--for` has it.
    pub fn word(self) -> &'static str {
        match self {
            Feature::Backup => "backup",
            Feature::Binlog => "binlog",
            Feature::Replica => "replica",
            Feature::IntoServer => "into-server",
            Feature::Kill => "kill",
            Feature::Durability => "durability",
        }
    }

    fn purpose(self) -> &'static str {
        match self {
            Feature::Backup => "`check`, `backup` and `snapshot`",
            Feature::Binlog => "`binlog archive`",
            Feature::Replica => "`restore --replica-start` (the account comes with the copy)",
            Feature::IntoServer => "`restore --into-server`; it can read and write all tables then",
            Feature::Kill => "`--on-busy kill-reads` and `kill-all`",
            Feature::Durability => "innodb_flush_log_at_trx_commit=0, which is raised for a run",
        }
    }

    /// The privileges that it takes.
    fn needs(self, dialect: Dialect, strategy: Strategy) -> Vec<Need> {
        let intent = |on_busy, raise_durability| Intent {
            strategy,
            on_busy,
            raise_durability,
        };
        let least = needs(dialect, intent(OnBusy::Wait, false));
        let beyond = |most: Intent| {
            let all = needs(dialect, most);
            all.into_iter().filter(|need| !least.contains(need)).collect()
        };
        match self {
            Feature::Backup => least,
            Feature::Kill => beyond(intent(OnBusy::KillAll, false)),
            Feature::Durability => beyond(intent(OnBusy::Wait, true)),
            Feature::Binlog => binlog(dialect),
            Feature::Replica => replica(dialect),
            Feature::IntoServer => into_server(dialect),
        }
    }
}

/// COM_BINLOG_DUMP, and SHOW BINARY LOGS.
fn binlog(dialect: Dialect) -> Vec<Need> {
    let list = match dialect.is_mariadb() && dialect.version >= (10, 5, 2) {
        true => need("BINLOG MONITOR", &["REPLICATION CLIENT"], "to list binary logs", true),
        false => need("REPLICATION CLIENT", &["SUPER"], "to list binary logs", true),
    };
    vec![
        list,
        need(
            "REPLICATION SLAVE",
            &["REPLICATION REPLICA"],
            "to read binary logs",
            true,
        ),
    ]
}

/// `server_id`, the start's position, CHANGE MASTER and START SLAVE, an empty binary log, the state.
fn replica(dialect: Dialect) -> Vec<Need> {
    const CHANGE: &str = "to make a server a replica";
    let mut all = vec![need("RELOAD", &[], "to begin its binary log anew", true)];
    if dialect.is_mariadb() && dialect.version >= (10, 5, 2) {
        let also: &[&str] = &["REPLICATION REPLICA ADMIN"];
        all.push(need("REPLICATION SLAVE ADMIN", also, CHANGE, true));
        all.push(need("REPLICATION MASTER ADMIN", &[], "to set its server_id", true));
    } else if !dialect.is_mariadb() && dialect.version >= (8, 0, 0) {
        all.push(need(
            "REPLICATION CLIENT",
            &["SUPER"],
            "to see whether it follows",
            true,
        ));
        all.push(need("REPLICATION_SLAVE_ADMIN", &["SUPER"], CHANGE, true));
        let set = "to set its server_id and gtid_purged";
        all.push(need("SYSTEM_VARIABLES_ADMIN", &["SUPER"], set, true));
    } else {
        all.push(need("SUPER", &[], CHANGE, true));
    }
    all
}

/// What the statements of a dump do, in whichever schema it is.
fn into_server(dialect: Dialect) -> Vec<Need> {
    const TABLES: &str = "to make and fill tables";
    const ROUTINES: &str = "to make views, triggers, routines and events";
    let tables = [
        "SELECT",
        "INSERT",
        "DELETE",
        "CREATE",
        "DROP",
        "ALTER",
        "INDEX",
        "REFERENCES",
        "LOCK TABLES",
    ];
    let routines = [
        "CREATE VIEW",
        "SHOW VIEW",
        "TRIGGER",
        "CREATE ROUTINE",
        "ALTER ROUTINE",
        "EVENT",
    ];
    let mut all: Vec<Need> = tables.into_iter().map(|name| need(name, &[], TABLES, true)).collect();
    all.extend(routines.into_iter().map(|name| need(name, &[], ROUTINES, true)));
    const DEFINERS: &str = "to keep their definers";
    let definers: &[&str] = match (dialect.is_mariadb(), dialect.version) {
        (true, version) if version >= (10, 5, 2) => &["SET USER"],
        (false, version) if version >= (8, 2, 0) => &["SET_ANY_DEFINER", "ALLOW_NONEXISTENT_DEFINER"],
        (false, version) if version >= (8, 0, 0) => &["SET_USER_ID"],
        _ => &["SUPER"],
    };
    all.extend(definers.iter().map(|name| need(name, &["SUPER"], DEFINERS, true)));
    all
}

/// How the account is let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// By this password.
    Password(String),
    /// As this user of the operating system, over the socket (MySQL's auth_socket).
    Socket(String),
}

/// The account that is wanted.
#[derive(Debug, Clone)]
pub struct Account {
    /// With which lock strategy it takes backups.
    pub strategy: Strategy,
    /// What it is for.
    pub features: Vec<Feature>,
    /// How it is let in.
    pub login: Login,
}

/// The SQL that makes an account, for a current server of a flavour. It may be run again: the account then has the new password.
pub fn account_sql(flavour: Flavour, account: &Account) -> String {
    let version = match flavour {
        Flavour::MariaDb => (10, 11, 0),
        Flavour::MySql => (8, 4, 0),
    };
    account_sql_for(Dialect { flavour, version }, account)
}

/// The same for the server at hand.
pub(super) fn account_sql_for(dialect: Dialect, account: &Account) -> String {
    let strategy = match account.strategy {
        Strategy::Auto => dialect.lightest(),
        strategy => strategy,
    };
    let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"));
    let login = match &account.login {
        Login::Password(password) => format!("IDENTIFIED BY {}", quoted(password)),
        Login::Socket(user) => format!("IDENTIFIED WITH auth_socket AS {}", quoted(user)),
    };
    let mut sql = format!("CREATE USER IF NOT EXISTS {ACCOUNT} {login};\nALTER USER {ACCOUNT} {login};\n");
    let mut granted: Vec<Need> = Vec::new();
    let (wanted, others): (Vec<Feature>, Vec<Feature>) = Feature::ALL
        .into_iter()
        .partition(|feature| account.features.contains(feature));
    for feature in wanted {
        let needs = feature.needs(dialect, strategy);
        let new = beyond(&granted, needs);
        sql += &format!("-- for {}:\n", feature.purpose());
        grants(&new, dialect).for_each(|line| sql += &line);
        granted.extend(new);
    }
    for feature in others {
        let new = beyond(&granted, feature.needs(dialect, strategy));
        if !new.is_empty() {
            sql += &format!("-- only with `--for {}`, for {}:\n", feature.word(), feature.purpose());
            grants(&new, dialect).for_each(|line| sql += &format!("-- {line}"));
        }
    }
    sql
}

fn beyond(granted: &[Need], needs: Vec<Need>) -> Vec<Need> {
    let known = |need: &Need| {
        granted
            .iter()
            .any(|one| (one.name, one.scope) == (need.name, need.scope))
    };
    needs.into_iter().filter(|need| !known(need)).collect()
}

/// A statement for each scope.
fn grants<'n>(needs: &'n [Need], dialect: Dialect) -> impl Iterator<Item = String> + 'n {
    [Scope::Global, Scope::PerformanceSchema]
        .into_iter()
        .filter_map(move |scope| {
            let of_it: Vec<&Need> = needs.iter().filter(|need| need.scope == scope).collect();
            let object = of_it.first()?.object();
            let names: Vec<&str> = of_it.iter().map(|need| need.granted(dialect)).collect();
            Some(format!("GRANT {} ON {object} TO {ACCOUNT};\n", names.join(", ")))
        })
}

/// What an account lacks for README's other commands, a note for each of them.
pub(super) fn missing_for_commands(grants: &Grants, dialect: Dialect, has_log: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for feature in [Feature::Binlog, Feature::Replica, Feature::IntoServer] {
        // Nothing to archive.
        if feature == Feature::Binlog && !has_log {
            continue;
        }
        let needs = feature.needs(dialect, Strategy::None);
        let lacking: Vec<Need> = needs.into_iter().filter(|need| !grants.meet(need)).collect();
        if lacking.is_empty() {
            continue;
        }
        let names: Vec<String> = lacking.iter().map(Need::text).collect();
        let said = format!(
            "the account {} lacks {} for {}",
            grants.account(),
            names.join(", "),
            feature.purpose()
        );
        let account = quote_account(grants.account());
        let names: Vec<&str> = lacking.iter().map(|need| need.granted(dialect)).collect();
        let remedy = format!(
            "only when that is wanted: GRANT {} ON *.* TO {account};",
            names.join(", ")
        );
        findings.push(Finding::note("missing-for-command", said).remedy(remedy));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sql(flavour: Flavour, strategy: Strategy, features: &[Feature]) -> String {
        let account = Account {
            strategy,
            features: features.to_vec(),
            login: Login::Password("it's".to_owned()),
        };
        account_sql(flavour, &account)
    }

    /// The statements that are run.
    fn run(sql: &str) -> Vec<&str> {
        sql.lines().filter(|line| !line.starts_with("--")).collect()
    }

    #[test]
    fn an_account_for_backups_has_the_least() {
        let sql = sql(Flavour::MariaDb, Strategy::Auto, &[Feature::Backup]);
        assert_eq!(
            run(&sql),
            [
                "CREATE USER IF NOT EXISTS 'snapback'@'localhost' IDENTIFIED BY 'it''s';",
                "ALTER USER 'snapback'@'localhost' IDENTIFIED BY 'it''s';",
                "GRANT PROCESS, RELOAD, BINLOG MONITOR, REPLICA MONITOR ON *.* TO 'snapback'@'localhost';",
            ]
        );
        assert!(
            sql.contains("-- GRANT SUPER ON") && sql.contains("--for durability"),
            "{sql}"
        );
        let none = super::tests::sql(Flavour::MySql, Strategy::None, &[Feature::Backup]);
        assert!(!run(&none).join("\n").contains("RELOAD"), "{none}");
    }

    #[test]
    fn each_feature_adds_what_it_needs_and_names_what_is_left_out() {
        let usual = sql(Flavour::MySql, Strategy::Auto, &Feature::USUAL);
        let granted = run(&usual).join("\n");
        for name in [
            "BACKUP_ADMIN",
            "REPLICATION SLAVE",
            "REPLICATION_SLAVE_ADMIN",
            "SELECT ON performance_schema.*",
        ] {
            assert!(granted.contains(name), "{name}: {usual}");
        }
        assert!(
            !granted.contains("INSERT") && usual.contains("--for into-server"),
            "{usual}"
        );
        let all = sql(Flavour::MySql, Strategy::Auto, &Feature::ALL);
        assert!(
            run(&all).join("\n").contains("INSERT") && !all.contains("only with"),
            "{all}"
        );
        let socket = Account {
            strategy: Strategy::Auto,
            features: vec![Feature::Backup],
            login: Login::Socket("root".to_owned()),
        };
        let sql = account_sql(Flavour::MySql, &socket);
        assert!(
            sql.contains("IDENTIFIED WITH auth_socket AS 'root';") && !sql.contains("BY"),
            "{sql}"
        );
    }

    #[test]
    fn what_an_account_lacks_is_said_for_each_command() {
        let dialect = Dialect {
            flavour: Flavour::MariaDb,
            version: (10, 11, 0),
        };
        let grants = |lines: &[&str]| Grants::parse("s@localhost", lines);
        let least = grants(&["GRANT PROCESS, RELOAD, BINLOG MONITOR, SLAVE MONITOR ON *.* TO `s`@`localhost`"]);
        let said = missing_for_commands(&least, dialect, true);
        assert_eq!(said.len(), 3, "{said:?}");
        assert!(
            said[0].message.contains("lacks REPLICATION SLAVE for `binlog archive`"),
            "{said:?}"
        );
        assert!(
            said[0]
                .remedy
                .as_ref()
                .unwrap()
                .contains("GRANT REPLICATION SLAVE ON *.* TO 's'@'localhost';")
        );
        assert_eq!(missing_for_commands(&least, dialect, false).len(), 2);
        let root = grants(&["GRANT ALL PRIVILEGES ON *.* TO `root`@`localhost`"]);
        assert!(missing_for_commands(&root, dialect, true).is_empty());
    }
}
