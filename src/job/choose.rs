//! Whose backup is meant: `latest` is the newest of one job, and never another's.

use std::collections::HashMap;

use jiff::Timestamp;

use super::groups::{AHEAD, Group, groups, is_ahead};
use super::{Job, Likeness};
use crate::finding::Finding;
use crate::repository::{Backup, Manifest, Repository};
use crate::units::Id;
use crate::{Error, Result};

/// Whose backups are meant.
#[derive(Debug, Clone)]
pub struct Whose {
    /// The host's name: what a flag says, else the configured one, else the kernel's.
    pub host: String,
    /// A flag of this command gave it: only backups of this host.
    pub named: bool,
    /// A flag gave the beginning of a job's short form.
    pub wanted: Option<String>,
    /// The job of this host, as far as it is known.
    pub asking: Job,
}

/// What is done about `latest` when it is known not to be good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// It is refused, and the newest good one is named.
    Refuse,
    /// It is said.
    Say,
}

/// A backup that was chosen, and what a person must hear about the choice.
pub struct Chosen {
    /// The backup.
    pub backup: Backup,
    /// Warnings.
    pub findings: Vec<Finding>,
}

/// Opens the backup that `which` names: an id, a unique prefix of one, or `latest`, the newest of the job that is meant.
///
/// # Errors
/// None or several fit; the backup is of another host or job than the named one; it is not known whose `latest` is meant, with the choices; `latest` is known
/// not to be good.
pub fn choose(repository: &Repository, which: &str, whose: &Whose, unfit: Unfit) -> Result<Chosen> {
    let now = Timestamp::now();
    if which == "latest" {
        let listed = repository.list()?;
        let manifests: Vec<&Manifest> = listed.iter().filter_map(|one| one.manifest.as_ref().ok()).collect();
        if manifests.is_empty() {
            return Ok(Chosen {
                backup: repository.find(which)?,
                findings: Vec::new(),
            });
        }
        let (group, mut findings) = meant(groups(manifests), whose, now)?;
        let chosen = latest(&group, &crate::forget::unfit(repository)?, unfit, now)?;
        findings.extend(chosen.1);
        let backup = repository.find(&chosen.0.id.to_string())?;
        return Ok(Chosen { backup, findings });
    }
    let backup = repository.find(which)?;
    fits(backup.manifest(), whose)?;
    let id = backup.manifest().id;
    let reason = crate::forget::unfit(repository)?.remove(&id);
    let findings = reason.map(|reason| not_good(id, &reason, None)).into_iter().collect();
    Ok(Chosen { backup, findings })
}

/// The backups of the job that is meant, in the order in which they were taken.
///
/// # Errors
/// As [`choose`].
pub fn own<'m>(manifests: impl IntoIterator<Item = &'m Manifest>, whose: &Whose) -> Result<Group<'m>> {
    Ok(meant(groups(manifests), whose, Timestamp::now())?.0)
}

/// Whether a backup may be put in the place of this host's data, or somebody has said whose it is.
///
/// # Errors
/// It is another job's, and no flag says so.
pub fn in_place(manifest: &Manifest, whose: &Whose) -> Result<()> {
    let job = Job::of(manifest);
    let said = whose.named || whose.wanted.is_some();
    if said || whose.asking.compare(&job) != Likeness::Other {
        return Ok(());
    }
    let flag = match job.host == whose.host {
        true => format!("--job {}", job.short()),
        false => format!("--host {} or --job {}", job.host, job.short()),
    };
    Err(Error::usage(format!(
        "backup {} is of another job (host {}, {}), and this host is {}: to put it in the place of this host's data, say {flag}",
        manifest.id.short(),
        job.host,
        job.about(),
        whose.host
    )))
}

/// A named backup is the named host's and the named job's.
fn fits(manifest: &Manifest, whose: &Whose) -> Result<()> {
    let (id, job) = (manifest.id.short(), Job::of(manifest));
    if whose.named && manifest.host != whose.host {
        return Err(Error::usage(format!(
            "backup {id} is of host {}, not of {}",
            manifest.host, whose.host
        )));
    }
    match &whose.wanted {
        Some(wanted) if !job.short().starts_with(wanted) => Err(Error::usage(format!(
            "backup {id} is of job {}, not of {wanted}",
            job.short()
        ))),
        _ => Ok(()),
    }
}

fn meant<'m>(groups: Vec<Group<'m>>, whose: &Whose, now: Timestamp) -> Result<(Group<'m>, Vec<Finding>)> {
    let all = groups.len();
    let of_host = |group: &Group<'_>| !whose.named || group.jobs.iter().any(|job| job.host == whose.host);
    let named = |group: &Group<'_>| whose.wanted.as_ref().is_none_or(|wanted| group.is_named(wanted));
    let fitting: Vec<&Group<'m>> = groups.iter().filter(|group| of_host(group) && named(group)).collect();
    let said = whose.named || whose.wanted.is_some();
    if let ([only], true) = (fitting.as_slice(), said) {
        return Ok(((*only).clone(), Vec::new()));
    }
    let like = |wanted: Likeness| -> Vec<&Group<'m>> {
        let fitting = fitting.iter().copied();
        fitting
            .filter(|group| group.likeness(&whose.asking) == wanted)
            .collect()
    };
    if let [same] = like(Likeness::Same).as_slice() {
        return Ok(((*same).clone(), Vec::new()));
    }
    // What this installation itself wrote comes first: only its trees are not named now. A host of which nothing is known has no other choice than the only one:
    // a new machine after the old one burnt.
    let maybe = like(Likeness::CannotTell);
    let own: Vec<&Group<'m>> = maybe
        .iter()
        .copied()
        .filter(|group| is_own(group, &whose.asking))
        .collect();
    if let ([own], false) = (own.as_slice(), said) {
        return Ok(((*own).clone(), Vec::new()));
    }
    let only = match (maybe.as_slice(), fitting.as_slice()) {
        _ if said => None,
        ([only], _) => Some(*only),
        ([], [only]) if all == 1 && whose.asking.paths.is_empty() => Some(*only),
        _ => None,
    };
    match only {
        Some(only) => Ok((only.clone(), vec![taken_for(only)])),
        None => Err(refused(&groups, &fitting, whose, now)),
    }
}

