//! Which backups stay, and why: a policy applied to one group of backups. Pure; `forget` asks the repository and removes.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::units::Id;

/// What stays. All times are UTC.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// The newest so many.
    pub keep_last: u32,
    /// The last one of so many hours that have one.
    pub keep_hourly: u32,
    /// The last one of so many days.
    pub keep_daily: u32,
    /// The last one of so many weeks (ISO, from Monday).
    pub keep_weekly: u32,
    /// The last one of so many months.
    pub keep_monthly: u32,
    /// The last one of so many years.
    pub keep_yearly: u32,
    /// All that are not older than the newest one by more than this: `14d`, `2w`, `3 months`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_within: Option<Age>,
    /// All with one of these tags, as `KEY=VALUE`.
    pub keep_tags: Vec<String>,
    /// Which backups compete with one another.
    pub group_by: GroupBy,
    /// Whether every good backup is followed by this policy (as `backup --forget`).
    pub after_backup: bool,
}

/// Which backups compete with one another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupBy {
    /// Those of one host that back up the same thing: the same datadir or, without a database, the same trees.
    #[default]
    Job,
    /// All of one host.
    Host,
}

/// A span of the calendar.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Age(pub jiff::Span);

impl PartialEq for Age {
    fn eq(&self, other: &Age) -> bool {
        self.0.fieldwise() == other.0.fieldwise()
    }
}

/// One backup as the policy sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The backup.
    pub id: Id,
    /// When it was taken.
    pub time: Timestamp,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Why it is not good (damaged, failed a drill), if it is not.
    pub unfit: Option<String>,
    /// Why it must stay whatever the policy says (held, in use), if it must.
    pub bound: Option<String>,
}

/// What becomes of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The backup.
    pub id: Id,
    /// Whether it stays.
    pub keep: bool,
    /// Why.
    pub reasons: Vec<String>,
}

impl Policy {
    /// Whether it says of no backup that it stays but for its tags: such a policy is taken for a mistake.
    pub fn is_empty(&self) -> bool {
        let counts = self.rules().iter().map(|(_, count, _)| *count).sum::<u32>() + self.keep_last;
        counts == 0 && self.keep_within.is_none()
    }

    /// What does not make sense in it, for the configuration's check: the key and what is wrong.
    pub fn wrong(&self) -> Option<(&'static str, &'static str)> {
        if self.keep_tags.iter().any(|tag| !tag.contains('=')) {
            return Some(("retention.keep_tags", "must be texts such as `why=release`"));
        }
        if self.keep_within.is_some_and(|age| !age.0.is_positive()) {
            return Some(("retention.keep_within", "must be a span such as `14d` or `3 months`"));
        }
        if self.after_backup && self.is_empty() {
            return Some((
                "retention.after_backup",
                "needs a rule that keeps something, such as `keep_daily: 14`",
            ));
        }
        None
    }

    fn rules(&self) -> [(&'static str, u32, &'static str); 5] {
        [
            ("hourly", self.keep_hourly, "%Y-%m-%d %H:00"),
            ("daily", self.keep_daily, "%Y-%m-%d"),
            ("weekly", self.keep_weekly, "%G-W%V"),
            ("monthly", self.keep_monthly, "%Y-%m"),
            ("yearly", self.keep_yearly, "%Y"),
        ]
    }

    /// Decides about one group. The verdicts come in the order of the candidates.
    ///
    /// The newest good backup always stays; so do bound ones, and those whose time lies in the future, which count for no rule: a wrong
    /// clock must not displace anything. One that is not good takes no good one's place.
    pub fn decide(&self, group: &[Candidate], now: Timestamp) -> Vec<Verdict> {
        let mut newest_first: Vec<&Candidate> = group.iter().filter(|one| one.time <= now).collect();
        newest_first.sort_by_key(|one| std::cmp::Reverse((one.time, one.id)));
        let good: Vec<&Candidate> = newest_first.iter().copied().filter(|one| one.unfit.is_none()).collect();
        let mut reasons: BTreeMap<Id, Vec<String>> = BTreeMap::new();
        // Judged with all, and again among the good: what is damaged ages like the rest, and what is good keeps its own places.
        for list in [&good, &newest_first] {
            for (id, reason) in self.by_rules(list) {
                let known = reasons.entry(id).or_default();
                if !known.contains(&reason) {
                    known.push(reason);
                }
            }
        }
        let last_resort = good.first().or(newest_first.first());
        let verdict = |one: &Candidate| {
            let mut why = Vec::new();
            why.extend(one.bound.clone());
            if one.time > now {
                why.push("its time lies in the future".to_owned());
            }
            if last_resort.is_some_and(|newest| newest.id == one.id) {
                why.push("the newest good one".to_owned());
            }
            why.extend(reasons.remove(&one.id).unwrap_or_default());
            let keep = !why.is_empty();
            if !keep {
                why.push("no rule keeps it".to_owned());
            }
            why.extend(one.unfit.clone());
            Verdict {
                id: one.id,
                keep,
                reasons: why,
            }
        };
        group.iter().map(verdict).collect()
    }

    /// Whom the rules keep, and which rule does.
    fn by_rules(&self, newest_first: &[&Candidate]) -> Vec<(Id, String)> {
        let mut kept = Vec::new();
        for (number, one) in newest_first.iter().take(self.keep_last as usize).enumerate() {
            kept.push((one.id, format!("last {} of {}", number + 1, self.keep_last)));
        }
        for (name, count, format) in self.rules() {
            let mut seen = BTreeSet::new();
            for one in newest_first {
                let period = one.time.to_zoned_datetime(TimeZone::UTC).strftime(format).to_string();
                if seen.len() < count as usize && seen.insert(period.clone()) {
                    kept.push((one.id, format!("{name} {period}")));
                }
            }
        }
        if let (Some(age), Some(newest)) = (self.keep_within, newest_first.first()) {
            // From the newest one, not from now: a clock that is ahead removes nothing.
            let since = newest.time.to_zoned_datetime(TimeZone::UTC).checked_sub(age.0);
            let since = since.map_or(Timestamp::MIN, |since| since.timestamp());
            let within = newest_first.iter().filter(|one| one.time >= since);
            kept.extend(within.map(|one| (one.id, format!("within {:#}", age.0))));
        }
        for one in newest_first {
            let tags = one.tags.iter().map(|(key, value)| format!("{key}={value}"));
            for tag in tags.filter(|tag| self.keep_tags.contains(tag)) {
                kept.push((one.id, format!("tag {tag}")));
            }
        }
        kept
    }
}

#[cfg(test)]
mod tests;
