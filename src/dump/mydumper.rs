//! Dumps by mydumper: several threads, files for each table, for `myloader`.

use std::path::{Path, PathBuf};

use super::select::Part;
use crate::monitor::Monitor;
use crate::sys::command::{Command, Program};
use crate::sys::fs::Beneath;
use crate::sys::signal::Cancel;
use crate::{Error, Result};

/// The name under which it is installed.
const NAME: &str = "mydumper";

/// The one that is named, or the one that is installed.
pub(super) fn find(named: Option<&PathBuf>) -> Result<Program> {
    match named {
        Some(path) => Ok(Program::trusted(path)?),
        None => Program::find(NAME)
            .map_err(|error| Error::usage(format!("{error}; install mydumper, or name it with --dump-program"))),
    }
}

/// What it reads, and where it writes.
pub(super) struct Call<'c> {
    pub program: &'c Program,
    /// An option file with the server's address.
    pub client: &'c Path,
    pub parts: &'c [Part],
    pub threads: usize,
    /// An empty directory of ours. Somebody else may own what is above it, so it is not named by its path.
    pub into: &'c Beneath,
}

/// Dumps the parts, and returns the bytes of all its files. Nobody writes to the server: it takes no lock.
///
/// # Errors
/// A name is none for `myloader`; or it failed, in its own words.
pub(super) fn run(call: &Call<'_>, monitor: &dyn Monitor, cancel: &Cancel) -> Result<u64> {
    // It reads `SCHEMA.TABLE.sql` up to the first dot.
    let tables = call.parts.iter().flat_map(|part| part.tables.iter().flatten());
    let mut names = call.parts.iter().map(|part| &part.schema).chain(tables);
    if let Some(name) = names.find(|name| name.contains('.')) {
        return Err(Error::usage(format!(
            "`{name}` has a dot in its name, and myloader would not find it again: dump without --mydumper, or name what to dump"
        )));
    }
    let command = Command::new(call.program)
        .arg(format!("--defaults-file={}", call.client.display()))
        .arg(format!("--outputdir={}", call.into.path_for_programs().display()))
        .arg(format!("--threads={}", call.threads))
        .arg(format!("--regex={}", expression(call.parts)))
        .args([
            "--triggers",
            "--routines",
            "--events",
            "--no-locks",
            "--build-empty-files",
        ])
        // Only errors.
        .arg("--verbose=1");
    command.stream(cancel, &mut |_| Ok(()))?;
    let mut bytes = 0;
    for name in call.into.names()? {
        let path = call.into.path().join(&name);
        let file = call.into.open_plain(Path::new(&name))?;
        let found = file.metadata();
        bytes += found
            .map_err(|error| crate::sys::Error::path("look at", &path, error))?
            .len();
        crate::sys::fs::sync_file(&file, &path)?;
    }
    monitor.advance(bytes, 0);
    Ok(bytes)
}

/// Which `schema.table` it takes, as a Perl-compatible expression.
fn expression(parts: &[Part]) -> String {
    let literal = |name: &str| -> String {
        let plain = |character: &char| character.is_ascii_alphanumeric() || *character == '_' || !character.is_ascii();
        name.chars()
            .flat_map(|character| (!plain(&character)).then_some('\\').into_iter().chain([character]))
            .collect()
    };
    let one = |part: &Part| match &part.tables {
        None => format!("{}\\.", literal(&part.schema)),
        Some(tables) => {
            let tables: Vec<String> = tables.iter().map(|table| literal(table)).collect();
            format!("{}\\.(?:{})$", literal(&part.schema), tables.join("|"))
        }
    };
    let all: Vec<String> = parts.iter().map(one).collect();
    let without = parts.iter().flat_map(|part| {
        let tables = part.survey.left_out.iter();
        tables.map(|table| format!("{}\\.{}", literal(&part.schema), literal(table)))
    });
    let without: Vec<String> = without.collect();
    match without.is_empty() {
        true => format!("^(?:{})", all.join("|")),
        false => format!("^(?!(?:{})$)(?:{})", without.join("|"), all.join("|")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_no_expressions() {
        let part = |schema: &str, tables: Option<&[&str]>| Part {
            schema: schema.to_owned(),
            tables: tables.map(|tables| tables.iter().map(|&table| table.to_owned()).collect()),
            create: String::new(),
            survey: super::super::survey::Survey::default(),
        };
        let parts = [part("shop", None), part("a.b*", Some(&["t$", "u"]))];
        assert_eq!(expression(&parts), r"^(?:shop\.|a\.b\*\.(?:t\$|u)$)");
        let mut left = part("shop", None);
        left.survey.left_out = vec!["v+".to_owned()];
        assert_eq!(expression(&[left]), r"^(?!(?:shop\.v\+)$)(?:shop\.)");
    }
}
