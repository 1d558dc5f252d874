//! Whom a private server runs as. This host decides, never a backup: a crafted one would make it root, or a person.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::config::Config;
use crate::sys::host;
use crate::sys::user::Account;
use crate::{Error, Result};

/// The account that is taken where the configuration names none.
const USUAL: &str = "mysql";
/// And where there is none of that name.
const ELSE: &str = "nobody";

/// For copies that are thrown away: `scratch.user`, else `mysql`, else `nobody`. `None`: we are not root, and it runs as we do.
///
/// # Errors
/// There is no such account.
pub(crate) fn for_copies(config: &Config) -> Result<Option<Account>> {
    if !host::is_root() {
        return Ok(None);
    }
    let account = match &config.scratch.user {
        Some(name) => named(name),
        None => host::account(USUAL).or_else(|| host::account(ELSE)),
    };
    let name = config.scratch.user.as_deref().unwrap_or(USUAL);
    let unknown = || {
        Error::usage(format!(
            "a private server cannot run as `{name}`: this host has no such account in /etc/passwd; name one as `scratch.user`, or give numbers (`UID` or `UID:GID`)"
        ))
    };
    account.map(Some).ok_or_else(unknown)
}

/// An account, or numbers without one: data may belong to a user of a container, or of a host that is lost.
fn named(user: &str) -> Option<Account> {
    host::account(user).or_else(|| host::numbered(user))
}

/// For restored data that stay: the account for copies, which must be the owner of their datadir: the backup chose that one.
///
/// # Errors
/// It is another.
pub(crate) fn for_restored(config: &Config, datadir: &Path, owner: Account) -> Result<Option<Account>> {
    let Some(account) = for_copies(config)? else {
        return Ok(None);
    };
    if account.0 == owner.0 {
        return Ok(Some(account));
    }
    let (asked, found) = (host::user_name(account.0), host::user_name(owner.0));
    Err(Error::usage(format!(
        "the backup's datadir belongs to user {found}, and a private server runs as {asked} here: if {found} is the server's user on this host, set `scratch: {{user: {found}}}` in the configuration (for {})",
        datadir.display()
    )))
}

/// As [`for_restored`], for data that are there.
///
/// # Errors
/// As [`for_restored`]; the datadir cannot be looked at.
pub(crate) fn on_restored(config: &Config, datadir: &Path) -> Result<Option<Account>> {
    let found =
        std::fs::symlink_metadata(datadir).map_err(|error| crate::sys::Error::path("look at", datadir, error))?;
    for_restored(config, datadir, (found.uid(), found.gid()))
}

/// For clones of a live server's data: the user that the live one is seen to run as, which owns them; root only where the live server is seen to be root's.
///
/// # Errors
/// The datadir belongs to somebody else.
pub(crate) fn for_clones(config: &Config, live: Option<Account>, owner: Account) -> Result<Option<Account>> {
    if !host::is_root() {
        return Ok(None);
    }
    let named = config.scratch.user.as_deref().and_then(named);
    let usual = named.or_else(|| host::account(USUAL));
    let owns = |account: &Account| account.0 == owner.0;
    if let Some(account) = live.filter(owns).or_else(|| usual.filter(owns)) {
        return Ok(Some(account));
    }
    let found = host::user_name(owner.0);
    Err(Error::failed(format!(
        "the datadir belongs to user {found}, and no live server is seen to run as {found}: if it does, set `scratch: {{user: {found}}}` in the configuration"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_says_who_it_is_and_no_backup() {
        if !host::is_root() {
            return;
        }
        let config = |user: Option<&str>| {
            let mut config = Config::default();
            config.scratch.user = user.map(str::to_owned);
            config
        };
        let root = Some((0, 0));
        let usual = for_copies(&config(None)).unwrap().unwrap();
        assert_ne!(usual.0, 0);
        assert_eq!(for_copies(&config(Some("root"))).unwrap(), root);
        let unknown = for_copies(&config(Some("no-such-account"))).unwrap_err().to_string();
        assert!(unknown.contains("scratch.user"), "{unknown}");

        assert_eq!(
            for_copies(&config(Some("3999999997"))).unwrap(),
            Some((3_999_999_997, 3_999_999_997))
        );
        assert_eq!(
            for_copies(&config(Some("3999999997:5"))).unwrap(),
            Some((3_999_999_997, 5))
        );

        let at = Path::new("/restored");
        assert_eq!(for_restored(&config(None), at, usual).unwrap(), Some(usual));
        for owner in [(0, 0), (1, 1)] {
            let refused = for_restored(&config(None), at, owner).unwrap_err().to_string();
            assert!(refused.contains("scratch: {user: "), "{refused}");
        }
        assert_eq!(for_restored(&config(Some("root")), at, (0, 0)).unwrap(), root);

        assert_eq!(
            for_clones(&config(None), Some((77, 7)), (77, 0)).unwrap(),
            Some((77, 7))
        );
        assert_eq!(for_clones(&config(None), root, (0, 0)).unwrap(), root);
        assert!(for_clones(&config(None), Some((77, 7)), (0, 0)).is_err());
        assert!(for_clones(&config(None), None, (0, 0)).is_err());
        assert_eq!(for_clones(&config(Some("root")), None, (0, 0)).unwrap(), root);
    }
}
