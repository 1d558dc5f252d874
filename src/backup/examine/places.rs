//! Trees and exclusions against each other: nothing is copied into itself, nothing is cut out of the database, and something is left to copy.

use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::database::WrittenPath;
use crate::detect::Layout;
use crate::finding::Finding;
use crate::restore::unfinished;

/// The repository and the state directory, as the kernel names them: they are in no backup.
pub(crate) fn own(config: &Config) -> Vec<(PathBuf, &'static str)> {
    let places = [
        (&config.repository, "the repository"),
        (&config.state_dir, "snapback's state directory"),
    ];
    let there = places.into_iter().filter(|(path, _)| !path.as_os_str().is_empty());
    there
        .filter_map(|(path, what)| Some((path.canonicalize().ok()?, what)))
        .collect()
}

/// Whether a tree beside the database is left out as a whole.
pub(crate) fn is_left_out(path: &Path, config: &Config, own: &[(PathBuf, &'static str)]) -> bool {
    config.exclude.iter().any(|excluded| path.starts_with(excluded))
        || own.iter().any(|(place, _)| path.starts_with(place))
}

/// The configured trees that are not excluded, with what is to be said of the others.
pub(super) fn wanted(config: &Config) -> (Vec<PathBuf>, Vec<Finding>) {
    let own = own(config);
    let (mut files, mut findings) = (Vec::new(), Vec::new());
    for named in &config.files {
        let real = named.canonicalize().unwrap_or_else(|_| named.clone());
        let excluded = config
            .exclude
            .iter()
            .find(|excluded| named.starts_with(excluded) || real.starts_with(excluded));
        let inside = own.iter().find(|(place, _)| real.starts_with(place));
        let named_text = named.display();
        if let Some(excluded) = excluded {
            let said = format!(
                "{named_text} is not in the backup: `exclude` has {}",
                excluded.display()
            );
            findings.push(Finding::note("excluded", said));
        } else if let Some((place, what)) = inside {
            let said = format!(
                "{named_text} is in {what} ({}): it would be backed up into itself",
                place.display()
            );
            findings.push(Finding::blocker("backs-up-itself", said).remedy("take it out of `files:`"));
        } else {
            files.push(named.clone());
        }
    }
    (files, findings)
}

/// A server that runs on what is half a replay: a backup of it would be one of a state that never was.
pub(super) fn half_replayed(paths: &[WrittenPath]) -> Option<Finding> {
    let half = paths.iter().find(|written| unfinished::is_marked(&written.path))?;
    let said = format!(
        "{} is half a replay of binary logs, which was killed: {} in it says so",
        half.path.display(),
        unfinished::UNFINISHED
    );
    Some(Finding::warning("half-replay", said).remedy("restore again to another datadir, and use that"))
}

/// What is to be said of the layout's trees.
pub(super) fn findings(config: &Config, layout: &Layout) -> Vec<Finding> {
    let database: Vec<&Path> = layout.database_trees().iter().map(|tree| tree.path.as_path()).collect();
    let files: Vec<&Path> = layout.files.iter().map(|file| file.path.as_path()).collect();
    let holding = |trees: &[&Path], path: &Path| {
        trees
            .iter()
            .find(|tree| path.starts_with(tree))
            .map(|tree| tree.to_path_buf())
    };
    let cut = config.exclude.iter().filter_map(|excluded| {
        let tree = holding(&database, excluded)?;
        let said = format!(
            "`exclude` has {}, which the server needs as a part of {}",
            excluded.display(),
            tree.display()
        );
        Some(
            Finding::blocker("excludes-database", said)
                .remedy("a database is backed up whole, or not at all: take it out of `exclude`"),
        )
    });
    let within = own(config).into_iter().filter_map(|(place, what)| {
        let tree = holding(&files, &place)?;
        let said = format!(
            "{what} {} lies in {} and is left out of it",
            place.display(),
            tree.display()
        );
        Some(Finding::note("own-left-out", said))
    });
    cut.chain(within).collect()
}

/// An empty backup would look like a good one.
pub(super) fn nothing(trees: usize) -> Option<Finding> {
    (trees == 0).then(|| {
        Finding::blocker(
            "nothing",
            "there is nothing to back up: no database, and no tree that is there and not excluded",
        )
        .remedy("set `server:` or `files:`, or give --files PATH")
    })
}