/// Whether this state directory wrote them.
fn is_own(group: &Group<'_>, asking: &Job) -> bool {
    let installation = |job: &Job| job.installation.is_some() && job.installation == asking.installation;
    group.jobs.iter().any(installation)
}

fn taken_for(group: &Group<'_>) -> Finding {
    let job = group.job();
    let said = format!(
        "nothing proves that the backups of job {} (host {}, {}) are this host's: they are taken because no others can be meant",
        job.short(),
        job.host,
        job.about()
    );
    Finding::warning("job-not-proved", said).remedy(format!("say --job {} when they are the ones", job.short()))
}

fn refused(all: &[Group<'_>], fitting: &[&Group<'_>], whose: &Whose, now: Timestamp) -> Error {
    let what = match (&whose.wanted, whose.named) {
        (Some(wanted), _) if fitting.is_empty() => format!("no backup of a job {wanted}"),
        (_, true) if fitting.is_empty() => format!("no backup of host {}", whose.host),
        (Some(wanted), _) => format!("backups of several jobs {wanted}"),
        (_, true) => format!("backups of several jobs of host {}", whose.host),
        _ => format!("no backup that is known to be of this job (host {})", whose.host),
    };
    let hosts: std::collections::BTreeSet<&str> = all
        .iter()
        .flat_map(|group| group.jobs.iter().map(|job| job.host.as_str()))
        .collect();
    let hosts: Vec<&str> = hosts.into_iter().collect();
    let listed: Vec<&Group<'_>> = match fitting.is_empty() {
        true => all.iter().collect(),
        false => fitting.to_vec(),
    };
    let choices: Vec<String> = listed.iter().map(|group| group.choice(now)).collect();
    Error::usage(format!(
        "the repository holds {what}; it has those of {}: say which with --job or --host, or give an id\n  {}",
        hosts.join(", "),
        choices.join("\n  ")
    ))
}

/// The newest of a job, with what is to be said of it.
fn latest<'m>(
    group: &Group<'m>,
    bad: &HashMap<Id, String>,
    unfit: Unfit,
    now: Timestamp,
) -> Result<(&'m Manifest, Vec<Finding>)> {
    let newest = group
        .newest(now)
        .ok_or_else(|| Error::usage("there is no backup of this job"))?
        .manifest;
    let mut findings: Vec<Finding> = ahead(group, newest, now).into_iter().collect();
    if let Some(reason) = bad.get(&newest.id) {
        let good = Group {
            members: group
                .members
                .iter()
                .filter(|one| !bad.contains_key(&one.manifest.id))
                .cloned()
                .collect(),
            ..group.clone()
        };
        let finding = not_good(newest.id, reason, Some(good.newest(now).map(|one| one.manifest)));
        if unfit == Unfit::Refuse {
            let remedy = finding.remedy.unwrap_or_default();
            return Err(Error::usage(format!("{}; {remedy}", finding.message)));
        }
        findings.push(finding);
    }
    Ok((newest, findings))
}

/// One wrong clock must not decide for years what is the newest.
fn ahead(group: &Group<'_>, newest: &Manifest, now: Timestamp) -> Option<Finding> {
    let wrong = group.members.iter().filter(|one| is_ahead(one.manifest.time, now));
    let wrong: Vec<String> = wrong.map(|one| one.manifest.id.short()).collect();
    if wrong.is_empty() {
        return None;
    }
    let taken = match is_ahead(newest.time, now) {
        true => format!("{} was taken last all the same", newest.id.short()),
        false => format!("{} is taken for the newest", newest.id.short()),
    };
    let said = format!(
        "the time of {} lies more than {} h ahead of this host's clock: a clock is or was wrong; {taken}",
        wrong.join(", "),
        AHEAD.as_hours()
    );
    Some(Finding::warning("time-ahead", said).remedy("look at the times in `snapback list`, and give an id"))
}

fn not_good(id: Id, reason: &str, good: Option<Option<&Manifest>>) -> Finding {
    let said = format!("backup {} is not good: {reason}", id.short());
    let remedy = match good {
        None => "`snapback show` has what was found".to_owned(),
        Some(None) => "there is no good one of this job; --accept-failed takes it all the same".to_owned(),
        Some(Some(good)) => format!(
            "the newest good one is {} of {}: give that id, or --accept-failed",
            good.id.short(),
            good.time.strftime("%Y-%m-%d %H:%M:%S UTC")
        ),
    };
    Finding::warning("not-good", said).remedy(remedy)
}

#[cfg(test)]
mod tests;
