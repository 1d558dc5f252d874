//! Whose backup is meant: a repository may hold several hosts' backups, and `latest` is the newest of one of them.

use std::collections::BTreeSet;

use super::{Backup, Error, Repository, Result};

/// The host whose backups are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whose {
    /// Its name, as the backups have it.
    pub host: String,
    /// Somebody said so for this command; else it is this host, and a repository of one other host's backups serves as well.
    pub named: bool,
}

impl Repository {
    /// Opens the backup that `which` names, as [`find`](Repository::find), where `latest` is the newest of the host that is meant.
    ///
    /// # Errors
    /// None or several fit, the backup is another host's than the named one, or several hosts have backups and this one has none.
    pub fn choose(&self, which: &str, whose: &Whose) -> Result<Backup> {
        if which == "latest" {
            return self.latest_of(whose);
        }
        let backup = self.find(which)?;
        let (id, host) = (backup.manifest().id.short(), &backup.manifest().host);
        if whose.named && *host != whose.host {
            return Err(Error::NotFound(format!(
                "backup {id} is of host {host}, not of {}",
                whose.host
            )));
        }
        Ok(backup)
    }

    fn latest_of(&self, whose: &Whose) -> Result<Backup> {
        let keys = self.manifest_keys()?;
        let hosts: BTreeSet<&str> = keys.iter().filter_map(|key| host_of(key)).collect();
        let Some(host) = host_meant(&hosts, whose)? else {
            return self.find("latest");
        };
        let own: Vec<String> = keys.iter().filter(|key| host_of(key) == Some(host)).cloned().collect();
        let unreadable = || {
            Error::NotFound(format!(
                "there is no readable backup of host {host}: `snapback verify --all`"
            ))
        };
        let manifest = self.newest(&own).ok_or_else(unreadable)?;
        Ok(Backup::new(self, manifest))
    }
}

/// `None`: there are no backups at all.
fn host_meant<'h>(hosts: &BTreeSet<&'h str>, whose: &Whose) -> Result<Option<&'h str>> {
    if let Some(host) = hosts.get(whose.host.as_str()) {
        return Ok(Some(host));
    }
    let mut all = hosts.iter().copied();
    match (all.next(), all.next()) {
        (None, _) => Ok(None),
        (Some(only), None) if !whose.named => Ok(Some(only)),
        _ => {
            let names: Vec<&str> = hosts.iter().copied().collect();
            Err(Error::NotFound(format!(
                "the repository holds no backup of host {}, but of {}: say which with --host NAME, or give an id",
                whose.host,
                names.join(", ")
            )))
        }
    }
}

/// The host in a manifest's key, `manifests/<host>/<time>-<id>`.
fn host_of(key: &str) -> Option<&str> {
    key.rsplit('/').nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(hosts: &[&'static str], host: &str, named: bool) -> std::result::Result<Option<&'static str>, String> {
        let whose = Whose {
            host: host.to_owned(),
            named,
        };
        host_meant(&hosts.iter().copied().collect(), &whose).map_err(|error| error.to_string())
    }

    #[test]
    fn another_hosts_backups_are_taken_only_where_nothing_else_can_be_meant() {
        assert_eq!(meant(&["db1", "db2"], "db1", false), Ok(Some("db1")));
        assert_eq!(meant(&["db1", "db2"], "db2", true), Ok(Some("db2")));
        assert_eq!(meant(&["db1"], "new", false), Ok(Some("db1")));
        assert_eq!(meant(&[], "new", false), Ok(None));
        let several = meant(&["db1", "db2"], "new", false).unwrap_err();
        assert!(several.contains("db1, db2") && several.contains("--host"), "{several}");
        assert!(meant(&["db1"], "new", true).unwrap_err().contains("db1"));
    }

    #[test]
    fn keys_tell_the_host() {
        assert_eq!(host_of("manifests/db1/20260101T000000Z-0011"), Some("db1"));
    }
}
