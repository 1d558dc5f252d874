//! The backups that a mount shows. New ones appear while it is mounted; what was there keeps its number.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::node::MOST_BACKUPS;
use crate::job::{Job, Kind, Likeness, Member, is_ahead};
use crate::record::{Above, RootRecord, Roots};
use crate::repository::{Backup, Manifest, Repository, Result};

/// The repository is looked at again after so long, when somebody lists backups.
const FRESH: Duration = Duration::from_secs(2);

/// One backup, without its record.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    /// Its manifest's key.
    pub key: String,
    pub time: jiff::Timestamp,
    pub host: String,
    /// Whose it is.
    pub job: Job,
    /// Its number among its job's.
    sequence: u64,
    /// `<time>-<first digits of the id>`.
    pub name: String,
    /// Its roots' original paths without the leading slash, in the record's order.
    pub roots: Vec<Vec<u8>>,
    /// The same roots, for the directories above them.
    pub records: Arc<[RootRecord]>,
    /// Its manifest is still there.
    pub there: bool,
}

impl Shown {
    /// What follows what, as [`crate::job::Group::newest`] has it.
    fn order(&self, now: jiff::Timestamp) -> (u64, bool, jiff::Timestamp) {
        let ahead = self.sequence == 0 && is_ahead(self.time, now);
        (self.sequence, !ahead, self.time)
    }
}

/// All of them, by number.
pub(super) struct Catalogue {
    repository: Repository,
    host: Option<String>,
    messages: Sender<String>,
    shown: Vec<Shown>,
    seen: HashSet<String>,
    looked: Instant,
}

impl Shown {
    /// The directory at a path (without a leading slash) above its roots. What is shown at it, everybody passes.
    pub fn above(&self, path: &[u8]) -> Above {
        let prefix = [path, b"/"].concat();
        let under = |root: &&[u8]| path.is_empty() || root.starts_with(&prefix);
        let original = Path::new("/").join(OsStr::from_bytes(path));
        let roots = self.roots.iter().map(Vec::as_slice).zip(self.records.iter());
        let found = roots
            .filter(|(root, _)| under(root))
            .map(|(_, record)| record.above(&original))
            .next();
        match found {
            Some(above) if !path.is_empty() => above,
            _ => Above {
                mode: 0o555,
                ..Above::CLOSED
            },
        }
    }
}

impl Catalogue {
    pub fn open(repository: &Repository, host: Option<String>, messages: Sender<String>) -> Result<Catalogue> {
        let mut catalogue = Catalogue {
            repository: repository.clone(),
            host,
            messages,
            shown: Vec::new(),
            seen: HashSet::new(),
            looked: Instant::now(),
        };
        for listed in repository.list()? {
            catalogue.add(listed.key, listed.manifest);
        }
        Ok(catalogue)
    }

    pub fn len(&self) -> u64 {
        self.shown.len() as u64
    }

    pub fn get(&self, number: u32) -> Option<&Shown> {
        self.shown.get(number as usize)
    }

    /// The hosts, sorted.
    pub fn hosts(&self) -> BTreeSet<&str> {
        self.there().map(|(_, shown)| shown.host.as_str()).collect()
    }

    /// Backups that are there, with their numbers, in the order in which they were seen.
    pub fn there(&self) -> impl DoubleEndedIterator<Item = (u32, &Shown)> {
        let all = self.shown.iter().enumerate();
        all.filter(|(_, shown)| shown.there)
            .map(|(number, shown)| (number as u32, shown))
    }

