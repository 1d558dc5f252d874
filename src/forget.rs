//! Forgetting backups: those that a policy does not keep, or those that are named. What they needed is given back by `prune`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use serde::Serialize;

use crate::job::{self, Job};
use crate::repository::{Drill, Manifest, Repository};
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
    /// Only backups of the job with this beginning of its short form.
    pub job: Option<String>,
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
    /// The job's short form; empty when all jobs of a host are one group.
    pub id: String,
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
    for Competing {
        host,
        job,
        about,
        hosts,
        members,
    } in competing(manifests, request.policy.group_by)
    {
        if request.host.as_ref().is_some_and(|wanted| !hosts.contains(wanted)) {
            continue;
        }
        if request.job.as_ref().is_some_and(|wanted| !job.starts_with(wanted)) {
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
            id: job,
            job: about,
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
    for group in competing(manifests, GroupBy::Job) {
        let candidates = standing.of(&group.members);
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
                    named(&group.host, &group.about),
                    request.ids.join(" ")
                )));
            }
            if last {
                report.without_backup.push(named(&group.host, &group.about));
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

/// Backups that compete with one another.
struct Competing<'m> {
    /// The newest one's.
    host: String,
    /// The job's short form; empty for all jobs of a host.
    job: String,
    /// What was backed up.
    about: String,
    /// All names that the host had.
    hosts: BTreeSet<String>,
    members: Vec<&'m Manifest>,
}

/// Backups by job, or by host: a name that two machines have is two hosts.
fn competing(manifests: &[Manifest], by: GroupBy) -> Vec<Competing<'_>> {
    let jobs = job::groups(manifests).into_iter().map(|group| {
        let newest = group.job();
        Competing {
            host: newest.host.clone(),
            job: newest.short(),
            about: newest.places(),
            hosts: group.jobs.iter().map(|job| job.host.clone()).collect(),
            members: group.members.iter().map(|one| one.manifest).collect(),
        }
    });
    if by == GroupBy::Job {
        return jobs.collect();
    }
    let mut hosts: BTreeMap<(String, Option<String>), Vec<&Manifest>> = BTreeMap::new();
    for manifest in manifests {
        let key = (manifest.host.clone(), Job::of(manifest).machine);
        hosts.entry(key).or_default().push(manifest);
    }
    let of_host = |((host, _), members): ((String, Option<String>), Vec<_>)| Competing {
        hosts: BTreeSet::from([host.clone()]),
        host,
        job: String::new(),
        about: String::new(),
        members,
    };
    hosts.into_iter().map(of_host).collect()
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
pub(crate) fn unfit(repository: &Repository) -> Result<HashMap<Id, String>> {
    // A verdict that cannot be read says nothing against its backup, and neither does one that came to no end: then an older one counts.
    let says = |drill: &Drill| drill.verdict["result"] != "inconclusive";
    let drills = repository.last_drills_that(&says)?.into_iter();
    let failed = drills.filter(|(_, drill)| drill.verdict["result"] == "failed");
    let mut unfit: HashMap<Id, String> = failed
        .map(|(backup, _)| (backup, "its last drill failed".to_owned()))
        .collect();
    let losses = repository.losses()?.into_iter();
    unfit.extend(losses.map(|loss| (loss.backup, "damaged".to_owned())));
    Ok(unfit)
}
