//! What a rollback would do, what it would lose, and what forbids it. Changes nothing.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Request, server_of};
use crate::Result;
use crate::backup::examine::provider_of;
use crate::config::Config;
use crate::database::Position;
use crate::database::mysql::binlog;
use crate::detect::Mounts;
use crate::finding::Finding;
use crate::held::{self, Held, HeldTree};
use crate::units::Id;
use crate::volume::rollback::Swap;
use crate::volume::{Health, Provider};

/// The longest list of directories that is shown.
const SHOWN: usize = 20;

/// The code of the finding that names trees that do not go back.
pub(super) const FILES_STAY: &str = "files-stay";

/// What a rollback would do.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// The set that comes back.
    pub set: Id,
    /// What a person called it.
    pub label: Option<String>,
    /// Its instant.
    pub time: jiff::Timestamp,
    /// Its promise.
    pub level: &'static str,
    /// Where its data ends.
    pub position: Option<Position>,
    /// Whether it is gone afterwards: its snapshots become what is live.
    pub uses_up: bool,
    /// The volumes that go back.
    pub volumes: Vec<PlannedVolume>,
    /// Transactions in the binary log since; `None` when that cannot be known.
    pub transactions: Option<u64>,
    /// Held sets that are newer; they stay.
    pub newer: Vec<Id>,
    /// Directories and files on the volumes that belong to no part of the set, and go back as well.
    pub others: Vec<PathBuf>,
    /// How the server was seen to run.
    pub server: Option<String>,
    /// What a person must read, and what forbids it.
    pub findings: Vec<Finding>,
}

/// One volume that goes back.
#[derive(Debug, Clone, Serialize)]
pub struct PlannedVolume {
    /// What a person calls it.
    pub source: String,
    /// The held snapshot.
    pub snapshot: String,
    /// Where its present state is kept; `None` where it is given up.
    pub kept: Option<String>,
    /// Where it is unmounted and mounted again.
    pub mounts: Vec<PathBuf>,
}

/// The plan, and the exchanges that it consists of, the datadir's first.
pub fn plan(config: &Config, request: &Request, set: &Held, run: Id) -> Result<(Plan, Vec<Swap>)> {
    let providers = super::providers(config);
    let mounts = Mounts::read()?;
    let mut findings = Vec::new();
    if set.deleting {
        findings.push(Finding::blocker(
            "deleting",
            format!("held set {} is being deleted", set.id.short()),
        ));
    }
    let mut swaps: Vec<(usize, Swap)> = Vec::new();
    for (index, held) in set
        .volumes
        .iter()
        .enumerate()
        .filter(|(_, held)| goes_back(set, held.with_database))
    {
        let provider = provider_of(&providers, &held.snapshot.volume)?;
        let Some(way) = provider.go_back() else {
            let said = format!("{:?} cannot roll back {}", provider.kind(), held.snapshot.volume.source);
            findings.push(
                Finding::blocker("no-rollback", said)
                    .remedy("`snapback snapshot backup` and `restore` can bring it back"),
            );
            continue;
        };
        match provider.health(&held.snapshot)? {
            Health::Lost(reason) => {
                let said = format!("a snapshot of the set is lost: {reason}");
                findings.push(Finding::blocker("held-lost", said));
                continue;
            }
            Health::OutOfReach(reason) => {
                let said = format!("a snapshot of the set is out of reach: {reason}");
                findings.push(Finding::blocker("held-unreachable", said));
                continue;
            }
            Health::Full(reason) => {
                let said = format!("{reason}, and a rollback writes to it");
                findings.push(Finding::blocker("pool-full", said).remedy("give it more room first"));
                continue;
            }
            Health::Good | Health::Warned(_) | Health::Straining(_) => {}
        }
        match way.plan(run, &held.snapshot, &mounts) {
            Ok(swap) => swaps.push((index, swap)),
            Err(error) => findings.push(Finding::blocker("no-rollback", error.to_string())),
        }
    }
    let datadir = set
        .placed
        .iter()
        .find(|placed| placed.role == crate::database::PathRole::Datadir);
    swaps.sort_by_key(|(index, _)| datadir.is_none_or(|datadir| datadir.volume != *index));
    let uses_up = arrange(request, &providers, &mut swaps, &mut findings)?;
    findings.extend(own_places(config, set, &swaps, &mounts));
    findings.extend(mounted_inside(&swaps, &mounts));
    let server = server_of(set);
    findings.extend(server_findings(config, request, server.as_deref()));
    let others: Vec<PathBuf> = swaps
        .iter()
        .flat_map(|(index, _)| others(set, *index))
        .take(SHOWN)
        .collect();
    if !others.is_empty() && !request.with_files {
        let names: Vec<String> = others.iter().map(|path| path.display().to_string()).collect();
        let said = format!(
            "the volumes hold more than the set, and that would go back as well: {}",
            names.join(", ")
        );
        findings.push(Finding::blocker("other-files", said).remedy("--with-files, if it may"));
    }
    findings.extend(files_stay(set));
    let newer = held::list(&config.state_dir)?
        .sets
        .into_iter()
        .filter(|other| other.time > set.time && other.id != set.id);
    let plan = Plan {
        set: set.id,
        label: set.label.clone(),
        time: set.time,
        level: set.level(),
        uses_up,
        position: set.record.position.clone(),
        volumes: swaps.iter().map(|(_, swap)| planned(swap)).collect(),
        transactions: since(set, &mut findings),
        newer: newer.map(|other| other.id).collect(),
        others,
        server,
        findings,
    };
    Ok((plan, swaps.into_iter().map(|(_, swap)| swap).collect()))
}

