//! Where a restore in place may put something: only where this host itself says that its data lie. A backup's record is whoever's who can write the repository.

use std::path::{Path, PathBuf};

use super::known::remembered_roots;
use crate::config::Config;
use crate::record::Record;
use crate::{Error, Result};

/// Refuses a restore in place of a tree that neither the configuration (`files:`) nor this host's own backups nor the command line (`allowed`) name.
/// `wanted`: only these paths of the backup; empty: all.
///
/// # Errors
/// The backup says of a path, and nothing here does, that it is one of this host's; the flags that name it are said.
pub fn own_places(config: &Config, record: &Record, wanted: &[PathBuf], allowed: &[PathBuf]) -> Result<()> {
    let known = remembered_roots(&config.state_dir)?;
    let asked =
        |root: &Path| wanted.is_empty() || wanted.iter().any(|one| one.starts_with(root) || root.starts_with(one));
    let named =
        |root: &Path| known.contains(root) || config.files.iter().chain(allowed).any(|own| root.starts_with(own));
    let strange: Vec<&Path> = record
        .roots
        .iter()
        .map(|root| root.path.as_path())
        .filter(|root| asked(root) && !named(root))
        .collect();
    if strange.is_empty() {
        return Ok(());
    }
    let quoted = |path: &&Path| path.display().to_string();
    let flags: Vec<String> = strange
        .iter()
        .map(|path| format!("--allow-path {}", path.display()))
        .collect();
    Err(Error::usage(format!(
        "the backup would put something at {}, and nothing on this host says that its data lie there (`files:`, or a backup that was taken here): \
         look at it with `snapback show`, then say {}, or restore with --target",
        strange.iter().map(quoted).collect::<Vec<_>>().join(", "),
        flags.join(" ")
    )))
}

#[cfg(test)]
mod tests {
    use super::super::{Installation, remember_roots};
    use super::*;
    use crate::record::{RootRecord, RootRole, RootSource};

    #[test]
    fn only_what_this_host_names_is_put_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            state_dir: dir.path().to_owned(),
            files: vec!["/srv/www".into()],
            ..Config::default()
        };
        let record = |paths: &[&str]| {
            let roots = paths.iter().map(|path| RootRecord {
                path: PathBuf::from(path),
                role: RootRole::Datadir,
                source: RootSource::Snapshot,
                above: Vec::new(),
            });
            let mut record: Record = serde_json::from_value(serde_json::json!({
                "tool": "x", "consistency": "crash", "exact": false, "volumes": [], "roots": [], "phases": [],
                "copy": {"files": 0, "bytes_total": 0, "bytes_read": 0, "bytes_new": 0, "bytes_stored": 0, "seconds": 0.0}
            }))
            .unwrap();
            record.roots = roots.collect();
            record
        };
        let may = |paths: &[&str], allowed: &[&str]| {
            let allowed: Vec<PathBuf> = allowed.iter().map(PathBuf::from).collect();
            own_places(&config, &record(paths), &[], &allowed)
        };
        may(&["/srv/www", "/srv/www/shop"], &[]).unwrap();
        let said = may(&["/srv/www", "/root/.ssh"], &[]).unwrap_err().to_string();
        assert!(
            said.contains("--allow-path /root/.ssh") && !said.contains("--allow-path /srv"),
            "{said}"
        );
        assert!(may(&["/srv/www2"], &[]).is_err());
        may(&["/var/lib/mysql"], &["/var/lib/mysql"]).unwrap();
        assert!(may(&["/var/lib/mysql"], &[]).is_err());
        Installation::of(dir.path()).unwrap();
        remember_roots(dir.path(), [PathBuf::from("/var/lib/mysql")].iter()).unwrap();
        may(&["/var/lib/mysql"], &[]).unwrap();
        let only = |wanted: &str| own_places(&config, &record(&["/srv/www", "/root"]), &[PathBuf::from(wanted)], &[]);
        only("/srv/www/a").unwrap();
        assert!(only("/root/.ssh").is_err());
    }
}