    /// The names of the links to a host's newest backups, and where they lead: `latest`, or where the host has several jobs `latest-JOB` for each. `latest` stays
    /// beside those where all are trees that one installation chose.
    pub fn latest(&self, host: &str) -> Vec<(String, &Shown)> {
        let mut newest: Vec<&Shown> = Vec::new();
        let now = jiff::Timestamp::now();
        for (_, shown) in self.there().filter(|(_, shown)| shown.host == host) {
            match newest
                .iter_mut()
                .find(|one| one.job.compare(&shown.job) == Likeness::Same)
            {
                Some(known) if known.order(now) > shown.order(now) => {}
                Some(known) => *known = shown,
                None => newest.push(shown),
            }
        }
        let one_hand = newest.windows(2).all(|pair| {
            let [one, other] = [&pair[0].job, &pair[1].job];
            let is_one = one.installation.is_some() && one.installation == other.installation;
            is_one && [one.kind, other.kind] == [Kind::Files; 2]
        });
        let last = newest
            .iter()
            .copied()
            .max_by_key(|shown| shown.time)
            .filter(|_| one_hand);
        let mut links: Vec<(String, &Shown)> = last.map(|shown| ("latest".to_owned(), shown)).into_iter().collect();
        if newest.len() > 1 {
            links.extend(
                newest
                    .into_iter()
                    .map(|shown| (format!("latest-{}", shown.job.short()), shown)),
            );
        }
        links
    }

    /// Looks for new backups and for those that are gone, unless that was done just now. A store that cannot be listed changes nothing.
    pub fn refresh(&mut self) {
        if self.looked.elapsed() < FRESH {
            return;
        }
        self.looked = Instant::now();
        let keys = match self.repository.manifest_keys() {
            Ok(keys) => keys,
            Err(error) => return self.say(format!("the repository cannot be listed: {error}")),
        };
        for key in &keys {
            if !self.seen.contains(key) {
                let manifest = self.repository.open_manifest(key);
                self.add(key.clone(), manifest.map(|backup: Backup| backup.manifest().clone()));
            }
        }
        let keys: HashSet<String> = keys.into_iter().collect();
        self.shown
            .iter_mut()
            .for_each(|shown| shown.there = keys.contains(&shown.key));
    }

    fn add(&mut self, key: String, manifest: Result<Manifest>) {
        self.seen.insert(key.clone());
        let manifest = match manifest {
            Ok(manifest) => manifest,
            Err(error) => return self.say(format!("a backup is not shown: {error}")),
        };
        if self.host.as_ref().is_some_and(|host| *host != manifest.host) {
            return;
        }
        if self.shown.len() >= MOST_BACKUPS {
            return self.say(format!(
                "{key} is not shown: there are more than {MOST_BACKUPS} backups"
            ));
        }
        let Ok(Roots { roots }) = manifest.record.parse() else {
            return self.say(format!("{key} is not shown: its record has no roots"));
        };
        let time = manifest.time.strftime("%Y%m%dT%H%M%SZ");
        let Member { job, sequence, .. } = Member::of(&manifest);
        self.shown.push(Shown {
            key,
            name: format!("{time}-{}", manifest.id.short()),
            time: manifest.time,
            host: manifest.host,
            job,
            sequence,
            roots: roots
                .iter()
                .map(|root| without_slashes(root.path.as_os_str().as_bytes()))
                .collect(),
            records: roots.into(),
            there: true,
        });
    }

    fn say(&self, text: String) {
        let _ = self.messages.try_send(text);
    }
}

fn without_slashes(path: &[u8]) -> Vec<u8> {
    let parts: Vec<&[u8]> = path
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty())
        .collect();
    parts.join(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{RootRole, RootSource};

    #[test]
    fn a_directory_above_a_tree_is_as_it_was_and_closed_where_nobody_knows() {
        let record = |path: &str, above: Vec<Above>| RootRecord {
            path: path.into(),
            role: RootRole::Files,
            source: RootSource::Live,
            above,
        };
        let open = |uid| Above {
            mode: 0o755,
            uid,
            gid: 0,
        };
        let records = [
            record("/old/app", Vec::new()),
            record("/srv/priv/app", vec![open(0), open(7), Above::CLOSED]),
        ];
        let roots = records.iter();
        let shown = Shown {
            key: String::new(),
            time: jiff::Timestamp::UNIX_EPOCH,
            host: String::new(),
            job: Job::unknown(""),
            sequence: 0,
            name: String::new(),
            roots: roots
                .map(|root| without_slashes(root.path.as_os_str().as_bytes()))
                .collect(),
            records: records.into(),
            there: true,
        };
        assert_eq!(shown.above(b"").mode, 0o555);
        assert_eq!(shown.above(b"srv"), open(7));
        assert_eq!(shown.above(b"srv/priv"), Above::CLOSED);
        assert_eq!(shown.above(b"old"), Above::CLOSED);
    }
}
