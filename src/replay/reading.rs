//! Reading the logs of a line: where the replay ends, and whether a time says that at all.

use std::collections::{BTreeMap, BTreeSet};

use super::point::{Asked, Until};
use crate::database::mysql::binlog::history::Change;

/// Seconds by which commits may change places in a log: their times are those of their statements.
const JITTER: u32 = 2;

/// Where the reading of the logs ends.
pub(super) struct Reading<'a> {
    asked: &'a Asked,
    pub file: String,
    pub position: u64,
    pub last: Option<u32>,
    pub changes: u64,
    pub servers: BTreeSet<u32>,
    pub ends: BTreeMap<String, String>,
    /// The point was passed.
    pub found: bool,
    /// The first change that is behind the point.
    first_behind: Option<(String, u64, u32)>,
    /// The last one behind that whose time is before the point.
    before_again: Option<(String, u64, u32)>,
    /// The server itself says in what is replayed that it could not log something.
    pub incident: bool,
    /// Statements about events of the scheduler, each with the server that it was given on.
    pub events: Vec<(u32, String)>,
}

impl<'a> Reading<'a> {
    /// At a backup's position.
    pub fn new(asked: &'a Asked, file: &str, position: u64) -> Reading<'a> {
        Reading {
            asked,
            file: file.to_owned(),
            position,
            last: None,
            changes: 0,
            servers: BTreeSet::new(),
            ends: BTreeMap::new(),
            found: false,
            first_behind: None,
            before_again: None,
            incident: false,
            events: Vec::new(),
        }
    }

    /// Takes one change; `false` where nothing more needs to be read.
    pub fn take(&mut self, change: &Change) -> bool {
        if self.found {
            self.look_back(change);
            return true;
        }
        let (whole, after) = match &self.asked.until {
            Until::End => (true, false),
            Until::Time(_) => {
                let late = self.is_late(change.time);
                (!late, late)
            }
            Until::Gtid(gtid) => {
                let is = change.gtid.as_ref() == Some(gtid);
                (!is || !self.asked.before, is)
            }
            Until::At(file, position) if change.file == *file => {
                let inside = match self.asked.before {
                    true => change.end > *position,
                    false => change.end > *position || change.start >= *position,
                };
                (!inside, inside)
            }
            Until::At(..) => (true, false),
        };
        if whole {
            (self.file, self.position) = (change.file.clone(), change.end);
            self.last = Some(change.time);
            self.changes += 1;
            self.incident |= change.kinds.contains("incident");
            let about_event = |text: &&String| text.to_ascii_uppercase().contains("EVENT");
            let events = change.statements.iter().filter(about_event);
            self.events.extend(events.map(|text| (change.server_id, text.clone())));
            self.servers.insert(change.server_id);
            if let Some(gtid) = &change.gtid {
                self.ends.insert(line_of(gtid).to_owned(), gtid.clone());
            }
        }
        self.found = after;
        if after && matches!(self.asked.until, Until::Time(_)) {
            self.first_behind = Some((change.file.clone(), change.start, change.time));
            // A clock that was put back shows in what comes now.
            return true;
        }
        !after
    }

    /// Whether a time is behind the point; never with another kind of point.
    pub fn is_late(&self, time: u32) -> bool {
        match &self.asked.until {
            Until::Time(until) => {
                let at = i64::from(time);
                at > until.as_second() || (self.asked.before && at == until.as_second())
            }
            _ => false,
        }
    }

    /// Whether what is not read yet can change the answer, if nothing in it is earlier than this.
    pub fn needs(&self, earliest: Option<u32>) -> bool {
        !self.found || (matches!(self.asked.until, Until::Time(_)) && earliest.is_none_or(|time| !self.is_late(time)))
    }

    fn look_back(&mut self, change: &Change) {
        let Some((.., behind)) = &self.first_behind else { return };
        // A statement that took until then is where it belongs, whatever it says of its begin.
        if !self.is_late(change.time) && change.done.saturating_add(JITTER) < *behind {
            self.before_again = Some((change.file.clone(), change.end, change.time));
        }
    }

    /// Why a time is no point here: the server's clock showed it more than once.
    pub fn unclear(&self) -> Option<String> {
        let ((file, at, time), (other, end, back)) = (self.first_behind.as_ref()?, self.before_again.as_ref()?);
        Some(format!(
            "the server's clock went back: the change at {file}:{at} has the time {}, and one behind it, up to {other}:{end}, {}. Say a position: --until-before {file}:{at} (before the clock was ahead) or --until {other}:{end}",
            shown(*time),
            shown(*back)
        ))
    }
}

/// A time as people read it.
pub(super) fn shown(time: u32) -> jiff::Timestamp {
    jiff::Timestamp::from_second(i64::from(time)).unwrap_or_default()
}

/// What a GTID's number counts in: its domain, or its source (with the tag).
fn line_of(gtid: &str) -> &str {
    let source = gtid.rsplit_once(':').map(|(source, _)| source);
    source.unwrap_or_else(|| gtid.split('-').next().unwrap_or(gtid))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(file: &str, start: u64, end: u64, time: u32, gtid: &str) -> Change {
        Change {
            file: file.to_owned(),
            start,
            end,
            time,
            gtid: Some(gtid.to_owned()),
            ..Change::default()
        }
    }

    /// The position up to which three changes are taken.
    fn end(until: Until, before: bool) -> (u64, bool) {
        let asked = Asked {
            before,
            ..Asked::of(until)
        };
        let mut reading = Reading::new(&asked, "", 0);
        let changes = [
            change("b.1", 100, 200, 10, "0-1-1"),
            change("b.1", 200, 300, 11, "0-1-2"),
            change("b.1", 300, 400, 12, "0-1-3"),
        ];
        for change in &changes {
            if !reading.take(change) {
                break;
            }
        }
        (reading.position, reading.found)
    }

    #[test]
    fn no_part_of_a_transaction_and_nothing_behind_the_point() {
        let at = |position| Until::At("b.1".to_owned(), position);
        assert_eq!(end(at(300), false), (300, true));
        assert_eq!(end(at(250), false), (200, true));
        assert_eq!(end(at(200), true), (200, true));
        assert_eq!(end(at(299), true), (200, true));
        assert_eq!(end(Until::Gtid("0-1-2".to_owned()), false), (300, true));
        assert_eq!(end(Until::Gtid("0-1-2".to_owned()), true), (200, true));
        assert_eq!(end(Until::End, false), (400, false));
        let time = |second| Until::Time(jiff::Timestamp::from_second(second).unwrap());
        assert_eq!(end(time(11), false), (300, true));
        assert_eq!(end(time(11), true), (200, true));
        assert_eq!(end(time(50), false), (400, false));
    }

    #[test]
    fn a_time_that_the_clock_showed_twice_is_no_point() {
        let unclear = |times: &[(u32, u32)], until: i64| {
            let asked = Asked::of(Until::Time(jiff::Timestamp::from_second(until).unwrap()));
            let mut reading = Reading::new(&asked, "b.1", 4);
            for (at, (time, done)) in (1..).zip(times) {
                let change = Change {
                    done: *done,
                    ..change("b.1", at * 100, at * 100 + 100, *time, "0-1-1")
                };
                if !reading.take(&change) {
                    break;
                }
            }
            (reading.position, reading.unclear())
        };
        // Put back by an hour behind the second change.
        let back = [(1000, 1000), (4600, 4600), (1010, 1010), (1020, 1020), (5000, 5000)];
        let (position, said) = unclear(&back, 1015);
        assert_eq!(position, 200);
        let said = said.unwrap();
        assert!(
            said.contains("--until-before b.1:200") && said.contains("--until b.1:400"),
            "{said}"
        );
        assert_eq!(unclear(&back, 4700), (500, None));
        assert_eq!(unclear(&back, 900), (4, None));
        // One that began before the others and was done behind them; and commits that changed places.
        assert_eq!(unclear(&[(1000, 1000), (1600, 1600), (1001, 1601)], 1100), (200, None));
        assert_eq!(unclear(&[(1000, 1000), (1002, 1002), (1001, 1001)], 1001), (200, None));
    }
}