/// The database's volumes go back together. What was taken beside them at another instant stays, unless the set has no database.
fn goes_back(set: &Held, with_database: bool) -> bool {
    with_database || set.placed.is_empty()
}

/// Trees of the set that do not go back, because nothing of the database is on their volumes.
fn files_stay(set: &Held) -> Option<Finding> {
    let stays = |tree: &&HeldTree| {
        let volume = set.volumes.get(tree.volume);
        volume.is_some_and(|volume| !goes_back(set, volume.with_database))
    };
    let trees: Vec<String> = set
        .trees
        .iter()
        .filter(stays)
        .map(|tree| tree.root.path.display().to_string())
        .collect();
    (!trees.is_empty()).then(|| {
        Finding::warning(
            FILES_STAY,
            format!(
                "these trees of the set stay as they are now, because they are on volumes without anything of the database: {}",
                trees.join(", ")
            ),
        )
        .remedy("`snapback snapshot mount` shows them as the set has them: copy from there what is wanted")
    })
}

/// What only all volumes together show: whether what is live can be kept, and whom else that may cost something. Whether the set is used up.
fn arrange(
    request: &Request,
    providers: &[Box<dyn Provider>],
    swaps: &mut [(usize, Swap)],
    findings: &mut Vec<Finding>,
) -> Result<bool> {
    let mut uses_up = false;
    let all = swaps.len();
    for provider in providers {
        let Some(way) = provider.go_back() else { continue };
        let mut of_kind: Vec<&mut Swap> = swaps
            .iter_mut()
            .map(|(_, swap)| swap)
            .filter(|swap| swap.held.volume.provider == provider.kind())
            .collect();
        if of_kind.is_empty() {
            continue;
        }
        uses_up |= way.uses_up();
        for swap in &of_kind {
            let said = way.strains(swap)?.into_iter();
            findings.extend(said.map(|said| Finding::warning("strains", said)));
        }
        let Some(reason) = way.arrange(&mut of_kind)? else {
            continue;
        };
        let said = format!("what is live cannot be kept, so that this could not be rolled back: {reason}");
        // A part of it would be no way back.
        if request.without_way_back && of_kind.len() == all {
            of_kind.iter_mut().for_each(|swap| swap.keep = false);
            findings.push(Finding::warning("no-way-back", said));
        } else {
            let remedy =
                "make room (`vgextend`, or delete another held set), or give up what is live: --without-way-back";
            findings.push(Finding::blocker("no-way-back", said).remedy(remedy));
        }
    }
    Ok(uses_up)
}

fn planned(swap: &Swap) -> PlannedVolume {
    PlannedVolume {
        source: swap.held.volume.source.clone(),
        snapshot: swap.held.name.clone(),
        kept: swap.keep.then(|| swap.kept.name.clone()),
        mounts: swap.mounts.iter().map(|mount| mount.at.clone()).collect(),
    }
}

/// What the rollback itself needs must not go back.
fn own_places(config: &Config, set: &Held, swaps: &[(usize, Swap)], mounts: &Mounts) -> Vec<Finding> {
    let lies_on = |path: &Path, swap: &Swap| {
        let there = path.ancestors().find(|above| above.exists()).unwrap_or(Path::new("/"));
        let real = std::fs::canonicalize(there).unwrap_or_else(|_| there.to_owned());
        let top = &swap.held.volume.top;
        let same_mount = || Some(mounts.holding(&real)?.device == mounts.holding(top)?.device);
        real.starts_with(top) && same_mount().unwrap_or(true)
    };
    let mut findings = Vec::new();
    for (what, path) in [("state_dir", &config.state_dir), ("repository", &config.repository)] {
        for (index, swap) in swaps {
            if !path.as_os_str().is_empty() && lies_on(path, swap) {
                let volume = &set.volumes[*index].snapshot.volume.source;
                let said = format!("{what} {} lies on {volume}, and would go back with it", path.display());
                findings.push(Finding::blocker("own-place", said).remedy(format!("move `{what}` to another volume")));
            }
        }
    }
    findings
}

