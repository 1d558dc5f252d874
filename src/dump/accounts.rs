//! Accounts, roles and what they may do, as statements that another server of the flavour takes.

use crate::Result;
use crate::database::Flavour;
use crate::database::mysql::scratch::ACCOUNT;
use crate::database::mysql::session::Session;

/// Accounts that servers make for themselves.
const OWN: [&str; 5] = ["mysql.sys", "mysql.session", "mysql.infoschema", "mariadb.sys", ACCOUNT];

/// The statements.
pub(super) struct Statements {
    pub text: String,
    pub accounts: usize,
}

/// One account or role.
struct Account {
    user: String,
    host: String,
    is_role: bool,
}

impl Account {
    /// As statements name it.
    fn name(&self) -> String {
        let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"));
        if self.is_role {
            quoted(&self.user)
        } else {
            format!("{}@{}", quoted(&self.user), quoted(&self.host))
        }
    }
}

/// Asks the server for them. Accounts that are there already stay as they are, and get the privileges.
pub(super) fn statements(session: &mut Session, flavour: Flavour) -> Result<Statements> {
    let accounts = accounts(session, flavour)?;
    if flavour == Flavour::MySql {
        // Hashes of passwords are bytes.
        session.run("SET SESSION print_identified_with_as_hex = ON")?;
    }
    let mut text = String::from("\n-- Accounts and roles\n");
    let mut later = String::new();
    for account in &accounts {
        if account.is_role {
            text += &format!("CREATE ROLE IF NOT EXISTS {};\n", account.name());
            continue;
        }
        let Some(create) = session.value(&format!("SHOW CREATE USER {}", account.name()))? else {
            continue;
        };
        let (create, default_role) = without_default_role(&create);
        text += &format!(
            "{};\n",
            create.replacen("CREATE USER ", "CREATE USER IF NOT EXISTS ", 1)
        );
        if let Some(roles) = default_role {
            later += &format!("ALTER USER {} DEFAULT ROLE {roles};\n", account.name());
        }
    }
    // Roles before those who have them: every account is there by now.
    for account in &accounts {
        for row in session.rows(&format!("SHOW GRANTS FOR {}", account.name()))? {
            let Some(grant) = row.first() else { continue };
            // The password is in CREATE USER.
            let grant = grant.split(" IDENTIFIED ").next().unwrap_or(grant);
            match grant.starts_with("SET DEFAULT ROLE") {
                true => later += &format!("{grant};\n"),
                false => text += &format!("{grant};\n"),
            }
        }
    }
    text += &later;
    Ok(Statements {
        text,
        accounts: accounts.len(),
    })
}

fn accounts(session: &mut Session, flavour: Flavour) -> Result<Vec<Account>> {
    // MySQL's roles are accounts.
    let role = match flavour {
        Flavour::MariaDb => "is_role = 'Y'",
        Flavour::MySql => "FALSE",
    };
    let rows = session.rows(&format!(
        "SELECT user AS user, host AS host, {role} AS is_role FROM mysql.user ORDER BY {role} DESC, user, host"
    ))?;
    let all = rows.iter().map(|row| Account {
        user: row.text("user"),
        host: row.text("host"),
        is_role: row.get("is_role") == Some("1"),
    });
    Ok(all.filter(|account| !is_servers_own(account)).collect())
}

/// No dump has them, whatever a server pads a name with. MariaDB shows its grants to everybody as those of an account PUBLIC.
fn is_servers_own(account: &Account) -> bool {
    let user = account.user.trim_end();
    OWN.contains(&user) || account.is_role && user == "PUBLIC"
}

/// MySQL: `CREATE USER ... DEFAULT ROLE r1,r2 REQUIRE ...` fails where the roles are made later.
fn without_default_role(create: &str) -> (String, Option<String>) {
    let Some((before, rest)) = create.split_once(" DEFAULT ROLE ") else {
        return (create.to_owned(), None);
    };
    match rest.split_once(" REQUIRE ") {
        Some((roles, after)) => (format!("{before} REQUIRE {after}"), Some(roles.to_owned())),
        None => (before.to_owned(), Some(rest.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_roles_come_when_roles_are_there() {
        let (create, roles) = without_default_role(
            "CREATE USER `a`@`%` IDENTIFIED WITH 'x' AS 0x41 DEFAULT ROLE `r`@`%`,`s`@`%` REQUIRE NONE ACCOUNT UNLOCK",
        );
        assert_eq!(
            create,
            "CREATE USER `a`@`%` IDENTIFIED WITH 'x' AS 0x41 REQUIRE NONE ACCOUNT UNLOCK"
        );
        assert_eq!(roles.as_deref(), Some("`r`@`%`,`s`@`%`"));
        assert_eq!(without_default_role("CREATE USER `a`@`%`").1, None);
    }

    #[test]
    fn an_account_of_ours_is_known_padded_as_well() {
        let account = |user: &str| Account {
            user: user.to_owned(),
            host: "localhost".to_owned(),
            is_role: false,
        };
        assert!(is_servers_own(&account(&format!("{ACCOUNT:<128}"))));
        assert!(!is_servers_own(&account("app")));
    }

    #[test]
    fn names_are_quoted() {
        let account = |is_role| Account {
            user: "o'x".to_owned(),
            host: "%".to_owned(),
            is_role,
        };
        assert_eq!(account(false).name(), "'o''x'@'%'");
        assert_eq!(account(true).name(), "'o''x'");
    }
}
