//! How archived logs follow each other. Each log says behind what it was begun (its link), as the archive saw it on the server; clocks say nothing.
//!
//! Where a server went back (a rollback, a restore in place, a clone that goes on by itself), two logs come behind one, or one comes behind the middle of another: the
//! archive then has several lines of history from there.

use std::collections::BTreeSet;

use super::logs::{self, Log};
use crate::Result;
use crate::repository::{Join, Link, Repository};

/// The archived logs of one server with their order.
#[derive(Debug, Default)]
pub struct History {
    /// All logs, each behind what it follows.
    pub logs: Vec<Placed>,
}

/// A log in its place.
#[derive(Debug)]
pub struct Placed {
    /// The log.
    pub log: Log,
    /// What it comes behind; `None`: nothing that is archived.
    pub before: Option<Before>,
}

/// What a log comes behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Before {
    /// Which of the logs.
    pub log: usize,
    /// The offset in it.
    pub end: u64,
    /// How.
    pub join: Join,
}

/// One line of history: logs, each with the offset where the line leaves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Which logs, and how far each.
    pub parts: Vec<(usize, u64)>,
    /// Why it does not go on, where something is behind it that does not join.
    pub gap: Option<String>,
}

impl History {
    /// Reads it: names, and the header of each log's first segment.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn read(repository: &Repository, host: &str, server: &str) -> Result<History> {
        let mut tries = 3;
        loop {
            tries -= 1;
            let all = logs::of_server(repository, host, server)?;
            let links: Result<Vec<Option<Link>>> = all.iter().map(|log| link_of(repository, log)).collect();
            match links {
                Ok(links) => return Ok(History::of(all, links)),
                // Merged meanwhile.
                Err(crate::Error::Repository(error)) if error.is_absent() && tries > 0 => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn of(all: Vec<Log>, links: Vec<Option<Link>>) -> History {
        let mut before: Vec<Option<Before>> = Vec::new();
        for (index, link) in links.iter().enumerate() {
            before.push(match link {
                Some(link) => all
                    .iter()
                    .position(|log| log.is_named(link.created, link.head.as_deref(), &link.file))
                    .filter(|found| *found != index)
                    .map(|log| Before {
                        log,
                        end: link.end,
                        join: link.join,
                    }),
                // An archive of before 0.2 tells no more than names and times.
                None if all[index].head.is_none() => older(&all, index),
                None => None,
            });
        }
        let order = order(&before);
        let mut place = vec![0; all.len()];
        order.iter().enumerate().for_each(|(new, old)| place[*old] = new);
        let mut all: Vec<Option<Log>> = all.into_iter().map(Some).collect();
        let placed = |old: &usize| {
            let log = all[*old].take()?;
            let before = before[*old].map(|before| Before {
                log: place[before.log],
                ..before
            });
            Some(Placed { log, before })
        };
        History {
            logs: order.iter().filter_map(placed).collect(),
        }
    }

    /// All that comes behind a log, whatever lies between, and the log itself.
    pub fn after(&self, first: usize) -> BTreeSet<usize> {
        let mut found = BTreeSet::from([first]);
        // What comes behind a log stands behind it.
        for (index, placed) in self.logs.iter().enumerate() {
            if placed.before.is_some_and(|before| found.contains(&before.log)) {
                found.insert(index);
            }
        }
        found
    }

    /// All that a log comes behind, whatever lies between.
    pub fn before(&self, log: usize) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        let mut next = self.logs[log].before;
        while let Some(before) = next
            && found.insert(before.log)
        {
            next = self.logs[before.log].before;
        }
        found
    }

    /// The line that leads to a log, from the oldest that joins.
    pub fn up_to(&self, log: usize) -> Vec<(usize, u64)> {
        let mut parts = vec![(log, self.logs[log].log.end())];
        // Never more than there are: links of a damaged archive may lead in a circle.
        while parts.len() <= self.logs.len()
            && let Some(before) = self.joined_before(parts[0].0)
        {
            parts.insert(0, (before.log, before.end));
        }
        parts
    }

    fn joined_before(&self, log: usize) -> Option<Before> {
        let before = self.logs[log].before?;
        let whole = before.join == Join::Follows && before.end <= self.logs[before.log].log.end();
        whole.then_some(before)
    }

    /// Every line that goes on from an offset of a log.
    pub fn lines_from(&self, first: usize, offset: u64) -> Vec<Line> {
        let mut done = Vec::new();
        let mut open = vec![(Vec::new(), first, offset)];
        while let Some((mut parts, log, offset)) = open.pop() {
            let end = self.logs[log].log.end();
            let behind = |(index, placed): (usize, &Placed)| {
                let before = placed
                    .before
                    .filter(|before| before.log == log && before.end >= offset)?;
                Some((index, before))
            };
            let behind: Vec<(usize, Before)> = self.logs.iter().enumerate().filter_map(behind).collect();
            let joins = |(_, before): &&(usize, Before)| before.join == Join::Follows && before.end <= end;
            let goes_on = behind.iter().filter(joins).any(|(_, before)| before.end == end);
            for (next, before) in behind.iter().filter(joins) {
                let parts = [parts.as_slice(), &[(log, before.end)]].concat();
                open.push((parts, *next, 0));
            }
            if !goes_on {
                parts.push((log, end));
                let gap = behind
                    .iter()
                    .find(|found| !joins(found))
                    .map(|(next, before)| self.gap(*next, *before));
                done.push(Line { parts, gap });
            }
        }
        done
    }

    /// Why a log does not go on where the one before it ends; `None` when it does.
    pub fn gap_before(&self, log: usize) -> Option<String> {
        let before = self.logs[log].before?;
        let end = self.logs[before.log].log.end();
        (before.join != Join::Follows || before.end > end).then(|| self.gap(log, before))
    }

    /// Whether a line of history leaves another in front of this log, and where.
    pub fn fork_before(&self, log: usize) -> Option<String> {
        let before = self.joined_before(log)?;
        let other = &self.logs[before.log].log;
        let twin = |(index, placed): (usize, &Placed)| index < log && placed.before == Some(before);
        let forks = before.end < other.end() || self.logs.iter().enumerate().any(twin);
        forks.then(|| format!("goes on from {}:{}", other.file, before.end))
    }

    fn gap(&self, log: usize, before: Before) -> String {
        let (log, other) = (&self.logs[log].log, &self.logs[before.log].log);
        match before.join {
            Join::Follows => format!("{} is archived to {} only", other.file, other.end()),
            Join::Reset => format!("the logs were begun anew (RESET) with {}", log.file),
            Join::Gap if !logs::follows(&other.file, &log.file) => {
                format!("{} is followed by {}", other.file, log.file)
            }
            Join::Gap => format!("{} is archived to {} only", other.file, other.end()),
        }
    }
}

/// The link is in the header of the segment that a log begins with; with two archivers, of one of these. What was a gap may have been filled since: then a further
/// segment says that the log follows.
pub(super) fn link_of(repository: &Repository, log: &Log) -> Result<Option<Link>> {
    let mut found: Option<Link> = None;
    if log.head.is_none() {
        return Ok(None);
    }
    for segment in log.segments.iter().filter(|segment| segment.from == 0) {
        let link = repository.binlog_note(segment)?.link;
        let follows = |link: &Link| link.join == Join::Follows;
        if found.is_none() || link.as_ref().is_some_and(follows) {
            found = link.or(found);
        }
    }
    Ok(found)
}

/// What the log before this one, by their times, is to it.
fn older(all: &[Log], index: usize) -> Option<Before> {
    let log = all[..index].iter().rposition(|log| log.head.is_none())?;
    let join = match logs::gap(&all[log], &all[index]) {
        None => Join::Follows,
        Some(_) if logs::number(&all[index].file) <= logs::number(&all[log].file) => Join::Reset,
        Some(_) => Join::Gap,
    };
    let end = all[log].end();
    Some(Before { log, end, join })
}

/// An order in which each comes behind what it follows, the branches one after the other.
fn order(before: &[Option<Before>]) -> Vec<usize> {
    let mut behind: Vec<Vec<usize>> = vec![Vec::new(); before.len()];
    let mut open = Vec::new();
    for (index, link) in before.iter().enumerate() {
        match link {
            Some(link) => behind[link.log].push(index),
            None => open.push(index),
        }
    }
    open.reverse();
    let mut order = Vec::new();
    while let Some(next) = open.pop() {
        order.push(next);
        open.extend(behind[next].iter().rev());
    }
    // Links that lead in a circle are nobody's: what has them stands alone.
    let found: BTreeSet<usize> = order.iter().copied().collect();
    order.extend((0..before.len()).filter(|index| !found.contains(index)));
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::Segment;

    fn log(name: &str, created: u32, end: u64) -> Log {
        let (head, file) = name.split_at(1);
        let segment = Segment {
            host: "h".to_owned(),
            server: "s".to_owned(),
            created,
            head: Some(head.to_owned()),
            file: file.to_owned(),
            from: 0,
            to: end,
            closed: true,
        };
        Log {
            created,
            head: segment.head.clone(),
            file: segment.file.clone(),
            segments: vec![segment],
        }
    }

    fn behind(log: &Log, end: u64, join: Join) -> Option<Link> {
        Some(Link {
            created: log.created,
            head: log.head.clone(),
            file: log.file.clone(),
            end,
            join,
        })
    }

    #[test]
    fn logs_follow_each_other_whatever_their_times_say_and_lines_part_where_a_server_went_back() {
        // By their times the second was begun before the first.
        let all = vec![
            log("bx.000002", 50, 300),
            log("ax.000001", 90, 200),
            log("cx.000002", 95, 100),
            log("dx.000001", 99, 100),
        ];
        let links = vec![
            behind(&all[1], 200, Join::Follows),
            None,
            behind(&all[1], 150, Join::Follows),
            behind(&all[0], 300, Join::Reset),
        ];
        let history = History::of(all, links);
        let names: Vec<String> = history
            .logs
            .iter()
            .filter_map(|placed| placed.log.head.clone())
            .collect();
        assert_eq!(names, ["a", "b", "d", "c"]);
        let lines = |offset| {
            let mut lines = history.lines_from(0, offset);
            lines.sort_by_key(|line| line.parts.clone());
            lines
        };
        let of = |offset| lines(offset).into_iter().map(|line| line.parts).collect::<Vec<_>>();
        assert_eq!(of(100), [vec![(0, 150), (3, 100)], vec![(0, 200), (1, 300)]]);
        assert_eq!(of(160), [vec![(0, 200), (1, 300)]]);
        assert!(lines(160)[0].gap.as_ref().unwrap().contains("RESET"));
        assert_eq!(history.fork_before(3).unwrap(), "goes on from x.000001:150");
        assert_eq!(history.after(1), BTreeSet::from([1, 2]));
        assert_eq!(history.up_to(3), [(0, 150), (3, 100)]);
        assert_eq!(history.up_to(2), [(2, 100)]);
    }

    #[test]
    fn what_is_not_whole_is_a_gap() {
        let all = vec![log("ax.000001", 1, 200), log("bx.000002", 2, 300)];
        let links = vec![None, behind(&all[0], 250, Join::Follows)];
        let history = History::of(all, links);
        let lines = history.lines_from(0, 4);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].gap.as_ref().unwrap().contains("to 200 only"));
        assert!(history.gap_before(1).is_some());
    }
}
