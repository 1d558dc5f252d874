//! The options that tell a server where everything of a copy is.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{Place, is_log};
use crate::database::{Error, Flavour, PathRole, Result, ServerFacts, WrittenPath};

/// Options and their values; a value is a path, or has paths in it. All of them are known to servers of the recorded flavour.
///
/// # Errors
/// The server needs a path that is not in the copy.
pub fn path_options(place: &Place<'_>) -> Result<Vec<(&'static str, String)>> {
    let facts = place.facts;
    let variable = |name: &str| facts.variables.get(name).filter(|value| !value.is_empty());
    let mut options = vec![("datadir", text(place.datadir)?)];
    if let Some(home) = variable("innodb_data_home_dir") {
        let home = place.of(home, "innodb_data_home_dir")?;
        options.push(("innodb-data-home-dir", text(&home)?));
    }
    if let Some(specification) = variable("innodb_data_file_path") {
        options.push(("innodb-data-file-path", place.data_files(specification)?));
    }
    for (role, option) in [
        (PathRole::Redo, "innodb-log-group-home-dir"),
        (PathRole::Undo, "innodb-undo-directory"),
        (PathRole::Doublewrite, "innodb-doublewrite-dir"),
        (PathRole::AriaLog, "aria-log-dir-path"),
    ] {
        if let Some(written) = place.paths.iter().find(|written| written.role == role) {
            let at = place.known(&written.path, option)?;
            // MySQL's own directory for redo is named by its home, of which only that directory may be in the copy.
            let is_inner = written.path.ends_with("#innodb_redo");
            let home = if is_inner { at.parent().unwrap_or(&at) } else { &at };
            options.push((option, text(home)?));
        }
    }
    if facts.flavour == Flavour::MySql {
        let directories = place.tablespace_directories();
        let directories = directories.into_iter().map(text).collect::<Result<Vec<_>>>()?;
        if !directories.is_empty() {
            // Given twice, the last one counts.
            options.push(("innodb-directories", directories.join(";")));
        }
    }
    if let Some(basename) = variable("log_bin_basename").filter(|_| facts.log_bin) {
        options.push(("log-bin", text(&place.of(basename, "log_bin_basename")?)?));
        if let Some(index) = variable("log_bin_index") {
            options.push(("log-bin-index", text(&place.of(index, "log_bin_index")?)?));
        }
        options.push(("server-id", facts.server_id.max(1).to_string()));
    }
    for (name, option) in [
        ("relay_log_basename", "relay-log"),
        ("relay_log_index", "relay-log-index"),
    ] {
        // They may be left out of a backup.
        if let Some(at) = variable(name).and_then(|value| place.of(value, name).ok()) {
            options.push((option, text(&at)?));
        }
    }
    Ok(options)
}

/// Libraries that the server had loaded and that its data need: of storage engines, without those that reach out to other servers, and of what tables are made with.
/// They are names alone, which a server looks for in its own directory.
pub fn libraries<'p>(place: &Place<'p>) -> impl Iterator<Item = &'p str> {
    libraries_of(place.facts)
}

/// The same of recorded facts.
pub fn libraries_of(facts: &ServerFacts) -> impl Iterator<Item = &str> {
    let kinds = ["engine_libraries", "data_libraries"];
    let libraries = kinds.into_iter().filter_map(|kind| facts.variables.get(kind));
    let reaches_out = |library: &str| {
        ["federated", "spider", "connect"]
            .iter()
            .any(|word| library.contains(word))
    };
    let plain = |library: &str| !library.is_empty() && !library.contains(['/', '=']);
    libraries
        .flat_map(|libraries| libraries.split(';'))
        .filter(move |library| plain(library) && !reaches_out(library))
}

impl Place<'_> {
    /// A setting's value: relative to the datadir, absolute, or through a symlink that the record resolved.
    fn of(&self, value: &str, setting: &str) -> Result<PathBuf> {
        let named = |written: &&WrittenPath| written.named.as_deref() == Some(value);
        let absolute = match self.paths.iter().find(named) {
            // A log's name keeps its last part; its directory is what the record resolved.
            Some(log) if is_log(log.role) => log.path.join(Path::new(value).file_name().unwrap_or_default()),
            Some(written) => written.path.clone(),
            None => self.facts.datadir.join(value),
        };
        self.known(&absolute, setting)
    }

    /// The directories outside the datadir that hold tablespaces, each once and none inside another.
    fn tablespace_directories(&self) -> BTreeSet<&Path> {
        let holds = |original: &Path| {
            let mut paths = self.paths.iter();
            paths.any(|written| written.role == PathRole::External && written.path.starts_with(original))
        };
        let outside = self
            .trees
            .iter()
            .filter(|(original, at)| at != self.datadir && holds(original));
        let all: BTreeSet<&Path> = outside
            .map(|(_, at)| match at.is_file() {
                true => at.parent().unwrap_or(at),
                false => at,
            })
            .collect();
        let nested = |one: &Path| all.iter().any(|other| one != *other && one.starts_with(other));
        all.iter().copied().filter(|one| !nested(one)).collect()
    }

    fn known(&self, original: &Path, setting: &str) -> Result<PathBuf> {
        self.moved(original).ok_or_else(|| {
            Error::Unsupported(format!(
                "{} ({setting}) is not in this backup: a server cannot start on the copy",
                original.display()
            ))
        })
    }

    /// `file:size[:autoextend[:max]]`, separated by `;`: only absolute files move.
    fn data_files(&self, specification: &str) -> Result<String> {
        let one = |spec: &str| {
            let (name, rest) = spec.split_once(':').unwrap_or((spec, ""));
            match Path::new(name).is_absolute() {
                true => Ok(format!("{}:{rest}", text(&self.of(name, "innodb_data_file_path")?)?)),
                false => Ok(spec.to_owned()),
            }
        };
        Ok(specification.split(';').map(one).collect::<Result<Vec<_>>>()?.join(";"))
    }
}

fn text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        Error::Unsupported(format!(
            "the path {} is no UTF-8: choose another directory",
            path.display()
        ))
    })
}