/// A mount inside of a volume that goes back would be left hanging in what is kept.
fn mounted_inside(swaps: &[(usize, Swap)], mounts: &Mounts) -> Vec<Finding> {
    let ours: Vec<&PathBuf> = swaps
        .iter()
        .flat_map(|(_, swap)| swap.mounts.iter().map(|mount| &mount.at))
        .collect();
    let mut findings = Vec::new();
    for (_, swap) in swaps {
        for mount in mounts.below(&swap.held.volume.top) {
            if !ours.contains(&&mount.mount_point) {
                let said = format!(
                    "{} is mounted inside of {}",
                    mount.mount_point.display(),
                    swap.held.volume.source
                );
                findings.push(Finding::blocker("mounted-inside", said).remedy("unmount it first"));
            }
        }
    }
    findings
}

fn server_findings(config: &Config, request: &Request, server: Option<&str>) -> Option<Finding> {
    let how = server?;
    match (request.stop_server, config.service.is_set()) {
        (true, true) => None,
        (true, false) => Some(
            Finding::blocker(
                "no-service",
                "the configuration does not say how the server is stopped and started",
            )
            .remedy("set `service: {name: UNIT}` (docs/configuration.md)"),
        ),
        (false, _) if request.dry_run => Some(Finding::note("server-runs", format!("the server runs: {how}"))),
        (false, _) => Some(
            Finding::blocker("server-runs", format!("the server runs: {how}"))
                .remedy("stop it, or let --stop-server do so, and start it afterwards"),
        ),
    }
}

/// What lies on a volume and belongs to no part of the set.
fn others(set: &Held, index: usize) -> Vec<PathBuf> {
    let top = &set.volumes[index].snapshot.volume.top;
    let placed = set
        .placed
        .iter()
        .filter(|placed| placed.volume == index)
        .map(|placed| &placed.relative);
    let trees = set
        .trees
        .iter()
        .filter(|tree| tree.volume == index)
        .map(|tree| &tree.relative);
    let known: Vec<&PathBuf> = placed.chain(trees).collect();
    let mut found = Vec::new();
    outside(top, Path::new(""), &known, &set.places, &mut found);
    found
}

/// Goes down only where a known path leads.
fn outside(top: &Path, below: &Path, known: &[&PathBuf], places: &[PathBuf], found: &mut Vec<PathBuf>) {
    if known.iter().any(|path| below.starts_with(path)) {
        return;
    }
    for entry in std::fs::read_dir(top.join(below)).into_iter().flatten().flatten() {
        let inner = below.join(entry.file_name());
        if known.iter().any(|path| path.starts_with(&inner) && **path != inner) {
            outside(top, &inner, known, places, found);
        } else if !known.iter().any(|path| inner.starts_with(path)) && !is_furniture(&entry.path(), places) {
            found.push(entry.path());
        }
    }
}

/// What filesystems and snapback put at a volume's top.
fn is_furniture(path: &Path, places: &[PathBuf]) -> bool {
    let name = path.file_name().unwrap_or_default();
    name == "lost+found" || name == ".snapback" || places.iter().any(|place| place == path)
}

/// Transactions since the set, counted in the live server's binary log.
fn since(set: &Held, findings: &mut Vec<Finding>) -> Option<u64> {
    let (index, directory) = binary_log(set)?;
    let (server, position) = (set.record.server.as_ref()?, set.record.position.as_ref()?);
    match binlog::since(server.flavour, &index, &directory, position) {
        Ok(count) => count,
        Err(error) => {
            let said = format!("the transactions since the set cannot be counted: {error}");
            findings.push(Finding::warning("binary-log", said));
            None
        }
    }
}

/// Where the binary log is now: in the live server's directories.
pub fn binary_log(set: &Held) -> Option<(PathBuf, PathBuf)> {
    let variable = |name: &str| Some(PathBuf::from(set.record.server.as_ref()?.variables.get(name)?));
    let directory = variable("log_bin_basename")?.parent()?.to_owned();
    Some((variable("log_bin_index")?, directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_part_of_the_set_leads_to_is_other() {
        let dir = tempfile::tempdir().unwrap();
        for made in ["mysql/data/db", "mysql/old", "web", "lost+found", ".snapback", "place"] {
            std::fs::create_dir_all(dir.path().join(made)).unwrap();
        }
        let (data, place) = (PathBuf::from("mysql/data"), dir.path().join("place"));
        let mut found = Vec::new();
        outside(
            dir.path(),
            Path::new(""),
            &[&data],
            std::slice::from_ref(&place),
            &mut found,
        );
        found.sort();
        assert_eq!(found, [dir.path().join("mysql/old"), dir.path().join("web")]);
        let whole = PathBuf::new();
        found.clear();
        outside(dir.path(), Path::new(""), &[&whole], &[], &mut found);
        assert!(found.is_empty(), "the volume's top is the datadir: {found:?}");
    }
}
