//! What `zfs list` says, in its form for scripts (zfs-list(8): -H, tab-separated, -p, exact numbers).

use super::super::{Error, Result};
use crate::sys::command::{Command, Program};

/// The user property that marks our snapshots; its value is the run.
pub const PROPERTY: &str = "snapback:run";

/// A dataset or snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    pub name: String,
    pub guid: String,
    /// The run in [`PROPERTY`], if it is set.
    pub run: Option<String>,
}

/// A dataset or snapshot by its name; `None` when it is not there.
pub fn one(name: &str) -> Result<Option<Dataset>> {
    match list(&["-t", "filesystem,snapshot,volume", name]) {
        Ok(found) => Ok(found.into_iter().next()),
        Err(Error::Sys(crate::sys::Error::Program { stderr, .. })) if stderr.contains("does not exist") => Ok(None),
        Err(error) => Err(error),
    }
}

/// What `zfs list` lists with these arguments.
pub fn list(arguments: &[&str]) -> Result<Vec<Dataset>> {
    let output = zfs("list")?
        .args(["-H", "-p", "-o", &format!("name,guid,{PROPERTY}")])
        .args(arguments)
        .run()?;
    let text = String::from_utf8_lossy(&output);
    text.lines().map(parse).collect()
}

/// A call of `zfs`.
pub fn zfs(verb: &str) -> Result<Command> {
    Ok(Command::new(&Program::find("zfs")?).arg(verb))
}

fn parse(line: &str) -> Result<Dataset> {
    let mut fields = line.split('\t');
    let (Some(name), Some(guid), Some(run)) = (fields.next(), fields.next(), fields.next()) else {
        return Err(Error::failed("understand the answer of", "zfs list", line.to_owned()));
    };
    Ok(Dataset {
        name: name.to_owned(),
        guid: guid.to_owned(),
        run: (run != "-").then(|| run.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_understood() {
        let found = parse("tank/db@snapback-x-0\t1234567890123\t-").unwrap();
        assert_eq!(
            (found.name.as_str(), found.guid.as_str(), found.run),
            ("tank/db@snapback-x-0", "1234567890123", None)
        );
        assert_eq!(parse("a\t1\tabc").unwrap().run.as_deref(), Some("abc"));
        assert!(parse("a b c").is_err());
    }
}
