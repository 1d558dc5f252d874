//! Forgetting backups: those that a policy does not keep, or those that are named. What they needed is given back by `prune`.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use serde::Serialize;

use crate::record::{Record, RootRole};
use crate::repository::{Manifest, Repository};
use crate::retention::{Candidate, GroupBy, Policy, Verdict};
use crate::sys::signal::Cancel;
use crate::units::Id;
use crate::{Error, Result};

/// What to forget.
#[derive(Debug, Clone)]
pub struct Request {
    /// These, by id or prefix; empty: those that the policy does not keep.
    pub ids: Vec<String>,
    /// Whether a named backup may be one whose manifest cannot be read.
    pub damaged: bool,
    /// Whether the last good backup of a job may be among the named ones.
    pub even_last: bool,
    /// What stays.
    pub policy: Policy,
    /// Only backups of this host; `None`: of all.
    pub host: Option<String>,
    /// Only say what would be done.
    pub dry_run: bool,
    /// The time.
    pub now: Timestamp,
}

/// What was decided, and done.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Nothing was done.
    pub dry_run: bool,
    /// The groups, by host and job.
    pub groups: Vec<Group>,
    /// Backups that were forgotten (or would be).
    pub forgotten: Vec<Id>,
    /// Jobs (host and what was backed up) that have no good backup any more: the last one was named, with [`Request::even_last`].
    pub without_backup: Vec<String>,
    /// Manifests that cannot be read: never forgotten by a policy.
    pub unreadable: Vec<String>,
}

/// Backups that compete with one another.
#[derive(Debug, Clone, Serialize)]
pub struct Group {
    /// The host.
    pub host: String,
    /// What was backed up; empty when all jobs of a host are one group.
    pub job: String,
    /// Oldest first.
    pub backups: Vec<Line>,
}

/// One backup, and what becomes of it.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// When it was taken.
    pub time: Timestamp,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Whether it stays, and why.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// Forgets backups.
///
/// # Errors
/// The policy keeps nothing, a named backup must stay, the store failed, or a signal asked to end.
pub fn forget(repository: &Repository, request: &Request, cancel: &Cancel) -> Result<Report> {
    if request.ids.is_empty() && request.policy.is_empty() {
        return Err(Error::usage(
            "no rule keeps anything (tags alone are not enough), so nothing is forgotten: set `retention:` in the configuration, or give rules such as --keep-daily 14",
        ));
    }
    let mut report = Report {
        dry_run: request.dry_run,
        ..Report::default()
    };
    let mut manifests = Vec::new();
    for listed in repository.list()? {
        match listed.manifest {
            Ok(manifest) => manifests.push(manifest),
            Err(_) => report.unreadable.push(listed.key),
        }
    }
    let standing = Standing::look(repository, request.now)?;
    if request.ids.is_empty() {
        by_policy(&standing, &manifests, request, &mut report);
    } else {
        by_name(repository, &standing, &manifests, request, &mut report)?;
    }
    if !request.dry_run {
        // Oldest first: whatever stops it, what is left is the newer part.
        for manifest in manifests.iter().filter(|one| report.forgotten.contains(&one.id)) {
            cancel.check()?;
            repository.remove(manifest)?;
        }
    }
    Ok(report)
}

fn by_policy(standing: &Standing, manifests: &[Manifest], request: &Request, report: &mut Report) {
    for ((host, job), members) in groups(manifests, request.policy.group_by) {
        if request.host.as_ref().is_some_and(|wanted| *wanted != host) {
            continue;
        }
        let candidates = standing.of(&members);
        let verdicts = request.policy.decide(&candidates, request.now);
        report.forgotten.extend(
            verdicts
                .iter()
                .filter(|verdict| !verdict.keep)
                .map(|verdict| verdict.id),
        );
        let lines = members.iter().zip(verdicts).map(|(manifest, verdict)| Line {
            time: manifest.time,
            tags: manifest.tags.clone(),
            verdict,
        });
        report.groups.push(Group {
            host,
            job,
            backups: lines.collect(),
        });
    }
}

