//! Backups by job: which belong together, in which order they were taken, and how each group is named to a person.

use std::cmp::Reverse;

use jiff::{SignedDuration, Timestamp};

use super::{Job, Likeness};
use crate::record::Record;
use crate::repository::Manifest;

/// Clocks of two machines differ by less: what is later than this after now was written by a wrong clock.
pub const AHEAD: SignedDuration = SignedDuration::from_hours(1);

/// Whether a backup's time cannot be right, by this clock.
pub fn is_ahead(time: Timestamp, now: Timestamp) -> bool {
    time.duration_since(now) > AHEAD
}

/// A backup, whose it is, and its number among the backups of its job.
#[derive(Debug, Clone)]
pub struct Member<'m> {
    /// The backup.
    pub manifest: &'m Manifest,
    /// As far as its record tells.
    pub job: Job,
    /// Each backup has one more than what its job had before; 0 in records before 0.2. Unlike a time it does not depend on a clock.
    pub sequence: u64,
}

impl<'m> Member<'m> {
    /// Reads the record.
    pub fn of(manifest: &'m Manifest) -> Member<'m> {
        let record = manifest.record.parse::<Record>().ok();
        let job = record.as_ref().map(|record| Job::of_record(&manifest.host, record));
        Member {
            manifest,
            job: job.unwrap_or_else(|| Job::unknown(&manifest.host)),
            sequence: record.and_then(|record| record.sequence).unwrap_or(0),
        }
    }
}

/// Backups of one job.
#[derive(Debug, Clone)]
pub struct Group<'m> {
    /// What their records say of the job, each different one once.
    pub jobs: Vec<Job>,
    /// In the order in which they were taken.
    pub members: Vec<Member<'m>>,
}

impl<'m> Group<'m> {
    /// The newest by what follows what: the number, and the time where numbers are equal. Of backups without numbers one whose time lies ahead is taken only
    /// where there is no other.
    pub fn newest(&self, now: Timestamp) -> Option<&Member<'m>> {
        self.members.iter().max_by_key(|one| {
            let ahead = is_ahead(one.manifest.time, now);
            (one.sequence, Reverse(ahead && one.sequence == 0), one.manifest.time)
        })
    }

    /// What the newest says of the job.
    pub fn job(&self) -> &Job {
        // A group is never empty.
        &self.members[self.members.len() - 1].job
    }

    /// Whether this is the job that a person means with the beginning of its short form.
    pub fn is_named(&self, prefix: &str) -> bool {
        self.jobs.iter().any(|job| job.short().starts_with(prefix))
    }

    /// How a job that asks stands to it: the best of the answers.
    pub fn likeness(&self, asking: &Job) -> Likeness {
        let answers: Vec<Likeness> = self.jobs.iter().map(|job| asking.compare(job)).collect();
        [Likeness::Same, Likeness::CannotTell]
            .into_iter()
            .find(|answer| answers.contains(answer))
            .unwrap_or(Likeness::Other)
    }

    /// One line for a person who has to choose.
    pub fn choice(&self, now: Timestamp) -> String {
        let job = self.job();
        let newest = self
            .newest(now)
            .map_or(job_time(&self.members), |one| one.manifest.time);
        let backups = match self.members.len() {
            1 => "1 backup".to_owned(),
            many => format!("{many} backups"),
        };
        format!(
            "--job {} (host {}, {}, {backups}, newest {})",
            job.short(),
            job.host,
            job.about(),
            newest.strftime("%Y-%m-%d %H:%M:%S UTC")
        )
    }
}

fn job_time(members: &[Member<'_>]) -> Timestamp {
    members.last().map_or(Timestamp::UNIX_EPOCH, |one| one.manifest.time)
}

/// Groups backups by job; each group's members in the order in which they were taken, groups by their oldest.
pub fn groups<'m>(manifests: impl IntoIterator<Item = &'m Manifest>) -> Vec<Group<'m>> {
    let mut groups: Vec<Group<'m>> = Vec::new();
    let mut members: Vec<Member<'m>> = manifests.into_iter().map(Member::of).collect();
    // What tells the most comes first: records with a machine draw the older ones to them.
    members.sort_by_key(|one| (Reverse(one.job.is_recorded()), one.manifest.time, one.manifest.id));
    for member in members {
        let own = groups
            .iter_mut()
            .find(|group| group.jobs.iter().any(|job| job.compare(&member.job) == Likeness::Same));
        match own {
            Some(group) => {
                if !group.jobs.contains(&member.job) {
                    group.jobs.push(member.job.clone());
                }
                group.members.push(member);
            }
            None => groups.push(Group {
                jobs: vec![member.job.clone()],
                members: vec![member],
            }),
        }
    }
    for group in &mut groups {
        let order = |one: &Member<'m>| (one.sequence, one.manifest.time, one.manifest.id);
        group.members.sort_by_key(order);
    }
    groups.sort_by_key(|group| group.members[0].manifest.time);
    groups
}
