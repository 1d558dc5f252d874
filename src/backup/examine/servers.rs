//! Trees beside the database that hold the live data of a running server: copied as files they would be no backup of it, and look like one.

use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::detect::Layout;
use crate::finding::Finding;
use crate::sys::servers::{Identity, Running, above, identity, running};

/// A blocker for each tree that contains, is, or lies in what a running server writes, unless that is the server of this backup: its data goes with it, at its instant.
pub(super) fn in_files(config: &Config, layout: &Layout) -> Vec<Finding> {
    if layout.files.is_empty() {
        return Vec::new();
    }
    let of = |paths: &mut dyn Iterator<Item = &Path>| paths.filter_map(identity).collect::<Vec<_>>();
    let own = of(&mut layout.database_trees().iter().map(|tree| tree.path.as_path()));
    let excluded = of(&mut config.exclude.iter().map(PathBuf::as_path));
    let servers: Vec<Running> = running();
    let strangers = servers
        .iter()
        .filter(|server| !server.above.iter().any(|at| own.contains(at)));
    let mut findings = Vec::new();
    for server in strangers {
        for file in &layout.files {
            if holds(&file.path, server, &excluded) {
                findings.push(finding(&file.named, server));
                break;
            }
        }
    }
    findings
}

/// Whether the tree shares files with the server; what is excluded from it does not count.
fn holds(tree: &Path, server: &Running, excluded: &[Identity]) -> bool {
    let Some(top) = identity(tree) else { return false };
    let within = |above: &Vec<Identity>| {
        let at = above.iter().position(|one| *one == top)?;
        Some(!above[..=at].iter().any(|one| excluded.contains(one)))
    };
    let contains = std::iter::once(&server.above)
        .chain(&server.tables)
        .any(|above| within(above) == Some(true));
    contains || server.above.first().is_some_and(|home| above(tree).contains(home))
}

fn finding(named: &Path, server: &Running) -> Finding {
    let said = format!(
        "{} has the live data of a running server in {} (process {}, {}): copied as files it is no backup of that server, and no promise holds for it",
        named.display(),
        server.home.display(),
        server.process,
        server.name
    );
    Finding::blocker("server-in-files", said).remedy(format!(
        "back it up as a server, with `server:` in a configuration (level `crash` takes no lock); or stop it; or leave it out: `exclude: [{}]`",
        server.home.display()
    ))
}