fn by_name(
    repository: &Repository,
    standing: &Standing,
    manifests: &[Manifest],
    request: &Request,
    report: &mut Report,
) -> Result<()> {
    let mut damaged = Vec::new();
    for name in &request.ids {
        if request.damaged
            && let Some(key) = unreadable_named(&report.unreadable, name)
        {
            damaged.push(key);
            continue;
        }
        report.forgotten.push(repository.find(name)?.manifest().id);
    }
    for ((host, job), members) in groups(manifests, GroupBy::Job) {
        let candidates = standing.of(&members);
        let stay: Vec<&Candidate> = candidates
            .iter()
            .filter(|one| !report.forgotten.contains(&one.id))
            .collect();
        for one in candidates.iter().filter(|one| report.forgotten.contains(&one.id)) {
            if let Some(bound) = &one.bound {
                return Err(Error::usage(format!(
                    "backup {} stays: {bound}; nothing was forgotten",
                    one.id.short()
                )));
            }
            let last = one.unfit.is_none() && !stay.iter().any(|other| other.unfit.is_none());
            if last && !request.even_last {
                return Err(Error::usage(format!(
                    "backup {} stays: without it no good backup of {} would be left; nothing was forgotten. \
                     To forget the last one as well: `snapback forget {} --even-last`",
                    one.id.short(),
                    named(&host, &job),
                    request.ids.join(" ")
                )));
            }
            if last {
                report.without_backup.push(named(&host, &job));
            }
        }
    }
    for key in damaged {
        if !request.dry_run {
            repository.remove_damaged(&key)?;
        }
        report.unreadable.retain(|unreadable| *unreadable != key);
        report
            .forgotten
            .extend(key.rsplit('-').next().and_then(|id| id.parse::<Id>().ok()));
    }
    Ok(())
}

/// A job in a person's words.
fn named(host: &str, job: &str) -> String {
    match job {
        "" => host.to_owned(),
        job => format!("{host}: {job}"),
    }
}

fn unreadable_named(unreadable: &[String], name: &str) -> Option<String> {
    let fits = |key: &&String| name.len() >= 4 && key.rsplit('-').next().is_some_and(|id| id.starts_with(name));
    let mut fitting = unreadable.iter().filter(fits);
    fitting.next().filter(|_| fitting.next().is_none()).cloned()
}

/// Backups by host and job, oldest first.
fn groups(manifests: &[Manifest], by: GroupBy) -> BTreeMap<(String, String), Vec<&Manifest>> {
    let mut groups: BTreeMap<(String, String), Vec<&Manifest>> = BTreeMap::new();
    for manifest in manifests {
        let job = match by {
            GroupBy::Job => job_of(manifest),
            GroupBy::Host => String::new(),
        };
        groups.entry((manifest.host.clone(), job)).or_default().push(manifest);
    }
    groups
}

/// What is backed up: the datadir or, without a database, the trees. Trees that are added to a database's backup leave it the same job.
fn job_of(manifest: &Manifest) -> String {
    let Ok(record) = serde_json::from_value::<Record>(manifest.record.clone()) else {
        return String::new();
    };
    let paths = |role: RootRole| {
        let roots = record.roots.iter().filter(move |root| root.role == role);
        let mut paths: Vec<String> = roots.map(|root| root.path.display().to_string()).collect();
        paths.sort();
        paths.join(" ")
    };
    Some(paths(RootRole::Datadir))
        .filter(|datadir| !datadir.is_empty())
        .unwrap_or_else(|| paths(RootRole::Files))
}

/// What is noted about backups beside their manifests.
struct Standing {
    unfit: HashMap<Id, String>,
    bound: HashMap<Id, String>,
}

impl Standing {
    fn look(repository: &Repository, now: Timestamp) -> Result<Standing> {
        let mut bound: HashMap<Id, String> = HashMap::new();
        for running in repository.running(now)? {
            if let Some(parent) = running.parent {
                bound.insert(
                    parent,
                    format!("a backup of {} that is running compares with it", running.host),
                );
            }
        }
        for hold in repository.holds()? {
            let reason = hold
                .reason
                .map_or_else(|| "held".to_owned(), |reason| format!("held: {reason}"));
            bound.insert(hold.backup, reason);
        }
        Ok(Standing {
            unfit: unfit(repository)?,
            bound,
        })
    }

    fn of(&self, members: &[&Manifest]) -> Vec<Candidate> {
        let candidate = |manifest: &&Manifest| Candidate {
            id: manifest.id,
            time: manifest.time,
            tags: manifest.tags.clone(),
            unfit: self.unfit.get(&manifest.id).cloned(),
            bound: self.bound.get(&manifest.id).cloned(),
        };
        members.iter().map(candidate).collect()
    }
}

/// Backups that are known not to be good, and why.
fn unfit(repository: &Repository) -> Result<HashMap<Id, String>> {
    let drills = repository.last_drills()?.into_iter();
    // A verdict that cannot be read says nothing against its backup.
    let failed = drills.filter(|(_, drill)| drill.as_ref().is_ok_and(|drill| drill.verdict["result"] == "failed"));
    let mut unfit: HashMap<Id, String> = failed
        .map(|(backup, _)| (backup, "its last drill failed".to_owned()))
        .collect();
    let losses = repository.losses()?.into_iter();
    unfit.extend(losses.map(|loss| (loss.backup, "damaged".to_owned())));
    Ok(unfit)
}
