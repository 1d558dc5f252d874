//! A copy of a server's data: where each path of the original is in it, where its links have to lead, and which options tell a server so.

mod settings;

use std::path::{Component, Path, PathBuf};

use crate::database::{PathRole, ServerFacts, WrittenPath};

pub use settings::{libraries, libraries_of, path_options};

/// A restored datadir, and where everything of the server came from.
#[derive(Debug, Clone, Copy)]
pub struct Place<'p> {
    /// The live server as the backup recorded it.
    pub facts: &'p ServerFacts,
    /// Every path that it wrote.
    pub paths: &'p [WrittenPath],
    /// The restored datadir; absolute.
    pub datadir: &'p Path,
    /// Every restored tree of the server: its original path, and where it is now.
    pub trees: &'p [(PathBuf, PathBuf)],
}

/// Where a link of the copy has to lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// It leads to its like in the copy as it is.
    Stay,
    /// To this.
    To(PathBuf),
    /// It leads to this original path, which is not in the copy.
    Out(PathBuf),
}

impl Place<'_> {
    /// Where an original path is in the copy: as it is without symlinks, or as the server named it through some.
    pub fn moved(&self, original: &Path) -> Option<PathBuf> {
        self.in_tree(original)
            .or_else(|| self.in_tree(&self.without_links(original)?))
    }

    fn in_tree(&self, original: &Path) -> Option<PathBuf> {
        let fitting = self.trees.iter().filter(|(from, _)| original.starts_with(from));
        let (from, at) = fitting.max_by_key(|(from, _)| from.as_os_str().len())?;
        Some(joined(at, original.strip_prefix(from).ok()?))
    }

    /// The record says what the names that the server uses stand for. A log is named by its files, and resolved to their directory.
    fn without_links(&self, original: &Path) -> Option<PathBuf> {
        let known = self.paths.iter().filter_map(|written| {
            let named = Path::new(written.named.as_deref()?);
            let named = if is_log(written.role) { named.parent()? } else { named };
            let rest = original.strip_prefix(named).ok().filter(|_| named.is_absolute())?;
            Some((named.as_os_str().len(), joined(&written.path, rest)))
        });
        Some(known.max_by_key(|(length, _)| *length)?.1)
    }

    /// Where a link has to lead that was at `was` and led to `target`. Links are symlinks and the text of `.isl` files.
    pub fn turn(&self, was: &Path, target: &Path) -> Turn {
        let has_up = target.components().any(|part| part == Component::ParentDir);
        let is_copy = self.trees.iter().any(|(_, at)| target.starts_with(at));
        if is_copy || (target.is_relative() && !has_up) {
            return Turn::Stay;
        }
        let absolute = plain(&was.parent().unwrap_or(was).join(target));
        match self.moved(&absolute) {
            Some(new) => Turn::To(new),
            None => Turn::Out(absolute),
        }
    }
}

fn joined(at: &Path, rest: &Path) -> PathBuf {
    // Joined with an empty path a file would be taken for a directory.
    if rest.as_os_str().is_empty() {
        at.to_owned()
    } else {
        at.join(rest)
    }
}

/// Without `..`, as the names say.
fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(out.pop()),
            part => out.push(part),
        }
    }
    out
}

fn is_log(role: PathRole) -> bool {
    matches!(role, PathRole::BinaryLog | PathRole::RelayLog)
}

#[cfg(test)]
mod tests {
    use super::super::scratch::tests::facts;
    use super::*;
    use crate::database::Flavour;

    #[test]
    fn an_original_path_is_found_in_the_innermost_tree_and_through_the_servers_own_names() {
        let facts = facts(Flavour::MariaDb);
        let trees = [
            ("/live".into(), "/s/data".into()),
            ("/live/logs".into(), "/s/ext/logs".into()),
            ("/ext/t.ibd".into(), "/s/ext/t.ibd".into()),
        ];
        let written = |role, path: &str, named: &str| WrittenPath {
            role,
            path: path.into(),
            needed: true,
            named: Some(named.to_owned()),
        };
        let paths = [
            written(PathRole::BinaryLog, "/live", "/var/lib/mysql/bin"),
            written(PathRole::BinaryLog, "/live/logs", "/var/lib/mysql/logs/bin"),
            written(PathRole::External, "/ext/t.ibd", "/link/t.ibd"),
            written(PathRole::Undo, "/live", "./"),
        ];
        let place = Place {
            facts: &facts,
            paths: &paths,
            datadir: Path::new("/s/data"),
            trees: &trees,
        };
        for (original, at) in [
            ("/live/logs/a", Some("/s/ext/logs/a")),
            ("/live", Some("/s/data")),
            ("/lively", None),
            ("/var/lib/mysql/bin.index", Some("/s/data/bin.index")),
            ("/var/lib/mysql/logs/bin.index", Some("/s/ext/logs/bin.index")),
            ("/link/t.ibd", Some("/s/ext/t.ibd")),
            ("/link/u.ibd", None),
        ] {
            assert_eq!(place.moved(Path::new(original)), at.map(PathBuf::from), "{original}");
        }
    }

    #[test]
    fn links_turn_to_the_copy() {
        let facts = facts(Flavour::MariaDb);
        let trees = [("/live".into(), "/s/data".into()), ("/ext".into(), "/s/ext".into())];
        let place = Place {
            facts: &facts,
            paths: &[],
            datadir: Path::new("/s/data"),
            trees: &trees,
        };
        let turn = |target: &str| place.turn(Path::new("/live/shop/t.MYD"), Path::new(target));
        assert_eq!(turn("a.MYD"), Turn::Stay);
        assert_eq!(turn("/s/ext/t.MYD"), Turn::Stay);
        assert_eq!(turn("/ext/t.MYD"), Turn::To("/s/ext/t.MYD".into()));
        assert_eq!(turn("../../ext/t.MYD"), Turn::To("/s/ext/t.MYD".into()));
        assert_eq!(turn("../a/t.MYD"), Turn::To("/s/data/a/t.MYD".into()));
        assert_eq!(turn("../../other/t.MYD"), Turn::Out("/other/t.MYD".into()));
    }
}
