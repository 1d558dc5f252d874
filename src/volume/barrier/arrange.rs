//! Which volumes are taken together, and in which order; or why they cannot agree.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::super::{Provider, Volume, of_kind};

/// What the tools at work write to while snapshots are taken (LVM: its archive and its locks); a filesystem that holds one of these is not frozen.
const WRITTEN: [&str; 8] = ["/", "/etc", "/etc/lvm", "/run", "/tmp", "/var", "/var/lib", "/var/log"];

/// Volumes in sets that their provider takes at one instant. The first set is the anchor; the filesystems of the others are frozen around its instant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Arrangement {
    /// Each of one provider.
    pub sets: Vec<Vec<Volume>>,
    /// Directories of the filesystems that are frozen: those of the sets after the first, and those that always have to be.
    pub frozen: Vec<PathBuf>,
}

impl Arrangement {
    /// One volume by itself.
    pub fn of(providers: &[Box<dyn Provider>], volume: &Volume) -> Arrangement {
        Arrangement::new(providers, vec![vec![volume.clone()]])
    }

    fn new(providers: &[Box<dyn Provider>], sets: Vec<Vec<Volume>>) -> Arrangement {
        let must = |volume: &Volume| of_kind(providers, volume.provider).is_some_and(Provider::must_freeze);
        let numbered = sets.iter().enumerate();
        let frozen = numbered.flat_map(|(at, set)| set.iter().filter(move |volume| at > 0 || must(volume)));
        let mut frozen: Vec<&Volume> = frozen.collect();
        frozen.dedup_by(|one, other| one.filesystem == other.filesystem);
        let frozen = frozen.into_iter().map(|volume| volume.top.clone()).collect();
        Arrangement { sets, frozen }
    }

    /// Adds a volume that may be taken at another time, where it costs nothing: by the anchor's own decisive call. Says whether it did.
    pub fn join(&mut self, providers: &[Box<dyn Provider>], volume: &Volume) -> bool {
        let Some(anchor) = self.sets.first_mut() else {
            return false;
        };
        let together = [anchor.as_slice(), std::slice::from_ref(volume)].concat();
        let joins = anchor.iter().all(|other| other.provider == volume.provider)
            && of_kind(providers, volume.provider)
                .is_some_and(|provider| !provider.must_freeze() && provider.one_instant(&together));
        if joins {
            *anchor = together;
        }
        joins
    }

    /// All its volumes.
    pub fn volumes(&self) -> impl Iterator<Item = &Volume> {
        self.sets.iter().flatten()
    }
}

/// Finds sets for the volumes (no two of which are the same). `written`: what this run itself writes to meanwhile, besides the system's directories.
///
/// # Errors
/// They cannot be taken at one instant; why.
pub fn arrange(
    providers: &[Box<dyn Provider>],
    volumes: &[Volume],
    written: &[PathBuf],
) -> Result<Arrangement, String> {
    let mut sets: Vec<Vec<Volume>> = Vec::new();
    for volume in volumes {
        let provider = provider_of(providers, volume)?;
        let joins = |set: &Vec<Volume>| {
            let together = [set.as_slice(), std::slice::from_ref(volume)].concat();
            let same_kind = set.iter().all(|other| other.provider == volume.provider);
            (same_kind && provider.one_instant(&together)).then_some(together)
        };
        match sets
            .iter_mut()
            .find_map(|set| joins(set).map(|together| (set, together)))
        {
            Some((set, together)) => *set = together,
            None => sets.push(vec![volume.clone()]),
        }
    }
    if sets.len() < 2 {
        return Ok(Arrangement::new(providers, sets));
    }
    let busy = devices(
        WRITTEN
            .iter()
            .map(Path::new)
            .chain(written.iter().map(PathBuf::as_path)),
    );
    let stiff: Vec<(usize, String)> = (0..sets.len())
        .filter_map(|at| Some((at, not_frozen(providers, sets.get(at)?, &busy)?)))
        .collect();
    match stiff.as_slice() {
        [] => {}
        [(anchor, _)] => sets.swap(0, *anchor),
        several => {
            let reasons: Vec<&str> = several.iter().map(|(_, reason)| reason.as_str()).collect();
            return Err(reasons.join("; "));
        }
    }
    Ok(Arrangement::new(providers, sets))
}

/// Why a set cannot be frozen while its snapshot is taken.
fn not_frozen(providers: &[Box<dyn Provider>], set: &[Volume], busy: &[u64]) -> Option<String> {
    set.iter().find_map(|volume| {
        let provider = provider_of(providers, volume).ok()?;
        if let Err(reason) = provider.freezes(volume) {
            return Some(format!("{} {reason}", volume.source));
        }
        let own = devices(std::iter::once(volume.top.as_path()));
        own.iter().any(|device| busy.contains(device)).then(|| {
            format!(
                "{} holds directories that the system or this tool write to meanwhile",
                volume.source
            )
        })
    })
}

fn provider_of<'p>(providers: &'p [Box<dyn Provider>], volume: &Volume) -> Result<&'p dyn Provider, String> {
    of_kind(providers, volume.provider).ok_or_else(|| format!("{} is of no known kind", volume.source))
}

fn devices<'a>(paths: impl Iterator<Item = &'a Path>) -> Vec<u64> {
    // What is not there yet is made in its parent.
    let there = paths.filter_map(|path| path.ancestors().find_map(|path| std::fs::metadata(path).ok()));
    there.map(|metadata| metadata.dev()).collect()
}

#[cfg(test)]
mod tests;
